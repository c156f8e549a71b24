"""Text in, batches of token ids out: sources, vocabulary, splits, and grammars of known entropy."""

from sri_pyro.data.batches import LengthBuckets, in_order, pad
from sri_pyro.data.corpus import Corpus, Provenance, encode_text
from sri_pyro.data.errors import DataError
from sri_pyro.data.grammars import PCFG, Grammar, Rule, english_like_pcfg
from sri_pyro.data.reading import read_lines
from sri_pyro.data.sources import (
    SOURCES,
    ChitChat,
    PCFGSource,
    Source,
    StateOfTheUnion,
    TopicHMMSource,
)
from sri_pyro.data.split import Split
from sri_pyro.data.textfile import TextFile
from sri_pyro.data.tokens import Sentence, TextOptions, split_words
from sri_pyro.data.topic_hmm import TopicHMM, topic_hmm
from sri_pyro.data.vocabulary import Vocabulary

__all__ = [
    "PCFG",
    "SOURCES",
    "ChitChat",
    "Corpus",
    "DataError",
    "Grammar",
    "LengthBuckets",
    "PCFGSource",
    "Provenance",
    "Rule",
    "Sentence",
    "Source",
    "Split",
    "StateOfTheUnion",
    "TextFile",
    "TextOptions",
    "TopicHMM",
    "TopicHMMSource",
    "Vocabulary",
    "encode_text",
    "english_like_pcfg",
    "in_order",
    "pad",
    "read_lines",
    "split_words",
    "topic_hmm",
]
