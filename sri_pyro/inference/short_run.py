"""Short-run inference: K Langevin steps from the prior or an encoder, many chains at once, kept from diverging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from sri_pyro.inference.amortized import readable, reparameterised
from sri_pyro.inference.divergence import guarded, lasting, tell
from sri_pyro.models.decoders.frozen_tail import Approximable, FrozenTailLikelihood, TailOptions
from sri_pyro.models.encoders import Encoder
from sri_pyro.numerics import keyed
from sri_pyro.numerics.divergence import diverged
from sri_pyro.numerics.langevin import (
    Integrator,
    LeimkuhlerMatthews,
    Noise,
    Visit,
    run_langevin,
    standard_normal,
)
from sri_pyro.numerics.schedules import ConstantNoise, GeometricSteps, NoiseSchedule, StepSchedule
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress


class ShortRunLangevin(nn.Module):
    r"""Draw z by K Langevin steps on :math:`\log p(x, z)`, started from the prior, or from an encoder.

    All S x B chains run as one batch and do not interact. The law of :math:`z_K` has no closed density, so
    ``log_q`` is None. The step sizes are a schedule times the buffer ``step_scale``, which tuning moves.

    A chain that falls in its log joint as no sampler does, leaves every bounded region, or meets a value that
    is not finite, is a divergence: the event is logged, and the chain runs again from a new start with its steps
    halved. The others stand, so that what is drawn for a sentence does not depend on its neighbours in the
    batch. In training the halving stays if more than a tenth of the chains diverged, on all processes together, for
    then the steps are at fault and not a sentence; a tuner may raise the scale again.

    Starts and noises are keyed where the target's batch has a key: a chain is then a function of the weights, the key
    and its sentence.

    Args:
        num_steps: K, steps of a run; each takes one gradient.
        integrator: How a step is made; ``lm`` by default.
        step_schedule: The K step sizes before scaling.
        noise: The noise scale, over training; evaluation uses the final one.
        record_path: Keep every position in ``info["path"]``, shape [S, B, K + 1, D].
        inner_softmax: ``exact``, or ``frozen_tail``: while training, runs follow the surrogate of
            ``sri_pyro.models.decoders.frozen_tail``, whose error is logged as ``inner_gradient_error``; runs of an
            evaluation never do. Its words are chosen by all sentences at hand, so that draws then depend a little on
            their batch and on the number of processes.
        candidates: Words that the surrogate computes exactly.
        tail_words: Log-linear words that stand for all others.
        refresh: Steps from one exact gradient to the next.
        start: Where chains start: an encoder q(z | x), from which they are drawn without a graph; the prior if there
            is none. The objective ``distilled`` teaches it where they end.

    Raises:
        ValueError: If ``num_steps`` is not positive, or an option of the surrogate out of range; when a run begins, if
            the model has no such surrogate.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> model = LatentTextModel(StandardNormal(4), decoder)
        >>> draws = ShortRunLangevin(num_steps=5)(model.target(Batch(torch.tensor([[7, 9, 3]]))), 6)
        >>> draws.z.shape, draws.info["log_joint"].shape
        (torch.Size([6, 1, 4]), torch.Size([6, 1, 5]))

    References:
        Pang, Nijkamp, Han, Wu (2021), Eq. 7 and Algorithm 1.
    """

    step_scale: Tensor

    def __init__(
        self,
        num_steps: int = 20,
        integrator: Integrator | None = None,
        step_schedule: StepSchedule | None = None,
        noise: NoiseSchedule | None = None,
        record_path: bool = False,
        inner_softmax: Literal["exact", "frozen_tail"] = "exact",
        candidates: int = 1000,
        tail_words: int = 8,
        refresh: int = 5,
        start: Encoder | None = None,
    ) -> None:
        super().__init__()
        if inner_softmax not in ("exact", "frozen_tail"):
            raise ValueError(f"unknown inner_softmax {inner_softmax!r}; known: exact, frozen_tail.")
        if num_steps < 1:
            raise ValueError(
                f"num_steps must be at least 1; got {num_steps}. For draws that do not move use the "
                "inference 'prior'."
            )
        self.num_steps = num_steps
        self.integrator = integrator or LeimkuhlerMatthews()
        self.step_schedule = step_schedule or GeometricSteps()
        self.noise = noise or ConstantNoise()
        self.record_path = record_path
        self.start = start
        tail = TailOptions(candidates, tail_words, refresh)
        self.tail = tail if inner_softmax == "frozen_tail" else None
        self.step_schedule(num_steps)  # a list of another length fails here, not in the first batch
        self.register_buffer("step_scale", torch.ones((), dtype=torch.float64))

    def step_sizes(self) -> list[float]:
        """The K step sizes in force."""
        scale = float(self.step_scale)
        return [scale * step for step in self.step_schedule(self.num_steps)]

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Run ``num_samples`` chains for every sentence.

        Returns:
            Draws with ``info``: ``log_joint`` and ``grad_norm`` at z_0, ..., z_{K-1}, where a gradient was
            taken, and ``distance`` of z_1, ..., z_K from the start, each [S, B, K]; ``halved``, which chains ran
            again with shorter steps, [S, B]; if asked for, ``path`` and,
            for transitions that are maps of z alone from a draw of the prior, ``step_size`` [S, B, K]; of chains that
            an encoder started, ``log_encoder``, its log-density where they end [S, B], with a graph to its weights.

        Raises:
            FloatingPointError: If chains diverge however small the steps are.
        """
        draws, counts = guarded(lambda halvings: self.attempt(target, num_samples, halvings, progress))
        if progress is None:
            tell(counts, self.step_sizes())
        else:
            progress.count(counts, self._hear)
        if self.start is None:
            return draws
        log_encoder = self.start(readable(target, self.start)).log_prob(draws.z)
        return Draws(draws.z, info={**draws.info, "log_encoder": log_encoder})

    def _hear(self, counts: Tensor) -> None:
        """Shorten the steps if too many chains of the batch diverged."""
        tell(counts, self.step_sizes())
        self.step_scale.mul_(lasting(counts))

    def attempt(
        self, target: Target, num_samples: int, halvings: int, progress: Progress | None
    ) -> tuple[Draws, Tensor]:
        """A run with steps halved so often, and which of its chains diverged."""
        drift = target if self.tail is None or progress is None else frozen_tail(target, self.tail)
        draws = self._run(drift, num_samples, halvings, self.noise(progress))
        log_joint = draws.info["log_joint"]
        if progress is None:
            # In training the loss looks at the end point; here nothing else does.
            log_prior, log_likelihood = target.value(draws.z)
            log_joint = torch.cat([log_joint, (log_prior + log_likelihood)[..., None]], -1)
        return draws, diverged(draws.z, log_joint)

    def _run(self, target: Target, num_samples: int, halvings: int, noise_scale: float) -> Draws:
        steps = [0.5**halvings * step for step in self.step_sizes()]
        start = self._start(target, num_samples, halvings)
        trace = _Trace(keep_path=self.record_path)
        z = run_chains(target, start, steps, self.integrator, noise_scale, halvings, trace.visit)
        info = trace.collect(z)
        if self.record_path and self.integrator.moves_position_only and self.start is None:
            info["step_size"] = torch.tensor(steps, dtype=z.dtype, device=z.device).expand(*z.shape[:2], -1)
        return Draws(z, info=info)

    @torch.no_grad()
    def _start(self, target: Target, num_samples: int, run: int) -> Tensor:
        if self.start is None:
            return target.sample_prior(num_samples)
        batch = readable(target, self.start)
        return reparameterised(self.start(batch), batch, num_samples, run)


