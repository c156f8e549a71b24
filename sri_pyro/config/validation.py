"""Validation: the honest likelihood of a fixed part of the validation split, with the same noise each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sri_pyro.config.sections import ValidationSection
from sri_pyro.data import Split, in_order
from sri_pyro.evaluation import GaussianImportance, estimate_evidence
from sri_pyro.evaluation.metrics import mean_estimate
from sri_pyro.models import LatentTextModel
from sri_pyro.numerics.information import as_normals, mutual_information
from sri_pyro.numerics.keyed import fold, seeded
from sri_pyro.processes import ALONE, Group
from sri_pyro.target import Inference
from sri_pyro.types import Batch, Draws

NOISE_SEED = 7
"""Of the subset and of the noise: two validations differ by the weights alone."""


def validation_batches(split: Split, options: ValidationSection) -> list[Batch]:
    """The sentences that every validation scores, shortest first."""
    if options.num_sentences < len(split):
        split = split.subset(options.num_sentences, NOISE_SEED)
    return list(in_order(split, options.batch_size))


def validator(
    model: LatentTextModel,
    inference: Inference,
    batches: Sequence[Batch],
    options: ValidationSection,
    group: Group = ALONE,
) -> Callable[[], dict[str, float]]:
    r"""A function that scores the model as it stands; of several processes all call it, and share the batches.

    It gives ``nll`` (importance-sampled), ``ppl``, ``kl_posterior_prior`` and ``reconstruction`` (one draw of the
    inference), all in nats per sentence but the second, and beside them ``uniform_nll``, that of the uniform
    distribution over the vocabulary. Of the importance weights it gives the median ``khat``, the threshold for that
    many draws, ``khat_threshold``, and the share of sentences below it, ``khat_share_below``: ``nll``, ``ppl`` and
    ``kl_posterior_prior`` rest on weights that fail in the others. Where the draws of the inference
    have a density, ``negative_elbo``: the mean of :math:`\log q(z) - \log p(x, z)` over one draw a sentence. Where
    they have a law of independent normals it gives ``mutual_information`` too, in nats, of these sentences and the
    same draws, see ``numerics.information``. It leaves the caller's generator as it was, so training does not depend
    on how often it is called. The noise of a batch follows from its place among the batches, whichever process scores
    it.

    With two sentences or more there are two errors, in nats per sentence. ``nll_se`` is the standard error
    of ``nll``: the spread of the sentences' estimates over the root of their number. The estimates carry their
    Monte Carlo noise, independent from sentence to sentence, so that their spread holds both the choice of
    sentences and the noise. ``nll_mc_se`` is the part of the noise alone,
    :math:`\sqrt{\sum_i \mathrm{se}_i^2} / n`, which is too small where ``khat`` is high.

    Both are errors of the level, not of a difference between two validations of a run. Those score the same
    sentences with the same noise, most of which cancels: epochs may be told apart that differ by far less
    than ``nll_se``. How much less these two numbers do not say.
    """
    estimator = GaussianImportance(options.num_samples, options.pilot_chains, refits=0)
    device = next(model.parameters()).device
    tokens = sum(int(batch.lengths.sum()) for batch in batches)

    def score(batch: Batch) -> Tensor:
        """Of every sentence: log p(x), error, KL, k-hat, threshold, reconstruction, bound, code: [7 + 3 D, B]."""
        target = model.target(batch.to(device))
        evidence, _ = estimate_evidence(target, inference, estimator)
        drawn = inference(target)
        draws = drawn.detach()
        log_prior, log_likelihood = (value[0].double() for value in target.value(draws.z))
        none = torch.full_like(log_prior, torch.nan)
        found = (
            evidence.log_px,
            evidence.se,
            evidence.kl_posterior_prior,
            evidence.khat,
            evidence.threshold,
            -log_likelihood,
            none if draws.log_q is None else draws.log_q[0] - log_prior - log_likelihood,
        )
        return torch.cat([torch.stack([column.to(device) for column in found]), law_and_draw(drawn)])

    def validate() -> dict[str, float]:
        sizes = [len(batch) for batch in batches]
        table = torch.zeros(7 + 3 * model.prior.dim, sum(sizes), dtype=torch.float64, device=device)
        for place, (batch, columns) in enumerate(zip(batches, torch.split(table, sizes, dim=1), strict=True)):
            if place % group.size == group.rank:
                with seeded(fold(NOISE_SEED, place), device):
                    columns.copy_(score(batch))
        group.sum(table)  # with zeros, which is exact
        log_px, se, kl, khat, threshold, reconstruction, negative_elbo, *codes = table.cpu()
        nll, known = -log_px, khat[khat.isfinite()]
        return {
            "nll": float(nll.mean()),
            **errors(nll, se),
            "ppl": math.exp(min(float(nll.sum()) / tokens, 700.0)),
            "kl_posterior_prior": float(kl.mean()),
            "reconstruction": float(reconstruction.mean()),
            "uniform_nll": tokens * math.log(model.decoder.vocab_size) / len(nll),
            "khat": float(known.median()) if len(known) else 0.0,
            "khat_threshold": float(threshold.min()),
            "khat_share_below": int((khat < threshold).sum()) / len(khat),
            **({} if bool(negative_elbo.isnan().any()) else {"negative_elbo": float(negative_elbo.mean())}),
            **information(codes),
        }

    return validate


def law_and_draw(draws: Draws) -> Tensor:
    """Means, standard deviations and first draw of every sentence, [3 D, B]; NaN without a law of normals."""
    normals, z = as_normals(draws.law), draws.z[0]
    none = torch.full_like(z, torch.nan)
    columns = (none, none, none) if normals is None else (normals.mean, normals.stddev, z)
    return torch.cat(columns, -1).detach().double().T


def information(codes: Sequence[Tensor]) -> dict[str, float]:
    """The mutual information of sentences and codes, of whose law and draw the 3 D numbers [n] are; if there are any.

    Example:
        >>> information([torch.tensor([-9.0, 9.0]), torch.ones(2), torch.tensor([-9.0, 9.0])])
        {'mutual_information': 0.693...}
        >>> information([torch.full((2,), torch.nan)] * 3)
        {}
    """
    if not codes or bool(torch.stack(list(codes)).isnan().any()):
        return {}
    mean, scale, draw = torch.stack(list(codes)).T.chunk(3, -1)
    return {"mutual_information": float(mutual_information(mean, scale, draw))}


def errors(nll: Tensor, se: Tensor) -> dict[str, float]:
    """Standard errors of the mean of some sentences' nll [n] with Monte Carlo errors [n]; see ``validator``.

    Example:
        >>> errors(torch.tensor([1.0, 3.0]), torch.tensor([0.3, 0.4]))
        {'nll_se': 1.0, 'nll_mc_se': 0.25}
        >>> errors(torch.tensor([1.0]), torch.tensor([0.3]))
        {}
    """
    if len(nll) < 2:
        return {}
    return {"nll_se": mean_estimate(nll).se, "nll_mc_se": float(se.square().sum().sqrt()) / len(nll)}
