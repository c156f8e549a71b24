"""What the report's figures draw, and how."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sri_pyro.evaluation import figures, latent_figures
from sri_pyro.evaluation.report_inputs import load_report_inputs
from tests.evaluation.pages import RunOf


def test_many_sentences_are_drawn_in_part_but_for_those_that_fail(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 48 dots 10 are left; those that give alarm all stay."""
    monkeypatch.setattr(figures, "MOST_POINTS", 10)
    table = load_report_inputs(run_of("healthy")).table
    panel = figures.khat_by_length(table)
    assert panel.caption.endswith(" Of 48 sentences 10 are drawn, and all that give alarm.")
    alarmed = figures.khat_by_length(table.assign(khat=table["khat"].abs() + 1))
    assert len(re.findall(r"<use[^>]*var\(--first\)", panel.svg)) == 10
    assert len(re.findall(r"<use[^>]*var\(--alarm\)", alarmed.svg)) == 48 + 1  # the legend has one


def test_lengths_tell_no_mean_of_weights_that_are_not_to_be_trusted(run_of: RunOf) -> None:
    """Not to those who cannot see the figure either, and no line of the perplexity."""
    table = load_report_inputs(run_of("healthy")).table
    told, untold = (figures.by_length(table, with_code=True, trusted=trusted) for trusted in (True, False))
    assert all(re.search(r"\d nats", panel.alt) for panel in told)
    assert not any(re.search(r"\d", panel.alt) for panel in untold)
    assert "log perplexity" in told[0].svg
    assert "log perplexity" not in untold[0].svg


def blue_markers(svg: str) -> int:
    """How many markers of a drawing have the page's first colour; ticks are markers too, of another."""
    return len(re.findall(r"<use[^>]*fill: var\(--first\)", svg))


def test_directions_are_coloured_as_the_table_counts_them(run_of: RunOf) -> None:
    """Four eigenvalues above 0.01 of which two pass the edge of noise: two are coloured, and the line says 0.05."""
    units = {"eigenvalues": [0.5, 0.06, 0.04, 0.02], "active_eigenvalues": 2, "noise_edge": 0.04, "of": 4}
    panel = latent_figures.unit_eigenvalues(units)
    assert blue_markers(panel.svg) == 2 + 1  # the legend has one
    assert "0.05 (0.01 + noise)" in panel.svg
    assert panel.alt == "2 of 4 eigenvalues are above 0.05."
    units = load_report_inputs(run_of("collapsed")).metrics["active_units"]
    assert units["noise_edge"] > 0
    beyond = [value > 0.01 + units["noise_edge"] for value in units["eigenvalues"]]
    assert sum(beyond) == units["active_eigenvalues"]


def losses(count: int) -> list[dict[str, Any]]:
    """Records of ten batches an epoch: alternately long and short sentences, 10 nats apart, and a slow fall."""
    return [
        {"kind": "step", "step": i, "epoch": i / 10, "loss": 50.0 - i / 10 + 10 * (i % 2)}
        for i in range(1, count + 1)
    ]


def test_single_batches_are_dots_and_their_mean_over_an_epoch_is_the_line() -> None:
    """By hand: the mean over ten batches that end at i is 55 - (i - 4.5) / 10, whatever their lengths; the first epoch
    has no line before its end. Catches a line through single batches, and a mean of another width.
    """
    records = losses(30)
    epochs, values = (np.array([record[name] for record in records]) for name in ("epoch", "loss"))
    where, mean, error = figures.running_mean(epochs, values)
    assert where == pytest.approx(epochs[9:])
    assert mean == pytest.approx([55 - (i - 4.5) / 10 for i in range(10, 31)])
    assert error[0] == pytest.approx(values[:10].std(ddof=1) / np.sqrt(10))
    validation = {"kind": "validation", "epoch": 3.0, "nll": 40.0}
    (panel,) = figures.training([*records, validation], with_code=False)
    assert (
        len(re.findall(r"<use[^>]*fill: var\(--muted\); fill-opacity", panel.svg)) == 30 + 1
    )  # the legend has one
    assert panel.caption.startswith("Above: the objective")
    assert "Below: held-out NLL" in panel.caption
    assert panel.alt == "During training: loss from 59.9 to 47, NLL from 40 to 40."


def test_a_single_record_is_drawn_as_a_point() -> None:
    """A line through one point is nothing."""
    (panel,) = figures.training(losses(1), with_code=True)
    assert panel.caption.endswith(" One record only.")
    assert figures.training([], with_code=True) == []
    (panel,) = figures.training(losses(2), with_code=True)
    assert "One record" not in panel.caption


def test_validation_curves_say_that_they_have_no_error() -> None:
    record = {"kind": "validation", "epoch": 1.0, "nll": 40.0, "kl_posterior_prior": 1.0}
    panels = figures.training([record, {**record, "epoch": 2.0}], with_code=True)
    assert len(panels) == 2
    assert all("no error is recorded" in panel.caption for panel in panels)


def test_effective_draws_within_a_decade_have_ticks(run_of: RunOf) -> None:
    """Powers of ten alone would leave the axis from 30 to 90 without a number."""
    table = load_report_inputs(run_of("healthy")).table
    panel = figures.ess_by_length(table.assign(ess=[35.0 + i for i in range(len(table))]))
    assert re.search(r">50</text>", panel.svg)


def test_a_draw_with_most_of_the_weight_is_told() -> None:
    """Oracle: weights by hand. Three sentences of four have a draw with more than half; weights that are no numbers, or
    nothing, are no sentence's.
    """
    log_weight = np.log(
        np.array([[0.6, 0.51, 0.4, 0.25], [0.4, 0.49, 0.3, 0.2], [0.0, 0.0, 0.3, 0.55]]) + 1e-300
    )
    broken = np.array([[np.nan, -np.inf], [0.0, -np.inf], [1.0, -np.inf]])
    table = pd.DataFrame({"num_tokens": [3] * 6})
    panel = figures.heaviest_weight(table, np.concatenate([log_weight, broken], 1))
    assert panel.alt.startswith(
        "In 3 of 6 sentences one draw has more than half of the weight. The median share is 53%"
    )
    assert (
        figures.heaviest_weight(table, broken).alt
        == "In 0 of 6 sentences one draw has more than half of the weight."
    )
