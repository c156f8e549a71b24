r"""The trained model of real sentences: its posteriors, and how far the law of draws is from them.

No density of :math:`z_K` is known, so the divergence is estimated. By ``moments``: that between the Gaussians with the
moments of the draws q and of the posterior p, which sees nothing else of them. By ``energy``,

.. math:: \mathrm{KL}(q \| p) \approx \big[\mathbb{E}_p \log p(x, z) + H_G(p)\big]
          - \big[\mathbb{E}_q \log p(x, z) + H_G(q)\big],

with the entropy :math:`H_G` of the Gaussian of the same covariance in the place of the entropy. No law of that
covariance has a larger one. The estimate is too large by what that excess is larger for p than for q; without the
excess of p, which is reported, it would be a lower estimate. So the truth is between the two, unless q is less
Gaussian than p.

Moments of the posterior are by self-normalised importance weights. Axes: S draws, B sentences, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy.search import RECIPES
from benchmarks.accuracy.store import Effort
from sri_pyro.config import load_run, read_config, train
from sri_pyro.config.build import load_corpus
from sri_pyro.data import LengthBuckets, in_order
from sri_pyro.evaluation import GaussianImportance, SentenceEvidence
from sri_pyro.evaluation.evidence import Weighted, infer
from sri_pyro.evaluation.scoring import LOG_2_PI_E, moment_divergence
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.models import LatentTextModel
from sri_pyro.numerics.gaussians import Moments, extrapolated, gaussian_entropy, log_det, moments
from sri_pyro.numerics.weights import normalised
from sri_pyro.target import Target
from sri_pyro.types import Batch

SEED = 0
"""Of the choice of sentences."""
EXPERIMENT = Path(__file__).parents[2] / "experiments" / "demo.toml"


@dataclass(frozen=True)
class Text:
    """A trained model and the sentences that are used.

    Attributes:
        model: In eval mode.
        judged: Test sentences on which divergences are measured.
        tuned: Validation sentences on which step sizes are tuned.
        timed: Test sentences in batches of nearly equal length, short and long ones.
        record: What it was trained by.
    """

    model: LatentTextModel
    judged: Batch
    tuned: Batch
    timed: list[Batch]
    record: dict[str, Any]


def trained(folder: Path, effort: Effort) -> Text:
    """Train the demo's model, or load what was trained before."""
    config = read_config(EXPERIMENT, effort.overrides)
    train(config, folder, resume=True)
    run = load_run(folder)
    corpus = load_corpus(config)
    [judged] = in_order(corpus.test.subset(effort.sentences, SEED), effort.sentences)
    [tuned] = in_order(corpus.valid.subset(effort.tuning_sentences, SEED), effort.tuning_sentences)
    buckets = sorted(
        LengthBuckets(corpus.test, effort.batch, SEED).epoch(0), key=lambda batch: int(batch.lengths.sum())
    )
    places = torch.linspace(0, len(buckets) - 1, min(len(buckets), effort.timed_batches) + 2)[1:-1]
    return Text(run.model, judged, tuned, [buckets[int(place)] for place in places], run.folder.read_record())


def short_run(recipe: str, numbers: Sequence[float], num_steps: int) -> ShortRunLangevin:
    """The library's own inference, as a recipe with its numbers says."""
    integrator, schedule = RECIPES[recipe].make(*numbers)
    return ShortRunLangevin(num_steps, integrator, schedule)


Column = list[Any]
"""A value for each sentence: a number, a vector or a matrix."""


