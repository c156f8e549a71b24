"""Pyro's own HMC and NUTS: every state of a run, warm-up included, with the gradients spent until then.

All rows of a batch are one state of one kernel, the way Pyro vectorises local latent variables: each gradient serves
every row, and one trajectory is accepted or rejected for all of them together.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from pyro.infer import HMC, MCMC, NUTS
from torch import Tensor

from benchmarks.accuracy.plain import Program

KERNELS = ("HMC", "NUTS")
TRAJECTORY = 0.7
"""Length of HMC's trajectories: on the Gaussian oracle the best of 0.25, 0.35, 0.5, 0.7, 1, pi / 2 and 2.5. Pyro's own
choice, 2 pi, ends where it began wherever the posterior is the prior, of unit precision."""


class Path(NamedTuple):
    """A run of MCMC.

    Attributes:
        states: After every transition, warm-up included, shape [transitions, B, D].
        gradients: Spent until then, the search for a first step size included, shape [transitions].
        seconds: CPU seconds of the process until then, set-up included, shape [transitions].
    """

    states: Tensor
    gradients: Tensor
    seconds: Tensor


def run(name: str, program: Program, data: Tensor, start: Tensor, warmup: int, draws: int) -> Path:
    """Run one kernel on all rows together, from ``start`` [B, D].

    Step size and diagonal mass matrix adapt during the warm-up, as Pyro does by default.
    """
    spent = 0

    def counted(rows: Tensor) -> None:
        nonlocal spent
        spent += 1
        program(rows)

    states: list[Tensor] = []
    gradients: list[int] = []
    seconds: list[float] = []
    begun = time.process_time()

    def look(kernel: Any, params: dict[str, Tensor], stage: str, index: int) -> None:
        states.append(params["z"].detach().clone())
        gradients.append(spent)
        seconds.append(time.process_time() - begun)

    kernel = HMC(counted, trajectory_length=TRAJECTORY) if name == "HMC" else NUTS(counted)
    chain = MCMC(
        kernel,
        num_samples=draws,
        warmup_steps=warmup,
        initial_params={"z": start},
        disable_progbar=True,
        hook_fn=look,
    )
    chain.run(data)
    return Path(torch.stack(states), torch.tensor(gradients), torch.tensor(seconds))
