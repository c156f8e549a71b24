"""Verdicts: what the numbers of an evaluation say in plain language, and what to do about it.

A pure function of the dictionary in ``metrics.json``, so that page, command line and tests say the same. Every
threshold is a named constant with its reason. A number that is missing (null) or not finite is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sri_pyro.evaluation.metrics import ACTIVE
from sri_pyro.types import Estimate

Level = Literal["good", "info", "caution", "bad"]

NO_CODE = 0.5
"""Nats. Less than one yes-or-no answer (log 2 = 0.69) about a sentence is no code."""
WEAK_CODE = 1.0
"""Nats up to which a code is weak, whichever side of ``NO_CODE`` it lies on."""
FEW_UNITS = 0.1
"""Share of active units below which a code counts as lost."""
FAILED_BAD = 0.1
"""Share of sentences with a high k-hat from which a likelihood is a bound, and not an estimate."""
FEW_DRAWS = 30
"""Effective draws below which the error of log p(x) is itself unknown."""
SPREAD_OFF, SPREAD_BAD = 1.1, 2.0
"""Factors by which the short run's variance may differ from the posterior's (either way)."""
KL_OFF, KL_BAD = 0.5, 2.0
"""Nats between short run and posterior; what remains at K = 20 in published settings is about 0.2."""
LATE_FALL = 0.1
"""Nats that a run may still fall over its last quarter and count as come to rest."""
RADIUS_OFF = 0.1
"""Difference of the distribution functions of the radius that samples from the prior will show."""
JENSEN_OFF = 1.0
"""Nats by which a lower estimate of a KL may innocently break Jensen's inequality."""
RADIUS_BLIND = 0.2
"""Band of chance beyond which agreement of the radii says nothing; 46 sentences narrow it so far."""
FEWEST = 4
"""Sentences below which the scatter between them is too uncertain to rest a verdict on."""
MEASURABLE = 2.0
"""Standard errors that a change must exceed to count as measured."""
WORTH_MORE = 100
"""An estimate so near a threshold that so many times the sentences are wanted will not be settled by more."""
BIASED_LOW = (
    "biased low by construction (Gaussian entropy), so it shows no evidence of a gap and cannot certify "
    "its absence"
)
"""What a KL from a Gaussian entropy says where it is not shown to lie above zero."""
MORE_CODE = (
    "Anneal the noise scale over more epochs or from a lower value; weaken the decoder with word dropout; then "
    "look at KL(posterior ‖ prior) on validation, epoch by epoch."
)
"""Against collapse."""


@dataclass(frozen=True)
class Verdict:
    """One plain statement about a model or its inference.

    Attributes:
        topic: ``likelihood``, ``code``, ``short_run``, ``noise``, ``rest``, ``aggregate`` or ``jensen``.
        level: ``good``, ``info``, ``caution`` or ``bad``.
        headline: The statement.
        evidence: The numbers it rests on.
        advice: What to do.
    """

    topic: str
    level: Level
    headline: str
    evidence: str
    advice: str


def judge(metrics: Mapping[str, Any]) -> list[Verdict]:
    """Judge an evaluation.

    Args:
        metrics: What ``write_outputs`` wrote to ``metrics.json``. Of an ``Evaluation.metrics`` alone, the
            topics that need the draws are left out.

    Example:
        >>> nothing = {"value": 0.0, "se": 0.0, "num_samples": 9}
        >>> language_model = {
        ...     "perplexity": {"estimate": 50.0, "log_se_sampling": 0.01, "log_se_monte_carlo": 0.0},
        ...     "khat": {"share_below": 1.0, "failed_sentences": 0}, "nll": {"num_samples": 9},
        ...     "active_units": {"count": 0, "of": 0, "naive_count": 0}, "ess": {"median": 1.0},
        ... }
        >>> [verdict.headline for verdict in judge(language_model)]
        ['The likelihood is exact.', 'This model has no code: it is a language model.']
    """
    verdicts: list[Verdict | None] = [likelihood(metrics), code(metrics)]
    if metrics["active_units"]["of"]:
        verdicts += [short_run(metrics), noise(metrics), rest(metrics), aggregate(metrics), jensen(metrics)]
    return [verdict for verdict in verdicts if verdict is not None]


def estimate(record: Mapping[str, Any] | None) -> Estimate:
    """An estimate from its JSON record; NaN for what is null or missing."""
    record = record or {}
    return Estimate(
        number(record.get("value")),
        number(record.get("se")),
        int(record.get("num_samples") or 0),
        str(record.get("method") or ""),
    )


