"""Page: a comparison as one self-contained page, in the style of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sri_pyro.comparing.layout import Table, passing
from sri_pyro.comparing.rows import Row
from sri_pyro.evaluation.drawing import FIRST, GRID, INK, MUTED, SECOND, TYPE, Panel, axes, draw
from sri_pyro.evaluation.report import facts, template

WIDTH, ROW_HEIGHT, REST_HEIGHT = 7.0, 0.45, 1.0
"""Inches."""


def page(
    title: str,
    summary: str,
    rows: Sequence[Row],
    tables: Sequence[Table],
    reference: str,
    notes: Sequence[str],
    whole: bool,
    origin: Mapping[str, Any],
    linked: bool = True,
) -> str:
    """The page as text; the same comparison gives the same page.

    Args:
        title: Of the page.
        summary: The comparison in a sentence.
        rows: The systems.
        tables: What is laid out; the first is of all systems, and the differences carry their figure.
        reference: The system that the others are compared with.
        notes: What is to be known besides.
        whole: Whether every run that was asked for is in it.
        origin: What the numbers were made from.
        linked: Whether to link to the reports of the runs, which then lie beside it.
    """
    found = [
        (
            row.name,
            [(each.run.seed, f"{row.name}/{each.run.folder.path.name}/report.html") for each in row.judged],
        )
        for row in rows
        if linked
    ]
    return template("comparison.html.j2", "sri_pyro.comparing").render(
        title=title,
        summary=summary,
        tables=tables,
        marks={row.name: row.notes for row in rows},
        figure=dots(rows, reference, next((t.title for t in tables if "paired" in t.title), "")),
        reports=found,
        notes=notes,
        whole=whole,
        facts=facts(origin),
    )


def dots(rows: Sequence[Row], reference: str, title: str) -> Panel | None:
    """Every difference from the reference as a dot with its 95 % interval, and each seed's beside it.

    Systems whose likelihood is not to be trusted are left out, as everywhere; None if nothing is left.
    """
    at = {row.name: row for row in rows}
    if reference not in at or not at[reference].trusted:
        return None
    drawn = [
        row
        for row in rows
        if row.difference is not None and row.trusted and np.isfinite(row.difference.value)
    ]
    if not drawn:
        return None
    ax = axes(f"log p(x) less that of {reference}, nats a sentence".replace("$", r"\$"), "")
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.set_size_inches(WIDTH, REST_HEIGHT + ROW_HEIGHT * len(drawn))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    ax.axvline(0, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
    seeds_label, all_label = "one training", "all trainings, with the 95% interval"
    for place, row in enumerate(drawn):
        found = row.difference
        assert found is not None
        if len(row.by_seed) > 1:
            each = [one.value for one in row.by_seed]
            ax.plot(
                each,
                [place + 0.22] * len(each),
                "o",
                color=SECOND,
                markersize=3.5,
                fillstyle="none",
                label=seeds_label,
            )
            seeds_label = ""
        ax.plot([found.lower, found.upper], [place, place], color=FIRST, linewidth=1.6)
        ax.plot([found.value], [place], "o", color=FIRST, markersize=6, label=all_label)
        all_label = ""
    ax.set_yticks(range(len(drawn)), [row.name for row in drawn], fontsize=TYPE, color=INK, parse_math=False)
    ax.set_ylim(len(drawn) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(7))
    counted = all(row.difference is not None and row.difference.counts_seeds for row in drawn)
    said = "; ".join(f"{row.name} {passing(row.difference)}" for row in drawn)
    return draw(
        ax,
        title,
        "Right of the dotted line a system is better than the reference. Intervals are not corrected for their number; "
        "p (Holm) below is. "
        + (
            "Seeds are part of the error, so that they speak of recipes."
            if counted
            else "They are over sentences alone where a system has one seed, and speak of these trained models."
        ),
        f"Differences from {reference}: {said}.",
    )
