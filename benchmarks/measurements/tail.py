"""The frozen tail: a training step whose inner loop follows the surrogate, beside the exact ones.

Its accuracy is a matter of trained weights, not of these, and is measured on a trained model (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contestants import Contestant
from benchmarks.contestants.autograd_loop import AutogradLoop
from benchmarks.contestants.ours import Ours
from benchmarks.contestants.plain_pyro import PlainPyro
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Bar, Row
from benchmarks.sizes import SIZES
from benchmarks.timing import Effort, interleaved, ratio, timed

BARS = {"pyro": 4.3, "autograd": 2.8}


def measure(run: Run) -> list[Row]:
    """Size M, 1,000 candidates, 8 tail words, an exact gradient at every fifth step."""
    problem = Problem.build(SIZES["M"])
    contestants: dict[str, Contestant] = {
        "tail": Ours(problem, inner_softmax="frozen_tail"),
        "exact": Ours(problem),
        "pyro": PlainPyro(problem),
        "autograd": AutogradLoop(problem),
    }
    seconds = interleaved(
        {name: timed(contestant.train) for name, contestant in contestants.items()},
        run.effort(*Effort(8, 80)),
        run.watch,
    )
    return list(_rows(seconds))


def _rows(seconds: dict[str, list[float]]) -> Iterator[Row]:
    for name, words in (
        ("pyro", "plain Pyro"),
        ("autograd", "autograd loop"),
        ("exact", "the library, exact"),
    ):
        bar = Bar(BARS[name]) if name in BARS else None
        yield Row(
            f"frozen_tail/M/{name}_over_tail",
            f"{words} / frozen tail",
            ratio(seconds[name], seconds["tail"]),
            "x",
            bar,
        )


MEASUREMENTS = [Measurement("frozen_tail/M", "Training step with the frozen tail, size M", measure)]
