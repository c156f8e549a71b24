"""``sri-pyro calibrate``: what it prints and leaves, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sri_pyro.config.alternatives import inferences
from sri_pyro.config.run import load_run
from sri_pyro.evaluation.findings import read_findings
from sri_pyro.inference import INFERENCES, LocalGaussians
from tests.cli.helpers import Say, refused


@pytest.fixture(scope="module")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("calibrated") / "run"))


WORDS = ("--num-simulations", 24, "--num-draws", 19, "--inference", "prior")


def test_it_prints_verdicts_and_leaves_what_the_plots_need(say: Say, calibrated: Path) -> None:
    """Oracle: the ranks themselves, from which the differences and the coverage are counted anew."""
    said = say("calibrate", calibrated, *WORDS)
    assert said.code == 0
    assert said.out.splitlines()[-1] == (
        f"findings: {calibrated / 'calibration.json'} and {calibrated / 'calibration.nc'}"
    )
    assert sum(line.startswith(("own ", "prior ")) for line in said.out.splitlines()) == 2
    found = read_findings(calibrated, "calibration")
    assert found is not None
    numbers, data = found
    assert numbers["systems"].keys() == {"own", "prior"}
    assert numbers["quantities"] == ["z_0", "z_1", "log_likelihood", "log_joint"]
    ranks = data["ranks"]["rank"].to_numpy()
    assert ranks.shape == (2, 24, 4)
    assert ranks.min() >= 0
    assert ranks.max() <= 19
    difference = data["ecdf"]["difference"].sel(system="prior", quantity="z_1").to_numpy()
    below = [(ranks[1, :, 1] < place).mean() - place / 20 for place in range(1, 20)]
    np.testing.assert_allclose(difference, below, atol=1e-12)
    covered = ((ranks[0, :, :2] >= 2) & (ranks[0, :, :2] <= 17)).mean()
    assert numbers["systems"]["own"]["coverage"][1]["value"] == pytest.approx(covered)
    assert numbers["nominal"][1] == pytest.approx(0.8)
    strict, band = data["ecdf"]["strict_upper"].to_numpy(), data["ecdf"]["upper"].to_numpy()
    assert (strict >= band).all()
    assert numbers["provenance"]["weights"]["file"] == "best.safetensors"
    assert "calibrate" in numbers["provenance"]["command"]
    assert "Ranks of true codes: prior" in (calibrated / "report.html").read_text()


def test_the_same_command_gives_the_same_numbers(say: Say, calibrated: Path) -> None:
    said = [say("calibrate", calibrated, *WORDS).out for _ in range(2)]
    assert said[0] == said[1]


def test_what_it_cannot_do_is_refused(say: Say, run: Path) -> None:
    refused(say("calibrate", run, "--num-simulations", 3), "num_simulations must be at least 20; got 3.")
    refused(say("calibrate", run, "--num-draws", 3), "num_draws must be at least 19; got 3.")
    refused(
        say("calibrate", run, "--inference", "short_run,7"),
        "--inference short_run,7: give option=value after each comma; got '7'",
    )
    refused(
        say("calibrate", run, "--inference", "amortized"),
        "--inference amortized: it has weights of its own, which this run has not trained; train it, in a run of its "
        "own",
    )
    known = ", ".join(sorted([*INFERENCES, "reference"]))
    refused(
        say("calibrate", run, "--inference", "shrt_run"),
        f"--inference shrt_run: unknown inference 'shrt_run'; known: {known}. Did you mean 'short_run'?",
    )
    refused(
        say("calibrate", run, "--inference", "short_run,num_steps=0"),
        "--inference short_run,num_steps=0: inference 'short_run': num_steps must be at least 1; got 0. For draws that "
        "do not move use the inference 'prior'.",
    )
    refused(
        say("calibrate", run, "--inference", "short_run,noise={"),
        "--inference short_run,noise={: noise: { is not a TOML value",
    )
    assert not (run / "calibration.json").exists()


def test_an_alternative_stands_on_the_run_if_it_is_of_its_kind(trained: Path) -> None:
    """Oracle: the run has 3 steps. Another kind has its own defaults."""
    found = inferences(
        load_run(trained), ["step_schedule.first=0.2", "local_vi,num_steps=5", "short_run, num_steps=9"]
    )
    assert list(found) == ["own", "step_schedule.first=0.2", "local_vi,num_steps=5", "short_run, num_steps=9"]
    own, first, local, longer = found.values()
    assert (first.num_steps, longer.num_steps) == (3, 9)
    assert first.step_sizes()[0] == pytest.approx(0.2)
    assert longer.step_sizes()[0] == pytest.approx(own.step_sizes()[0])
    assert isinstance(local, LocalGaussians)
    assert local.num_steps == 5
    assert json.dumps(own.num_steps) == "3"
