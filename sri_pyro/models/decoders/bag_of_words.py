"""A decoder without memory: every token is drawn from one law that z chooses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sri_pyro.models.decoders.base import Decoder, State, require_rate, require_width
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks, factors, times
from sri_pyro.types import PAD


class BagOfWordsDecoder(Decoder):
    r"""Independent tokens until the end is drawn.

    .. math:: p(x \mid z) = \prod_t \operatorname{softmax}(f(z))_{x_t}

    The end of the sentence is one of the tokens, so this is a proper law over sentences; it knows
    topics, not order. What z explains here, no recurrent network could have explained instead.

    Args:
        vocab_size: V.
        latent_dim: D.
        hidden: Width of the hidden layer of f.
        dropout: Rate on the hidden layer, while training weights only.
        max_length: The most tokens ``generate`` writes.

    Example:
        >>> decoder = BagOfWordsDecoder(vocab_size=50, latent_dim=4, hidden=8)
        >>> decoder.log_likelihood(torch.zeros(2, 4), torch.tensor([[7, 3], [3, 0]])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        vocab_size: int,
        latent_dim: int = 32,
        hidden: int = 256,
        dropout: float = 0.0,
        max_length: int = 60,
    ) -> None:
        super().__init__(vocab_size, latent_dim, max_length)
        require_rate(dropout=dropout)
        self.dropout = dropout
        require_width(hidden=hidden)
        self.hidden = nn.Linear(latent_dim, hidden) if latent_dim else None
        self.output = nn.Linear(hidden, vocab_size)

    def draw_masks(self, tokens: Tensor, keys: Tensor | None = None) -> Masks:
        """Dropout of the hidden layer, shape [N, H]."""
        if not self.training:
            return NOTHING_DROPPED
        shape = (len(tokens), self.output.in_features)
        return Masks(states=factors(shape, self.dropout, self.output.weight, keys))

    def begin(self, z: Tensor) -> Tensor:
        """The logits of every token, [N, V]."""
        return self._logits(z, NOTHING_DROPPED)

    def _logits(self, z: Tensor, masks: Masks) -> Tensor:
        if self.hidden is None:  # without z: one law of words, whatever the sentence
            return self.predict(self.output, z.new_zeros(len(z), self.output.in_features))
        return self.predict(self.output, times(torch.tanh(self.hidden(z)), masks.states))

    def advance(self, token: Tensor, z: Tensor, state: State) -> tuple[Tensor, State]:
        """The same logits again."""
        return state, state

    def token_log_probs(self, z: Tensor, tokens: Tensor, masks: Masks = NOTHING_DROPPED) -> Tensor:
        """Log-probabilities of the tokens, shape [N, T]."""
        log_probs = torch.log_softmax(self._logits(z, masks), -1).gather(-1, tokens)
        return torch.where(tokens == PAD, 0.0, log_probs)
