"""The figures of calibration, of reference posteriors and of two bounds: what is drawn is what the arrays hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sri_pyro.evaluation import sandwich_figures
from sri_pyro.evaluation.calibration_figures import calibration_panels
from sri_pyro.evaluation.drawing import axes, draw, shortened, side_by_side
from sri_pyro.evaluation.netcdf import export
from sri_pyro.evaluation.reference import LEAST_ESS, RHAT
from sri_pyro.evaluation.reference_figures import reference_panels
from sri_pyro.evaluation.sandwich_figures import sandwich_panels
from tests.evaluation.analyses import DRAWS, back, calibration_of, lines, markers, reference_of, whole

FINE, NARROW = 1.0, 0.5


def test_the_function_outside_of_the_band_is_the_one_in_the_alarm_colour(tmp_path: Path) -> None:
    """Oracle: the array that was written, of which a drawn line is an affine image. Of the system ``off`` the ranks of
    z_1 alone crowd at the ends; of ``own`` none do. Catches a line of another coordinate or system in the alarm colour.
    """
    findings = calibration_of({"own": (FINE,) * 4, "off": (FINE, NARROW, FINE, FINE)})
    coverage, own, off = panels = back(tmp_path, findings, calibration_panels)
    whole(panels)
    assert lines(own.svg, "alarm", DRAWS) == []
    assert own.alt.startswith("Nothing is outside of the band.")
    assert len(lines(own.svg, "first", DRAWS)) == 2
    (alarmed,) = lines(off.svg, "alarm", DRAWS)
    difference = np.asarray(findings.groups["ecdf"]["difference"].values)
    fits = [np.corrcoef(alarmed, of)[0, 1] for of in difference.reshape(2, DRAWS, 4).transpose(0, 2, 1)[1]]
    assert int(np.argmax(fits)) == 1
    assert fits[1] == pytest.approx(1, abs=1e-6)
    farthest = np.abs(difference[1]).max()
    assert off.alt == f"Outside of the band: z_1. The farthest is {farthest:.3f} from zero."
    covered = np.asarray(findings.groups["coverage"]["covered"].values)
    assert f"own {100 * covered[0, 0]:.1f}%" in coverage.alt
    assert f"; off {100 * covered[1, 0]:.1f}%" in coverage.alt


def test_the_density_that_tells_is_named(tmp_path: Path) -> None:
    """An inference that answers with the prior: only functions that look at x leave the band."""
    _, own = back(tmp_path, calibration_of({"own": (FINE, FINE, NARROW, FINE)}), calibration_panels)
    assert own.alt.startswith("Outside of the band: log_likelihood.")
    assert "log p(x | z), outside" in own.svg
    assert len(lines(own.svg, "alarm", DRAWS)) == 1


def test_chains_that_have_not_met_are_in_the_alarm_colour(tmp_path: Path) -> None:
    """Oracle: the arrays. One of four chains of the second sentence lies three deviations off; nothing is scored by
    them, whose KL would be some nats below zero.
    """
    findings = reference_of({"own": (0.6, 1.0)}, apart=3.0)
    panels = back(tmp_path, findings, reference_panels)
    whole(panels)
    rhat, effective = panels[:2]
    values = np.asarray(findings.groups["convergence"]["rhat"].values)
    alarm = values >= RHAT
    assert alarm[1].any()
    assert not alarm[0].any()
    legend = int(alarm[:, :-1].any()) + int(alarm[:, -1].any())
    assert markers(rhat.svg, "alarm") == alarm.sum() + legend
    assert [panel.title for panel in panels[2:-3]] == ["Sentence 7: quantiles of z_1"]
    kl = np.asarray(findings.groups["scores"]["kl"].values)[0]
    assert kl[1] < -1
    assert panels[-3].alt == f"Means over sentences, in nats: own {kl[0]:.3f}."
    assert panels[-1].alt == "Sentences beyond chance: own 1 of 1."
    assert rhat.alt == f"The largest R-hat is {values.max():.3f}."
    draws = np.minimum(*(findings.groups["convergence"][name].values for name in ("ess_bulk", "ess_tail")))
    few = draws < LEAST_ESS
    legend = int(few[:, :-1].any()) + int(few[:, -1].any())
    assert markers(effective.svg, "alarm") == few.sum() + legend


def test_inferences_are_drawn_where_they_differ_most(tmp_path: Path) -> None:
    """The own inference is too narrow in z_1, more so on the sentence 31, which comes first; another one is far off.

    Oracle: the draws, and the scores as they were written. Catches sentences or systems in another order.
    """
    findings = reference_of({"own": (0.8, 0.5), "wide": (2.0, 2.0)})
    panels = back(tmp_path, findings, reference_panels)
    whole(panels)
    assert len(panels) == 7
    titles = [panel.title for panel in panels[2:4]]
    assert titles == ["Sentence 31: quantiles of z_1", "Sentence 7: quantiles of z_1"]
    said = re.search(r"has (\S+) of the posterior's", panels[2].alt)
    assert said is not None
    assert float(said[1]) == pytest.approx(0.5, abs=0.07)
    scores = {name: np.asarray(each.values) for name, each in findings.groups["scores"].items()}
    kl, wide = scores["kl"].mean(1)
    assert f"own {kl:.3f}, wide {wide:.3f}" in panels[4].alt
    distance = scores["wasserstein"].mean(1)
    assert f"own {distance[0]:.3f}, wide {distance[1]:.3f}; of the floor" in panels[5].alt
    assert panels[6].alt == "Sentences beyond chance: own 2 of 2, wide 2 of 2."


def test_draws_of_the_posterior_stay_within_chance(tmp_path: Path) -> None:
    panels = back(tmp_path, reference_of({"own": (1.0, 1.0)}), reference_panels)
    assert panels[-1].alt == "Sentences beyond chance: own 0 of 2."


def simulated(num: int, **more: object) -> dict[str, object]:
    lower = -20.0 - np.arange(num)
    rest = {"khat": np.full(num, 0.3), "khat_threshold": np.full(num, 0.6)}
    return {"log_px": lower, "upper": lower + 0.5 + 0.1 * (-1.0) ** np.arange(num), **rest, **more}


def panels_of(columns: dict[str, object]) -> list[sandwich_figures.Panel]:
    dims = {f"simulated/{name}": ("simulated_sentence",) for name in columns}
    return sandwich_panels(export({"simulated": columns}, dims, {}, {}))


def test_both_bounds_are_drawn_of_every_sentence() -> None:
    """By hand: 40 sentences, 0.4 or 0.6 nats between the bounds, two whose k-hat fails."""
    bounds, gaps = panels = panels_of(simulated(40, khat=np.where(np.arange(40) < 2, 0.9, 0.3)))
    whole(panels)
    assert bounds.alt == "The widest of 40 sentences has 0.6 nats between its bounds; k-hat fails on 2."
    assert markers(bounds.svg, "alarm") == 2 + 1  # the legend has one
    assert gaps.alt == "The mean gap is 0.500 ± 0.016 nats a sentence."


def test_bounds_of_many_sentences_are_drawn_in_part_and_lost_ones_are_told() -> None:
    count = sandwich_figures.MOST_SENTENCES
    columns = simulated(3 * count)
    columns["log_px"][:2] = np.nan  # type: ignore[index]
    bounds, gaps = panels_of(columns)
    assert f"Of {3 * count - 2} sentences {count} are drawn." in bounds.caption
    assert gaps.caption.endswith("2 sentences without finite bounds are left out.")
    assert panels_of(simulated(3, log_px=np.full(3, -np.inf))) == []


def test_names_of_the_users_are_text_and_all_in_the_legend() -> None:
    """A dollar opens no formula, an underscore hides nothing, markup is escaped, and a long name is cut."""
    names = ["$\\frac{$", "_trial", "<b>", "x" * 60]
    ax = axes("place", "value")
    where = side_by_side(ax, names, np.arange(8.0).reshape(4, 2))
    svg = draw(ax, "t", "c.", "a.").svg
    assert (np.diff(where, axis=0) > 0).all()
    assert (np.abs(where - [0, 1]) < 0.5).all()
    assert "$\\frac{$" in svg
    assert "_trial" in svg
    assert "&lt;b&gt;" in svg
    assert "x" * 31 not in svg
    assert len(shortened("x" * 60)) == 30
