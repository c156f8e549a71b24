"""Rows: from the evaluated runs of each system to the numbers of a comparison; nothing is laid out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sri_pyro.comparing.judged import AVERAGED, Judged
from sri_pyro.comparing.published import Beside, beside
from sri_pyro.comparing.spent import Spent
from sri_pyro.evaluation.metrics import Perplexity, mean_estimate, perplexity
from sri_pyro.evaluation.paired import Difference, Spread, holm, paired_difference
from sri_pyro.evaluation.verdicts import number
from sri_pyro.evaluation.verdicts.verdict import LEVELS, Level
from sri_pyro.types import Estimate


@dataclass(frozen=True)
class Note:
    """A verdict on a system.

    Attributes:
        level: ``bad`` or ``caution``.
        text: The verdict, and in how many trainings of how many where there are several.
    """

    level: Level
    text: str


@dataclass(frozen=True)
class Row:
    """The numbers of one system, over all its seeds.

    Attributes:
        name: The system.
        judged: Its runs, by seed.
        perplexity: Of the mean over seeds of every sentence's log p(x); its interval is over sentences and importance
            draws, for these trained models.
        estimates: ``nll``, ``reconstruction``, ``kl_q_prior``, ``kl_posterior_prior``, ``mutual_information``: means
            over seeds with the standard error over sentences.
        spreads: Over seeds, by name: those, ``perplexity``, ``active_units``, ``active_at_most``, ``active_naive``,
            ``khat_above`` and ``training_seconds``.
        units: Latent dimensions; 0 for a language model.
        cost: Parameters and passes.
        trusted: Whether numbers that rest on importance weights may be shown.
        jensen_violated: Trainings whose numbers contradict one another.
        notes: Verdicts.
        published: The printed row beside it.
        difference: log p(x) less that of the reference; None for the reference itself, or without one.
        passing: The same on sentences whose k-hat passes in every run of both; None likewise, or with too few.
        p_holm: P-value of the difference, corrected for the number of systems.
        by_seed: The difference of each seed alone from the reference's mean.
    """

    name: str
    judged: tuple[Judged, ...]
    perplexity: Perplexity
    estimates: Mapping[str, Estimate]
    spreads: Mapping[str, Spread]
    units: int
    cost: Spent
    trusted: bool
    jensen_violated: int
    notes: tuple[Note, ...]
    published: Beside
    difference: Difference | None = None
    passing: Difference | None = None
    p_holm: float = math.nan
    by_seed: tuple[Difference, ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "system": self.name,
            "seeds": [each.record() for each in self.judged],
            "perplexity": asdict(self.perplexity),
            **{name: asdict(found) for name, found in self.estimates.items()},
            "over_seeds": {name: asdict(spread) for name, spread in self.spreads.items()},
            "latent_units": self.units,
            "likelihood_trusted": self.trusted,
            "jensen_violated": self.jensen_violated,
            "notes": [asdict(note) for note in self.notes],
            "published": None if self.published.row is None else asdict(self.published.row),
            "not_published_because": self.published.why,
            "difference": None if self.difference is None else asdict(self.difference),
            "difference_where_khat_passes": None if self.passing is None else asdict(self.passing),
            "p_holm": self.p_holm,
            "difference_by_seed": [asdict(each) for each in self.by_seed],
        }


def rows_of(judged: Mapping[str, Sequence[Judged]], reference: str) -> list[Row]:
    """A row for every system that has an evaluated run, in the order given.

    Args:
        judged: Evaluated runs by system, at least one each.
        reference: The system that the others are compared with; without runs of its own there is no comparison.
    """
    compared = [name for name in judged if name != reference] if reference in judged else []
    found = {name: _compared(judged[name], judged[reference]) for name in compared}
    corrected = dict(zip(found, holm([each["difference"].p_value for each in found.values()]), strict=True))
    return [
        _row(name, runs, **found.get(name, {}), p_holm=corrected.get(name, math.nan))
        for name, runs in judged.items()
    ]


def _row(name: str, judged: Sequence[Judged], **comparison: Any) -> Row:
    log_px = torch.stack([each.column("log_px") for each in judged])
    errors = torch.stack([each.column("se") for each in judged])
    tokens = judged[0].column("num_tokens")
    seeds = len(judged)
    estimates = {"nll": mean_estimate(-log_px.mean(0))}
    for column in AVERAGED:
        values = torch.stack([each.column(column) for each in judged]).mean(0)
        estimates[column] = mean_estimate(values, judged[0].metrics[column]["method"])
    estimates["mutual_information"] = _mean_of([each.metrics["mutual_information"] for each in judged])
    return Row(
        name=name,
        judged=tuple(judged),
        perplexity=perplexity(log_px.mean(0), errors.square().sum(0).sqrt() / seeds, tokens),
        estimates=estimates,
        spreads=_spreads(judged, estimates),
        units=judged[0].metrics["active_units"]["of"],
        cost=judged[0].cost,
        trusted=all(each.trusted for each in judged),
        jensen_violated=sum(each.metrics["jensen"]["violated"] for each in judged),
        notes=notes_of(judged),
        published=beside(judged[0].metrics, judged[0].run.config.experiment.options["published"]),
        **comparison,
    )


def _mean_of(records: Sequence[Mapping[str, Any]]) -> Estimate:
    """The mean over seeds of an estimate; its error is theirs, for all rest on the same sentences."""
    values, errors = ([number(record[key]) for record in records] for key in ("value", "se"))
    seeds = len(records)
    return Estimate(sum(values) / seeds, sum(errors) / seeds, records[0]["num_samples"], records[0]["method"])


def _spreads(judged: Sequence[Judged], estimates: Mapping[str, Estimate]) -> dict[str, Spread]:
    by_name = {
        "perplexity": [number(each.metrics["perplexity"]["estimate"]) for each in judged],
        **{name: [number(each.metrics[name]["value"]) for each in judged] for name in estimates},
        "active_units": [float(each.metrics["active_units"]["count"]) for each in judged],
        "active_at_most": [float(each.metrics["active_units"]["at_most"]) for each in judged],
        "active_naive": [float(each.metrics["active_units"]["naive_count"]) for each in judged],
        "khat_above": [1 - number(each.metrics["khat"]["share_below"]) for each in judged],
        "training_seconds": [math.nan if each.seconds is None else each.seconds for each in judged],
    }
    return {name: Spread.of(values) for name, values in by_name.items()}


def notes_of(judged: Sequence[Judged]) -> tuple[Note, ...]:
    """What the evaluations of a system's trainings warn of, the worst first; each once."""
    found = Counter((verdict.level, verdict.headline) for each in judged for verdict in each.verdicts)
    ranked = sorted(found.items(), key=lambda item: LEVELS.index(item[0][0]))
    many = f" of {len(judged)} trainings)"
    return tuple(
        Note(level, headline + (f" ({count}{many}" if len(judged) > 1 else ""))
        for (level, headline), count in ranked
    )


def _compared(mine: Sequence[Judged], reference: Sequence[Judged]) -> dict[str, Any]:
    one, other = _log_px(mine), _log_px(reference)
    passing = torch.stack([each.passing for each in (*mine, *reference) if each.metrics["active_units"]["of"]] or
                          [torch.ones(one.shape[1], dtype=torch.bool)]).all(0)  # fmt: skip
    return {
        "difference": paired_difference(one, other),
        "passing": paired_difference(one[:, passing], other[:, passing]) if int(passing.sum()) > 1 else None,
        "by_seed": tuple(paired_difference(each[None], other.mean(0, keepdim=True)) for each in one),
    }


def _log_px(judged: Sequence[Judged]) -> Tensor:
    return torch.stack([each.column("log_px") for each in judged])
