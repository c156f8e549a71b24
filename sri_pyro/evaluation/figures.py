"""The figures of the report about sentences and training: pure functions of what was left on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sri_pyro.evaluation.drawing import (
    ALARM,
    FIRST,
    MUTED,
    SECOND,
    Panel,
    axes,
    draw,
    level,
    plain_log,
    stacked,
)
from sri_pyro.evaluation.evidence import LEAST_ESS
from sri_pyro.evaluation.metrics import mean_estimate
from sri_pyro.evaluation.verdicts import number

Array = NDArray[Any]

UNTOLD = "No number for all sentences is given: their importance weights are not to be trusted."
MOST_POINTS = 1500
"""Sentences drawn one by one; of more, a part, so that the page stays light."""
FEW_POINTS = 150
"""Sentences up to which dots are drawn large and dense, for they do not hide one another."""
ROUNDING = 1e-6
"""Of an epoch, that of a batch by which a window of one epoch must not grow."""
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
        level(ax, 0.5, "0.5: finite variance below", MUTED)
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
    plain_log(ax.yaxis)
    _by_sentence(ax, table, ess, ess < LEAST_ESS, f"fewer than {LEAST_ESS:g}")
    level(ax, LEAST_ESS, f"{LEAST_ESS:g}: too few below", MUTED)
    return draw(
        ax,
        "Effective draws by sentence length",
        f"How many equally weighted draws the {int(table['num_samples'].min()):,} or more importance draws of a "
        "sentence are worth. Read it next to k-hat, never instead: it does not know what was missed.",
        f"The median effective sample size is {np.median(ess):.0f}.",
    )


def heaviest_weight(table: pd.DataFrame, log_weight: Array) -> Panel:
    """The share of the heaviest draw in the weights of each sentence.

    Args:
        table: Of the sentences.
        log_weight: Nats, of the draws that are kept, shape [S, n].
    """
    known = log_weight[:, (log_weight < np.inf).all(0) & (log_weight > -np.inf).any(0)].astype(np.float64)
    share = 1 / np.exp(known - known.max(0)).sum(0)
    ax = axes("share of the heaviest draw", "sentences")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _place: f"{100 * value:g}%")
    edges = list(np.geomspace(max(1 / len(log_weight), 1e-6), 1.0, 25))
    ax.hist(share.clip(edges[0], 1.0), edges, color=FIRST, alpha=0.8)
    ax.axvline(0.5, color=ALARM, linewidth=1.2, linestyle=(0, (4, 3)), label="half of all weight")
    heavy = int((share > 0.5).sum())
    return draw(
        ax,
        "The heaviest weight of a sentence",
        f"Of the {len(log_weight):,} importance draws of a sentence that are kept, the share of all weight that the "
        "heaviest has; equal weights are at the left end. Right of the dashed line one draw decides log p(x), and its "
        "standard error cannot be believed.",
        f"In {heavy} of {len(table)} sentences one draw has more than half of the weight."
        + (f" The median share is {100 * np.median(share):.2g}%." if len(share) else ""),
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
        line = " The dotted line is the logarithm of the perplexity."
    first = draw(
        ax,
        "Negative log-likelihood per token by length",
        "Each dot is a sentence, the end of the sentence counted as a token; crosses are means over sentences of like "
        "length with two standard errors." + line + _thinned(table),
        f"Per token, sentences have {np.nanmedian(nll):.2f} nats in the median." if trusted else UNTOLD,
    )
    if not with_code:
        return [first]
    nats = table["kl_posterior_prior"].to_numpy()
    ax = axes("tokens in the sentence", "KL(posterior ‖ prior), nats")
    _by_sentence(ax, table, nats, failed, "k-hat too high")
    _means(ax, tokens, nats)
    second = draw(
        ax,
        "What the code holds, by length",
        "Nats that a sentence's posterior has over the prior. A code of content grows with length; one of length alone "
        "does not.",
        f"The mean is {np.nanmean(nats):.2f} nats." if trusted else UNTOLD,
    )
    return [first, second]


def training(history: Sequence[Mapping[str, Any]], with_code: bool) -> list[Panel]:
    """Loss and validation over epochs, one above the other, and the code apart; as far as there are records."""
    loss, nll = _records(history, "step", "loss"), _records(history, "validation", "nll")
    code = _records(history, "validation", "kl_posterior_prior")
    if not len(loss) and not len(nll):
        return []
    end = 1.03 * max([*loss[:, 0], *nll[:, 0]]) or 1.0
    drawn = [(name, records, draw_them) for name, records, draw_them in
             (("loss", loss, _training_loss), ("NLL", nll, _validation)) if len(records)]  # fmt: skip
    captions, said = [], []
    rows = stacked("epoch", [f"{name}, nats per sentence" for name, _, _ in drawn])
    for ax, (name, records, draw_them) in zip(rows, drawn, strict=True):
        captions.append(draw_them(ax, records))
        said.append(f"{name} from {records[0, 1]:.4g} to {records[-1, 1]:.4g}")
    if len(drawn) == 2:
        captions = [f"{place}: {text}" for place, text in zip(("Above", "Below"), captions, strict=True)]
    _epochs(rows[-1], end)
    panels = [
        draw(rows[-1], "Training and validation", " ".join(captions), f"During training: {', '.join(said)}.")
    ]
    if len(code) and with_code:
        ax = axes("epoch", "KL(posterior ‖ prior), nats")
        caption = "On validation sentences. A code that stays near zero from the start never came to life."
        caption += _curve(ax, code)
        _epochs(ax, end)
        alt = f"KL to the prior goes from {code[0, 1]:.4g} to {code[-1, 1]:.4g}."
        panels.append(draw(ax, "Code during training", caption, alt))
    return panels


def _epochs(ax: Axes, end: float) -> None:
    """From the beginning of training, so that figures can be laid side by side."""
    ax.set_xlim(0, end)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _records(history: Sequence[Mapping[str, Any]], kind: str, name: str) -> Array:
    """Epoch, value and standard error (NaN where none is recorded) of every record, shape [records, 3]."""
    found = [
        (r["epoch"], number(r[name]), number(r.get(f"{name}_se")))
        for r in history
        if r["kind"] == kind and name in r
    ]
    return np.array(found, dtype=float).reshape(-1, 3)


def _training_loss(ax: Axes, records: Array) -> str:
    """Batches as faint dots and their mean over an epoch; returns how to take it."""
    epochs, losses, _ = records.T
    size, alpha = (3.0, 0.35) if len(losses) > 1 else (6.0, 1.0)
    ax.plot(
        epochs, losses, "o", color=MUTED, markersize=size, alpha=alpha, markeredgewidth=0, label="a batch"
    )
    centre, mean, error = running_mean(epochs, losses)
    if len(centre):
        ax.fill_between(centre, mean - 2 * error, mean + 2 * error, color=FIRST, alpha=0.2, linewidth=0)
        ax.plot(centre, mean, color=FIRST, linewidth=1.6, label="mean over an epoch ± 2 se")
    return (
        "the objective of the weight steps that were logged. A dot is one batch, of sentences of like length, so "
        "that dots scatter by length; the line is the mean over the epoch that ends there. With a code the objective "
        "counts the prior's density too and moves with the noise scale: it is no NLL, and may rise while the model "
        "gets better." + (" One record only." if len(losses) == 1 else "")
    )


def running_mean(epochs: Array, values: Array) -> tuple[Array, Array, Array]:
    """Means over the epoch up to each record, from the end of the first epoch on; where, the means, and their errors.

    The standard errors take the batches of an epoch for independent.

    Example:
        >>> where, mean, error = running_mean(np.array([0.5, 1.0, 1.5]), np.array([3.0, 1.0, 2.0]))
        >>> where.tolist(), mean.tolist(), error.tolist()
        ([1.0, 1.5], [2.0, 1.5], [1.0, 0.5])
    """
    found = []
    for end in epochs[epochs >= 1]:
        own = (epochs > end - 1 + ROUNDING) & (epochs <= end)
        estimate = mean_estimate(torch.tensor(values[own]))
        found.append((end, estimate.value, estimate.se))
    return tuple(np.array(found, dtype=float).reshape(-1, 3).T)  # type: ignore[return-value]  # three rows


def _validation(ax: Axes, records: Array) -> str:
    """Held-out NLL with its best; returns how to take it."""
    caption = "held-out NLL; the ring marks the weights kept." + _curve(ax, records)
    if np.isfinite(records[:, 1]).any():
        epoch, nll, _ = records[int(np.nanargmin(records[:, 1]))]
        ax.plot(epoch, nll, "o", color=SECOND, markersize=9, fillstyle="none", label="weights kept")
    return caption


def _curve(ax: Axes, records: Array) -> str:
    """A line through validations with bars where there are errors; returns how to take it."""
    epochs, values, errors = records.T
    told = np.isfinite(errors)
    if told.any():
        bars = epochs[told], values[told], 2 * errors[told]
        ax.errorbar(*bars, fmt="none", ecolor=FIRST, elinewidth=0.8, capsize=2)
    ax.plot(epochs, values, color=FIRST, linewidth=1.4, marker="o", markersize=3 if len(values) > 1 else 6)
    return (WITH_ERRORS if told.any() else SAME_SENTENCES) + (" One record only." if len(values) == 1 else "")


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
