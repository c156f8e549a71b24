"""The Langevin step and the training step: the library beside Pyro, an autograd loop and JAX, and beside its peak.

Everything of one size runs in one contest, matrix products included, so that shares of the peak are taken against the
peak of the same minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.contestants import Contestant
from benchmarks.contestants.autograd_loop import AutogradLoop
from benchmarks.contestants.jax_process import JaxProcess, available
from benchmarks.contestants.ours import Ours
from benchmarks.contestants.plain_pyro import PlainPyro
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Bar, Row, on
from benchmarks.sizes import SIZES, Size
from benchmarks.timing import CLOCKS, Effort, Spread, Timer, interleaved, ratio, timed

WORDS = {
    "ours": "the library",
    "plain": "the library by PyTorch's operations alone",
    "pyro": "plain Pyro",
    "autograd": "autograd loop",
    "jax": "JAX",
}
STEP, TRAINING = "langevin_step", "training_step"
TITLES = {STEP: "Langevin step", TRAINING: "Training step (20 Langevin steps, one of Adam)"}
BARS = {
    (TRAINING, "pyro", "ours"): {"S": 2.6, "M": 2.0},
    (TRAINING, "pyro", "plain"): {"S": 2.3, "M": 1.9},
    (STEP, "autograd", "ours"): {"S": 1.6, "M": 1.4, "N": 1.15},
    (TRAINING, "autograd", "ours"): {"S": 1.6, "M": 1.4, "N": 1.15},
    (STEP, "autograd", "plain"): {"S": 1.4, "M": 1.3},
    (TRAINING, "autograd", "plain"): {"S": 1.4, "M": 1.3},
    (STEP, "jax", "ours"): {"S": 1.05, "M": 1.1},
    (TRAINING, "jax", "ours"): {"S": 1.05, "M": 1.1},
}
USEFUL = {"S": 65.0, "M": 65.0}
"""Per cent of the peak."""
PRODUCT_FLOPS = 4e9
"""Work of a timed matrix product, repeated if it is small: some 25 ms."""


@dataclass(frozen=True)
class Plan:
    """How one size is measured.

    Attributes:
        walk: Langevin steps that are timed in a row, so that caches are as in a run.
        step: Effort for the step.
        training: Effort for the training step.
    """

    walk: int
    step: Effort
    training: Effort


PLANS = {
    "S": Plan(10, Effort(60, 40), Effort(40, 75)),
    "M": Plan(3, Effort(25, 45), Effort(12, 110)),
    "N": Plan(1, Effort(15, 40), Effort(5, 90)),
}
ON_GPU = Plan(20, Effort(15, 8), Effort(15, 8))


def products(size: Size) -> dict[str, tuple[int, int, int]]:
    """Matrix products n x k by k x m, as (n, k, m): a square one, and those that the softmax is made of."""
    N, H, V = size.tokens, size.hidden, size.vocabulary
    return {"square": (1024, 1024, 1024), "logits": (N, H, V), "mean output weight": (N, V, H)}


def product(n: int, k: int, m: int, device: str) -> Timer:
    """Seconds of ``PRODUCT_FLOPS`` in products of one shape."""
    left, right, out = (torch.randn(shape, device=device) for shape in ((n, k), (k, m), (n, m)))
    flops = 2 * n * k * m
    repeats = max(1, round(PRODUCT_FLOPS / flops))
    run = timed(lambda: torch.mm(left, right, out=out), repeats, CLOCKS[device])
    return lambda: run() * PRODUCT_FLOPS / flops


def contest(stack: ExitStack, kind: str, size: Size, walk: int, device: str) -> dict[str, Timer]:
    """All that runs in one round; seconds of one step each."""
    problem = Problem.build(size, device=device)
    here: dict[str, Contestant] = {
        "ours": Ours(problem),
        "plain": Ours(problem, plain=True),
        "pyro": PlainPyro(problem),
        "autograd": AutogradLoop(problem),
    }
    timers: dict[str, Timer] = {}
    for name, contestant in here.items():
        work = partial(contestant.walk, walk) if kind == STEP else contestant.train
        timers[name] = timed(work, clock=CLOCKS[device])
    if device == "cpu" and available():
        child = stack.enter_context(JaxProcess(size))
        timers["jax"] = partial(child.walk, walk) if kind == STEP else child.train
    return timers | {name: product(*shape, device) for name, shape in products(size).items()}


def measure(kind: str, size: Size, run: Run, device: str = "cpu") -> list[Row]:
    """Every row of one kind of step at one size."""
    plan = PLANS[size.name] if device == "cpu" else ON_GPU
    effort = plan.step if kind == STEP else plan.training
    with ExitStack() as stack:
        seconds = interleaved(contest(stack, kind, size, plan.walk, device), run.effort(*effort), run.watch)
    if kind == STEP:
        for name in WORDS.keys() & seconds.keys():
            seconds[name] = [value / plan.walk for value in seconds[name]]
    return list(rows(kind, size, seconds, device))


def rows(kind: str, size: Size, seconds: dict[str, list[float]], device: str = "cpu") -> Iterator[Row]:
    """What the seconds of one contest say; the bars are for processors."""
    prefix, judged = f"{on(device)}{kind}/{size.name}", device == "cpu"
    for ours in ("ours", "plain"):
        for other in ("pyro", "autograd", "jax"):
            if other in seconds:
                asked = BARS.get((kind, other, ours), {}).get(size.name) if judged else None
                yield Row(
                    f"{prefix}/{other}_over_{ours}",
                    f"{WORDS[other]} / {WORDS[ours]}",
                    ratio(seconds[other], seconds[ours]),
                    "x",
                    None if asked is None else Bar(asked),
                )
    best = min(products(size), key=lambda name: float(np.median(seconds[name])))
    flops = size.step_flops if kind == STEP else size.training_flops
    asked = USEFUL.get(size.name) if judged else None
    for ours in ("ours", "plain"):
        yield Row(
            f"{prefix}/useful_share_{ours}",
            f"useful work of {WORDS[ours]}, share of the matrix-product peak",
            ratio(seconds[best], seconds[ours]).scaled(100 * flops / PRODUCT_FLOPS),
            "%",
            Bar(asked) if asked is not None and ours == "ours" else None,
        )
    rates = Spread.of([PRODUCT_FLOPS / 1e9 / value for value in seconds[best]])
    yield Row(f"{prefix}/peak", f"peak of matrix products ({best})", rates, "GFLOP/s")
    for name in WORDS:
        if name in seconds:
            times = Spread.of(seconds[name]).scaled(1e3)
            yield Row(
                f"{prefix}/milliseconds_{name}",
                f"{'processor' if judged else 'wall-clock'} time of {WORDS[name]}",
                times,
                "ms",
            )


MEASUREMENTS = [
    Measurement(
        f"{kind}/{size.name}",
        f"{title}, size {size.name}",
        partial(measure, kind, size),
        slow=size.name == "N" and kind == TRAINING,
    )
    for kind, title in TITLES.items()
    for size in SIZES.values()
]
