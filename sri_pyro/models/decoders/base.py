"""Decoder: what every p(x | z) over sentences offers, and all that does not depend on its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks, Thinned
from sri_pyro.models.decoders.inputs import require_tokens
from sri_pyro.models.sequences import Strategy, TokenSequence
from sri_pyro.target import ConditionedLikelihood, evaluating
from sri_pyro.types import BOS, EOS, PAD, SPECIAL_SYMBOLS, Batch

State = Any
"""What a decoder carries from token to token; its own business."""


class Decoder(nn.Module, ABC):
    r"""An autoregressive likelihood :math:`p_\theta(x \mid z) = \prod_t p_\theta(x_t \mid x_{<t}, z)`.

    A leaf says how tokens are scored under teacher forcing (``token_log_probs``) and how a sentence is
    continued (``begin``, ``advance``). It may add dropout (``draw_masks``) and an exact fast route
    (``condition``). All that is random in training is in the masks: given them, a score is a function.

    Args:
        vocab_size: V, the special symbols included.
        latent_dim: D; 0 makes a language model.
        max_length: The most tokens ``generate`` writes.

    Raises:
        ValueError: If a size is out of range.
    """

    unpredictable: Tensor

    def __init__(self, vocab_size: int, latent_dim: int, max_length: int) -> None:
        super().__init__()
        if vocab_size <= len(SPECIAL_SYMBOLS):
            raise ValueError(
                f"vocab_size must exceed the {len(SPECIAL_SYMBOLS)} special symbols; got {vocab_size}."
            )
        if latent_dim < 0 or max_length < 1:
            raise ValueError(
                f"latent_dim must be at least 0 and max_length at least 1; got {latent_dim} and {max_length}."
            )
        self.vocab_size = vocab_size
        self.latent_dim = latent_dim
        self.max_length = max_length
        unpredictable = torch.zeros(vocab_size)
        unpredictable[[PAD, BOS]] = -torch.inf
        self.register_buffer("unpredictable", unpredictable, persistent=False)

    def predict(self, output: nn.Linear, hidden: Tensor) -> Tensor:
        """Logits of every token that can follow; ``PAD`` and ``BOS`` cannot, neither scored nor sampled."""
        return F.linear(hidden, output.weight, self.output_bias(output))

    def output_bias(self, output: nn.Linear) -> Tensor:
        """The bias of every token's logit, [V]: -inf for what cannot follow."""
        return self.unpredictable if output.bias is None else output.bias + self.unpredictable

    def draw_masks(self, tokens: Tensor, keys: Tensor | None = None) -> Masks:
        """Dropout for one pass over tokens [N, T]; nothing is dropped in eval mode, or without a rate.

        Args:
            tokens: Ids.
            keys: Of each row's noise, int64, shape [N]: its masks are a function of its key (``numerics.keyed``), and
                those of its first tokens do not depend on how many follow. None draws from PyTorch's generator.
        """
        return NOTHING_DROPPED

    @abstractmethod
    def token_log_probs(self, z: Tensor, tokens: Tensor, masks: Masks = NOTHING_DROPPED) -> Tensor:
        """Log-probability of every token given those before it and z, in nats, 0 at ``PAD``.

        Args:
            z: Codes, shape [N, D].
            tokens: Ids, shape [N, T].
            masks: Dropout, drawn for these tokens.

        Returns:
            Shape [N, T].
        """

    @abstractmethod
    def begin(self, z: Tensor) -> State:
        """The state before the first token, for codes [N, D]."""

    @abstractmethod
    def advance(self, token: Tensor, z: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [N, V] of the token after ``token`` [N], and the state after it."""

    def condition(self, batch: Batch, masks: Masks = NOTHING_DROPPED) -> ConditionedLikelihood | None:
        """An exact fast route to log p(x | z) and its z-gradient for one batch; None if there is none.

        A decoder that has one computes here, once per batch, all that does not depend on z. The route
        has no dropout but the masks given, whatever the mode, and never touches a weight's gradient.
        """
        return None

    def forward(
        self, z: Tensor, batch: Batch | None = None, dropout: Masks | Tensor | None = None
    ) -> TokenSequence:
        """p(x | z) for codes of shape [..., D]; samples are as long as the batch, or ``max_length``.

        With dropout, settled for the batch as ``Thinned`` says, every score is made under it; without, each draws
        its own.
        """
        length = self.max_length if batch is None else batch.tokens.shape[1]
        return TokenSequence(self if dropout is None else Thinned(self, dropout), z, length)

    def log_likelihood(self, z: Tensor, tokens: Tensor, dropout: Masks | Tensor | None = None) -> Tensor:
        """Log p(tokens | z) in nats: z [..., D] and tokens [..., T] broadcast to [...].

        In training mode dropout is drawn afresh in each call, for every row its own, from keys of all rows [...]
        where they are given; unless masks of the last batch axis are, which the axes before it share. See ``Target``
        for what inference sees.

        Raises:
            ValueError: If an id lies outside the vocabulary.
        """
        require_tokens(tokens, self.vocab_size)
        if z.shape[-1] != self.latent_dim:
            raise ValueError(
                f"z must have {self.latent_dim} coordinates, as many as this decoder's latent_dim; got "
                f"{z.shape[-1]}."
            )
        shape = torch.Size(np.broadcast_shapes(z.shape[:-1], tokens.shape[:-1]))
        if not shape.numel():
            return z.expand(*shape, z.shape[-1]).sum(-1)
        z = z.expand(*shape, z.shape[-1]).reshape(shape.numel(), z.shape[-1])
        tokens = tokens.expand(*shape, tokens.shape[-1]).reshape(-1, tokens.shape[-1])
        if not isinstance(dropout, Masks):
            masks = self.draw_masks(tokens, None if dropout is None else dropout.reshape(-1))
        elif len(shape) > 1:
            rows = torch.arange(shape[-1], device=z.device).repeat(shape[:-1].numel())
            masks = dropout.select(rows, tokens.shape[-1])
        else:
            masks = dropout
        return self.token_log_probs(z, tokens, masks).sum(-1).reshape(shape)

    @torch.no_grad()
    def generate(self, z: Tensor, max_length: int | None = None, strategy: Strategy | None = None) -> Tensor:
        """Write sentences for codes z [..., D]: ids of shape [..., max_length], ``PAD`` after the end.

        Args:
            z: Codes.
            max_length: The most tokens; the decoder's own ``max_length`` by default.
            strategy: How tokens are chosen; ancestral sampling by default.
        """
        strategy = strategy or Strategy()
        length = self.max_length if max_length is None else max_length
        if length < 1:
            raise ValueError(f"max_length must be at least 1; got {length}.")
        codes = z.reshape(z.shape[:-1].numel(), z.shape[-1])
        with evaluating(self):
            return self._write(codes, length, strategy).reshape(*z.shape[:-1], length)

    def _write(self, codes: Tensor, length: int, strategy: Strategy) -> Tensor:
        """Token by token, until every sentence has ended; codes [N, D] to ids [N, length]."""
        state = self.begin(codes)
        token = torch.full((len(codes),), BOS, dtype=torch.int64, device=codes.device)
        tokens = torch.full((len(codes), length), PAD, dtype=torch.int64, device=codes.device)
        ended = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
        for t in range(length):
            if bool(ended.all()):
                break
            logits, state = self.advance(token, codes, state)
            token = strategy.choose(logits)
            tokens[:, t] = torch.where(ended, PAD, token)
            ended |= token == EOS
        return tokens


def require_width(**widths: int) -> None:
    """Raise unless every named layer width is at least 1."""
    for name, width in widths.items():
        if width < 1:
            raise ValueError(f"{name} must be at least 1; got {width}.")


def require_rate(**rates: float) -> None:
    """Raise unless every named dropout rate lies in [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must lie in [0, 1); got {rate}.")
