"""Drawing for the page: matplotlib figures as inline SVG that takes its colours and font from the page.

Nothing global is touched: figures are made without pyplot, and every style is set on the axes themselves.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, MUTED, GRID, FIRST, SECOND, ALARM, PAPER = (f"#00000{i}" for i in range(1, 8))
"""Stand-ins that no figure uses for themselves; in the page each is a variable, so that dark mode reaches it."""
VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    ALARM: "var(--alarm)",
    PAPER: "var(--paper)",
}
SIZE = (4.5, 3.1)
"""Inches: near the width at which a panel is shown, on a desk and on a phone, so that its type keeps its size."""
TYPE = 9.0
LEGEND_LINE = 68
"""Characters of a line of the legend, about, its handles counted as six each."""


@dataclass(frozen=True)
class Panel:
    """One figure of the page.

    Attributes:
        title: What it shows.
        caption: How to read it.
        alt: What someone who cannot see it should know.
        svg: The drawing.
    """

    title: str
    caption: str
    alt: str
    svg: str


def axes(xlabel: str, ylabel: str) -> Axes:
    """Empty axes in the style of the page, on a figure of their own."""
    return stacked(xlabel, [ylabel])[0]


def stacked(xlabel: str, ylabels: Sequence[str]) -> list[Axes]:
    """Axes one above the other that share what they run along, on a figure of their own."""
    width, height = SIZE
    figure = Figure(figsize=(width, height * (1 + 0.6 * (len(ylabels) - 1))), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    found = list(figure.subplots(len(ylabels), sharex=True, squeeze=False)[:, 0])
    for ax, ylabel in zip(found, ylabels, strict=True):
        _style(ax, ylabel)
    found[-1].set_xlabel(xlabel, fontsize=TYPE, color=INK)
    return found


def _style(ax: Axes, ylabel: str) -> None:
    ax.patch.set_visible(False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        ax.spines[side].set_color(MUTED)
    ax.tick_params(which="both", colors=MUTED, labelcolor=INK, labelsize=TYPE)
    ax.set_ylabel(ylabel, fontsize=TYPE, color=INK)
    ax.grid(axis="y", color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)


def level(ax: Axes, y: float, label: str, color: str = ALARM) -> None:
    """A horizontal reference line, named in the legend: a name beside it would lie on what is drawn."""
    dashes = (0, (4, 3)) if color == ALARM else (0, (1, 2))  # told apart without colour
    ax.axhline(y, color=color, linewidth=1.2, linestyle=dashes, label=label)


def _legend(figure: Figure) -> None:
    """One line or more above all axes, where nothing is drawn that it could hide."""
    pairs = [pair for ax in figure.axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    if not pairs:
        return
    handles, labels = zip(*pairs, strict=True)
    fits = sum(len(label) + 6 for label in labels) <= LEGEND_LINE
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=len(labels) if fits else 2,
        fontsize=TYPE - 1,
        labelcolor=INK,
        frameon=False,
        handlelength=1.4,
        columnspacing=1.2,
        borderpad=0,
    )


def draw(ax: Axes, title: str, caption: str, alt: str) -> Panel:
    """Finish a panel."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    _legend(figure)
    stream = io.StringIO()
    # Text stays text, for screen readers and for the page's font; ids are the same whenever the drawing is.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    return Panel(title, caption, alt, _inline(stream.getvalue()))


def _inline(svg: str) -> str:
    """A whole SVG file as an element of a page."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: (?:italic |bold )?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg


def density(
    values: NDArray[np.float64], weights: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""A weighted Gaussian kernel density with Silverman's bandwidth, :math:`1.06\, \hat\sigma\, \mathrm{ESS}^{-1/5}`.

    Args:
        values: Draws, shape [S].
        weights: Theirs, normalised, shape [S].
        grid: Where it is wanted, shape [G].

    Example:
        >>> grid = np.linspace(-6, 6, 241)
        >>> heights = density(np.array([-1.0, 1.0]), np.array([0.5, 0.5]), grid)
        >>> round(float(heights.sum() * 0.05), 3)
        1.0
    """
    mean = weights @ values
    spread = np.sqrt(weights @ (values - mean) ** 2)
    bandwidth = max(1.06 * spread * float((weights**2).sum()) ** 0.2, 1e-3)
    kernels = np.exp(-0.5 * ((grid[:, None] - values) / bandwidth) ** 2) / (bandwidth * np.sqrt(2 * np.pi))
    heights: NDArray[np.float64] = kernels @ weights
    return heights
