"""The paper's estimator, ``jacobian``: its weights in closed form, and its refusals where steps fold.

Gates allow one false alarm in 1e8 runs of a test (``oracles.gate``). Its weights are z-tested only in the
light-tailed corner where the fourth moment is finite.
"""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sri_pyro.evaluation import (
    JacobianImportance,
    estimate_evidence,
)
from sri_pyro.inference import PriorDraws, ShortRunLangevin
from sri_pyro.numerics.langevin import Baoab, LeimkuhlerMatthews, UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.target import Target
from tests.evaluation.helpers import off
from tests.oracles import LinearGaussian, gate, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")


def starting_at(target: Target) -> tuple[Target, list[Tensor]]:
    """The target, and a list that receives every start drawn from its prior."""
    starts: list[Tensor] = []

    def sample_prior(num: int) -> Tensor:
        starts.append(target.sample_prior(num))
        return starts[-1]

    return replace(target, sample_prior=sample_prior), starts


def paper(step: float, num_steps: int = 5, integrator=None) -> ShortRunLangevin:
    return ShortRunLangevin(
        num_steps, integrator or UnadjustedLangevin(), ConstantSteps(step), record_path=True
    )


@pytest.mark.parametrize("integrator", [UnadjustedLangevin(), LeimkuhlerMatthews()], ids=["ula", "lm"])
def test_jacobian_weights_are_the_closed_form(integrator) -> None:
    """Log w = log p(x, z_K) - log p(z_0) + K sum log |1 - s precision|, exactly, draw by draw."""
    oracle = LinearGaussian.build("power1", dim=6, information=3.0)
    _, x = oracle.sample(3)
    target, starts = starting_at(oracle.target(x))
    ((_, draws),) = JacobianImportance(num_samples=7)(target, paper(0.02, 5, integrator))
    log_det = 5 * (1 - 0.02 * oracle.precision).log().sum()
    exact = target.log_joint(draws.z) - target.log_prior(starts[0]) + log_det
    torch.testing.assert_close(draws.log_weight, exact, rtol=0, atol=1e-8)
    assert log_det < -0.5  # positive control: a dropped or flipped determinant is not within the tolerance
    assert not draws.refused.any()
    assert (draws.negative_share == 0).all()
    smallest = (1 - 0.02 * oracle.precision.max()).expand(3)
    torch.testing.assert_close(draws.smallest_eigenvalue, smallest, rtol=0, atol=1e-9)


def test_jacobian_is_unbiased_where_its_variance_is_finite() -> None:
    """E w = p(x) on the linear Gaussian at K = 5, s = 0.004, where precision (2 a^2K - c) > 1/2 in every mode.

    There the fourth moment is finite too, so the gate's central limit is safe. The wrong sign of log |det| is
    20 % off, and dropping it 10 %.
    """
    oracle = LinearGaussian.build("flat", dim=2, information=1.0)
    s, steps, precision = 0.004, 5, oracle.precision
    response = (1 - s * precision) ** steps
    variance = response**2 + (1 - response**2) / (precision * (1 - s * precision / 2))
    assert (precision * (2 * response**2 - variance) > 0.75).all()
    x = torch.tensor([[0.5, -1.0], [0.0, 0.8]])
    evidence_of = oracle.log_evidence(x)
    target = oracle.target(x)
    ((_, draws),) = JacobianImportance(num_samples=60_000)(target, paper(s, steps))
    ratio = (draws.log_weight - evidence_of).exp()
    log_det = (steps * (1 - s * precision).log().sum()).item()
    for b in range(2):
        assert abs(off(ratio[:, b] - 1)) < gate(2)
        assert abs(off(ratio[:, b] * math.exp(-2 * log_det) - 1)) > 9  # flipped
        assert abs(off(ratio[:, b] * math.exp(-log_det) - 1)) > 9  # dropped


@pytest.mark.parametrize("folded", [1, 2])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_jacobian_refuses_every_fold(folded: int, num_steps: int) -> None:
    """S precision > 1 in one or two directions, over one, two or three steps: an even number of negative
    factors has a positive determinant, within a step or along the run, and must not pass for one-to-one.
    """
    s = 0.2  # times precision: 1.2 and 0.5, short of 2, from where a run would be taken back and its steps halved
    curvature = torch.where(torch.arange(3) < folded, 6.0, 2.5) - 1
    target = standard_normal_target(lambda z: -0.5 * (curvature * z.square()).sum(-1), 2, 3)
    evidence, draws = estimate_evidence(target, paper(s, num_steps), JacobianImportance(num_samples=30))
    assert evidence.log_px.isnan().all()
    assert draws.refused.all()
    torch.testing.assert_close(draws.smallest_eigenvalue, torch.full((2,), -0.2), rtol=0, atol=1e-9)
    assert draws.negative_share.tolist() == [1.0 if folded * num_steps % 2 else 0.0] * 2


def test_jacobian_refuses_sentence_by_sentence() -> None:
    """One stiff sentence folds; its neighbour keeps its number."""
    curvature = torch.tensor([1.0, 30.0])
    target = standard_normal_target(lambda z: -0.5 * curvature * z.square().sum(-1), 2, 1)
    evidence, draws = estimate_evidence(target, paper(0.05, 3), JacobianImportance(num_samples=20))
    assert draws.refused.tolist() == [False, True]
    assert evidence.log_px.isnan().tolist() == [False, True]


def test_jacobian_needs_a_recorded_run_of_a_map_of_z() -> None:
    target = LinearGaussian.build("flat", dim=2, information=1.0).target(torch.ones(1, 2))
    sentence = (
        "the estimator 'jacobian' needs the path of a run whose steps are maps of z alone; use the inference "
        "'short_run' with record_path = true and the integrator 'ula' or 'lm'."
    )
    for run in (ShortRunLangevin(3), paper(0.05, 3, Baoab()), PriorDraws()):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            JacobianImportance()(target, run)
