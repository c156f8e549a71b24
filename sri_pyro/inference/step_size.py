"""The tuner that moves the step sizes of a short run during training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Literal

from sri_pyro.inference.short_run import ShortRunLangevin
from sri_pyro.inference.step_objectives import (
    CommonNoise,
    gaussian_gradient,
    gaussian_objective,
    jacobian_objective,
    require_maps,
    stable_scale,
)
from sri_pyro.target import Target
from sri_pyro.types import Batch, Progress

log = logging.getLogger(__name__)

SMALLEST_GAIN = 0.02
"""The grid moves only for a larger gain, in nats, so that the scale does not wander on a flat optimum."""
LARGEST_MOVE = 0.5
"""A gradient step changes the logarithm of the scale by no more than this."""
SHARE_OF_STABLE = 0.8
"""The tuned scale stays below this share of ``stable_scale``: near the limit a step a fifth longer explodes, and the
posteriors of the next sentences, or of the decoder a thousand steps on, may be as much stiffer."""


def _require_chains(num_chains: int, dim: int) -> None:
    if num_chains <= dim + 1:
        raise ValueError(
            f"tuning the step size by the Gaussian entropy of {dim} latent dimensions needs num_chains of at "
            f"least {dim + 2}; got {num_chains}. Raise num_chains."
        )


class StepSizeTuner:
    r"""Moves the scale of a short run's steps every so many weight steps; call it after each one.

    Whatever the method finds, the smallest step is held at 0.8 of what the stiffest of the sentences tuned on
    can bear (``stable_scale``), unless ``smallest`` asks for more. That and the logged objective cost two more
    runs and ten Hessian-vector products of sixteen chains.

    Args:
        inference: Whose steps are tuned.
        method: ``grid``: the best of ``factors`` times the current scale. ``gradient``: one step of
            gradient ascent in the logarithm of the scale.
        objective: ``gaussian`` (``gaussian_objective``) or ``jacobian`` (``jacobian_objective``, the paper's).
        every: T_s, weight steps between tunings.
        num_chains: Chains per sentence; the Gaussian entropy needs more than D + 1.
        num_sentences: Sentences of the current batch that are used.
        factors: The grid.
        learning_rate: Of the gradient method.
        smallest: The scale never falls below this.
        largest: The scale never rises above this.
        latent_dim: D, where it is known, so that too few chains are told here and not at the first tuning.

    Raises:
        ValueError: If an option is out of range, an encoder starts the chains, these are too few for the entropy,
            ``gradient`` is asked of the Jacobian objective, or that objective of an integrator that moves a velocity.
    """

    def __init__(
        self,
        inference: ShortRunLangevin,
        method: Literal["grid", "gradient"] = "grid",
        objective: Literal["gaussian", "jacobian"] = "gaussian",
        every: int = 2000,
        num_chains: int = 96,
        num_sentences: int = 8,
        factors: Sequence[float] = (0.5, 0.71, 0.84, 1.0, 1.19, 1.41),
        learning_rate: float = 0.05,
        smallest: float = 0.05,
        largest: float = 4.0,
        latent_dim: int | None = None,
    ) -> None:
        if inference.start is not None:
            raise ValueError(
                "the step size is tuned on chains from the prior, and an encoder starts these; leave the tuner out."
            )
        if every < 1 or num_chains < 2 or num_sentences < 1 or not factors or min(factors) <= 0:
            raise ValueError(
                "step-size tuning needs every >= 1, num_chains >= 2, num_sentences >= 1 and positive factors; "
                f"got every = {every}, num_chains = {num_chains}, num_sentences = {num_sentences}, "
                f"factors = {list(factors)}."
            )
        if method not in ("grid", "gradient"):
            raise ValueError(f"unknown method {method!r} of tuning the step size; known: gradient, grid.")
        if objective not in ("gaussian", "jacobian"):
            raise ValueError(f"unknown objective {objective!r} of the step size; known: gaussian, jacobian.")
        if not (learning_rate > 0 and 0 < smallest < largest):
            raise ValueError(
                "step-size tuning needs learning_rate > 0 and 0 < smallest < largest; got "
                f"{learning_rate}, {smallest} and {largest}."
            )
        if method == "gradient" and objective == "jacobian":
            raise ValueError(
                "the gradient in the step size is written for the objective 'gaussian'; tune the objective "
                "'jacobian' by method = 'grid'."
            )
        if objective == "jacobian":
            require_maps(inference)
        elif latent_dim is not None:
            _require_chains(num_chains, latent_dim)
        self.inference = inference
        self.method = method
        self.objective = gaussian_objective if objective == "gaussian" else jacobian_objective
        self.every = every
        self.num_chains = num_chains
        self.num_sentences = num_sentences
        self.factors = tuple(factors)
        self.learning_rate = learning_rate
        self.smallest = smallest
        self.largest = largest

    def __call__(
        self, make_target: Callable[[Batch], Target], batch: Batch, progress: Progress
    ) -> dict[str, float]:
        """Tune if it is time; returns what to log, nothing if it was not."""
        if progress.step % self.every:
            return {}
        few = Batch(batch.tokens[: self.num_sentences], batch.ids[: self.num_sentences], batch.key)
        return self.tune(make_target(few))

    def tune(self, target: Target) -> dict[str, float]:
        """Move the scale once, on the sentences of a target; ``step_objective`` is that of the new scale."""
        if self.objective is gaussian_objective:
            _require_chains(self.num_chains, target.dim)
        noise = CommonNoise(target, self.num_chains, self.inference.num_steps)
        here = float(self.inference.step_scale)
        wanted = (self._grid if self.method == "grid" else self._ascend)(target, here, noise)
        bound = stable_scale(target, self.inference, wanted, noise)
        scale = min(self.largest, max(self.smallest, min(wanted, SHARE_OF_STABLE * bound)))
        self.inference.step_scale.fill_(scale)
        return {"step_scale": scale, "step_objective": self.objective(target, self.inference, scale, noise)}

    def _grid(self, target: Target, scale: float, noise: CommonNoise) -> float:
        qualities = {f: self.objective(target, self.inference, scale * f, noise) for f in self.factors}
        best = max(qualities, key=qualities.__getitem__)
        if qualities.get(1.0, -math.inf) > qualities[best] - SMALLEST_GAIN:
            best = 1.0
        if not math.isfinite(qualities[best]):
            log.warning("every candidate step size diverges; the steps are halved.")
            return 0.5 * scale
        return best * scale

    def _ascend(self, target: Target, scale: float, noise: CommonNoise) -> float:
        slope = gaussian_gradient(target, self.inference, scale, noise)
        if not math.isfinite(slope):
            log.warning("the tuning run diverged; the steps are halved.")
            return 0.5 * scale
        move = max(-LARGEST_MOVE, min(LARGEST_MOVE, self.learning_rate * slope))
        return scale * math.exp(move)
