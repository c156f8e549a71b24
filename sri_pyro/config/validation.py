"""Validation: the honest likelihood of a fixed part of the validation split, with the same noise each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from sri_pyro.config.sections import ValidationSection
from sri_pyro.data import Split, in_order
from sri_pyro.evaluation import GaussianImportance, estimate_evidence
from sri_pyro.models import LatentTextModel
from sri_pyro.target import Inference
from sri_pyro.types import Batch

NOISE_SEED = 7
"""Of the subset and of the noise: two validations differ by the weights alone."""


def validation_batches(split: Split, options: ValidationSection) -> list[Batch]:
    """The sentences that every validation scores, shortest first."""
    if options.num_sentences < len(split):
        split = split.subset(options.num_sentences, NOISE_SEED)
    return list(in_order(split, options.batch_size))


def validator(
    model: LatentTextModel, inference: Inference, batches: Sequence[Batch], options: ValidationSection
) -> Callable[[], dict[str, float]]:
    """A function that scores the model as it stands.

    It gives ``nll`` (importance-sampled, nats per sentence), ``ppl``, ``kl_posterior_prior`` and
    ``reconstruction`` (one short run), all in nats per sentence but the second, and the median ``khat``. It
    leaves the caller's generator as it was, so training does not depend on how often it is called.
    """
    estimator = GaussianImportance(options.num_samples, options.pilot_chains, refits=0)
    device = next(model.parameters()).device
    generators = [device] if device.type == "cuda" else []

    def validate() -> dict[str, float]:
        log_px, kl, khat, reconstruction, tokens = [], [], [], [], 0
        with torch.random.fork_rng(devices=generators):
            torch.manual_seed(NOISE_SEED)
            for batch in batches:
                target = model.target(batch.to(device))
                evidence, _ = estimate_evidence(target, inference, estimator)
                log_px.append(evidence.log_px)
                kl.append(evidence.kl_posterior_prior)
                khat.append(evidence.khat)
                reconstruction.append(-target.value(inference(target).z)[1][0].double())
                tokens += int(batch.lengths.sum())
        nll = -torch.cat(log_px)
        tails = torch.cat(khat)
        known = tails[tails.isfinite()]
        return {
            "nll": float(nll.mean()),
            "ppl": math.exp(min(float(nll.sum()) / tokens, 700.0)),
            "kl_posterior_prior": float(torch.cat(kl).mean()),
            "reconstruction": float(torch.cat(reconstruction).mean()),
            "khat": float(known.median()) if len(known) else 0.0,
        }

    return validate
