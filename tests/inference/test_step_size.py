"""The tuner of step sizes: where it ends, when it is due, what it leaves alone, and what it refuses."""

import logging
import math
import re

import pytest
import torch

from sri_pyro.inference import ShortRunLangevin, StepSizeTuner
from sri_pyro.numerics.langevin import Baoab
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.target import Target
from sri_pyro.types import Batch, Progress
from tests.inference.helpers import divergence, explosive, ula
from tests.oracles import EnumerableText, LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")


def problem(dim: int = 4) -> tuple[LinearGaussian, Target, ShortRunLangevin, float]:
    """A target, a run of 10 constant steps whose best scale is 1, and the least KL."""
    oracle = LinearGaussian.build("power1", dim=dim, information=3.0)
    grid = [0.02 * 1.05**i for i in range(60)]
    _, x = oracle.sample(6)
    values = [divergence(oracle, x, "ula", [s] * 10).mean().item() for s in grid]
    best = min(range(60), key=values.__getitem__)
    assert 0 < best < 59
    return oracle, oracle.target(x), ula(ConstantSteps(grid[best]), 10), values[best]


@pytest.mark.parametrize("method", ["grid", "gradient"])
@pytest.mark.parametrize("start", [0.3, 2.2])
def test_tuning_finds_the_optimum_from_both_sides(method: str, start: float) -> None:
    """After some rounds the scale is within a grid factor of the closed-form optimum, wherever it began."""
    _, target, run, _ = problem()
    run.step_scale.fill_(start)
    tuner = StepSizeTuner(run, method=method, num_chains=150, learning_rate=0.3)
    path = [start]
    for _ in range(9):
        tuner.tune(target)
        path.append(run.step_scale.item())
    assert abs(math.log(path[1])) < abs(math.log(start)), path  # the first move is in the right direction
    assert 0.7 < path[-1] < 1.42, path


@pytest.mark.parametrize("method", ["grid", "gradient"])
def test_limits_of_the_scale_hold(method: str) -> None:
    _, target, run, _ = problem()
    run.step_scale.fill_(0.3)
    StepSizeTuner(run, method=method, learning_rate=5.0, largest=0.31, num_chains=60).tune(target)
    assert run.step_scale.item() == pytest.approx(0.31)
    run.step_scale.fill_(2.2)
    StepSizeTuner(run, method=method, learning_rate=5.0, smallest=2.1, num_chains=60).tune(target)
    assert run.step_scale.item() == pytest.approx(2.1)


@pytest.mark.parametrize("method", ["grid", "gradient"])
def test_divergence_halves_the_scale_and_says_so(method: str, caplog: pytest.LogCaptureFixture) -> None:
    run = ula(ConstantSteps(0.1))
    tuner = StepSizeTuner(run, method=method, num_chains=16, factors=(0.71, 1.0, 1.41))
    with caplog.at_level(logging.WARNING):
        tuner.tune(explosive())
    assert run.step_scale.item() == pytest.approx(0.5)
    assert caplog.records
    run.step_scale.fill_(0.06)  # and the halving knows the limit
    tuner.tune(explosive())
    assert run.step_scale.item() == pytest.approx(0.05)


@pytest.mark.parametrize("method", ["grid", "gradient"])
def test_tuning_is_due_every_so_many_steps_and_sees_few_sentences(method: str) -> None:
    """Catches off-by-one (tuning at step 0, or never), and a tuner that pays for the whole batch."""
    oracle = EnumerableText.build("bag_of_words", latent_dim=2)
    seen: list[int] = []

    def make_target(batch: Batch) -> Target:
        seen.append(len(batch))
        return oracle.model.target(batch)

    run = ula(ConstantSteps(0.01), 4)
    tuner = StepSizeTuner(run, method=method, every=5, num_chains=12, num_sentences=3)
    logged = [tuner(make_target, oracle.rows, Progress(step, 0.0)) for step in range(1, 13)]
    assert [bool(values) for values in logged] == [step % 5 == 0 for step in range(1, 13)]
    assert set(seen) == {3}
    assert all(isinstance(v, float) and math.isfinite(v) for values in logged for v in values.values())
    assert run.step_scale.item() != 1.0  # steps of 0.01 are far too small
    small = Batch(oracle.rows.tokens[:2])
    seen.clear()
    tuner(make_target, small, Progress(15, 0.0))
    assert set(seen) == {2}


