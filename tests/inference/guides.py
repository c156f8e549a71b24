"""What the tests of guides share: programs, an inference that remembers, and one that is trained."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from sri_pyro.inference.short_run import ShortRunLangevin
from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.target import Target
from sri_pyro.types import Batch, Draws, Progress

BATCH = Batch(torch.tensor([[7, 9, 4, 3], [8, 3, 0, 0], [5, 6, 3, 0]]))
COUNTS = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 5.0]], dtype=torch.float64)
SHORT = ShortRunLangevin(num_steps=4, step_schedule=ConstantSteps(0.05))


class Recording(nn.Module):
    """Another inference, which remembers what it was asked and what it drew."""

    def __init__(self, inner: Callable[..., Draws]) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[tuple[int, Progress | None]] = []
        self.drawn: list[Draws] = []

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        self.calls.append((num_samples, progress))
        self.drawn.append(self.inner(target, num_samples, progress))
        return self.drawn[-1]


class Encoder(nn.Module):
    """An amortised inference: reparametrised, with a density."""

    def __init__(self, x: Tensor, detached: bool = False) -> None:
        super().__init__()
        self.x = x
        self.loc = nn.Linear(3, 2)
        self.detached = detached

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        q = torch.distributions.Independent(torch.distributions.Normal(self.loc(self.x), 0.5), 1)
        z = q.rsample((num_samples,))
        draws = Draws(z, q.log_prob(z))
        return draws.detach() if self.detached else draws


def text_model() -> LatentTextModel:
    return LatentTextModel(
        StandardNormal(dim=2), LSTMDecoder(vocab_size=10, latent_dim=2, embedding=3, hidden=4)
    )


class Regression(nn.Module):
    """A program that is not ours: a positive scale and a vector per row, weights in a plain layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-1):
            code = pyro.sample("code", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = pyro.sample("scale", dist.Gamma(3.0, 2.0))
            pyro.sample("x", dist.Normal(self.layer(code), 0.5 + scale.unsqueeze(-1)).to_event(1), obs=x)


def gamma_poisson(x: Tensor) -> None:
    with pyro.plate("rows", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def nested(counts: Tensor) -> None:
    wards = pyro.plate("wards", counts.shape[1], dim=-1)
    with pyro.plate("rows", counts.shape[0], dim=-2):
        with wards:
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        with wards:
            pyro.sample("counts", dist.Poisson(rate * top), obs=counts)
