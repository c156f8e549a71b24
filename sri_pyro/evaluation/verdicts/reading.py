"""How verdicts read ``metrics.json``, and put into words: estimates and their intervals, options, enough sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.metrics import CONFIDENCE
from sri_pyro.numerics.student import two_sided_quantile
from sri_pyro.types import Estimate

WORTH_MORE = 100
"""An estimate so near a threshold that so many times the sentences are wanted will not be settled by more."""


def estimate(record: Mapping[str, Any] | None) -> Estimate:
    """An estimate from its JSON record; NaN for what is null or missing."""
    record = record or {}
    return Estimate(
        number(record.get("value")),
        number(record.get("se")),
        int(record.get("num_samples") or 0),
        str(record.get("method") or ""),
    )


def number(value: Any) -> float:
    """A float; NaN for null, and for what an option should hold as a number and does not."""
    return float(value) if isinstance(value, int | float) else math.nan


CHAINS = ("short_run", "persistent", "mcmc")
"""Inferences that take steps towards the posterior."""


def option(metrics: Mapping[str, Any], *names: str) -> Any:
    """An option of the configuration that the provenance holds; None where there is none."""
    found: Any = metrics.get("provenance", {}).get("configuration")
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def interval(found: Estimate) -> tuple[float, float]:
    r"""The 95 % interval of a mean over n sentences, by Student's t with n - 1 degrees of freedom.

    With six sentences a normal interval is a quarter too narrow; a single one gives none.

    Example:
        >>> [round(end, 2) for end in interval(Estimate(0.0, 1.0, 6))]
        [-2.57, 2.57]
    """
    if found.num_samples < 2:
        return math.nan, math.nan
    return found.interval(two_sided_quantile(CONFIDENCE, found.num_samples - 1))


MOST_DIGITS = 6
"""After the point; the error of something at its limit, as information at the logarithm of a count, is rounding."""


def rounded(found: Estimate) -> str:
    """An estimate to the second digit of its error, and to no more than six places.

    To four digits without an error, or with one that would show as 0.

    Example:
        >>> rounded(Estimate(60.4768, 1.2304, 64)), rounded(Estimate(-0.23836, 0.0216, 64))
        ('60.5 ± 1.2', '−0.238 ± 0.022')
        >>> rounded(Estimate(-0.23836, 1e-17, 64)), rounded(Estimate(-3e-18, 1e-17, 64))
        ('−0.2384', '0')
    """
    if not math.isfinite(found.se) or found.se < 0.5 * 10**-MOST_DIGITS:
        value = round(found.value, MOST_DIGITS) if math.isfinite(found.se) else found.value
        return f"{value + 0.0:.4g}".replace("-", "−")  # no "−0"
    digits = min(max(0, 1 - math.floor(math.log10(found.se))), MOST_DIGITS)
    return f"{found.value:.{digits}f} ± {found.se:.{digits}f}".replace("-", "−")


def sentences_to_settle(half_width: float, distance: float, num_sentences: int) -> str:
    """How many sentences would make an interval narrow enough, in words; errors fall as their square root.

    Args:
        half_width: Of the interval now.
        distance: From the estimate to the threshold that it straddles.
        num_sentences: Behind the interval now.

    Example:
        >>> sentences_to_settle(0.4, 0.1, 20)
        'About 320 sentences in place of 20 would settle it, if the estimate stays where it is.'
    """
    if not math.isfinite(half_width) or num_sentences < 2:
        return "At least a few dozen sentences are needed."
    if abs(distance) * math.sqrt(WORTH_MORE) <= half_width:
        return "The estimate lies so near the threshold that more sentences will hardly settle it."
    needed = max(1.0, num_sentences * (half_width / abs(distance)) ** 2)
    unit = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    needed = max(num_sentences + 1, math.ceil(round(needed / unit, 6)) * unit)
    return (
        f"About {needed:,} sentences in place of {num_sentences:,} would settle it, if the estimate stays "
        "where it is."
    )


def is_a_chain(metrics: Mapping[str, Any]) -> bool:
    """Whether the inference takes steps, or nobody says what it is."""
    kind = option(metrics, "inference", "kind")
    return not isinstance(kind, str) or kind in CHAINS or ":" in kind


def closer(metrics: Mapping[str, Any]) -> str:
    """What would bring the inference closer to the posterior."""
    if is_a_chain(metrics):
        return "Take more steps, or larger ones."
    return "Refine it: a short run whose start is this encoder comes closer with every step."
