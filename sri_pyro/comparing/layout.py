"""Layout: the numbers of a comparison as cells of text, the same on the page, in Markdown and in LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sri_pyro.comparing.rows import Row
from sri_pyro.config.cost import duration
from sri_pyro.evaluation.headline import plain, ranged
from sri_pyro.evaluation.metrics import EXACT_DENSITY, GAUSSIAN_ENTROPY
from sri_pyro.evaluation.paired import Difference, Spread
from sri_pyro.evaluation.verdicts import rounded
from sri_pyro.evaluation.verdicts.divergence import impossible
from sri_pyro.types import Estimate

SHORT: Final = {GAUSSIAN_ENTROPY: "Gaussian entropy", EXACT_DENSITY: "exact density"}
"""Estimators of KL(q ‖ prior), in two words."""
WITHHELD: Final = "not shown (k-hat)"
NOTHING: Final = "–"
UNKNOWN: Final = "not known"


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: Its heading.
        how: How to read it.
    """

    name: str
    how: str


@dataclass(frozen=True)
class Table:
    """Cells under headings, to be written in any form.

    Attributes:
        title: What it shows.
        columns: Headings; the first one is the system's.
        rows: Cells, one for each heading.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


COLUMNS: Final = (
    Column("System", "The name of its file."),
    Column("Perplexity", "exp(NLL / tokens), the end of a sentence counted; lower is better. In brackets the 95% "
           "interval over the choice of sentences and the importance draws, for these trained models. Systems share "
           "the sentences, so that overlapping intervals say nothing: read the differences."),
    Column("Recon", "Mean of -log p(x | z) over draws of the system's inference, nats a sentence ± standard error."),
    Column("KL(q ‖ prior)", "Of the inference's draws from the prior, nats a sentence ± standard error, with its "
           "estimator. A Gaussian entropy is biased low, an exact density is not: do not compare across the two."),
    Column("KL(posterior ‖ prior)", "How far reading a sentence moves the model's own code, whatever the inference: "
           "the measure of collapse. Nats a sentence ± standard error."),
    Column("AU", "Active units, corrected for Monte Carlo noise: at least so many of how many, and with the other "
           "bound at most."),
    Column("AU (naive)", "The count of published code, which noise inflates up to all units of a collapsed model."),
    Column("MI", "A lower bound of the information between sentence and code (InfoNCE), nats; it cannot exceed the "
           "logarithm of the number of sentences."),
    Column("k-hat above", "Share of sentences whose importance weights fail. Their log p(x) is too low by an unknown "
           "amount; above 10% the likelihood is not shown."),
    Column("Passes", "Evaluations and gradients of the decoder for one draw of one sentence's code, each of which "
           "reads every token once. An encoder's pass is none."),
    Column("Training", "Wall time of one training, start and validation counted, beside what else ran then."),
    Column("Parameters", "All that training moves, an encoder counted."),
)  # fmt: skip
DIFFERENCES: Final = (
    Column("System", "The name of its file."),
    Column("Difference", "Mean of log p(x) less the reference's, sentence by sentence, nats; above 0 is better."),
    Column("95% interval", "By Student's t; see the next column for what it speaks of."),
    Column("Speaks of", "With several seeds of both systems, of the two recipes: seeds are part of the error. With "
           "one, of these two trained models alone; another training may differ by more."),
    Column("p", "Of no difference."),
    Column("p (Holm)", "The same, corrected for the number of systems compared: below 0.05 it is not chance."),
    Column("Where k-hat passes", "The difference on sentences whose weights are good in both systems."),
)  # fmt: skip
SPREADS: Final = {
    "perplexity": ("Perplexity", ".4g"),
    "nll": ("NLL", ".4g"),
    "reconstruction": ("Recon", ".4g"),
    "kl_q_prior": ("KL(q ‖ prior)", ".3g"),
    "kl_posterior_prior": ("KL(posterior ‖ prior)", ".3g"),
    "active_units": ("AU", ".3g"),
    "mutual_information": ("MI", ".3g"),
}
PUBLISHED: Final = (
    Column("System", "The name of its file."),
    Column("Published as", "The row of the printed table."),
    Column("PPL (published)", "As printed, beside"),
    Column("PPL (here)", "this library's."),
    Column("Recon (published)", "Under one draw."),
    Column("KL (published)", "KL(q ‖ prior)."),
    Column("AU (published)", "Without a correction for noise."),
    Column("Recon + KL − NLL", "Of the printed numbers, nats; it cannot be negative if they are of one model on one "
           "set of sentences."),
)  # fmt: skip


def numbers(rows: Sequence[Row]) -> Table:
    """The table of all systems."""
    return Table("Systems", COLUMNS, [_numbers(row) for row in rows])


def _numbers(row: Row) -> list[str]:
    ppl, of = row.perplexity, row.estimates
    code = row.units > 0
    shown = ranged(ppl.estimate, ppl.lower, ppl.upper, ".4g") if row.trusted else WITHHELD
    q_prior = of["kl_q_prior"]
    return [
        row.name,
        shown,
        stated(of["reconstruction"]) if code else NOTHING,
        f"{stated(q_prior)} ({SHORT.get(q_prior.method, q_prior.method)})" if code else NOTHING,
        (stated(of["kl_posterior_prior"]) if row.trusted else WITHHELD) if code else NOTHING,
        f"{whole(row.spreads['active_units'])} of {row.units} (at most {whole(row.spreads['active_at_most'])})"
        if code
        else NOTHING,
        f"{whole(row.spreads['active_naive'])} of {row.units}" if code else NOTHING,
        stated(of["mutual_information"]) if code else NOTHING,
        f"{row.spreads['khat_above'].mean:.1%}" if code else "exact",
        f"{row.cost.passes}" if code else NOTHING,
        duration(row.spreads["training_seconds"].mean)
        if math.isfinite(row.spreads["training_seconds"].mean)
        else UNKNOWN,
        f"{row.cost.parameters:,}",
    ]


def differences(rows: Sequence[Row], reference: str) -> Table:
    """The table of paired differences; without rows if there is nothing to compare."""
    trusted = next((row.trusted for row in rows if row.name == reference), False)
    cells = [_difference(row, trusted) for row in rows if row.difference is not None]
    return Table(f"log p(x) less that of {reference}, paired by sentence", DIFFERENCES, cells)


def _difference(row: Row, reference_trusted: bool) -> list[str]:
    found = row.difference
    assert found is not None
    if not (row.trusted and reference_trusted):
        return [row.name, WITHHELD, NOTHING, NOTHING, NOTHING, NOTHING, passing(row.passing)]
    if not math.isfinite(found.value):
        return [row.name, UNKNOWN, NOTHING, NOTHING, NOTHING, NOTHING, passing(row.passing)]
    return [
        row.name,
        signed(found.value, found.se),
        f"[{signed(found.lower, found.se)}, {signed(found.upper, found.se)}]",
        "the recipes" if found.counts_seeds else "these models",
        probability(found.p_value),
        probability(row.p_holm),
        passing(row.passing),
    ]


def passing(found: Difference | None) -> str:
    """A difference on some of the sentences."""
    if found is None or not math.isfinite(found.value):
        return UNKNOWN
    ends = f"[{signed(found.lower, found.se)}, {signed(found.upper, found.se)}]"
    return f"{signed(found.value, found.se)} {ends}, {found.num_sentences:,} sentences"


def spreads(rows: Sequence[Row]) -> Table:
    """Mean and standard deviation over seeds; without rows where every system has one."""
    columns = [Column("System", ""), Column("Seeds", "")] + [Column(name, "") for name, _ in SPREADS.values()]
    cells = [
        [row.name, f"{len(row.judged)}", *(spread(row, name, form) for name, (_, form) in SPREADS.items())]
        for row in rows
        if len(row.judged) > 1
    ]
    return Table("Over seeds: mean (standard deviation of one training)", columns, cells)


def spread(row: Row, name: str, form: str) -> str:
    """One number's mean and deviation."""
    of_code = name not in ("perplexity", "nll")
    if of_code and not row.units:
        return NOTHING
    if not row.trusted and name in ("perplexity", "nll", "kl_posterior_prior"):
        return WITHHELD
    found = row.spreads[name]
    return f"{plain(found.mean, form)} ({plain(found.sd, '.2g')})".replace("-", "−")


