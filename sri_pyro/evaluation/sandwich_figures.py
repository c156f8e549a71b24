"""The figures of log p(x) between two bounds, on sentences that the model wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.drawing import ALARM, FIRST, MUTED, SECOND, Panel, axes, draw
from sri_pyro.evaluation.metrics import mean_estimate
from sri_pyro.evaluation.verdicts import rounded

Array = NDArray[np.float64]
MOST_SENTENCES = 120
"""Drawn one by one; of more, as many at even ranks."""


def sandwich_panels(data: InferenceResult) -> list[Panel]:
    """Both panels of the group ``simulated`` of ``inference.nc``; none if no sentence has finite bounds.

    Args:
        data: The export.
    """
    group = data["simulated"]
    columns = {name: group[name].to_numpy() for name in ("log_px", "upper", "khat", "khat_threshold")}
    known = np.isfinite(columns["log_px"]) & np.isfinite(columns["upper"])
    if not known.any():
        return []
    lower, upper = (columns[name][known].astype(np.float64) for name in ("log_px", "upper"))
    failed = ~(columns["khat"] < columns["khat_threshold"])[known]
    lost = len(known) - len(lower)
    said = f" {lost} sentences without finite bounds are left out." if lost else ""
    return [bounds(lower, upper, failed, said), gaps(lower, upper, said)]


def bounds(lower: Array, upper: Array, failed: NDArray[Any], said: str) -> Panel:
    """An interval for every sentence."""
    order = np.argsort(lower, kind="stable")
    if len(order) > MOST_SENTENCES:
        order = order[np.linspace(0, len(order) - 1, MOST_SENTENCES).round().astype(int)]
        said = f" Of {len(lower):,} sentences {MOST_SENTENCES} are drawn." + said
    ax = axes("sentences that the model wrote, in order", "log p(x), nats")
    places = np.arange(len(order))
    ax.vlines(places, lower[order], upper[order], color=MUTED, linewidth=1)
    for ends, color, label in ((upper, SECOND, "upper bound"), (lower, FIRST, "lower bound")):
        ax.plot(places, ends[order], "_", color=color, markersize=4, markeredgewidth=1.4, label=label)
    loud = failed[order]
    if loud.any():
        ax.plot(
            places[loud], lower[order][loud], "D", color=ALARM, markersize=4, label="k-hat at or above its threshold"
        )  # fmt: skip
    return draw(
        ax,
        "log p(x) between two bounds",
        "Sentences that the model wrote, whose codes are exact posterior draws. In expectation log p(x) lies between "
        "the two ends of each line; where they fall together it is known, where they part it is known no closer."
        + said,
        f"The widest of {len(lower)} sentences has {np.max(upper - lower):.3g} nats between its bounds; k-hat fails on "
        f"{int(failed.sum())}.",
    )


def gaps(lower: Array, upper: Array, said: str) -> Panel:
    """How far bounds are apart."""
    gap = upper - lower
    found = mean_estimate(torch.from_numpy(gap))
    ax = axes("upper less lower bound, nats", "sentences")
    ax.hist(gap, 30, color=FIRST, alpha=0.8)
    ax.axvline(0, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)), label="0: known")
    ax.axvline(found.value, color=SECOND, linewidth=1.6, label=f"mean {found.value:.3g}")
    return draw(
        ax,
        "The gap between the bounds",
        "Noise makes single gaps negative; their mean is not, in expectation, and the lower bound is short of log p(x) "
        "by no more than that mean." + said,
        f"The mean gap is {rounded(found)} nats a sentence.",
    )
