"""Counting: what is asked of a target's likelihood, draw by draw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from sri_pyro.target import Target


class Counted:
    """Counts what is asked of a target's likelihood, draw by draw.

    Attributes:
        gradients: Of log p(x given z) in z, for one draw of each sentence's code.
        evaluations: Of log p(x given z) without a gradient of the model's own making, for the same.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> import torch
        >>> model = LatentTextModel(StandardNormal(4), LSTMDecoder(50, latent_dim=4, embedding=8, hidden=16))
        >>> counted = Counted()
        >>> target = counted.target(model.target(Batch(torch.tensor([[7, 9, 3], [8, 3, 0]]))))
        >>> _ = target.value(target.sample_prior(5))
        >>> counted.evaluations, counted.gradients
        (5, 0)
    """

    def __init__(self) -> None:
        self.gradients = 0
        self.evaluations = 0

    def target(self, target: Target) -> Target:
        """The same target, counted."""
        select = target.select

        def log_likelihood(z: Tensor) -> Tensor:
            self.evaluations += len(z)
            return target.log_likelihood(z)

        return replace(
            target,
            log_likelihood=log_likelihood,
            conditioned=_CountedLikelihood(target.conditioned, self),
            select=None if select is None else lambda rows: self.target(select(rows)),
        )


class _CountedLikelihood:
    """A likelihood of which two questions are counted; it answers all that the one beneath it does."""

    def __init__(self, beneath: Any, counted: Counted) -> None:
        self._beneath = beneath
        self._counted = counted

    def value(self, z: Tensor, *more: Any) -> Any:
        self._counted.evaluations += len(z)
        return self._beneath.value(z, *more)

    def value_and_grad(self, z: Tensor, *more: Any) -> Any:
        self._counted.gradients += len(z)
        return self._beneath.value_and_grad(z, *more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._beneath, name)
