"""Gathering: from sentences to rows, in one pass and in bounded memory.

Words are numbered as they are read; which of them make up the vocabulary is found out afterwards, from the rows.
What stays in memory is the distinct words, some 300 bytes each by the end, and eight bytes for every sentence that is
kept, twice while copies are looked for. The rows lie in memory too, or in files where a folder is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from sri_pyro.data.columns import Column
from sri_pyro.data.errors import DataError
from sri_pyro.data.ranks import Ranks, Seen, distinct, found, keyed_ranks
from sri_pyro.data.rows import END, Rows
from sri_pyro.data.tokens import Sentence, TextOptions, fit_length

_BLOCK: Final = 1 << 13
"""Words of the sentences that are held at a time; with many more, Python's collector of cycles gets busy."""

_FATES: Final = ("kept", "duplicate", "in_another_split", "too_short", "blank", "too_long")
_KEPT, _DUPLICATE, _ELSEWHERE, _TOO_SHORT, _BLANK, _TOO_LONG = range(len(_FATES))
_FATE, _TRUNCATED = 7, 8
"""Bits of a fate, and the one beside them that says that the sentence was cut."""

_NOTHING: Final = Sentence(())

_Key = TypeVar("_Key", bound=Hashable)


class Numbers(dict[_Key, int]):
    """Numbers keys from 1 in the order in which they are first asked for; one key has the number 0.

    Example:
        >>> numbers = Numbers("")
        >>> [numbers[word] for word in ("a", "rose", "is", "a", "rose", "")]
        [1, 2, 3, 1, 2, 0]
    """

    def __init__(self, zero: _Key) -> None:
        super().__init__({zero: 0})

    def __missing__(self, key: _Key) -> int:
        self[key] = number = len(self)
        return number


class Gathering:
    """The texts of one corpus as they are read: they share the numbers of words and labels.

    Args:
        seed: Keys the ranks of the sentences.
        folder: Where rows lie, in files that begin with the names of their texts; None for memory.

    Attributes:
        words: Numbers of the words; that of the empty one is ``END``.
        labels: Numbers of the labels; that of None is 0.

    Example:
        >>> gathering = Gathering(seed=0)
        >>> gathering.all([Sentence(("a", "rose")), Sentence(("a",))], "text").tokens.tolist()
        [1, 2, 0, 1, 0]
    """

    def __init__(self, seed: int, folder: Path | None = None) -> None:
        self.words: Numbers[str] = Numbers("")
        self.labels: Numbers[str | None] = Numbers(None)
        self._seed = seed
        self._folder = folder

    def all(self, sentences: Sequence[Sentence], name: str) -> Rows:
        """Keep all sentences as they are."""
        writer = _Writer(self, self._folder, name)
        writer.add(sentences, self._ranks(sentences))
        return writer.rows()

    def select(
        self,
        sentences: Iterable[Sentence],
        options: TextOptions,
        counts: Counter[str],
        *,
        name: str,
        source: str,
        limit: int | None = None,
        elsewhere: Sequence[Rows] = (),
    ) -> Rows:
        """Keep the sentences that the options keep, and count what happened to the others.

        Args:
            sentences: What a source reads; a sentence without words stands for a blank line.
            options: What to do about lengths and duplicates.
            counts: Receives ``read``, ``kept``, ``truncated``, and one entry for each reason of a drop.
            name: Of the text among those of the corpus.
            source: What to call it in an error.
            limit: Stop after this many kept sentences, counting none that stands behind them; None reads all.
            elsewhere: Other texts; with ``drop_duplicates`` their sentences are not kept again.

        Raises:
            DataError: If a sentence is longer than ``too_long = "error"`` allows.
        """
        writer, seen = _Writer(self, self._folder, name), Seen()
        taken = distinct(np.concatenate([np.empty(0, np.uint64), *(rows.ranks for rows in elsewhere)]))
        for block, fates in _blocks(sentences, options, source):
            candidates = np.flatnonzero(fates & _FATE == _KEPT)
            ranks = self._ranks([block[i] for i in candidates])
            if options.drop_duplicates:
                new = ~found(taken, ranks)
                fates[candidates[~new]] |= _ELSEWHERE
                fates[candidates[new][~seen.fresh(ranks[new])]] |= _DUPLICATE
            left = None if limit is None else limit - counts["kept"]
            kept = np.flatnonzero(fates & _FATE == _KEPT)[:left]
            full = len(kept) == left
            _count(fates[: kept[-1] + 1] if full else fates, counts)
            writer.add([block[i] for i in kept], ranks[np.searchsorted(candidates, kept)])
            if full:
                break
        return writer.rows()

    def sentences(self, rows: Rows) -> Iterator[list[str]]:
        """The words of rows, sentence by sentence."""
        words, sentence = list(self.words), []
        for number in rows.tokens.tolist():
            if number != END:
                sentence.append(words[number])
            else:
                yield sentence
                sentence = []

    def _ranks(self, sentences: Iterable[Sentence]) -> Ranks:
        return keyed_ranks((sentence.words for sentence in sentences), self._seed, b"split")


