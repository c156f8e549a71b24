"""A page with the findings of every analysis: whole, safe, in its tabs, and damage is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

from sri_pyro.evaluation.analyses import ANALYSES, examined
from sri_pyro.evaluation.export import ABOUT
from sri_pyro.evaluation.findings import read_findings, write_findings
from sri_pyro.evaluation.report import write_report
from sri_pyro.evaluation.which_divergence import which_divergence
from tests.evaluation.analyses import calibration_of, criticism_of, doctor_of, reference_of
from tests.evaluation.pages import HOSTILE, EvaluationOf, folder_of, read, words
from tests.evaluation.verdicts.helpers import MetricsOf, put


def simulated() -> pd.DataFrame:
    names = [name.removeprefix("simulated/") for name in ABOUT if name.startswith("simulated/")]
    columns = {name: np.full(30, 0.1) for name in names}
    return pd.DataFrame(columns | {"log_px": -20 - np.arange(30.0), "upper": -19.5 - np.arange(30.0)})


@pytest.fixture(scope="module")
def examined_run(evaluation_of: EvaluationOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with simulated sentences, and the findings of all analyses beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("examined")
    folder_of("healthy", lambda kind: replace(evaluation_of(kind), simulated=simulated()), folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for findings in (
            doctor_of(1.5),
            criticism_of(),
            calibration_of({"own": (1.0,) * 4, HOSTILE: (0.4,) * 4}),
            reference_of({"own": (1.0, 1.0), HOSTILE: (0.2, 0.2)}),
        ):
            write_findings(folder, findings, {})
    write_report(folder)
    return folder


def test_a_page_with_all_findings_is_well_formed_and_described(examined_run: Path) -> None:
    """Catches ids that come twice, with a block of verdicts in every tab, and names of the user's as markup."""
    page = (examined_run / "report.html").read_text()
    reader = read(page)
    assert not reader.tags.keys() & {"script", "b"}
    assert max(reader.ids.values()) == 1
    for _tag, name, value in reader.attributes:
        assert name != "aria-labelledby" or value in reader.ids
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    described = [value for tag, name, value in reader.attributes if tag == "div" and name == "aria-label"]
    assert len(drawings) == reader.tags["figure"] == len(described) == 19 + 5 + 4 + 7 + 3 + 2
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert f"Ranks of true codes: {HOSTILE}" in words(page)
    assert not re.search(r"\bnan\b|\bNone\b", words(page))


def test_every_analysis_has_a_tab_that_opens_with_its_verdicts(examined_run: Path) -> None:
    page = (examined_run / "report.html").read_text()
    names = re.findall(r"<label for=\"[^\"]+\">([^<]+)</label>", page)
    assert names == ["Overview", "Likelihood", "Inference", "Steps", "Reference", "Calibration", "Latent code", "Text",
                     "Criticism", "Training", "Record", "Everything"]  # fmt: skip
    parts = dict(zip(names, page.split('<div class="tab">')[1:], strict=False))
    assert {analysis.tab for analysis in ANALYSES.values()} <= parts.keys()
    for analysis in ANALYSES.values():
        assert re.match(r'\s*<section aria-labelledby="verdicts-\d+">', parts[analysis.tab])
        assert analysis.heading in parts[analysis.tab]
    assert "Between two bounds" in parts["Likelihood"]
    assert "far from the posterior." in parts["Reference"]
    assert "NOT calibrated, it is over-confident." in parts["Calibration"]
    assert "own: calibrated, as far as 400 simulations tell." in parts["Calibration"]


def test_the_page_says_once_which_divergence_to_believe(examined_run: Path, tmp_path: Path) -> None:
    """Headline, figure by step, Steps and Reference each have one; catches a page that leaves the reader to choose."""
    text = words((examined_run / "report.html").read_text())
    assert text.count("KL(inference ‖ posterior) has several numbers on this page.") == 1
    for said in (
        "The one above rests on 48 held-out sentences, log p(x) by importance weights and a Gaussian entropy",
        "The tab Steps rests on 3 validation sentences and a Gaussian entropy",
        "The tab Reference rests on 2 held-out sentences, by long chains",
        "Believe that of the tab Reference, for its sentences",
    ):
        assert said in text
    folder = Path(shutil.copytree(examined_run, tmp_path / "copy"))
    for name in ("doctor", "reference"):
        for kind in ("json", "nc"):
            (folder / f"{name}.{kind}").unlink()
    text = words(write_report(folder).read_text())
    assert "No one is to be believed as a level" in text
    assert "tab Steps rests" not in text


