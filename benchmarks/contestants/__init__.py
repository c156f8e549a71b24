"""Contestants: the same gradient, Langevin step and training step, each as its own kind of user would write it."""

from __future__ import annotations

from typing import Protocol

from benchmarks.problem import Array


class Contestant(Protocol):
    """One way to compute what a ``Problem`` asks for."""

    def gradient(self, z: Array) -> Array:
        """Of log p(x, z) in z, at codes of shape [B, D]."""
        ...

    def walk(self, steps: int) -> object:
        """Take Langevin steps from where the last walk ended; all that does not depend on z is there already."""
        ...

    def train(self, start: Array | None = None) -> object:
        """One training step: K Langevin steps from draws of the prior, then one of Adam on the log joint.

        Args:
            start: Codes to start from instead of draws.
        """
        ...

    def weights(self) -> dict[str, Array]:
        """As they are now, by the names of ``Problem.weights``."""
        ...
