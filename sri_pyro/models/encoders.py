"""Encoders: modules that read a sentence and answer with a Pyro distribution over its code, q(z | x)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from sri_pyro.models.decoders.base import require_width
from sri_pyro.models.decoders.recurrent import Initialisation, initialise
from sri_pyro.types import BOS, PAD, Batch


class Encoder(nn.Module, ABC):
    """q(z | x): a module that answers with a distribution of batch shape [B] and event shape [D].

    Attributes:
        latent_dim: D.
    """

    latent_dim: int

    @abstractmethod
    def forward(self, batch: Batch) -> dist.TorchDistribution:
        """The distribution of every sentence's code at the current weights."""


class LSTMEncoder(Encoder):
    r"""A one-layer LSTM over the whole sentence, from its beginning to its end symbol, and a linear map to a Gaussian.

    .. math:: q_\phi(z \mid x) = \mathcal{N}\big(\mu(h_T), \operatorname{diag} e^{v(h_T)}\big), \qquad
              (\mu, v) = W h_T + b .

    It reads with embeddings of its own and has no dropout.

    Args:
        vocab_size: V.
        latent_dim: D.
        embedding: Width of a word embedding.
        hidden: Width of the hidden state.
        bias: Whether the linear map has the bias b (Kim et al.: yes; He et al.: no).
        initialisation: ``uniform``: U(-0.1, 0.1) everywhere (Kim et al. 2018); ``small_uniform``: U(-0.01, 0.01),
            embeddings U(-0.1, 0.1) (He et al. 2019).

    Raises:
        ValueError: If a width is not positive, or the initialisation is unknown.

    Example:
        >>> encoder = LSTMEncoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> law = encoder(Batch(torch.tensor([[7, 9, 3], [8, 3, 0]])))
        >>> law.batch_shape, law.event_shape
        (torch.Size([2]), torch.Size([4]))

    References:
        Kim, Wiseman, Miller, Sontag, Rush (2018); He, Spokoyny, Neubig, Berg-Kirkpatrick (2019).
    """

    def __init__(
        self,
        vocab_size: int,
        latent_dim: int = 32,
        embedding: int = 128,
        hidden: int = 256,
        bias: bool = True,
        initialisation: Initialisation = "uniform",
    ) -> None:
        super().__init__()
        require_width(embedding=embedding, hidden=hidden)
        self.latent_dim = latent_dim
        self.embedding = nn.Embedding(vocab_size, embedding, padding_idx=PAD)
        self.cell = nn.LSTM(embedding, hidden, batch_first=True)
        self.moments = nn.Linear(hidden, 2 * latent_dim, bias=bias)
        initialise(self, self.embedding, initialisation)

    def forward(self, batch: Batch) -> dist.TorchDistribution:
        """The Gaussian of every sentence."""
        mean, log_variance = self.last_state(batch).chunk(2, -1)
        # Not validated: moments that overflow make a loss that is not finite, and training skips the step.
        return dist.Normal(mean, (0.5 * log_variance).exp(), validate_args=False).to_event(1)

    def last_state(self, batch: Batch) -> Tensor:
        """Mean and log-variance side by side, shape [B, 2 D]."""
        read = torch.cat([torch.full_like(batch.tokens[:, :1], BOS), batch.tokens], 1)
        states, _ = self.cell(self.embedding(read))
        last = states[torch.arange(len(batch), device=read.device), batch.lengths]
        moments: Tensor = self.moments(last)
        return moments
