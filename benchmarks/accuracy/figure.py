"""The figure: divergence from the posterior against CPU seconds per sentence, in both settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy.contestants import BASELINE, PAPER_STEPS
from benchmarks.accuracy.results import Setting
from sri_pyro.writing import atomic_path

STYLES = {
    BASELINE: ("#000000", "o", "the paper's recipe in plain Pyro"),
    "ours, ula": ("#E69F00", "s", "ours, ula"),
    "ours, lm": ("#0072B2", "^", "ours, lm"),
    "ours, baoab": ("#009E73", "v", "ours, baoab"),
    "Pyro, HMC": ("#CC79A7", "D", "Pyro's HMC"),
    "Pyro, NUTS": ("#D55E00", "P", "Pyro's NUTS"),
}
"""Colour, marker and label of the curves that are drawn; colours by Okabe and Ito, told apart by any eye."""
LEVEL = f"where its {PAPER_STEPS} steps end"
PANELS = {
    "gaussian": ("Gaussian posterior, 32 dimensions: exact", 1e-4),
    "text": ("Trained text model, held-out sentences: estimated", 3e-3),
}
"""Title, and nats below which nothing is drawn: exact values go on falling, estimated ones are noise."""


def drawn(settings: Mapping[str, Setting], path: Path) -> None:
    """Draw both settings side by side and write the picture."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for ax, (name, (title, floor)) in zip(panels, PANELS.items(), strict=True):
        _panel(ax, settings[name], floor)
        ax.set_title(title, loc="left", fontsize=11)
    panels[0].set_ylabel("KL(draws, posterior), nats")
    named = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    labels = [STYLES[BASELINE][2], LEVEL, *(label for _, _, label in list(STYLES.values())[1:])]
    figure.legend(
        [named[label] for label in labels],
        labels,
        loc="outside upper center",
        ncols=len(labels),
        frameon=False,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _panel(ax: Axes, setting: Setting, floor: float) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("CPU seconds a sentence")
    ax.grid(which="major", color="0.9", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    for name, (colour, marker, label) in STYLES.items():
        curve = setting.curve(name)
        x, y = setting.prices[curve.cost].seconds(curve.gradients), curve.means()
        seen = _seen(y, floor)
        ax.errorbar(
            x[seen], y[seen], yerr=2 * curve.errors()[seen], color=colour, marker=marker, markersize=4.5,
            linewidth=1.6, elinewidth=0.8, label=label,
        )  # fmt: skip
    baseline = setting.curve(BASELINE)
    level = float(baseline.means()[baseline.gradients == PAPER_STEPS][0])
    ax.axhline(level, color="0.4", linewidth=0.9, linestyle=(0, (4, 3)), label=LEVEL)
    ax.set_ylim(bottom=floor)


def _seen(y: np.ndarray, floor: float) -> np.ndarray:
    """Points that are drawn: up to the first that falls below the floor."""
    below = np.flatnonzero(y < floor)
    return np.arange(below[0] if len(below) else len(y))
