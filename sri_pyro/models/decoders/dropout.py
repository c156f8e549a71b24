"""Dropout as a value: drawn apart from the pass that uses it, so that several passes can share one draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sri_pyro.numerics import keyed
from sri_pyro.types import BOS, PAD, UNK

if TYPE_CHECKING:
    from sri_pyro.models.decoders.base import Decoder
    from sri_pyro.models.sequences import Strategy


@dataclass(frozen=True)
class Masks:
    """What one draw of dropout does to N sentences of T tokens; a decoder leaves out what it has not.

    Attributes:
        unread: Which input words are replaced by ``UNK``, shape [N, T].
        words: Factors on word embeddings: 0 or 1 / (1 - rate), shape [N, T, E].
        states: Factors on hidden states: the same, shape [N, T, H], or [N, H] for one state a sentence.
    """

    unread: Tensor | None = None
    words: Tensor | None = None
    states: Tensor | None = None

    def select(self, rows: Tensor, length: int) -> Masks:
        """The masks of the first ``length`` tokens of some sentences."""
        unread, words, states = (None if mask is None else mask[rows] for mask in vars(self).values())
        return Masks(
            None if unread is None else unread[:, :length],
            None if words is None else words[:, :length],
            states[:, :length] if states is not None and states.ndim == 3 else states,
        )

    def read(self, inputs: Tensor) -> Tensor:
        """The input words [N, T] that are left.

        References:
            Word dropout: Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio (2016).
        """
        if self.unread is None:
            return inputs
        return torch.where(self.unread & (inputs != BOS) & (inputs != PAD), UNK, inputs)


NOTHING_DROPPED = Masks()


def factors(shape: tuple[int, ...], rate: float, like: Tensor, keys: Tensor | None = None) -> Tensor | None:
    """Independent factors, 0 with probability ``rate`` and 1 / (1 - rate) otherwise; None at rate 0.

    Args:
        shape: Of the factors, [N, ...].
        rate: In [0, 1).
        like: Gives their precision and device.
        keys: Of each row's noise, int64, shape [N]; None draws from PyTorch's generator.
    """
    if not rate:
        return None
    if keys is None:
        return F.dropout(like.new_ones(shape), rate)
    return (~keyed.happens(keys, shape[1:], rate)).to(like.dtype).div_(1 - rate)


def hidden_words(tokens: Tensor, rate: float, keys: Tensor | None = None) -> Tensor | None:
    """Which of the words [N, T] are hidden, each with probability ``rate``; None at rate 0. Keys as for ``factors``."""
    if not rate:
        return None
    if keys is None:
        return torch.rand(tokens.shape, device=tokens.device) < rate
    return keyed.happens(keys, tokens.shape[1:], rate)


def branches(keys: Tensor | None, num: int) -> Sequence[Tensor | None]:
    """Keys of several draws for the same rows, so that none says anything of another."""
    if keys is None:
        return [None] * num
    return keyed.folded(keys, torch.arange(num, device=keys.device)[:, None]).unbind()


def times(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values with a mask's factors put on, where there is a mask."""
    return values if mask is None else values * mask


@dataclass(frozen=True)
class Thinned:
    """A decoder under dropout that is settled, as a scorer of sentences; what it writes is not thinned.

    Attributes:
        decoder: Scores and generates.
        dropout: Masks of B sentences, which S draws of codes for each of them share; or keys of S x B rows' noise,
            int64, shape [S, B], from which each row draws its own.
    """

    decoder: Decoder
    dropout: Masks | Tensor

    def log_likelihood(self, z: Tensor, tokens: Tensor) -> Tensor:
        """Log p(tokens | z) in nats under this dropout: z [S, B, D] or [B, D], tokens [B, T]."""
        return self.decoder.log_likelihood(z, tokens, self.dropout)

    def generate(self, z: Tensor, max_length: int, strategy: Strategy | None = None) -> Tensor:
        """Sentences for z [..., D], shape [..., max_length]."""
        return self.decoder.generate(z, max_length, strategy)
