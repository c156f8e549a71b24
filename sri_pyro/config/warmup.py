"""Warm-up: whether training is long enough for what rises along it to reach its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from sri_pyro.config.schema import Part, keywords, unwrapped
from sri_pyro.config.settings import Config
from sri_pyro.numerics.kl_weights import KLWeight
from sri_pyro.numerics.schedules import NoiseSchedule
from sri_pyro.types import Progress

RISING: Final = {NoiseSchedule: "noise scale", KLWeight: "KL weight"}
MOMENTS: Final = 1000
"""Of training at which a schedule is asked."""
NEAR: Final = 0.01
"""Share of the end that counts as there: training stops short of its last epoch's end."""


def unreached(config: Config) -> list[str]:
    """A sentence for every schedule of inference and objective that never comes to its end within the epochs.

    Example:
        >>> from sri_pyro.config import parse_config
        >>> short = parse_config({"data": "pcfg"}, ["training.epochs=4", "inference.noise.epochs=8"])
        >>> print(*unreached(short))
        training.epochs = 4 ends before the noise scale is 1, as in evaluation, and it comes to 0.525: raise
        training.epochs, or let inference.noise end sooner
    """
    epochs = config.training.options["epochs"]
    return [
        f"training.epochs = {epochs} ends before the {what} is {end:g}, as in evaluation, and it comes to "
        f"{nearest:.3g}: raise training.epochs, or let {place} end sooner"
        for what, place, end, nearest in _rising(config)
        if not math.isclose(nearest, end, rel_tol=NEAR)
    ]


def _rising(config: Config) -> Iterator[tuple[str, str, float, float]]:
    """Every schedule: what it is of, where it stands, its end, and what comes nearest to that."""
    epochs = config.training.options["epochs"]
    for section, part in (("inference", config.inference), ("objective", config.objective)):
        for name, parameter in keywords(part.factory).items():
            what, chosen = RISING.get(unwrapped(parameter.annotation)), part.options.get(name)
            if what is None or not isinstance(chosen, Part):
                continue
            schedule = chosen.build()
            end = schedule(None)
            values = [schedule(Progress(0, epochs * i / MOMENTS)) for i in range(MOMENTS)]
            yield what, f"{section}.{name}", end, min(values, key=lambda value: abs(value - end))
