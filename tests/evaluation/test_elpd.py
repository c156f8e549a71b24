"""Held-out evidence in ArviZ's hands: sums, paired comparisons and k-hat plots, with the generation installed."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest

from sri_pyro.evaluation import Evaluation
from sri_pyro.evaluation.diagnostics import elpd, load_arviz
from sri_pyro.numerics.weights import khat_threshold

matplotlib.use("Agg")
CLASSIC = importlib.metadata.version("arviz").startswith("0.")


def held_out(shift: float, khat: np.ndarray | None = None) -> Any:
    rng = np.random.default_rng(5)
    log_px = rng.normal(-40.0, 8.0, size=300) + shift * rng.normal(1.0, 1.0, size=300)
    khat = np.full(300, 0.3) if khat is None else khat
    return elpd(log_px, np.full(300, 0.1), khat, num_samples=512)


def test_elpd_is_the_sum_of_held_out_evidence() -> None:
    """Closed form: total, its standard error over sentences, threshold and warning."""
    result = elpd([-40.0, -44.0, -36.0], [0.1, 0.2, 0.3], [0.1, 0.2, 0.64], num_samples=512)
    total = result["elpd_loo"] if CLASSIC else result.elpd
    assert total == -120.0
    assert result["se"] == pytest.approx(np.sqrt(3 * 16.0))
    assert result["good_k"] == khat_threshold(512)
    assert result["warning"] is True
    assert result["mc_se"].values.tolist() == [0.1, 0.2, 0.3]
    assert "512" in str(result)
    assert held_out(0.0)["warning"] is False


def elpd_of(evaluation: Evaluation, name: str) -> Any:
    table = evaluation.table
    columns = (table[column].to_numpy() for column in ("log_px", "se", "khat"))
    return elpd(
        *columns, num_samples=int(table["num_samples"].min()), sentences=table["id"].to_numpy(), name=name
    )


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.sort_values")  # ArviZ 0.23's
@pytest.mark.filterwarnings("ignore:.*alias_mapping")  # matplotlib 3.11 about ArviZ 0.23
def test_arviz_compares_a_latent_model_with_a_language_model(
    evaluation_of: Callable[[str], Evaluation],
) -> None:
    """Whole evaluations of both, the exact one from a single draw. Oracle: numpy on the two tables.

    Each has its own sentences here, as many; ArviZ pairs them by position. Catches a threshold that one draw does
    not have, and k-hats of -inf that a plot stumbles on.
    """
    az = load_arviz()
    evaluations = {name: evaluation_of(name) for name in ("healthy", "language_model")}
    assert set(evaluations["language_model"].table["num_samples"]) == {1}
    found = {name: elpd_of(evaluation, name) for name, evaluation in evaluations.items()}
    exact = found["language_model"]
    assert (exact["good_k"], exact["warning"], exact["n_samples"]) == (0.7, False, 1)
    unrounded = {} if CLASSIC else {"round_to": "none"}
    table = az.compare(found, method="pseudo-BMA", **unrounded)
    difference = evaluations["healthy"].table["log_px"] - evaluations["language_model"].table["log_px"]
    assert table["elpd_diff"].abs().max() == pytest.approx(abs(difference.sum()))
    assert table["dse"].max() == pytest.approx(np.sqrt(len(difference) * difference.var(ddof=0)))
    for name, result in found.items():
        plot = az.plot_khat(result)
        axes = plot if CLASSIC else plot.get_target("pareto_k", {})
        heights = [np.asarray(c.get_offsets())[:, 1] for c in axes.collections if len(c.get_offsets()) == 48]
        np.testing.assert_allclose(heights[0], evaluations[name].table["khat"])
        axes.figure.canvas.draw()  # limits are computed here


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.sort_values")  # ArviZ 0.23's
def test_arviz_compares_two_models_pairwise() -> None:
    """Oracle: the paired difference and its standard error, by numpy.

    Unpaired, the standard error would be 1.4 * 8 * sqrt(300) = 196 nats instead of 17.
    """
    az = load_arviz()
    good, bad = held_out(0.0), held_out(-1.0)
    pointwise = [result["loo_i"] if CLASSIC else result.elpd_i for result in (good, bad)]
    difference = (pointwise[0] - pointwise[1]).values
    unrounded = {} if CLASSIC else {"round_to": "none"}
    table = az.compare({"bad": bad, "good": good}, **unrounded)
    assert list(table.index) == ["good", "bad"]
    assert abs(table.loc["bad", "elpd_diff"]) == pytest.approx(difference.sum())
    assert table.loc["bad", "dse"] == pytest.approx(np.sqrt(300 * difference.var()))
    assert 10 < table.loc["bad", "dse"] < 25


@pytest.mark.filterwarnings("ignore:.*alias_mapping")  # matplotlib 3.11 about ArviZ 0.23
def test_arviz_plots_khat() -> None:
    """Also where a sentence has no tail (-inf), too few draws (NaN), or a lost fit (+inf)."""
    az = load_arviz()
    khat = np.linspace(-0.2, 1.1, 300)
    khat[[3, 4, 5]] = -np.inf, np.nan, np.inf
    plot = az.plot_khat(held_out(0.0, khat))
    axes = plot if CLASSIC else plot.get_target("pareto_k", {})
    drawn = [np.asarray(c.get_offsets()) for c in axes.collections if len(c.get_offsets()) == 300]
    assert len(drawn) == 1
    np.testing.assert_allclose(drawn[0][6:, 1], khat[6:])


def test_elpd_of_no_samples() -> None:
    message = "a k-hat threshold needs at least 2 draws; got 0. Draw more per sentence."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        elpd(np.zeros(3), np.zeros(3), np.zeros(3), num_samples=0)


def test_elpd_of_unequal_arrays() -> None:
    message = (
        "log_px, se, khat and sentences must have one value per sentence, for at least two "
        "sentences; got shapes {'log_px': (3,), 'se': (2,), 'khat': (3,), 'sentences': (3,)}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        elpd(np.zeros(3), np.zeros(2), np.zeros(3), num_samples=100)