@pytest.mark.parametrize(
    ("share_below", "method", "trusted", "said"),
    [
        (1.0, "monte_carlo_log_q", [True], "Believe the one above; all others are of fewer sentences."),
        (0.5, "monte_carlo_log_q", [True], "Believe that of the tab Reference, for its sentences."),
        (
            1.0,
            "gaussian_entropy_lower_estimate",
            [True, False],
            "Believe that of the tab Reference, for its sentences;",
        ),
        (
            0.5,
            "gaussian_entropy_lower_estimate",
            [False],
            "No one is to be believed as a level; sri-pyro reference",
        ),
    ],
)
def test_which_divergence_is_believed_follows_density_weights_and_chains(
    share_below: float, method: str, trusted: list[bool], said: str, metrics_of: MetricsOf
) -> None:
    metrics = put(metrics_of("healthy"), "kl_q_posterior", 0.3, 0.02)
    metrics["kl_q_posterior"]["method"] = method
    metrics["khat"]["share_below"] = share_below
    found = which_divergence(metrics, {"reference": {"references": {"own": {"trusted": trusted}}}})
    assert said in found
    assert ("(1 further one left out)" in found) is (False in trusted)
    withheld = {
        "num_steps": 20,
        "num_sentences": 16,
        "grid": None,
    }  # by the doctor, of draws of several modes
    assert "tab Steps" not in which_divergence(metrics, {"doctor": withheld})
    assert "tab Steps" in which_divergence(metrics, {"doctor": {**withheld, "grid": {}}})  # positive control
    metrics["active_units"]["of"] = 0
    assert which_divergence(metrics, {}) == ""


def test_what_is_bad_stands_on_the_first_page_and_the_files_at_the_end(examined_run: Path) -> None:
    """Bad ones first, whichever analysis they are of; what is good stays in its tab."""
    page = (examined_run / "report.html").read_text()
    overview = page.split('<div class="tab">')[1]
    levels = re.findall(r'<li class="verdict (\w+)">', overview)
    assert levels == sorted(levels, key=["bad", "caution", "info", "good"].index)
    text = words(f"<div>{overview}")
    assert f"Bad Calibration: {HOSTILE}: NOT calibrated, it is over-confident." in text
    assert f"Bad Reference: {HOSTILE}: far from the posterior." in text
    assert "Criticism: Inference: its codes differ" in text
    assert "calibrated, as far as" not in text
    files = "metrics.json, sentences.csv, inference.nc, " + ", ".join(
        f"{name}.{kind}" for name in ANALYSES for kind in ("json", "nc")
    )
    assert words(page).endswith(f"{' or'.join(files.rsplit(',', 1))} beside it.")


Damage = Callable[[Path], object]
UNUSABLE = "calibration.json or calibration.nc does not hold what the page needs"


def without(key: str) -> Damage:
    def damage(path: Path) -> None:
        numbers = json.loads(path.read_text())
        del numbers[key]
        path.write_text(json.dumps(numbers))

    return damage


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (without("systems"), f"{UNUSABLE} (KeyError: 'systems')"),
        (lambda path: path.write_text("{"), "calibration.json is not whole JSON"),
        (lambda path: path.with_suffix(".nc").unlink(), "calibration.json lacks calibration.nc beside it"),
        (lambda path: path.with_suffix(".nc").write_bytes(b"no"), "calibration.nc cannot be read as netCDF"),
        (lambda path: shutil.copy(path.with_name("inference.nc"), path.with_suffix(".nc")), f"{UNUSABLE} (KeyError:"),
    ],
)  # fmt: skip
def test_damaged_findings_are_named_and_the_old_page_stays(
    damage: Damage, fault: str, examined_run: Path, tmp_path: Path
) -> None:
    others = [f"{name}.json" for name in ANALYSES if name != "calibration"]
    folder = shutil.copytree(examined_run, tmp_path / "run", ignore=shutil.ignore_patterns(*others))
    damage(folder / "calibration.json")
    with pytest.raises(ValueError, match=re.escape(fault)) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert (folder / "report.html").read_text() == (examined_run / "report.html").read_text()


def test_an_inference_that_is_lost_is_judged_and_drawn(tmp_path: Path) -> None:
    """Scores that are no numbers are null in the file, which were added up once; on the page no "nan" is read."""
    findings = reference_of({"own": (1.0, 1.0), "lost": (1.0, 1.0)})
    for name, variable in findings.groups["scores"].items():
        np.asarray(variable.values)[1] = np.nan
        findings.numbers["systems"]["lost"][name] = [float("nan")] * 2
    write_findings(tmp_path, findings, {})
    back = read_findings(tmp_path, "reference")
    assert back is not None
    found = examined("reference", *back)
    assert {each.headline: each.level for each in found.verdicts}["lost: far from the posterior."] == "bad"
    assert "lost unknown" in found.panels[4].alt
    said = [*(each.evidence for each in found.verdicts), *(each.alt for each in found.panels)]
    assert not any("nan" in each for each in said)


def test_findings_of_other_weights_are_not_shown(examined_run: Path, tmp_path: Path) -> None:
    """A run that was trained on keeps its old findings beside its new evaluation. Oracle: their digests."""
    folder = tmp_path / "run"
    shutil.copytree(examined_run, folder)
    for name, digest in (("metrics", "new"), ("doctor", "old"), ("calibration", "new")):
        record = json.loads((folder / f"{name}.json").read_text())
        record.setdefault("provenance", {})["weights"] = {"digest": digest}
        (folder / f"{name}.json").write_text(json.dumps(record))
    text = words(write_report(folder).read_text())
    assert text.count("Steps: The findings are of other weights.") == 1
    assert "KL(inference ‖ posterior) against the steps" not in text
    assert "Calibration: The findings" not in text
    assert "Coverage of central intervals" in text
