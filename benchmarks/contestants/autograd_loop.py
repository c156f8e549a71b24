"""PyTorch in practised hands: one ``nn.LSTM``, one flat ``cross_entropy``, and ``torch.autograd.grad`` in z alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contestants.network import Network, inputs, take_weights
from benchmarks.problem import Array, Problem


class AutogradLoop:
    """The loop that one writes without Pyro and without a reverse pass of one's own.

    Words are looked up once per batch. Weights are frozen in the inner steps, which gains a tenth where the logits
    are one flat matrix product, as here; on three axes ``nn.Linear`` with frozen weights would take a slower way.

    Args:
        problem: What to compute.
        noise_scale: Of the Langevin step.
    """

    def __init__(self, problem: Problem, noise_scale: float = 1.0) -> None:
        self.problem, self.noise_scale = problem, noise_scale
        self.network = Network(problem)
        self.tokens = problem.tensor(problem.tokens)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=problem.learning_rate, fused=True)
        self.z = problem.tensor(problem.codes())
        self.network.requires_grad_(False)
        self.words = self._words()

    def _words(self) -> Tensor:
        words: Tensor = self.network.embedding(inputs(self.tokens))
        return words

    def log_joint(self, z: Tensor, words: Tensor) -> Tensor:
        """Log p(x, z) but for a constant, summed over the batch."""
        return self.log_likelihood(z, words) - 0.5 * z.square().sum()

    def log_likelihood(self, z: Tensor, words: Tensor) -> Tensor:
        """Log p(x | z), summed over the batch."""
        network = self.network
        codes = z[:, None].expand(-1, words.shape[1], -1)
        h0 = network.start(z)[None]
        states, _ = network.cell(torch.cat([words, codes], -1), (h0, torch.zeros_like(h0)))
        logits = F.linear(states.flatten(0, 1), network.output.weight, network.output.bias)
        return -F.cross_entropy(logits, self.tokens.flatten(), reduction="sum")

    def _moved(self, z: Tensor, words: Tensor, steps: int) -> Tensor:
        s = self.problem.step_size
        for _ in range(steps):
            z.requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_joint(z, words), z)
            with torch.no_grad():
                noise = torch.randn_like(z)
                z = z.add(gradient, alpha=s).add_(noise, alpha=self.noise_scale * math.sqrt(2 * s))
        return z

    def gradient(self, z: Array) -> Array:
        codes = self.problem.tensor(z).requires_grad_()
        return torch.autograd.grad(self.log_joint(codes, self.words), codes)[0].cpu().numpy()

    def walk(self, steps: int) -> None:
        self.z = self._moved(self.z, self.words, steps)

    def train(self, start: Array | None = None) -> None:
        z = torch.randn_like(self.z) if start is None else self.problem.tensor(start)
        z = self._moved(z, self._words(), self.problem.size.steps)
        self.network.requires_grad_(True)
        self.optimizer.zero_grad(set_to_none=True)
        loss = -self.log_joint(z, self._words()) / len(self.tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.problem.clip_norm)
        self.optimizer.step()
        self.network.requires_grad_(False)

    def weights(self) -> dict[str, Array]:
        return take_weights(self.network)
