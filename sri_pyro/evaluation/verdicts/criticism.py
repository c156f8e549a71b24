"""Verdicts of model criticism: what is wrong with the model, and what with the inference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.reading import number
from sri_pyro.evaluation.verdicts.verdict import LEVELS, Verdict

LEVEL = 0.05
"""Chance of any false alarm among the tests of a law, or among the statistics of a text."""
FEWEST_CODES = 50
"""Codes below which tests that find nothing say little in some dozen dimensions."""
SHOWN = {"length": "mean number of words", "unigram": "frequencies of words; shown is their entropy in nats"}
"""What stands for a statistic that is no single number."""


def judge_criticism(numbers: Mapping[str, Any]) -> list[Verdict]:
    """Judge the findings ``criticism``: the worst first.

    Args:
        numbers: Of the findings.

    Example:
        >>> fine = {"value": 8.0, "held_out": 8.1, "p_holm": 0.6}
        >>> language_model = {"codes": {}, "num_codes": 0, "texts": {"prior": {"length": fine}},
        ...                   "num_texts": {"prior": 200}, "num_held_out": 400}
        >>> [verdict.headline for verdict in judge_criticism(language_model)]
        ['Model: its sentences are like held-out ones by every statistic.']
    """
    found = [_aggregate(numbers), _inference(numbers), _texts(numbers)]
    return sorted((each for each in found if each is not None), key=lambda each: LEVELS.index(each.level))


def rejected(tests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the tests that reject, all of them taken together.

    Example:
        >>> rejected({"radius": {"p_holm": 0.02}, "holes": {"p_holm": 0.4}, "energy": {"p_holm": None}})
        ['radius']
    """
    return [name for name, test in tests.items() if number(test["p_holm"]) <= LEVEL]


def _aggregate(numbers: Mapping[str, Any]) -> Verdict | None:
    """Of the model, by codes of the posterior."""
    if not numbers["num_codes"]:
        return None
    tests = numbers["codes"].get("posterior")
    if tests is None:
        return Verdict(
            "aggregate", "info", "Model: whether codes of sentences are draws of the prior cannot be told.",
            "Too few sentences have weights that can be trusted.", "Evaluate with more draws, or another estimator.",
        )  # fmt: skip
    off = rejected(tests)
    evidence = _codes_in_words(numbers, tests, "the importance-weighted posterior")
    if "holes" in off:
        return Verdict(
            "aggregate", "caution", "Model: the prior has places where no code of a sentence lies.", evidence,
            "Sentences sampled there are of codes that training did not see. Another prior (a mixture) may fit them.",
        )  # fmt: skip
    if off:
        return Verdict(
            "aggregate", "caution", "Model: codes of sentences are not draws of its prior.", evidence,
            "Read samples from the prior so; train longer, or take a prior that fits the codes.",
        )  # fmt: skip
    if numbers["num_codes"] < FEWEST_CODES:
        return Verdict(
            "aggregate", "info", "Model: nothing speaks against its prior, of few codes.", evidence,
            f"Evaluate at least {FEWEST_CODES} sentences.",
        )  # fmt: skip
    return Verdict(
        "aggregate", "good", "Model: codes of sentences are like draws of its prior, by every test.", evidence,
        "The tests may miss what so few codes cannot show.",
    )  # fmt: skip


def _inference(numbers: Mapping[str, Any]) -> Verdict | None:
    """Of the inference, where its codes differ from the prior and those of the posterior are not shown to."""
    tests, posterior = numbers["codes"].get("inference"), numbers["codes"].get("posterior")
    if tests is None or not rejected(tests) or posterior is None:
        return None
    own = [name for name in rejected(tests) if name not in rejected(posterior)]
    if not own:
        return None
    return Verdict(
        "inference", "caution", "Inference: its codes differ from the prior where the posterior's do not.",
        _codes_in_words(numbers, {name: tests[name] for name in own}, "the inference"),
        "The model is not to blame for that: see sri-pyro doctor, and the verdict on its width.",
    )  # fmt: skip


