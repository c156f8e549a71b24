"""KL weights over training against the loops that the published codes run, step by step."""

import math
import re

import pytest

from sri_pyro.numerics.kl_weights import KL_WEIGHTS, ConstantWeight, CyclicalWeight, LinearWeight
from sri_pyro.types import Progress

STEPS = 40
"""Weight steps of an epoch."""


def at(step: int) -> Progress:
    return Progress(step, step / STEPS)


@pytest.mark.parametrize(("start", "epochs"), [(0.1, 10), (0.0, 10), (0.5, 3)])
def test_linear_is_the_increment_of_every_step(start: float, epochs: int) -> None:
    """Oracle: He et al. add (1 - start) / (epochs x steps) before each step, up to 1. Ours is the weight before it.

    Catches a weight that waits for the end of an epoch, one that overshoots, and a start that is left out.
    """
    weight, published = LinearWeight(start, 1.0, epochs), start
    for step in range((epochs + 2) * STEPS):
        assert weight(at(step)) == pytest.approx(published, abs=1e-9)
        published = min(1.0, published + (1 - start) / (epochs * STEPS))
    assert weight(None) == 1.0


def test_linear_can_fall_and_ends_where_it_says() -> None:
    weight = LinearWeight(1.0, 0.2, 4)
    assert [weight(Progress(0, epoch)) for epoch in (0, 2, 4, 100)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert weight(None) == pytest.approx(0.2)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize(("rise", "start"), [(0.5, 0.0), (0.25, 0.0), (0.5, 0.1), (1.0, 0.0)])
def test_cyclical_is_the_published_list_of_weights(shape: str, rise: float, start: float) -> None:
    """Oracle: Fu et al. fill a list, cycle by cycle, with a ramp that rises by a constant until it is 1, and then 1.

    Catches cycles that drift, a rise over the whole cycle, and a cosine over the wrong half.
    """
    cycles, epochs = 4, 10
    period = epochs * STEPS
    weight = CyclicalWeight(epochs, start, rise, shape)  # type: ignore[arg-type]
    for cycle in range(cycles):
        ramp = 0.0
        for i in range(period):
            share = ramp if shape == "linear" else 0.5 - 0.5 * math.cos(ramp * math.pi)
            assert weight(at(cycle * period + i)) == pytest.approx(start + (1 - start) * share, abs=1e-9)
            ramp = min(1.0, ramp + 1 / (period * rise))
    assert weight(None) == 1.0


def test_constant_is_constant() -> None:
    assert {ConstantWeight(0.3)(progress) for progress in (None, at(0), at(999))} == {0.3}
    assert ConstantWeight()(None) == 1.0


@pytest.mark.parametrize("name", KL_WEIGHTS)
def test_evaluation_takes_the_weight_that_training_ends_with(name: str) -> None:
    """The last moment of the last cycle, or of an annealing that is over."""
    weight = KL_WEIGHTS[name]()
    assert weight(None) == pytest.approx(weight(Progress(0, 39.999)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantWeight(-1.0), "weight must be a finite number of at least 0; got -1.0."),
        (lambda: LinearWeight(epochs=0), "epochs must be a positive finite number; got 0."),
        (lambda: LinearWeight(start=math.nan), "start must be a finite number of at least 0; got nan."),
        (
            lambda: CyclicalWeight(rise=0.0),
            "rise is a part of the cycle, more than 0 and at most 1; got 0.0.",
        ),
        (lambda: CyclicalWeight(shape="sine"), "unknown shape 'sine'; known: linear, cosine."),  # type: ignore[arg-type]
    ],
)
def test_bad_options_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
