"""Named targets whose answers are known without the library, and the exact laws of short runs on them.

Three kinds of target, and every kernel and estimator meets all of them:

``LinearGaussian``
    32 dimensions; log p(x), the posterior, and the law of every Langevin iterate in closed form.
``EnumerableText``
    Our own decoders with a vocabulary so small that all sentences can be listed and z integrated on a grid.
``skewed`` and ``bimodal``
    One and two dimensions, far from Gaussian, integrated on a grid.

Everything is float64 and in nats. Axes: S draws, B data sets, D latent dimensions, G grid points.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sri_pyro.models import DECODERS, LatentTextModel, StandardNormal
from sri_pyro.target import AutogradLikelihood, Target
from sri_pyro.types import BOS, EOS, PAD, SPECIAL_SYMBOLS, UNK, Batch

LOG_2PI = math.log(2 * math.pi)


def gate(checks: int, false_alarm: float = 1e-8) -> float:
    """How many standard errors the worst of so many checks may be off.

    At 1e-8 a test, a suite of a hundred statistical tests cries wolf once in a million runs.
    """
    return -NormalDist().inv_cdf(false_alarm / (2 * checks))


def sentence(text: str) -> str:
    """Pattern that matches a message whole, from its first word to its full stop."""
    return f"^{re.escape(text)}$"


# --- Linear-Gaussian: everything in closed form ------------------------------------------------------------


@dataclass(frozen=True)
class LinearGaussian:
    r"""Probabilistic principal components: :math:`z \sim N(0, I)`, :math:`x_i = \sqrt{r_i} u_i + \epsilon_i`.

    Here ``u`` is z in the basis of the posterior's eigenvectors, the columns of ``rotation``, so that no
    axis of z is special and a lost covariance shows. The posterior precisions are ``1 + snr``.
    """

    snr: Tensor
    rotation: Tensor

    @classmethod
    def build(cls, spectrum: str = "power1", dim: int = 32, information: float = 10.0) -> LinearGaussian:
        """``flat``, ``power1`` or ``power2``: snr ~ 1, 1/i, 1/i^2, with I(x; z) = ``information`` nats."""
        power = {"flat": 0, "power1": 1, "power2": 2}[spectrum]
        shape = torch.arange(1, dim + 1, dtype=torch.float64) ** -power
        low, high = 0.0, 1e9
        for _ in range(200):  # bisection: information grows with the scale
            scale = (low + high) / 2
            too_small = 0.5 * torch.log1p(scale * shape).sum() < information
            low, high = (scale, high) if too_small else (low, scale)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        return cls(scale * shape, torch.linalg.qr(noise).Q)

    @property
    def precision(self) -> Tensor:
        """Posterior precision of every mode, shape [D]."""
        return 1 + self.snr

    def sample(self, num: int) -> tuple[Tensor, Tensor]:
        """Simulated pairs z and x, each [B, D]: z is an exact posterior draw of its x."""
        z = torch.randn(num, len(self.snr), dtype=torch.float64)
        return z, self.modes(z) * self.snr.sqrt() + torch.randn_like(z)

    def modes(self, z: Tensor) -> Tensor:
        """Coordinates of z in the eigenbasis."""
        return z @ self.rotation

    def mode_means(self, x: Tensor) -> Tensor:
        """Posterior mean in the eigenbasis, shape [B, D]."""
        return self.snr.sqrt() * x / self.precision

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, D] and covariance [D, D] of z given x."""
        covariance = (self.rotation / self.precision) @ self.rotation.T
        return self.mode_means(x) @ self.rotation.T, covariance

    def log_evidence(self, x: Tensor) -> Tensor:
        """Log p(x), shape [B]: the x_i are independent with variance 1 + snr_i."""
        return -0.5 * (x.square() / self.precision + self.precision.log() + LOG_2PI).sum(-1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x | z), shape [S, B]."""
        residual = x - self.modes(z) * self.snr.sqrt()
        return -0.5 * (residual.square() + LOG_2PI).sum(-1)

    def target(self, x: Tensor) -> Target:
        """What inference and evaluation see of the data sets x [B, D]."""
        return standard_normal_target(lambda z: self.log_likelihood(x, z), *x.shape)


class RunLaw(NamedTuple):
    """Law of z_K in one mode of posterior mean m: mean ``(1 - response) m``, and variance; each [D]."""

    response: Tensor
    variance: Tensor

    def mean(self, m: Tensor) -> Tensor:
        return (1 - self.response) * m


def exact_law(
    integrator: str,
    precision: Tensor,
    step_sizes: Sequence[float],
    noise_scale: float = 1.0,
    friction: float = 2.0,
) -> RunLaw:
    """Law of z_K from z_0 ~ N(0, 1) on Gaussian modes, by recursion of two moments.

    The state is (z - m, memory). ``lm`` remembers the standard normal behind its half noise, drawn
    independently of z_0 at the start; ``baoab`` remembers a velocity, of variance tau^2 at the start.
    """
    one, zero = torch.ones_like(precision), torch.zeros_like(precision)

    def matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)

    memory = noise_scale**2 if integrator == "baoab" else 1.0
    covariance = matrix(one, zero, zero, memory * one)
    total = matrix(one, zero, zero, one)
    for k, s in enumerate(step_sizes):
        following = step_sizes[min(k + 1, len(step_sizes) - 1)]
        keep = one - s * precision
        if integrator == "ula":
            move = matrix(keep, zero, zero, zero)
            noise = torch.stack([noise_scale * math.sqrt(2 * s) * one, zero], -1)
        elif integrator == "lm":
            move = matrix(keep, noise_scale * math.sqrt(s / 2) * one, zero, zero)
            noise = torch.stack([noise_scale * math.sqrt(following / 2) * one, one], -1)
        else:
            h = math.sqrt(2 * s)
            before = math.sqrt(2 * step_sizes[k - 1]) if k else 0.0
            c = math.exp(-friction * h)
            kick = matrix(one, zero, -(before + h) / 2 * precision, one)
            drift = matrix(one, h / 2 * one, zero, one)
            refresh = matrix(one, zero, zero, c * one)
            move = drift @ refresh @ drift @ kick
            fresh = noise_scale * math.sqrt(1 - c * c)
            noise = torch.stack([fresh * h / 2 * one, fresh * one], -1)
        covariance = move @ covariance @ move.mT + noise[..., :, None] * noise[..., None, :]
        total = move @ total
    return RunLaw(total[..., 0, 0], covariance[..., 0, 0])


def divergence_to_posterior(law: RunLaw, precision: Tensor) -> float:
    """KL(q_K || posterior), summed over modes and averaged over x from the model.

    There E[precision m^2] = precision - 1.
    """
    ratio = precision * law.variance
    terms = ratio - 1 - ratio.log() + law.response.square() * (precision - 1)
    return 0.5 * terms.sum().item()


# --- Quadrature: one or two dimensions, any shape ----------------------------------------------------------


class Quadrature(NamedTuple):
    """Posterior of every data set on a grid.

    Attributes:
        grid: Points, shape [G, D].
        weights: Posterior probability of each point's cell, shape [G, B].
        log_evidence: Log p(x), shape [B].
        divergence: KL(posterior || prior), shape [B].
    """

    grid: Tensor
    weights: Tensor
    log_evidence: Tensor
    divergence: Tensor

    def mean(self) -> Tensor:
        return torch.einsum("gb,gd->bd", self.weights, self.grid)

    def covariance(self) -> Tensor:
        second = torch.einsum("gb,gd,ge->bde", self.weights, self.grid, self.grid)
        return second - self.mean()[:, :, None] * self.mean()[:, None, :]


def quadrature(target: Target, reach: float = 8.0, points: int = 121) -> Quadrature:
    """Integrate a smooth target by the trapezoidal rule, which converges faster than any power here."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * target.dim).reshape(-1, target.dim)
    parts = [  # piece by piece, because a network's hidden states at every point would fill the memory
        target.value(piece[:, None].expand(-1, target.batch_size, -1)) for piece in grid.split(500)
    ]
    log_prior, log_likelihood = (torch.cat(part) for part in zip(*parts, strict=True))
    log_joint = log_prior + log_likelihood + target.dim * math.log(2 * reach / (points - 1))
    log_evidence = log_joint.logsumexp(0)
    weights = (log_joint - log_evidence).exp()
    divergence = (weights * log_likelihood).sum(0) - log_evidence
    return Quadrature(grid, weights, log_evidence, divergence)


