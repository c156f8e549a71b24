"""Pyro as its tutorials write it: a program, traced anew for every gradient."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from benchmarks.contestants.network import Network, take_weights
from benchmarks.problem import Array, Problem


class PlainPyro:
    """A latent-variable language model in Pyro, its codes moved by autograd through the trace's log-probability.

    Args:
        problem: What to compute.
        noise_scale: Of the Langevin step.
    """

    def __init__(self, problem: Problem, noise_scale: float = 1.0) -> None:
        self.problem, self.noise_scale = problem, noise_scale
        self.network = Network(problem)
        self.tokens = problem.tensor(problem.tokens)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=problem.learning_rate)
        self.z = problem.tensor(problem.codes())

    def program(self, tokens: Tensor) -> None:
        """The generative story."""
        zeros = self.z.new_zeros(self.problem.size.latent)
        with pyro.plate("sentences", len(tokens)):
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            logits = self.network(z, tokens)
            pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=tokens)

    def log_joint(self, z: Tensor) -> Tensor:
        """Log p(x, z), summed over the batch."""
        conditioned = poutine.condition(self.program, data={"z": z})
        log_joint: Tensor = poutine.trace(conditioned).get_trace(self.tokens).log_prob_sum()
        return log_joint

    def _gradient(self, z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.log_joint(z), z)
        return gradient

    def _moved(self, z: Tensor, steps: int) -> Tensor:
        s = self.problem.step_size
        for _ in range(steps):
            z = z + s * self._gradient(z) + self.noise_scale * math.sqrt(2 * s) * torch.randn_like(z)
        return z

    def gradient(self, z: Array) -> Array:
        return self._gradient(self.problem.tensor(z)).cpu().numpy()

    def walk(self, steps: int) -> None:
        self.z = self._moved(self.z, steps)

    def train(self, start: Array | None = None) -> None:
        z = torch.randn_like(self.z) if start is None else self.problem.tensor(start)
        z = self._moved(z, self.problem.size.steps)
        self.optimizer.zero_grad()
        loss = -self.log_joint(z) / len(self.tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.problem.clip_norm)
        self.optimizer.step()

    def weights(self) -> dict[str, Array]:
        return take_weights(self.network)