def number(value: Any) -> float:
    """A float; NaN for null."""
    return math.nan if value is None else float(value)


def rounded(found: Estimate) -> str:
    """An estimate to the second digit of its error.

    Example:
        >>> rounded(Estimate(60.4768, 1.2304, 64)), rounded(Estimate(-0.23836, 0.0216, 64))
        ('60.5 ± 1.2', '−0.238 ± 0.022')
    """
    if not math.isfinite(found.se) or found.se <= 0:
        return f"{found.value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(found.se)))
    return f"{found.value:.{digits}f} ± {found.se:.{digits}f}".replace("-", "−")


def interval(found: Estimate) -> tuple[float, float]:
    r"""The 95 % interval of a mean over n sentences, by Student's t with n - 1 degrees of freedom.

    With six sentences a normal interval is a quarter too narrow. The quantile is Fisher's expansion in 1/n,
    within 3 % from n = 3 on; NaN for a single sentence.

    Example:
        >>> [round(end, 2) for end in interval(Estimate(0.0, 1.0, 6))]
        [-2.57, 2.57]
    """
    if found.num_samples < 2:
        return math.nan, math.nan
    z, freedom = 1.959963984540054, found.num_samples - 1
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return found.interval(sum(term / freedom**power for power, term in enumerate(terms)))


def sentences_to_settle(half_width: float, distance: float, num_sentences: int) -> str:
    """How many sentences would make an interval narrow enough, in words; errors fall as their square root.

    Args:
        half_width: Of the interval now.
        distance: From the estimate to the threshold that it straddles.
        num_sentences: Behind the interval now.

    Example:
        >>> sentences_to_settle(0.4, 0.1, 20)
        'About 320 sentences in place of 20 would settle it, if the estimate stays where it is.'
    """
    if not math.isfinite(half_width) or num_sentences < 2:
        return "At least a few dozen sentences are needed."
    if abs(distance) * math.sqrt(WORTH_MORE) < half_width:
        return "The estimate lies so near the threshold that more sentences will hardly settle it."
    needed = num_sentences * (half_width / abs(distance)) ** 2
    unit = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    needed = max(num_sentences + 1, math.ceil(round(needed / unit, 6)) * unit)
    return (
        f"About {needed:,} sentences in place of {num_sentences:,} would settle it, if the estimate stays "
        "where it is."
    )


def option(metrics: Mapping[str, Any], *names: str) -> Any:
    """An option of the configuration that the provenance holds; None where there is none."""
    found: Any = metrics.get("provenance", {}).get("configuration")
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def refused_sentences(metrics: Mapping[str, Any]) -> int:
    """Sentences without a finite estimate of log p(x): those that the mean NLL leaves out."""
    return int(metrics["perplexity"]["num_sentences"]) - int(metrics["nll"]["num_samples"])


def likelihood_is_trusted(metrics: Mapping[str, Any]) -> bool:
    """Whether numbers that rest on importance weights may be shown as estimates."""
    refused = not math.isfinite(number(metrics["perplexity"]["estimate"]))
    return not refused and 1 - number(metrics["khat"]["share_below"]) <= FAILED_BAD


