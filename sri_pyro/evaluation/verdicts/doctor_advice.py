"""What the step-size doctor advises, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.doctor import (
    DIVERGED,
    FORGOTTEN,
    SAFE,
    WORTH,
    condition,
    gain_of,
    gained,
    length,
    nearer,
    remembers,
)
from sri_pyro.evaluation.verdicts.reading import estimate, number


def advice(numbers: Mapping[str, Any]) -> str:
    """The findings in one plain sentence: where the step stands, whether K suffices, what another step would do.

    Example:
        >>> advice({"inference": "amortized", "num_steps": 0})
        'This inference takes no Langevin steps, so there is no step size to advise on.'
    """
    if not numbers["num_steps"]:
        return "This inference takes no Langevin steps, so there is no step size to advise on."
    share = number(numbers["stability"]["share_of_limit"])
    beyond = f"{share:.2g} times" if share > 1 else f"{share:.2g} of"
    parts = [
        f"{_steps_in_words(numbers)} {beyond} the stability limit of the stiffest sentence",
        *(
            _withheld_in_words(numbers)
            if numbers["grid"] is None
            else [_enough_in_words(numbers), _other_steps_in_words(numbers)]
        ),
    ]
    return "; ".join(part for part in parts if part) + "."


def _steps_in_words(numbers: Mapping[str, Any]) -> str:
    first, last = number(numbers["first_step"]), number(numbers["last_step"])
    if math.isclose(first, last):
        return f"your step {last:.2g} is"
    return f"your steps, {first:.2g} at first, are at the smallest {last:.2g}, which is"


def _withheld_in_words(numbers: Mapping[str, Any]) -> list[str]:
    """What can be said where no KL is told."""
    safe = SAFE * number(numbers["stability"]["limit"])
    unstable = f"it is unstable: a smallest step of at most {safe:.2g} is safe"
    kept = estimate(numbers["mixing"]["correlation_with_start"]).value
    start = f"where its chains end they correlate with where they started by {kept:.2f}"
    return [
        unstable if condition(numbers) == "unstable" else "",
        start if abs(kept) >= FORGOTTEN else "",
        "its draws are too far from Gaussian for a KL to tell whether other steps, or another number of them, would be "
        "better: judge it by sri-pyro reference RUN, which runs long chains",
    ]


def _enough_in_words(numbers: Mapping[str, Any]) -> str:
    """What other numbers of steps would do, at the best steps for each."""
    steps = int(numbers["num_steps"])
    fewer, more = length(numbers, less=True), length(numbers, less=False)
    if more is None:
        return ""
    low, high = gained(more["gain"])
    if low > WORTH:
        return f"K = {steps} is too few: K = {more['num_steps']} would bring it {_nearer(more)}"
    if high < WORTH and remembers(numbers):
        kept = estimate(numbers["mixing"]["correlation_with_start"]).value
        return (
            f"more steps than K = {steps} gain nothing, though where chains end they correlate with where they started "
            f"by {kept:.2f}"
        )
    if high < WORTH:
        half = fewer is not None and gained(fewer["gain"])[0] > -WORTH
        as_well = f", and K = {fewer['num_steps']} would do as well" if half and fewer is not None else ""
        return f"K = {steps} suffices{as_well}"
    return f"whether K = {steps} suffices cannot be told from {numbers['num_sentences']} sentences"


def _other_steps_in_words(numbers: Mapping[str, Any]) -> str:
    grid, state = numbers["grid"], condition(numbers)
    factor = number(grid["best_factor"])
    if state == "good":
        return f"no step tried would bring it closer to the posterior by as much as {WORTH} nats"
    if state == "untold":
        return f"steps {factor:g} times yours may be better, which {numbers['num_sentences']} sentences do not tell"
    wanted = f"steps {factor:g} times yours, {_scaled(numbers)},"
    what = {"unstable": "it is unstable", "too_large": "it is too large", "too_small": "it is too small"}[
        state
    ]
    if factor == 1:  # unstable for few sentences, and best for all
        safe = SAFE * number(numbers["stability"]["limit"])
        return f"{what} for {numbers['stability']['sentences_beyond']} sentences, for which at most {safe:.2g} is safe"
    if math.isinf(gain_of(grid["gain"]).value) or number(numbers["stability"]["diverged"]) > DIVERGED:
        return f"{what}: {wanted} would hold"
    return f"{what}: {wanted} would bring it {_nearer(grid)}"


def _scaled(numbers: Mapping[str, Any]) -> str:
    factor = number(numbers["grid"]["best_factor"])
    first, last = factor * number(numbers["first_step"]), factor * number(numbers["last_step"])
    return f"{last:.2g}" if math.isclose(first, last) else f"{first:.2g} to {last:.2g}"


def _nearer(found: Mapping[str, Any]) -> str:
    return nearer(found["gain"], " to the posterior", " from the posterior")
