"""The figures of doctor and criticism: from findings that were written and read, whole or lost in part."""

import re
from pathlib import Path

import numpy as np
import pytest

from sri_pyro.evaluation.criticism import criticise
from sri_pyro.evaluation.criticism_figures import criticism_panels
from sri_pyro.evaluation.doctor import without_steps
from sri_pyro.evaluation.doctor_figures import doctor_panels
from sri_pyro.evaluation.verdicts.criticism import judge_criticism
from sri_pyro.evaluation.verdicts.doctor import judge_doctor
from tests.evaluation.analyses import back, criticism_of, doctor_of, prior, whole
from tests.evaluation.test_text_criticism import HELD_OUT, TRAINING, page


@pytest.mark.parametrize("step", [0.1, 1.5])
def test_the_doctors(step: float, tmp_path: Path) -> None:
    """Steps that are right, and steps at which runs are lost: then their points are left out. Oracle of the curve: the
    least mean stands where the diamond is told to.
    """
    factors = (0.5, 1.0, 400.0)
    found = doctor_of(step, factors)
    panels = back(tmp_path, found, doctor_panels)
    whole(panels)
    assert len(panels) == 5
    best = np.asarray(found.groups["grid"]["energy"].values).mean(1).argmin()
    assert panels[0].alt == f"The mean is least at {factors[best]:g} times the run's own steps."
    assert judge_doctor(found.numbers)


def test_there_is_nothing_to_draw_without_steps(tmp_path: Path) -> None:
    assert back(tmp_path, without_steps("amortized"), doctor_panels) == []


def test_those_of_criticism(tmp_path: Path) -> None:
    """Of a model with codes and of one without."""
    found = criticism_of()
    panels = back(tmp_path, found, criticism_panels)
    whole(panels)
    assert len(panels) == 4
    assert panels[2].alt == "More than chance by none."
    without = criticise({}, prior, lambda z: z, {"prior": page(60, 11)}, HELD_OUT, TRAINING, replicates=19)
    assert len(back(tmp_path, without, criticism_panels)) == 2


def test_model_and_inference_are_judged_apart() -> None:
    """An inference too narrow under a posterior that is the prior; then both too narrow; then texts too short from the
    prior alone, and at codes of sentences too.
    """

    def headlines(posterior: float, inference: float, short: bool, too: bool) -> tuple[set[str], str]:
        codes = {"posterior": posterior * prior(80), "inference": inference * prior(80)}
        written = page(60, 13, least=2, most=4)
        texts = {"prior": written if short else page(60, 11), "posterior": written if too else page(60, 12)}
        found = criticise(codes, prior, lambda z: z, texts, HELD_OUT, TRAINING, replicates=199)
        verdicts = judge_criticism(found.numbers)
        blamed = {re.match(r"\w+", each.headline)[0] for each in verdicts if each.level == "caution"}  # type: ignore[index]
        return blamed, " ".join(each.evidence + each.advice for each in verdicts)

    assert headlines(1.0, 0.4, False, False)[0] == {"Inference"}
    assert headlines(0.4, 0.4, False, False)[0] == {"Model"}
    assert headlines(1.0, 1.0, False, False)[0] == set()
    blamed, said = headlines(1.0, 1.0, True, False)
    assert blamed == {"Model"}
    assert "Look first at the prior" in said
    blamed, said = headlines(1.0, 1.0, True, True)
    assert "they do so too, by length" in said
