"""Points: a draw as Pyro's Delta, with a density that is the draw's own, or with the admission that it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Delta, Distribution
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions.kl import kl_divergence, register_kl
from torch.utils._pytree import tree_leaves

WITHOUT_DENSITY = (
    "the guide's draws have no density, so log p(x, z) would stand in for an importance weight; use "
    'as_guide(..., density="gaussian") or an inference that gives log_q. Without a density a guide serves '
    "Trace_ELBO and Predictive."
)


class Point(Delta):  # type: ignore[misc]  # Pyro is not typed
    """A draw and its log-density.

    Attributes:
        law: What it was drawn from, where that is a distribution one can name; it then has a closed form of the KL.
    """

    law: TorchDistribution | None = None

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Point:
        """The same draw in a larger batch."""
        point: Point = super().expand(batch_shape, _instance)
        point.law = None if self.law is None else self.law.expand(torch.Size(batch_shape))
        return point


class PointWithoutDensity(Point):
    """A draw whose density nobody knows: ``log_density`` holds the volume change alone, and makes no weights."""

    def log_prob(self, x: Tensor) -> Tensor:
        """The volume change, which may be summed and not weighed."""
        volume: Tensor = self.log_density.as_subclass(_NoDensity)
        return volume

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        """The same, in the parts that an ELBO reads."""
        return ScoreParts(self.log_prob(x), 0, self.log_density)


@register_kl(Point, Distribution)  # type: ignore[no-untyped-call, untyped-decorator]  # PyTorch does not type it
def _kl_of_the_law(p: Point, q: Distribution) -> Tensor:
    # Pyro's KL of a Delta drops its log_density; without a law TraceMeanField_ELBO falls back on the draw.
    if p.law is None:
        raise NotImplementedError
    return kl_divergence(p.law, q)


class _NoDensity(Tensor):
    """Numbers in place of a log-density that nobody knows.

    They may be summed, scaled, masked and read, which is all that ``Trace_ELBO`` does to them, but not
    combined with the model's log-density: that would be a weight without q.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        strangers = [
            leaf
            for leaf in tree_leaves((args, kwargs or {}))
            if isinstance(leaf, Tensor) and not isinstance(leaf, cls)
        ]
        if strangers and func.__name__ not in ("mul", "__mul__", "__rmul__", "where"):
            raise RuntimeError(WITHOUT_DENSITY)
        # PyTorch does not type the method that it asks one to override.
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
