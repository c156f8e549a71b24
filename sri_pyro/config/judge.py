"""Judge: evaluate a run on held-out sentences and write what was found into its folder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sri_pyro import checkpoint
from sri_pyro.config.build import evaluation_section, load_corpus, seed_everything
from sri_pyro.config.folder import RunFolder
from sri_pyro.config.frames import posterior_moments
from sri_pyro.config.overridden import overridden
from sri_pyro.config.provenance import provenance
from sri_pyro.config.run import Run, load_run
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.simulation import simulated
from sri_pyro.config.threads import computing_with
from sri_pyro.config.trainer import logging_to
from sri_pyro.data import Corpus, Split, in_order
from sri_pyro.evaluation import Evaluation, evaluate
from sri_pyro.evaluation.export import Interpolation, Reconstruction, Texts, write_outputs
from sri_pyro.evaluation.headline import headline
from sri_pyro.evaluation.metrics import floor
from sri_pyro.evaluation.verdicts import judge, spoken
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.models import StandardNormal, Strategy

log = logging.getLogger(__name__)

SUBSET_SEED = 0
"""Of the choice of sentences. It is not the run's, so that runs of other seeds are judged on the same ones."""
PRIOR_DRAWS = 4000
"""Draws of a prior that is not N(0, I), for the report's comparison with the posteriors."""
NUM_SAMPLES = 10
NUM_RECONSTRUCTIONS = 6
DECODINGS = 3
"""Codes of each held-out sentence that are decoded."""


@dataclass(frozen=True)
class Begun:
    """What an evaluation sets out to do.

    Attributes:
        sentences: How many.
        split: Of which split.
        weights: Which weights, of how far a training; see ``weights_used``.
    """

    sentences: int
    split: str
    weights: Mapping[str, Any]


