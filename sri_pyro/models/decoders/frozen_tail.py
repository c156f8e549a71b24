r"""An opt-in surrogate of the softmax for inner loops (``frozen_tail``): candidates, and a few words for all others.

The words outside a set C of candidates are parted into groups of similar output weights. At an anchor :math:`h_0`,
where the layer is computed exactly, group m has the log-normaliser :math:`a_m` and the mean weight :math:`g_m`. Until
the next anchor it is one log-linear word,

.. math:: \log \sum_{v \in m} e^{w_v \cdot h + b_v} \approx a_m + g_m \cdot (h - h_0),

which is right to first order. The surrogate is a function of h with the gradient that is returned, so that a sampler
on it is one; it is not log p(x | z), and neither weight steps nor evidence ever see it.

Axes: N hidden states, H units, V words, C candidates, M groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sri_pyro.models.decoders.compiled_layer import CompiledLayer, can_compute, compiled
from sri_pyro.models.decoders.vocabulary import column_shares, vocabulary_attention

Softmax = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From hidden states [N, H] to mean output weights [N, H] and log-normalisers [N], as ``vocabulary_attention``."""


ENOUGH = 200
"""Hidden states by which candidates are chosen, evenly spaced among all: more hardly choose others, and each costs a
pass over the vocabulary."""


@dataclass(frozen=True)
class TailOptions:
    """How coarse the surrogate is.

    Attributes:
        candidates: |C|: the words with the largest summed probability at the first call, at ``ENOUGH`` of its states.
        tail_words: M, log-linear words that stand for all others.
        refresh: Calls from one anchor to the next.

    Raises:
        ValueError: If one of them is below 1.
    """

    candidates: int = 1000
    tail_words: int = 8
    refresh: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} of the frozen tail must be at least 1; got {value}.")


@dataclass(frozen=True)
class Layer:
    """Some words' output weights [n, H] and biases [n]."""

    weight: Tensor
    bias: Tensor

    def of(self, words: Tensor) -> Layer:
        """Some of these words."""
        return Layer(self.weight[words], self.bias[words])

    def attention(self, h_NH: Tensor) -> tuple[Tensor, Tensor]:
        """Mean output weight [N, H] and log-normaliser [N] of every state."""
        if can_compute(h_NH, self.weight) and self._laid_out is not None:
            return self._laid_out.attention(h_NH)
        return vocabulary_attention(h_NH, self.weight, self.bias)

    @functools.cached_property
    def _laid_out(self) -> CompiledLayer | None:
        functions = compiled()
        return CompiledLayer.of(self.weight, self.bias, functions) if functions else None


class FrozenTail:
    """The softmax of some hidden states that move little by little, exact at every ``refresh``-th call.

    Args:
        weight_VH: Output weights.
        bias_V: Output biases.
        options: How coarse it is.
    """

    def __init__(self, weight_VH: Tensor, bias_V: Tensor, options: TailOptions) -> None:
        self.words = Layer(weight_VH, bias_V)
        self.options = options
        self.calls = 0

    def __call__(self, h_NH: Tensor) -> tuple[Tensor, Tensor]:
        """Mean output weight [N, H] and log-normaliser [N], exact or not."""
        if not self.calls:
            self._part(h_NH)
        if self.calls % self.options.refresh == 0:
            self._anchor(h_NH)
        self.calls += 1
        near_mean, near = self.near.attention(h_NH)
        moved = torch.einsum("nmh,nh->nm", self.mean_NMH, h_NH - self.anchor_NH)
        parts = torch.cat([near[:, None], self.normaliser_NM + moved], 1)
        total = parts.logsumexp(1)
        shares = (parts - total[:, None]).exp()
        mean = torch.einsum("nm,nmh->nh", shares[:, 1:], self.mean_NMH)
        return torch.addcmul(mean, shares[:, :1], near_mean), total

    def _part(self, h: Tensor) -> None:
        """Choose candidates, and group the other words that can come at all."""
        shares = column_shares(h[:: max(1, len(h) // ENOUGH)], self.words.weight, self.words.bias)
        ranked = shares.argsort(descending=True)
        ranked = ranked[self.words.bias[ranked] > -torch.inf]
        chosen, rest = ranked[: self.options.candidates], ranked[self.options.candidates :]
        self.near = self.words.of(chosen)
        group = clusters(self.words.weight[rest], self.options.tail_words)
        parts = (rest[group == m] for m in range(self.options.tail_words))
        self.groups = [self.words.of(words) for words in parts if len(words)]

    def _anchor(self, h: Tensor) -> None:
        self.anchor_NH = h.clone()
        parts = [group.attention(h) for group in self.groups]
        self.mean_NMH = h.new_empty(len(h), len(parts), h.shape[1])
        self.normaliser_NM = h.new_empty(len(h), len(parts))
        for m, (mean, normaliser) in enumerate(parts):
            self.mean_NMH[:, m], self.normaliser_NM[:, m] = mean, normaliser


def clusters(points: Tensor, number: int, rounds: int = 3) -> Tensor:
    """Which of some groups of near neighbours each point [n, H] belongs to, shape [n]: a few rounds of k-means.

    Centres begin at points spread over the rows, so that nothing is random.
    """
    if len(points) <= number:
        return torch.arange(len(points), device=points.device)
    centres = points[:: len(points) // number][:number].clone()
    for _ in range(rounds):
        group = (points @ centres.T - 0.5 * centres.square().sum(1)).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, group, points)
        sizes = torch.bincount(group, minlength=number)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return group


@runtime_checkable
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
    def of(cls, exact: Approximable, options: TailOptions) -> FrozenTailLikelihood:
        """A surrogate for one run."""
        return cls(exact, FrozenTail(exact.output_weight_VH, exact.output_bias_V, options))

    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z) in nats for z [S, B, D], shape [S, B], exactly."""
        return self.exact.value(z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The surrogate's value [S, B] and gradient [S, B, D]."""
        return self.exact.value_and_grad(z, self.softmax)
