"""TokenSequence: the distribution of a sentence given z, and the ways to draw a sentence from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from sri_pyro.types import BOS, PAD


class Scorer(Protocol):
    """What a ``TokenSequence`` needs of a decoder."""

    def log_likelihood(self, z: Tensor, tokens: Tensor) -> Tensor:
        """Log p(tokens | z) in nats: z [..., D] and tokens [..., T] broadcast to [...]."""
        ...

    def generate(self, z: Tensor, max_length: int, strategy: Strategy | None = None) -> Tensor:
        """Sentences for z [..., D], shape [..., max_length]."""
        ...


@dataclass(frozen=True)
class Strategy:
    r"""How a next token is chosen from the decoder's logits.

    Args:
        temperature: Divides the logits; 1 is ancestral sampling, 0 is greedy decoding.
        top_p: Nucleus sampling: keep the smallest set of most probable tokens whose probability
            reaches ``top_p``; 1 keeps all.

    Raises:
        ValueError: If the temperature is negative or not finite, or ``top_p`` is not in (0, 1].

    Example:
        >>> Strategy.greedy().choose(torch.tensor([[0.1, 2.0, 0.3]])).item()
        1

    References:
        Nucleus sampling: Holtzman, Buys, Du, Forbes, Choi (2020).
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(
                f"temperature must be at least 0; got {self.temperature}. 0 decodes greedily, 1 samples."
            )
        if math.isinf(self.temperature):
            raise ValueError(
                f"temperature must be a finite number; got {self.temperature}. 0 decodes greedily, 1 samples."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; got {self.top_p}. 1 keeps every token.")

    @classmethod
    def greedy(cls) -> Strategy:
        """Always the most probable token."""
        return cls(temperature=0.0)

    def choose(self, logits: Tensor) -> Tensor:
        """One token per row: logits [N, V] to ids [N]. PAD and BOS are never chosen."""
        logits = logits.clone()
        logits[:, [PAD, BOS]] = -torch.inf
        if self.temperature == 0:
            return logits.argmax(-1)
        # The largest logit is taken off first: it could be infinite at a temperature near 0.
        probs = torch.softmax((logits - logits.amax(-1, keepdim=True)) / self.temperature, -1)
        if self.top_p < 1:
            ordered, index = probs.sort(dim=-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            ordered = torch.where(before < self.top_p, ordered, 0.0)
            return index.gather(-1, torch.multinomial(ordered, 1)).squeeze(-1)
        return torch.multinomial(probs, 1).squeeze(-1)


class TokenSequence(dist.TorchDistribution):  # type: ignore[misc]  # Pyro is not typed
    r"""The law of a sentence given z: an event of T token ids, padded after its end.

    .. math:: \log p(x \mid z) = \sum_{t=1}^{|x|} \log p(x_t \mid x_{<t}, z)

    The sum runs to ``EOS``, which is counted; ``BOS`` is never predicted and ``PAD`` never scored. A row
    without ``EOS`` is a prefix and scores as one. One object both scores and samples, so prior and
    posterior predictive, conditioning and Pyro's effect handlers need no second code path; the decoder
    runs only when it is asked to.

    Args:
        decoder: Scores and generates.
        z: Codes, shape batch_shape + [D].
        length: T, the most tokens a sample may have; a sample without ``EOS`` was cut there.

    Example:
        >>> from sri_pyro.models import LSTMDecoder
        >>> decoder = LSTMDecoder(vocab_size=9, latent_dim=2, embedding=4, hidden=5)
        >>> law = TokenSequence(decoder, torch.zeros(3, 2), length=7)
        >>> law.batch_shape, law.event_shape, law.sample().shape
        (torch.Size([3]), torch.Size([7]), torch.Size([3, 7]))
    """

    arg_constraints: ClassVar[dict[str, object]] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, decoder: Scorer, z: Tensor, length: int) -> None:
        self.decoder = decoder
        self.z = z
        super().__init__(z.shape[:-1], torch.Size((length,)), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: TokenSequence | None = None) -> TokenSequence:
        """The same law over a larger batch."""
        z = self.z.expand(torch.Size(batch_shape) + self.z.shape[-1:])
        return TokenSequence(self.decoder, z, self.event_shape[0])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x | z) in nats, shape batch_shape; any number of tokens may be given."""
        return self.decoder.log_likelihood(self.z, value)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  # as in PyTorch's signature; never changed
        """Ancestral samples, shape sample_shape + batch_shape + [T]."""
        z = self.z.expand(torch.Size(sample_shape) + self.z.shape)
        with torch.no_grad():
            return self.decoder.generate(z, self.event_shape[0])
