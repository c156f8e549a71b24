"""The text model: a prior and a decoder, as a Pyro program and as a target for inference."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import get_args

import pyro
import torch
from torch import Tensor, nn

from sri_pyro.classic_svi import refuse_classic_svi
from sri_pyro.models.decoders.base import Decoder
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks
from sri_pyro.models.priors import Prior, StandardNormal
from sri_pyro.numerics import keyed
from sri_pyro.numerics.keyed import Purpose
from sri_pyro.target import AutogradLikelihood, Target, evaluating
from sri_pyro.types import Batch, InferenceDropout


class LatentTextModel(nn.Module):
    r"""Sentences with a code each: :math:`z \sim p_\theta(z),\; x \mid z \sim p_\theta(x \mid z)`.

    Calling the model runs the Pyro program: one plate ``sentences``, two sites ``z`` and ``x``. The same
    two distributions make the ``target`` of a batch. Weights are plain parameters: train them with
    ``torch.optim``; Pyro's parameter store stays empty.

    Args:
        prior: p(z).
        decoder: p(x | z).

    Raises:
        ValueError: If prior and decoder disagree about the latent dimension.

    Example:
        >>> from sri_pyro.models import LSTMDecoder, StandardNormal
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> model = LatentTextModel(StandardNormal(dim=4), decoder)
        >>> target = model.target(Batch(torch.tensor([[7, 9, 3], [8, 3, 0]])))
        >>> target.log_joint(target.sample_prior(5)).shape
        torch.Size([5, 2])
    """

    def __init__(self, prior: Prior, decoder: Decoder) -> None:
        super().__init__()
        if prior.dim != decoder.latent_dim:
            raise ValueError(
                f"prior and decoder must agree about z: the prior has dim = {prior.dim}, the decoder "
                f"latent_dim = {decoder.latent_dim}."
            )
        self.prior = prior
        self.decoder = decoder

    def forward(self, batch: Batch) -> Tensor:
        """The generative story, as a Pyro program; returns the (observed) tokens.

        Raises:
            RuntimeError: Inside Pyro's classic ``SVI``, which would train nothing of a plain module.
        """
        refuse_classic_svi(self)
        with pyro.plate("sentences", len(batch), dim=-1):
            z = pyro.sample("z", self.prior())
            x: Tensor = pyro.sample("x", self.decoder(z, batch), obs=batch.tokens)
        return x

    def target(self, batch: Batch, inference_dropout: InferenceDropout = "off") -> Target:
        r"""The log joint of a batch at the current weights.

        In eval mode there is no dropout, and the choice makes no difference. Where the batch has a key, the n-th
        draws of z from the prior, and the masks of the n-th score, are functions of it, of n, and of a sentence's id.

        Args:
            batch: Tokens.
            inference_dropout: What the sampler sees of the decoder's dropout in training mode. ``off``:
                nothing. ``shared``: masks m are drawn once, here, for inference and weight step alike, so
                that the run samples :math:`p_m(z \mid x)` of the thinned network that learns from it, and
                the learning rule climbs :math:`\mathbb{E}_m \log p_m(x)`, as dropout does without z.
                ``fresh``: other masks in every gradient, as in the authors' release; a target that moves
                has no posterior.

        Raises:
            ValueError: If the choice is none of the three.
        """
        if inference_dropout not in get_args(InferenceDropout):
            raise ValueError(
                f"unknown inference_dropout {inference_dropout!r}; known: {', '.join(get_args(InferenceDropout))}."
            )
        shared = None
        if inference_dropout == "shared":
            keys = _keys(batch, Purpose.SHARED_DROPOUT)
            shared = self.decoder.draw_masks(batch.tokens, None if keys is None else keys[0])
        return self._target(batch, inference_dropout, shared)

    def _target(self, batch: Batch, inference_dropout: InferenceDropout, shared: Masks | None) -> Target:
        moving = inference_dropout == "fresh"

        def log_prior(z: Tensor) -> Tensor:
            # Built afresh on each call, so that every loss has a graph of its own.
            log_prob: Tensor = self.prior().log_prob(z)
            return log_prob

        def likelihood(purpose: Purpose) -> Callable[[Tensor], Tensor]:
            passes = count()

            def log_likelihood(z: Tensor) -> Tensor:
                dropout: Masks | Tensor | None = shared
                if dropout is None and self.decoder.training:
                    dropout = _keys(batch, purpose, next(passes), len(z))
                log_prob: Tensor = self.decoder(z, batch, dropout).log_prob(batch.tokens)
                return log_prob

            return log_likelihood

        starts = count()

        def sample_prior(num_samples: int) -> Tensor:
            keys = _keys(batch, Purpose.START, next(starts), num_samples)
            with torch.no_grad(), evaluating(self.prior):
                if keys is not None:
                    return self.prior.draw(keys)
                z: Tensor = self.prior().sample((num_samples, len(batch)))
            return z

        def prior_and_grad(z: Tensor) -> tuple[Tensor, Tensor]:
            with evaluating(None if moving else self.prior):
                return self.prior.log_prob_and_grad(z)

        def select(rows: Tensor) -> Target:
            part = batch.select(rows)
            masks = None if shared is None else shared.select(rows, part.tokens.shape[1])
            return self._target(part, inference_dropout, masks)

        # Inference has masks of its own, so that those of the weight step do not depend on how often it scored.
        log_likelihood = likelihood(Purpose.WEIGHT_DROPOUT)
        fast = None if moving else self.decoder.condition(batch, shared or NOTHING_DROPPED)
        module = None if moving else self
        return Target(
            log_prior=log_prior,
            log_likelihood=log_likelihood,
            sample_prior=sample_prior,
            batch_size=len(batch),
            dim=self.prior.dim,
            batch=batch,
            module=module,
            select=select,
            conditioned=fast or AutogradLikelihood(likelihood(Purpose.INFERENCE_DROPOUT), module),
            log_prior_and_grad=prior_and_grad,
            prior=self.prior,
        )


def _keys(batch: Batch, purpose: Purpose, index: int = 0, num_samples: int = 1) -> Tensor | None:
    """Keys of the index-th draw for a purpose, [S, B]; None where the batch has none."""
    if batch.key is None:
        return None
    return keyed.chains(keyed.fold(batch.key, purpose, index), batch.ids, num_samples)


class LanguageModel(LatentTextModel):
    """A decoder without z, the first baseline: the same program with a code of no dimensions.

    It is trained, evaluated and reported like any other model; its log p(x) is exact.

    Args:
        decoder: A decoder with ``latent_dim = 0``.

    Example:
        >>> from sri_pyro.models import LSTMDecoder
        >>> model = LanguageModel(LSTMDecoder(vocab_size=50, latent_dim=0, embedding=8, hidden=16))
        >>> model.target(Batch(torch.tensor([[7, 3]]))).dim
        0
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(StandardNormal(dim=0), decoder)
