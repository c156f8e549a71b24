"""Doctor: examine the step sizes of a run's inference and write what was found into its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sri_pyro.config.build import evaluation_section, load_corpus, seed_everything
from sri_pyro.config.judge import SUBSET_SEED, check_data, weights_used
from sri_pyro.config.provenance import provenance
from sri_pyro.config.run import Run, load_run
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.threads import computing_with
from sri_pyro.config.trainer import logging_to
from sri_pyro.data import Corpus, in_order
from sri_pyro.evaluation import GaussianImportance, JacobianImportance
from sri_pyro.evaluation.doctor import DoctorOptions, examine, without_steps
from sri_pyro.evaluation.doctor_runs import Dynamics
from sri_pyro.evaluation.evidence import COLUMNS
from sri_pyro.evaluation.findings import Findings, write_findings
from sri_pyro.evaluation.verdicts import spoken
from sri_pyro.evaluation.verdicts.doctor import judge_doctor
from sri_pyro.evaluation.verdicts.doctor_advice import advice
from sri_pyro.inference import PersistentLangevin, ShortRunLangevin
from sri_pyro.inference.amortized import readable
from sri_pyro.numerics.schedules import ListedSteps
from sri_pyro.target import Target

SENTENCES = 16
"""By default: with 128 chains each, a mean divergence is then known to a few hundredths of a nat."""


def doctor_run(
    folder: Path | str,
    sentences: int = SENTENCES,
    chains: int = DoctorOptions.num_chains,
    *,
    command: Sequence[str] = ("sri_pyro.doctor_run",),
    watch: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Examine the steps of a run on sentences of its validation split, and write ``doctor.json`` and ``doctor.nc``.

    Steps may be chosen by what is found, so the test split is left alone. The same weights, options and number of
    threads give the same numbers: the configuration's seed is set first.

    Args:
        folder: Of the run.
        sentences: How many are examined; of a smaller split all.
        chains: Of each, at least; four times the latent dimensions are taken where that is more.
        command: The command line, for the record.
        watch: Told of progress.

    Returns:
        What stands in ``doctor.json``; ``advice`` is its last word, and ``readable_doctor`` puts all in words.

    Raises:
        ConfigError: If this is no run's folder, or the number of sentences is below 2.
        CheckpointError: If the weights are missing or damaged.
        DataError: If the text is not what it was.
        ValueError: If the number of chains is out of range.
    """
    if sentences < 2:
        raise ConfigError([f"the doctor needs at least 2 sentences; got {sentences}"])
    options = DoctorOptions(chains)
    run = load_run(folder)
    corpus = load_corpus(run.config)
    check_data(run, corpus)
    with logging_to(run.folder.log), computing_with(torch.get_num_threads()):
        seed_everything(run.config.seed)
        found = _examined(run, corpus, sentences, options, watch)
    numbers = {**found.numbers, "advice": advice(found.numbers)}
    record = provenance(run.config, corpus.record(), command) | {
        "weights": weights_used(run.folder),
        "split": "valid",
    }
    write_findings(run.folder.path, Findings("doctor", numbers, found.groups, found.coords), record)
    return numbers


def _examined(
    run: Run,
    corpus: Corpus,
    sentences: int,
    options: DoctorOptions,
    watch: Callable[[int, int], None] | None,
) -> Findings:
    dynamics = dynamics_of(run.inference)
    if dynamics is None or not run.model.prior.dim:
        return without_steps(str(run.config.inference.kind))
    section = evaluation_section(run.config)
    assert section.estimator is not None, "every preset names one"
    split = corpus.valid
    if sentences < len(split):
        split = split.subset(sentences, SUBSET_SEED)
    size = max(1, COLUMNS // options.chains(run.model.prior.dim))
    batches = list(in_order(split, size))
    # That of the paper needs recorded paths and refuses where steps fold, of which the doctor is to speak.
    refuses = isinstance(section.estimator, JacobianImportance)
    estimator = GaussianImportance() if refuses else section.estimator
    return examine(run.model, run.inference, dynamics, batches, estimator, options, watch=watch)


def dynamics_of(inference: nn.Module) -> Dynamics | None:
    """What an inference does on held-out sentences, where that is a short run; None of others."""
    if isinstance(inference, PersistentLangevin):
        inference = inference.cold
    if not isinstance(inference, ShortRunLangevin):
        return None
    scale, schedule = float(inference.step_scale), inference.step_schedule
    encoder = inference.start

    @torch.no_grad()
    def start(target: Target, num_chains: int) -> Tensor:
        if encoder is None:
            return target.sample_prior(num_chains)
        z: Tensor = encoder(readable(target, encoder)).sample((num_chains,))
        return z

    return Dynamics(
        integrator=inference.integrator,
        schedule=lambda num_steps: [scale * step for step in schedule(num_steps)],
        num_steps=inference.num_steps,
        noise_scale=inference.noise(None),
        start=start,
        rigid=isinstance(schedule, ListedSteps),
        started_by="prior" if encoder is None else "encoder",
    )


def readable_doctor(numbers: Mapping[str, Any]) -> list[str]:
    """What the doctor found as lines to be printed: the verdicts, and the advice last."""
    return [*spoken(judge_doctor(numbers)), "", f"advice: {numbers['advice']}"]
