"""Who competes: names, what each pays for, and how many steps each is asked for."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.accuracy.store import Effort


class Langevin(NamedTuple):
    """A contestant of K steps.

    Attributes:
        name: In tables and figures.
        cost: Whose gradients it pays for: ``pyro``, or one of our integrators.
        recipe: Of its steps, see ``search``.
        numbers: Of the recipe, where they are given and not tuned.
        steps: K of its points.
    """

    name: str
    cost: str
    recipe: str
    steps: tuple[int, ...]
    numbers: tuple[float, ...] | None = None


BASELINE = "Pyro, ula"
"""The paper's recipe in plain Pyro: Langevin steps of one size."""
PAPER_STEPS = 20
FEW = (1, 2, 3, 4, 6, 8, 10, 14, 20)


def langevin(effort: Effort) -> list[Langevin]:
    """All contestants of K steps, the baseline first."""
    paper = (1, 2, 3, 5, 8, 12, PAPER_STEPS, *effort.long_steps)
    return [
        Langevin(BASELINE, "pyro", "ula, constant", paper),
        Langevin("ours, ula, the same run", "ula", "ula, constant", paper),
        Langevin("ours, ula", "ula", "ula", (*FEW, *(k for k in effort.long_steps if k <= 40))),
        Langevin("ours, lm", "lm", "lm", FEW),
        Langevin("ours, baoab", "baoab", "baoab", FEW),
        Langevin("ours, lm, preset default", "lm", "lm", (10,), (0.3, 0.03)),
        Langevin("Pyro, ula, preset paper", "pyro", "ula, constant", (PAPER_STEPS,), (0.08,)),
        Langevin("Pyro, ula, step 0.3", "pyro", "ula, constant", (PAPER_STEPS,), (0.3,)),
    ]
