"""From sentences to a corpus: who goes into which split, the vocabulary, and the record of both.

Policy. Distinct sentences are ranked by a hash of their words keyed by the seed; the lowest ranks are
the test split, the next the validation split, the others the training split. So the splits depend
neither on the order of the text nor on any random generator, and copies of a sentence always land in
the same split, whether or not duplicates are dropped. The vocabulary is counted on the training split.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sri_pyro.data.encoding import count_shared, count_words, encode, number_labels
from sri_pyro.data.errors import DataError
from sri_pyro.data.gathering import Gathering
from sri_pyro.data.rows import END, Part
from sri_pyro.data.split import Split
from sri_pyro.data.tokens import Labelled, TextOptions, fit_length, parse_lines
from sri_pyro.data.vocabulary import Vocabulary
from sri_pyro.types import EOS
from sri_pyro.wording import counted

MAX_UNKNOWN_SHARE: Final = 0.5
"""A text with a larger share of unknown words is refused: its perplexity would be that of UNK."""

SPLITS: Final = ("train", "valid", "test")


@dataclass(frozen=True)
class Provenance:
    """Where a corpus came from and what was done to it; goes into the record of a run.

    Attributes:
        source: The source's name in ``SOURCES``.
        options: The source's options, so that the corpus can be made again.
        counts: Per file or package: ``read``, ``kept``, ``truncated``, and one entry for each reason
            why sentences were dropped.
        origin: Files, packages with their versions, or a grammar's facts (entropy in nats).
        shared_with_train: Validation and test sentences that also stand in the training split; not
            zero only where given splits overlap and duplicates are kept, and for grammars, whose
            samples are independent.
    """

    source: str
    options: Mapping[str, Any]
    counts: Mapping[str, Mapping[str, int]]
    origin: Mapping[str, Any] = field(default_factory=dict)
    shared_with_train: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, source: str, options: Any, counts: Mapping[str, Mapping[str, int]], **origin: Any
    ) -> Provenance:
        """Of a source whose options are a dataclass; what was counted zero times is left out."""
        counted = {name: {what: n for what, n in part.items() if n} for name, part in counts.items()}
        return cls(source, asdict(options), counted, origin)


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """Three splits of encoded sentences, their vocabulary, and the record of how they came about.

    Attributes:
        train, valid, test: The splits.
        vocabulary: Counted on ``train`` (for a grammar: all its words).
        options: How a further text has to be read to be comparable.
        provenance: The record.
        label_names: What the labels of the splits stand for, sorted; empty without labels.

    Example:
        >>> from sri_pyro.data import PCFGSource
        >>> PCFGSource(num_train=40, num_valid=12, num_test=8).load()
        Corpus('pcfg': 40 train, 12 valid and 8 test sentences, 93 words)
    """

    train: Split
    valid: Split
    test: Split
    vocabulary: Vocabulary
    options: TextOptions
    provenance: Provenance
    label_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        *most, last = (f"{len(split):,} {name}" for name, split in self.splits.items())
        words = counted(len(self.vocabulary), "word")
        return f"Corpus({self.provenance.source!r}: {', '.join(most)} and {last} sentences, {words})"

    @property
    def splits(self) -> Mapping[str, Split]:
        """The splits by name, in the order train, valid, test."""
        return MappingProxyType({"train": self.train, "valid": self.valid, "test": self.test})

    @property
    def exact_log_prob(self) -> Mapping[str, NDArray[np.float64]] | None:
        """Log p(x) in nats of every sentence by split, known for grammars only; otherwise None."""
        known = {n: s.exact_log_prob for n, s in self.splits.items() if s.exact_log_prob is not None}
        return MappingProxyType(known) if len(known) == len(SPLITS) else None

    def text(self, split: str, i: int) -> str:
        """Sentence i of a split as text, words joined by blanks."""
        return " ".join(self.vocabulary.decode(self.splits[split].sentence(i).tolist()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hexadecimal of vocabulary, splits and labels: equal if and only if the data is."""
        digest = hashlib.sha256(self.vocabulary.digest.encode())
        digest.update("\n".join(self.label_names).encode())
        for name, split in self.splits.items():
            digest.update(f"{name} {len(split)} {split.labels is not None}".encode())
            split.update_digest(digest)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """Everything about this corpus as plain values that go into a JSON or TOML file."""
        return {
            **asdict(self.provenance),
            "digest": self.digest,
            "vocabulary": {"size": len(self.vocabulary), "digest": self.vocabulary.digest},
            "labels": list(self.label_names),
            "splits": {
                name: {
                    "sentences": len(split),
                    "tokens": split.num_tokens,
                    "unknown_share": split.unknown_share,
                }
                for name, split in self.splits.items()
            },
        }