def _texts(numbers: Mapping[str, Any]) -> Verdict | None:
    """Of the model, by what it writes; of its decoder if it does so at codes of held-out sentences, too."""
    checks = numbers["texts"].get("prior")
    if checks is None:
        return None
    off = rejected(checks)
    evidence = _texts_in_words(numbers, checks, off)
    if not off:
        return Verdict(
            "texts", "good", "Model: its sentences are like held-out ones by every statistic.", evidence,
            "Statistics count words; whether sentences make sense they do not tell.",
        )  # fmt: skip
    headline = "Model: its sentences differ from held-out ones."
    at_codes = numbers["texts"].get("posterior")
    if at_codes is None:
        return Verdict("texts", "caution", headline, evidence, _remedy(off, checks))
    too = [name for name in off if name in rejected(at_codes)]
    if not too:
        return Verdict(
            "texts", "caution", headline,
            evidence + " At codes of held-out sentences it writes none of these too much or too little.",
            "Look first at the prior, from which codes are drawn: at codes of text the decoder is not shown at fault.",
        )  # fmt: skip
    return Verdict(
        "texts", "caution", headline,
        evidence + f" At codes of held-out sentences they do so too, by {', '.join(map(_name, too))}.",
        _remedy(too, checks),
    )  # fmt: skip


def _remedy(off: list[str], checks: Mapping[str, Any]) -> str:
    if "novelty" in off and number(checks["novelty"]["value"]) < number(checks["novelty"]["held_out"]):
        return "See whether it copies the training text: regularise it, or train for less long."
    return "Train longer, or with a larger decoder; less dropout makes frequent words less frequent."


def _name(statistic: str) -> str:
    return statistic.replace("_", "-")


def _codes_in_words(numbers: Mapping[str, Any], tests: Mapping[str, Any], law: str) -> str:
    said = ", ".join(f"{name} {_p_in_words(numbers, test)}" for name, test in tests.items())
    return (
        f"One code of each of {numbers['num_codes']:,} sentences, of {law}, against as many draws of the prior: "
        f"p-values for all tests at once are {said}.{_least_in_words(numbers, tests.values())}"
    )


def _texts_in_words(numbers: Mapping[str, Any], checks: Mapping[str, Any], off: list[str]) -> str:
    shown = {name: checks[name] for name in off or checks}
    said = "; ".join(
        f"{_name(name)}{_about(name, check)}: {number(check['value']):.3g} against {number(check['held_out']):.3g} "
        f"held out, p-value {_p_in_words(numbers, check)}"
        for name, check in shown.items()
    )
    return (
        f"{numbers['num_texts']['prior']:,} sentences against halves of {numbers['num_held_out']:,} held-out ones, "
        f"as these are against each other; p-values are for all statistics at once. {said[:1].upper()}{said[1:]}."
        f"{_least_in_words(numbers, shown.values())}"
    )


def _about(name: str, check: Mapping[str, Any]) -> str:
    """What the numbers of a statistic are, with their unit."""
    said = SHOWN.get(name) or check.get("about")
    return f" ({said})" if said else ""


def _is_least(numbers: Mapping[str, Any], test: Mapping[str, Any]) -> bool:
    """Whether nothing simulated was as extreme: the p-value is then as small as so many simulations can make it."""
    return number(test.get("p")) * (number(numbers.get("replicates")) + 1) < 1.5


def _p_in_words(numbers: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    return f"{'at most ' if _is_least(numbers, test) else ''}{number(test['p_holm']):.2g}"


def _least_in_words(numbers: Mapping[str, Any], tests: Iterable[Mapping[str, Any]]) -> str:
    if not any(_is_least(numbers, test) for test in tests):
        return ""
    return (
        f" Where it says at most, none of {numbers['replicates']:,} simulations was as extreme, and so few can show no "
        "smaller p-value for so many tests at once."
    )
