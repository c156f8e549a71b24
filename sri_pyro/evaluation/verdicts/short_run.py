"""Verdicts on the inference: its width and place, the noise it was trained with, and whether it has come to rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sri_pyro.evaluation.verdicts.divergence import divergence_in_words, shown_divergence
from sri_pyro.evaluation.verdicts.likelihood import better_weights, likelihood_is_trusted
from sri_pyro.evaluation.verdicts.reading import (
    closer,
    estimate,
    interval,
    is_a_chain,
    number,
    option,
    rounded,
    sentences_to_settle,
)
from sri_pyro.evaluation.verdicts.verdict import Level, Verdict
from sri_pyro.types import Estimate
from sri_pyro.wording import counted

SPREAD_OFF = 1.1
"""Factor by which the inference's variance may differ from the posterior's, either way: a tolerance, not a test."""
NARROW_BAD, WIDE_BAD = 1.2, 2.0
"""Factors from which it is bad. At 1 / 1.2 of a Gaussian posterior's variance a 95% interval misses 7.4%, half as much
again as it says; draws that are too wide claim less than they could, and mislead nobody so soon."""
KL_OFF, KL_BAD = 0.5, 2.0
"""Nats between inference and posterior; what remains at K = 20 in published settings is about 0.2."""
LATE_FALL = 0.1
"""Nats that a run may still fall over its last quarter and count as come to rest."""
FEWEST = 4
"""Sentences below which the scatter between them is too uncertain to rest a verdict on."""


@dataclass(frozen=True)
class _Compared:
    """The inference beside the posterior.

    Attributes:
        ratio: Of their variances.
        low: Lower end of its interval; NaN from fewer than ``FEWEST`` sentences.
        high: Upper end.
        estimated: Whether there is an estimate of KL(inference ‖ posterior), shown or not.
        kl_low: Lower end of the interval of KL(inference ‖ posterior); NaN where it is withheld.
        cold: Whether the noise scale is below 1.
        steps: Whether it takes steps.
        closer: What would bring it closer.
        found: All of it in words.
    """

    ratio: Estimate
    low: float
    high: float
    estimated: bool
    kl_low: float
    cold: bool
    steps: bool
    closer: str
    found: str

    @classmethod
    def read(cls, metrics: Mapping[str, Any]) -> _Compared:
        """From the dictionary in ``metrics.json``."""
        ratio = estimate(metrics["posterior_spread_ratio"])
        estimated = math.isfinite(estimate(metrics["kl_q_posterior"]).value)
        kl_low = interval(shown_divergence(metrics))[0]
        low, high = interval(ratio) if ratio.num_samples >= FEWEST else (math.nan, math.nan)
        cold = number(metrics.get("noise_scale")) < 1
        found = _spread_in_words(metrics, ratio)
        return cls(ratio, low, high, estimated, kl_low, cold, is_a_chain(metrics), closer(metrics), found)

    @property
    def decided(self) -> bool:
        """Whether the whole interval is as wide as the posterior."""
        return self.low >= 1 / SPREAD_OFF and self.high <= SPREAD_OFF


def short_run(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether the inference is as wide as the posterior, by the ratio of variances and its error.

    KL(inference ‖ posterior) can show a gap, and cannot show that there is none.
    """
    if "posterior_spread_ratio" not in metrics:
        return None
    run = _Compared.read(metrics)
    return _wrong_width(run) or _wrong_place(run) or _untold(run) or _right_width(metrics, run)


def _wrong_width(run: _Compared) -> Verdict | None:
    """By the interval of the ratio, where it lies on one side."""
    if run.high < 1 / SPREAD_OFF:
        level: Level = "bad" if run.high < 1 / NARROW_BAD or run.kl_low > KL_BAD else "caution"
        steps = "Anneal the noise scale up to 1." if run.cold else run.closer
        return Verdict(
            "short_run", level, "The inference is over-confident.",
            f"{run.found} A ratio from {1 / SPREAD_OFF:.2f} on would pass; one below {1 / NARROW_BAD:.2f} is bad, for "
            "95% intervals of a Gaussian posterior then miss more than 7% of it.",
            f"Do not read its spread as uncertainty, nor its KL as the model's. {steps}",
        )  # fmt: skip
    if run.low > SPREAD_OFF:
        level = "bad" if run.low > WIDE_BAD or run.kl_low > KL_BAD else "caution"
        return Verdict(
            "short_run", level, "The inference is too wide: it has not contracted to the posterior.", run.found,
            "Tune the step size, or use the integrator 'lm' with a falling schedule, and more steps." if run.steps
            else run.closer,
        )  # fmt: skip
    return None


def _wrong_place(run: _Compared) -> Verdict | None:
    """By the divergence, where the width shows nothing wrong."""
    if not run.kl_low > KL_OFF:
        return None
    return Verdict(
        "short_run", "bad" if run.kl_low > KL_BAD else "caution",
        "The inference is as wide as the posterior, but off its place or shape." if run.decided
        else "The inference is off the posterior; whether too wide or too narrow cannot be told.", run.found,
        ("Anneal the noise scale up to 1; t" if run.cold else "T")
        + "une the step size and look at KL by step below." if run.steps else run.closer,
    )  # fmt: skip


