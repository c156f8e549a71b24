"""Spent: what a trained system costs that no file of its evaluation says: parameters, and passes of its decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sri_pyro.config import Run
from sri_pyro.counting import Counted
from sri_pyro.loop import learned
from sri_pyro.types import EOS, SPECIAL_SYMBOLS, Batch


@dataclass(frozen=True)
class Spent:
    """What one system costs.

    Attributes:
        parameters: All that training moves, the inference's own counted.
        inference_parameters: Those that are the inference's alone, as an encoder's are.
        gradients: Of log p(x given z) in z, for one draw of one sentence's code.
        evaluations: Of log p(x given z) without a gradient of the model's own making, for the same. Either reads every
            token of the sentence once.
    """

    parameters: int
    inference_parameters: int
    gradients: int
    evaluations: int

    @property
    def passes(self) -> int:
        """Gradients and evaluations together."""
        return self.gradients + self.evaluations


def spent(run: Run) -> Spent:
    """Count a run's parameters, and what its inference asks of the decoder.

    The inference is run once, on a sentence of two tokens and with one draw, against a target that counts.
    The caller's generator stays where it is.
    """
    own = set(map(id, run.model.parameters()))
    all_of_them = learned(run.model, run.inference)
    counted = Counted()
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []), torch.no_grad():
        batch = Batch(torch.tensor([[len(SPECIAL_SYMBOLS), EOS]], device=run.device))
        run.inference(counted.target(run.model.target(batch)), 1)
    return Spent(
        parameters=sum(weight.numel() for weight in all_of_them),
        inference_parameters=sum(weight.numel() for weight in all_of_them if id(weight) not in own),
        gradients=counted.gradients,
        evaluations=counted.evaluations,
    )
