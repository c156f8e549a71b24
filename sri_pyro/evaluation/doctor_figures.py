"""The figures of the step-size doctor; pure functions of what its findings hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.drawing import (
    ALARM,
    FIRST,
    MUTED,
    SECOND,
    Panel,
    axes,
    draw,
    level,
    logarithmic_above_one,
)

Array = NDArray[np.float64]


def doctor_panels(numbers: Mapping[str, Any], data: InferenceResult) -> list[Panel]:
    """All panels of the findings ``doctor``; none of a run without steps, none of a KL that is withheld.

    Args:
        numbers: Of the findings.
        data: Their arrays.
    """
    if not numbers["num_steps"]:
        return []
    panels = [stretches(data), mixing(data), stiffness(numbers, data)]
    if numbers["grid"] is None:
        return panels
    return [grid(numbers, data), *panels, *([lengths(data)] if "lengths" in data else [])]


def grid(numbers: Mapping[str, Any], data: InferenceResult) -> Panel:
    """KL to the posterior against the factor on the steps."""
    factors = data["grid"]["factor"].to_numpy()
    kl = _divergence(data, "grid")
    ax = axes("factor on all steps", "KL, nats")
    ax.set_xscale("log")
    ax.set_xticks(factors, [f"{factor:g}" for factor in factors])
    ax.xaxis.set_minor_locator(NullLocator())
    for i, each in enumerate(kl.T):
        ax.plot(factors, each, color=FIRST, linewidth=0.7, alpha=0.45, label="" if i else "a sentence")
    mean = _mean(kl)
    ax.plot(factors, mean, "o-", color=FIRST, linewidth=2, markersize=4, label="mean")
    best = float(numbers["grid"]["best_factor"])
    place = int(np.argmin(np.abs(factors - best)))
    ax.plot([best], [mean[place]], "D", color=SECOND, markersize=8, label="best")
    ax.axvline(1, color=ALARM, linewidth=1.2, linestyle=(0, (4, 3)), label="the run's own")
    logarithmic_above_one(ax, kl)
    level(ax, 0, "0: the posterior", MUTED)
    return draw(
        ax,
        "KL(inference ‖ posterior) against the steps",
        "The run again with all of its steps multiplied, on the same noise: left of the least they are too small "
        "to arrive, right of it too large. A lower estimate (Gaussian entropy), logarithmic above 1, of these "
        f"{numbers['num_sentences']} sentences alone, so that the evaluation's KL is another; where chains are lost "
        "there is no point.",
        f"The mean is least at {best:g} times the run's own steps.",
    )  # fmt: skip


def stretches(data: InferenceResult) -> Panel:
    """Step times largest precision along the run."""
    curvature = data["curvature"]
    stretch = (curvature["step_size"].to_numpy()[:, None, None] * curvature["largest"].to_numpy())[:-1]
    ax = axes("step", "step × largest precision")
    k = np.arange(len(stretch))
    by_sentence = np.nanmean(stretch, axis=1)
    for i, each in enumerate(by_sentence.T):
        ax.plot(k, each, color=FIRST, linewidth=0.7, alpha=0.45, label="" if i else "a sentence")
    ax.plot(k, np.nanmean(by_sentence, axis=1), color=FIRST, linewidth=2, label="mean")
    level(ax, 1, "1: folds", MUTED)
    level(ax, 2, "2: unstable")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return draw(
        ax,
        "How far steps are from unstable",
        "Each step size times the largest eigenvalue of the negative Hessian of log p(x, z) where chains stand. "
        "Above the dashed line a step stretches that direction instead of contracting it, which first steps may "
        "and last ones must not; above the dotted one it folds.",
        f"The mean goes from {np.nanmean(stretch[0]):.2g} to {np.nanmean(stretch[-1]):.2g}.",
    )  # fmt: skip


def mixing(data: InferenceResult) -> Panel:
    """Correlation of chains with their starts along the run."""
    correlation = data["mixing"]["correlation"].to_numpy()
    ax = axes("step", "correlation with the start")
    k = np.arange(len(correlation))
    for i, each in enumerate(correlation.T):
        ax.plot(k, each, color=FIRST, linewidth=0.7, alpha=0.45, label="" if i else "a sentence")
    ax.plot(k, _mean(correlation), color=FIRST, linewidth=2, label="mean")
    ax.axhline(0, color=MUTED, linewidth=0.8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return draw(
        ax,
        "What chains remember of their start",
        "Correlation of z after each step with where its chain began, over chains and all dimensions. What is left "
        "at the end is harmless in directions in which the posterior is the prior, and elsewhere bias.",
        f"The mean correlation at the end is {correlation[-1].mean():.2f}.",
    )  # fmt: skip


def stiffness(numbers: Mapping[str, Any], data: InferenceResult) -> Panel:
    """Largest step that each sentence bears, against its length."""
    sentences = data["sentences"]
    limits = 2 / sentences["stiffness"].to_numpy()
    ax = axes("tokens", "stability limit of a step")
    ax.plot(sentences["num_tokens"].to_numpy(), limits, "o", color=FIRST, markersize=4, label="a sentence")
    level(ax, float(numbers["last_step"]), "the run's smallest step")
    ax.set_ylim(bottom=0)
    return draw(
        ax,
        "What sentences bear",
        "Two over the largest precision of each sentence's posterior where its chains end. The smallest step "
        "should lie below all points; the more they scatter, the less one step suits all sentences.",
        f"Limits go from {np.nanmin(limits):.2g} to {np.nanmax(limits):.2g}.",
    )  # fmt: skip


def lengths(data: InferenceResult) -> Panel:
    """KL to the posterior against the number of steps, each at its best factor."""
    counts = data["lengths"]["num_steps"].to_numpy()
    order = np.argsort(counts)
    counts, kl = counts[order], _divergence(data, "lengths")[order]
    ax = axes("steps", "KL, nats")
    ax.set_xticks(counts, [str(count) for count in counts])
    for i, each in enumerate(kl.T):
        ax.plot(counts, each, color=FIRST, linewidth=0.7, alpha=0.45, label="" if i else "a sentence")
    ax.plot(counts, _mean(kl), "o-", color=FIRST, linewidth=2, markersize=4, label="mean")
    logarithmic_above_one(ax, kl)
    level(ax, 0, "0: the posterior", MUTED)
    return draw(
        ax,
        "KL(inference ‖ posterior) against the number of steps",
        "Half as many steps, as many, and twice as many, each with the best factor tried on them. Where the line "
        "is level, more steps gain nothing. A lower estimate, logarithmic above 1.",
        "The mean goes " + ", ".join(f"{value:.2f}" for value in _mean(kl)) + ".",
    )  # fmt: skip


def _divergence(data: InferenceResult, group: str) -> Array:
    """KL [., n], NaN where it is infinite; up to each sentence's log p(x) where those are not trusted."""
    log_px = data["sentences"]["log_px"].to_numpy()
    passed = data["sentences"]["khat"].to_numpy() < data["sentences"]["khat_threshold"].to_numpy()
    kl = data[group]["energy"].to_numpy() + np.where(passed, log_px, np.nan)
    return np.where(np.isfinite(kl), kl, np.nan)


def _mean(values: Array) -> Array:
    """Over sentences [., n] of which something is known; NaN where one of them is lost."""
    known = np.isfinite(values).any(0)
    return np.asarray(values[:, known].mean(1) if known.any() else np.full(len(values), np.nan))
