"""Reference: long chains on some held-out sentences of a run, and how far inferences are from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sri_pyro.config.alternatives import OWN, inferences
from sri_pyro.config.build import load_corpus, seed_everything
from sri_pyro.config.judge import SUBSET_SEED, check_data, weights_used
from sri_pyro.config.provenance import provenance
from sri_pyro.config.run import Run, load_run
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.threads import computing_with
from sri_pyro.data import Corpus, in_order
from sri_pyro.evaluation.calibration import two_sided_gate
from sri_pyro.evaluation.evidence import infer
from sri_pyro.evaluation.findings import Findings, Variable, write_findings
from sri_pyro.evaluation.reference import Reference, reference_posterior
from sri_pyro.evaluation.scoring import Known, Scores, agreement
from sri_pyro.evaluation.verdicts import spoken
from sri_pyro.evaluation.verdicts.reference import WANTED, judge_reference
from sri_pyro.inference import HamiltonianChain
from sri_pyro.target import Target
from sri_pyro.types import Batch

UNITS = {
    "kl": "nat", "kl_se": "nat", "kl_moments": "nat", "kl_density": "nat", "kl_density_se": "nat", "mean_score": "1",
    "sd_score": "1", "mean_off": "1", "sd_ratio": "1", "wasserstein": "1", "floor": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """How much a reference spends.

    Attributes:
        num_sentences: Held-out sentences, the same for all runs on the same data.
        num_chains: Chains of each.
        warmup: Transitions that adapt.
        draws: Transitions after it.
        num_samples: Draws of each inference that is judged, for each sentence.
        nuts: Of the sentences, how many are drawn by Pyro's NUTS as well, each alone: a cross-check by another program.

    Raises:
        ValueError: If a count is out of range.
    """

    num_sentences: int = 6
    num_chains: int = 4
    warmup: int = 300
    draws: int = 500
    num_samples: int = 1000
    nuts: int = 0

    def __post_init__(self) -> None:
        least = {"num_sentences": 1, "num_chains": 2, "warmup": 0, "draws": 20, "num_samples": 20, "nuts": 0}
        for name, fewest in least.items():
            if getattr(self, name) < fewest:
                raise ValueError(f"{name} must be at least {fewest}; got {getattr(self, name)}.")


def reference_run(
    folder: Path | str,
    described: Sequence[str] = (),
    against: Sequence[Path | str] = (),
    effort: Effort | None = None,
    *,
    command: Sequence[str] = ("sri_pyro.reference_run",),
    watch: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw reference posteriors, score inferences by them, and write ``reference.json`` and ``reference.nc``.

    Args:
        folder: Of a trained run, into which the files go.
        described: Inferences beside the run's own on its weights; see ``alternatives.inferences``.
        against: Further runs on the same data. The own inference of each is judged by the posterior of its own model,
            on the same sentences.
        effort: How much is spent.
        command: The command line, for the record.
        watch: Told how many transitions are done, and of how many.

    Returns:
        What stands in ``reference.json``; ``readable_reference`` puts it in words.

    Raises:
        ConfigError: If a folder is no run's, an inference is described wrongly, or the runs have other data.
        CheckpointError: If weights are missing or damaged.
        ValueError: If a count is out of range, or a model has no z.
    """
    effort = effort or Effort()
    run, others = load_run(folder), [load_run(other) for other in against]
    for each in (run, *others):
        if not each.model.prior.dim:
            raise ValueError(f"there is no posterior of a code: the model in {each.folder.path} has no z.")
        if effort.num_samples <= each.model.prior.dim + 1:
            raise ValueError(
                f"num_samples must be above {each.model.prior.dim + 1}, the dimensions of z and one; got "
                f"{effort.num_samples}."
            )
    systems = inferences(run, described)
    corpus = load_corpus(run.config)
    for each in (run, *others):
        check_data(each, corpus)
    batch = _sentences(run, corpus, effort.num_sentences)
    whole, steps = 1 + len(others), effort.warmup + effort.draws

    def known_of(which: Run, number: int) -> Known:
        target = which.model.target(batch.to(which.device))
        reference = reference_posterior(
            target, effort.num_chains, effort.warmup, effort.draws,
            watch=lambda done, _: watch(number * steps + done, whole * steps) if watch else None,
        )  # fmt: skip
        return Known.of(target, reference)

    with computing_with(torch.get_num_threads()):
        seed_everything(run.config.seed)
        known = {OWN: known_of(run, 0)}
        drawn, scores = {}, {}
        for name, inference in systems.items():
            target = run.model.target(batch.to(run.device))
            draws = infer(inference, target, effort.num_samples)
            drawn[name], scores[name] = draws.z, Scores.of(target, draws, known[OWN])
        for number, other in enumerate(others, start=1):
            name = _name(other, scores)
            known[name] = known_of(other, number)
            target = other.model.target(batch.to(other.device))
            scores[name] = Scores.of(target, infer(other.inference, target, effort.num_samples), known[name])
        agreements = _by_nuts(run.model.target(batch.to(run.device)), known[OWN].reference, effort, watch)
    findings = reference_findings(known, scores, drawn, batch, effort, agreements)
    record = provenance(run.config, corpus.record(), command) | {
        "weights": weights_used(run.folder),
        "against": {
            name: weights_used(other.folder) for name, other in zip([*known][1:], others, strict=True)
        },
    }
    write_findings(run.folder.path, findings, record)
    return dict(findings.numbers)


