"""The figures of the report about sentences and training: pure functions of what was left on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

from sri_pyro.evaluation.drawing import (
    ALARM,
    FIRST,
    MUTED,
    SECOND,
    Panel,
    axes,
    draw,
    legend,
    level,
)
from sri_pyro.evaluation.verdicts import number

Array = NDArray[Any]

MOST_POINTS = 1500
"""Sentences drawn one by one; of more, a part, so that the page stays light."""
FEW_POINTS = 150
"""Sentences up to which dots are drawn large and dense, for they do not hide one another."""
SAME_SENTENCES = (
    " Each point is a mean over the same sentences with the same noise; no error is recorded. The level is as "
    "uncertain as the choice of sentences, differences between epochs are less so."
)
"""How to take validation curves without error bars."""
WITH_ERRORS = (
    " Bars, where there are any, are two standard errors of the level. All points are of the same sentences with the "
    "same noise, so that differences between epochs are less uncertain than the bars."
)
"""How to take the validation curve where errors were recorded."""


def khat_by_length(table: pd.DataFrame) -> Panel:
    """Pareto shapes of the importance weights, sentence by sentence."""
    khat, threshold = table["khat"].to_numpy(), table["khat_threshold"].to_numpy()
    ax = axes("tokens in the sentence", "k-hat")
    failed = _by_sentence(ax, table, khat, ~(khat < threshold), "at or above its threshold")
    level(ax, float(threshold.min()), f"threshold {threshold.min():.2f}")
    finite = khat[np.isfinite(khat)]
    if finite.max(initial=0.0) < 2:  # beyond, the two lines run into one
        level(ax, 0.5, "0.5: finite variance below", MUTED, below=True)
    ax.set_ylim(
        min(0.0, float(finite.min(initial=0.0))) - 0.05, max(1.0, float(finite.max(initial=0.0)) * 1.05)
    )
    return draw(
        ax,
        "k-hat by sentence length",
        "Each dot is a sentence. Above the dashed line the importance weights have too heavy a tail for log p(x) to be "
        "believed; a drift upwards with length says that long sentences need more draws." + _thinned(table),
        f"{failed} of {len(table)} sentences lie at or above the k-hat threshold {threshold.min():.2f}.",
    )


def ess_by_length(table: pd.DataFrame) -> Panel:
    """Effective sample sizes."""
    ess = table["ess"].to_numpy()
    ax = axes("tokens in the sentence", "effective sample size")
    ax.set_yscale("log")
    _plain_log(ax)
    _by_sentence(ax, table, ess, ess < 30, "fewer than 30")
    level(ax, 30, "30", MUTED, below=True)
    return draw(
        ax,
        "Effective draws by sentence length",
        f"How many equally weighted draws the {int(table['num_samples'].min()):,} or more importance draws of a "
        "sentence are worth. Read it next to k-hat, never instead: it does not know what was missed.",
        f"The median effective sample size is {np.median(ess):.0f}.",
    )


def by_length(table: pd.DataFrame, with_code: bool, trusted: bool) -> list[Panel]:
    """Per-token likelihood and nats of code by sentence length.

    Args:
        table: Of the sentences.
        with_code: Whether the model has one.
        trusted: Whether the likelihood may be shown as one number.
    """
    tokens = table["num_tokens"].to_numpy()
    nll = -table["log_px"].to_numpy() / tokens
    ax = axes("tokens in the sentence", "nats per token")
    failed = ~(table["khat"] < table["khat_threshold"]).to_numpy()
    _by_sentence(ax, table, nll, failed & with_code, "k-hat too high")
    _means(ax, tokens, nll)
    line = ""
    if trusted:
        rate = -float(table["log_px"].sum()) / tokens.sum()
        level(ax, rate, f"log perplexity {rate:.2f}", MUTED)
        line = " The dashed line is the logarithm of the perplexity."
    legend(ax)
    first = draw(
        ax,
        "Negative log-likelihood per token by length",
        "Each dot is a sentence, the end of the sentence counted as a token; crosses are means over sentences of like "
        "length with two standard errors." + line + _thinned(table),
        f"Per token, sentences have {np.nanmedian(nll):.2f} nats in the median.",
    )
    if not with_code:
        return [first]
    nats = table["kl_posterior_prior"].to_numpy()
    ax = axes("tokens in the sentence", "KL(posterior ‖ prior), nats")
    _by_sentence(ax, table, nats, failed, "k-hat too high")
    _means(ax, tokens, nats)
    legend(ax)
    second = draw(
        ax,
        "What the code holds, by length",
        "Nats that a sentence's posterior has over the prior. A code of content grows with length; one of length alone "
        "does not.",
        f"The mean is {np.nanmean(nats):.2f} nats.",
    )
    return [first, second]


def training(history: Sequence[Mapping[str, Any]], with_code: bool) -> list[Panel]:
    """Loss and validation over epochs; as many panels as there are records for."""
    panels = []
    wanted = (
        ("step", "loss", "Training loss", "loss, nats per sentence", "Objective of the weight steps that were logged."),
        (
            "validation", "nll", "Validation", "NLL, nats per sentence",
            "Held-out NLL; the ring marks the weights kept.",
        ),
        (
            "validation", "kl_posterior_prior", "Code during training", "KL(posterior ‖ prior), nats",
            "On validation sentences. A code that stays near zero from the start never came to life.",
        ),
    )  # fmt: skip
    for kind, name, title, ylabel, caption in wanted:
        records = [
            (r["epoch"], number(r[name]), number(r.get(f"{name}_se")))
            for r in history
            if r["kind"] == kind and name in r
        ]
        if not records or (name == "kl_posterior_prior" and not with_code):
            continue
        epochs, values, errors = np.array(records, dtype=float).T
        ax = axes("epoch", ylabel)
        told = np.isfinite(errors)
        if told.any():
            bars = epochs[told], values[told], 2 * errors[told]
            ax.errorbar(*bars, fmt="none", ecolor=FIRST, elinewidth=0.8, capsize=2)
        if kind == "validation":
            caption += WITH_ERRORS if told.any() else SAME_SENTENCES
        ax.plot(
            epochs,
            values,
            color=FIRST,
            linewidth=1.4,
            marker="o" if kind == "validation" or len(values) == 1 else "",
            markersize=3 if len(values) > 1 else 6,
        )
        if len(values) == 1:
            ax.set_xlim(0, 2 * epochs[0] or 1)
            caption += " One record only."
        if name == "nll" and np.isfinite(values).any():
            best = int(np.nanargmin(values))
            ax.plot(epochs[best], values[best], "o", color=SECOND, markersize=9, fillstyle="none")
        panels.append(draw(ax, title, caption, f"{title}: from {values[0]:.4g} to {values[-1]:.4g}."))
    return panels


def _by_sentence(ax: Axes, table: pd.DataFrame, values: Array, alarm: Array, label: str) -> int:
    """A dot per sentence; returns how many give alarm."""
    rng = np.random.default_rng(0)
    shown = np.isfinite(values)
    calm = np.flatnonzero(shown & ~alarm)
    if len(calm) > MOST_POINTS:
        calm = rng.choice(calm, MOST_POINTS, replace=False)
    tokens = table["num_tokens"].to_numpy() + rng.uniform(-0.3, 0.3, len(table))
    size, alpha = (5.0, 0.85) if len(calm) <= FEW_POINTS else (3.2, 0.6)
    ax.plot(tokens[calm], values[calm], "o", color=FIRST, markersize=size, alpha=alpha, markeredgewidth=0)
    loud = np.flatnonzero(shown & alarm)
    if len(loud):
        ax.plot(
            tokens[loud],
            values[loud],
            "D",
            color=ALARM,
            markersize=max(size, 4.0),
            markeredgewidth=0,
            label=label,
        )
        legend(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return int(alarm.sum())


def _thinned(table: pd.DataFrame) -> str:
    many = len(table) > MOST_POINTS
    return f" Of {len(table):,} sentences {MOST_POINTS:,} are drawn, and all that give alarm." if many else ""


def _means(ax: Axes, tokens: Array, values: Array) -> None:
    """Means with two standard errors over about eight groups of like length."""
    edges = np.unique(np.quantile(tokens, np.linspace(0, 1, 9)))
    group = np.searchsorted(edges[1:-1], tokens, side="right")
    points = []
    for g in np.unique(group):
        own = values[(group == g) & np.isfinite(values)]
        if len(own) > 1:
            points.append((tokens[group == g].mean(), own.mean(), 2 * own.std(ddof=1) / math.sqrt(len(own))))
    if points:
        x, y, error = np.array(points).T
        ax.errorbar(x, y, error, fmt="x", color=SECOND, markersize=5, linewidth=1.4, label="mean ± 2 se")


def _plain_log(ax: Axes) -> None:
    """Plain numbers at 1, 2 and 5 of every decade, so that there are some within a single one."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(lambda _value, _place: "")
