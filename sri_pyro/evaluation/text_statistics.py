r"""Statistics of texts: what can be counted in sentences without a model.

Axes: N sentences of a pool, V different words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sri_pyro.types import SPECIAL_SYMBOLS, UNK

Words = Sequence[str]
Rows = NDArray[np.int64]
Summary = NDArray[np.float64]

LONGEST_GRAM = 4
BLEU_GRAMS = 3
"""Sentences may be of three or four words."""


class _Grams(NamedTuple):
    """All n-grams of a pool: whose each is, and which."""

    owner: Rows
    gram: Rows


class Pool:
    """Sentences of which subsets are counted, many times.

    Args:
        sentences: Each a list of words, without an end.
        training: Sentences trained on, for the n-grams that are not new.
    """

    def __init__(self, sentences: Sequence[Words], training: Collection[Words] = ()) -> None:
        self.lengths = np.array([len(words) for words in sentences], dtype=np.int64)
        self.longest = int(self.lengths.max(initial=0))
        self.grams: dict[int, _Grams] = {}
        for n in range(1, LONGEST_GRAM + 1):
            owner, gram, numbers = [], [], dict[tuple[str, ...], int]()
            for i, words in enumerate(sentences):
                for each in grams(words, n):
                    owner.append(i)
                    gram.append(numbers.setdefault(each, len(numbers)))
            self.grams[n] = _Grams(np.array(owner, np.int64), np.array(gram, np.int64))
            if n == 1:
                self.words = len(numbers)
                self.unknown = numbers.get((SPECIAL_SYMBOLS[UNK],), -1)
            if n == LONGEST_GRAM:
                known = {each for words in training for each in grams(words, n)}
                self.new = np.array([each not in known for each in numbers], dtype=bool)

    def __len__(self) -> int:
        return len(self.lengths)

    def of(self, rows: Rows, n: int) -> _Grams:
        """The n-grams of some sentences."""
        inside = np.zeros(len(self), dtype=bool)
        inside[rows] = True
        keep = inside[self.grams[n].owner]
        return _Grams(self.grams[n].owner[keep], self.grams[n].gram[keep])


def grams(words: Words, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a sentence.

    Example:
        >>> grams(["a", "b", "a"], 2)
        [('a', 'b'), ('b', 'a')]
    """
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def length(pool: Pool, rows: Rows) -> Summary:
    """The distribution function of the number of words."""
    counts = np.bincount(pool.lengths[rows], minlength=pool.longest + 1)
    return np.asarray(np.cumsum(counts) / len(rows), dtype=float)


def unigram(pool: Pool, rows: Rows) -> Summary:
    """The relative frequency of every word."""
    counts = np.bincount(pool.of(rows, 1).gram, minlength=pool.words)
    return np.asarray(counts / max(1, counts.sum()), dtype=float)


def distinct(n: int) -> Callable[[Pool, Rows], Summary]:
    """Different n-grams over all n-grams (Li et al. 2016); falls with the number of sentences."""

    def share(pool: Pool, rows: Rows) -> Summary:
        gram = pool.of(rows, n).gram
        return np.array([len(np.unique(gram)) / max(1, len(gram))])

    return share


def repetition(pool: Pool, rows: Rows) -> Summary:
    """Share of words that their sentence has had already: seq-rep-1 (Welleck et al. 2020), over all words."""
    found = pool.of(rows, 1)
    different = len(np.unique(found.owner * (pool.words + 1) + found.gram))
    return np.array([1 - different / max(1, len(found.gram))])


def unknown(pool: Pool, rows: Rows) -> Summary:
    """Share of words that stand for unknown ones."""
    gram = pool.of(rows, 1).gram
    return np.array([np.count_nonzero(gram == pool.unknown) / max(1, len(gram))])


def novelty(pool: Pool, rows: Rows) -> Summary:
    """Share of 4-grams that no training sentence has (McCoy et al. 2023); a model that copies has few."""
    gram = pool.of(rows, LONGEST_GRAM).gram
    return np.array([np.count_nonzero(pool.new[gram]) / max(1, len(gram))])


