r"""Calibration: whether an inference's draws have the law that they claim, on data simulated from the model itself.

For :math:`z^* \sim p(z),\; x \sim p(x \mid z^*)` the code :math:`z^*` is a draw of the posterior of x. If an inference
draws from that posterior, the rank of any function of :math:`z^*` (and x) among its draws is uniform, whatever the
model. This asks nothing of any other estimate and is exact for any number of draws, so long as they are independent.

Axes: L draws, N simulations, B of them in a batch, D latent dimensions, Q functions whose ranks are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sri_pyro.evaluation.evidence import COLUMNS, infer
from sri_pyro.evaluation.metrics import CONFIDENCE, mean_estimate
from sri_pyro.numerics.ranks import RankBand, counts_below, rank_band, ranks_among
from sri_pyro.target import Inference, Target
from sri_pyro.types import Estimate

Quantities = Callable[[Target, Tensor], Tensor]
"""Maps a target and z [S, B, D] to the functions that are looked at, shape [S, B, Q]."""
LEVELS = (0.5, 0.8, 0.95)
"""Of the central intervals whose coverage is counted."""
DRAWS = 199
"""Draws of a simulation by default: so the ends of all these intervals fall between two ranks."""


def coordinates_and_densities(target: Target, z: Tensor) -> Tensor:
    """Every coordinate of z, log p(x | z) and log p(x, z): the functions by default, shape [S, B, D + 2].

    The densities look at x. Ranks of functions of z alone are uniform for an inference that answers with the prior.

    References:
        Modrak, Moon, Kim, Buerkner, Huurre, Faltejskova, Gelman, Vehtari (2023), Simulation-based calibration checking
        for Bayesian computation: The choice of test quantities shapes sensitivity.
    """
    log_prior, log_likelihood = target.value(z)
    return torch.cat([z, log_likelihood[..., None], (log_prior + log_likelihood)[..., None]], -1)


def names_of(dim: int) -> list[str]:
    """What ``coordinates_and_densities`` gives, by name."""
    return [*(f"z_{d}" for d in range(dim)), "log_likelihood", "log_joint"]


def simulated_ranks(
    target: Target,
    inference: Inference,
    truth: Tensor,
    num_draws: int = DRAWS,
    quantities: Quantities = coordinates_and_densities,
) -> Tensor:
    """Ranks of the codes that sentences were simulated from, among an inference's draws for these sentences.

    Args:
        target: Of the simulated sentences.
        inference: Whose draws are judged; they must be independent given a sentence.
        truth: The codes, shape [B, D].
        num_draws: L.
        quantities: Functions whose ranks are taken.

    Returns:
        Between 0 and L, shape [B, Q].
    """
    z = infer(inference, target, num_draws).z
    chunk = max(1, COLUMNS // max(1, target.batch_size))
    found = torch.cat([quantities(target, part) for part in torch.split(z, chunk)])
    return ranks_among(quantities(target, truth[None].to(z))[0], found)


def counted_interval(level: float, num_draws: int) -> tuple[int, float]:
    r"""The central interval of L draws that comes next to a level, and what it holds if the draws are exact.

    The rank of the truth among L exact draws is uniform on 0, ..., L, so that the interval which leaves out k ranks on
    either side holds it with probability :math:`1 - 2k / (L + 1)`. That is the level itself only where
    :math:`(1 - \text{level}) (L + 1) / 2` is whole: 99 draws have no interval of 95 %, but one of
    94 % and one of 96 %. Of two that are as near the narrower is taken: the wider may hold everything.

    Args:
        level: Between 0 and 1.
        num_draws: L.

    Returns:
        k, and the share.

    Example:
        >>> counted_interval(0.95, 99), counted_interval(0.95, 199)
        ((3, 0.94), (5, 0.95))
    """
    left_out = math.floor(round((1 - level) / 2 * (num_draws + 1), 9) + 0.5)
    return left_out, 1 - 2 * left_out / (num_draws + 1)


@dataclass(frozen=True)
class Calibration:
    r"""What the ranks of N simulations say.

    Attributes:
        names: Of the functions.
        ranks: Shape [N, Q].
        num_draws: L.
        difference: Share of the ranks below i = 1, ..., L less that of the uniform law, shape [L, Q].
        band: In which each function's counts lie with 95 %, at all places at once.
        strict: In which those of all Q functions do (Bonferroni).
        outside: Which functions leave the strict band, shape [Q].
        coverage: Share of the first D functions that lie within the central interval of each of ``LEVELS``.
        nominal: What these intervals hold if the draws are exact; see ``counted_interval``.
        dispersion: Mean of :math:`12 (u - \tfrac12)^2` over the first D functions, with u the rank on the unit
            interval: 1 if all is well, more if the draws are too narrow or off, less if they are too wide.
    """

    names: Sequence[str]
    ranks: NDArray[np.int64]
    num_draws: int
    difference: NDArray[np.float64]
    band: RankBand
    strict: RankBand
    outside: NDArray[np.bool_]
    coverage: tuple[Estimate, ...]
    nominal: tuple[float, ...]
    dispersion: Estimate

    @classmethod
    def of(cls, ranks: Tensor, num_draws: int, names: Sequence[str], dim: int) -> Calibration:
        """Judge ranks [N, Q], of which the first ``dim`` functions are coordinates.

        Errors are over simulations: the coordinates of one are not independent.

        Example:
            >>> _ = torch.manual_seed(0)
            >>> found = Calibration.of(torch.randint(0, 200, (300, 4)), 199, names_of(2), dim=2)
            >>> bool(found.outside.any()), round(found.nominal[2], 3)
            (False, 0.95)
        """
        num, places = len(ranks), num_draws + 1
        array = ranks.cpu().numpy()
        counts = counts_below(array, num_draws)
        strict = rank_band(num, num_draws, 1 - (1 - CONFIDENCE) / len(names))
        outside = np.any((counts < strict.lower[:, None]) | (counts > strict.upper[:, None]), axis=0)
        own = ranks[:, :dim].double()
        share = (own + 0.5) / places
        missed, nominal = zip(*(counted_interval(level, num_draws) for level in LEVELS), strict=True)
        return cls(
            names=names,
            ranks=array,
            num_draws=num_draws,
            difference=counts / num - (np.arange(1, places) / places)[:, None],
            band=rank_band(num, num_draws),
            strict=strict,
            outside=np.asarray(outside),
            coverage=tuple(
                mean_estimate(((own >= miss) & (own <= num_draws - miss)).double().mean(1)) for miss in missed
            ),
            nominal=nominal,
            dispersion=mean_estimate((12 * (share - 0.5).square()).mean(1) / (1 - places**-2)),
        )


Move = Callable[[Target, Tensor], Tensor]
"""One transition of chains: from a target and positions [1, N, D] to positions."""


def joint_distribution_test(
    sample_prior: Callable[[int], Tensor],
    simulate: Callable[[Tensor], Target],
    move: Move,
    num: int,
    rounds: int,
    quantities: Quantities = coordinates_and_densities,
) -> NDArray[np.float64]:
    r"""Geweke's test of a transition that claims to leave the posterior invariant.

    N pairs :math:`z \sim p(z),\; x \sim p(x \mid z)` are moved for some rounds: z by the transition given x, then x
    anew given z. If the transition leaves the posterior of every x invariant, each pair has the joint law after any
    number of rounds; otherwise it drifts away, further in each. Pairs are independent, so that means and second moments
    of functions are compared with those of fresh pairs by ordinary standard errors.

    Args:
        sample_prior: Maps a number to draws of z, shape [N, D].
        simulate: Maps z [N, D] to the target of x drawn given z.
        move: The transition.
        num: N.
        rounds: How often z and x are drawn in turn.
        quantities: Functions whose moments are compared.

    Returns:
        Differences in standard errors, shape [2 Q]: first of the means, then of the second moments about the fresh
        mean.

    References:
        Geweke (2004), Getting it right. With independent pairs: Grosse and Duvenaud (2014), Testing MCMC code.
    """
    z = sample_prior(num)
    for _ in range(rounds):
        z = move(simulate(z), z[None])[0]
    fresh = sample_prior(num)
    ends = [quantities(simulate(of), of[None])[0].double() for of in (z, fresh)]
    centre, spread = ends[1].mean(0), ends[1].std(0)
    moved, still = (torch.cat([(of - centre) / spread, ((of - centre) / spread).square()], -1) for of in ends)
    error = ((moved.var(0) + still.var(0)) / num).sqrt()
    scores: NDArray[np.float64] = ((moved.mean(0) - still.mean(0)) / error).cpu().numpy()
    return scores


def two_sided_gate(checks: int, false_alarm: float = 1 - CONFIDENCE) -> float:
    """Standard errors that the worst of so many checks exceeds with the stated probability at most (Bonferroni).

    Example:
        >>> round(two_sided_gate(1), 2)
        1.96
    """
    within = torch.tensor(1 - false_alarm / checks, dtype=torch.float64)
    return math.sqrt(2) * float(torch.erfinv(within))
