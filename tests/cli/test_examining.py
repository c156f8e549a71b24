"""Doctor and criticism on a run's folder."""

import json
from pathlib import Path

import torch

from sri_pyro.config import doctor_run, load_run
from sri_pyro.config.doctor import dynamics_of
from sri_pyro.evaluation.findings import read_findings
from tests.cli.helpers import Say, refused

FEW = ("--sentences", 4, "--chains", 8)


def test_the_doctor_writes_findings_and_ends_in_advice(say: Say, run: Path) -> None:
    """Everything a figure needs is in the files, the same command gives the same numbers, and the evaluation that the
    folder holds stays as it was.
    """
    before = (run / "metrics.json").read_bytes()
    said = say("doctor", run, *FEW)
    assert said.code == 0
    assert said.out.splitlines()[-1].startswith("advice: your steps, ")
    first = (run / "doctor.json").read_text()
    assert say("doctor", run, *FEW).code == 0
    assert (run / "doctor.json").read_text() == first
    assert (run / "metrics.json").read_bytes() == before
    found = read_findings(run, "doctor")
    assert found is not None
    numbers, data = found
    assert numbers["provenance"]["split"] == "valid"
    assert numbers["provenance"]["command"].startswith("sri-pyro doctor")
    assert numbers["num_steps"] == 3
    assert dict(data["curvature"]["largest"].sizes) == {"step": 4, "curvature_chain": 4, "sentence": 4}
    assert dict(data["grid"]["energy"].sizes) == {"factor": 7, "sentence": 4}
    assert data["lengths"]["num_steps"].to_numpy().tolist() == [2, 6, 3]
    assert data["mixing"]["kl_posterior"].attrs["units"] == "nat"


def test_the_dynamics_are_the_runs_own(trained: Path) -> None:
    """Oracle: the inference itself, from the same generator, whose chains do not diverge. Catches a lost step scale or
    noise scale.
    """
    run = load_run(trained)
    run.inference.step_scale.fill_(0.5)  # type: ignore[operator,union-attr]  # a buffer
    dynamics = dynamics_of(run.inference)
    assert dynamics is not None
    assert dynamics.steps() == run.inference.step_sizes()  # type: ignore[operator]
    assert dynamics.noise_scale == 1.0
    assert dynamics.steps(2.0, 6) == [step * 2 for step in dynamics.steps(1.0, 6)]
    assert dynamics_of(torch.nn.Identity()) is None


def test_a_run_without_steps_says_so(say: Say, config: Path, tmp_path: Path) -> None:
    text = config.read_text().replace("[inference]\nnum_steps = 3\n", '[inference]\nkind = "amortized"\n')
    config.write_text(text.replace("[model]", '[objective]\nkind = "elbo"\n[model]'))
    assert say("train", config, "--out", tmp_path / "run").code == 0
    said = say("doctor", tmp_path / "run", *FEW)
    assert said.code == 0
    assert said.out.splitlines() == [
        "NOTE: This inference takes no Langevin steps; there is no step size to examine. The inference is 'amortized'.",
        "",
        "advice: This inference takes no Langevin steps, so there is no step size to advise on.",
    ]
    assert said.err.splitlines()[-1] == "note: the run has no report yet: sri-pyro evaluate draws it"
    assert json.loads((tmp_path / "run" / "doctor.json").read_text())["num_steps"] == 0


def test_a_run_that_is_judged_by_the_papers_estimator_is_examined_too(
    say: Say, config: Path, tmp_path: Path
) -> None:
    """That estimator needs recorded paths, and refuses where steps fold: just where a doctor is called."""
    sets = ("--set", 'evaluation.estimator={kind="jacobian"}', "--set", "inference.integrator=ula")
    assert say("train", config, *sets, "--out", tmp_path / "run").code == 0
    said = say("doctor", tmp_path / "run", *FEW)
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "run" / "doctor.json").read_text())["folding"] is not None


def test_refusals(say: Say, run: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    refused(say("doctor", nothing), f"{nothing} is not a run folder: it has no config.toml")
    refused(say("doctor", run, "--sentences", 1), "the doctor needs at least 2 sentences; got 1")
    refused(
        say("doctor", run, "--chains", 3),
        "the doctor needs num_chains of at least 8 and curvature_chains from 1 to that; got 3 and 4.",
    )
    assert not (run / "doctor.json").exists()


def test_findings_stand_where_the_report_cannot_be_drawn(say: Say, run: Path) -> None:
    """The analysis is done, and took long; what is damaged is said."""
    page, path = (run / "report.html").read_text(), run / "sentences.csv"
    path.unlink()
    said = say("doctor", run, *FEW)
    assert said.code == 0
    assert said.err.splitlines()[-1] == (
        f"note: the findings are written, and not in the report: a report needs sentences.csv, which {run} does not "
        "hold; evaluate the run first."
    )
    assert (run / "doctor.json").exists()
    assert (run / "report.html").read_text() == page


def test_python_gives_the_same(run: Path, say: Say) -> None:
    numbers = doctor_run(run, 4, 8)
    said = say("doctor", run, *FEW)
    assert said.out.splitlines()[-1] == f"advice: {numbers['advice']}"


def test_criticism_writes_findings_of_model_and_inference(say: Say, config: Path, tmp_path: Path) -> None:
    """From the evaluation's own draws, of its split; the same numbers by the same command."""
    run, text = tmp_path / "run", config.read_text().replace("sentences = 8", "sentences = 36")
    config.write_text(text.replace("test_fraction = 0.2", "test_fraction = 0.45"))
    assert say("train", config, "--out", run).code == 0
    assert say("evaluate", run).code == 0
    said = say("criticise", run)
    assert said.code == 0, said
    first = (run / "criticism.json").read_text()
    assert say("criticise", run).code == 0
    assert (run / "criticism.json").read_text() == first
    found = read_findings(run, "criticism")
    assert found is not None
    numbers, data = found
    assert numbers["provenance"]["split"] == "test"
    assert any("Model: " in line for line in said.out.splitlines())
    assert data["texts"]["discrepancy"].to_numpy().shape[1] == 8
    assert data["codes"]["law"].to_numpy().tolist() == ["posterior", "inference"]
    assert data["codes"]["eigenvalues"].sizes["rank"] == 2
    said = say("doctor", run, *FEW)
    assert said.code == 0
    assert said.err.splitlines()[-1] == f"note: {run / 'report.html'} is drawn again"
    page = (run / "report.html").read_text()
    for heading in ("Are the steps right?", "Model or inference?", "Holes in the prior"):
        assert heading in page


def test_criticism_needs_an_evaluation_of_these_weights(say: Say, run: Path) -> None:
    path = run / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["provenance"]["weights"]["digest"] = "another"
    path.write_text(json.dumps(metrics))
    refused(say("criticise", run), f"the evaluation in {run} is of other weights; evaluate the run again")
    path.write_text("{")
    refused(say("criticise", run), f"{path} is damaged; evaluate the run again")
    path.unlink()
    refused(
        say("criticise", run), f"{run} holds no evaluation, whose draws are criticised; evaluate it first"
    )