def evaluate_run(
    folder: Path | str,
    overrides: Sequence[str] = (),
    *,
    command: Sequence[str] = ("sri_pyro.evaluate_run",),
    begun: Callable[[Begun], None] | None = None,
    watch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Judge a trained run and write metrics, sentences, draws and report into its folder.

    The same weights, options and number of threads give the same numbers: the configuration's seed is set
    first.

    Args:
        folder: Of the run.
        overrides: ``evaluation.a=b`` each; other sections are settled by training.
        command: The command line, for the record.
        begun: Told what is ahead.
        watch: Told how many sentences are done.

    Returns:
        What stands in ``metrics.json``; ``readable`` puts it in words.

    Raises:
        ConfigError: If this is no run's folder, or an override is not of the section ``evaluation``.
        CheckpointError: If the weights are missing or damaged.
        DataError: If the text is not what it was.
    """
    run = load_run(folder)
    config = overridden(run.config, overrides)
    section = evaluation_section(config)
    corpus = load_corpus(config)
    check_data(run, corpus)
    split = corpus.splits[section.split]
    if section.num_sentences is not None and section.num_sentences < len(split):
        split = split.subset(section.num_sentences, SUBSET_SEED)
    weights = weights_used(run.folder)
    if begun is not None:
        begun(Begun(len(split), section.split, weights))
    assert section.estimator is not None, "every preset names one"
    with (
        run.folder.evaluation() as place,
        logging_to(run.folder.log),
        computing_with(torch.get_num_threads()),
    ):
        log.info("evaluating %d sentences of the split %s", len(split), section.split)
        seed_everything(config.seed)
        tracer = _tracer(run.inference)
        evaluation = evaluate(
            run.model,
            tracer or run.inference,  # recorded paths, which the estimator 'jacobian' needs, cost little
            in_order(split, section.batch_size),
            section.estimator,
            section,
            tracer=tracer,
            watch=watch,
            # Written last, so that what is held out is judged by the same noise with and without.
            simulated=lambda: simulated(run.model, section.simulated, section.batch_size),
        )
        evaluation = with_floor(evaluation, split)
        record = provenance(config, corpus.record(), command) | {"weights": weights}
        return write_evaluation(run, record, evaluation, place)


def weights_used(folder: RunFolder) -> dict[str, Any]:
    """Which weights an evaluation judges: file, digest, epoch, and whether training has ended; None is unknown."""
    used = folder.weights()
    tensors, header = checkpoint.load(used)
    course = checkpoint.load(folder.last)[1]["course"] if folder.last.exists() else {}
    return {
        "file": used.name,
        "digest": checkpoint.digest(tensors),
        "epoch": header.get("epoch", course.get("epoch")),
        "epochs_trained": course.get("epoch"),
        "training_finished": course.get("finished"),
    }


def with_floor(evaluation: Evaluation, split: Split) -> Evaluation:
    """Add what is known of sentences whose exact log p(x) is known: those of a grammar."""
    if split.exact_log_prob is None:
        return evaluation
    table = evaluation.table.copy()
    exact = dict(zip(split.ids.tolist(), split.exact_log_prob.tolist(), strict=True))
    table["exact_log_px"] = [exact[i] for i in table["id"]]
    column = {name: torch.tensor(table[name].to_numpy()) for name in ("exact_log_px", "log_px", "num_tokens")}
    against = floor(column["exact_log_px"], column["log_px"], column["num_tokens"])
    return replace(evaluation, table=table, metrics={**evaluation.metrics, "floor": asdict(against)})


def check_data(run: Run, corpus: Corpus) -> None:
    """See that the text is the one trained on: a changed file would move sentences between the splits.

    Raises:
        ConfigError: If it is not.
    """
    if corpus.digest != run.folder.read_record()["data_digest"]:
        raise ConfigError(
            [
                f"the text is not what {run.folder.path} was trained on, so that test sentences may have been "
                "trained on; restore the text, or train again"
            ]
        )


def _tracer(inference: nn.Module) -> Any:
    """The same inference with its path recorded; None where there is no path."""
    if not isinstance(inference, ShortRunLangevin):
        return None
    tracer = copy.deepcopy(inference)
    tracer.record_path = True
    return tracer


def write_evaluation(
    run: Run, record: Mapping[str, Any], evaluation: Evaluation, place: Path
) -> dict[str, Any]:
    """Write everything that an evaluation found, and the page about it, into a folder."""
    from sri_pyro.evaluation.report import (
        write_report,
    )  # matplotlib is slow to import, and nothing else needs it

    prior_z = None
    if run.model.prior.dim and not isinstance(run.model.prior, StandardNormal):
        with torch.no_grad():
            prior_z = run.model.prior().sample((PRIOR_DRAWS,))
    noise = run.inference.noise(None) if isinstance(run.inference, ShortRunLangevin) else None
    sentences = [run.text(tokens) for tokens in evaluation.tokens]
    metrics = write_outputs(
        place,
        evaluation,
        sentences,
        record,
        texts=written_texts(run, evaluation, sentences),
        prior_z=prior_z,
        noise_scale=noise,
    )
    write_report(place, run.folder.path.resolve().name)
    return metrics


def written_texts(run: Run, evaluation: Evaluation, sentences: Sequence[str]) -> Texts:
    """What the model writes, for readers: samples, ways between held-out sentences, and their decodings."""
    samples = run.sample(NUM_SAMPLES)
    if not run.model.prior.dim:
        return Texts(samples=samples)
    # Rows are sorted by length: take some of every length but the extremes.
    rows = [len(sentences) * (i + 1) // (NUM_RECONSTRUCTIONS + 1) for i in range(NUM_RECONSTRUCTIONS)]
    pairs = list(zip(rows, reversed(rows[len(rows) // 2 + 1 :]), strict=False))
    means = posterior_moments(evaluation.proposal)[0].to(evaluation.chains.z)
    ways = (run.written_between(means[a], means[b]) for a, b in pairs)
    decoded_on = ([text for _, text in chain.from_iterable(way)] for way in ways)
    interpolations = [
        Interpolation(sentences[a], sentences[b], texts)
        for (a, b), texts in zip(pairs, decoded_on, strict=True)
    ]
    codes = evaluation.chains.z[:DECODINGS].to(run.device)
    decoded = [run.write(codes[:, row], Strategy.greedy()) for row in rows]
    originals = [sentences[row] for row in rows]
    pairings = zip(originals, decoded, strict=True)
    return Texts(samples, interpolations, [Reconstruction(o, d) for o, d in pairings])


def readable(metrics: Mapping[str, Any]) -> list[str]:
    """An evaluation as lines to be printed: the verdicts and what to do, then the numbers, as the report has them."""
    rows = headline(metrics)
    width = max(len(row.name) for row in rows) + 2
    legend = (
        "± is a standard error, [ ] a 95% interval; KL, information and likelihoods are in nats a sentence"
    )
    return [*spoken(judge(metrics)), "", *(f"{row.name:{width}}{row.value}" for row in rows), legend]


def report_run(folder: Path | str) -> Path:
    """Draw the page of an evaluated run again, from its files alone.

    Raises:
        ConfigError: If this is no run's folder.
        FileNotFoundError: If it holds no evaluation.
    """
    from sri_pyro.evaluation.report import write_report

    place = RunFolder(Path(folder))
    place.read_config()
    return write_report(place.path)


def redrawn(folder: Path | str) -> Path | None:
    """Draw the page again after an analysis, which writes its own files beside those of the evaluation.

    Returns:
        The page; None of a run that was not evaluated, which has no page.

    Raises:
        FileNotFoundError: If a part of the evaluation is missing.
        ValueError: If a file of the evaluation or of another analysis is damaged.
    """
    return report_run(folder) if (Path(folder) / "metrics.json").is_file() else None
