"""Step and noise schedules against their written sequences."""

import itertools
import math

import pytest

from sri_pyro.numerics.schedules import (
    NOISE_SCHEDULES,
    STEP_SCHEDULES,
    ConstantNoise,
    ConstantSteps,
    GeometricSteps,
    LinearNoise,
    ListedSteps,
    StaircaseNoise,
)
from sri_pyro.types import Progress
from tests.oracles import sentence


def at(epoch: float) -> Progress:
    return Progress(step=0, epoch=epoch)


def test_geometric_steps_have_one_ratio_and_both_ends() -> None:
    sizes = GeometricSteps(0.2, 0.01)(7)
    assert sizes[0] == pytest.approx(0.2, rel=1e-14)
    assert sizes[-1] == pytest.approx(0.01, rel=1e-14)
    ratios = [after / before for before, after in itertools.pairwise(sizes)]
    assert ratios == pytest.approx([(0.01 / 0.2) ** (1 / 6)] * 6, rel=1e-12)


def test_constant_and_listed_steps() -> None:
    assert ConstantSteps(0.3)(4) == [0.3] * 4
    assert ListedSteps([0.3, 0.2, 0.1])(3) == [0.3, 0.2, 0.1]
    assert GeometricSteps(0.4, 0.1)(1) == [0.4]
    assert GeometricSteps(0.1, 0.1)(3) == pytest.approx([0.1] * 3, rel=1e-14)


def test_a_list_answers_with_a_copy() -> None:
    """A caller that scales its run must not scale every later one."""
    schedule = ListedSteps([0.3, 0.2])
    schedule(2)[0] = 99.0
    assert schedule(2) == [0.3, 0.2]


def test_linear_noise_interpolates_between_its_ends() -> None:
    rising, falling = LinearNoise(0.05, 1.0, 8.0), LinearNoise(1.0, 0.2, 4.0)
    for epoch in (0.0, 0.3, 4.0, 7.99, 8.0, 50.0):
        assert rising(at(epoch)) == pytest.approx(0.05 + 0.95 * min(epoch / 8, 1), rel=1e-12)
        assert falling(at(epoch)) == pytest.approx(1 - 0.8 * min(epoch / 4, 1), rel=1e-12)


def test_staircase_is_the_released_schedule() -> None:
    """0.05 for 15 epochs, 0.05 more in each later epoch, 0.2 at most."""
    released = StaircaseNoise()
    for epoch in (0.0, 7.5, 14.999, 15.0, 15.9, 16.0, 17.0, 17.9, 60.0):
        stairs = max(0, math.floor(epoch) - 15 + 1)
        assert released(at(epoch)) == pytest.approx(min(0.2, 0.05 * (1 + stairs)), rel=1e-12)


def test_evaluation_gets_the_final_noise_scale() -> None:
    assert ConstantNoise(0.7)(None) == 0.7
    assert LinearNoise(0.05, 0.9, 8.0)(None) == 0.9
    assert StaircaseNoise(end=0.3)(None) == 0.3


@pytest.mark.parametrize("bad", [0.0, -0.1, math.inf, math.nan])
def test_step_sizes_must_be_positive_and_finite(bad: float) -> None:
    for name, make in {
        "step_size": lambda: ConstantSteps(bad),
        "first": lambda: GeometricSteps(bad, 0.1),
        "last": lambda: GeometricSteps(0.1, bad),
        "step_sizes[1]": lambda: ListedSteps([0.1, bad]),
        "increment": lambda: StaircaseNoise(increment=bad),
        "epochs": lambda: LinearNoise(epochs=bad),
    }.items():
        with pytest.raises(
            ValueError, match=sentence(f"{name} must be a positive finite number; got {bad}.")
        ):
            make()


def test_a_list_must_have_an_entry_for_every_step() -> None:
    message = "step_sizes must list at least one step size; got an empty list."
    with pytest.raises(ValueError, match=sentence(message)):
        ListedSteps([])
    message = "num_steps is 3, but 2 step sizes are listed; make the two agree."
    with pytest.raises(ValueError, match=sentence(message)):
        ListedSteps([0.2, 0.1])(3)


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan])
def test_noise_scales_must_not_be_negative(bad: float) -> None:
    for make in (
        lambda: ConstantNoise(bad),
        lambda: LinearNoise(start=bad),
        lambda: LinearNoise(end=bad),
        lambda: StaircaseNoise(start=bad),
        lambda: StaircaseNoise(end=bad),
    ):
        with pytest.raises(ValueError, match=f"must be a finite number of at least 0; got {bad}.$"):
            make()


@pytest.mark.parametrize("field", ["start", "end"])
@pytest.mark.parametrize("kind", [LinearNoise, StaircaseNoise])
def test_the_message_names_the_option_that_the_user_wrote(kind: type, field: str) -> None:
    with pytest.raises(
        ValueError, match=sentence(f"{field} must be a finite number of at least 0; got -1.0.")
    ):
        kind(**{field: -1.0})


def test_a_staircase_cannot_be_held_for_less_than_no_time() -> None:
    with pytest.raises(ValueError, match="hold"):
        StaircaseNoise(hold=-1)


def test_tables_name_the_three_of_each() -> None:
    assert list(STEP_SCHEDULES) == ["constant", "geometric", "listed"]
    assert list(NOISE_SCHEDULES) == ["constant", "linear", "staircase"]
