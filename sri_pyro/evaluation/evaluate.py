r"""Evaluate: one pass over held-out sentences, from a model and an inference to every number and draw.

Axes: S importance draws, M short-run chains, n sentences in all, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sri_pyro.evaluation.chains import (
    HELD_OUT,
    Chains,
    Divergence,
    EvaluationOptions,
    StepTrace,
    run_chains,
    trace_runs,
)
from sri_pyro.evaluation.evidence import EvidenceEstimator, SentenceEvidence, Weighted, estimate_evidence
from sri_pyro.evaluation.evidence import first as first_draws
from sri_pyro.evaluation.guarantees import LawOfWeights, bounded, guarantees
from sri_pyro.evaluation.metrics import (
    EXACT_DENSITY,
    GAUSSIAN_ENTROPY,
    jensen_check,
    mean_estimate,
    mutual_information,
    perplexity,
)
from sri_pyro.evaluation.sandwich import Between, Sandwich, between_bounds
from sri_pyro.evaluation.units import ActiveUnits, active_units
from sri_pyro.evaluation.upper import UpperBounds, resampled, upper_bounds
from sri_pyro.evaluation.weight_summary import Climb, Folding, Tails, Worth
from sri_pyro.target import Inference, Target, evaluating
from sri_pyro.types import Batch, Estimate


@dataclass(frozen=True)
class Evaluation:
    """All that one evaluation found.

    Attributes:
        table: One row per sentence: ``id``, ``num_tokens``, ``log_px``, ``se``, ``khat``,
            ``khat_threshold``, ``ess``, ``num_samples``, ``rounds``, ``reconstruction``, ``kl_q_prior``,
            ``kl_posterior_prior``, ``kl_q_posterior``; of the estimator ``jacobian`` also ``negative_share`` and
            ``smallest_eigenvalue``; of ``ladder`` also ``gradients`` and ``evaluations``; with approximate upper
            bounds ``upper``, ``upper_se``, ``upper_reverse`` and ``upper_reverse_se``; of an estimator that knows a
            bound of its weights ``bennett_lower`` and ``bennett_upper``, NaN where they say nothing.
        metrics: The headline numbers, JSON-able.
        units: The active-unit analysis.
        chains: Short-run draws and their moments, rows as in the table.
        proposal: Importance draws and weights, rows as in the table.
        trace: Runs step by step, if they were traced.
        tokens: Token rows of every sentence, as in the table.
        simulated: Bounds of log p(x) of every sentence that the model wrote, if it wrote any.
    """

    table: pd.DataFrame
    metrics: dict[str, Any]
    units: ActiveUnits
    chains: Chains
    proposal: Weighted
    trace: StepTrace | None
    tokens: list[list[int]] = field(repr=False)
    simulated: pd.DataFrame | None = None


FOLDING = ("negative_share", "smallest_eigenvalue")
"""What ``jacobian`` says of each sentence's steps: they fold where the smallest eigenvalue is not positive."""

SPENT = ("gradients", "evaluations")
"""What ``ladder`` says that each sentence took: gradients of log p(x given z) in z, and evaluations besides."""

UPPER = ("upper", "upper_se", "upper_reverse", "upper_reverse_se")
"""Approximate upper bounds of log p(x) of each sentence, in the order of ``UpperBounds``."""

BENNETT = ("bennett_lower", "bennett_upper")
"""Ends of an interval of log p(x) of each sentence that holds for every number of draws."""

Watch = Callable[[int], None]
"""Told how many sentences are done."""


def evaluate(
    model: nn.Module,
    inference: Inference,
    batches: Iterable[Batch],
    estimator: EvidenceEstimator,
    options: EvaluationOptions | None = None,
    *,
    tracer: Inference | None = None,
    watch: Watch | None = None,
    simulated: Callable[[], Sequence[tuple[Batch, Tensor]]] | None = None,
) -> Evaluation:
    """Score held-out sentences.

    Args:
        model: A ``LatentTextModel``, or any module with ``target(batch)``. Held in eval mode meanwhile.
        inference: Whose draws are judged.
        batches: Held-out sentences.
        estimator: Of log p(x).
        options: How much to spend.
        tracer: The same inference with its path recorded; None leaves the step-by-step trace out.
        watch: Told of progress.
        simulated: Writes sentences by the model itself, at the end, and gives them with their codes [B, D]; log p(x) of
            those is bounded from both sides.

    Raises:
        ValueError: If there are no sentences.
    """
    options = options or EvaluationOptions()
    device = next(model.parameters()).device
    evidence: list[SentenceEvidence] = []
    proposals: list[Weighted] = []
    chains: list[Chains] = []
    ids: list[Tensor] = []
    rows: list[list[int]] = []
    above: list[UpperBounds] = []
    first: Batch | None = None
    with evaluating(model):
        for batch in batches:
            batch = batch.to(device)
            first = first or batch
            target: Target = model.target(batch)  # type: ignore[operator]  # a module with target(batch)
            numbers, weighted = estimate_evidence(target, inference, estimator)
            evidence.append(numbers)
            proposals.append(first_draws(weighted, options.exported_draws))
            chains.append(run_chains(target, inference, options))
            if options.approximate_upper and target.dim:
                above.append(upper_bounds(target, inference, resampled(weighted)))
            ids.append(batch.ids)
            rows += [row[row != 0].tolist() for row in batch.tokens.cpu()]
            if watch is not None:
                watch(len(rows))
        if first is None or len(rows) < 2:
            raise ValueError(f"an evaluation needs at least 2 sentences; got {len(rows)}.")
        trace = None
        if tracer is not None and options.traced_sentences and target.dim:
            few = first.select(torch.arange(min(options.traced_sentences, len(first)), device=device))
            traced: Target = model.target(few)  # type: ignore[operator]  # as above
            trace = trace_runs(traced, tracer, options.traced_chains, evidence[0].log_px)
        written = simulated() if simulated is not None and target.dim else ()
        between = between_bounds(model, inference, written, estimator) if written else None
    upper = _join(above) if above else None
    joined = _join(evidence)
    found = _collect(ids, rows, joined, _join(proposals), _join(chains), options.num_chains, trace, upper)
    if isinstance(estimator, LawOfWeights) and found.units.of:
        found = _guaranteed(found, estimator, joined, between)
    if between is None:
        return found
    own = Sandwich.of({str(name): torch.tensor(between[name].to_numpy()) for name in between}, exact=True)
    metrics = {**found.metrics, "sandwich": asdict(own)}
    if upper is None:
        metrics["perplexity_between"] = asdict(Between.by_gap(found.metrics["perplexity"], own))
    return replace(found, metrics=metrics, simulated=between)


