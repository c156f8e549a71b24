"""The figures of the report about codes: units, runs step by step, posteriors; pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from sri_pyro.evaluation import latent_space
from sri_pyro.evaluation.aggregate import compare_radii
from sri_pyro.evaluation.drawing import (
    FIRST,
    GRID,
    MUTED,
    SECOND,
    Panel,
    axes,
    density,
    draw,
    level,
    logarithmic_above_one,
)
from sri_pyro.evaluation.metrics import Z_95
from sri_pyro.evaluation.units import ACTIVE

Array = NDArray[Any]

SHOWN_UNITS = 6
"""Dimensions of a posterior that are shown."""


def unit_spectrum(units: Mapping[str, Any]) -> Panel:
    """Corrected variances of the units, with their simultaneous lower bounds."""
    variances, lower = np.array(units["variances"]), np.array(units["lower_bounds"])
    ax = _spectrum_axes("variance between sentences", min(lower.min(), variances.min()), variances.max())
    rank, active = np.arange(1, len(variances) + 1), lower > ACTIVE
    for use, color, label in ((active, FIRST, "active"), (~active, MUTED, "not shown to be active")):
        if use.any():
            ax.vlines(rank[use], lower[use], variances[use], color=color, linewidth=1.4)
            ax.plot(rank[use], variances[use], "o", color=color, markersize=4, label=label)
            ax.plot(rank[use], lower[use], "_", color=color, markersize=5)
    level(ax, ACTIVE, f"threshold {ACTIVE}")
    return draw(
        ax,
        "Active units",
        "Dots: how much the mean code of a unit varies between sentences, after Monte Carlo noise is taken off. Stems "
        f"reach down to simultaneous 95% lower bounds; a unit is active if its bound is above {ACTIVE}. The axis is "
        f"linear below {ACTIVE} and logarithmic above.",
        f"{units['count']} of {units['of']} units have a lower bound above {ACTIVE}.",
    )


def unit_eigenvalues(units: Mapping[str, Any]) -> Panel:
    """The same without a choice of axes; as many are coloured as the table counts."""
    values, count = np.array(units["eigenvalues"]), int(units["active_eigenvalues"])
    threshold = ACTIVE + float(units.get("noise_edge", 0.0))
    ax = _spectrum_axes("eigenvalue", values.min(), max(values.max(), threshold))
    rank = np.arange(1, len(values) + 1)  # largest first, so that the active ones come first
    for use, color, label in (
        (rank <= count, FIRST, "active"),
        (rank > count, MUTED, "not shown to be active"),
    ):
        if use.any():
            ax.plot(rank[use], values[use], "s", color=color, markersize=4, label=label)
    rule = f"{threshold:.2g} ({ACTIVE} + noise)" if "noise_edge" in units else f"{ACTIVE}"
    level(ax, threshold, rule)
    return draw(
        ax,
        "Active directions",
        "Eigenvalues of the same corrected covariance between sentences. A direction is active if its eigenvalue is "
        f"above {ACTIVE} by more than the largest eigenvalue of Monte Carlo noise alone. Unlike units, directions do "
        "not depend on how the latent axes happen to be turned; where there are far fewer of them, units repeat one "
        "another.",
        f"{count} of {units['of']} eigenvalues are above {threshold:.2g}.",
    )


def steps(trajectory: Mapping[str, Array]) -> list[Panel]:
    """Runs step by step: energy, divergence, gradient, distance; arrays of shape [n', K + 1]."""
    excess = trajectory["energy"] - trajectory["negative_log_px"][:, None]
    kl, few = trajectory["kl_posterior"], len(excess)
    ax = _by_step("-log p(z | x), nats", excess)
    energy = draw(
        ax,
        "Energy by step",
        f"Thin lines: {few} sentences, each the mean over its chains of -log p(x, z) + log p(x); thick: their mean. It "
        "should fall and then stay level. Level means at rest, and not that the place is right.",
        f"The mean energy goes from {excess[:, 0].mean():.1f} to {excess[:, -1].mean():.1f} nats.",
    )
    panels = [energy]
    if np.isfinite(kl).any():
        ax = _by_step("KL, nats", kl)
        scale = " The axis is logarithmic above 1." if logarithmic_above_one(ax, kl) else ""
        level(ax, 0, "0: the posterior")
        panels.append(
            draw(
                ax,
                "KL(inference ‖ posterior) by step",
                "A lower estimate (from a Gaussian entropy): slightly below the dashed zero line is as good as zero. "
                "Where it levels off above zero, more steps will not help; smaller or better ones may."
                + scale,
                f"The mean lower estimate goes from {kl[:, 0].mean():.2f} to {kl[:, -1].mean():.2f} nats.",
            )
        )
    ax = _by_step("gradient norm", trajectory["gradient_norm"])
    ax.set_ylim(bottom=0)
    gradient = draw(
        ax,
        "Gradient norm by step",
        "At rest it does not vanish, for noise balances it; spikes or growth mean that steps are too large.",
        "Mean gradient norm of log p(x, z) by step.",
    )
    ax = _by_step("distance from the start", trajectory["distance"])
    ax.set_ylim(bottom=0)
    distance = draw(
        ax,
        "Distance travelled by step",
        "Mean distance from where a chain began, a draw of the prior. A line that still climbs has not forgotten it.",
        "Mean distance of the chains from their start by step.",
    )
    return [*panels, gradient, distance]


def marginals(
    table: pd.DataFrame, z: Array, proposal_z: Array, log_weight: Array, prior_z: Array | None
) -> list[Panel]:
    """Short run against importance posterior in the most active dimensions of four sentences.

    Args:
        table: Of the sentences, with their text.
        z: Short-run draws, shape [M, n, D].
        proposal_z: Importance draws, shape [S, n, D].
        log_weight: Theirs, shape [S, n].
        prior_z: Draws of the prior; None for N(0, I).
    """
    dims = np.argsort(-z.mean(0).var(0))[:SHOWN_UNITS]
    by_length = np.argsort(table["num_tokens"].to_numpy(), kind="stable")
    rows = by_length[np.unique((len(table) - 1) * np.array([1, 4, 6, 9]) // 10)]
    prior = (
        np.array([[-Z_95], [Z_95]])
        if prior_z is None
        else np.quantile(prior_z[:, dims], [0.025, 0.975], axis=0)
    )
    prior = np.broadcast_to(prior, (2, len(dims)))
    panels = []
    for row in rows:
        weight = np.exp(log_weight[:, row] - log_weight[:, row].max()).astype(float)
        weight /= weight.sum()
        ax = axes("latent dimension", "z")
        ax.grid(visible=False)
        for place, dim in enumerate(dims):
            ax.fill_between([place - 0.45, place + 0.45], *prior[:, place], color=GRID, linewidth=0)
            own, weighted = z[:, row, dim].astype(float), proposal_z[:, row, dim].astype(float)
            _half_violin(ax, place, own, np.full(len(own), 1 / len(own)), -1, FIRST)
            _half_violin(ax, place, weighted, weight, 1, SECOND)
        ax.plot([], [], color=FIRST, linewidth=5, alpha=0.6, label="inference")
        ax.plot([], [], color=SECOND, linewidth=5, alpha=0.6, label="posterior")
        ax.plot([], [], color=GRID, linewidth=5, label="prior, 95%")
        ax.set_xticks(range(len(dims)), [str(dim) for dim in dims])
        own_row = table.iloc[row]
        advice = (
            "Where the halves have one shape, the inference has the posterior's law in that dimension alone; how "
            "dimensions hang together is not compared."
            if own_row["khat"] < own_row["khat_threshold"]
            else "That is too high: do not believe the right halves."
        )
        panels.append(
            draw(
                ax,
                f"“{_short(str(table['text'].iloc[row]))}”",
                f"Left halves: {len(z)} draws; right halves: the importance-weighted posterior (k-hat "
                f"{own_row['khat']:.2f}). {advice}",
                f"Marginal posteriors of {len(dims)} latent dimensions for one sentence of "
                f"{table['num_tokens'].iloc[row]} tokens.",
            )
        )
    return panels


def aggregate(
    z: Array, proposal_z: Array, log_weight: Array, passed: torch.Tensor, prior_z: Array | None
) -> list[Panel]:
    """Aggregate posterior against prior, by radius and by eigenvalue; shapes as for ``marginals``.

    Of the posterior only those sentences are drawn whose weights pass.
    """
    prior = None if prior_z is None else torch.from_numpy(prior_z)
    own, weighted, weights = map(torch.from_numpy, (z, proposal_z, log_weight))
    gaps = compare_radii(own, weighted, weights, passed, prior)
    ax = axes("‖z‖²", "difference of distribution functions")
    ax.axhline(0, color=MUTED, linewidth=0.8)
    known = int(passed.sum()) > 1
    for gap, color, label, style in (
        (gaps.posterior, SECOND, "posterior", "-"),
        (gaps.short_run, FIRST, "inference", (0, (3, 1.5))),
    )[0 if known else 1 :]:
        ax.fill_between(
            gap.radius, gap.gap - gap.band, gap.gap + gap.band, color=color, alpha=0.2, linewidth=0
        )
        ax.plot(gap.radius, gap.gap, color=color, linewidth=1.6, linestyle=style, label=f"{label} ± band")
    n, dim = z.shape[1:]
    against = f"chi-squared with {dim} degrees of freedom" if prior is None else "the prior's own draws"
    of = "all" if passed.all() else f"the {int(passed.sum()):,} (inference: {n:,}) of"
    radius = draw(
        ax,
        "Aggregate posterior against prior: radius",
        f"Distribution of ‖z‖² over {of} {n:,} sentences less that of {against}; above zero, codes lie further in. "
        "Where zero lies outside a law's band at some radius, that law is not the prior. The bands (95%, simultaneous "
        "over radii, hence conservative at any single one) hold the choice of sentences and the noise of "
        "draws and weights.",
        f"The largest difference is {gaps.posterior.largest:.3f} ± {gaps.posterior.band:.3f} for the posterior and "
        f"{gaps.short_run.largest:.3f} ± {gaps.short_run.band:.3f} for the inference.",
    )
    ax = axes("rank", "eigenvalue")
    rank = np.arange(1, dim + 1)
    if prior is None:
        low, high = latent_space.scatter_of_eigenvalues(n, dim)
        ax.axhspan(low, high, color=GRID, linewidth=0, label="N(0, I) by chance")
        ax.axhline(1, color=MUTED, linewidth=0.8)
    else:
        ax.plot(rank, latent_space.eigenvalues(prior[:, None]), color=MUTED, linewidth=1, label="prior")
    ax.plot(rank, latent_space.eigenvalues(own), "o", color=FIRST, markersize=4, label="inference")
    if known:
        values = latent_space.eigenvalues(weighted[:, passed], weights[:, passed])
        ax.plot(rank, values, "s", color=SECOND, markersize=4, fillstyle="none", label="posterior")
    _ranks(ax)
    ax.set_ylim(bottom=0)
    caption = "Eigenvalues of the covariance of all codes. Those of N(0, I) are 1; from as many independent draws they "
    caption += "lie in the grey band. Far below it are directions that no sentence uses."
    if prior is not None:
        caption = (
            "Eigenvalues of the covariance of all codes, and of the prior's draws (line). They should agree."
        )
    return [
        radius,
        draw(ax, "Aggregate posterior against prior: eigenvalues", caption, "Eigenvalues by rank."),
    ]


def _spectrum_axes(ylabel: str, least: float, most: float) -> Axes:
    ax = axes("rank", ylabel)
    ax.set_yscale("symlog", linthresh=ACTIVE, linscale=0.8)
    ax.set_ylim(min(-0.5 * ACTIVE, 1.3 * least), max(10 * ACTIVE, 2 * most))
    ticks = [
        t for t in (-10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10) if ax.get_ylim()[0] <= t <= ax.get_ylim()[1]
    ]
    ax.set_yticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    _ranks(ax)
    return ax


def _ranks(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _by_step(ylabel: str, values: Array) -> Axes:
    """A thin line per sentence and a thick one for their mean."""
    ax = axes("step", ylabel)
    k = np.arange(values.shape[1])
    for i, each in enumerate(values):
        ax.plot(k, each, color=FIRST, linewidth=0.7, alpha=0.45, label="" if i else "a sentence")
    ax.plot(k, values.mean(0), color=FIRST, linewidth=2, label="mean")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return ax


def _half_violin(ax: Axes, place: int, values: Array, weights: Array, side: int, color: str) -> None:
    use = weights > 1e-6
    inner = values[use]
    pad = 0.3 * (inner.max() - inner.min() + 0.1)
    grid = np.linspace(inner.min() - pad, inner.max() + pad, 60)
    height = density(inner, weights[use] / weights[use].sum(), grid)
    keep = height > 0.01 * height.max()
    edge = place + side * 0.42 * height[keep] / height.max()
    ax.fill_betweenx(grid[keep], place, edge, color=color, alpha=0.6, linewidth=0)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
