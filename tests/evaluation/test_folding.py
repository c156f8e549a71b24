"""What the paper's estimator says of folding steps, on its way from the weights to the files and the page."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from sri_pyro.evaluation import Evaluation, EvaluationOptions, JacobianImportance, evaluate
from sri_pyro.evaluation.export import ABOUT, write_outputs
from sri_pyro.evaluation.headline import headline, summary
from sri_pyro.evaluation.netcdf import from_netcdf
from sri_pyro.evaluation.verdicts import judge
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.target import Target
from sri_pyro.types import Batch
from tests.oracles import standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")

FLAT, STIFF = 4, 9
"""First words of sentences whose posteriors have precision 1 and 6: steps of 0.2 scale by 0.8 and -0.2."""


class Curved(nn.Module):
    """A target of one dimension per sentence, as stiff as its first word says."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def target(self, batch: Batch) -> Target:
        curvature = batch.tokens[:, 0].double() - FLAT
        return standard_normal_target(lambda z: -0.5 * curvature * z[..., 0].square(), len(batch), 1)


def evaluated(*words: list[int]) -> Evaluation:
    """One batch for each list of first words, by three recorded steps."""
    run = ShortRunLangevin(3, UnadjustedLangevin(), ConstantSteps(0.2), record_path=True)
    batches, first = [], 0
    for batch in words:
        batches.append(
            Batch(torch.tensor([[word, 3] for word in batch]), torch.arange(first, first + len(batch)))
        )
        first += len(batch)
    return evaluate(Curved(), run, batches, JacobianImportance(10), EvaluationOptions(num_chains=16))


def test_the_negative_fraction_stands_in_every_file(tmp_path: Path) -> None:
    """Rows of two batches, the stiff ones second and third: their maps scale by (-0.2)^3, those of the others by 0.8^3.

    Catches columns that stay behind in the weights, and rows of the second batch put in the first's order.
    """
    found = evaluated([FLAT, STIFF], [STIFF, FLAT])
    write_outputs(tmp_path, found, ["a", "b", "c", "d"], {})
    table = pd.read_csv(tmp_path / "sentences.csv")
    evidence = from_netcdf(tmp_path / "inference.nc")["evidence"]
    for name, values in {
        "negative_share": [0.0, 1.0, 1.0, 0.0],
        "smallest_eigenvalue": [0.8, -0.2, -0.2, 0.8],
    }.items():
        assert table[name].tolist() == pytest.approx(values)
        assert evidence[name].to_numpy() == pytest.approx(values)
        assert evidence[name].attrs["description"] == ABOUT[f"evidence/{name}"][1]
    assert table["log_px"].isna().tolist() == [False, True, True, False]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["folding"] == pytest.approx(
        {"folded_sentences": 2, "negative_share": 0.5, "smallest_eigenvalue": -0.2}
    )
    likelihood = judge(metrics)[0]
    assert "refused on 2 of 4 sentences" in likelihood.evidence
    assert "Of all runs 50.0% have a map of negative determinant" in likelihood.evidence
    assert "50.0% of all runs have a negative determinant" in summary(metrics)
    row = next(row for row in headline(metrics) if row.name == "Runs of negative determinant")
    assert (row.value, row.note) == ("50.0% of runs", "Steps fold on 2 sentences; smallest eigenvalue -0.2.")


def test_steps_that_do_not_fold_are_not_blamed() -> None:
    """No sentence is refused, and the page does not say that steps fold; the numbers are there all the same."""
    metrics = evaluated([FLAT, FLAT, FLAT]).metrics
    assert metrics["folding"] == pytest.approx(
        {"folded_sentences": 0, "negative_share": 0.0, "smallest_eigenvalue": 0.8}
    )
    assert "fold" not in summary(metrics)
