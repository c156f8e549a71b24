"""Verdicts: what the numbers of an evaluation say in plain language, and what to do about it.

A pure function of the dictionary in ``metrics.json``, so that page, command line and tests say the same. Every
threshold is a named constant with its reason. A number that is missing (null) or not finite is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sri_pyro.types import Estimate

Level = Literal["good", "info", "caution", "bad"]

NO_CODE = 0.5
"""Nats. Less than one yes-or-no answer (log 2 = 0.69) about a sentence is no code."""
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


@dataclass(frozen=True)
class Verdict:
    """One plain statement about a model or its inference.

    Attributes:
        topic: ``likelihood``, ``code``, ``short_run``, ``rest``, ``aggregate`` or ``jensen``.
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
        verdicts += [short_run(metrics), rest(metrics), aggregate(metrics), jensen(metrics)]
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
        return Verdict(
            "likelihood", "bad", "There is no likelihood: the estimator refused.",
            "At least one sentence has no valid estimate of log p(x) (a folded step map, or weights that are zero).",
            "Evaluate with the estimator 'gaussian' or 'annealed'.",
        )  # fmt: skip
    share = 1 - number(khat["share_below"])
    total = int(metrics["nll"]["num_samples"])
    tails = (
        f"k-hat is at or above its threshold on {failed} of {total:,} sentences ({share:.1%}; largest "
        f"{number(khat.get('max')):.2f} against {number(khat.get('threshold')):.2f}); "
        f"the median effective sample size is {draws:.0f}."
    )
    variance = sampling**2 + monte_carlo**2
    part = monte_carlo**2 / variance if variance > 0 else 0.0
    mc = f" Monte Carlo noise makes up {part:.1%} of the interval's variance."
    if share > FAILED_BAD:
        return Verdict(
            "likelihood", "bad", "The likelihood is not to be trusted, and is not shown.",
            tails + " Importance weights with such tails miss part of p(x), and their standard error does not know it.",
            "Read the number in metrics.json as an upper bound of the perplexity in expectation. Raise num_samples, "
            "or evaluate with the estimator 'annealed'.",
        )  # fmt: skip
    if failed or part > 0.5 or draws < FEW_DRAWS:
        return Verdict(
            "likelihood", "caution", "The likelihood can be used, with care.", tails + mc,
            "sentences.csv has every k-hat; more draws, or the estimator 'annealed', settle the high ones.",
        )  # fmt: skip
    return Verdict(
        "likelihood", "good", "The likelihood is trustworthy.", tails + mc,
        "Compare models paired by sentence: the interval here is that of one model alone.",
    )  # fmt: skip


def code(metrics: Mapping[str, Any]) -> Verdict:
    """Say whether the model uses its code."""
    units = metrics["active_units"]
    count, of = int(units["count"]), int(units["of"])
    if not of:
        return Verdict(
            "code", "info", "This model has no code: it is a language model.",
            "Its latent dimension is 0, so that there is nothing to collapse.",
            "Use it as the baseline.",
        )  # fmt: skip
    trusted = likelihood_is_trusted(metrics)
    kl = estimate(metrics["kl_posterior_prior"])
    low, high = kl.interval()
    few = count <= FEW_UNITS * of
    active = f"{count} of {of} units are active after correction for Monte Carlo noise"
    if int(units["naive_count"]) > count:
        active += f" (the uncorrected count says {units['naive_count']})"
    nats = f"KL(posterior ‖ prior) is {rounded(kl)} nats (95% interval {low:.2f} to {high:.2f}); "
    more = (
        "Anneal the noise scale over more epochs or from a lower value; weaken the decoder with word dropout; then "
        "look at KL(posterior ‖ prior) on validation, epoch by epoch."
    )
    if not trusted or not math.isfinite(high):
        level: Level = "bad" if few else "caution"
        return Verdict(
            "code", level,
            "The code looks collapsed." if few else "The code is in use; how much it holds is unknown.",
            f"{active}. KL(posterior ‖ prior) rests on the importance weights, which are not to be trusted here.",
            more if few else "Get a likelihood that can be trusted first.",
        )  # fmt: skip
    if high < NO_CODE and few:
        return Verdict("code", "bad", "COLLAPSED: the model ignores its code.", f"{nats}{active}.", more)
    if high < NO_CODE:
        return Verdict(
            "code", "bad", "Nearly collapsed: the code holds next to nothing.", f"{nats}{active}.", more
        )
    if few and low > NO_CODE:
        return Verdict(
            "code", "bad", "The model uses its code, but the short run does not find it.", f"{nats}{active}.",
            "Take more steps or larger ones; see the short run step by step below.",
        )  # fmt: skip
    if low < NO_CODE:
        return Verdict("code", "caution", "The code is weak.", f"{nats}{active}.", more)
    return Verdict(
        "code", "good", f"Not collapsed: the code holds about {kl.value:.1f} nats a sentence.", f"{nats}{active}.",
        "Read the reconstructions: nats say how much the code holds, and not what.",
    )  # fmt: skip