NUTS_CHAINS = 2


def _by_nuts(
    target: Target, reference: Reference, effort: Effort, watch: Callable[[int, int], None] | None
) -> list[float]:
    """How far Pyro's NUTS on single sentences is from the reference, in standard errors."""
    assert target.select is not None, "a text model's target can be cut"
    found, kernel = [], HamiltonianChain("nuts", effort.warmup)
    for row in range(min(effort.nuts, target.batch_size)):
        if watch is not None:
            watch(row, effort.nuts)
        rows = torch.tensor([row])
        alone = target.select(rows.to(reference.z.device))
        chains = torch.stack([kernel(alone, effort.draws).z for _ in range(NUTS_CHAINS)])
        other = Reference.of(alone, chains)
        found.append(float(agreement(reference.select(rows), other)[0]))
    return found


def _sentences(run: Run, corpus: Corpus, num: int) -> Batch:
    """Held-out sentences of the split that is evaluated, shortest first."""
    split = corpus.splits[run.config.evaluation.options["split"]]
    if num > len(split):
        raise ConfigError([f"--num-sentences is {num}, and the split has {len(split)} sentences"])
    [batch] = in_order(split.subset(num, SUBSET_SEED), num)
    return batch


def _name(run: Run, taken: Mapping[str, Scores]) -> str:
    """What a further run is called: its folder, or its whole path where that is taken."""
    path = run.folder.path.resolve()
    return path.name if path.name not in taken else str(path)


def reference_findings(
    known: Mapping[str, Known],
    scores: Mapping[str, Scores],
    drawn: Mapping[str, Tensor],
    batch: Batch,
    effort: Effort,
    agreements: Sequence[float] = (),
) -> Findings:
    """Reference draws, what their chains are worth, the draws that were judged, and their scores."""
    models, quantity = list(known), ("sentence", "quantity")
    base = {name: name if name in known else OWN for name in scores}
    numbers = {
        "num_sentences": len(batch),
        "effort": vars(effort),
        "nuts": list(agreements),
        "nuts_gate": two_sided_gate(
            max(1, len(agreements)) * 2 * (known[OWN].reference.z.shape[-1] + 1), 1e-3
        ),
        "references": {name: _quality(each) for name, each in known.items()},
        "systems": {
            name: {"reference": base[name]} | {field: values.tolist() for field, values in vars(each).items()}
            for name, each in scores.items()
        },
    }
    own = known[OWN]

    def array(values: Tensor) -> np.ndarray[Any, Any]:
        return values.cpu().numpy()

    groups = {
        "posterior": {
            "z": Variable(
                array(own.reference.z), ("chain", "draw", "sentence", "z_dim"), "1",
                "reference draws of the run's posteriors",
            ),
        },
        "sample_stats": {
            name: Variable(array(values), ("chain", "draw", "sentence"), units, about)
            for name, values, units, about in (
                ("log_joint", own.reference.log_joint, "nat", "log p(x, z)"),
                ("acceptance_rate", own.reference.acceptance, "1", "acceptance probability of the transition"),
                ("diverging", own.reference.diverged, "1", "whether its energy went astray"),
            )
        },
        "convergence": {
            name: Variable(getattr(own.quality, name), quantity, units, about)
            for name, units, about in (
                ("rhat", "1", "rank-normalised split R-hat"), ("ess_bulk", "draws", "effective draws for the centre"),
                ("ess_tail", "draws", "effective draws for the tails"), ("mcse_mean", "1", "error of the mean"),
                ("mcse_sd", "1", "error of the standard deviation"),
            )
        },
        "judged": {
            "draws": Variable(
                np.stack([array(z) for z in drawn.values()]), ("inference", "sample", "sentence", "z_dim"), "1",
                "draws of the inferences on the run's weights",
            ),
        },
        "scores": {
            name: Variable(
                np.stack([getattr(each, name) for each in scores.values()]), ("system", "sentence"), units, name
            )
            for name, units in UNITS.items()
        },
        "evidence": {
            name: Variable(
                np.stack([array(getattr(each, name)) for each in known.values()]), ("model", "sentence"), units, about
            )
            for name, units, about in (
                ("log_px", "nat", "log p(x)"), ("log_px_se", "nat", "its Monte Carlo standard error"),
                ("khat", "1", "of the weights behind it"),
                ("excess", "nat", "Gaussian entropy of the posterior's covariance less its entropy"),
            )
        },
        "constant_data": {"num_tokens": Variable(array(batch.lengths), ("sentence",), "tokens", "of the sentence")},
    }  # fmt: skip
    dim = own.reference.z.shape[-1]
    coords = {
        "sentence": array(batch.ids), "system": np.array(list(scores)), "inference": np.array(list(drawn)),
        "model": np.array(models), "quantity": np.array([*(f"z_{d}" for d in range(dim)), "log_joint"]),
    }  # fmt: skip
    return Findings("reference", numbers, groups, coords)


