"""Forms: a comparison as CSV for machines, and as Markdown and LaTeX for papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from sri_pyro.comparing.judged import AVERAGED, Judged
from sri_pyro.comparing.layout import Table
from sri_pyro.comparing.rows import Row
from sri_pyro.evaluation.paired import Difference
from sri_pyro.evaluation.verdicts import number

ALL: Final = "all"
"""In place of a seed: the row of all of them together."""
IN_LATEX: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "‖": r"$\|$", "|": r"$|$",
    "–": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line for each training and, with ``seed`` = ``all``, one for each system; numbers in full."""
    lines = []
    for row in rows:
        lines += [_of_seed(row, each, i) for i, each in enumerate(row.judged)]
        lines.append(_of_all(row))
    found = pd.DataFrame(lines)
    return found[[name for name in found if name != "training_seconds"] + ["training_seconds"]]


def _of_seed(row: Row, each: Judged, place: int) -> dict[str, Any]:
    metrics = each.metrics
    ppl, units = metrics["perplexity"], metrics["active_units"]
    estimates = {
        name: (number(metrics[name]["value"]), number(metrics[name]["se"]))
        for name in ("nll", *AVERAGED, "mutual_information")
    }
    return {
        "system": row.name,
        "seed": str(each.run.seed),
        **_head(row),
        "perplexity": number(ppl["estimate"]),
        "perplexity_lower": number(ppl["lower"]),
        "perplexity_upper": number(ppl["upper"]),
        "perplexity_sd": math.nan,
        **_flat(estimates, {}),
        "kl_q_prior_estimator": metrics["kl_q_prior"]["method"],
        "active_units_corrected": units["count"],
        "active_units_at_most": units["at_most"],
        "active_units_naive": units["naive_count"],
        "khat_above_share": 1 - number(metrics["khat"]["share_below"]),
        "likelihood_trusted": each.trusted,
        "jensen_violated": int(metrics["jensen"]["violated"]),
        **_compared(row.by_seed[place] if row.by_seed else None, math.nan),
        "training_seconds": math.nan if each.seconds is None else each.seconds,
    }


def _of_all(row: Row) -> dict[str, Any]:
    ppl = row.perplexity
    estimates = {name: (found.value, found.se) for name, found in row.estimates.items()}
    deviations = {name: row.spreads[name].sd for name in row.estimates}
    return {
        "system": row.name,
        "seed": ALL,
        **_head(row),
        "perplexity": ppl.estimate,
        "perplexity_lower": ppl.lower,
        "perplexity_upper": ppl.upper,
        "perplexity_sd": row.spreads["perplexity"].sd,
        **_flat(estimates, deviations),
        "kl_q_prior_estimator": row.estimates["kl_q_prior"].method,
        "active_units_corrected": row.spreads["active_units"].mean,
        "active_units_at_most": row.spreads["active_at_most"].mean,
        "active_units_naive": row.spreads["active_naive"].mean,
        "khat_above_share": row.spreads["khat_above"].mean,
        "likelihood_trusted": row.trusted,
        "jensen_violated": row.jensen_violated,
        **_compared(row.difference, row.p_holm),
        "training_seconds": row.spreads["training_seconds"].mean,
    }


def _head(row: Row) -> dict[str, Any]:
    published = row.published.row
    return {
        "sentences": row.perplexity.num_sentences,
        "tokens": row.perplexity.num_tokens,
        "latent_units": row.units,
        "parameters": row.cost.parameters,
        "inference_parameters": row.cost.inference_parameters,
        "decoder_gradients": row.cost.gradients,
        "decoder_evaluations": row.cost.evaluations,
        "published_system": None if published is None else published.system,
        "published_perplexity": math.nan if published is None else published.perplexity,
    }


def _flat(estimates: dict[str, tuple[float, float]], deviations: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (value, se) in estimates.items():
        found |= {name: value, f"{name}_se": se, f"{name}_sd": deviations.get(name, math.nan)}
    return found


def _compared(found: Difference | None, p_holm: float) -> dict[str, Any]:
    names = ("value", "se", "lower", "upper", "p_value")
    values = {name: math.nan if found is None else getattr(found, name) for name in names}
    return {
        "difference": values.pop("value"),
        **{f"difference_{name}": value for name, value in values.items()},
        "difference_p_holm": p_holm,
        "difference_counts_seeds": None if found is None else found.counts_seeds,
    }


def markdown(tables: Sequence[Table], heading: str, notes: Sequence[str]) -> str:
    """All tables that have rows, how to read their columns, and the notes."""
    parts = [f"# {heading}"]
    for table in tables:
        if table.rows:
            lines = [_line([column.name for column in table.columns]), _line(["---"] * len(table.columns))]
            parts += [f"## {table.title}", "\n".join([*lines, *map(_line, table.rows)])]
            if how := [f"- {each.name}: {each.how}" for each in table.columns if each.how]:
                parts.append("\n".join(how))
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def latex(tables: Sequence[Table], notes: Sequence[str]) -> str:
    r"""All tables that have rows as ``tabular``, to be put into a document with ``\input``; the notes as comments."""
    parts = [r"% \usepackage{booktabs}", *(f"% {note}" for note in notes)]
    for table in tables:
        if table.rows:
            head = [escaped(column.name) for column in table.columns]
            parts += [
                f"% {table.title}",
                rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
                r"\toprule",
                " & ".join(head) + r" \\",
                r"\midrule",
                *(" & ".join(map(escaped, row)) + r" \\" for row in table.rows),
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
    return "\n".join(parts)


def escaped(text: str) -> str:
    r"""A text as LaTeX sets it.

    Example:
        >>> print(escaped("fb_vae: 3.1 ± 0.2, 5%"))
        fb\_vae: 3.1 $\pm$ 0.2, 5\%
    """
    return "".join(IN_LATEX.get(sign, sign) for sign in text)
