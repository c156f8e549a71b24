"""Tuning: the step sizes of each contestant at each K, by the same search for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sri_pyro.numerics.langevin import (
    Baoab,
    Integrator,
    LeimkuhlerMatthews,
    UnadjustedLangevin,
)
from sri_pyro.numerics.schedules import ConstantSteps, GeometricSteps, StepSchedule


@dataclass(frozen=True)
class Recipe:
    """One way to make a short run, but for a few numbers that are tuned.

    Attributes:
        name: In tables.
        make: Integrator and schedule from the numbers.
        start: Where the search begins.
    """

    name: str
    make: Callable[..., tuple[Integrator, StepSchedule]]
    start: tuple[float, ...]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("ula, constant", lambda s: (UnadjustedLangevin(), ConstantSteps(s)), (0.08,)),
        Recipe("ula", lambda a, b: (UnadjustedLangevin(), GeometricSteps(a, b)), (0.2, 0.03)),
        Recipe("lm", lambda a, b: (LeimkuhlerMatthews(), GeometricSteps(a, b)), (0.3, 0.06)),
        Recipe("baoab", lambda a, b, c: (Baoab(c), GeometricSteps(a, b)), (0.2, 0.06, 2.0)),
    )
}
"""``ula, constant`` is the paper's; the others let the step size fall geometrically between two numbers."""


def searched(
    quality: Callable[[Sequence[float]], float],
    start: Sequence[float],
    widest: float = 0.5,
    finest: float = 0.06,
) -> tuple[list[float], float]:
    """Positive numbers of large quality, by a pattern search in their logarithms, and that quality.

    One number at a time is moved up and down; a stride that gains nowhere is halved, down to ``finest``. It finds the
    top of a smooth hill, and what stands there needs no gradient: -inf marks runs that diverge.

    Example:
        >>> best, top = searched(lambda x: -math.log(x[0] / 3) ** 2, [1.0])
        >>> 2.8 < best[0] < 3.2
        True
    """
    best, top, stride = list(start), quality(start), widest
    while stride > finest:
        before = top
        for place in range(len(best)):
            for sign in (1, -1):
                trial = list(best)
                trial[place] *= math.exp(sign * stride)
                found = quality(trial)
                if found > top:
                    best, top = trial, found
                    break
        if top == before:
            stride /= 2
    return best, top
