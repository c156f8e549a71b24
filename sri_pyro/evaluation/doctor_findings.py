"""What an examination of a short run's steps adds up to: numbers for verdicts, arrays for figures.

Axes: C chains whose curvature is known, n sentences, K steps, R factors.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from sri_pyro.evaluation.curvature import stability_limit
from sri_pyro.evaluation.doctor_examined import Examined
from sri_pyro.evaluation.findings import Findings, Variable
from sri_pyro.evaluation.metrics import CONFIDENCE, mean_estimate
from sri_pyro.numerics.langevin import INTEGRATORS
from sri_pyro.types import Estimate

LOST = "the other run is lost"
"""The method of an infinite gain that is negative; files hold no infinity, and so no sign of one."""


def findings(seen: Examined) -> Findings:
    """Numbers and arrays of an examination."""
    names = {kind.__name__: name for name, kind in INTEGRATORS.items()}
    numbers: dict[str, Any] = {
        "inference": "short_run",
        "num_steps": len(seen.steps),
        "first_step": seen.steps[0],
        "last_step": min(seen.steps),
        "integrator": names.get(seen.integrator, seen.integrator),
        "noise_scale": seen.noise_scale,
        "started_by": seen.started_by,
        "num_sentences": len(seen.ids),
        "num_chains": seen.num_chains,
        "stability": _stability(seen),
        "folding": _folding(seen),
        "mixing": _mixing(seen),
        "shape": _shape(seen),
        "grid": None if seen.withheld else _grid(seen),
        "lengths": _lengths(seen),
    }
    return Findings("doctor", numbers, _groups(seen), _coords(seen))


def _stability(seen: Examined) -> dict[str, Any]:
    """The smallest step against what the stiffest sentence can bear, and how sentences differ."""
    known = seen.stiffness[seen.stiffness.isfinite()]
    own = seen.arrays["diverged"][list(seen.factors).index(1.0)]
    stiffest = float(known.max()) if len(known) else math.nan
    median = float(known.median()) if len(known) else math.nan
    ends = seen.arrays["smallest"][-1]
    return {
        "stiffest": stiffest,
        "stiffest_sentence": int(seen.ids[int(seen.stiffness.nan_to_num(-math.inf).argmax())]),
        "median_stiffness": median,
        "least_stiffness": float(known.min()) if len(known) else math.nan,
        "limit": stability_limit(stiffest),
        "share_of_limit": min(seen.steps) / stability_limit(stiffest),
        "median_share_of_limit": min(seen.steps) / stability_limit(median),
        "sentences_beyond": int((min(seen.steps) * known > 2).sum()),
        "diverged": float(own.mean()),
        "not_concave": float((ends < 0)[ends.isfinite()].double().mean()),
    }


def _folding(seen: Examined) -> dict[str, float] | None:
    """Share of steps whose map of z folds: :math:`I + sH` has an eigenvalue that is not positive."""
    if not seen.maps:
        return None
    folds = stretch(seen) >= 1
    return {
        "share": float(folds.double().mean()),
        "first": float(folds[0].double().mean()),
        "last": float(folds[-1].double().mean()),
    }


def stretch(seen: Examined) -> Tensor:
    r""":math:`s_k \lambda_{\max}(z_k)` of every step: it folds from 1 and is unstable from 2, shape [K, C, n]."""
    steps = torch.tensor(list(seen.steps), dtype=torch.float64)
    return steps[:, None, None] * seen.arrays["largest"][:-1]


def _mixing(seen: Examined) -> dict[str, Any]:
    """Whether the run has come to rest, and how much it remembers of its start."""
    return {
        "settled_at": settled_at(seen.arrays["change"].mean(1), _change_se(seen)),
        "late_change": asdict(mean_estimate(-seen.arrays["change"][-1 - _quarter(seen)])),
        "correlation_with_start": asdict(mean_estimate(seen.arrays["correlation"][-1])),
    }


def _quarter(seen: Examined) -> int:
    return max(1, round(len(seen.steps) / 4))


def _change_se(seen: Examined) -> Tensor:
    """Monte Carlo standard error of the mean change of log p(x, z_k) until the end, shape [K + 1]."""
    return seen.arrays["change_variance"].sum(1).sqrt() / len(seen.ids)


def settled_at(change: Tensor, se: Tensor) -> int:
    """The first step from which on nothing differs from the end beyond its Monte Carlo error.

    All steps are looked at together, so the error is multiplied by the quantile of as many looks (Bonferroni, 95 %).

    Args:
        change: From each step to the last, shape [K + 1].
        se: Its standard errors, shape [K + 1].

    Returns:
        K where the last step still moved.

    Example:
        >>> settled_at(torch.tensor([-9.0, -2.0, -0.1, 0.05, 0.0]), torch.tensor([0.5, 0.3, 0.2, 0.1, 0.0]))
        2
    """
    last = len(change) - 1
    width = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * max(1, last)))
    moving = ~(change.abs() <= width * se)  # True for NaN too
    moving[-1] = False
    return int(moving.nonzero().max()) + 1 if bool(moving.any()) else 0


def _shape(seen: Examined) -> list[dict[str, Any]]:
    """How far from Gaussian the draws are whose F is compared: the own steps, the best, other numbers of steps."""
    return [
        {
            "num_steps": run.num_steps,
            "factor": run.factor,
            "excess_entropy": asdict(run.excess),
            "kl_by_gaussian": asdict(run.kl),
            "gaussian": run.gaussian,
        }
        for run in (*seen.own_and_best, *seen.others)
    ]


def _grid(seen: Examined) -> dict[str, Any]:
    """The own steps beside the best of the grid; the gain is of fresh chains."""
    own, best = seen.own_and_best
    return {
        "best_factor": seen.best,
        "at_edge": seen.best in (min(seen.factors), max(seen.factors)),
        "gain": asdict(difference(own.energy, best.energy)),
        "kl_own": asdict(own.kl),
        "kl_best": asdict(best.kl),
        "factors": list(seen.factors),
        "energy": seen.arrays["grid"].mean(1).tolist(),
    }


def difference(first: Tensor, second: Tensor) -> Estimate:
    """Mean over sentences of what the second F [n] is less than the first; infinite where only the first is."""
    gain = torch.where(first == second, 0.0, first - second)  # both infinite: nothing gained
    return mean_estimate(gain, LOST if bool((gain == -math.inf).any()) else "")


def _lengths(seen: Examined) -> list[dict[str, Any]]:
    """What other numbers of steps gain over the best steps at K."""
    best = seen.own_and_best[1]
    return [
        {
            "num_steps": run.num_steps,
            "factor": run.factor,
            "gain": asdict(difference(best.energy, run.energy)),
            "kl": asdict(run.kl),
        }
        for run in seen.compared
    ]


def _groups(seen: Examined) -> dict[str, dict[str, Variable]]:
    arrays, by_step = seen.arrays, ("step", "sentence")
    few = ("step", "curvature_chain", "sentence")
    groups = {
        "sentences": {
            "num_tokens": Variable(seen.num_tokens.numpy(), ("sentence",), "tokens", "predicted tokens"),
            "log_px": Variable(arrays["log_px"].numpy(), ("sentence",), "nat", "estimate of log p(x)"),
            "khat": Variable(arrays["khat"].numpy(), ("sentence",), "1", "Pareto shape of its weights' tail"),
            "khat_threshold": Variable(
                arrays["khat_threshold"].numpy(), ("sentence",), "1", "k-hat from which log_px is not trusted"
            ),
            "stiffness": Variable(
                seen.stiffness.numpy(), ("sentence",), "1", "largest precision where chains end, their mean"
            ),
        },
        "mixing": {
            "log_joint": Variable(
                arrays["log_joint"].numpy(), by_step, "nat", "mean of log p(x, z_k) over chains"
            ),
            "kl_posterior": Variable(
                (seen.log_px + arrays["energy"]).numpy(), by_step, "nat",
                "KL(q_k || posterior), a lower estimate; null where log p(x) is not trusted",
            ),
            "correlation": Variable(
                arrays["correlation"].numpy(), by_step, "1", "correlation of z_k with z_0 over chains"
            ),
            "change": Variable(
                arrays["change"].mean(1).numpy(), ("step",), "nat", "mean of log p(x, z_k) - log p(x, z_K)"
            ),
            "change_se": Variable(
                _change_se(seen).numpy(), ("step",), "nat", "its Monte Carlo standard error"
            ),
        },
        "curvature": {
            "largest": Variable(arrays["largest"].numpy(), few, "1", "largest eigenvalue of -Hessian at z_k"),
            "smallest": Variable(
                arrays["smallest"].numpy(), few, "1", "smallest eigenvalue of -Hessian at z_k"
            ),
            "step_size": Variable(
                torch.tensor([*seen.steps, math.nan]).numpy(), ("step",), "1", "step size from z_k; none at the end"
            ),
        },
        "grid": {
            "energy": Variable(
                arrays["grid"].numpy(), ("factor", "sentence"), "nat", "F at each factor on the steps; KL - log p(x)"
            ),
            "diverged": Variable(
                arrays["diverged"].numpy(), ("factor", "sentence"), "1", "share of chains that diverge"
            ),
            "excess": Variable(
                arrays["excess"].numpy(), ("factor", "sentence"), "nat", "what F is too low by at least, by its entropy"
            ),
        },
    }  # fmt: skip
    if seen.compared:
        energy = torch.stack([run.energy for run in (*seen.compared, seen.own_and_best[1])])
        groups["lengths"] = {
            "energy": Variable(
                energy.numpy(), ("num_steps", "sentence"), "nat",
                "F at other numbers of steps; the last is the run's own number, at the best factor",
            )
        }  # fmt: skip
    return groups


def _coords(seen: Examined) -> dict[str, Any]:
    coords: dict[str, Any] = {"sentence": seen.ids.numpy(), "factor": list(seen.factors)}
    counts = [*(run.num_steps for run in seen.compared), len(seen.steps)]
    return coords | ({"num_steps": counts} if seen.compared else {})
