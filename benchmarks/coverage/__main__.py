"""``python -m benchmarks.coverage``: measure, and write the record and its table; a killed run goes on."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.store import Store
from benchmarks.coverage.controls import controls
from benchmarks.coverage.measure import ESTIMATORS, above, by_parts, estimated
from benchmarks.coverage.problems import PROBLEMS, DataSets
from benchmarks.coverage.results import summarised, table
from sri_pyro.config.threads import computing_with
from sri_pyro.evaluation.evidence import EvidenceEstimator
from sri_pyro.writing import atomic_path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Coverage:
    """How much is spent.

    Attributes:
        data_sets: Of each problem.
    """

    data_sets: int = 200


def main() -> None:
    """Read the command line, and measure what has not been measured."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    options.add_argument("--data-sets", type=int, default=200, help="of each problem")
    options.add_argument("--only", nargs=2, metavar=("PROBLEM", "CELL"), help="one cell, printed and kept")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "coverage.json", help="the record")
    options.add_argument("--work", type=Path, help="where measurements are kept")
    asked = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_default_dtype(torch.float64)
    effort = Coverage(asked.data_sets)
    folder = asked.work or ROOT / "runs" / f"coverage-{effort.data_sets}"
    store = Store(folder, effort)
    with computing_with(1):
        if asked.only is not None:
            print(json.dumps(summarised(cell(store, effort, *asked.only)), indent=1))
            return
        record = {
            "data_sets": effort.data_sets,
            "problems": {problem: measured(store, effort, problem) for problem in PROBLEMS},
        }
    with atomic_path(asked.out) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    with atomic_path(asked.out.with_suffix(".md")) as temporary:
        temporary.write_text(table(record))
    print(table(record))


def measured(store: Store[Coverage], effort: Coverage, problem: str) -> dict[str, Any]:
    """All cells of a problem."""
    return {
        "estimators": {name: summarised(cell(store, effort, problem, name)) for name in ESTIMATORS},
        "above": summarised(cell(store, effort, problem, "above")),
        "controls": summarised(cell(store, effort, problem, "controls")),
    }


def cell(store: Store[Coverage], effort: Coverage, problem: str, name: str) -> dict[str, list[float]]:
    """One cell: an estimator's name, ``above`` or ``controls``."""

    def make() -> dict[str, list[float]]:
        data = PROBLEMS[problem](effort.data_sets)
        if name in ("above", "controls"):
            return by_parts(data, {"above": above, "controls": controls}[name])
        estimator: EvidenceEstimator = ESTIMATORS[name]

        def find(part: DataSets) -> dict[str, torch.Tensor]:
            return estimated(part, estimator)

        return by_parts(data, find)

    found: dict[str, list[float]] = store.once(f"{problem}/{name}", make)
    return found


if __name__ == "__main__":
    main()