@pytest.mark.parametrize("method", ["grid", "gradient"])
def test_tuning_leaves_weights_and_gradients_alone(method: str) -> None:
    oracle = EnumerableText.build("lstm", latent_dim=2)
    model = oracle.model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [p.detach().clone() for p in model.parameters()]
    StepSizeTuner(ula(ConstantSteps(0.05), 3), method=method, num_chains=8).tune(model.target(oracle.rows))
    for parameter, weight in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, weight)
        assert torch.equal(parameter.grad, torch.ones_like(parameter))


def test_the_papers_objective_can_be_chosen_and_differs() -> None:
    """By the Jacobian objective the scale falls where the Gaussian one lets it stand."""
    _, target, run, _ = problem()
    tuner = StepSizeTuner(run, objective="jacobian", num_chains=100)
    for _ in range(3):
        tuner.tune(target)
    assert run.step_scale.item() < 0.6


RANGES = "step-size tuning needs every >= 1, num_chains >= 2, num_sentences >= 1 and positive factors; got "
DEFAULTS = {
    "every": 2000,
    "num_chains": 96,
    "num_sentences": 8,
    "factors": [0.5, 0.71, 0.84, 1.0, 1.19, 1.41],
}


@pytest.mark.parametrize(
    "option",
    [{"every": 0}, {"num_chains": 1}, {"num_sentences": 0}, {"factors": []}, {"factors": [0.5, -1.0]}],
    ids=str,
)
def test_a_count_or_factor_out_of_range_is_named(option: dict) -> None:
    got = ", ".join(f"{name} = {value}" for name, value in (DEFAULTS | option).items())
    with pytest.raises(ValueError, match=f"^{re.escape(RANGES + got)}\\.$"):
        StepSizeTuner(ula(), **option)


@pytest.mark.parametrize(
    "option",
    [
        {"method": "climb"},
        {"objective": "entropy"},
        {"learning_rate": 0.0},
        {"smallest": 0.0},
        {"smallest": 2.0, "largest": 1.0},
    ],
    ids=str,
)
def test_no_impossible_option_is_accepted_in_silence(option: dict) -> None:
    """An unknown method must not fall through to another one; a scale of zero, or no range at all, must not tune."""
    with pytest.raises(ValueError, match=next(iter(option))):
        StepSizeTuner(ula(), **option)


def test_the_papers_objective_has_no_gradient_method() -> None:
    sentence = (
        "the gradient in the step size is written for the objective 'gaussian'; tune the objective 'jacobian' by "
        "method = 'grid'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        StepSizeTuner(ula(), method="gradient", objective="jacobian")


@pytest.mark.parametrize("method", ["grid", "gradient"])
def test_too_few_chains_for_the_dimension_are_refused(method: str) -> None:
    """The debiased entropy needs more than D + 1 chains: told when built where D is known, when tuned where not.

    D + 2 chains are enough, and the paper's objective, which has no entropy of the chains, needs none.
    """
    sentence = (
        "tuning the step size by the Gaussian entropy of 6 latent dimensions needs num_chains of at least 8; got "
        "7. Raise num_chains."
    )
    run = ula(ConstantSteps(0.05), 2)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        StepSizeTuner(run, method=method, num_chains=7, latent_dim=6)
    target = LinearGaussian.build("flat", dim=6, information=2.0).target(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        StepSizeTuner(run, method=method, num_chains=7).tune(target)
    StepSizeTuner(run, method=method, num_chains=8, latent_dim=6).tune(target)
    StepSizeTuner(run, objective="jacobian", num_chains=2, latent_dim=6).tune(target)


def test_the_papers_objective_is_refused_where_a_velocity_moves() -> None:
    """When built, not after the first 2000 steps."""
    sentence = (
        "the Jacobian objective needs a map of z alone, and 'baoab' moves a velocity too; use the integrator 'ula' "
        "or 'lm', or the objective 'gaussian'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        StepSizeTuner(ShortRunLangevin(3, Baoab()), objective="jacobian")
