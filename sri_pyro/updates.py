"""Update rules: what a weight step does with the weights of model and inference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from sri_pyro.numerics.keyed import Purpose, fold
from sri_pyro.step import Step, Updated, UpdateRule

NEEDS_WEIGHTS = (
    "the update '{}' moves the weights of the inference ahead of the model's, and this inference has none; use one "
    "that has, such as 'amortized', or the update 'joint'."
)
NEEDS_INFORMATION = (
    "the update '{}' ends by mutual_information, and a validation gives {}; use an inference whose draws have a law of "
    "independent normals, or the update 'joint'."
)
LOWEST = -torch.finfo(torch.float64).max
"""Stands for the mutual information before the first validation: checkpoints hold finite values alone."""


class Joint(UpdateRule):
    """One optimiser step on all weights together (``joint``)."""

    def forward(self, step: Step) -> Updated:
        """Update model and inference."""
        return step.update(step.batch)

    def hear(self, scores: Mapping[str, float]) -> str:
        """Nothing follows from a validation."""
        return ""


class Aggressive(UpdateRule):
    r"""Train the inference ahead of the model while it lags behind the posterior (``aggressive``).

    A weight step first updates the inference's weights alone, on the step's batch and then on batches of the epoch
    drawn with replacement: ``most_updates`` times, or until the mean loss per token over ``window`` updates,

    .. math:: \bar{\mathcal{L}}_w = \frac{\sum_{i \in w} B_i \mathcal{L}_i}{\sum_{i \in w} T_i},

    with :math:`B_i` sentences and :math:`T_i` tokens, is higher than over the ``window`` before. Then it updates the
    model's weights alone, on the step's batch and with new draws.

    That ends for good at the first validation whose ``mutual_information`` is below that of the one before; from then
    on both are updated together. Without validations it never ends. So validate after every epoch.

    Args:
        most_updates: Of the inference in a weight step.
        window: Updates whose losses are compared with those of as many before.

    Raises:
        ValueError: If a number is below 1; in training, if the inference has no weights, or a validation gives no
            ``mutual_information``.

    Example:
        >>> rule = Aggressive()
        >>> rule.hear({"mutual_information": 1.5}), rule.hear({"mutual_information": 2.0})
        ('', '')
        >>> print(rule.hear({"mutual_information": 1.25}))
        inference no longer trained ahead: mutual information fell from 2 to 1.25 nats, after 0 updates of it alone

    References:
        He, Spokoyny, Neubig, Berg-Kirkpatrick (2019), Lagging inference networks and posterior collapse in variational
        autoencoders, Algorithm 1.
    """

    ahead: torch.Tensor
    information: torch.Tensor
    inner_updates: torch.Tensor

    def __init__(self, most_updates: int = 99, window: int = 15) -> None:
        super().__init__()
        for name, value in {"most_updates": most_updates, "window": window}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        self.most_updates = most_updates
        self.window = window
        self.register_buffer("ahead", torch.tensor(True))
        self.register_buffer("information", torch.tensor(LOWEST, dtype=torch.float64))
        self.register_buffer("inner_updates", torch.tensor(0))

    def forward(self, step: Step) -> Updated:
        """Update the inference many times and then the model; or, later on, both once."""
        if not step.inference_learns:
            raise ValueError(NEEDS_WEIGHTS.format("aggressive"))
        if self.ahead:
            self.inner_updates += self._get_ahead(step)
        updated = step.update(step.batch, "model" if self.ahead else "both")
        return replace(updated, numbers={"inner_updates": float(self.inner_updates)})

    def _get_ahead(self, step: Step) -> int:
        """Update the inference until that no longer helps; how often."""
        before, nats, tokens = math.inf, 0.0, 0
        for number in range(self.most_updates):
            key = fold(step.key, Purpose.INNER_UPDATE, number)
            batch = step.drawn(key) if number else step.batch.keyed(key)
            nats += step.update(batch, "inference").loss * len(batch)
            tokens += int(batch.lengths.sum())
            if (number + 1) % self.window == 0:
                if not nats / tokens <= before:  # nor where it is no number
                    return number + 1
                before, nats, tokens = nats / tokens, 0.0, 0
        return self.most_updates

    def hear(self, scores: Mapping[str, float]) -> str:
        """End it once the mutual information falls."""
        if not self.ahead:
            return ""
        if "mutual_information" not in scores:
            raise ValueError(NEEDS_INFORMATION.format("aggressive", ", ".join(sorted(scores))))
        before, now = float(self.information), scores["mutual_information"]
        if now >= before:
            self.information.fill_(now)
            return ""
        self.ahead.fill_(False)
        return (
            f"inference no longer trained ahead: mutual information fell from {before:.3g} to {now:.3g} nats, after "
            f"{int(self.inner_updates)} updates of it alone"
        )


UPDATES: MappingProxyType[str, type[UpdateRule]] = MappingProxyType(
    {"joint": Joint, "aggressive": Aggressive}
)