def _quality(known: Known) -> dict[str, Any]:
    quality, reference = known.quality, known.reference
    return {
        "trusted": quality.trusted.tolist(),
        "rhat": quality.rhat.max(-1).tolist(),
        "ess": np.minimum(quality.ess_bulk, quality.ess_tail).min(-1).tolist(),
        "diverged": quality.diverged.tolist(),
        "step_size": reference.step_size.tolist(),
        "acceptance": reference.acceptance.double().mean((0, 1)).tolist(),
        "gradients": reference.gradients,
        "log_px": known.log_px.tolist(),
        "khat": known.khat.tolist(),
        "excess": known.excess.tolist(),
    }


UNTRUSTED = "*"
"""Beside a sentence whose chains may not serve as a reference."""


def readable_reference(numbers: Mapping[str, Any]) -> list[str]:
    """References and scores as lines to be printed: verdicts, then a table of systems and sentences."""
    width = max(map(len, [*numbers["systems"], "system"])) + 2
    heads = ("row", "KL", "by density", "by moments", "mean off", "sd ratio", "Wasserstein", "floor")
    lines = ["system".ljust(width) + "".join(head.rjust(16) for head in heads)]
    left_out = False
    for name, system in numbers["systems"].items():
        for row, trusted in enumerate(numbers["references"][system["reference"]]["trusted"]):
            left_out = left_out or not trusted
            cells = [f"{row}{'' if trusted else UNTRUSTED}", *_scores(system, row)]
            lines.append(name.ljust(width) + "".join(cell.rjust(16) for cell in cells))
    if left_out:
        lines.append(
            f"{UNTRUSTED} not to be trusted, and left out of the verdicts: a sentence's chains want {WANTED}"
        )
    legend = (
        "rows are sentences, the shortest first; KL to the posterior in nats, by energy, by the inference's density "
        "where it has one, and by moments alone; mean off in posterior standard deviations; Wasserstein (sliced) in "
        "units of z, and its floor, between two halves of the reference"
    )
    return [*spoken(judge_reference(numbers)), "", *lines, legend]


def _scores(system: Mapping[str, Any], row: int) -> list[str]:
    """A sentence's cells of the table."""
    exact = system["kl_density"][row]
    density = "-" if math.isnan(exact) else f"{exact:.3f} ± {system['kl_density_se'][row]:.3f}"
    rest = ("kl_moments", "mean_off", "sd_ratio", "wasserstein", "floor")
    return [
        f"{system['kl'][row]:.3f} ± {system['kl_se'][row]:.3f}", density,
        *(f"{system[key][row]:.3f}" for key in rest),
    ]  # fmt: skip