def self_bleu(pool: Pool, rows: Rows) -> Summary:
    r"""Mean BLEU of every sentence against all others: how alike they are (Zhu et al. 2018).

    :math:`\exp \frac13 \sum_{n \le 3} \log p_n` with clipped precisions, of which those of :math:`n > 1` are smoothed
    by one (Lin and Och 2004). There is no brevity penalty: among many references one is as long.
    """
    log_p = np.zeros(len(pool))
    for n in range(1, BLEU_GRAMS + 1):
        matches, totals = _clipped_matches(pool.of(rows, n), len(pool))
        smooth = n > 1
        with np.errstate(divide="ignore", invalid="ignore"):
            log_p += np.log((matches + smooth) / (totals + smooth)) / BLEU_GRAMS
    scores = np.exp(log_p[rows])[pool.lengths[rows] > 0]
    return np.array([scores.mean() if len(scores) else np.nan])


def _clipped_matches(found: _Grams, num: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every sentence, n-grams that some other one has as often, and all of them, both [N]."""
    width = int(found.gram.max(initial=0)) + 1
    pairs, counts = np.unique(found.owner * width + found.gram, return_counts=True)
    owner, gram = pairs // width, pairs % width
    order = np.lexsort((counts, gram))  # of each n-gram the most frequent user last
    owner, gram, counts = owner[order], gram[order], counts[order]
    last = np.append(gram[1:] != gram[:-1], True) if len(gram) else np.zeros(0, bool)
    first = np.append(True, gram[1:] != gram[:-1]) if len(gram) else last
    group = np.cumsum(first) - 1
    most = counts[last][group] if len(gram) else counts
    runner_up = np.where(first[last], 0, np.append(0, counts[:-1])[last])[group] if len(gram) else counts
    elsewhere = np.where(last, runner_up, most)
    matches = np.bincount(owner, np.minimum(counts, elsewhere), num).astype(np.int64)
    return matches, np.bincount(found.owner, minlength=num)


def largest_gap(first: Summary, second: Summary) -> float:
    """The largest absolute difference: of distribution functions that of Kolmogorov and Smirnov."""
    return float(np.abs(first - second).max())


def jensen_shannon(first: Summary, second: Summary) -> float:
    r"""Jensen-Shannon divergence in nats, between 0 and :math:`\log 2`.

    References:
        Lin (1991).

    Example:
        >>> round(jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])), 4)
        0.6931
    """
    middle = (first + second) / 2

    def against(p: Summary) -> float:
        use = p > 0
        return float((p[use] * np.log(p[use] / middle[use])).sum())

    return (against(first) + against(second)) / 2


@dataclass(frozen=True)
class Statistic:
    """One thing to compare two sets of sentences by.

    Attributes:
        summary: Of some rows of a pool.
        discrepancy: Between two summaries; not negative.
        units: Of the discrepancy.
        description: What is compared.
        shown: A summary as one number.
    """

    summary: Callable[[Pool, Rows], Summary]
    discrepancy: Callable[[Summary, Summary], float]
    units: str
    description: str
    shown: Callable[[Summary], float] = lambda summary: float(summary[0])


def mean_of(cumulated: Summary) -> float:
    """The mean of a distribution function over 0, 1, ....

    Example:
        >>> mean_of(np.array([0.0, 0.5, 1.0]))
        1.5
    """
    return float((1 - cumulated).sum())


def entropy(shares: Summary) -> float:
    """The entropy of relative frequencies, nats.

    Example:
        >>> round(entropy(np.array([0.5, 0.5, 0.0])), 4)
        0.6931
    """
    used = shares[shares > 0]
    return float(-(used * np.log(used)).sum())


STATISTICS: Mapping[str, Statistic] = MappingProxyType({
    "length": Statistic(length, largest_gap, "1", "distribution of the number of words", mean_of),
    "unigram": Statistic(unigram, jensen_shannon, "nat", "frequencies of words, Jensen-Shannon divergence", entropy),
    "distinct_1": Statistic(distinct(1), largest_gap, "1", "different words over all words"),
    "distinct_2": Statistic(distinct(2), largest_gap, "1", "different pairs of words over all pairs"),
    "self_bleu": Statistic(self_bleu, largest_gap, "1", "likeness of sentences to one another, self-BLEU"),
    "repetition": Statistic(repetition, largest_gap, "1", "share of words that stood in their sentence already"),
    "unknown": Statistic(unknown, largest_gap, "1", "share of unknown words"),
    "novelty": Statistic(novelty, largest_gap, "1", "share of 4-grams that the training text does not have"),
})  # fmt: skip
