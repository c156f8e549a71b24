"""Text: further sentences for a trained model, as given and as read, and what is to be told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sri_pyro.data import DataError, Split, TextOptions, Vocabulary, encode_text, read_lines, split_words
from sri_pyro.data.tokens import Labelled
from sri_pyro.types import SPECIAL_SYMBOLS, UNK
from sri_pyro.wording import shown

Tell = Callable[[str], None]
"""Hears, in a sentence, what was left out of a text or is doubtful about it."""
MOSTLY = 0.5
"""A sentence with a larger share of unknown words is told of."""
MOST_LISTED = 5


@dataclass(frozen=True)
class Text:
    """A further text, read.

    Attributes:
        lines: As they were given.
        split: What is left of them, as the model reads it; ids count the lines from 0.
        counts: ``read``, ``blank``, ``too_long``, ``truncated``.
        max_length: Most words of a sentence.
    """

    lines: Sequence[str]
    split: Split
    counts: Mapping[str, int]
    max_length: int | None

    def tell(self, tell: Tell) -> None:
        """Say what was left out, what was cut, and what is mostly unknown."""
        counts = self.counts
        reasons = [f"{counts['blank']} blank"] * bool(counts["blank"])
        reasons += [f"{counts['too_long']} longer than max_length = {self.max_length} words"] * bool(
            counts["too_long"]
        )
        if reasons:
            left_out = counts["blank"] + counts["too_long"]
            tell(f"{left_out} of {counts['read']} lines left out: {', '.join(reasons)}")
        if counts["truncated"]:
            tell(
                f"{counts['truncated']} of {counts['read']} lines cut to max_length = {self.max_length} words"
            )
        doubtful = sorted(self._mostly_unknown())
        if doubtful:
            first = ", ".join(map(str, doubtful[:MOST_LISTED])) + ", ..." * (len(doubtful) > MOST_LISTED)
            tell(
                f"{len(doubtful)} of {len(self.split)} sentences are mostly words that the model does not know "
                f"(line {first}); their numbers say little about the words themselves"
            )

    def _mostly_unknown(self) -> Iterator[int]:
        for i, line in enumerate(self.split.ids.tolist()):
            words = self.split.sentence(i)[:-1]  # the end is always known
            if (words == UNK).mean() > MOSTLY:
                yield line + 1


def read_text(
    sentences: Path | Iterable[str], vocabulary: Vocabulary, options: TextOptions, labelled: Labelled
) -> Text:
    """Sentences as they are given and as a model of that vocabulary reads them.

    Raises:
        DataError: If no sentence is usable, or one is not a text.
    """
    if isinstance(sentences, str):
        raise DataError(f"give a list of sentences, or a Path to a file of them; got the text {sentences!r}.")
    lines = list(read_lines(sentences) if isinstance(sentences, Path) else sentences)
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str):
            raise DataError(
                f"a sentence is one text, its words with blanks between them; sentence {number} is a "
                f"{type(line).__name__}: {shown(line)}."
            )
    name = str(sentences) if isinstance(sentences, Path) else "the text"
    counts: Counter[str] = Counter()
    split = encode_text(lines, vocabulary, options, labelled=labelled, name=name, counts=counts)
    return Text(lines, split, counts, options.max_length)


def unknown_words(sentences: Iterable[str], vocabulary: Vocabulary, options: TextOptions) -> list[str]:
    """Words that a vocabulary does not have, each once, in order."""
    words = dict.fromkeys(word for sentence in sentences for word in split_words(sentence, options))
    return [word for word in words if vocabulary.encode([word])[0] == UNK and word != SPECIAL_SYMBOLS[UNK]]
