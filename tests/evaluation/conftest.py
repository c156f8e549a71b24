"""Small evaluations of real models, made once: a healthy one, a collapsed one, a cold run, a language model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sri_pyro.evaluation import Evaluation, EvaluationOptions, GaussianImportance, evaluate
from sri_pyro.evaluation.latent_space import describe
from sri_pyro.evaluation.report import write_report
from sri_pyro.inference import PriorDraws, ShortRunLangevin
from sri_pyro.models import LanguageModel, LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.numerics.schedules import ConstantNoise
from sri_pyro.types import EOS, PAD, Batch
from tests.evaluation.pages import HOSTILE, EvaluationOf, RunOf, folder_of

DIM, SENTENCES = 4, 48


def loud_decoder(latent_dim: int) -> LSTMDecoder:
    """Random weights made eight times as large: codes matter without training."""
    decoder = LSTMDecoder(60, latent_dim, embedding=8, hidden=16).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(8)
    return decoder


def sentences_of(model: LatentTextModel) -> list[Batch]:
    """Sentences of 6 to 12 tokens that the model itself began, in two batches; word 5 fills what ended early."""
    with torch.no_grad():
        tokens = model.decoder.generate(model.prior().sample((SENTENCES,)), 12)
    for i, row in enumerate(tokens):
        words = row[: 5 + i % 7]
        words[(words == EOS) | (words == PAD)] = 5
        row[5 + i % 7] = EOS
        row[6 + i % 7 :] = PAD
    rows = torch.arange(SENTENCES)
    return [Batch(tokens[part], rows[part]) for part in (rows[: SENTENCES // 2], rows[SENTENCES // 2 :])]


def evaluated(model: LatentTextModel, inference: Any, batches: list[Batch], chains: int = 32) -> Evaluation:
    tracer = None
    if isinstance(inference, ShortRunLangevin):
        tracer = copy.deepcopy(inference)
        tracer.record_path = True
    options = EvaluationOptions(num_chains=chains, traced_sentences=4, traced_chains=64, exported_draws=512)
    return evaluate(model, inference, batches, GaussianImportance(512, 64), options, tracer=tracer)


def _make(kind: str) -> Evaluation:
    if kind == "language_model":
        model: LatentTextModel = LanguageModel(loud_decoder(0))
        return evaluated(model, PriorDraws(), sentences_of(model))
    model = LatentTextModel(StandardNormal(DIM), loud_decoder(DIM))
    decoder = model.decoder
    assert isinstance(decoder, LSTMDecoder)
    batches = sentences_of(model)
    if kind == "collapsed":
        with torch.no_grad():  # z enters in two places: the start, and beside every word
            assert decoder.start is not None
            decoder.start.weight.zero_()
            decoder.cell.weight_ih_l0[:, -DIM:] = 0
    noise = ConstantNoise(0.2) if kind == "cold" else None
    # 16 chains, so that the noise of their means is 1/16, well above the 0.01 of an active unit
    return evaluated(model, ShortRunLangevin(20, noise=noise), batches, 16 if kind == "collapsed" else 32)


@pytest.fixture(scope="session")
def evaluation_of() -> Callable[[str], Evaluation]:
    """An evaluation by kind: ``healthy``, ``collapsed``, ``cold`` or ``language_model``."""
    made: dict[str, Evaluation] = {}

    def get(kind: str) -> Evaluation:
        if kind not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                made[kind] = _make(kind)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def metrics_of(evaluation_of: Callable[[str], Evaluation]) -> Callable[[str], dict[str, Any]]:
    """What goes into ``metrics.json``, by kind of evaluation."""

    def get(kind: str) -> dict[str, Any]:
        evaluation = evaluation_of(kind)
        return copy.deepcopy(
            {**evaluation.metrics, **describe(evaluation, None, 0.2 if kind == "cold" else 1.0)}
        )

    return get


@pytest.fixture(scope="module")
def run_of(evaluation_of: EvaluationOf, tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """A folder with its report, by kind of evaluation; not to be changed."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            folder = folder_of(kind, evaluation_of, tmp_path_factory.mktemp(kind), noise_scale=1.0)
            (folder / "config.toml").write_text("seed = 3  # as written by hand\n")
            write_report(folder, f"Title {HOSTILE}")
            made[kind] = folder
        return made[kind]

    return get
