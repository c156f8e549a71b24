"""The figures of a calibration: ranks of true codes against their band, and coverage of intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.drawing import (
    ALARM,
    FIRST,
    GRID,
    INK,
    MUTED,
    SECOND,
    Panel,
    axes,
    draw,
    side_by_side,
)
from sri_pyro.evaluation.metrics import CONFIDENCE
from sri_pyro.numerics.student import two_sided_quantile

DENSITIES: Mapping[str, tuple[str, str, Any]] = {
    "log_likelihood": (SECOND, "log p(x | z)", (0, (4, 2))),
    "log_joint": (INK, "log p(x, z)", (0, (1, 1))),
}
"""Colour within the band, name and dashes of the functions that look at x."""


def calibration_panels(numbers: Mapping[str, Any], data: InferenceResult) -> list[Panel]:
    """All panels of the findings ``calibration``: coverage, then the ranks of every inference.

    Args:
        numbers: Of the findings.
        data: Their arrays.
    """
    return [coverage(numbers, data), *(ranks(name, numbers, data) for name in numbers["systems"])]


def coverage(numbers: Mapping[str, Any], data: InferenceResult) -> Panel:
    """How many true coordinates central intervals hold, against how many they claim to."""
    found = data["coverage"]
    nominal, covered = found["nominal"].to_numpy(), found["covered"].to_numpy()
    names = [str(name) for name in found["system"].to_numpy()]
    quantile = two_sided_quantile(CONFIDENCE, int(numbers["num_simulations"]) - 1)
    ax = axes("central interval", "true coordinates within, %")
    places = np.arange(len(nominal))
    ends = places - 0.42, places + 0.42
    ax.hlines(100 * nominal, *ends, color=ALARM, linewidth=1.2, linestyle=(0, (4, 3)), label="exact draws")
    side_by_side(ax, names, 100 * covered, 100 * quantile * found["se"].to_numpy())
    ax.set_xticks(places, [f"{100 * level:g}%" for level in found["level"].to_numpy()])
    told = (
        f"{name} " + ", ".join(f"{100 * share:.1f}%" for share in shares)
        for name, shares in zip(names, covered, strict=True)
    )
    return draw(
        ax,
        "Coverage of central intervals",
        f"Share of the true coordinates of {int(numbers['num_simulations']):,} simulated sentences that lie within the "
        "central intervals of the draws, with 95% intervals over sentences. Dashes: what exact draws of that number "
        f"would hold ({', '.join(f'{100 * share:.3g}%' for share in nominal)}). Below them an inference is too sure of "
        "itself, above them not sure enough.",
        f"Within: {'; '.join(told)}.",
    )


def ranks(name: str, numbers: Mapping[str, Any], data: InferenceResult) -> Panel:
    """Distribution functions of the ranks of one inference, less the uniform one, and their bands."""
    ecdf = data["ecdf"]
    difference, share = ecdf["difference"].sel(system=name).to_numpy(), ecdf["share"].to_numpy()
    outside = [str(quantity) for quantity in numbers["systems"][name]["outside"]]
    ax = axes("rank of the true code, as a share", "ECDF less uniform")
    strict = ecdf["strict_lower"].to_numpy(), ecdf["strict_upper"].to_numpy()
    ax.fill_between(share, *strict, color=GRID, linewidth=0, label="band of all functions")
    for side in ("lower", "upper"):
        one = "" if side == "lower" else "band of one alone"
        ax.plot(share, ecdf[side].to_numpy(), color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), label=one)
    ax.axhline(0, color=MUTED, linewidth=0.8)
    labelled = set[str]()
    for quantity, values in zip(map(str, ecdf["quantity"].to_numpy()), difference.T, strict=True):
        color, label, style = DENSITIES.get(quantity, (FIRST, "a coordinate", "-"))
        width, alpha = (1.4, 1.0) if quantity in DENSITIES else (0.7, 0.5)
        if quantity in outside:
            color, label, width, alpha = ALARM, f"{label}, outside", 1.4, 1.0
        ax.plot(
            share, values, color=color, linewidth=width, alpha=alpha, linestyle=style,
            zorder=3 if quantity in outside else 2, label="" if label in labelled else label,
        )  # fmt: skip
        labelled.add(label)
    ax.set_xlim(0, 1)
    said = f"Outside of the band: {', '.join(outside)}." if outside else "Nothing is outside of the band."
    return draw(
        ax,
        f"Ranks of true codes: {name}",
        f"For every coordinate of z, log p(x | z) and log p(x, z): where the true value ranks among "
        f"{int(numbers['num_draws']):,} draws, over {int(numbers['num_simulations']):,} simulated sentences, as a "
        "distribution function less that of uniform ranks, which is zero. All lines stay within the grey band with "
        f"{100 * CONFIDENCE:g}%. Up on the left and down on the right: draws too narrow; down and up: too wide; above "
        "zero throughout: too high.",
        f"{said} The farthest is {float(numbers['systems'][name]['largest_difference']):.3f} from zero.",
    )
