"""Schedules: how the step size falls along a run, and how the noise scale rises along training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from sri_pyro.types import Progress


class StepSchedule(Protocol):
    """Gives the K step sizes of a run; a common factor is tuned elsewhere."""

    def __call__(self, num_steps: int) -> list[float]:
        """The step sizes s_0, ..., s_{K-1}, in squared units of z."""
        ...


class NoiseSchedule(Protocol):
    """Gives the noise scale at a moment of training."""

    def __call__(self, progress: Progress | None) -> float:
        """The noise scale tau; ``None`` stands for evaluation and gives the final one."""
        ...


def risen(start: float, end: float, epochs: float, progress: Progress | None) -> float:
    """A number on its straight way from one to another over some epochs; at its end in evaluation."""
    done = 1.0 if progress is None else min(1.0, progress.epoch / epochs)
    return start + (end - start) * done


def _require_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1; got {num_steps}.")


def require_not_negative(**scales: float) -> None:
    """Raise unless every named number is finite and at least 0."""
    for name, scale in scales.items():
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"{name} must be a finite number of at least 0; got {scale}.")


def require_positive(**values: float) -> None:
    """Raise unless every named number is finite and more than 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive finite number; got {value}.")


@dataclass(frozen=True)
class ConstantSteps:
    """The same step size throughout, as in the paper.

    Args:
        step_size: In squared units of z; it multiplies the gradient itself.

    Example:
        >>> ConstantSteps(0.1)(3)
        [0.1, 0.1, 0.1]
    """

    step_size: float = 0.08

    def __post_init__(self) -> None:
        require_positive(step_size=self.step_size)

    def __call__(self, num_steps: int) -> list[float]:
        """K times the step size."""
        _require_steps(num_steps)
        return [self.step_size] * num_steps


@dataclass(frozen=True)
class GeometricSteps:
    """Step sizes that fall (or rise) by a constant ratio: long moves first, fine ones last.

    Args:
        first: The first step size, in squared units of z.
        last: The last one.

    Example:
        >>> [round(s, 3) for s in GeometricSteps(0.4, 0.1)(3)]
        [0.4, 0.2, 0.1]
    """

    first: float = 0.2
    last: float = 0.02

    def __post_init__(self) -> None:
        require_positive(first=self.first, last=self.last)

    def __call__(self, num_steps: int) -> list[float]:
        """K step sizes; a single step uses ``first``."""
        _require_steps(num_steps)
        if num_steps == 1:
            return [self.first]
        ratio = (self.last / self.first) ** (1 / (num_steps - 1))
        return [self.first * ratio**k for k in range(num_steps)]


@dataclass(frozen=True)
class ListedSteps:
    """Step sizes as they stand in a list, one per step.

    Args:
        step_sizes: K positive numbers.

    Raises:
        ValueError: If the list is empty, an entry is not positive, or K is not its length.

    Example:
        >>> ListedSteps([0.3, 0.1])(2)
        [0.3, 0.1]
    """

    step_sizes: Sequence[float]

    def __post_init__(self) -> None:
        if not self.step_sizes:
            raise ValueError("step_sizes must list at least one step size; got an empty list.")
        for k, step in enumerate(self.step_sizes):
            require_positive(**{f"step_sizes[{k}]": step})

    def __call__(self, num_steps: int) -> list[float]:
        """The list itself."""
        if num_steps != len(self.step_sizes):
            raise ValueError(
                f"num_steps is {num_steps}, but {len(self.step_sizes)} step sizes are listed; "
                "make the two agree."
            )
        return list(self.step_sizes)


@dataclass(frozen=True)
class ConstantNoise:
    """The same noise scale throughout.

    Args:
        scale: The noise scale, which multiplies the noise; 1 samples, 0 ascends.

    Example:
        >>> ConstantNoise()(Progress(step=0, epoch=0.0))
        1.0
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        require_not_negative(scale=self.scale)

    def __call__(self, progress: Progress | None) -> float:
        """The noise scale."""
        return self.scale


@dataclass(frozen=True)
class LinearNoise:
    """The noise scale rises (or falls) linearly, epoch by epoch and within each.

    This is the warm-up that keeps z alive: a chain at a low noise scale reports codes close to a mode
    of the posterior, from which the decoder can learn to read, before the scale reaches 1 and the
    chain samples.

    Args:
        start: The noise scale at first.
        end: The noise scale from then on, and in evaluation.
        epochs: Epochs until then.

    Example:
        >>> warm_up = LinearNoise(start=0.05, end=1.0, epochs=8)
        >>> [round(warm_up(Progress(0, epoch)), 3) for epoch in (0.0, 4.0, 8.0, 20.0)], warm_up(None)
        ([0.05, 0.525, 1.0, 1.0], 1.0)
    """

    start: float = 0.05
    end: float = 1.0
    epochs: float = 8.0

    def __post_init__(self) -> None:
        require_positive(epochs=self.epochs)
        require_not_negative(start=self.start, end=self.end)

    def __call__(self, progress: Progress | None) -> float:
        """The noise scale after a fraction of the epochs."""
        return risen(self.start, self.end, self.epochs, progress)


@dataclass(frozen=True)
class StaircaseNoise:
    """The noise scale stays for some epochs and then rises at the beginning of each.

    The defaults are the authors' released schedule: 0.05 for 15 epochs, then 0.05 more per epoch, to 0.2.

    Args:
        start: The noise scale at first.
        increment: By how much it rises, per epoch.
        hold: Epochs before the first rise.
        end: The highest noise scale, and that of evaluation.

    Example:
        >>> [round(StaircaseNoise()(Progress(0, epoch)), 2) for epoch in (0, 14.9, 15, 16.5, 40)]
        [0.05, 0.05, 0.1, 0.15, 0.2]
    """

    start: float = 0.05
    increment: float = 0.05
    hold: int = 15
    end: float = 0.2

    def __post_init__(self) -> None:
        require_positive(increment=self.increment)
        require_not_negative(start=self.start, end=self.end)
        if self.hold < 0:
            raise ValueError(f"hold must be at least 0; got {self.hold}.")

    def __call__(self, progress: Progress | None) -> float:
        """The noise scale of the current epoch."""
        if progress is None:
            return self.end
        rises = max(0, math.floor(progress.epoch) - self.hold + 1)
        return min(self.end, self.start + self.increment * rises)


STEP_SCHEDULES: MappingProxyType[str, type[StepSchedule]] = MappingProxyType(
    {"constant": ConstantSteps, "geometric": GeometricSteps, "listed": ListedSteps}
)
NOISE_SCHEDULES: MappingProxyType[str, type[NoiseSchedule]] = MappingProxyType(
    {"constant": ConstantNoise, "linear": LinearNoise, "staircase": StaircaseNoise}
)
