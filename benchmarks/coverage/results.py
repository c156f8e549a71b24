"""From measurements to the record and its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sri_pyro.evaluation.intervals import share_interval

CAUGHT = 5.0
"""Standard errors off the truth at which a wrong program is caught."""
FLAGS = {"covered", "covered_where_good", "khat_failed", "refused"}
BOUNDED = ("markov", "bernstein", "bennett")
RIGHT = "right: "


def mean_of(errors: Sequence[float]) -> dict[str, float] | None:
    """Mean, standard error, and standard deviation of those that there are."""
    values = np.asarray(errors, float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    spread = float(values.std(ddof=1))
    return {"mean": float(values.mean()), "se": spread / len(values) ** 0.5, "sd": spread}


def share_of(flags: Sequence[float]) -> dict[str, float] | None:
    """A share of those that there are, with its exact binomial interval."""
    there = [flag for flag in flags if flag == flag]
    if not there:
        return None
    count = int(sum(there))
    low, high = share_interval(count, len(there))
    return {"share": count / len(there), "lower": low, "upper": high, "of": len(there)}


def summarised(found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Of flags the share, of errors the mean; by name."""
    return {
        name: share_of(values) if name in FLAGS or name.endswith(("_holds", "_vacuous")) else mean_of(values)
        for name, values in found.items()
    }


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown: estimates, bounds from above, intervals without a central limit, wrong programs."""
    problems = record["problems"]
    lines = [
        f"Over {record['data_sets']} data sets of each problem; errors in nats a data set, ± standard errors. Coverage "
        "is that of the normal 95 % interval; in brackets its exact binomial interval.",
        "",
        *_rows(
            "problem | estimate | mean error | sd | coverage | where k-hat passes | k-hat fails",
            _estimates(problems),
        ),
        "",
        "Upper bounds from the code that wrote the data, less the truth: at least 0 in expectation. *Sandwich*: the "
        "share of data sets whose log p(x) lies between the lower bound (*gaussian*) less log 40 and the upper bound "
        "plus log 40, of which Markov's inequality promises 95 %.",
        "",
        *_rows("problem | bidirectional | sd | reverse | sd | sandwich", _sandwiches(problems)),
        "",
        "Intervals that hold for every number of draws, of the estimate *gaussian*; a vacuous one says nothing.",
        "",
        *_rows("problem | interval | holds | vacuous", _intervals(problems)),
        "",
        f"Wrong programs, and how far from the truth they are: caught where that is over {CAUGHT:g} standard errors. A "
        "right lower bound may lie below.",
        "",
        *_rows("problem | program | mean error | sd | caught", _programs(problems)),
    ]
    return "\n".join(lines) + "\n"


def _rows(header: str, rows: Iterator[Sequence[str]]) -> list[str]:
    return [
        f"| {header} |",
        "|" + "---|" * (header.count(" | ") + 1),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _estimates(problems: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for problem, cells in problems.items():
        for name, cell in cells["estimators"].items():
            refused = cell["refused"]["share"]
            told = f"{name} (refused: {refused:.0%})" if refused else name
            failed = f"{cell['khat_failed']['share']:.1%}"
            yield (
                problem,
                told,
                *_mean(cell["error"]),
                _share(cell["covered"]),
                _share(cell["covered_where_good"]),
                failed,
            )


def _sandwiches(problems: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for problem, cells in problems.items():
        found = cells["above"]
        yield (
            problem,
            *_mean(found["bidirectional"]),
            *_mean(found["reverse"]),
            _share(found["sandwich_holds"]),
        )


def _intervals(problems: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for problem, cells in problems.items():
        cell = cells["estimators"].get("gaussian", {})
        for name in BOUNDED:
            if holds := cell.get(f"{name}_holds"):
                vacuous = cell.get(f"{name}_vacuous")
                yield problem, name, _share(holds), "never" if vacuous is None else f"{vacuous['share']:.0%}"


def _programs(problems: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for problem, cells in problems.items():
        for name, error in cells["controls"].items():
            away = error["mean"] / error["se"]
            right = name.startswith(RIGHT)
            told = f"yes, {'above' if away > 0 else 'below'}" if abs(away) > CAUGHT else "no"
            yield (
                problem,
                name.removeprefix(RIGHT),
                *_mean(error),
                "no, a bound" if right and away < CAUGHT else told,
            )


def _mean(error: Mapping[str, float] | None) -> tuple[str, str]:
    return (
        ("–", "–") if error is None else (f"{error['mean']:+.3f} ± {error['se']:.3f}", f"{error['sd']:.3f}")
    )


def _share(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{found['share']:.1%} [{found['lower']:.1%}, {found['upper']:.1%}]"
