"""What a system costs: parameters by hand, and the passes of inferences whose passes are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sri_pyro.comparing import Outcome
from sri_pyro.comparing.spent import spent
from sri_pyro.config import Run, load_run
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress


def run_of(made: tuple[Path, Outcome], name: str) -> Run:
    return load_run(made[0] / "out" / name / "seed-0")


class Refining(nn.Module):
    """An encoder of its own, two gradients, three values, and a weight that it shares with the model."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 7)
        self.shared = shared

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        z = target.sample_prior(num_samples)
        for _ in range(2):
            z = z + 0.1 * target.log_joint_and_grad(z)[1]
        target.value(z)
        target.log_likelihood(torch.cat([z, z]))  # two draws
        return Draws(z)


def test_a_short_run_takes_a_gradient_at_each_step(made: tuple[Path, Outcome]) -> None:
    """Three steps; what it takes beside is the value of its guard against divergence."""
    found = spent(run_of(made, "two"))
    assert found.gradients == 3
    assert found.evaluations <= 1
    assert found.passes == found.gradients + found.evaluations


def test_a_language_model_needs_no_inference(made: tuple[Path, Outcome]) -> None:
    assert spent(run_of(made, "lm")).passes == 0


def test_parameters_by_hand_and_an_encoder_apart(made: tuple[Path, Outcome]) -> None:
    """An LSTM of 6 units on embeddings of 4 and codes of 2; the output layer, and from z to the state."""
    run = run_of(made, "two")
    vocabulary = len(run.vocabulary)
    embedding, lstm = vocabulary * 4, 4 * 6 * (4 + 2) + 4 * 6 * 6 + 2 * 4 * 6
    output, state = vocabulary * 6 + vocabulary, 2 * 6 + 6
    found = spent(run)
    assert found.inference_parameters == 0
    assert found.parameters == embedding + lstm + output + state
    refining = replace(run, inference=Refining(run.model.decoder))
    again = spent(refining)
    assert again.inference_parameters == 5 * 7 + 7
    assert again.parameters == found.parameters + 42
    assert (again.gradients, again.evaluations) == (2, 3)


def test_counting_leaves_the_generator_alone(made: tuple[Path, Outcome]) -> None:
    run = run_of(made, "two")
    before = torch.get_rng_state()
    spent(run)
    assert torch.equal(torch.get_rng_state(), before)
