"""``sri-pyro reference``: what it prints and leaves, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from sri_pyro.evaluation.findings import read_findings
from tests.cli.helpers import Say, refused

SHORT = ("--num-sentences", 2, "--warmup", 40, "--draws", 40, "--num-samples", 60)


def test_it_prints_a_table_and_leaves_what_the_plots_need(say: Say, trained: Path, tmp_path: Path) -> None:
    """Oracle: the draws themselves, whose deviations are compared anew."""
    run, other = (Path(shutil.copytree(trained, tmp_path / name)) for name in ("run", "other"))
    said = say("reference", run, *SHORT, "--inference", "prior", "--against", other, "--nuts", 1)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert sum(line.startswith(("own ", "prior ", "other ")) for line in lines) == 3 * 2
    assert lines[-1] == f"findings: {run / 'reference.json'} and {run / 'reference.nc'}"
    found = read_findings(run, "reference")
    assert found is not None
    numbers, data = found
    assert list(numbers["systems"]) == ["own", "prior", "other"]
    assert list(numbers["references"]) == ["own", "other"]
    assert numbers["systems"]["prior"]["reference"] == "own"
    assert data["posterior"]["z"].shape == (4, 40, 2, 2)
    z, judged = data["posterior"]["z"].to_numpy(), data["judged"]["draws"].sel(inference="prior").to_numpy()
    ratio = judged.std(0, ddof=1) / z.reshape(160, 2, 2).std(0, ddof=1)
    np.testing.assert_allclose(
        data["scores"]["sd_ratio"].sel(system="prior"), np.exp(np.log(ratio).mean(-1)), rtol=1e-4
    )
    assert data["convergence"]["rhat"].shape == (2, 3)
    assert numbers["provenance"]["against"]["other"]["file"] == "best.safetensors"
    assert not (other / "reference.json").exists()
    assert len(numbers["nuts"]) == 1
    assert (
        "* not to be trusted, and left out of the verdicts: a sentence's chains want R-hat below 1.01, 400"
        in said.out
    )
    rows = [line.split()[1] for line in lines if line.startswith("own ")]
    assert rows == [
        f"{row}{'' if good else '*'}" for row, good in enumerate(numbers["references"]["own"]["trusted"])
    ]
    assert "left out, for wanted are R-hat below 1.01" in (run / "report.html").read_text()
    assert "Pyro's NUTS" in said.out
    assert "Have the chains met?" in (run / "report.html").read_text()


def test_what_it_cannot_do_is_refused(say: Say, run: Path, tmp_path: Path) -> None:
    refused(say("reference", run, "--num-sentences", 0), "num_sentences must be at least 1; got 0.")
    refused(say("reference", run, "--num-chains", 1), "num_chains must be at least 2; got 1.")
    refused(
        say("reference", run, "--num-sentences", 900),
        "--num-sentences is 900, and the split has 16 sentences",
    )
    said = say("reference", run, "--against", tmp_path / "none")
    refused(said, f"{tmp_path / 'none'} is not a run folder: it has no config.toml")
    assert not (run / "reference.json").exists()


@pytest.mark.parametrize("trusted", [True, False])
def test_verdicts_rest_on_references_that_are_trusted(trusted: bool) -> None:
    from sri_pyro.evaluation.verdicts.reference import judge_reference

    quality = {
        "trusted": [trusted, trusted],
        "rhat": [1.0, 1.3],
        "ess": [900.0, 30.0],
        "diverged": [0.0, 0.0],
    }
    close = {"kl": [0.01, 0.02], "kl_se": [0.01, 0.01], "sd_ratio": [1.0, 0.98]}
    far = {"kl": [2.5, 3.5], "kl_se": [0.1, 0.1], "sd_ratio": [0.6, 0.5]}
    rest = {"reference": "own", "mean_off": [0.1, 0.1], "floor": [0.1, 0.1], "wasserstein": [0.1, 0.2]}
    numbers = {"references": {"own": quality}, "systems": {"near": close | rest, "off": far | rest}}
    verdicts = judge_reference(numbers)
    levels = ["bad", "good", "good"] if trusted else ["caution", "info", "info"]
    assert [verdict.level for verdict in verdicts] == levels
    if trusted:
        assert verdicts[0].headline == "off: far from the posterior."
        assert verdicts[0].evidence.endswith("It is over-confident.")
        assert "3.000 ± 0.071 nats" in verdicts[0].evidence
    else:
        assert verdicts[0].evidence.endswith(
            "wanted are R-hat below 1.01, 400 effective draws and no transition that diverged. Left out of the "
            "verdicts: row 0 (), row 1 (R-hat 1.300, 30 effective draws)."
        )
