"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.document import document, markdown
from benchmarks.facts import ROOT, facts
from benchmarks.kept import Kept
from benchmarks.measurements import MEASUREMENTS, Measurement, Run
from benchmarks.timing import Watch
from sri_pyro.wording import meant
from sri_pyro.writing import atomic_path

KEPT = ROOT / "runs" / "benchmarks"
LATEST = ROOT / "benchmarks" / "latest"
QUICK = KEPT / "quick"
STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not kept yet, write the table, and say what stands in it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, in two minutes; has a table of its own"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="this measurement, or all NAME/...; repeatable"
    )
    parser.add_argument("--fresh", action="store_true", help="measure anew what is kept")
    parser.add_argument("--out", type=Path, help="path of table and JSON file, without .md and .json")
    parser.add_argument("--list", action="store_true", help="print the names of all measurements")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(measurement.name for measurement in MEASUREMENTS))
        return 0
    try:
        chosen = choose(MEASUREMENTS, options.only, options.quick)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    return measure(chosen, options.out or (QUICK if options.quick else LATEST), options.quick, options.fresh)


def choose(measurements: Sequence[Measurement], only: Sequence[str] | None, quick: bool) -> list[Measurement]:
    """The measurements that are asked for.

    Raises:
        ValueError: If there is none of that name.
    """
    if not only:
        return [measurement for measurement in measurements if not (quick and measurement.slow)]
    names = [measurement.name for measurement in measurements]
    for asked in only:
        if not any(_named(name, asked) for name in names):
            raise ValueError(f"unknown measurement {asked!r}; known: {', '.join(names)}{meant(asked, names)}")
    return [m for m in measurements if any(_named(m.name, asked) for asked in only)]


def _named(name: str, asked: str) -> bool:
    return name == asked or name.startswith(f"{asked}/")


def measure(chosen: Sequence[Measurement], out: Path, quick: bool, fresh: bool) -> int:
    """Make the chosen measurements one after another; the table is written after each."""
    known = facts()
    kept = Kept.under(KEPT, known, quick)
    failed: dict[str, str] = {}
    for place, measurement in enumerate(chosen, 1):
        label = f"[{place}/{len(chosen)}] {measurement.name}"
        if fresh:
            kept.forget(measurement.name)
        if kept.get(measurement.name) is not None:
            say(f"{label}: kept from before")
            continue
        try:
            start = time.monotonic()
            say(f"{label} ...")
            rows = measurement.run(Run(progress(label), quick))
        except KeyboardInterrupt:
            say(
                f"stopped in {measurement.name}; what was finished is kept, and the same command goes on from here."
            )
            write(out, document(known, MEASUREMENTS, kept, failed, quick))
            return STOPPED
        except Exception as error:  # one that fails must not take the others with it
            failed[measurement.name] = f"failed: {type(error).__name__}: {error}"
            say(f"{label}: {failed[measurement.name]}")
            continue
        kept.put(measurement.name, rows, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
        say(f"{label}: {time.monotonic() - start:.0f} s")
        write(out, document(known, MEASUREMENTS, kept, failed, quick))
    results = document(known, MEASUREMENTS, kept, failed, quick)
    write(out, results)
    say(f"table: {out.with_suffix('.md')}")
    return 1 if failed else 0


def write(out: Path, results: dict[str, Any]) -> None:
    """Write the JSON file and the table."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(results, indent=1) + "\n"), (".md", markdown(results))):
        with atomic_path(out.with_suffix(suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def say(text: str) -> None:
    """A line of progress."""
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def progress(label: str) -> Watch:
    """Shows what a measurement does in a line that is overwritten; silent where none can be."""

    def show(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{label}: {text}", end="", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