def short_run(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether the short run is as wide as the posterior, and in the same place."""
    if "posterior_spread_ratio" not in metrics:
        return None
    ratio, kl = estimate(metrics["posterior_spread_ratio"]), estimate(metrics["kl_q_posterior"])
    noise = number(metrics.get("noise_scale"))
    low, high = (x if math.isfinite(x) else ratio.value for x in ratio.interval())
    kl_low = kl.interval()[0]
    found = (
        f"The short run's variance is {rounded(ratio)} times the posterior's "
        f"({ratio.num_samples:,} sentences with good weights)"
        if math.isfinite(ratio.value)
        else "No sentence has weights good enough to compare variances"
    )
    found += f"; a lower estimate of KL(short run ‖ posterior) is {rounded(kl)} nats"
    found += " (below zero: it cannot be told from zero)" if kl.value < 0 else ""
    cold = noise < 1
    found += f"; its noise scale is {noise:g}." if math.isfinite(noise) else "."
    far: Level = "bad" if kl_low > KL_BAD else "caution"
    if high < 1 / SPREAD_OFF or (cold and not low > 1 / SPREAD_OFF):
        level: Level = "bad" if high < 1 / SPREAD_BAD or kl_low > KL_BAD else "caution"
        return Verdict(
            "short_run", level, "The short run is over-confident.", found,
            "Do not read its spread as uncertainty, nor its KL as the model's. "
            + ("Anneal the noise scale up to 1." if cold else "Take more steps, or larger ones."),
        )  # fmt: skip
    if low > SPREAD_OFF:
        level = "bad" if low > SPREAD_BAD or kl_low > KL_BAD else "caution"
        return Verdict(
            "short_run", level, "The short run is too wide: it has not contracted to the posterior.", found,
            "Take more steps, tune the step size, or use the integrator 'lm' with a falling schedule.",
        )  # fmt: skip
    if kl_low > KL_OFF:
        return Verdict(
            "short_run", far, "The short run is as wide as the posterior, but off its place or shape.", found,
            "Tune the step size and look at KL by step below.",
        )  # fmt: skip
    if not math.isfinite(ratio.value) or not math.isfinite(kl.value):
        return Verdict(
            "short_run", "caution", "Whether the short run is over-confident cannot be said.", found,
            "Get importance weights that can be trusted, and more chains than latent dimensions + 1.",
        )  # fmt: skip
    return Verdict(
        "short_run", "good", "The short run is neither over-confident nor too wide.", found,
        "Its draws can stand for the posterior, to this resolution.",
    )  # fmt: skip


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
    low, high = fall.interval()
    size = Estimate(abs(fall.value), fall.se, fall.num_samples)
    moved = f"{'fell' if fall.value >= 0 else 'rose'} by {rounded(size)}"
    found = (
        f"Over the last quarter of {run['num_steps']} steps {unit} {moved} nats "
        f"(mean over {fall.num_samples} sentences)."
    )
    if low > LATE_FALL:
        return Verdict(
            "rest", "caution", "The run is still moving when it stops.", found,
            "Take more steps, or larger ones.",
        )  # fmt: skip
    if high < -LATE_FALL:
        return Verdict(
            "rest", "caution", "The run moves away from the posterior in its last steps.", found,
            "The last steps are too large, or the noise scale too small.",
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
    if check["violated"]:
        return Verdict(
            "jensen", "bad", "Reconstruction, KL and likelihood contradict one another.", found,
            "A bound is broken: one of the three estimators is wrong. Do not publish any of them.",
        )  # fmt: skip
    if gap.value < -JENSEN_OFF and gap.interval()[1] < 0:
        return Verdict(
            "jensen", "caution", "Reconstruction, KL and likelihood do not fit together well.", found,
            "This KL is a lower estimate (from a Gaussian entropy) and may fall short, but seldom by so much.",
        )  # fmt: skip
    if gap.interval()[1] < 0:
        return Verdict(
            "jensen", "info", "Jensen's inequality holds within the error of the KL.", found,
            "A little below zero is innocent: a Gaussian entropy makes this KL a lower estimate.",
        )  # fmt: skip
    return Verdict(
        "jensen", "good", "Reconstruction, KL and likelihood do not contradict one another.", found,
        "Nothing to do: Jensen's inequality holds.",
    )  # fmt: skip
