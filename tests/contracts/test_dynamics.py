"""Laws that every integrator and every schedule obeys: a newcomer is tested by existing, and a failure names it."""

import pytest
import torch
from torch import Tensor

from sri_pyro.numerics.langevin import INTEGRATORS, run_langevin
from sri_pyro.numerics.schedules import NOISE_SCHEDULES, STEP_SCHEDULES
from sri_pyro.types import Progress
from tests.contracts.tables import small
from tests.oracles import LinearGaussian, gate, quadrature, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")


# --- Integrators -------------------------------------------------------------------------------------------


def wells(z: Tensor) -> tuple[Tensor, Tensor]:
    return (z.square() / 2 - z**4 / 4).sum(-1), z - z**3


@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrator_is_pure(name: str) -> None:
    """Same arguments, same answer, nothing changed; the integrator itself remembers nothing."""
    integrator, z, noise = INTEGRATORS[name](), torch.randn(4, 2, 3), torch.randn(2, 4, 2, 3)
    from sri_pyro.numerics.langevin import StepSizes

    steps, inputs = StepSizes(0.0, 0.1, 0.2), (z.clone(), noise.clone())

    def once() -> tuple[Tensor, Tensor]:
        memory = integrator.begin(z, 0.1, 1.0, noise[0])
        kept = memory.clone()
        result = integrator.advance(z, memory, wells(z)[1], steps, 1.0, noise[1])
        assert torch.equal(memory, kept)
        return result

    first, second = once(), once()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(z, inputs[0])
    assert torch.equal(noise, inputs[1])
    assert first[0].shape == first[1].shape == z.shape or first[1].numel() == 0


@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrator_moves_every_chain_alone(name: str) -> None:
    """A chain ends where it would have ended by itself, whatever runs beside it, in any leading shape."""
    integrator, z, noise = INTEGRATORS[name](), torch.randn(4, 2, 3), torch.randn(9, 4, 2, 3)
    together = run_langevin(wells, z, [0.1, 0.2, 0.1], integrator, noise=lambda k, like: noise[k])
    for s, b in ((0, 0), (3, 1)):
        alone = run_langevin(
            wells, z[s, b], [0.1, 0.2, 0.1], integrator, noise=lambda k, like, s=s, b=b: noise[k, s, b]
        )
        torch.testing.assert_close(alone, together[s, b], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrator_without_noise_climbs_to_the_mode(name: str) -> None:
    oracle = LinearGaussian.build("power1", dim=4, information=2.0)
    _, x = oracle.sample(3)
    target = oracle.target(x)

    def run(start: Tensor) -> Tensor:
        return run_langevin(
            lambda z: (target.log_joint(z), target.value_and_grad(z).grad),
            start,
            [0.1] * 400,
            INTEGRATORS[name](),
            noise_scale=0.0,
        )

    start = torch.randn(2, 3, 4)
    found = run(start)
    assert torch.equal(found, run(start))
    torch.testing.assert_close(found, oracle.posterior(x)[0].expand(2, 3, 4), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrator_settles_on_the_prior_where_the_data_say_nothing(name: str) -> None:
    """Variance 1 after many steps, up to the stated O(s) inflation of ``ula`` at s = 0.02."""
    target = standard_normal_target(lambda z: 0 * z.sum(-1), batch_size=2, dim=2)
    z = run_langevin(
        lambda z: (target.log_joint(z), target.value_and_grad(z).grad),
        torch.zeros(20_000, 2, 2),
        [0.02] * 400,
        INTEGRATORS[name](),
    )
    off = (z.var(0) - 1).abs().max().item()
    assert off < gate(4) * (2 / 20_000) ** 0.5 + 0.0102
    assert quadrature(target).log_evidence.abs().max() < 1e-9


# --- Schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEP_SCHEDULES)
def test_step_schedule_gives_one_positive_float_per_step(name: str) -> None:
    schedule = small(STEP_SCHEDULES[name])
    sizes = schedule(3)
    assert len(sizes) == 3
    assert all(type(size) is float and size > 0 for size in sizes)
    assert schedule(3) == sizes
    assert schedule(3) is not sizes


@pytest.mark.parametrize("name", STEP_SCHEDULES)
def test_step_schedule_refuses_a_run_without_steps(name: str) -> None:
    for num_steps in (0, -1):
        with pytest.raises(ValueError, match="num_steps"):
            small(STEP_SCHEDULES[name])(num_steps)


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
def test_noise_schedule_ends_where_evaluation_stands(name: str) -> None:
    schedule = small(NOISE_SCHEDULES[name])
    final = schedule(None)
    scales = [schedule(Progress(step=0, epoch=epoch)) for epoch in (0.0, 0.5, 3.0, 7.9, 15.0, 40.0, 1e4)]
    assert all(type(scale) is float and scale >= 0 for scale in [*scales, final])
    assert scales[-1] == final
    assert scales == sorted(scales) or scales == sorted(scales, reverse=True)