def ula_law_on_grid(target: Target, step_sizes: Sequence[float], grid: Tensor) -> Tensor:
    """Probability of each cell of a 1-d grid [G, 1] under the exact law of z_K, shape [G, B]."""
    spacing = (grid[1] - grid[0]).item()
    points = grid[:, None].expand(-1, target.batch_size, -1)
    drift = target.value_and_grad(points).grad[..., 0]
    probability = torch.exp(-0.5 * points[..., 0].square() - 0.5 * LOG_2PI) * spacing
    for s in step_sizes:
        ahead = points[..., 0] + s * drift
        kernel = torch.exp(-(grid[:, 0, None, None] - ahead).square() / (4 * s))
        probability = torch.einsum("hgb,gb->hb", kernel, probability) * spacing / math.sqrt(4 * math.pi * s)
    return probability


def standard_normal_target(log_likelihood: Callable[[Tensor], Tensor], batch_size: int, dim: int) -> Target:
    """A target with prior N(0, I) and the likelihood given."""
    return Target(
        log_prior=lambda z: -0.5 * (z.square() + LOG_2PI).sum(-1),
        log_likelihood=log_likelihood,
        sample_prior=lambda num: torch.randn(num, batch_size, dim, dtype=torch.float64),
        batch_size=batch_size,
        dim=dim,
        conditioned=AutogradLikelihood(log_likelihood),
    )


