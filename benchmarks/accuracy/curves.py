"""Accuracy against time: curves, where they reach a level, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """How the divergence of one contestant from the posterior falls as it spends gradients.

    Attributes:
        name: Of the contestant.
        cost: Whose gradients it pays for: a key of the timings.
        gradients: Spent until each point, increasing, shape [P].
        divergence: Nats, at each point for each unit (a sentence, or a group of runs), shape [P, units]; one unit
            that is exact has no error.
        units: Names of the units; curves with the same names are compared unit by unit.
        settings: The tuned numbers of each point, where there are any.
    """

    name: str
    cost: str
    gradients: Array
    divergence: Array
    units: tuple[str, ...]
    settings: tuple[tuple[float, ...], ...] = ()

    def means(self) -> Array:
        """Over units, shape [P]."""
        means: Array = self.divergence.mean(1)
        return means

    def errors(self) -> Array:
        """Their standard errors; 0 where the one unit is exact."""
        n = self.divergence.shape[1]
        spread: Array = self.divergence.std(1, ddof=1) if n > 1 else np.zeros(len(self.divergence))
        return spread / math.sqrt(n)


@dataclass(frozen=True)
class Price:
    """CPU seconds per row of a batch, as every round measured them: ``fixed + gradients * each``.

    Attributes:
        fixed: What a run costs besides its gradients, shape [rounds].
        each: A gradient, shape [rounds].
    """

    fixed: Array
    each: Array

    def seconds(self, gradients: Array | float, rounds: NDArray[np.int64] | None = None) -> Array:
        """By the medians over rounds, or over some of them."""
        chosen = slice(None) if rounds is None else rounds
        return np.asarray(np.median(self.fixed[chosen]) + gradients * np.median(self.each[chosen]))


def reached(gradients: Sequence[float] | Array, divergence: Sequence[float] | Array, level: float) -> float:
    """How many gradients it takes to come down to a level, between two points by interpolation.

    The first point at or below the level counts, and the one before it; between them the logarithm of the divergence
    is taken as linear, or the divergence itself where a noisy one is not positive. The first point of all, if it is
    low enough, is the answer itself. Infinity if the level is not reached.

    Example:
        >>> round(reached([1, 2, 4], [8.0, 2.0, 0.5], 1.0), 9)
        3.0
        >>> reached([1, 2], [8.0, 2.0], 1.0)
        inf
    """
    low = [place for place, value in enumerate(divergence) if value <= level]
    if not low:
        return math.inf
    place = low[0]
    if place == 0:
        return float(gradients[0])
    above, below = divergence[place - 1], divergence[place]
    if below > 0 and level > 0:
        share = math.log(above / level) / math.log(above / below)
    else:
        share = (above - level) / (above - below)
    return float(gradients[place - 1] + share * (gradients[place] - gradients[place - 1]))


@dataclass(frozen=True)
class Comparison:
    """How much sooner a contestant is as accurate as the baseline.

    Attributes:
        name: Of the contestant.
        level: Nats: what the baseline reaches, on the contestant's units.
        gradients: That the contestant needs for it.
        seconds: CPU seconds that it needs, per sentence.
        ratio: The baseline's seconds over these.
        interval: Of the ratio, 95 %: the bootstrap over units, the same of both, and over rounds of timing.
    """

    name: str
    level: float
    gradients: float
    seconds: float
    ratio: float
    interval: tuple[float, float]


def compared(
    curve: Curve,
    baseline: Curve,
    at: float,
    prices: Mapping[str, Price],
    replicates: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare a contestant with what the baseline reaches after ``at`` gradients.

    Args:
        curve: The contestant.
        baseline: Whose accuracy is to be reached; it has the contestant's units, or one that is exact.
        at: Gradients that the baseline spends; one of its points.
        prices: Of both.
        replicates: Of the bootstrap.
        seed: Of the bootstrap's own generator.
    """
    random = np.random.default_rng(seed)
    place = int(np.flatnonzero(baseline.gradients == at)[0])
    at_level = _matched(baseline, curve.units)[place]
    rounds = len(prices[curve.cost].each)

    def once(units: NDArray[np.int64], timed: NDArray[np.int64]) -> tuple[float, float, float, float]:
        level = float(at_level[units if len(at_level) > 1 else [0]].mean())
        needed = reached(curve.gradients, curve.divergence[:, units].mean(1), level)
        seconds = float(prices[curve.cost].seconds(needed, timed))
        return level, needed, seconds, float(prices[baseline.cost].seconds(at, timed)) / seconds

    count = curve.divergence.shape[1]
    level, needed, seconds, ratio = once(np.arange(count), np.arange(rounds))
    ratios = [
        once(random.integers(count, size=(count,)), random.integers(rounds, size=(rounds,)))[-1]
        for _ in range(replicates)
    ]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Comparison(curve.name, level, needed, seconds, ratio, (float(low), float(high)))


def _matched(baseline: Curve, units: tuple[str, ...]) -> Array:
    """The baseline's divergences on some units, shape [P, units]; those of an exact one stand for all."""
    if len(baseline.units) == 1:
        return baseline.divergence
    return baseline.divergence[:, [baseline.units.index(unit) for unit in units]]
