r"""Scoring: how far an inference's draws are from the posterior, sentence by sentence, by a reference.

Axes: M independent draws of an inference, S chains of N draws of a reference, B sentences, D latent dimensions. Nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sri_pyro.evaluation.evidence import COLUMNS, estimate_evidence
from sri_pyro.evaluation.gaussian import GaussianImportance
from sri_pyro.evaluation.reference import Convergence, Reference
from sri_pyro.numerics.gaussians import extrapolated, gaussian_entropy, log_det, moments
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress

LOG_2_PI_E = math.log(2 * math.pi * math.e)
DIRECTIONS = 128
"""On which draws are projected for the sliced distance."""
SEED = 20_261_122
"""Of the directions' own generator, so that all inferences are looked at from the same ones."""
BLOCKS = 10
"""Parts of which each is left out once, for the error of a divergence."""


def moment_divergence(
    mean: Tensor, covariance: Tensor, entropy: Tensor, num_draws: int, means: Tensor, covariances: Tensor
) -> Tensor:
    r"""The divergence between the Gaussians with the moments of draws q and of a posterior p, nats, shape [B].

    .. math:: \tfrac12\big[\mathrm{tr}\,\Sigma_p^{-1} (\Sigma_q + \delta\delta^T) - D + \log|\Sigma_p|
              - \log|\Sigma_q|\big], \qquad \delta = \mu_q - \mu_p

    It sees nothing of either law but these moments. What estimated moments of p add is taken off by extrapolation
    from halves, what those of q add by the debiased entropy.

    Args:
        mean: Of q, shape [B, D].
        covariance: Of q, shape [B, D, D].
        entropy: The debiased Gaussian entropy of q, shape [B].
        num_draws: Independent draws behind these.
        means: Of p, by all draws, by one half of them and by the other, shape [3, B, D].
        covariances: The same, shape [3, B, D, D].
    """
    dim, off = mean.shape[-1], mean - means
    # The mean of M draws is off by a share 1 / M of their covariance, whatever the posterior.
    spread = (1 - 1 / num_draws) * covariance + off[..., :, None] * off[..., None, :]
    trace = (torch.linalg.inv(covariances) * spread).sum((-1, -2))
    cross = 0.5 * (trace + log_det(covariances) + dim * (LOG_2_PI_E - 1))
    return extrapolated(cross) - entropy


