"""The figures of doctor and criticism: from findings that were written and read, whole or lost in part."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sri_pyro.evaluation.criticism import criticise
from sri_pyro.evaluation.criticism_figures import criticism_panels
from sri_pyro.evaluation.doctor import DoctorOptions, Dynamics, examine, without_steps
from sri_pyro.evaluation.doctor_figures import doctor_panels
from sri_pyro.evaluation.drawing import Panel
from sri_pyro.evaluation.evidence import PriorImportance
from sri_pyro.evaluation.findings import Findings, read_findings, write_findings
from sri_pyro.evaluation.verdicts.criticism import judge_criticism
from sri_pyro.evaluation.verdicts.doctor import judge_doctor
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.types import Batch
from tests.evaluation.test_text_criticism import HELD_OUT, TRAINING, page
from tests.oracles import LinearGaussian


def back(folder: Path, findings: Findings, panels: object) -> list[Panel]:
    write_findings(folder, findings, {})
    found = read_findings(folder, findings.name)
    assert found is not None
    return panels(*found)  # type: ignore[no-any-return,operator]


def whole(panels: list[Panel]) -> None:
    for panel in panels:
        assert panel.svg.startswith("<svg")
        assert panel.caption.endswith(".")
        assert panel.alt.endswith(".")
        assert "nan" not in panel.alt
    assert len({panel.title for panel in panels}) == len(panels)


@pytest.mark.parametrize("step", [0.1, 1.5])
def test_the_doctors(step: float, tmp_path: Path) -> None:
    """Steps that are right, and steps at which runs are lost: then their points are left out. Oracle of the curve: the
    least mean stands where the diamond is told to.
    """
    oracle = LinearGaussian.build("power1", dim=3, information=2.0)
    model = nn.Linear(1, 1)
    model.target = lambda batch: oracle.target(torch.ones(len(batch), 3, dtype=torch.float64))  # type: ignore[assignment]
    run = Dynamics(
        UnadjustedLangevin(), ConstantSteps(step), 4, 1.0, lambda target, num: target.sample_prior(num)
    )
    batch = Batch(torch.full((3, 2), 5))
    options = DoctorOptions(num_chains=16, factors=(0.5, 1.0, 400.0))
    found = examine(model, nn.Identity(), run, [batch], PriorImportance(64), options)  # type: ignore[arg-type]
    panels = back(tmp_path, found, doctor_panels)
    whole(panels)
    assert len(panels) == 5
    best = np.asarray(found.groups["grid"]["energy"].values).mean(1).argmin()
    assert panels[0].alt == f"The mean is least at {options.factors[best]:g} times the run's own steps."
    assert judge_doctor(found.numbers)


def test_there_is_nothing_to_draw_without_steps(tmp_path: Path) -> None:
    assert back(tmp_path, without_steps("amortized"), doctor_panels) == []


def test_those_of_criticism(tmp_path: Path) -> None:
    """Of a model with codes and of one without."""

    def prior(num: int) -> torch.Tensor:
        return torch.randn(num, 2)

    codes = {"posterior": prior(60), "inference": 0.4 * prior(60)}
    texts = {"prior": page(60, 11), "posterior": page(50, 12, least=2, most=4)}
    found = criticise(codes, prior, lambda z: z, texts, HELD_OUT, TRAINING, replicates=99)
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

    def prior(num: int) -> torch.Tensor:
        return torch.randn(num, 2)

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
    assert "The prior is at fault" in said
    blamed, said = headlines(1.0, 1.0, True, True)
    assert "they do so too, by length" in said
