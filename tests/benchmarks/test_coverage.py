"""The coverage study: its summaries by hand, and one cell of every kind on a few sentences of text."""

import pytest
import torch

from benchmarks.coverage.measure import by_parts, controls, estimated
from benchmarks.coverage.problems import PROBLEMS, text
from benchmarks.coverage.results import mean_of, share_of, summarised, table
from sri_pyro.evaluation import GaussianImportance
from tests.oracles import gate

pytestmark = pytest.mark.usefixtures("float64")


def test_summaries_by_hand() -> None:
    assert mean_of([1.0, 3.0]) == {"mean": 2.0, "se": 1.0, "sd": pytest.approx(2**0.5)}
    assert share_of([1.0, 0.0, 1.0, 1.0])["share"] == 0.75
    assert set(summarised({"covered": [1.0, 1.0], "error": [0.0, 1.0]})["covered"]) == {
        "share",
        "lower",
        "upper",
    }


def test_a_cell_has_the_truth_in_its_interval_and_the_wrong_programs_outside() -> None:
    """30 sentences that the model wrote: errors of the estimate within the gate; rows and codes belong together.

    Oracle: quadrature, row by row. Dropping the determinant is half a nat off, in one dimension.
    """
    data = text(1, 30)
    own = data.target.value(data.z[None])[1].mean()
    assert own > data.target.value(data.z.roll(1, 0)[None])[1].mean()
    cell = summarised(by_parts(data, lambda part: estimated(part, GaussianImportance())))
    assert abs(cell["error"]["mean"]) < gate(1) * cell["error"]["se"] + 0.01
    assert cell["covered"]["share"] > 0.5
    wrong = summarised(by_parts(data, controls))
    assert wrong["log-determinant left out"]["mean"] > 0.2
    above = dict.fromkeys(("bidirectional", "reverse"), cell["error"])
    record = {"estimators": {"gaussian": cell}, "above": above, "controls": wrong}
    written = table({"data_sets": 30, "problems": {"text, 1-d": record}})
    assert "| text, 1-d | wrong: log-determinant left out |" in written
    assert "bernstein" in written


def test_every_problem_gives_as_many_data_sets_as_asked() -> None:
    for name in ("gaussian, flat", "gaussian, power2"):
        data = PROBLEMS[name](3)
        assert data.exact.shape == (3,)
        assert data.target.select is not None
        part = data.target.select(torch.tensor([2]))
        z = torch.randn(1, 3, 32)
        torch.testing.assert_close(part.value(z[:, 2:])[1], data.target.value(z)[1][:, 2:])
