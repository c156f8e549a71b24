"""The words a model knows, and their ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from sri_pyro.data.errors import DataError
from sri_pyro.data.reading import read_lines
from sri_pyro.types import EOS, SPECIAL_SYMBOLS, UNK
from sri_pyro.wording import counted
from sri_pyro.writing import atomic_path


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """Words and their ids; the four special symbols come first, at ids 0 to 3.

    A user's text cannot forge a special symbol. A literal ``<unk>`` is encoded as UNK, which is what
    corpora with rare words replaced mean by it; literal ``<s>``, ``</s>`` and ``<pad>`` are words
    outside the vocabulary, and so are UNK as well: they never begin, end or pad a sentence.

    Attributes:
        words: All entries in the order of their ids, the special symbols included.

    Raises:
        DataError: If the special symbols are not in front, or an entry is blank, has white space
            inside or stands twice.

    Example:
        >>> vocabulary = Vocabulary.build([("a", "rose", "is", "a", "rose")])
        >>> vocabulary.words[4:], vocabulary.encode(["a", "rose", "tree"])
        (('a', 'rose', 'is'), [4, 5, 1, 3])
        >>> vocabulary.decode([4, 5, 3, 6])
        ['a', 'rose']
        >>> vocabulary
        Vocabulary(7 words)
    """

    words: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL_SYMBOLS)] != SPECIAL_SYMBOLS:
            raise DataError(
                f"a vocabulary begins with {' '.join(SPECIAL_SYMBOLS)}; "
                f"got {' '.join(self.words[: len(SPECIAL_SYMBOLS)]) or 'nothing'}."
            )
        for i, word in enumerate(self.words):
            if word.split() != [word]:
                raise DataError(f"entry {i} of the vocabulary is not one word: {word!r}.")
        ids = {word: i for i, word in enumerate(self.words)}
        if len(ids) != len(self.words):
            twice = next(w for w, n in Counter(self.words).items() if n > 1)
            raise DataError(f"the vocabulary lists {twice!r} more than once; each word has one id.")
        # Special symbols are not reachable by their spelling: see the class's docstring.
        for symbol in SPECIAL_SYMBOLS:
            ids[symbol] = UNK
        object.__setattr__(self, "_ids", ids)

    def __repr__(self) -> str:
        return f"Vocabulary({counted(len(self), 'word')})"

    @classmethod
    def build(
        cls,
        sentences: Iterable[Sequence[str]],
        max_size: int | None = None,
        min_count: int = 1,
    ) -> Vocabulary:
        """The words of some sentences, most frequent first, ties in order of first appearance.

        Args:
            sentences: Each one a sequence of words; the training split's, and no other's.
            max_size: Most entries, the four special symbols counted; None for no limit.
            min_count: Words seen less often are left out.

        Raises:
            DataError: If ``max_size`` leaves no room for a word.
        """
        # A Counter keeps the order of first appearance.
        return cls.of_counts(Counter(chain.from_iterable(sentences)), max_size, min_count)

    @classmethod
    def of_counts(
        cls, counts: Mapping[str, int], max_size: int | None = None, min_count: int = 1
    ) -> Vocabulary:
        """The words that were counted, most frequent first, ties in the order of the mapping.

        Args:
            counts: How often each word stands.
            max_size: As for ``build``.
            min_count: As for ``build``.

        Raises:
            DataError: As for ``build``.
        """
        if max_size is not None and max_size <= len(SPECIAL_SYMBOLS):
            raise DataError(
                f"a vocabulary needs room for {len(SPECIAL_SYMBOLS)} special symbols and a word; "
                f"got a largest size of {max_size}."
            )
        known = (w for w, n in counts.items() if n >= min_count and w not in SPECIAL_SYMBOLS)
        ranked = sorted(known, key=lambda w: -counts[w])  # Python's sort keeps ties in order
        if max_size is not None:
            ranked = ranked[: max_size - len(SPECIAL_SYMBOLS)]
        return cls((*SPECIAL_SYMBOLS, *ranked))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Sequence[str]) -> list[int]:
        """The ids of a sentence's words, followed by EOS; words outside the vocabulary are UNK."""
        get = self._ids.get
        return [get(word, UNK) for word in words] + [EOS]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of some ids, up to the first EOS.

        Raises:
            DataError: If an id is not in the vocabulary.
        """
        words = []
        for i in ids:
            if i == EOS:
                break
            if not 0 <= i < len(self.words):
                raise DataError(
                    f"token id {i} is outside the vocabulary of {len(self.words)} entries; "
                    "decode with the vocabulary the tokens were made with."
                )
            words.append(self.words[i])
        return words

    @property
    def digest(self) -> str:
        """SHA-256 of the entries, one a line, in hexadecimal; the digest of the saved file."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write one entry a line. The file is either written whole or not at all."""
        with (
            atomic_path(Path(path)) as temporary,
            temporary.open("w", encoding="utf-8", newline="\n") as file,
        ):
            file.write(self._text())

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a saved vocabulary.

        Raises:
            DataError: If the file is unreadable or is not a vocabulary; the message names it.
        """
        words = tuple(read_lines(path))
        try:
            return cls(words)
        except DataError as error:
            raise DataError(f"{path} is not a vocabulary: {error}") from None

    def _text(self) -> str:
        return "".join(f"{word}\n" for word in self.words)
