"""Outputs: the files of a comparison, each whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sri_pyro.comparing import layout
from sri_pyro.comparing.forms import frame, latex, markdown
from sri_pyro.comparing.page import page
from sri_pyro.comparing.rows import Row
from sri_pyro.comparing.standing import UNKNOWN_CODE
from sri_pyro.evaluation.export import write_json
from sri_pyro.evaluation.headline import ranged
from sri_pyro.wording import counted
from sri_pyro.writing import atomic_path


def write_table(
    out: Path, rows: Sequence[Row], reference: str, missing: Sequence[str], failed: Mapping[str, str]
) -> None:
    """Write ``table.csv``, ``table.md``, ``table.tex``, ``table.html``, ``alone.html`` and ``comparison.json``.

    ``alone.html`` is ``table.html`` without links to the runs, for places where they are not.

    Args:
        out: Into which folder.
        rows: The systems.
        reference: The system that the others are compared with.
        missing: Runs that were asked for and are not in it.
        failed: What those said that failed.
    """
    heading = f"Comparison: {out.resolve().name}"
    tables = [
        layout.numbers(rows),
        layout.differences(rows, reference),
        layout.spreads(rows),
        layout.printed(rows),
    ]
    remarks = notes(rows, reference, missing, failed)
    origin = origin_of(rows)
    write_json(
        out / "comparison.json",
        {
            "reference": reference,
            "origin": origin,
            "systems": [row.record() for row in rows],
            "missing": list(missing),
            "notes": remarks,
        },
    )
    html = partial(
        page, heading, summary(rows, reference), rows, tables, reference, remarks, not missing, origin
    )
    texts = {
        "table.csv": frame(rows).to_csv(index=False),
        "table.md": markdown(tables, heading, remarks),
        "table.tex": latex(tables, remarks),
        "table.html": html(),
        "alone.html": html(linked=False),
    }
    for name, text in texts.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def summary(rows: Sequence[Row], reference: str) -> str:
    """The comparison in a sentence."""
    first = rows[0].perplexity
    text = f"{counted(len(rows), 'system')} on the same {counted(first.num_sentences, 'held-out sentence')}"
    compared = [row for row in rows if row.difference is not None and row.trusted]
    if not compared:
        return f"{text}; none can be compared with {reference}."
    better = [
        row.name for row in compared if row.p_holm < 0.05 and row.difference and row.difference.value > 0
    ]
    worse = [
        row.name for row in compared if row.p_holm < 0.05 and row.difference and row.difference.value < 0
    ]
    rest = len(compared) - len(better) - len(worse)
    parts = [
        f"better than {reference}: {', '.join(better) or 'none'}",
        f"worse: {', '.join(worse) or 'none'}",
    ]
    parts += [f"not told apart from it: {rest}"] if rest else []
    return f"{text}. By log p(x) paired by sentence and corrected for their number, {'; '.join(parts)}."


def notes(
    rows: Sequence[Row], reference: str, missing: Sequence[str], failed: Mapping[str, str]
) -> list[str]:
    """What a reader must know besides the numbers."""
    found = [f"{name} failed: {said}." for name, said in failed.items()]
    if left := [name for name in missing if name not in failed]:
        found.append(f"Not in the table, for they are not done: {', '.join(left)}.")
    if reference not in {row.name for row in rows}:
        found.append(f"There is no run of the reference {reference} yet, and so no difference from it.")
    if len({len(row.judged) for row in rows}) > 1:
        found.append("Systems have different numbers of seeds here.")
    if len(codes := {each.trained_by for row in rows for each in row.judged}) > 1:
        found.append(
            f"MIXED CODE: these trainings were made by {len(codes)} different versions of the source code."
        )
    elif codes != {each.judged_by for row in rows for each in row.judged}:
        by = "unrecorded" if codes == {UNKNOWN_CODE} else "other"
        found.append(
            f"All were trained by one and the same {by} source code, and evaluated by the present one."
        )
    for row in rows:
        found += [f"{row.name}: {note.text}" for note in row.notes]
        if row.jensen_violated:
            found.append(
                f"{row.name}: Recon + KL(q ‖ prior) is below the NLL, which is impossible, in {row.jensen_violated} of "
                f"{len(row.judged)} trainings."
            )
        if row.published.why:
            found.append(
                f"{row.name}: no published row stands beside it, since here are {row.published.why}."
            )
    sources = sorted({row.published.row.source for row in rows if row.published.row is not None})
    found += [f"Published rows: {source}." for source in sources]
    if any(row.published.row is not None and row.published.row.violates_jensen for row in rows):
        found.append("A published row marked as violated cannot be of one model on one set of sentences.")
    return found


def origin_of(rows: Sequence[Row]) -> dict[str, Any]:
    """What all numbers were made from."""
    first = rows[0].judged[0]
    record = first.metrics["provenance"]
    return {
        "sentences": rows[0].perplexity.num_sentences,
        "tokens": rows[0].perplexity.num_tokens,
        "data": record["data"],
        "data_digest": record["data_digest"],
        "evaluation": {
            row.name: row.judged[0].metrics["provenance"]["configuration"]["evaluation"] for row in rows
        },
        "versions": record["versions"],
        "evaluated_by": first.judged_by,
        "trained_by": sorted({each.trained_by for row in rows for each in row.judged}),
    }


def lines(rows: Sequence[Row], reference: str) -> list[str]:
    """The comparison as lines to be printed."""
    width = max(len(row.name) for row in rows) + 2
    found = []
    for row in rows:
        ppl = row.perplexity
        text = (
            f"perplexity {ranged(ppl.estimate, ppl.lower, ppl.upper, '.4g')}"
            if row.trusted
            else "k-hat fails"
        )
        if row.name == reference:
            text += "  reference"
        elif row.difference is not None and row.trusted:
            low, high = (
                layout.signed(end, row.difference.se) for end in (row.difference.lower, row.difference.upper)
            )
            value = layout.signed(row.difference.value, row.difference.se)
            text += f"  {value} [{low}, {high}] nats a sentence, p (Holm) {layout.probability(row.p_holm)}"
        found.append(f"{row.name:{width}}{text}")
        found += [f"{'':{width}}{note.text}" for note in row.notes]
    return found
