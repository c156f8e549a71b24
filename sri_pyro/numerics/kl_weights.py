"""KL weights: how much the divergence from the prior counts in an evidence lower bound, over training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

from sri_pyro.numerics.schedules import require_not_negative, require_positive, risen
from sri_pyro.types import Progress


class KLWeight(Protocol):
    r"""Gives the weight :math:`\beta` of the KL term at a moment of training."""

    def __call__(self, progress: Progress | None) -> float:
        """The weight; ``None`` stands for evaluation and gives the final one."""
        ...


@dataclass(frozen=True)
class ConstantWeight:
    """The same weight throughout.

    Args:
        weight: 1 is the evidence lower bound, 0 an autoencoder.

    Example:
        >>> ConstantWeight()(Progress(step=0, epoch=0.0))
        1.0
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        require_not_negative(weight=self.weight)

    def __call__(self, progress: Progress | None) -> float:
        """The weight."""
        return self.weight


@dataclass(frozen=True)
class LinearWeight:
    """The weight rises linearly, epoch by epoch and within each, and stays: KL annealing.

    Args:
        start: The weight at first.
        end: The weight from then on, and in evaluation.
        epochs: Epochs until then.

    Example:
        >>> annealed = LinearWeight(start=0.1, end=1.0, epochs=10)
        >>> [round(annealed(Progress(0, epoch)), 2) for epoch in (0.0, 5.0, 10.0, 40.0)]
        [0.1, 0.55, 1.0, 1.0]

    References:
        Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio (2016); the defaults are those of He, Spokoyny,
        Neubig, Berg-Kirkpatrick (2019).
    """

    start: float = 0.1
    end: float = 1.0
    epochs: float = 10.0

    def __post_init__(self) -> None:
        require_positive(epochs=self.epochs)
        require_not_negative(start=self.start, end=self.end)

    def __call__(self, progress: Progress | None) -> float:
        """The weight after a fraction of the epochs."""
        return risen(self.start, self.end, self.epochs, progress)


@dataclass(frozen=True)
class CyclicalWeight:
    r"""The weight begins anew in every cycle, rises for a part of it, and stays for the rest.

    With the share :math:`u` of the cycle that has passed, the part :math:`R` in which it rises, and
    :math:`v = \min(1, u / R)`,

    .. math:: \beta = \beta_0 + (1 - \beta_0)\, f(v), \qquad f(v) = v \;\text{ or }\; (1 - \cos \pi v) / 2 .

    Args:
        epochs: Epochs of a cycle.
        start: The weight at the beginning of each.
        rise: R, the part of a cycle in which the weight rises.
        shape: ``linear`` or ``cosine``.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> cyclical = CyclicalWeight(epochs=10, start=0.0, rise=0.5)
        >>> [round(cyclical(Progress(0, epoch)), 2) for epoch in (0.0, 2.5, 5.0, 9.9, 10.0, 12.5)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]

    References:
        Fu, Li, Liu, Gao, Celikyilmaz, Carin (2019); their code for Penn Treebank begins each cycle at 0.1.
    """

    epochs: float = 10.0
    start: float = 0.1
    rise: float = 0.5
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        require_positive(epochs=self.epochs)
        require_not_negative(start=self.start)
        if not 0 < self.rise <= 1:
            raise ValueError(f"rise is a part of the cycle, more than 0 and at most 1; got {self.rise}.")
        if self.shape not in ("linear", "cosine"):
            raise ValueError(f"unknown shape {self.shape!r}; known: linear, cosine.")

    def __call__(self, progress: Progress | None) -> float:
        """The weight at a place of the cycle; 1 in evaluation."""
        if progress is None:
            return 1.0
        done = min(1.0, progress.epoch % self.epochs / self.epochs / self.rise)
        share = done if self.shape == "linear" else 0.5 * (1 - math.cos(math.pi * done))
        return self.start + (1 - self.start) * share


KL_WEIGHTS: MappingProxyType[str, type[KLWeight]] = MappingProxyType(
    {"constant": ConstantWeight, "linear": LinearWeight, "cyclical": CyclicalWeight}
)