def _collect(
    ids: list[Tensor],
    rows: list[list[int]],
    evidence: SentenceEvidence,
    proposal: Weighted,
    chains: Chains,
    num_chains: int,
    trace: StepTrace | None,
    upper: UpperBounds | None,
) -> Evaluation:
    """Put the pieces of all batches together and compute the headline numbers."""
    kl_q_prior = chains.cross_entropy - chains.entropy
    columns = {
        "id": torch.cat(ids),
        "num_tokens": torch.tensor([len(row) for row in rows]),
        "log_px": evidence.log_px,
        "se": evidence.se,
        "khat": evidence.khat,
        "khat_threshold": evidence.threshold,
        "ess": evidence.ess,
        "num_samples": evidence.num_samples,
        "rounds": proposal.rounds,
        "reconstruction": chains.reconstruction,
        "kl_q_prior": kl_q_prior,
        "kl_posterior_prior": evidence.kl_posterior_prior,
        "kl_q_posterior": evidence.log_px - chains.log_joint - chains.entropy,
    }
    if upper is not None:
        columns |= dict(zip(UPPER, vars(upper).values(), strict=True))
    columns |= {name: value for name in (*FOLDING, *SPENT) if (value := getattr(proposal, name)) is not None}
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    units = active_units(chains.mean, chains.covariance, num_chains, chains.z[-1])
    return Evaluation(table, _headline(table, units, chains), units, chains, proposal, trace, rows)


def _guaranteed(
    found: Evaluation, estimator: LawOfWeights, evidence: SentenceEvidence, between: pd.DataFrame | None
) -> Evaluation:
    """The same with all that holds of log p(x) whatever the weights' tails."""
    intervals = bounded(estimator, evidence.log_px, evidence.num_samples, found.proposal.rounds)
    lengths = torch.tensor(found.table["num_tokens"].to_numpy())
    sure = guarantees(estimator, evidence.log_px, lengths, intervals, between)
    ends = dict(zip(BENNETT, (intervals.lower.cpu().numpy(), intervals.upper.cpu().numpy()), strict=True))
    table = found.table.assign(**ends)
    return replace(found, table=table, metrics={**found.metrics, "guarantees": asdict(sure)})


def _headline(table: pd.DataFrame, units: ActiveUnits, chains: Chains) -> dict[str, Any]:
    """The numbers of ``metrics.json``."""
    column = {name: torch.tensor(table[name].to_numpy()) for name in table.columns}
    ppl = perplexity(column["log_px"], column["se"], column["num_tokens"])
    information = mutual_information(
        chains.critic_mean, chains.critic_covariance.mean(0), chains.z[-min(HELD_OUT, len(chains.z)) :]
    )
    exact = bool(chains.has_density.all())
    method = EXACT_DENSITY if exact else GAUSSIAN_ENTROPY
    estimates: dict[str, Estimate] = {
        "nll": mean_estimate(-column["log_px"]),
        "reconstruction": mean_estimate(column["reconstruction"]),
        "kl_posterior_prior": mean_estimate(column["kl_posterior_prior"], "self_normalised_importance"),
        "kl_q_prior": mean_estimate(column["kl_q_prior"], method),
        "kl_q_posterior": mean_estimate(column["kl_q_posterior"], method),
        "mutual_information": information,
    }
    check = jensen_check(
        -column["log_px"], column["reconstruction"], column["kl_q_prior"], column["se"], binding=exact
    )
    above: dict[str, Any] = {}
    if set(UPPER) <= set(column):
        approximate = Sandwich.of(column, exact=False)
        above = {
            "approximate_sandwich": asdict(approximate),
            "perplexity_between": asdict(Between.by_bounds(approximate)),
        }
    folding = {"folding": asdict(Folding.of(column))} if set(FOLDING) <= set(column) else {}
    return {
        "perplexity": asdict(ppl),
        **{name: asdict(estimate) for name, estimate in estimates.items()},
        "active_units": asdict(units),
        "khat": asdict(Tails.of(column["khat"], column["khat_threshold"])),
        "ess": asdict(Worth.of(column["ess"])),
        "divergence": asdict(
            Divergence(
                int(chains.halved.sum()), units.num_chains * len(table), int((chains.halved > 0).sum())
            )
        ),
        "jensen": asdict(check),
        **folding,
        **above,
        **({"ladder": asdict(Climb.of(column))} if set(SPENT) <= set(column) else {}),
    }


def _join(parts: list[Any]) -> Any:
    """Concatenate the fields of equal records along the sentence axis."""
    fields = {}
    for name in vars(parts[0]):
        values = [getattr(part, name) for part in parts]
        by_draw = name in ("z", "log_weight", "log_likelihood")
        fields[name] = None if values[0] is None else torch.cat(values, dim=1 if by_draw else 0)
    return type(parts[0])(**fields)