def likelihood(metrics: Mapping[str, Any]) -> Verdict:
    """Say whether log p(x) is to be believed."""
    khat, ppl, draws = metrics["khat"], metrics["perplexity"], number(metrics["ess"]["median"])
    failed = int(khat["failed_sentences"])
    sampling, monte_carlo = number(ppl["log_se_sampling"]), number(ppl["log_se_monte_carlo"])
    if not metrics["active_units"]["of"]:
        return Verdict(
            "likelihood", "good", "The likelihood is exact.",
            "Without a latent variable log p(x) is a sum over tokens, with no Monte Carlo error.",
            "Compare it with latent-variable models sentence by sentence, on the same held-out sentences.",
        )  # fmt: skip
    if not math.isfinite(number(ppl["estimate"])):
        return _refused(metrics)
    share = 1 - number(khat["share_below"])
    total = int(metrics["nll"]["num_samples"])
    largest = number(khat.get("max"))
    tails = (
        f"k-hat is at or above its threshold on {failed} of {total:,} sentences ({share:.1%}; largest "
        f"{largest:.2f} against {number(khat.get('threshold')):.2f}); "
        if math.isfinite(largest)
        else f"k-hat cannot be fitted to so few draws, or to weights all equal; {failed} of {total:,} sentences fail; "
    ) + f"the median effective sample size is {draws:.0f}."
    variance = sampling**2 + monte_carlo**2
    part = monte_carlo**2 / variance if variance > 0 else 0.0
    mc = f" Monte Carlo noise makes up {part:.1%} of the interval's variance."
    if share > FAILED_BAD:
        why = (
            " Importance weights with such tails miss part of p(x), and their standard error does not know it."
            if math.isfinite(largest)
            else " Without k-hat nothing says whether the weights miss part of p(x)."
        )
        return Verdict(
            "likelihood", "bad", "The likelihood is not to be trusted, and is not shown.", tails + why,
            "Read the number in metrics.json as an upper bound of the perplexity in expectation. "
            + _better_weights(metrics)
            if option(metrics, "evaluation", "estimator", "kind") != "jacobian"
            else _better_weights(metrics),
        )  # fmt: skip
    if failed or part > 0.5 or draws < FEW_DRAWS:
        return Verdict(
            "likelihood", "caution", "The likelihood can be used, with care.", tails + mc,
            f"sentences.csv has every k-hat. {_better_weights(metrics)}",
        )  # fmt: skip
    return Verdict(
        "likelihood", "good", "The likelihood is trustworthy.", tails + mc,
        "Compare models paired by sentence: the interval here is that of one model alone.",
    )  # fmt: skip


def _refused(metrics: Mapping[str, Any]) -> Verdict:
    refused, total = refused_sentences(metrics), int(metrics["perplexity"]["num_sentences"])
    on = f"on {refused:,} of {total:,} sentences"
    if option(metrics, "evaluation", "estimator", "kind") == "jacobian":
        return Verdict(
            "likelihood", "bad", "There is no likelihood: the estimator refused.",
            f"The estimator 'jacobian' refused {on}: steps of their runs fold (I + s H is not positive definite), so "
            "that several starts end in one place and its weights would over-state p(x).",
            "Evaluate with the estimator 'gaussian', which does not need steps that are one-to-one, or 'annealed'.",
        )  # fmt: skip
    return Verdict(
        "likelihood", "bad", "There is no likelihood: the estimator refused.",
        f"There is no finite estimate of log p(x) {on}.",
        "See log_px in sentences.csv; evaluate with the estimator 'gaussian' or 'annealed'.",
    )  # fmt: skip


def _better_weights(metrics: Mapping[str, Any]) -> str:
    """What else to try, which is never what was tried."""
    kind = option(metrics, "evaluation", "estimator", "kind")
    if kind == "annealed":
        return "Raise num_samples and temperatures of the estimator 'annealed'."
    if kind == "jacobian":
        return (
            "Evaluate with the estimator 'gaussian' or 'annealed'; 'jacobian' is kept for comparison alone."
        )
    return "Raise num_samples, or evaluate with the estimator 'annealed'."


def code(metrics: Mapping[str, Any]) -> Verdict:
    """Say whether the model uses its code, as far as so many sentences can tell."""
    units = metrics["active_units"]
    count, of = int(units["count"]), int(units["of"])
    if not of:
        return Verdict(
            "code", "info", "This model has no code: it is a language model.",
            "Its latent dimension is 0, so that there is nothing to collapse.",
            "Use it as the baseline.",
        )  # fmt: skip
    kl = estimate(metrics["kl_posterior_prior"])
    low, high = interval(kl)
    few = count <= FEW_UNITS * of
    active = f"{count} of {of} units are active after correction for Monte Carlo noise"
    if int(units["naive_count"]) > count:
        active += f" (the uncorrected count says {units['naive_count']})"
    if not likelihood_is_trusted(metrics) or not math.isfinite(high):
        return _code_by_units(metrics, few, active)
    n = kl.num_samples
    found = (
        f"KL(posterior ‖ prior) is {rounded(kl)} nats (95% interval {low:.2f} to {high:.2f}, {n:,} sentences); "
        f"{active}."
    )
    if high < NO_CODE and few:
        return Verdict("code", "bad", "COLLAPSED: the model ignores its code.", found, MORE_CODE)
    if high < NO_CODE:
        return Verdict("code", "bad", "Nearly collapsed: the code holds next to nothing.", found, MORE_CODE)
    if low < NO_CODE and high < WEAK_CODE:
        return Verdict("code", "caution", "The code is weak.", found, MORE_CODE)
    if low < NO_CODE:
        return Verdict(
            "code", "caution", f"Whether the code is collapsed cannot be told from {n:,} sentences.", found,
            sentences_to_settle(high - kl.value, kl.value - NO_CODE, n),
        )  # fmt: skip
    if few and interval(estimate(metrics["mutual_information"]))[0] <= 0:
        return _code_not_found(metrics, found)
    return Verdict(
        "code", "good", f"Not collapsed: the code holds about {kl.value:.1f} nats a sentence.", found,
        f"It sits in few units, or {n:,} sentences are too few to show more of them."
        if few
        else "Read the reconstructions: nats say how much the code holds, and not what.",
    )  # fmt: skip


