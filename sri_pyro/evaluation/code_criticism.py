r"""Model criticism by codes: one code of every sentence, tested for being draws of the prior.

If a model has learned the corpus, the aggregate posterior :math:`\frac1n \sum_i p(z \mid x_i)` is the prior; codes of
the importance-weighted posterior test just that, and codes of an inference test model and inference together. With one
code of each sentence, codes are independent, and every test is one by simulation: its statistic of the codes is ranked
among those of as many draws of the prior, against the same reference draws.

Axes: n codes, m reference draws of the prior, D dimensions, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sri_pyro.evaluation.metrics import CONFIDENCE
from sri_pyro.numerics.permutations import holm, simulated_p
from sri_pyro.numerics.weights import normalised

Array = NDArray[np.float64]

TESTS = ("energy", "radius", "eigenvalues", "holes")
"""Energy distance; largest difference of the radii's distribution functions; the eigenvalue furthest from its null;
share of the prior's draws in holes."""
ABOUT = {
    "energy": "energy distance between codes and draws of the prior",
    "radius": "largest difference of the distribution functions of ‖z‖²",
    "eigenvalues": "largest deviation of an eigenvalue of the codes' covariance, in its own standard deviations",
    "holes": "share of the prior's draws that lie further from every code than codes do from one another",
}
REFERENCE = 1000
"""m, draws of the prior that codes are compared with."""
NEIGHBOURS = 0.95
"""Share of the codes whose nearest other code is nearer than what counts as far."""


@dataclass(frozen=True)
class CodeTests:
    """What the tests of one law of codes found, in the order of ``TESTS``.

    Attributes:
        statistic: Of each test.
        null: Of as many draws of the prior, shape [R, tests].
        p: Of each.
        p_holm: The same, for all tests at once.
        eigenvalues: Of the codes' covariance (in units of the prior's), largest first, shape [D].
        eigenvalue_band: Simultaneous 95 % band of N(0, I) by simulation, shape [2, D].
        squared_radius: Of the codes in units of the prior, shape [n].
        nearest_code: Distance of each code to its nearest other one, shape [n].
        nearest_prior: Distance of each reference draw to its nearest code, shape [m].
    """

    statistic: Array
    null: Array
    p: list[float]
    p_holm: list[float]
    eigenvalues: Array
    eigenvalue_band: Array
    squared_radius: Array
    nearest_code: Array
    nearest_prior: Array


def weighted_draw(z: Tensor, log_weight: Tensor) -> Tensor:
    """One draw of each sentence, chosen by its weight, shape [n, D].

    Args:
        z: Importance draws, shape [S, n, D].
        log_weight: Theirs, shape [S, n].

    Example:
        >>> z, log_weight = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[-1e9], [0.0]])
        >>> weighted_draw(z, log_weight)
        tensor([[2.]])
    """
    chosen = torch.multinomial(normalised(log_weight.double()).T, 1)[:, 0]
    return z[chosen, torch.arange(z.shape[1], device=z.device)]


def compare_codes(
    codes: Tensor, prior: Callable[[int], Tensor], whiten: Callable[[Tensor], Tensor], replicates: int = 199
) -> CodeTests:
    """Test codes for being draws of the prior.

    Args:
        codes: One of each sentence, shape [n, D].
        prior: Maps a number to as many draws of the prior, shape [number, D].
        whiten: Maps codes to coordinates in which the prior has mean 0 and covariance I; distances are taken there.
        replicates: R.

    Raises:
        ValueError: If there are fewer than 10 codes.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> prior = lambda num: torch.randn(num, 3)
        >>> found = compare_codes(0.5 * prior(50), prior, lambda z: z, replicates=39)
        >>> [round(p, 3) for p in found.p]
        [0.025, 0.025, 0.025, 0.025]
    """
    n = len(codes)
    if n < 10:
        raise ValueError(f"codes of at least 10 sentences are needed to test them; got {n}.")
    reference = _Reference(whiten(prior(REFERENCE)).double())
    seen = reference.look(whiten(codes).double())
    looks = [reference.look(whiten(prior(n)).double()) for _ in range(replicates)]
    spectra = np.stack([look.eigenvalues for look in looks])
    # Centre and scale of all, the observed among them, so that it is exchangeable with the others.
    every = np.concatenate([spectra, seen.eigenvalues[None]])
    centre, scale = every.mean(0), np.maximum(every.std(0), 1e-12)
    deviations = np.abs((every - centre) / scale).max(1)
    null = np.stack([[look.energy, look.radius, 0.0, look.holes] for look in looks])
    null[:, 2] = deviations[:-1]
    statistic = np.array([seen.energy, seen.radius, deviations[-1], seen.holes])
    p = [simulated_p(float(value), null[:, i]) for i, value in enumerate(statistic)]
    width = float(np.quantile(np.abs((spectra - spectra.mean(0)) / scale).max(1), CONFIDENCE))
    own_scale = np.maximum(spectra.std(0), 1e-12)
    band = spectra.mean(0) + width * np.array([[-1.0], [1.0]]) * own_scale
    return CodeTests(
        statistic, null, p, holm(p), seen.eigenvalues, band,
        whiten(codes).double().square().sum(1).numpy(), seen.nearest_code, seen.nearest_prior,
    )  # fmt: skip


@dataclass(frozen=True)
class _Look:
    """The statistics of some codes."""

    energy: float
    radius: float
    holes: float
    eigenvalues: Array
    nearest_code: Array
    nearest_prior: Array


class _Reference:
    """Draws of the prior, and what codes have to do with them."""

    def __init__(self, draws: Tensor) -> None:
        self.draws = draws
        self.radii = draws.square().sum(1).sort().values
        self.spread = float(torch.pdist(draws).mean())

    def look(self, codes: Tensor) -> _Look:
        n = len(codes)
        across, within = torch.cdist(self.draws, codes), torch.cdist(codes, codes)
        energy = 2 * float(across.mean()) - float(within.sum()) / (n * (n - 1)) - self.spread
        within.fill_diagonal_(torch.inf)
        nearest_code, nearest_prior = within.amin(1), across.amin(1)
        far = nearest_code.quantile(NEIGHBOURS)
        values: Array = torch.linalg.eigvalsh(torch.cov(codes.T).reshape(codes.shape[1], -1)).flip(0).numpy()
        return _Look(
            energy,
            self._radius(codes.square().sum(1)),
            float((nearest_prior > far).double().mean()),
            values,
            nearest_code.numpy(),
            nearest_prior.numpy(),
        )

    def _radius(self, squared: Tensor) -> float:
        """The Kolmogorov-Smirnov distance of radii, taken wherever either distribution function steps."""
        own = squared.sort().values
        at = torch.cat([own, self.radii])
        gap = torch.searchsorted(own, at, right=True) / len(own)
        gap = gap - torch.searchsorted(self.radii, at, right=True) / len(self.radii)
        return float(gap.abs().max())
