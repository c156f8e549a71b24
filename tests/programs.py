"""Pyro programs that are not ours, for the tests of targets and guides."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

WEIGHT = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]], dtype=torch.float64)
MOVING = (
    "the program's log joint is not a fixed function of each row's z: a draw's value changes with the other "
    "draws, with the other rows, or by chance. Index batch axes from the right, and hand over a program with "
    "dropout as an nn.Module, so that it can be put in eval mode."
)


def survey(x: Tensor) -> None:
    """Four latent sites of different supports and event shapes in one row."""
    with pyro.plate("people", len(x), dim=-1):
        trait = pyro.sample("trait", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        speed = pyro.sample("speed", dist.Gamma(2.0, 3.0))
        mix = pyro.sample("mix", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
        bias = pyro.sample("bias", dist.Beta(2.0, 5.0).expand([2]).to_event(1))
        loc = trait @ WEIGHT + mix * bias.sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(loc, 0.2 + speed.unsqueeze(-1)).to_event(1), obs=x)


def hospital(counts: Tensor, ages: Tensor | None = None) -> None:
    """Nested plates, rows on axis -2, a support that depends on another latent, data seen between latents."""
    rows, wards = counts.shape
    with pyro.plate("rows", rows, dim=-2):
        top = pyro.sample("top", dist.LogNormal(0.0, 0.5))
        if ages is not None:
            pyro.sample("age", dist.Normal(top, 1.0), obs=ages.unsqueeze(-1))
        with pyro.plate("wards", wards, dim=-1):
            rate = pyro.sample("rate", dist.Uniform(0.0, top))
            pyro.deterministic("double", 2 * rate)
            pyro.sample("counts", dist.Poisson(rate + 0.1), obs=counts)


def linear_gaussian(x: Tensor, scale: float = 0.7) -> None:
    with pyro.plate("rows", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT, scale).to_event(1), obs=x)
