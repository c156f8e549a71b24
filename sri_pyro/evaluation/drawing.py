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
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
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
SERIES = ((FIRST, "o"), (SECOND, "s"), (MUTED, "D"), (INK, "^"), (FIRST, "v"), (SECOND, "P"))
"""Colours and markers of several series in one panel, told apart without colour too; the alarm is none of them."""
LONGEST_NAME = 30
"""Characters of a series' name in the legend."""


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


def plain_log(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of every decade, so that there are some within a single one."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(lambda _value, _place: "")


def logarithmic_above_one(ax: Axes, values: NDArray[np.float64]) -> bool:
    """Make the axis of divergences logarithmic above 1 where some are large; returns whether it did."""
    if not np.isfinite(values).any() or np.nanmax(np.abs(values)) <= 4:
        return False
    ax.set_yscale("symlog", linthresh=1, linscale=1)
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_locator(NullLocator())
    return True


def side_by_side(
    ax: Axes,
    names: Sequence[str],
    values: NDArray[np.float64],
    errors: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Draw several series at the same places 0, 1, ..., the markers of a place next to one another.

    Args:
        ax: Where to.
        names: Of the series, for the legend; an empty one is left out of it.
        values: Shape [series, places]; NaN is no point.
        errors: Half the lengths of bars, of the same shape.

    Returns:
        Where the markers stand, shape [series, places].
    """
    num, places = values.shape
    offsets = (np.arange(num) - (num - 1) / 2) * min(0.18, 0.6 / num)
    where: NDArray[np.float64] = np.arange(places) + offsets[:, None]
    for i, name in enumerate(names):
        color, marker = SERIES[i % len(SERIES)]
        bars = None if errors is None else errors[i]
        ax.errorbar(
            where[i], values[i], bars, fmt=marker, color=color, markersize=4, elinewidth=1, label=shortened(name)
        )  # fmt: skip
    return where


def shortened(name: str) -> str:
    """A name of the user's for the legend: long ones lose their middle.

    Example:
        >>> shortened("short_run,num_steps=40,step_schedule.kind=constant")
        'short_run,num_…e.kind=constant'
    """
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME // 2 - 1]}…{name[-LONGEST_NAME // 2 :]}"
    # Matplotlib leaves out of a legend what begins with an underscore.
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name


def _legend(figure: Figure) -> None:
    """One line or more above all axes, where nothing is drawn that it could hide."""
    pairs = [pair for ax in figure.axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    if not pairs:
        return
    handles, labels = zip(*pairs, strict=True)
    fits = sum(len(label) + 6 for label in labels) <= LEGEND_LINE
    legend = figure.legend(
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
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar in a name is a dollar


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
