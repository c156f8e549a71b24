"""How exact the inner gradient is in single precision, and whether the contestants compute one thing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch

from benchmarks.contestants import Contestant
from benchmarks.contestants.autograd_loop import AutogradLoop
from benchmarks.contestants.jax_process import JaxProcess, available
from benchmarks.contestants.ours import Ours
from benchmarks.contestants.plain_pyro import PlainPyro
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Array, Problem
from benchmarks.rows import Bar, Row, on, single
from benchmarks.sizes import SIZES, Size
from sri_pyro.models.decoders.cells import plain_cells

ERROR_BAR = Bar(2e-6, "less")
AGREEMENT_BAR = Bar(1e-9, "less")
"""Of the gradient of log p(x | z), or of the largest move of a weight, in double precision; rounding leaves 1e-11."""

CLIP_NORM = 0.1
"""So small that gradients are clipped."""


def relative_error(found: Array, exact: Array) -> float:
    """Euclidean, of all codes together."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def autograd_gradient(problem: Problem, z: Array) -> Array:
    """Of log p(x | z) alone: beside that of log p(z) its rounding would be another."""
    loop, codes = AutogradLoop(problem), problem.tensor(z).requires_grad_()
    return torch.autograd.grad(loop.log_likelihood(codes, loop.words), codes)[0].cpu().numpy()


def gradient_errors(size: Size, run: Run, device: str = "cpu") -> list[Row]:
    """Errors of gradients of log p(x | z) against autograd in double precision."""
    run.watch("autograd in double precision")
    single_precision, double = Problem.build(size, device=device), Problem.build(size, "float64")
    # The same rounded weights and codes, so that only the arithmetic differs.
    for name, weight in single_precision.weights.items():
        double.weights[name] = weight.astype(np.float64)
    z = single_precision.codes()
    exact = autograd_gradient(double, z.astype(np.float64))
    run.watch("single precision")
    ours = Ours(single_precision).target.conditioned
    codes = single_precision.tensor(z)[None]
    found = {"ours": ours.value_and_grad(codes)[1][0].cpu().numpy()}
    with plain_cells():
        found["plain"] = ours.value_and_grad(codes)[1][0].cpu().numpy()
    found["autograd"] = autograd_gradient(single_precision, z)
    words = {
        "ours": "the library",
        "plain": "the library by PyTorch's operations alone",
        "autograd": "autograd",
    }
    return [
        Row(
            f"{on(device)}gradient_error/{size.name}/{name}",
            f"relative error of the likelihood's gradient, {words[name]}",
            single(relative_error(gradient.astype(np.float64), exact)),
            bar=None if name == "autograd" else ERROR_BAR,
        )
        for name, gradient in found.items()
    ]


def agreement(size: Size, run: Run) -> list[Row]:
    """How far every contestant's gradient and noise-free training step lie from the library's."""
    problem = Problem.build(size, "float64", clip_norm=CLIP_NORM)
    reference = Ours(problem, noise_scale=0.0)
    z = problem.codes(seed=2)
    gradient, before = reference.gradient(z) + z, reference.weights()
    reference.train(z)
    after = reference.weights()
    rows: list[Row] = []
    with ExitStack() as stack:
        for name, contestant in others(problem, stack):
            run.watch(name)
            off = relative_error(contestant.gradient(z) + z, gradient)
            contestant.train(z)
            found = contestant.weights()
            moved = max(abs(after[key] - before[key]).max() for key in after)
            trained = float(max(abs(found[key] - after[key]).max() for key in after) / moved)
            for what, value in (("gradient", off), ("weights after a training step", trained)):
                label = f"{what}: {name} against the library, double precision, no noise"
                rows.append(
                    Row(f"agreement/{name}/{what.split()[0]}", label, single(value), bar=AGREEMENT_BAR)
                )
    return rows


def others(problem: Problem, stack: ExitStack) -> Iterator[tuple[str, Contestant]]:
    """Every contestant but the library as it is used, without noise."""
    yield "plain", Ours(problem, noise_scale=0.0, plain=True)
    yield "pyro", PlainPyro(problem, noise_scale=0.0)
    yield "autograd", AutogradLoop(problem, noise_scale=0.0)
    if available():
        yield "jax", stack.enter_context(JaxProcess(problem.size, "float64", 0.0, clip_norm=CLIP_NORM))


MEASUREMENTS = [
    Measurement("agreement", "Contestants compute the same thing, size S", partial(agreement, SIZES["S"])),
    *(
        Measurement(
            f"gradient_error/{size.name}", f"Gradient error, size {size.name}", partial(gradient_errors, size)
        )
        for size in SIZES.values()
    ),
]
