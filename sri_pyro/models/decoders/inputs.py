"""Decoder inputs under teacher forcing: the sentence, one token late."""

from __future__ import annotations

import torch
from torch import Tensor

from sri_pyro.types import BOS


def shifted(tokens: Tensor) -> Tensor:
    """Decoder inputs: ``BOS``, then every token but the last, shape [N, T]."""
    return torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], dim=1)


def require_tokens(tokens: Tensor, vocab_size: int) -> None:
    """Raise unless every id is in the vocabulary."""
    if tokens.numel() and (int(tokens.max()) >= vocab_size or int(tokens.min()) < 0):
        raise ValueError(
            f"token ids must lie in [0, {vocab_size}); got {int(tokens.min())} to {int(tokens.max())}. "
            "Encode the text with the vocabulary this decoder was built for."
        )
