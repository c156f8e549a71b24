"""How far a step may be tuned up, and that what is logged belongs to the scale in force."""

import math

import pytest
import torch

from sri_pyro.inference import ShortRunLangevin, StepSizeTuner
from sri_pyro.inference.step_objectives import (
    CommonNoise,
    gaussian_objective,
    jacobian_objective,
    stable_scale,
)
from sri_pyro.numerics.langevin import INTEGRATORS, LeimkuhlerMatthews, run_langevin
from sri_pyro.numerics.schedules import ConstantSteps, GeometricSteps
from sri_pyro.target import Target
from tests.inference.helpers import explosive, ula
from tests.oracles import LinearGaussian, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")


def gaussian(dim: int = 4) -> tuple[Target, float]:
    """A posterior and its largest precision."""
    oracle = LinearGaussian.build("power1", dim=dim, information=3.0)
    return oracle.target(oracle.sample(3)[1]), oracle.precision.max().item()


@pytest.mark.parametrize("name", INTEGRATORS)
def test_beyond_the_bound_runs_grow_and_below_it_they_shrink(name: str) -> None:
    """Oracle: two runs of 400 steps without noise, whose distance a linear target multiplies at every step.

    Catches a lost factor of two, the mean for the largest curvature, a limit that is not the integrator's.
    """
    target, _ = gaussian()
    run = ShortRunLangevin(20, INTEGRATORS[name](), ConstantSteps(0.05))
    bound = stable_scale(target, run, 0.5, CommonNoise(target, 24, 20))
    starts = torch.zeros(1, 3, 4), torch.ones(1, 3, 4)
    for share, grows in ((0.97, False), (1.03, True)):
        ends = [
            run_langevin(target.log_joint_and_grad, z, [share * bound * 0.05] * 400, run.integrator, noise_scale=0.0)
            for z in starts
        ]  # fmt: skip
        distance = (ends[1] - ends[0]).norm(dim=-1)
        assert bool((distance > 10).all() if grows else (distance < 0.1).all()), (share, distance)


def test_the_stiffest_sentence_and_the_smallest_step_decide() -> None:
    """Oracle: precisions 1 + (3, 9) along one axis; 2 / (10 x 0.02)."""
    stiff = torch.tensor([3.0, 9.0])
    target = standard_normal_target(lambda z: -0.5 * stiff * z[..., 0].square(), batch_size=2, dim=3)
    run = ShortRunLangevin(5, LeimkuhlerMatthews(), GeometricSteps(0.08, 0.02))
    assert stable_scale(target, run, 1.0, CommonNoise(target, 8, 5)) == pytest.approx(
        2 / (10 * 0.02), rel=1e-3
    )


def test_what_cannot_be_told_bounds_nothing() -> None:
    """Chains that left, a posterior that curves upwards everywhere, and no z at all."""
    run = ula(ConstantSteps(0.1), 3)
    upward = standard_normal_target(lambda z: z.square().sum(-1), batch_size=2, dim=2)
    empty = standard_normal_target(lambda z: z.sum(-1), batch_size=2, dim=0)
    for target in (explosive(), upward, empty):
        assert stable_scale(target, run, 1.0, CommonNoise(target, 8, 3)) == math.inf


@pytest.mark.parametrize(
    ("start", "smallest", "end"), [(0.95, 0.1, 0.8), (0.5, 0.1, 0.5), (0.95, 0.9, 0.9)], ids=["held", "free", "asked"]
)  # fmt: skip
def test_a_tuned_step_is_held_below_the_bound(start: float, smallest: float, end: float) -> None:
    """All in shares of the exact bound 2 / precision; a grid of one factor wants to stay where it is.

    Power iteration in four dimensions is within one per cent of the largest precision after ten rounds.
    """
    target, precision = gaussian()
    run = ShortRunLangevin(10, LeimkuhlerMatthews(), ConstantSteps(2 / precision))
    run.step_scale.fill_(start)
    StepSizeTuner(run, factors=(1.0,), smallest=smallest, largest=4.0, num_chains=40).tune(target)
    assert run.step_scale.item() == pytest.approx(end, rel=0.01)


@pytest.mark.parametrize("largest", [4.0, 0.35], ids=["free", "at the limit"])
@pytest.mark.parametrize(
    ("method", "objective"), [("grid", "gaussian"), ("gradient", "gaussian"), ("grid", "jacobian")]
)
def test_the_objective_logged_is_that_of_the_scale_in_force(
    method: str, objective: str, largest: float
) -> None:
    """Oracle: the objective at the new scale, on the same noise. It was that of the scale before, or of a scale that
    a limit had cut.
    """
    target, _ = gaussian()
    run = ula(ConstantSteps(0.05), 6)
    run.step_scale.fill_(0.3)
    torch.manual_seed(5)
    tuner = StepSizeTuner(
        run, method=method, objective=objective, num_chains=40, learning_rate=0.5, largest=largest
    )
    logged = tuner.tune(target)
    torch.manual_seed(5)
    noise = CommonNoise(target, 40, 6)
    exact = gaussian_objective if objective == "gaussian" else jacobian_objective
    assert logged["step_scale"] == run.step_scale.item() != 0.3
    assert logged["step_objective"] == pytest.approx(
        exact(target, run, logged["step_scale"], noise), rel=1e-12
    )
    assert abs(logged["step_objective"] - exact(target, run, 0.3, noise)) > 1e-3  # they differ
