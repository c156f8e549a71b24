"""The figure: divergence from the posterior against CPU seconds per sentence, in both settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy.contestants import BASELINE
from benchmarks.accuracy.results import Setting
from sri_pyro.writing import atomic_path

STYLES = {
    BASELINE: ("#000000", "o", "the paper's recipe\nin plain Pyro"),
    "ours, ula": ("#E69F00", "s", "ours, ula"),
    "ours, lm": ("#0072B2", "^", "ours, lm"),
    "ours, baoab": ("#009E73", "v", "ours, baoab"),
    "Pyro, HMC": ("#CC79A7", "D", "Pyro's HMC"),
    "Pyro, NUTS": ("#D55E00", "P", "Pyro's NUTS"),
}
"""Colour, marker and label of the curves that are drawn; colours by Okabe and Ito, told apart by any eye."""
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
    ax.set_ylim(bottom=floor)


def _seen(y: np.ndarray, floor: float) -> np.ndarray:
    """Points that are drawn: up to the first that falls below the floor."""
    below = np.flatnonzero(y < floor)
    return np.arange(below[0] if len(below) else len(y))
