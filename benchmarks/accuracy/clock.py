"""CPU seconds of one thread: what a gradient costs each contestant, all of them measured in turn, round after round."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.accuracy.curves import Price
from benchmarks.accuracy.mcmc import Path

Job = Callable[[], tuple[float, float]]
"""Times one contestant on one batch: CPU seconds per row that a run costs besides its gradients, and of a gradient."""
SHORT, LONG = 2, 12
"""Steps of two runs, whose difference is the price of gradients alone."""


def priced(jobs: Mapping[str, Sequence[Job]], rounds: int) -> dict[str, Price]:
    """Time every contestant on every batch, round after round, each round in an order of its own.

    Args:
        jobs: Of every contestant, one for each batch; the mean over batches is taken in every round.
        rounds: How often.
    """
    order = [(name, place) for name, own in jobs.items() for place in range(len(own))]
    shuffle = random.Random(0)
    found = {name: np.zeros((rounds, len(own), 2)) for name, own in jobs.items()}
    for name, place in order:
        jobs[name][place]()  # the first run of anything is slower
    for turn in range(rounds):
        shuffle.shuffle(order)
        for name, place in order:
            found[name][turn, place] = jobs[name][place]()
    means = {name: values.mean(1) for name, values in found.items()}
    return {name: Price(values[:, 0], values[:, 1]) for name, values in means.items()}


def steps_timed(
    run: Callable[[int], object], rows: int, clock: Callable[[], float] = time.process_time
) -> Job:
    """The job of an inference of K steps, from a long and a short run.

    Args:
        run: Makes a run of so many steps.
        rows: That it makes it on.
        clock: CPU seconds of this process so far: what other processes do is not counted.
    """

    def seconds(num_steps: int) -> float:
        begun = clock()
        run(num_steps)
        return clock() - begun

    def job() -> tuple[float, float]:
        short, long = seconds(SHORT), seconds(LONG)
        each = (long - short) / (LONG - SHORT)
        return (short - SHORT * each) / rows, each / rows

    return job


def transitions_timed(run: Callable[[], Path], rows: int) -> Job:
    """The job of a run of MCMC, which counts its gradients and seconds itself."""

    def job() -> tuple[float, float]:
        path = run()
        each = float((path.seconds[-1] - path.seconds[0]) / (path.gradients[-1] - path.gradients[0]))
        return (float(path.seconds[0]) - int(path.gradients[0]) * each) / rows, each / rows

    return job