def printed(rows: Sequence[Row]) -> Table:
    """Published rows, of the systems that may stand beside one."""
    cells = []
    for row in rows:
        found = row.published.row
        if found is None:
            continue
        code = found.kl is not None
        gap = (
            f"{found.gap:+.2f}".replace("-", "−") + (" (violated)" if found.violates_jensen else "")
            if code
            else ""
        )
        cells.append([
            row.name,
            found.system,
            f"{found.perplexity:.2f}",
            plain(row.perplexity.estimate, ".4g") if row.trusted else WITHHELD,
            f"{found.reconstruction:.2f}" if code else NOTHING,
            f"{found.kl:.2f}" if code else NOTHING,
            f"{found.active_units}" if code else NOTHING,
            gap or NOTHING,
        ])  # fmt: skip
    return Table("Beside the published rows", PUBLISHED, cells)


def stated(found: Estimate) -> str:
    """An estimate with its error; a divergence that its bias makes impossible is not known."""
    if impossible(found):
        return UNKNOWN
    return rounded(found) if math.isfinite(found.value) else UNKNOWN


def whole(found: Spread) -> str:
    """A count over seeds: one number, or from where to where.

    Example:
        >>> whole(Spread.of([31.0, 31.0])), whole(Spread.of([29.0, 31.0]))
        ('31', '29 to 31')
    """
    return f"{found.low:.0f}" if found.low == found.high else f"{found.low:.0f} to {found.high:.0f}"


def signed(value: float, se: float) -> str:
    """A difference to the second digit of its error, with its sign.

    Example:
        >>> signed(0.2791, 0.135), signed(-0.05, 0.1)
        ('+0.28', '−0.05')
    """
    digits = max(2, 1 - math.floor(math.log10(se))) if se > 0 else 3
    return f"{value:+.{digits}f}".replace("-", "−")


def probability(p: float) -> str:
    """A p-value.

    Example:
        >>> probability(0.0321), probability(1e-9)
        ('0.032', '< 0.0001')
    """
    if math.isnan(p):
        return UNKNOWN
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
