"""The results as one JSON document, and that document as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.facts import ABSENT
from benchmarks.kept import Kept
from benchmarks.measurements.measurement import Measurement
from benchmarks.rows import Row

FORMAT = 1


def document(
    facts: Mapping[str, Any],
    measurements: Sequence[Measurement],
    kept: Kept,
    failed: Mapping[str, str],
    quick: bool,
) -> dict[str, Any]:
    """Everything that has been measured of these facts, and the names of what has not.

    Args:
        facts: What was measured on.
        measurements: In the order of the table.
        kept: Those that are finished.
        failed: Why some were not, by name.
        quick: Whether they were made in a hurry.
    """
    parts: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    peaks: dict[str, float] = {}
    for measurement in measurements:
        found = kept.get(measurement.name)
        if found is None:
            missing[measurement.name] = failed.get(measurement.name, "not measured")
            continue
        rows, date = found
        parts.append(
            {
                "name": measurement.name,
                "title": measurement.title,
                "date": date,
                "rows": {row.name: row.plain() for row in rows},
            }
        )
        peaks |= {
            row.name: row.spread.value
            for row in rows
            if row.name.endswith("/peak") and not row.name.startswith("cuda/")
        }
    return {
        "format": FORMAT,
        "quick": quick,
        "facts": {**facts, "peak_gflops": max(peaks.values(), default=None)},
        "measurements": parts,
        "missing": missing,
    }


def markdown(results: Mapping[str, Any]) -> str:
    """The document for people."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    facts = results["facts"]
    rows = [Row.of_plain(row) for part in results["measurements"] for row in part["rows"].values()]
    yield "# Side by side"
    yield ""
    if results["quick"]:
        yield "A quick run: few rounds, wide spreads, and not every measurement. `make bench` makes the whole table."
        yield ""
    yield from _about(facts)
    yield ""
    yield (
        "Medians over rounds in which every contestant of a table ran once; `10-90 %` holds the middle four fifths of "
        "the ratios within rounds. Processor time of the process, one thread; on a GPU time by the clock on the wall. "
        "`benchmarks/README.md` says more."
    )
    yield ""
    yield _summary(rows)
    for part in results["measurements"]:
        yield from _section(part)
    if results["missing"]:
        yield ""
        yield "## Not measured"
        yield ""
        for name, reason in results["missing"].items():
            yield f"- `{name}`: {reason}"


def _about(facts: Mapping[str, Any]) -> Iterator[str]:
    commit = facts["commit"][:12] + (" with uncommitted changes" if facts["changed_since_commit"] else "")
    yield f"- Commit {commit}."
    yield f"- {facts['processor']}, {facts['cores']} cores, {facts['threads']} thread used; {facts['system']}."
    yield (
        f"- Python {facts['python']}, PyTorch {facts['torch']}, Pyro {facts['pyro']}, NumPy {facts['numpy']}, "
        f"JAX {facts['jax']}."
    )
    if facts["jax"] == ABSENT:
        yield "- Without JAX its rows are left out; `pip install -c constraints.txt -e '.[bench]'` brings it."
    route = "compiled" if facts["compiled"] else "not compiled: no compiler, or SRI_PYRO_COMPILE=0"
    yield f"- The library's fast route is {route}."
    if facts["gpu"] != ABSENT:
        yield f"- {facts['gpu']}; the library's cells there are {'' if facts['gpu_cells'] else 'not '}compiled."
    if facts["peak_gflops"] is not None:
        yield f"- Peak of matrix products on one thread: {facts['peak_gflops']:.0f} GFLOP/s."


def _summary(rows: Iterable[Row]) -> str:
    judged = [row for row in rows if row.met is not None]
    missed = [row for row in judged if not row.met]
    text = f"Of {len(judged)} bars {len(judged) - len(missed)} are met"
    return f"{text}." if not missed else f"{text}; missed: {', '.join(f'`{row.name}`' for row in missed)}."


def _section(part: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"## {part['title']}"
    yield ""
    yield f"`{part['name']}`, {part['date']}"
    yield ""
    yield "| | median | 10-90 % | pairs | bar | |"
    yield "|---|--:|:-:|--:|--:|---|"
    for plain in part["rows"].values():
        yield _table_row(Row.of_plain(plain))


def _table_row(row: Row) -> str:
    spread, unit = row.spread, row.unit if row.unit in ("x", "%") else f" {row.unit}".rstrip()
    several = spread.pairs > 1
    verdict = {None: "", True: "met", False: "**missed**"}[row.met]
    cells = [
        row.what + (f" ({row.note})" if row.note else ""),
        f"{number(spread.value)}{unit}",
        f"{number(spread.low)} to {number(spread.high)}" if several else "",
        str(spread.pairs) if several else "",
        "" if row.bar is None else f"{'≥' if row.bar.better == 'more' else '≤'} {row.bar.value:g}{unit}",
        verdict,
    ]
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three figures, and no fewer digits than the number has before its point."""
    if value and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