def reference(target: Target, num_draws: int) -> dict[str, Column]:
    """What is known of each sentence's posterior, by importance draws.

    Returns:
        ``log_px`` with its ``se``, ``khat``, ``threshold`` and ``ess``; ``free``, the posterior's mean of log p(x, z)
        plus :math:`H_G`; ``excess``, ``free`` less log p(x): by how much the entropy of the Gaussian exceeds the
        posterior's own; ``mean`` and ``covariance``, each by all draws, by one half of them and by the other.
    """
    estimator = GaussianImportance(num_samples=num_draws, pilot_chains=128, refits=2)
    found: dict[str, Column] = {}
    for rows, draws in estimator(target, ShortRunLangevin(num_steps=20)):
        evidence = SentenceEvidence.of(draws)
        means, covariances = halved_moments(draws.z.double(), draws.log_weight.double())
        free = _mean_log_joint(target, draws) + 0.5 * (
            draws.z.shape[-1] * LOG_2_PI_E + extrapolated(log_det(covariances))
        )
        columns = {
            "log_px": evidence.log_px, "se": evidence.se, "khat": evidence.khat, "ess": evidence.ess,
            "threshold": evidence.threshold, "free": free, "excess": free - evidence.log_px,
            "mean": means.transpose(0, 1), "covariance": covariances.transpose(0, 1),
        }  # fmt: skip
        for name, values in columns.items():
            column = found.setdefault(name, [None] * target.batch_size)
            for row, value in zip(rows.tolist(), values.tolist(), strict=True):
                column[row] = value
    return found


def _mean_log_joint(target: Target, draws: Weighted) -> Tensor:
    with torch.no_grad():
        log_joint = target.log_prior(draws.z).double() + draws.log_likelihood.double()
    return (normalised(draws.log_weight.double()) * log_joint).sum(0)


def halved_moments(z: Tensor, log_weight: Tensor) -> Moments:
    """Mean [3, B, D] and covariance [3, B, D, D] of weighted draws: of all, of one half and of the other."""
    half = len(z) // 2
    parts = [
        moments(z[part], normalised(log_weight[part]))
        for part in (slice(None), slice(half), slice(half, None))
    ]
    return Moments(*(torch.stack(values) for values in zip(*parts, strict=True)))


def summarised(target: Target, z: Tensor) -> dict[str, Any]:
    """What estimates need to know of independent draws [S, B, D].

    Returns:
        ``free``, the mean of log p(x, z) plus the debiased ``entropy`` of the Gaussian, ``mean`` and ``covariance``.
    """
    log_prior, log_likelihood = (
        torch.cat(parts) for parts in zip(*(target.value(part) for part in z.split(64)), strict=True)
    )
    entropy, fit = gaussian_entropy(z.double()), moments(z.double())
    free = (log_prior + log_likelihood).double().mean(0) + entropy
    columns: dict[str, Tensor] = {
        "free": free,
        "entropy": entropy,
        "mean": fit.mean,
        "covariance": fit.covariance,
    }
    return {name: values.tolist() for name, values in columns.items()} | {"draws": len(z)}


def by_energy(found: Mapping[str, Any], known: Mapping[str, Column]) -> list[float]:
    """The divergence of summarised draws from the posterior, nats, a value per sentence; see above."""
    return [theirs - ours for ours, theirs in zip(found["free"], known["free"], strict=True)]


def by_moments(found: Mapping[str, Any], known: Mapping[str, Column]) -> list[float]:
    """The same between the Gaussians with the moments of both; see ``moment_divergence``."""
    mean, covariance, entropy = (
        torch.tensor(found[name], dtype=torch.float64) for name in ("mean", "covariance", "entropy")
    )
    means, covariances = (
        torch.tensor(known[name], dtype=torch.float64).transpose(0, 1) for name in ("mean", "covariance")
    )
    divergence: list[float] = moment_divergence(
        mean, covariance, entropy, found["draws"], means, covariances
    ).tolist()
    return divergence


def end_points(target: Target, inference: ShortRunLangevin, num_chains: int) -> Tensor:
    """Where independent chains end, shape [S, B, D]."""
    return infer(inference, target, num_chains).z


def measured(
    target: Target,
    known: Mapping[str, Column],
    recipe: str,
    numbers: Sequence[float],
    num_steps: int,
    num_chains: int,
) -> float:
    """The mean divergence of a run from some posteriors, by energy, nats; with the same noise each time."""
    inference = short_run(recipe, numbers, num_steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        found = by_energy(summarised(target, end_points(target, inference, num_chains)), known)
    mean = sum(found) / len(found)
    return mean if math.isfinite(mean) else math.inf