class PriorDraws(nn.Module):
    r"""The inference that does not look at x: :math:`z \sim p(z)`, with its density.

    Exact for a language model, whose z has no dimensions, and for a collapsed model.

    Example:
        >>> from sri_pyro.models import LanguageModel, LSTMDecoder
        >>> from sri_pyro.types import Batch
        >>> model = LanguageModel(LSTMDecoder(vocab_size=50, latent_dim=0, embedding=8, hidden=16))
        >>> PriorDraws()(model.target(Batch(torch.tensor([[7, 9, 3]])))).log_q
        tensor([[0.]])
    """

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Draw z from the prior."""
        z = target.sample_prior(num_samples)
        with torch.no_grad():
            return Draws(z, log_q=target.log_prior(z))


def frozen_tail(target: Target, options: TailOptions) -> Target:
    """The target whose gradients are those of a surrogate, for one run.

    Raises:
        ValueError: If the model has none.
    """
    if not isinstance(target.conditioned, Approximable):
        raise ValueError(
            "inner_softmax = 'frozen_tail' needs a decoder with a fast route, as 'lstm' has, and inference_dropout "
            "other than 'fresh'; set inner_softmax = 'exact'."
        )
    return replace(target, conditioned=FrozenTailLikelihood.of(target.conditioned, options))


def run_chains(
    target: Target,
    start: Tensor,
    step_sizes: Sequence[float],
    integrator: Integrator,
    noise_scale: float,
    run: int = 0,
    visit: Visit | None = None,
) -> Tensor:
    """Where chains of a target end that start at some z [S, B, D]; keyed by its batch, if that has a key.

    Args:
        target: Whose drift they follow.
        start: Where they start.
        step_sizes: K of them.
        integrator: How a step is made.
        noise_scale: Of Langevin's noise.
        run: Which of the runs with the same key this is.
        visit: As for ``run_langevin``.
    """
    return run_langevin(
        target.log_joint_and_grad, start, step_sizes, integrator,
        noise_scale=noise_scale, noise=noise_of(target, start, len(step_sizes), run), visit=visit,
    )  # fmt: skip


def noise_of(target: Target, start: Tensor, num_steps: int, run: int = 0) -> Noise:
    """Where the noises of a run come from: the key of the target's batch, or PyTorch's generator.

    Args:
        target: Whose batch may have a key.
        start: Where the chains start, shape [S, B, D].
        num_steps: K.
        run: Which of the runs with the same key this is.
    """
    batch = target.batch
    if batch is None or batch.key is None:
        return standard_normal
    keys = keyed.chains(keyed.fold(batch.key, keyed.Purpose.LANGEVIN, run), batch.ids, len(start))
    # All at once, for they are many small operations.
    noises = keyed.normal(keys, (num_steps + 1, target.dim), start.dtype)
    return lambda index, _: noises[:, :, index]


class _Trace:
    """Collects what a run passes through; all is computed at its end, when it is few operations instead of many."""

    def __init__(self, keep_path: bool) -> None:
        self.keep_path = keep_path
        self.positions: list[Tensor] = []
        self.log_joint: list[Tensor] = []
        self.grads: list[Tensor] = []

    def visit(self, step: int, z: Tensor, log_joint: Tensor, grad: Tensor) -> None:
        self.positions.append(z)
        self.log_joint.append(log_joint)
        self.grads.append(grad)

    def collect(self, end: Tensor) -> dict[str, Tensor]:
        """Everything collected, steps on the third axis."""
        path = torch.stack([*self.positions, end], dim=2)
        info = {
            "log_joint": torch.stack(self.log_joint, dim=2),
            "grad_norm": torch.stack(self.grads, dim=2).norm(dim=-1),
            "distance": (path[:, :, 1:] - path[:, :, :1]).norm(dim=-1),
        }
        return info | {"path": path} if self.keep_path else info
