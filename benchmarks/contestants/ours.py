"""The library: its target, its short run and its learning rule, as ``fit`` calls them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.contestants.network import put_weights, take_weights
from benchmarks.problem import Array, Problem
from sri_pyro.inference import FinalState, ShortRunLangevin
from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.models.decoders.cells import plain_cells
from sri_pyro.numerics.langevin import UnadjustedLangevin, run_langevin
from sri_pyro.numerics.schedules import ConstantNoise, ConstantSteps
from sri_pyro.types import Batch, Progress


def build_decoder(problem: Problem) -> LSTMDecoder:
    """The library's decoder with the problem's weights."""
    size = problem.size
    decoder = LSTMDecoder(size.vocabulary, size.latent, size.embedding, size.hidden, dropout=0.0)
    put_weights(decoder, problem)
    return decoder


def build_model(problem: Problem) -> LatentTextModel:
    """The library's model with the problem's weights."""
    size = problem.size
    decoder = build_decoder(problem)
    return LatentTextModel(StandardNormal(size.latent).to(decoder.output.weight), decoder)


class Ours:
    """The library as it is meant to be used.

    Args:
        problem: What to compute.
        noise_scale: Of the Langevin step.
        plain: Whether to use PyTorch's operations alone, though there be a compiled route.
        inner_softmax: What the inner loop of a training step follows.
    """

    def __init__(
        self,
        problem: Problem,
        noise_scale: float = 1.0,
        plain: bool = False,
        inner_softmax: Literal["exact", "frozen_tail"] = "exact",
    ) -> None:
        self.problem, self.noise_scale, self.plain = problem, noise_scale, plain
        self.model = build_model(problem)
        self.batch = Batch(problem.tensor(problem.tokens))
        self.step = ConstantSteps(problem.step_size)
        self.integrator = UnadjustedLangevin()
        self.inference = ShortRunLangevin(
            problem.size.steps,
            self.integrator,
            self.step,
            ConstantNoise(noise_scale),
            inner_softmax=inner_softmax,
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=problem.learning_rate, fused=True)
        self.target = self.model.target(self.batch)
        self.z = problem.tensor(problem.codes())[None]

    def _cells(self) -> AbstractContextManager[None]:
        return plain_cells() if self.plain else nullcontext()

    def gradient(self, z: Array) -> Array:
        with self._cells():
            gradient = self.target.log_joint_and_grad(self.problem.tensor(z)[None])[1]
        return gradient[0].cpu().numpy()

    def walk(self, steps: int) -> None:
        with self._cells():
            self.z = run_langevin(
                self.target.log_joint_and_grad,
                self.z,
                self.step(steps),
                self.integrator,
                noise_scale=self.noise_scale,
            )

    def train(self, start: Array | None = None) -> None:
        with self._cells():
            target = self.model.target(self.batch)
            if start is not None:
                target = replace(target, sample_prior=_given(self.problem.tensor(start)[None]))
            progress = Progress(step=0, epoch=0.0)
            draws = self.inference(target, 1, progress)
            self.optimizer.zero_grad(set_to_none=True)
            FinalState()(target, draws, progress).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.problem.clip_norm)
            self.optimizer.step()
            for weight in self.model.parameters():  # as fit does: fused Adam counts no versions
                torch.autograd.graph.increment_version(weight)

    def weights(self) -> dict[str, Array]:
        return take_weights(self.model.decoder)


def _given(z: Tensor) -> Callable[[int], Tensor]:
    return lambda num_samples: z
