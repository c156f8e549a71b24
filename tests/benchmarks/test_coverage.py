"""The coverage study: its summaries by hand, its problems against other routes, and a cell of every kind."""

import math
from typing import Any

import pytest
import torch

from benchmarks.coverage.controls import controls
from benchmarks.coverage.measure import above, by_parts, estimated
from benchmarks.coverage.problems import PROBLEMS, text, topics
from benchmarks.coverage.results import mean_of, share_of, summarised, table
from sri_pyro.evaluation import GaussianImportance, JacobianImportance
from tests.oracles import gate, quadrature

pytestmark = pytest.mark.usefixtures("float64")


def test_summaries_by_hand_leave_out_what_is_not_there() -> None:
    assert mean_of([1.0, math.nan, 3.0]) == {"mean": 2.0, "se": 1.0, "sd": pytest.approx(2**0.5)}
    assert mean_of([math.nan, 1.0]) is None
    share = share_of([1.0, 0.0, math.nan, 1.0, 1.0])
    assert share is not None
    assert (share["share"], share["of"]) == (0.75, 4)
    assert share_of([math.nan]) is None
    assert set(summarised({"covered": [1.0, 1.0], "error": [0.0, 1.0]})["covered"]) == {
        "share",
        "lower",
        "upper",
        "of",
    }


def test_the_table_has_a_line_for_every_cell_and_the_wrong_programs_are_caught() -> None:
    """30 sentences that the model wrote: errors of the estimate within the gate; rows and codes belong together.

    Oracle: quadrature, row by row. Dropping the determinant is half a nat off, in one dimension.
    """
    data = text(1, 30)
    own = data.target.value(data.z[None])[1].mean()
    assert own > data.target.value(data.z.roll(1, 0)[None])[1].mean()
    cell = summarised(by_parts(data, lambda part: estimated(part, GaussianImportance())))
    assert abs(cell["error"]["mean"]) < gate(1) * cell["error"]["se"] + 0.01
    assert cell["covered"]["share"] > 0.5
    refused = summarised(by_parts(data, lambda part: estimated(part, JacobianImportance())))
    assert refused["refused"]["share"] > 0
    wrong = summarised(by_parts(data, controls))
    assert wrong["log-determinant left out"]["mean"] > 0.2
    record: dict[str, Any] = {
        "estimators": {"gaussian": cell, "jacobian": refused},
        "above": summarised(by_parts(data, above)),
        "controls": wrong,
    }
    written = table({"data_sets": 30, "problems": {"text, 1-d": record}})
    for line in (
        "| text, 1-d | gaussian |",
        "| text, 1-d | jacobian (refused: ",
        "| text, 1-d | bernstein |",
        "| text, 1-d | log-determinant left out |",
    ):
        assert line in written
    verdicts = {line.split(" | ")[1]: line for line in written.splitlines() if "local bound" in line}
    assert "| no, a bound |" in verdicts["local bound by fresh noise"]
    assert "yes, below" in table(_shifted(record, -9.0)), (
        "a lower bound that lies below is right, others are not"
    )


def _shifted(record: dict[str, Any], by: float) -> dict[str, Any]:
    """The record with the determinant's error elsewhere."""
    moved = {"mean": by, "se": 1.0, "sd": 1.0}
    controls = record["controls"] | {"log-determinant left out": moved}
    return {"data_sets": 30, "problems": {"text, 1-d": record | {"controls": controls}}}


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_a_model_of_two_modes_writes_every_sentence_with_probability_one_and_is_the_same_at_minus_z(
    latent_dim: int,
) -> None:
    """A likelihood that reads z where it ought to read its square is not even."""
    data = text(latent_dim, 6, bimodal=True)
    z = torch.randn(5, 6, latent_dim)
    mirrored = torch.cat([-z[..., :1], z[..., 1:]], -1)
    _, here = data.target.value(z)
    torch.testing.assert_close(here, data.target.value(mirrored)[1])
    _, gradient = data.target.conditioned.value_and_grad(z)
    torch.testing.assert_close(gradient[..., 0], -data.target.conditioned.value_and_grad(mirrored)[1][..., 0])
    assert data.target.select is not None
    torch.testing.assert_close(data.target.select(torch.tensor([4])).value(z[:, 4:5])[1], here[:, 4:5])


def test_the_code_of_a_topic_leaves_the_grammars_likelihood_as_it_is() -> None:
    """The forward algorithm against quadrature in three dimensions: corners of no tetrahedron fail."""
    data = topics(4)
    torch.testing.assert_close(
        quadrature(data.target, reach=6.0, points=49).log_evidence, data.exact, atol=1e-6, rtol=0
    )
    own = topics(200)
    assert own.target.value(own.z[None])[1].mean() > own.target.value(own.z.roll(1, 0)[None])[1].mean() + 0.5
    assert own.exact.isfinite().all()


def test_every_problem_gives_as_many_data_sets_as_asked() -> None:
    for name in ("gaussian, flat", "gaussian, power2"):
        data = PROBLEMS[name](3)
        assert data.exact.shape == (3,)
        assert data.target.select is not None
        part = data.target.select(torch.tensor([2]))
        z = torch.randn(1, 3, 32)
        torch.testing.assert_close(part.value(z[:, 2:])[1], data.target.value(z)[1][:, 2:])
