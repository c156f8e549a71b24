"""Contestants side by side: every round runs each of them once, and ratios are taken within rounds.

The clock is the processor time of the process, which waits for nobody. What still disturbs it, such as caches that
others empty, lasts longer than a round and so divides out; the spread of the ratios tells how well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

Timer = Callable[[], float]
"""Does its work once and says how many seconds of processor time that took."""
Watch = Callable[[str], None]
"""Shows progress."""

LEAST_ROUNDS = 3


def when_done() -> float:
    """Time by the clock on the wall, once a GPU has done what it was told."""
    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = MappingProxyType({"cpu": time.process_time, "cuda": when_done})
"""How time is taken on a device."""


class Effort(NamedTuple):
    """How long a contest goes on: for so many rounds, or fewer once the seconds have passed.

    Attributes:
        rounds: The most.
        seconds: By the clock on the wall; ``LEAST_ROUNDS`` take place however long they last.
    """

    rounds: int
    seconds: float


class Spread(NamedTuple):
    """A median and how far the middle four fifths reach.

    Attributes:
        value: The median.
        low: The quantile at 10 %.
        high: The quantile at 90 %.
        pairs: How many numbers.
    """

    value: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Of some numbers."""
        low, middle, high = np.quantile(numbers, [0.1, 0.5, 0.9])
        return cls(float(middle), float(low), float(high), len(numbers))

    def scaled(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(factor * self.value, factor * self.low, factor * self.high, self.pairs)


def timed(
    work: Callable[[], object], repeats: int = 1, clock: Callable[[], float] = time.process_time
) -> Timer:
    """A timer of this process: the mean seconds of some calls in a row."""

    def run() -> float:
        start = clock()
        for _ in range(repeats):
            work()
        return (clock() - start) / repeats

    return run


def interleaved(
    contestants: Mapping[str, Timer],
    effort: Effort,
    watch: Watch = lambda text: None,
    wall: Callable[[], float] = time.monotonic,
) -> dict[str, list[float]]:
    """Seconds of every contestant, round by round, after a round that does not count.

    The first of a round is the second of the next one, so that none has the better place.
    """
    names = list(contestants)
    for name in names:
        watch(f"warming {name}")
        contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    start = wall()
    for done in range(effort.rounds):
        if done >= LEAST_ROUNDS and wall() - start > effort.seconds:
            break
        watch(f"round {done + 1} of at most {effort.rounds}")
        turn = -done % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(contestants[name]())
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The median and spread of the ratios within rounds."""
    return Spread.of([above / below for above, below in zip(numerator, denominator, strict=True)])
