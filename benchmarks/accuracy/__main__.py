"""``python -m benchmarks.accuracy``: measure, and write the record, its summary and the figure."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path

from benchmarks.accuracy import checks, measure
from benchmarks.accuracy.figure import drawn
from benchmarks.accuracy.results import Setting, record, summary
from benchmarks.accuracy.store import QUICK, Effort, Store
from benchmarks.accuracy.text import trained
from sri_pyro.config.threads import computing_with
from sri_pyro.writing import atomic_path

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Read the command line, and measure what has not been measured."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    options.add_argument(
        "--quick", action="store_true", help="little of everything, in minutes; numbers mean little"
    )
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "accuracy.json", help="the record")
    options.add_argument(
        "--work", type=Path, help="where measurements are kept; a killed run goes on from there"
    )
    options.add_argument(
        "--figure", type=Path, help="the figure; docs/accuracy-per-second.png, or beside a quick record"
    )
    asked = options.parse_args()
    effort = QUICK if asked.quick else Effort()
    work = asked.work or ROOT / "runs" / ("accuracy-quick" if asked.quick else "accuracy")
    figure = asked.figure or (
        asked.out.with_suffix(".png") if asked.quick else ROOT / "docs" / "accuracy-per-second.png"
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("sri_pyro").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="pyro")
    with computing_with(1):
        publish(effort, Store(work, effort), asked.out, figure)


def publish(effort: Effort, store: Store[Effort], out: Path, figure: Path) -> None:
    """Measure, and write the three files."""
    text = trained(store.folder / "model", effort)
    oracle = measure.gaussian_curves(store)
    sentences, known = measure.text_curves(store, text)
    own, prices = measure.oracle_prices(store), measure.prices(store, text)
    settings = [
        Setting("gaussian", oracle, prices),
        Setting("gaussian, its own seconds", oracle, own),
        Setting("text", sentences["moments"], prices),
        Setting("text, by energy", sentences["energy"], prices),
    ]
    beside = {
        "agreement": store.once("text/agreement", lambda: checks.agreement(text)),
        "reference": {name: known[name] for name in ("log_px", "se", "khat", "threshold", "ess", "excess")},
        "warm_nuts": checks.warm_nuts(store, text),
    }
    told = summary(settings, beside)
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(record(effort, settings, beside), indent=1) + "\n")
    with atomic_path(out.with_suffix(".md")) as temporary:
        temporary.write_text(told)
    drawn({setting.name: setting for setting in settings}, figure)
    print(told)


if __name__ == "__main__":
    main()
