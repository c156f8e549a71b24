"""How a line becomes words: the stated options, the two tokenisers, and the limit of length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from sri_pyro.data.errors import DataError

WORD_PATTERN: Final = re.compile(
    r"<unk>"  # the literal unknown marker stays whole
    r"|(?:[^\W\d_]\.){2,}"  # dotted initials: u.s., a.m.
    r"|[^\W\d_]+(?:['-][^\W\d_]+)*"  # letters, with inner apostrophes and hyphens: don't, co-op
    r"|\d+(?:[.,:]\d+)*"  # numbers: 1,000  3.5  10:30
    r"|[^\w\s]|_"  # any other symbol alone
)
"""What one token of ``tokenize = "words"`` is; white space separates and is dropped."""

_TYPOGRAPHY: Final = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "."})
_REPEATED_SYMBOL: Final = re.compile(r"([^\w\s])\1+")


class Sentence(NamedTuple):
    """One sentence as words, and its label if it has one."""

    words: tuple[str, ...]
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How text becomes the sentences of a corpus. Every text source has these options.

    Args:
        tokenize: ``whitespace`` splits at white space alone, for text that is tokenised already;
            ``words`` splits off punctuation by ``WORD_PATTERN``, makes typographic quotes plain and
            a run of one symbol (``!!!``) a single one.
        lowercase: Whether to lower-case.
        min_length: Fewest words of a sentence, the end not counted; shorter ones are dropped.
        max_length: Most words of a sentence, the end not counted; None for no limit. One endless line
            would make a batch that no memory holds, so there is a limit unless it is lifted.
        too_long: What happens to a longer one: ``drop`` it, ``truncate`` it, or raise an ``error``.
        drop_duplicates: Whether a sentence is kept once. Sentences are the same if their words are;
            the first label stands.
        max_sentences: Keep no more than this many training candidates: the first of a file, a sample
            of an embedded corpus. None keeps all.
        min_count: A word enters the vocabulary if it stands at least so often in the training split.
            At 1, no unknown word is ever trained on.
        max_vocabulary: Most entries of the vocabulary, the four special symbols counted. None for all.
        valid_fraction: Share of the distinct sentences put aside for validation.
        test_fraction: Share of the distinct sentences put aside for testing.
        seed: Keys which sentences are put aside.

    Raises:
        DataError: If an option is out of range.
    """

    tokenize: Literal["whitespace", "words"] = "whitespace"
    lowercase: bool = False
    min_length: int = 1
    max_length: int | None = 100
    too_long: Literal["drop", "truncate", "error"] = "drop"
    drop_duplicates: bool = True
    max_sentences: int | None = None
    min_count: int = 2
    max_vocabulary: int | None = None
    valid_fraction: float = 0.05
    test_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokenize not in ("whitespace", "words"):
            raise DataError(f"unknown tokenize {self.tokenize!r}; known: whitespace, words")
        if self.too_long not in ("drop", "truncate", "error"):
            raise DataError(f"unknown too_long {self.too_long!r}; known: drop, error, truncate")
        for name in ("min_length", "max_length", "max_sentences", "min_count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} must be at least 1; got {value}.")
        if self.max_length is not None and self.max_length < self.min_length:
            raise DataError(
                f"max_length must be at least min_length = {self.min_length}; got {self.max_length}."
            )
        if not 0 <= self.seed < 2**63:
            raise DataError(f"seed must be between 0 and 2^63 - 1; got {self.seed}.")
        for name in ("valid_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 < value < 0.5:
                raise DataError(f"{name} must be above 0 and below 0.5; got {value}.")


def split_words(text: str, options: TextOptions) -> tuple[str, ...]:
    """The words of one line under the stated tokenisation.

    Example:
        >>> split_words("Don't  stop!!! It's 10:30 a.m.", TextOptions(tokenize="words", lowercase=True))
        ("don't", 'stop', '!', "it's", '10:30', 'a.m.')
        >>> split_words("Don't  stop!!!", TextOptions())
        ("Don't", 'stop!!!')
    """
    if options.lowercase:
        text = text.lower()
    if options.tokenize == "whitespace":
        return tuple(text.split())
    text = _REPEATED_SYMBOL.sub(r"\1", text.translate(_TYPOGRAPHY))
    return tuple(WORD_PATTERN.findall(text))


Labelled = Literal["auto", "yes", "no"]
"""Whether lines begin with a label and a tab; ``auto`` asks the first line that is not blank."""


def parse_lines(
    lines: Iterable[str], options: TextOptions, labelled: Labelled = "auto", *, name: str
) -> Iterator[Sentence]:
    r"""Yield one sentence for each line, without words for a blank line.

    Args:
        lines: ``sentence``, or ``label TAB sentence``.
        options: Tokenisation and case.
        labelled: Which of the two it is. A tab in text that is not labelled is white space.
        name: What to call the text in an error.

    Raises:
        DataError: If a line of a labelled text has no label and tab.

    Example:
        >>> list(parse_lines(["good\twell done"], TextOptions(), name="the text"))
        [Sentence(words=('well', 'done'), label='good')]
    """
    expected = {"auto": None, "yes": True, "no": False}[labelled]
    for number, line in enumerate(lines, 1):
        if expected is None and line.strip():
            expected = "\t" in line
        if not expected:
            yield Sentence(split_words(line, options))
            continue
        label, tab, text = line.partition("\t")
        if not line.strip():
            yield Sentence(())
        elif tab and label.strip():
            yield Sentence(split_words(text, options), label.strip())
        else:
            raise DataError(
                f"line {number} of {name} has no label and tab, which a labelled text needs; "
                'write label TAB sentence in every line, or in none (with data.labelled = "no" tabs are blanks).'
            )


def fit_length(sentence: Sentence, options: TextOptions, name: str) -> Sentence | None:
    """Apply the length limit of ``options``: the sentence, a shorter one, or None if it is dropped.

    Raises:
        DataError: If it is over the limit and ``too_long`` is ``error``.
    """
    limit = options.max_length
    if limit is None or len(sentence.words) <= limit:
        return sentence
    if options.too_long == "error":
        raise DataError(
            f"{name} has {len(sentence.words)} words where max_length allows {limit}; "
            'raise max_length, or set too_long to "drop" or "truncate".'
        )
    if options.too_long == "drop":
        return None
    return Sentence(sentence.words[:limit], sentence.label)
