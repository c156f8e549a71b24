"""Criticise: hold a run's model against its prior and against held-out text, and write down what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sri_pyro.config.build import load_corpus, seed_everything
from sri_pyro.config.judge import SUBSET_SEED, check_data, weights_used
from sri_pyro.config.provenance import provenance
from sri_pyro.config.run import Run, load_run
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.threads import computing_with
from sri_pyro.config.trainer import logging_to
from sri_pyro.data import Split
from sri_pyro.evaluation.code_criticism import weighted_draw
from sri_pyro.evaluation.criticism import criticise
from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.findings import write_findings
from sri_pyro.evaluation.netcdf import from_netcdf
from sri_pyro.evaluation.text_criticism import FEWEST
from sri_pyro.evaluation.text_statistics import Words
from sri_pyro.evaluation.verdicts import spoken
from sri_pyro.evaluation.verdicts.criticism import judge_criticism
from sri_pyro.models import StandardNormal
from sri_pyro.numerics.gaussians import Gaussian, moments

MOST_HELD_OUT = 1000
"""Held-out sentences that are compared; half of so many are written."""
MOST_TRAINING = 50_000
"""Training sentences whose 4-grams are known."""
WHITENING_DRAWS = 20_000
"""Draws of a prior that is not N(0, I), for its mean and covariance."""
FEWEST_CODES = 10


def criticise_run(
    folder: Path | str,
    *,
    command: Sequence[str] = ("sri_pyro.criticise_run",),
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Criticise the model of an evaluated run, and write ``criticism.json`` and ``criticism.nc`` into its folder.

    Codes are the evaluation's own draws, one of each sentence whose weights pass; held-out text is that of the split
    that was evaluated. The same weights, evaluation and number of threads give the same numbers: the configuration's
    seed is set first.

    Args:
        folder: Of the run.
        command: The command line, for the record.
        tell: Hears what is done.

    Returns:
        What stands in ``criticism.json``; ``readable_criticism`` puts it in words.

    Raises:
        ConfigError: If this is no run's folder, or holds no evaluation of these weights.
        CheckpointError: If the weights are missing or damaged.
        DataError: If the text is not what it was.
        ValueError: If there are too few held-out sentences, or a file of the evaluation is damaged.
    """
    run = load_run(folder)
    weights = weights_used(run.folder)
    split_name = _evaluated_split(run, weights)
    corpus = load_corpus(run.config)
    check_data(run, corpus)
    split = corpus.splits[split_name]
    if len(split) > MOST_HELD_OUT:
        split = split.subset(MOST_HELD_OUT, SUBSET_SEED)
    training = corpus.train
    if len(training) > MOST_TRAINING:
        training = training.subset(MOST_TRAINING, SUBSET_SEED)
    with logging_to(run.folder.log), computing_with(torch.get_num_threads()):
        seed_everything(run.config.seed)
        codes = _codes(from_netcdf(run.folder.path / "inference.nc")) if run.model.prior.dim else {}
        half = len(split) // 2
        tell(f"writing sentences to compare with {len(split)} held-out ones")
        texts = {"prior": [text.split() for text in run.sample(max(1, half))]}
        posterior = codes.get("posterior")
        if posterior is not None and min(half, len(posterior)) >= FEWEST:
            few = posterior[torch.randperm(len(posterior))[:half]]
            texts["posterior"] = [text.split() for text in run.write(few.to(run.device))]
        tell("comparing")
        found = criticise(
            codes, _prior(run), _whitening(run), texts, _words(run, split), _words(run, training)
        )
    record = provenance(run.config, corpus.record(), command) | {"weights": weights, "split": split_name}
    write_findings(run.folder.path, found, record)
    return dict(found.numbers)


def _evaluated_split(run: Run, weights: Mapping[str, Any]) -> str:
    """The split of the evaluation that the folder holds, if that is of these weights."""
    path = run.folder.path / "metrics.json"
    if not path.is_file() or not (run.folder.path / "inference.nc").is_file():
        raise ConfigError(
            [f"{run.folder.path} holds no evaluation, whose draws are criticised; evaluate it first"]
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        split, digest = record["configuration"]["evaluation"]["split"], record["weights"]["digest"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ConfigError([f"{path} is damaged; evaluate the run again"]) from None
    if digest != weights["digest"]:
        raise ConfigError(
            [f"the evaluation in {run.folder.path} is of other weights; evaluate the run again"]
        )
    return str(split)


def _codes(data: InferenceResult) -> dict[str, Tensor]:
    """One code of each sentence whose weights pass, of the posterior and of the inference; none of too few."""
    evidence, proposal = data["evidence"], data["proposal"]
    passed = torch.from_numpy((evidence["khat"] < evidence["khat_threshold"]).to_numpy().copy())
    inference = torch.from_numpy(data["posterior"]["z"].to_numpy()[0, 0].copy())
    if int(passed.sum()) < FEWEST_CODES:
        return {"inference": inference} if len(inference) >= FEWEST_CODES else {}
    z, log_weight = (
        torch.from_numpy(proposal[name].to_numpy()[0].copy())[:, passed] for name in ("z", "log_weight")
    )
    return {"posterior": weighted_draw(z, log_weight), "inference": inference[passed]}


def _prior(run: Run) -> Callable[[int], Tensor]:
    @torch.no_grad()
    def draw(num: int) -> Tensor:
        z: Tensor = run.model.prior().sample((num,))
        return z.cpu()

    return draw


def _whitening(run: Run) -> Callable[[Tensor], Tensor]:
    """To coordinates in which the prior has mean 0 and covariance I; exact for N(0, I), else from its draws."""
    if isinstance(run.model.prior, StandardNormal) or not run.model.prior.dim:
        return lambda z: z
    fit = Gaussian.from_moments(*moments(_prior(run)(WHITENING_DRAWS).double()[:, None]))
    mean, factor = fit.mean[0], fit.factor[0]
    return lambda z: torch.linalg.solve_triangular(factor, (z.double() - mean).T, upper=False).T


def _words(run: Run, split: Split) -> list[Words]:
    return [run.text(split.sentence(i).tolist()).split() for i in range(len(split))]


def readable_criticism(numbers: Mapping[str, Any]) -> list[str]:
    """What criticism found as lines to be printed."""
    return spoken(judge_criticism(numbers))
