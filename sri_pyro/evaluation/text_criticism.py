r"""Model criticism by texts: sentences that a model wrote against held-out ones, and these against themselves.

A predictive check: of each statistic the discrepancy between the model's sentences and random halves of the held-out
text is placed among the discrepancies between those halves and the other halves. Held-out text differs from itself as
far as its size allows; a model that writes like it differs no more.

Axes: h sentences of a half, R halvings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sri_pyro.evaluation.text_statistics import STATISTICS, Pool, Statistic, Words
from sri_pyro.numerics.permutations import holm, simulated_p

FEWEST = 10
"""Sentences of a half below which nothing is compared."""


@dataclass(frozen=True)
class TextChecks:
    """How some sentences compare with held-out ones, by statistic in the order of ``STATISTICS``.

    Attributes:
        value: Of the sentences; of lengths the mean, of words the entropy in nats.
        held_out: Of halves of the held-out text, their mean.
        discrepancy: Mean discrepancy from the halves.
        control: Between the two halves, shape [R, statistics].
        p: Of each.
        p_holm: The same, for all statistics at once.
        lengths: Sentences by number of words, of these and of the held-out text scaled to as many, shape [2, L].
    """

    value: list[float]
    held_out: list[float]
    discrepancy: list[float]
    control: NDArray[np.float64]
    p: list[float]
    p_holm: list[float]
    lengths: NDArray[np.float64]


def halves(held_out: int, size: int, replicates: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of disjoint random sets of so many of the held-out sentences, from PyTorch's generator."""
    orders = (torch.randperm(held_out).numpy() for _ in range(replicates))
    return [(order[:size], order[size : 2 * size]) for order in orders]


def check_texts(
    written: Sequence[Words],
    held_out: Sequence[Words],
    training: Sequence[Words] = (),
    replicates: int = 199,
    statistics: Mapping[str, Statistic] = STATISTICS,
) -> TextChecks:
    r"""Compare sentences with held-out ones.

    Statistics such as distinct-n depend on how many sentences there are, so all sets have the size of half the held-out
    text, or of the sentences if these are fewer. The mean over halves varies less than a single half does, so that a
    test of level 5 % rejects a perfect model in no more than 5 %.

    Args:
        written: Sentences of the model, each a list of words.
        held_out: Held-out ones.
        training: Those trained on; without them every 4-gram is new.
        replicates: R.
        statistics: What to compare by.

    Raises:
        ValueError: If a half has fewer than 10 sentences.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> held_out = [["the", w, str(i % 7)] for i, w in enumerate(["cat", "dog", "cow"] * 40)]
        >>> found = check_texts([["no"]] * 60, held_out, replicates=19)
        >>> found.p[0], found.value[0], found.held_out[0]
        (0.05, 1.0, 3.0)
    """
    size = min(len(held_out) // 2, len(written))
    if size < FEWEST:
        raise ValueError(
            f"texts are compared in sets of at least {FEWEST} sentences; got {len(written)} that were written and "
            f"{len(held_out)} held out, of which half."
        )
    pool = Pool([*held_out, *written[:size]], training)
    own = np.arange(len(held_out), len(held_out) + size)
    pairs = halves(len(held_out), size, replicates)
    columns: list[tuple[float, float, float, NDArray[np.float64], float]] = []
    for statistic in statistics.values():
        mine = statistic.summary(pool, own)
        both = [tuple(statistic.summary(pool, rows) for rows in pair) for pair in pairs]
        control = np.array([statistic.discrepancy(first, second) for first, second in both])
        away = float(np.mean([statistic.discrepancy(mine, second) for _, second in both]))
        theirs = np.mean([second for _, second in both], axis=0)
        columns.append(
            (statistic.shown(mine), statistic.shown(theirs), away, control, simulated_p(away, control))
        )
    value, held, discrepancy, controls, p = (list(each) for each in zip(*columns, strict=True))
    counts = [
        np.bincount(pool.lengths[rows], minlength=pool.longest + 1)
        for rows in (own, np.arange(len(held_out)))
    ]
    lengths = np.stack([counts[0], counts[1] * size / len(held_out)]).astype(float)
    return TextChecks(value, held, discrepancy, np.stack(controls, 1), p, holm(p), lengths)
