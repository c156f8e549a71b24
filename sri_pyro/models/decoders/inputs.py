"""Decoder inputs under teacher forcing: the sentence, one token late, some words dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from sri_pyro.types import BOS, PAD, UNK


def shifted(tokens: Tensor) -> Tensor:
    """Decoder inputs: ``BOS``, then every token but the last, shape [N, T]."""
    return torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], dim=1)


def drop_words(inputs: Tensor, rate: float) -> Tensor:
    """Replace each input word by ``UNK`` with probability ``rate``, so that z must carry it.

    References:
        Word dropout: Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio (2016).
    """
    words = (inputs != BOS) & (inputs != PAD)
    dropped = words & (torch.rand(inputs.shape, device=inputs.device) < rate)
    return torch.where(dropped, UNK, inputs)


def require_tokens(tokens: Tensor, vocab_size: int) -> None:
    """Raise unless every id is in the vocabulary."""
    if tokens.numel() and (int(tokens.max()) >= vocab_size or int(tokens.min()) < 0):
        raise ValueError(
            f"token ids must lie in [0, {vocab_size}); got {int(tokens.min())} to {int(tokens.max())}. "
            "Encode the text with the vocabulary this decoder was built for."
        )
