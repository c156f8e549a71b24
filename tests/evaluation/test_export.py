"""What an evaluation leaves on disk: every number comes back, ArviZ reads it, JSON is strict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sri_pyro.evaluation import Evaluation, export
from sri_pyro.evaluation.diagnostics import summary_table
from sri_pyro.evaluation.evaluate import SPENT, UPPER
from sri_pyro.evaluation.export import (
    Interpolation,
    Reconstruction,
    Texts,
    export_arguments,
    finite,
    write_netcdf,
    write_outputs,
)
from sri_pyro.evaluation.netcdf import from_netcdf
from sri_pyro.evaluation.report import load_report_inputs

EvaluationOf = Callable[[str], Evaluation]
ODD = ['a "quoted", word', "naïve café", "nan", "", "<b>", "日本 語"]


def texts_of(evaluation: Evaluation) -> list[str]:
    return [f"{ODD[i % len(ODD)]} {i}" if i >= len(ODD) else ODD[i] for i in range(len(evaluation.table))]


def names_of(data: Any) -> set[str]:
    return set(data.children) if hasattr(data, "children") else set(data.groups())


def test_proposal_weights_on_disk_give_the_evidence_back(tmp_path: Path, evaluation_of: EvaluationOf) -> None:
    """The log of the mean weight of the exported draws is log p(x); with draws and sentences swapped it is not."""
    evaluation = evaluation_of("healthy")
    write_netcdf(tmp_path / "inference.nc", evaluation, texts_of(evaluation))
    data = from_netcdf(tmp_path / "inference.nc")
    log_weight = data["proposal"]["log_weight"]
    assert log_weight.dims == ("chain", "draw", "sentence")
    mean = np.logaddexp.reduce(log_weight.to_numpy()[0], axis=0) - math.log(log_weight.sizes["draw"])
    assert mean == pytest.approx(data["evidence"]["log_px"].to_numpy(), abs=1e-4)  # float32 weights
    assert data["evidence"]["log_px"].to_numpy() == pytest.approx(evaluation.table["log_px"].to_numpy())


def test_groups_axes_and_labels(tmp_path: Path, evaluation_of: EvaluationOf) -> None:
    evaluation = evaluation_of("healthy")
    texts = texts_of(evaluation)
    write_netcdf(tmp_path / "inference.nc", evaluation, texts, {"seed": 3})
    data = from_netcdf(tmp_path / "inference.nc")
    assert names_of(data) == {"posterior", "proposal", "evidence", "trajectory", "constant_data"}
    z = data["posterior"]["z"]
    assert z.dims == ("chain", "draw", "sentence", "z_dim")
    assert (z.sizes["chain"], z.sizes["draw"], z.dtype) == (4, 8, np.float32)
    kept = evaluation.chains.z.numpy()
    assert np.array_equal(z.to_numpy().reshape(kept.shape), kept)
    assert data["constant_data"]["text"].to_numpy().tolist() == texts
    assert data["evidence"]["khat"].coords["sentence"].to_numpy().tolist() == evaluation.table["id"].tolist()
    assert data.attrs["seed"] == 3


def test_every_variable_says_what_it_is_in_which_unit(tmp_path: Path, evaluation_of: EvaluationOf) -> None:
    """Read from the file: attributes that live in memory alone would be lost in writing."""
    evaluation = evaluation_of("healthy")
    write_netcdf(tmp_path / "inference.nc", evaluation, texts_of(evaluation), prior_z=torch.randn(10, 4))
    data = from_netcdf(tmp_path / "inference.nc")
    found = {f"{group}/{name}" for group in names_of(data) for name in data[group].data_vars}
    folding = {"evidence/negative_share", "evidence/smallest_eigenvalue"}  # of the estimator 'jacobian' alone
    bounded = {name for name in export.ABOUT if name.startswith("simulated/")} | {
        f"evidence/{name}" for name in (*SPENT, *UPPER)
    }  # where bounds are asked for, and of the estimator 'ladder'
    assert found == set(export.ABOUT) - folding - bounded
    for variable in found:
        group, name = variable.split("/")
        assert (data[group][name].attrs["units"], data[group][name].attrs["description"]) == export.ABOUT[
            variable
        ]
    assert data["evidence"]["log_px"].attrs["units"] == "nat"


def test_trajectory_has_one_axis_of_steps(evaluation_of: EvaluationOf) -> None:
    evaluation = evaluation_of("healthy")
    trajectory = export_arguments(evaluation, texts_of(evaluation))["groups"]["trajectory"]
    trace = evaluation.trace
    assert trace is not None
    for name in ("energy", "kl_posterior", "gradient_norm", "distance"):
        assert trajectory[name].shape == (4, 21)
    assert np.array_equal(trajectory["energy"], -trace.log_joint)
    assert np.isnan(trajectory["gradient_norm"][:, -1]).all()
    assert np.array_equal(trajectory["gradient_norm"][:, :-1], trace.grad_norm)
    assert (trajectory["distance"][:, 0] == 0).all()
    assert np.array_equal(trajectory["distance"][:, 1:], trace.distance)


def test_arviz_finds_the_short_runs_independent(tmp_path: Path, evaluation_of: EvaluationOf) -> None:
    """Independent draws: R-hat near 1 and an ESS near their number, for a few coordinates."""
    evaluation = evaluation_of("healthy")
    write_netcdf(tmp_path / "inference.nc", evaluation, texts_of(evaluation))
    data = from_netcdf(tmp_path / "inference.nc")
    table = summary_table(data, sentences=evaluation.table["id"].tolist()[:2])
    assert len(table) == 2 * 4
    assert (table["r_hat"] < 1.5).all()
    assert (table["ess_bulk"] > 5).all()
    expected = evaluation.chains.z[:, :2].mean(0).flatten().numpy()
    assert table["mean"].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_a_language_model_has_weights_and_no_codes(tmp_path: Path, evaluation_of: EvaluationOf) -> None:
    evaluation = evaluation_of("language_model")
    write_netcdf(tmp_path / "inference.nc", evaluation, texts_of(evaluation))
    data = from_netcdf(tmp_path / "inference.nc")
    assert names_of(data) == {"proposal", "evidence", "constant_data"}
    assert set(data["proposal"].data_vars) == {"log_weight", "log_likelihood"}


def test_a_learned_prior_is_kept(tmp_path: Path, evaluation_of: EvaluationOf) -> None:
    evaluation, prior_z = evaluation_of("healthy"), torch.randn(100, 4)
    write_netcdf(tmp_path / "inference.nc", evaluation, texts_of(evaluation), prior_z=prior_z)
    prior = from_netcdf(tmp_path / "inference.nc")["prior"]["z"]
    assert prior.dims == ("chain", "draw", "z_dim")
    assert np.array_equal(prior.to_numpy()[0], prior_z.numpy())


def test_large_evaluations_keep_fewer_draws(
    monkeypatch: pytest.MonkeyPatch, evaluation_of: EvaluationOf
) -> None:
    evaluation = evaluation_of("healthy")
    monkeypatch.setattr(export, "MOST_VALUES", 20 * 48 * 4)
    groups = export_arguments(evaluation, texts_of(evaluation))["groups"]
    assert groups["proposal"]["z"].shape == (1, 20, 48, 4)
    assert groups["proposal"]["log_weight"].shape == (1, 20, 48)
    assert groups["posterior"]["z"].shape == (4, 5, 48, 4)


def test_write_outputs_leaves_four_files_of_strict_json_and_csv(
    tmp_path: Path, evaluation_of: EvaluationOf
) -> None:
    evaluation = evaluation_of("healthy")
    texts = texts_of(evaluation)
    written = Texts(
        ["a sample"], [Interpolation("a", "b", ["from", "to"])], [Reconstruction("x", ["y", "z"])]
    )
    returned = write_outputs(tmp_path, evaluation, texts, {"seed": 3, "odd": math.nan}, texts=written)
    names = ["inference.nc", "metrics.json", "samples.json", "sentences.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics == json.loads(json.dumps(finite(returned)))
    assert metrics["provenance"] == {"seed": 3, "odd": None}
    assert metrics["perplexity"]["estimate"] == evaluation.metrics["perplexity"]["estimate"]
    assert json.loads((tmp_path / "samples.json").read_text()) == {
        "samples": ["a sample"],
        "interpolations": [{"first": "a", "last": "b", "decoded": ["from", "to"]}],
        "reconstructions": [{"original": "x", "decoded": ["y", "z"]}],
    }
    table = pd.read_csv(tmp_path / "sentences.csv", na_filter=False)
    assert table["text"].tolist() == texts
    assert load_report_inputs(tmp_path).table["text"].tolist() == texts
    assert table["log_px"].to_numpy() == pytest.approx(evaluation.table["log_px"].to_numpy(), rel=1e-12)


def test_texts_must_fit_the_sentences(tmp_path: Path, evaluation_of: EvaluationOf) -> None:
    message = r"^an export needs the text of every sentence; got 1 texts for 48 sentences\.$"
    with pytest.raises(ValueError, match=message):
        write_outputs(tmp_path, evaluation_of("healthy"), ["one"], {})
    assert not list(tmp_path.iterdir())