def _code_by_units(metrics: Mapping[str, Any], few: bool, active: str) -> Verdict:
    """The same where KL(posterior ‖ prior) rests on weights that failed."""
    information = estimate(metrics["mutual_information"])
    found = (
        f"{active}. KL(posterior ‖ prior) rests on the importance weights, which are not to be trusted here."
    )
    if not few or interval(information)[0] > 0:
        if few:
            found += f" The mutual information is {rounded(information)} nats, a lower bound."
        return Verdict(
            "code", "caution", "The code is in use; how much it holds is unknown.", found,
            "Get a likelihood that can be trusted first.",
        )  # fmt: skip
    if shown_inactive(metrics["active_units"]):
        return Verdict("code", "bad", "The code looks collapsed.", found, MORE_CODE)
    n = int(metrics["perplexity"]["num_sentences"])
    return Verdict(
        "code", "caution", f"Whether the code is collapsed cannot be told from {n:,} sentences.", found,
        _sentences_for_units(metrics),
    )  # fmt: skip


def _code_not_found(metrics: Mapping[str, Any], found: str) -> Verdict:
    """A code in use of which neither units nor mutual information show a trace in the short run."""
    information = rounded(estimate(metrics["mutual_information"]))
    found += f" Mutual information under the short run is {information} nats."
    if shown_inactive(metrics["active_units"]):
        return Verdict(
            "code", "bad", "The model uses its code, but the short run does not find it.", found,
            "Take more steps or larger ones; see the short run step by step below.",
        )  # fmt: skip
    n = int(metrics["perplexity"]["num_sentences"])
    return Verdict(
        "code", "caution",
        f"The model uses its code; whether the short run finds it cannot be told from {n:,} sentences.", found,
        _sentences_for_units(metrics),
    )  # fmt: skip


def shown_inactive(units: Mapping[str, Any]) -> bool:
    """Whether upper bounds, as far above the variances as the lower ones are below, leave few units active.

    That no unit is shown to be active is no sign that none is: with few sentences every bound is wide.
    """
    pairs = zip(units["variances"], units["lower_bounds"], strict=True)
    possible = sum(not 2 * variance - lower <= ACTIVE for variance, lower in pairs)
    return possible <= FEW_UNITS * int(units["of"])


def _sentences_for_units(metrics: Mapping[str, Any]) -> str:
    units = metrics["active_units"]
    place = int(FEW_UNITS * units["of"])  # the first unit beyond the few
    variance, lower = number(units["variances"][place]), number(units["lower_bounds"][place])
    return sentences_to_settle(
        variance - lower, variance - ACTIVE, int(metrics["perplexity"]["num_sentences"])
    )