def _untold(run: _Compared) -> Verdict | None:
    """Estimates that are not known, or an interval that straddles a threshold."""
    if not math.isfinite(run.ratio.value) or not run.estimated:
        return Verdict(
            "short_run", "caution", "Whether the inference is over-confident cannot be told.", run.found,
            "Get importance weights that can be trusted, and more chains than latent dimensions + 1."
            + (" At a noise scale below 1, expect it to be." if run.cold else ""),
        )  # fmt: skip
    if run.decided:
        return None
    ratio, n = run.ratio.value, run.ratio.num_samples
    nearest = min((1 / SPREAD_OFF, SPREAD_OFF), key=lambda edge: abs(ratio - edge))
    return Verdict(
        "short_run", "info" if 1 / SPREAD_OFF < ratio < SPREAD_OFF and not run.cold else "caution",
        f"Whether the inference is as wide as the posterior cannot be told from {n:,} sentences.", run.found,
        f"A ratio from {1 / SPREAD_OFF:.2f} to {SPREAD_OFF:.2f} would pass. "
        + sentences_to_settle(run.high - ratio, ratio - nearest, n),
    )  # fmt: skip


def _right_width(metrics: Mapping[str, Any], run: _Compared) -> Verdict:
    if not likelihood_is_trusted(metrics):
        return Verdict(
            "short_run", "caution", "The inference is as wide as the posterior where the posterior is known.",
            run.found, "The sentences left out may be just those that it gets wrong. " + better_weights(metrics),
        )  # fmt: skip
    return Verdict(
        "short_run", "good", "The inference's variance is within 10% of the posterior's.",
        f"{run.found} From {1 / SPREAD_OFF:.2f} to {SPREAD_OFF:.2f} is a tolerance and no test: criticise and "
        "calibrate test, and may reject what passes here.",
        "Width is all that this shows: compare place and shape in the posteriors below.",
    )  # fmt: skip


def _spread_in_words(metrics: Mapping[str, Any], ratio: Estimate) -> str:
    low, high = interval(ratio)
    scale = number(metrics.get("noise_scale"))
    total = int(metrics["perplexity"]["num_sentences"])
    found = (
        f"The inference's variance is {rounded(ratio)} times the posterior's (95% interval {low:.2f} to {high:.2f}, "
        f"over the {ratio.num_samples:,} of {total:,} sentences whose k-hat is below its threshold)"
        if math.isfinite(ratio.value)
        else "Too few sentences have weights good enough to compare variances"
    )
    noise = f"The noise scale is {scale:g}." if math.isfinite(scale) else ""
    return " ".join(said for said in (f"{found}.", divergence_in_words(metrics), noise) if said)


def noise(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether training ended before the noise scale had reached that of evaluation."""
    reached, schedule = schedule_end(metrics), option(metrics, "inference", "noise")
    trained = number(option(metrics, "training", "epochs"))
    if not trained < reached:
        return None
    return Verdict(
        "noise", "caution", "The decoder was never trained at the noise scale it is evaluated at.",
        f"Training was set to end after {trained:g} epoch{'' if trained == 1 else 's'}; the noise scale starts at "
        f"{number(schedule.get('start')):g} and takes {reached:g} to reach {number(schedule.get('end')):g}, that of "
        "evaluation.",
        "Train for longer, or let the noise schedule end well before training does.",
    )  # fmt: skip


def schedule_end(metrics: Mapping[str, Any]) -> float:
    """Epochs of training it takes to reach the final noise scale; NaN for a constant or unknown schedule."""
    schedule = option(metrics, "inference", "noise")
    if not isinstance(schedule, Mapping):
        return math.nan
    start, end = number(schedule.get("start")), number(schedule.get("end"))
    if schedule.get("kind") == "linear":
        return number(schedule.get("epochs")) if start != end else math.nan
    increment, hold = number(schedule.get("increment")), number(schedule.get("hold"))
    if schedule.get("kind") == "staircase" and increment > 0 and end > start:
        return hold + math.ceil(round((end - start) / increment, 6))
    return math.nan


def rest(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether the runs have stopped moving."""
    if "short_run" not in metrics:
        return None
    run = metrics["short_run"]
    if run is None and not is_a_chain(metrics):
        return None
    if run is None:
        return Verdict(
            "rest", "info", "The run was not traced step by step.", "No path was recorded.",
            "Evaluate with traced_sentences above 0 to see whether it has stopped moving.",
        )  # fmt: skip
    fall, unit = estimate(run["kl_late_fall"]), "KL(inference ‖ posterior)"
    if not math.isfinite(fall.value):
        fall, unit = estimate(run["energy_late_fall"]), "the energy"
    low, high = interval(fall)
    size = Estimate(abs(fall.value), fall.se, fall.num_samples)
    moved = f"{'fell' if fall.value >= 0 else 'rose'} by {rounded(size)} nats"
    if low <= 0 <= high:
        moved = f"did not change measurably ({rounded(size)} nats)"
    found = (
        f"Over the last quarter of {run['num_steps']} steps {unit} {moved}, mean over "
        f"{counted(fall.num_samples, 'sentence')}; log p(x) cancels in that."
    )
    if low > LATE_FALL:
        return Verdict(
            "rest", "caution", "The run is still moving when it stops.", found,
            "Take more steps, or larger ones.",
        )  # fmt: skip
    if high < 0:
        return Verdict(
            "rest", "caution", "The run moves away from the posterior in its last steps.", found,
            "The last steps are too large, or the noise scale too small.",
        )  # fmt: skip
    if not (low >= -LATE_FALL and high <= LATE_FALL and fall.num_samples >= FEWEST):
        return Verdict(
            "rest", "info", f"Whether the run has come to rest cannot be told from {fall.num_samples} sentences.",
            found,
            f"Raise traced_sentences{f', to {FEWEST} at least' if fall.num_samples < FEWEST else ''}. "
            + sentences_to_settle(high - fall.value, abs(fall.value) - LATE_FALL, fall.num_samples),
        )  # fmt: skip
    return Verdict(
        "rest", "good", "The run has come to rest.", found,
        "Rest is not correctness: the verdict on the spread and k-hat speak to that.",
    )  # fmt: skip
