"""What the tests of ``fit`` share: a regression small enough to train by hand, and what it was asked for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sri_pyro.config.cost import Fixed
from sri_pyro.target import AutogradLikelihood, Target
from sri_pyro.types import Batch, Draws, Progress

TOKENS = torch.tensor([[4], [9], [6]])


def batches(count: int = 2) -> Fixed:
    """Batches of three sentences of one word each, no two alike."""
    return Fixed([Batch(TOKENS + i) for i in range(count)])


class Regression(nn.Module):
    """One-word sentences: log p(x_b | z) = -(w . z - x_b / 5)^2 / 2 up to a constant, x_b the word's id.

    Attributes:
        modes: Of the module, at every likelihood that a loss is made of.
        dropouts: ``inference_dropout`` of every target.
    """

    def __init__(self, weight: Sequence[float] = (0.3, -0.2)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.modes: list[bool] = []
        self.dropouts: list[str] = []

    def target(self, batch: Batch, inference_dropout: str = "off") -> Target:
        self.dropouts.append(inference_dropout)
        x = batch.tokens[:, 0] / 5

        def log_likelihood(z: Tensor) -> Tensor:
            self.modes.append(self.training)
            return -0.5 * (z @ self.weight - x).square()

        return Target(
            log_prior=lambda z: -0.5 * z.square().sum(-1),
            log_likelihood=log_likelihood,
            sample_prior=lambda num: torch.randn(num, len(batch), 2),
            batch_size=len(batch),
            dim=2,
            conditioned=AutogradLikelihood(log_likelihood),
            batch=batch,
        )


class Listed(nn.Module):
    """Draws that are a function of chain, sentence and progress, so that the test can make them itself.

    Attributes:
        asked: How many were asked for and when, at every call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, Progress | None]] = []

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        self.asked.append((num_samples, progress))
        assert progress is not None
        return Draws(listed(num_samples, target.batch_size, progress.epoch))


def listed(num_samples: int, batch_size: int, epoch: float) -> Tensor:
    """The draws of ``Listed``, [S, B, 2]."""
    s, b = torch.meshgrid(torch.arange(num_samples), torch.arange(batch_size), indexing="ij")
    return torch.stack([1.0 + s - 0.5 * b + epoch, 0.5 * s * b - 1.0 - epoch], -1)


@dataclass
class Scores:
    """A validation that gives the nlls listed, one after another.

    Attributes:
        nlls: What it says.
        model: Whose weight and mode it keeps at every call.
    """

    nlls: Sequence[float]
    model: Regression
    weights: list[Tensor] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)

    def __call__(self) -> dict[str, float]:
        self.weights.append(self.model.weight.detach().clone())
        self.modes.append(self.model.training)
        return {"nll": self.nlls[len(self.weights) - 1]}


def gradient_by_hand(weight: Sequence[float], batch: Batch, z: Tensor) -> list[float]:
    """Of -mean log p(x | z) in the weight: the mean over chains and sentences of (w . z - x) z, summed in Python."""
    total, count = [0.0, 0.0], z.shape[0] * z.shape[1]
    for chain in z.tolist():
        for code, word in zip(chain, batch.tokens[:, 0].tolist(), strict=True):
            miss = sum(w * c for w, c in zip(weight, code, strict=True)) - word / 5
            total = [t + miss * c / count for t, c in zip(total, code, strict=True)]
    return total


def clipped(gradient: list[float], most: float) -> list[float]:
    """Shortened to the norm given, if it is longer."""
    norm = math.hypot(*gradient)
    return [g * min(1.0, most / norm) for g in gradient] if most else gradient


Step = Callable[[list[float], list[float], float], list[float]]
"""From weight, gradient and rate to the next weight."""


def plain_descent(weight: list[float], gradient: list[float], rate: float) -> list[float]:
    return [w - rate * g for w, g in zip(weight, gradient, strict=True)]


def adam() -> Step:
    """Kingma and Ba (2015), Algorithm 1, with their constants."""
    first, second, t = [0.0, 0.0], [0.0, 0.0], 0

    def step(weight: list[float], gradient: list[float], rate: float) -> list[float]:
        nonlocal first, second, t
        t += 1
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradient, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, gradient, strict=True)]
        return [
            w - rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
            for w, m, v in zip(weight, first, second, strict=True)
        ]

    return step
