r"""An opt-in surrogate of the softmax for inner loops (``frozen_tail``): candidate words, and one word for all others.

At an anchor :math:`h_0`, where the layer is computed exactly, the words outside a set C of candidates have the
log-normaliser a and the mean weight g. Until the next anchor they are one log-linear word,

.. math:: \log \sum_{v \notin C} e^{w_v \cdot h + b_v} \approx a + g \cdot (h - h_0),

which is right to first order. The surrogate is a function of h with the gradient that is returned, so that a sampler
on it is one; it is not log p(x | z), and neither weight steps nor evidence ever see it.

Axes: N hidden states, H units, V words, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sri_pyro.models.decoders.vocabulary import column_shares, vocabulary_attention

Softmax = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From hidden states [N, H] to mean output weights [N, H] and log-normalisers [N], as ``vocabulary_attention``."""


@dataclass
class FrozenTail:
    """The softmax of some hidden states that move little by little, exact at every ``refresh``-th call.

    Attributes:
        weight_VH: Output weights.
        bias_V: Output biases.
        candidates: |C|: the words with the largest summed probability at the first call.
        refresh: Calls from one anchor to the next.
    """

    weight_VH: Tensor
    bias_V: Tensor
    candidates: int
    refresh: int
    calls: int = field(default=0, init=False)

    def __call__(self, h_NH: Tensor) -> tuple[Tensor, Tensor]:
        """Mean output weight [N, H] and log-normaliser [N], exact or not."""
        exact = self.calls % self.refresh == 0
        self.calls += 1
        return self._anchored(h_NH) if exact else self._approximate(h_NH)

    def _anchored(self, h: Tensor) -> tuple[Tensor, Tensor]:
        if self.calls == 1:
            chosen = column_shares(h, self.weight_VH, self.bias_V).topk(self.candidates).indices
            self.chosen_CH, self.chosen_bias_C = self.weight_VH[chosen], self.bias_V[chosen]
        mean, normaliser = vocabulary_attention(h, self.weight_VH, self.bias_V)
        near, near_normaliser = self._near(h)
        share = -torch.expm1((near_normaliser - normaliser).clamp(max=0))
        share = share.clamp(min=torch.finfo(share.dtype).eps)
        self.anchor_NH = h.clone()
        self.tail_N = normaliser + share.log()
        self.tail_mean_NH = torch.lerp(near, mean, 1 / share[:, None])  # (mean - (1 - share) near) / share
        return mean, normaliser

    def _approximate(self, h: Tensor) -> tuple[Tensor, Tensor]:
        near, near_normaliser = self._near(h)
        tail = self.tail_N + (self.tail_mean_NH * (h - self.anchor_NH)).sum(-1)
        share = torch.sigmoid(tail - near_normaliser)
        return torch.lerp(near, self.tail_mean_NH, share[:, None]), torch.logaddexp(near_normaliser, tail)

    def _near(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return vocabulary_attention(h, self.chosen_CH, self.chosen_bias_C)


class Approximable(Protocol):
    """A likelihood of one batch whose gradient takes any softmax."""

    output_weight_VH: Tensor
    output_bias_V: Tensor

    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z), exactly."""
        ...

    def value_and_grad(self, z: Tensor, softmax: Softmax | None = None) -> tuple[Tensor, Tensor]:
        """The same and its gradient, under another softmax if one is given."""
        ...


@dataclass(frozen=True)
class FrozenTailLikelihood:
    """The surrogate of one run: gradients under a ``FrozenTail``, values exact.

    Attributes:
        exact: log p(x | z).
        softmax: The tail, which remembers where the chains last were; all calls must be about the same chains.
    """

    exact: Approximable
    softmax: FrozenTail

    @classmethod
    def of(cls, exact: Approximable, candidates: int, refresh: int) -> FrozenTailLikelihood:
        """A surrogate for one run."""
        candidates = min(candidates, len(exact.output_weight_VH))
        return cls(exact, FrozenTail(exact.output_weight_VH, exact.output_bias_V, candidates, refresh))

    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z) in nats for z [S, B, D], shape [S, B], exactly."""
        return self.exact.value(z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The surrogate's value [S, B] and gradient [S, B, D]."""
        return self.exact.value_and_grad(z, self.softmax)
