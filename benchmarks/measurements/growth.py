"""How the cost of the inner loop grows with each of its sizes: exponents of fitted power laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.contestants.ours import Ours
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Row
from benchmarks.sizes import SIZES
from benchmarks.timing import Spread, Timer, Watch, interleaved, timed

BASE = SIZES["S"]
DRAWS, STEPS = 1, 2
POINTS = {
    "length": ("tokens of a sentence, T", [6, 12, 24, 48, 96]),
    "vocabulary": ("words of the vocabulary, V", [1_000, 2_000, 4_000, 8_000, 16_000]),
    "hidden": ("hidden units, H", [64, 128, 256, 512]),
    "draws": ("draws of each sentence, S", [1, 2, 4, 8, 16]),
    "steps": ("inner steps, K", [1, 2, 4, 8, 16]),
}
ROUNDS, SECONDS = 15, 15
"""For each of the sizes."""


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of log cost over log size, and its standard error.

    The error is that of a straight line with independent scatter: where the law is no power of the size, it says how
    far from one.
    """
    x, y = np.log(sizes), np.log(costs)
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residuals = y - y.mean() - slope * x
    return slope, math.sqrt(float(residuals @ residuals) / (len(x) - 2) / float(x @ x))


def inner_loop(dimension: str, value: int) -> Timer:
    """Langevin steps with one size changed; prepared outside the time."""
    shapes: dict[str, Any] = {dimension: value} if dimension in ("length", "vocabulary", "hidden") else {}
    draws = value if dimension == "draws" else DRAWS
    steps = value if dimension == "steps" else STEPS
    ours = Ours(Problem.build(replace(BASE, **shapes)))
    ours.z = torch.cat([ours.z] * draws)
    return timed(lambda: ours.walk(steps))


def _watch(watch: Watch, dimension: str, text: str) -> None:
    watch(f"{dimension}, {text}")


def measure(run: Run, loop: Callable[[str, int], Timer] = inner_loop) -> list[Row]:
    """One exponent for each size."""
    rows = []
    for dimension, (words, values) in POINTS.items():
        seconds = interleaved(
            {str(value): loop(dimension, value) for value in values},
            run.effort(ROUNDS, SECONDS),
            partial(_watch, run.watch, dimension),
        )
        slope, error = fitted_exponent(values, [float(np.median(seconds[str(value)])) for value in values])
        rows.append(
            Row(
                f"growth/{dimension}",
                f"exponent of the inner loop's cost in {words}",
                Spread(slope, slope - error, slope + error, len(values)),
                note=f"{values[0]:,} to {values[-1]:,}; the spread is one standard error of the fit",
            )
        )
    return rows


MEASUREMENTS = [
    Measurement(
        "growth",
        f"Growth of the inner loop's cost, one size changed at a time from size S with S = {DRAWS} and K = {STEPS}",
        measure,
    )
]