def skewed() -> Target:
    """0, 3 and 6 successes in 6 trials of probability sigmoid(2 z + 1): two posteriors lean to one side."""
    successes, trials = torch.tensor([0.0, 3.0, 6.0], dtype=torch.float64), 6.0
    ways = torch.tensor([1.0, 20.0, 1.0], dtype=torch.float64).log()

    def log_likelihood(z: Tensor) -> Tensor:
        logit = 2 * z[..., 0] + 1
        return ways + successes * logit - trials * nn.functional.softplus(logit)

    return standard_normal_target(log_likelihood, batch_size=3, dim=1)


def bimodal() -> Target:
    """Two modes of unequal weight: x = z_1 z_2 + 0.3 z_1 + noise of deviation 0.4, at x = -1, 0.5, 1.5."""
    x = torch.tensor([-1.0, 0.5, 1.5], dtype=torch.float64)

    def log_likelihood(z: Tensor) -> Tensor:
        residual = (x - z[..., 0] * (z[..., 1] + 0.3)) / 0.4
        return -0.5 * (residual.square() + LOG_2PI) - math.log(0.4)

    return standard_normal_target(log_likelihood, batch_size=3, dim=2)


# --- Text small enough to list -----------------------------------------------------------------------------


def all_rows(vocab_size: int, length: int) -> tuple[Tensor, Tensor]:
    """Every sentence of at most ``length`` tokens, and every prefix of ``length`` tokens without an end.

    Words are ``UNK`` and everything above the special symbols. Together the two lists are all that
    generation cut at ``length`` can write.
    """
    words = [UNK, *range(len(SPECIAL_SYMBOLS), vocab_size)]
    finished = [
        [*row, EOS] + [PAD] * (length - size - 1)
        for size in range(length)
        for row in itertools.product(words, repeat=size)
    ]
    return torch.tensor(finished), torch.tensor(list(itertools.product(words, repeat=length)))


def randomise(module: nn.Module, scale: float = 1.0) -> None:
    """Weights that matter: the published initialisations are so small that every law looks uniform."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, scale)


@dataclass(frozen=True)
class EnumerableText:
    """A text model of ours with random weights, and the list of all rows that it can write.

    ``PAD`` and ``BOS`` get an output bias of -60, so that the law that scores and the law that generates
    (which never chooses them) agree to 1e-26.

    Attributes:
        model: Prior N(0, I) and one of our decoders, float64, in eval mode.
        rows: All sentences and all cut prefixes; over them sum p(x | z) = 1 for every z.
    """

    model: LatentTextModel
    rows: Batch

    @classmethod
    def build(
        cls, decoder: str = "lstm", latent_dim: int = 1, vocab_size: int = 6, length: int = 3, seed: int = 0
    ) -> EnumerableText:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = DECODERS[decoder](vocab_size=vocab_size, latent_dim=latent_dim, hidden=6)
            randomise(network, 0.5)  # gentle inside, so that the grid resolves it; strong at the output
        with torch.no_grad():
            network.output.weight.mul_(4)
            network.output.bias[[PAD, BOS]] = -60.0
        model = LatentTextModel(StandardNormal(latent_dim), network).double().eval()
        return cls(model, Batch(torch.cat(all_rows(vocab_size, length))))

    def target(self) -> Target:
        """One data set for every row: exp(quadrature(...).log_evidence) adds up to one."""
        return self.model.target(self.rows)