def sliced_wasserstein(one: Tensor, other: Tensor) -> Tensor:
    r"""The sliced 2-Wasserstein distance between equally many draws, in units of z, shape [B].

    .. math:: \Big(\tfrac1P \sum_p \tfrac1M \sum_m \big(u^{(p)}_{(m)} - v^{(p)}_{(m)}\big)^2\Big)^{1/2}

    with u and v the draws projected on P fixed directions, in order. Two samples of one law are apart as well: compare
    with such a pair.

    Args:
        one: Shape [M, B, D].
        other: The same shape.

    References:
        Rabin, Peyre, Delon, Bernot (2012), Wasserstein barycenter and its application to texture mixing.

    Example:
        >>> z = torch.randn(100, 2, 3)
        >>> bool(sliced_wasserstein(z, z.flip(0)).max() < 1e-6)
        True
    """
    generator = torch.Generator().manual_seed(SEED)
    directions = torch.randn(one.shape[-1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(one.device)
    first, second = ((z.double() @ directions).sort(0).values for z in (one, other))
    distance: Tensor = (first - second).square().mean((0, 2)).sqrt()
    return distance


@dataclass(frozen=True)
class Known:
    """A reference, and what scores need to know of it; every tensor has shape [B] unless said otherwise.

    Attributes:
        reference: The draws.
        quality: Whether they may serve.
        free: The posterior's mean of log p(x, z) plus the entropy of the Gaussian of its covariance.
        free_se: Its standard error.
        means: By all draws and by either half, shape [3, B, D].
        covariances: The same, shape [3, B, D, D].
        log_px: log p(x), by importance draws from a Gaussian fitted to the reference.
        log_px_se: Its standard error.
        khat: Of its weights.
    """

    reference: Reference
    quality: Convergence
    free: Tensor
    free_se: Tensor
    means: Tensor
    covariances: Tensor
    log_px: Tensor
    log_px_se: Tensor
    khat: Tensor

    @classmethod
    def of(cls, target: Target, reference: Reference) -> Known:
        """Summarise the reference posteriors of a target."""
        z, log_joint, half = reference.z.double(), reference.log_joint.double(), reference.z.shape[1] // 2
        parts = [moments(of.flatten(0, 1)) for of in (z, z[:, :half], z[:, half:])]
        covariances = torch.stack([part.covariance for part in parts])
        volume = extrapolated(log_det(covariances))
        evidence, _ = estimate_evidence(
            target, _Resampled(reference), GaussianImportance(num_samples=1024, pilot_chains=512, refits=2)
        )
        blocks = zip(_blocks(z), _blocks(log_joint), strict=True)
        return cls(
            reference=reference,
            quality=Convergence.of(reference),
            free=log_joint.mean((0, 1)) + 0.5 * (z.shape[-1] * LOG_2_PI_E + volume),
            free_se=_left_out([(of.flatten(0, 1), at.flatten(0, 1)) for of, at in blocks]),
            means=torch.stack([part.mean for part in parts]),
            covariances=covariances,
            log_px=evidence.log_px,
            log_px_se=evidence.se,
            khat=evidence.khat,
        )

    @property
    def excess(self) -> Tensor:
        """By how much the entropy of the Gaussian exceeds the posterior's own: its negentropy."""
        return self.free - self.log_px

    def thinned(self, num: int, half: int | None = None) -> Tensor:
        """About evenly spaced draws of all chains, or of one half of the chains, shape [num, B, D]."""
        z = self.reference.z
        chains = len(z) // 2
        z = z if half is None else z[:chains] if half == 0 else z[chains:]
        flat = z.transpose(0, 1).flatten(0, 1)
        return flat[torch.linspace(0, len(flat) - 1, num).round().long().to(flat.device)]


@dataclass(frozen=True)
class Scores:
    r"""How far an inference's draws are from the reference; every array has shape [B].

    Attributes:
        kl: KL(q || posterior) by energy: the posterior's mean of log p(x, z) plus Gaussian entropy, less the same of q.
            Too large or small by the difference of how much the Gaussian entropies exceed the entropies.
        kl_se: Its standard error, by leaving out a tenth of the draws in turn.
        kl_moments: That between Gaussians of the moments; see ``moment_divergence``.
        kl_density: From the density of q and log p(x), without any Gaussian; NaN where q has none.
        kl_density_se: Its standard error.
        mean_score: The largest difference of a coordinate's mean, in its standard errors (MCSE of the reference and
            that of M draws).
        sd_score: The same of standard deviations.
        mean_off: Root mean square over coordinates of the difference of means, in posterior standard deviations,
            noise taken off.
        sd_ratio: Geometric mean over coordinates of standard deviations over the posterior's.
        wasserstein: Sliced distance, in units of z.
        floor: The same between two halves of the reference's chains, of as many draws.
    """

    kl: NDArray[np.float64]
    kl_se: NDArray[np.float64]
    kl_moments: NDArray[np.float64]
    kl_density: NDArray[np.float64]
    kl_density_se: NDArray[np.float64]
    mean_score: NDArray[np.float64]
    sd_score: NDArray[np.float64]
    mean_off: NDArray[np.float64]
    sd_ratio: NDArray[np.float64]
    wasserstein: NDArray[np.float64]
    floor: NDArray[np.float64]

    @classmethod
    def of(cls, target: Target, draws: Draws, known: Known) -> Scores:
        """Judge independent draws by the reference posteriors of the same target.

        Raises:
            ValueError: If there are too few draws for a Gaussian entropy.
        """
        z, num = draws.z.double(), len(draws.z)
        chunk = max(1, COLUMNS // max(1, target.batch_size))
        values = [target.value(part) for part in torch.split(draws.z, chunk)]
        log_joint = torch.cat([prior + likelihood for prior, likelihood in values]).double()
        fit, entropy = moments(z), gaussian_entropy(z)
        blocks = [(of[0], at[0]) for of, at in zip(_blocks(z[None]), _blocks(log_joint[None]), strict=True)]
        own_se = _left_out(blocks)
        density = density_se = torch.full_like(entropy, torch.nan)
        if draws.log_q is not None:
            bound = log_joint - draws.log_q.double()
            density = known.log_px - bound.mean(0)
            density_se = (bound.var(0) / num + known.log_px_se.square()).sqrt()
        compared = min(num, known.reference.z.shape[0] // 2 * known.reference.z.shape[1])
        found = {
            "kl": known.free - log_joint.mean(0) - entropy,
            "kl_se": (own_se.square() + known.free_se.square()).sqrt(),
            "kl_moments": moment_divergence(
                fit.mean, fit.covariance, entropy, num, known.means, known.covariances
            ),
            "kl_density": density,
            "kl_density_se": density_se,
            "wasserstein": sliced_wasserstein(draws.z[:compared], known.thinned(compared)),
            "floor": sliced_wasserstein(known.thinned(compared, 0), known.thinned(compared, 1)),
        }
        arrays = {name: value.cpu().numpy() for name, value in found.items()}
        return cls(**arrays, **_by_coordinate(z, known))


def agreement(one: Reference, other: Reference) -> NDArray[np.float64]:
    """How far two references of the same posteriors are apart, shape [B].

    Returns:
        The largest difference of a mean or standard deviation, of a coordinate or of the log joint, in the standard
        errors that both chains' autocorrelation leaves it.
    """
    worst = []
    for moment, error in ((np.mean, "mcse_mean"), (np.std, "mcse_sd")):
        values, errors = [], []
        for each in (one, other):
            pooled = torch.cat([each.z.double(), each.log_joint.double()[..., None]], -1).flatten(0, 1)
            values.append(moment(pooled.cpu().numpy(), axis=0))
            errors.append(getattr(Convergence.of(each), error))
        worst.append(np.abs(values[0] - values[1]) / np.hypot(*errors))
    farthest: NDArray[np.float64] = np.concatenate(worst, -1).max(-1)
    return farthest


def _by_coordinate(z: Tensor, known: Known) -> dict[str, NDArray[np.float64]]:
    """What is said of means and standard deviations, by name."""
    num, dim = len(z), z.shape[-1]
    mean, sd = z.mean(0), z.std(0)
    kurtosis = ((z - mean) ** 4).mean(0) / sd**4
    theirs = known.reference.z.double().flatten(0, 1)
    mean_error, sd_error = (
        np.hypot(error.cpu().numpy(), monte_carlo[:, :dim])
        for error, monte_carlo in (
            (sd / math.sqrt(num), known.quality.mcse_mean),
            (sd * ((kurtosis - 1).clamp(min=0) / (4 * num)).sqrt(), known.quality.mcse_sd),
        )
    )
    off, their_sd = (mean - theirs.mean(0)).cpu().numpy(), theirs.std(0).cpu().numpy()
    squared = ((off**2 - mean_error**2) / their_sd**2).mean(-1)
    return {
        "mean_score": np.abs(off / mean_error).max(-1),
        "sd_score": np.abs((sd.cpu().numpy() - their_sd) / sd_error).max(-1),
        "mean_off": np.sqrt(np.maximum(squared, 0.0)),
        "sd_ratio": np.exp(np.log(sd.cpu().numpy() / their_sd).mean(-1)),
    }


def _blocks(values: Tensor) -> list[Tensor]:
    """Values [S, N, ...] without each of ``BLOCKS`` parts of successive draws, in turn."""
    bounds = torch.linspace(0, values.shape[1], BLOCKS + 1).round().long().tolist()
    return [torch.cat([values[:, :start], values[:, end:]], 1) for start, end in pairwise(bounds)]


def _left_out(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The jackknife's standard error of mean log joint plus Gaussian entropy, from draws and log joints, shape [B]."""
    values = torch.stack([at.mean(0) + 0.5 * log_det(moments(of).covariance) for of, at in parts])
    return ((len(parts) - 1) * values.var(0, correction=0)).sqrt()


class _Resampled(nn.Module):
    """A reference in the shape of an inference, to fit a proposal to: states at random."""

    def __init__(self, reference: Reference) -> None:
        super().__init__()
        self.z = reference.z.flatten(0, 1)

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        return Draws(self.z[torch.randint(len(self.z), (num_samples,), device=self.z.device)])
