"""The Hessian in z: ``Target.hessian`` beside ``torch.func`` on an LSTM written by hand, and beside one gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.contestants.network import inputs
from benchmarks.contestants.ours import Ours
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Bar, Row
from benchmarks.sizes import SIZES, Size
from benchmarks.timing import Effort, interleaved, ratio, timed

CHAINS = {"S": 16, "M": 4}
"""Draws of one sentence; each has a Hessian of its own."""
EFFORT = {"S": Effort(30, 30), "M": Effort(12, 45)}
RATIO_BAR, GRADIENTS_BAR = Bar(3.0), Bar(18.0, "less")


class FunctionalLSTM:
    """Log p(x, z) of one sentence for a batch of codes, in operations that ``torch.func`` can batch.

    ``torch.func`` has no rule for ``nn.LSTM``. What does not depend on z is computed once. Chains do not interact, so
    that one column of all their Hessians is one product with the Hessian of the sum.
    """

    def __init__(self, problem: Problem) -> None:
        self.w = {name: problem.tensor(weight) for name, weight in problem.weights.items()}
        self.targets = problem.tensor(problem.tokens[0])
        words = self.w["embedding.weight"][inputs(self.targets[None])[0]]
        width = words.shape[1]
        into, bias = self.w["cell.weight_ih_l0"], self.w["cell.bias_ih_l0"] + self.w["cell.bias_hh_l0"]
        self.token_gates = words @ into[:, :width].T + bias
        self.code_to_gates = into[:, width:].T.contiguous()
        self.recurrent = self.w["cell.weight_hh_l0"].T.contiguous()

    def log_joint(self, z: Tensor) -> Tensor:
        """Summed over chains z [n, D], but for a constant."""
        w = self.w
        h = z @ w["start.weight"].T + w["start.bias"]
        c = torch.zeros_like(h)
        code, states = z @ self.code_to_gates, []
        for token_gates in self.token_gates:
            gates = token_gates + code + h @ self.recurrent
            let_in, forget, candidate, let_out = gates.chunk(4, -1)
            c = forget.sigmoid() * c + let_in.sigmoid() * candidate.tanh()
            h = let_out.sigmoid() * c.tanh()
            states.append(h)
        logits = torch.stack(states, -2) @ w["output.weight"].T + w["output.bias"]
        targets = self.targets.expand(len(z), -1)[..., None]
        log_likelihood = logits.log_softmax(-1).take_along_dim(targets, -1)
        return log_likelihood.sum() - 0.5 * z.square().sum()

    def hessian(self, z: Tensor) -> Tensor:
        """Of every chain, [n, D, D]: vmap over directions of jvp of grad."""
        gradient = torch.func.grad(self.log_joint)

        def column(direction: Tensor) -> Tensor:
            product: Tensor = torch.func.jvp(gradient, (z,), (direction.expand_as(z),))[1]
            return product

        columns: Tensor = torch.func.vmap(column)(torch.eye(z.shape[-1], dtype=z.dtype))
        return columns.movedim(0, -1)


def built(size: Size, precision: str = "float32") -> tuple[Ours, FunctionalLSTM, Tensor]:
    """The two ways, and codes of one sentence [chains, 1, D]."""
    chains = CHAINS[size.name]
    problem = Problem.build(replace(size, batch=1), precision)
    z = torch.from_numpy(Problem.build(replace(size, batch=chains), precision).codes())
    return Ours(problem), FunctionalLSTM(problem), z[:, None]


def measure(size: Size, run: Run) -> list[Row]:
    """Both ratios at one size."""
    ours, functional, z = built(size)
    seconds = interleaved(
        {
            "ours": timed(lambda: ours.target.hessian(z)),
            "func": timed(lambda: functional.hessian(z[:, 0])),
            "gradient": timed(lambda: ours.target.log_joint_and_grad(z), repeats=5),
        },
        run.effort(*EFFORT[size.name]),
        run.watch,
    )
    name = f"hessian/{size.name}"
    return [
        Row(
            f"{name}/func_over_ours",
            "torch.func vmap(jvp(grad)) of a hand-written LSTM / Target.hessian",
            ratio(seconds["func"], seconds["ours"]),
            "x",
            RATIO_BAR,
        ),
        Row(
            f"{name}/in_gradients",
            "Target.hessian / one gradient",
            ratio(seconds["ours"], seconds["gradient"]),
            "x",
            GRADIENTS_BAR,
        ),
    ]


MEASUREMENTS = [
    Measurement(
        f"hessian/{name}",
        f"Hessian in z, size {name}, one sentence, {chains} draws",
        partial(measure, SIZES[name]),
    )
    for name, chains in CHAINS.items()
]
