"""From measurements to the record and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sri_pyro.evaluation.intervals import share_interval

CAUGHT = 5.0
"""Standard errors off the truth at which a wrong program is caught."""


def mean_of(errors: Sequence[float]) -> dict[str, float]:
    """Mean, standard error, and standard deviation."""
    values = np.asarray(errors)
    spread = float(values.std(ddof=1))
    return {"mean": float(values.mean()), "se": spread / len(values) ** 0.5, "sd": spread}


def share_of(flags: Sequence[float]) -> dict[str, float]:
    """A share with its exact binomial interval."""
    count = int(sum(flags))
    low, high = share_interval(count, len(flags))
    return {"share": count / len(flags), "lower": low, "upper": high}


def summarised(found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Of flags the share, of errors the mean; by name."""
    flags = {"covered", "khat_failed"}
    return {
        name: share_of(values) if name in flags or name.endswith(("_holds", "_vacuous")) else mean_of(values)
        for name, values in found.items()
    }


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        f"Over {record['data_sets']} data sets of each problem; nats a data set, ± standard errors. Coverage is that "
        "of the 95 % interval, with its exact binomial interval.",
        "",
        "| problem | estimate | mean error | sd | coverage | k-hat fails |",
        "|---|---|---|---|---|---|",
    ]
    for problem, cells in record["problems"].items():
        for name, cell in cells["estimators"].items():
            lines.append(
                f"| {problem} | {name} | {_mean(cell['error'])} | {_share(cell['covered'])} | "
                f"{cell['khat_failed']['share']:.1%} |"
            )
        lines += [
            f"| {problem} | upper bound, {name} | {_mean(cells['above'][name])} | | |"
            for name in ("bidirectional", "reverse")
        ]
        for name, error in cells["controls"].items():
            caught = "caught" if abs(error["mean"]) > CAUGHT * error["se"] else "not caught"
            lines.append(f"| {problem} | wrong: {name} | {_mean(error)} | {caught} | |")
    lines += [
        "",
        "| problem | interval | holds | vacuous |",
        "|---|---|---|---|",
    ]
    for problem, cells in record["problems"].items():
        cell = cells["estimators"].get("gaussian", {})
        for name in ("markov", "bernstein", "bennett"):
            if holds := cell.get(f"{name}_holds"):
                vacuous = cell.get(f"{name}_vacuous")
                told = "never" if vacuous is None else f"{vacuous['share']:.0%}"
                lines.append(f"| {problem} | {name} | {_share(holds)} | {told} |")
    return "\n".join(lines) + "\n"


def _mean(error: Mapping[str, float]) -> str:
    return f"{error['mean']:+.3f} ± {error['se']:.3f} | {error['sd']:.3f}"


def _share(found: Mapping[str, float]) -> str:
    return f"{found['share']:.1%} [{found['lower']:.1%}, {found['upper']:.1%}]"