def short_run(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether the short run is as wide as the posterior, by the ratio of variances and its error.

    KL(short run ‖ posterior) can show a gap, and cannot show that there is none.
    """
    if "posterior_spread_ratio" not in metrics:
        return None
    ratio, kl = estimate(metrics["posterior_spread_ratio"]), estimate(metrics["kl_q_posterior"])
    scale = number(metrics.get("noise_scale"))
    kl_low, n = interval(kl)[0], ratio.num_samples
    low, high = interval(ratio) if n >= FEWEST else (math.nan, math.nan)
    found = _spread_in_words(metrics, ratio, kl, kl_low, scale)
    cold = scale < 1
    steps = "Anneal the noise scale up to 1." if cold else "Take more steps, or larger ones."
    if high < 1 / SPREAD_OFF:
        level: Level = "bad" if high < 1 / SPREAD_BAD or kl_low > KL_BAD else "caution"
        return Verdict(
            "short_run", level, "The short run is over-confident.", found,
            f"Do not read its spread as uncertainty, nor its KL as the model's. {steps}",
        )  # fmt: skip
    if low > SPREAD_OFF:
        level = "bad" if low > SPREAD_BAD or kl_low > KL_BAD else "caution"
        return Verdict(
            "short_run", level, "The short run is too wide: it has not contracted to the posterior.", found,
            "Take more steps, tune the step size, or use the integrator 'lm' with a falling schedule.",
        )  # fmt: skip
    decided = low >= 1 / SPREAD_OFF and high <= SPREAD_OFF
    if kl_low > KL_OFF:
        return Verdict(
            "short_run", "bad" if kl_low > KL_BAD else "caution",
            "The short run is as wide as the posterior, but off its place or shape." if decided
            else "The short run is off the posterior; whether too wide or too narrow cannot be told.", found,
            ("Anneal the noise scale up to 1; t" if cold else "T")
            + "une the step size and look at KL by step below.",
        )  # fmt: skip
    if not math.isfinite(ratio.value) or not math.isfinite(kl.value):
        return Verdict(
            "short_run", "caution", "Whether the short run is over-confident cannot be told.", found,
            "Get importance weights that can be trusted, and more chains than latent dimensions + 1."
            + (" At a noise scale below 1, expect it to be." if cold else ""),
        )  # fmt: skip
    if not decided:
        nearest = min((1 / SPREAD_OFF, SPREAD_OFF), key=lambda edge: abs(ratio.value - edge))
        return Verdict(
            "short_run", "info" if 1 / SPREAD_OFF < ratio.value < SPREAD_OFF and not cold else "caution",
            f"Whether the short run is as wide as the posterior cannot be told from {n:,} sentences.", found,
            f"A ratio from {1 / SPREAD_OFF:.2f} to {SPREAD_OFF:.2f} would pass. "
            + sentences_to_settle(high - ratio.value, ratio.value - nearest, n),
        )  # fmt: skip
    if not likelihood_is_trusted(metrics):
        return Verdict(
            "short_run", "caution", "The short run is as wide as the posterior where the posterior is known.",
            found, "The sentences left out may be just those that it gets wrong. " + _better_weights(metrics),
        )  # fmt: skip
    return Verdict(
        "short_run", "good", "The short run is as wide as the posterior.", found,
        "Width is all that this shows: compare place and shape in the posteriors below.",
    )  # fmt: skip


def _spread_in_words(
    metrics: Mapping[str, Any], ratio: Estimate, kl: Estimate, kl_low: float, scale: float
) -> str:
    low, high = interval(ratio)
    total = int(metrics["perplexity"]["num_sentences"])
    found = (
        f"The short run's variance is {rounded(ratio)} times the posterior's (95% interval {low:.2f} to {high:.2f}, "
        f"over the {ratio.num_samples:,} of {total:,} sentences whose k-hat is below its threshold)"
        if math.isfinite(ratio.value)
        else "Too few sentences have weights good enough to compare variances"
    )
    found += f". KL(short run ‖ posterior) is {rounded(kl)} nats, " if math.isfinite(kl.value) else "."
    if math.isfinite(kl.value):
        found += "a lower estimate." if kl_low > 0 else f"{BIASED_LOW}."
    return found + (f" The noise scale is {scale:g}." if math.isfinite(scale) else "")


def noise(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether training ended before the noise scale had reached that of evaluation."""
    reached, schedule = schedule_end(metrics), option(metrics, "inference", "noise")
    trained = number(option(metrics, "training", "epochs"))
    if not trained < reached:
        return None
    return Verdict(
        "noise", "caution", "The decoder was never trained at the noise scale it is evaluated at.",
        f"Training was set to end after {trained:g} epoch{'' if trained == 1 else 's'}; the noise scale starts at "
        f"{schedule['start']:g} and takes {reached:g} to reach {schedule['end']:g}, that of evaluation.",
        "Train for longer, or let the noise schedule end well before training does.",
    )  # fmt: skip


def schedule_end(metrics: Mapping[str, Any]) -> float:
    """Epochs of training it takes to reach the final noise scale; NaN for a constant or unknown schedule."""
    schedule = option(metrics, "inference", "noise") or {}
    if schedule.get("kind") == "linear":
        return number(schedule.get("epochs")) if schedule["start"] != schedule["end"] else math.nan
    if schedule.get("kind") == "staircase":
        rises = math.ceil(round((schedule["end"] - schedule["start"]) / schedule["increment"], 6))
        return float(schedule["hold"] + rises) if rises > 0 else math.nan
    return math.nan


def rest(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether the runs have stopped moving."""
    if "short_run" not in metrics:
        return None
    run = metrics["short_run"]
    if run is None:
        return Verdict(
            "rest", "info", "The run was not traced step by step.", "No path was recorded.",
            "Evaluate with traced_sentences above 0 to see whether it has stopped moving.",
        )  # fmt: skip
    fall, unit = estimate(run["kl_late_fall"]), "KL(short run ‖ posterior)"
    if not math.isfinite(fall.value):
        fall, unit = estimate(run["energy_late_fall"]), "the energy"
    low, high = fall.interval(MEASURABLE)
    size = Estimate(abs(fall.value), fall.se, fall.num_samples)
    moved = f"{'fell' if fall.value >= 0 else 'rose'} by {rounded(size)} nats"
    if low <= 0 <= high:
        moved = f"did not change measurably ({rounded(size)} nats)"
    found = f"Over the last quarter of {run['num_steps']} steps {unit} {moved}, mean over {fall.num_samples} sentences."
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
            f"Raise traced_sentences, to {FEWEST} at least. "
            + sentences_to_settle(high - fall.value, abs(fall.value) - LATE_FALL, fall.num_samples),
        )  # fmt: skip
    return Verdict(
        "rest", "good", "The run has come to rest.", found,
        "Rest is not correctness: the spread above and k-hat speak to that.",
    )  # fmt: skip


def aggregate(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether codes drawn from the prior are like codes of sentences."""
    if "aggregate" not in metrics:
        return None
    gap, band = number(metrics["aggregate"]["radius_gap"]), number(metrics["aggregate"]["band"])
    found = (
        f"The distribution of ‖z‖² differs from the prior's by at most {gap:.3f}; chance alone "
        f"stays within {band:.3f} (95%, simultaneous)."
    )
    if gap > max(band, RADIUS_OFF):
        return Verdict(
            "aggregate", "caution", "Codes of sentences do not fill the prior as the prior's own draws do.", found,
            "Sentences sampled from the prior are of codes that training did not see; read them so.",
        )  # fmt: skip
    if band > RADIUS_BLIND:
        n = int(metrics["perplexity"]["num_sentences"])
        return Verdict(
            "aggregate", "info", f"Whether codes fill the prior cannot be told from {n:,} sentences.", found,
            f"About {math.ceil(n * (band / RADIUS_BLIND) ** 2):,} sentences would show a difference of {RADIUS_BLIND}.",
        )  # fmt: skip
    return Verdict(
        "aggregate", "good", "Codes of sentences are spread like draws of the prior, by their radius.", found,
        "Look at the eigenvalues too: a radius can hide directions.",
    )  # fmt: skip


def jensen(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether reconstruction, KL and likelihood fit together."""
    check = metrics["jensen"]
    gap = estimate(check["gap"])
    if not math.isfinite(gap.value):
        return None
    found = (
        f"Reconstruction + KL(q ‖ prior) - NLL is {rounded(gap)} nats; it equals KL(short run ‖ posterior)."
    )
    if not check["binding"]:
        found += " Not binding: this KL is a lower estimate" + (
            "." if interval(gap)[0] > 0 else f", {BIASED_LOW}."
        )
    if check["violated"]:
        return Verdict(
            "jensen", "bad", "Reconstruction, KL and likelihood contradict one another.", found,
            "A bound is broken: one of the three estimators is wrong. Do not publish any of them.",
        )  # fmt: skip
    if gap.value < -JENSEN_OFF and interval(gap)[1] < 0:
        return Verdict(
            "jensen", "caution", "Reconstruction, KL and likelihood do not fit together well.", found,
            "A Gaussian entropy may fall short, but seldom by so much: look for an error.",
        )  # fmt: skip
    if not check["binding"] and not interval(gap)[0] > 0:
        return Verdict(
            "jensen", "info", "Jensen's inequality shows no contradiction, and cannot rule one out.", found,
            "Nothing to do: a little below zero is innocent here.",
        )  # fmt: skip
    return Verdict(
        "jensen", "good", "Reconstruction, KL and likelihood do not contradict one another.", found,
        "Nothing to do: Jensen's inequality holds.",
    )  # fmt: skip