def _blocks(
    sentences: Iterable[Sentence], options: TextOptions, source: str
) -> Iterator[tuple[list[Sentence], NDArray[np.int8]]]:
    """Sentences as they fit, some at a time, and what becomes of each, copies apart."""
    block: list[Sentence] = []
    fates: list[int] = []
    size = 0
    try:
        for number, sentence in enumerate(sentences, 1):
            fitted = fit_length(sentence, options, f"line {number} of {source}")
            if fitted is None:
                fitted, fate = _NOTHING, _TOO_LONG
            elif not fitted.words:
                fate = _BLANK
            else:
                fate = _TOO_SHORT if len(fitted.words) < options.min_length else _KEPT
                fate |= _TRUNCATED * (fitted is not sentence)
            block.append(fitted)
            fates.append(fate)
            size += len(fitted.words) + 1
            if size >= _BLOCK:
                yield block, np.array(fates, np.int8)
                block, fates, size = [], [], 0
    except DataError:
        if block:  # the limit may be reached in what stands before the error
            yield block, np.array(fates, np.int8)
        raise
    if block:
        yield block, np.array(fates, np.int8)


def _count(fates: NDArray[np.int8], counts: Counter[str]) -> None:
    counts["read"] += len(fates)
    for fate, number in zip(_FATES, np.bincount(fates & _FATE, minlength=len(_FATES)), strict=True):
        counts[fate] += int(number)
    counts["truncated"] += int(np.count_nonzero(fates & _TRUNCATED))


def check_lengths(counts: Counter[str], options: TextOptions, name: str) -> None:
    """Say so plainly when the limits alone have emptied a text.

    Raises:
        DataError: If they have, or there was nothing.
    """
    if counts["kept"]:
        return
    if counts["too_long"] and counts["too_long"] == counts["read"] - counts["blank"]:
        raise DataError(
            f"every sentence of {name} is longer than max_length = {options.max_length} words; "
            'raise it, set too_long to "truncate", or give one sentence a line.'
        )
    if counts["read"] == counts["blank"]:
        raise DataError(f"{name} has no sentence; give one a line.")


class _Writer:
    """Rows in the making."""

    def __init__(self, gathering: Gathering, folder: Path | None, name: str) -> None:
        self._gathering = gathering
        self._tokens, self._ranks, self._labels = (
            Column(dtype, None if folder is None else folder / f"{name}.{what}")
            for what, dtype in (("tokens", "<i4"), ("ranks", "<u8"), ("labels", "<i4"))
        )

    def add(self, sentences: Sequence[Sentence], ranks: Ranks) -> None:
        words = [sentence.words for sentence in sentences]
        ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
        numbers = map(self._gathering.words.__getitem__, chain.from_iterable(words))
        self._tokens.append(np.insert(np.fromiter(numbers, np.int32), ends, END))
        self._ranks.append(ranks)
        labels = (sentence.label for sentence in sentences)
        self._labels.append(np.fromiter(map(self._gathering.labels.__getitem__, labels), np.int32))

    def rows(self) -> Rows:
        return Rows(self._tokens.whole(), self._ranks.whole(), self._labels.whole())