def build_corpus(
    parts: Mapping[str, Part],
    gathering: Gathering,
    options: TextOptions,
    provenance: Provenance,
    *,
    vocabulary: Vocabulary | None = None,
    exact_log_prob: Mapping[str, NDArray[np.float64]] | None = None,
    folder: Path | None = None,
) -> Corpus:
    """Encode three parts of gathered texts, with the training split's vocabulary unless one is given.

    Args:
        parts: The rows of each split.
        gathering: Where their numbers are from.
        options: How they were read.
        provenance: The record so far.
        vocabulary: All words, where they are known.
        exact_log_prob: Of every sentence, where it is known.
        folder: Where the splits lie, in files that begin with their names; None for memory.

    Raises:
        DataError: If a split has no sentence, or the vocabulary no word, or most words are unknown.
    """
    for name in SPLITS:
        if not len(parts[name]):
            raise DataError(
                f"no sentence is left for {name} ({describe(provenance.counts)}); "
                "give more text, or relax min_length, max_length or drop_duplicates."
            )
    words = list(gathering.words)
    if vocabulary is None:
        counts = count_words(parts["train"], words)
        vocabulary = Vocabulary.of_counts(counts, options.max_vocabulary, options.min_count)
        if not vocabulary.words[4:]:
            raise DataError(
                f"no word stands {options.min_count} times in the training split; lower min_count."
            )
    ids = np.array(vocabulary.encode(words)[:-1], np.int32)
    ids[END] = EOS
    names, index = number_labels(parts.values(), list(gathering.labels))
    splits = {
        name: encode(
            parts[name],
            ids,
            index if names else None,
            None if exact_log_prob is None else exact_log_prob[name],
            None if folder is None else folder / name,
        )
        for name in SPLITS
    }
    check_vocabulary(splits["train"], vocabulary)
    shared = {name: count_shared(parts[name], parts["train"]) for name in ("valid", "test")}
    return Corpus(
        **splits,
        vocabulary=vocabulary,
        options=options,
        provenance=replace(provenance, shared_with_train=shared),
        label_names=names,
    )


def describe(counts: Mapping[str, Mapping[str, int]]) -> str:
    """What was read and what became of it, for a message: ``5 read, 5 too_long``."""
    total: Counter[str] = Counter()
    for part in counts.values():
        total.update(part)
    return ", ".join(f"{number} {what}" for what, number in total.items()) or "nothing read"


def check_known(split: Split, name: str) -> None:
    """Refuse a text most of whose words the vocabulary does not have.

    Raises:
        DataError: If more than ``MAX_UNKNOWN_SHARE`` of the words are UNK.
    """
    if split.unknown_share > MAX_UNKNOWN_SHARE:
        raise DataError(
            f"{split.unknown_share:.0%} of the words of {name} are not in the vocabulary; it is "
            "probably of another language or tokenisation than the text trained on."
        )


def check_vocabulary(train: Split, vocabulary: Vocabulary) -> None:
    """Refuse a vocabulary that leaves out most of the text it was made from.

    Raises:
        DataError: If more than ``MAX_UNKNOWN_SHARE`` of the training words are UNK.
    """
    if train.unknown_share > MAX_UNKNOWN_SHARE:
        raise DataError(
            f"{train.unknown_share:.0%} of the training words are not among the {len(vocabulary):,} entries of the "
            "vocabulary; raise max_vocabulary, lower min_count, or give a text whose words repeat."
        )


def encode_text(
    lines: Iterable[str],
    vocabulary: Vocabulary,
    options: TextOptions,
    *,
    labelled: Labelled = "auto",
    name: str = "the text",
    counts: Counter[str] | None = None,
) -> Split:
    """Encode a further text with a trained model's vocabulary, as its corpus was read.

    Args:
        lines: One sentence a line, for example from ``read_lines``.
        vocabulary: The trained model's.
        options: ``Corpus.options``; tokenisation, case, ``max_length`` and ``too_long`` apply. Every
            other sentence is kept, short ones and copies included.
        labelled: Whether lines begin with a label and a tab; labels are left out.
        name: What to call the text in an error.
        counts: Receives ``read``, ``blank``, ``too_long`` and ``truncated``.

    Returns:
        A split whose ids are the numbers of the lines, counted from 0: blank lines and, where
        ``too_long`` says ``drop``, longer sentences are missing from it.

    Raises:
        DataError: If nothing is left, a sentence is longer than ``too_long = "error"`` allows, or most
            words are unknown.

    Example:
        >>> vocabulary = Vocabulary.build([("good", "day")])
        >>> split = encode_text(["good day", "", "good night"], vocabulary, TextOptions())
        >>> split.ids.tolist(), split.tokens.tolist()
        ([0, 2], [4, 5, 3, 4, 1, 3])
    """
    rows, ids = [], []
    counts = Counter() if counts is None else counts
    for i, sentence in enumerate(parse_lines(lines, options, labelled, name=name)):
        counts["read"] += 1
        if not sentence.words:
            counts["blank"] += 1
            continue
        fitted = fit_length(sentence, options, f"line {i + 1} of {name}")
        if fitted is None:
            counts["too_long"] += 1
            continue
        counts["truncated"] += fitted is not sentence
        rows.append(vocabulary.encode(fitted.words))
        ids.append(i)
    if not rows and counts["too_long"]:
        raise DataError(
            f"every sentence of {name} is longer than max_length = {options.max_length} words; "
            "give shorter sentences, one a line."
        )
    if not rows:
        raise DataError(f"{name} has no sentence; give one a line.")
    split = Split.from_rows(rows, ids=ids)
    check_known(split, name)
    return split
