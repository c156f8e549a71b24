"""The LSTM's likelihood in one compiled call against autograd through the equations in double precision.

Where a processor has vectors of 64 bytes, all is also tested as compiled for those of 32. Wrong programs that these
catch: units, words, chains or tokens beside whole vectors, panels and blocks that are forgotten or read twice; a
chain that is not put back into its order; an exponential that leaves its range.
"""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sri_pyro.models.decoders import compiled_lstm
from sri_pyro.models.decoders.compiled_lstm import CompiledLSTM
from sri_pyro.models.decoders.frozen_tail import FrozenTailLikelihood, TailOptions
from sri_pyro.types import Batch
from tests.conditioned import MANY, RAGGED, WIDTHS, WIRINGS, Example, assert_same_bits, error, functions_for
from tests.textbook import lstm_value_and_grad, rows, small_lstm, thinning

pytestmark = pytest.mark.usefixtures("one_thread")
NEEDS_IT = pytest.mark.skipif(compiled_lstm.compiled() is None, reason="it cannot be compiled here")


@pytest.fixture(params=WIDTHS)
def functions(request: pytest.FixtureRequest) -> Any:
    return functions_for(request.param, compiled_lstm.loaded, lambda functions: functions.layer.panel())


def assert_equations(example: Example, z: Tensor, functions: Any, tolerance: float = 2e-6) -> None:
    """Value alone, and with its gradient."""
    compiled = CompiledLSTM.of(example.conditioned(), functions)
    exact_value, exact_gradient = example.value_and_grad(z)
    value, gradient = compiled.value_and_grad(z)
    assert error(value, exact_value) <= tolerance
    assert error(compiled.value(z), exact_value) <= tolerance
    if exact_gradient.numel():
        assert error(gradient, exact_gradient) <= tolerance
    else:
        assert gradient.shape == exact_gradient.shape


# --- Equal to the equations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize(
    ("units", "words", "dim", "lengths", "draws"),
    [
        (1, 2, 1, [1], 1),  # everything of size one
        (1, 70, 3, RAGGED, 3),
        (19, 33, 2, RAGGED, 3),
        (32, 600, 16, RAGGED, 3),  # whole panels
        (33, 2, 17, [4, 4], 1),
        (16, 48, 0, RAGGED, 3),  # no code at all
        (130, 1100, 32, [3, 9, 1, 5], 3),  # several blocks of words
        (300, 600, 40, [5, 2], 3),
        (520, 33, 3, [2, 1], 2),  # sums of sums
        (5, 33, 2, [1100, 3, 700], 30),  # more tokens than are computed together
        (130, 33, 2, [300, 2], 30),  # more memory than is used at once
        (64, 512, 5, [1] * 5, 50),  # one token each
        (19, 70, 3, MANY, 3),
        (45, 100, 7, [6], 50),  # one sentence
        (8, 31, 4, MANY, 50),
    ],
)
def test_compiled_lstm_is_the_equations(
    units: int,
    words: int,
    dim: int,
    lengths: list[int],
    draws: int,
    wiring: str,
    masked: bool,
    functions: Any,
) -> None:
    example = Example.draw(units, words, dim, lengths, wiring, masked)
    assert_equations(example, example.codes(draws), functions)


def test_compiled_lstm_is_the_equations_at_random_sizes(functions: Any) -> None:
    """Sizes, lengths, order, wiring and masks at random: what no list of cases thinks of."""
    draw = torch.Generator().manual_seed(7)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    for _ in range(40):
        lengths = [number(1, 6) for _ in range(number(1, 9))]
        wiring, masked = WIRINGS[number(0, 1)], bool(number(0, 1))
        example = Example.draw(number(1, 70), number(5, 150), number(0, 40), lengths, wiring, masked)
        assert_equations(example, example.codes(number(1, 20)), functions)


def test_one_word_is_certain(functions: Any) -> None:
    """Its log-probability is 0 and moves with nothing; a relative error has no meaning here."""
    example = Example.draw(19, 1, 3, RAGGED, masked=True)
    value, gradient = CompiledLSTM.of(example.conditioned(), functions).value_and_grad(example.codes(3))
    assert value.abs().max() <= 2e-5
    assert gradient.abs().max() <= 2e-5


@NEEDS_IT
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("width", [19, 64])
def test_a_decoder_uses_it(width: int, wiring: str) -> None:
    """From a decoder's own weights and masks. Oracle: the textbook's equations. A wrong order of gates is seen here."""
    decoder = small_lstm(vocab_size=600, latent_dim=5, hidden=width, embedding=7, wiring=wiring).float()
    tokens = rows(600, [3, 9, 1, 5], width=11)
    masks, z = thinning(decoder, tokens), torch.randn(3, 4, 5)
    route = decoder.condition(Batch(tokens), masks=masks)
    exact = lstm_value_and_grad(decoder.double(), z.double(), tokens, masks)
    for found, wanted in zip((*route.value_and_grad(z), route.value(z)), (*exact, exact[0]), strict=True):
        assert error(found, wanted) <= 2e-6


# --- Extremes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "possible", [[0], [1099], [70, 900], list(range(1000, 1100)), list(range(0, 1100, 5))]
)
def test_words_that_never_come(possible: list[int], functions: Any) -> None:
    """Whole vectors, panels and blocks of words without any mass, at either end: infinity minus infinity is NaN."""
    example = Example.draw(19, 1100, 3, RAGGED, masked=True)
    bias, target = torch.full((1100,), -torch.inf), torch.tensor(possible)[example.target_BT % len(possible)]
    bias[possible] = example.bias_V[possible]
    example = replace(example, bias_V=bias, target_BT=target)
    if len(possible) > 1:
        assert_equations(example, example.codes(4), functions)
        return
    for found in CompiledLSTM.of(example.conditioned(), functions).value_and_grad(example.codes(4)):
        assert found.abs().max() <= 2e-5


def test_a_word_that_cannot_come_is_impossible_and_alone(functions: Any) -> None:
    example = Example.draw(19, 70, 3, RAGGED)
    example.bias_V[3], example.target_BT[example.target_BT == 3] = -torch.inf, 4
    example.target_BT[2, 1] = 3
    z = example.codes(4)
    value, gradient = CompiledLSTM.of(example.conditioned(), functions).value_and_grad(z)
    exact_value, exact_gradient = example.value_and_grad(z)
    assert (value[:, 2] == -torch.inf).all()
    others = [0, 1, 3, 4, 5, 6]
    assert error(value[:, others], exact_value[:, others]) <= 2e-6
    assert error(gradient[:, others], exact_gradient[:, others]) <= 2e-6


@pytest.mark.parametrize("shift", [0.0, 3e4, -3e4])
def test_logits_hundreds_apart(shift: float, functions: Any) -> None:
    """Exponentials of either sign leave the range. A logit of 300 is known to 3e-5, hence the tolerance.

    A shift of all of them alike changes nothing but how well they are known.
    """
    example = Example.draw(32, 1100, 3, RAGGED)
    example = replace(example, weight_VH=30 * example.weight_VH, bias_V=100 * example.bias_V + shift)
    z = example.codes(4)
    logits = example.states(z)[0] @ example.weight_VH.double().T + example.bias_V.double()
    assert logits.max() - logits.min() > 500  # positive control
    assert_equations(example, z, functions, tolerance=5e-3 if shift else 1e-4)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_saturated_gates(wiring: str, scale: float, functions: Any) -> None:
    """A chain that strays must find a finite answer, and the right one as long as numbers still tell it."""
    example = Example.draw(19, 70, 3, RAGGED, wiring)
    z = scale * example.codes(4).sign()
    found = CompiledLSTM.of(example.conditioned(), functions).value_and_grad(z)
    exact = example.value_and_grad(z)
    assert all(part.isfinite().all() for part in found)
    # A huge first state makes huge gates, which single precision does not tell apart.
    assert wiring == "hidden" or error(found[0], exact[0]) <= 1e-4
    assert scale > 1e3 or (found[1] - exact[1]).norm() <= 1e-4 * exact[1].norm() + 1e-6


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lost", [torch.nan, torch.inf])
def test_a_lost_chain_is_alone(lost: float, masked: bool, functions: Any) -> None:
    """NaN is not healed by a minimum or maximum that overlooks it."""
    for wiring, draws in itertools.product(WIRINGS, (1, 17)):
        example = Example.draw(19, 600, 3, RAGGED, wiring, masked)
        compiled, z = CompiledLSTM.of(example.conditioned(), functions), example.codes(draws)
        before, alone = compiled.value_and_grad(z), compiled.value(z)
        for s, n in ((0, 5), (draws - 1, 1), (draws // 2, 3)):
            moved, others = z.clone(), torch.ones(draws, 7, dtype=torch.bool)
            moved[s, n, 1], others[s, n] = lost, False
            found = (*compiled.value_and_grad(moved), compiled.value(moved))
            for ours, sound in zip(found, (*before, alone), strict=True):
                assert_same_bits((ours[others],), (sound[others],))
                assert lost == torch.inf or ours[s, n].isnan().all()


# --- In two passes -------------------------------------------------------------------------------------------


def packed(example: Example, by_sentence: list[Tensor]) -> Tensor:
    """Of every sentence [S, L, H], as the library lays them out: longest sentences first, [N S, H]."""
    order = sorted(range(len(example.lengths)), key=lambda n: -example.lengths[n])
    steps = range(max(example.lengths))
    return torch.cat([by_sentence[n][:, t] for t in steps for n in order if t < example.lengths[n]])


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize(("units", "dim", "draws"), [(1, 1, 1), (19, 3, 5), (64, 17, 50), (130, 0, 2)])
def test_states_and_the_gradient_of_any_function_of_them(
    units: int, dim: int, draws: int, wiring: str, functions: Any
) -> None:
    """Oracle: a product of the states with numbers of their own, by autograd."""
    example = Example.draw(
        units, 40, dim, RAGGED, wiring, masked=True
    )  # masks are no business of these passes
    z = example.codes(draws)
    leaf = z.double().requires_grad_()
    exact = packed(example, example.states(leaf))
    slope = torch.randn(exact.shape, dtype=torch.float32)
    (wanted,) = torch.autograd.grad(
        (slope.double() * exact).sum(), leaf, materialize_grads=True, allow_unused=True
    )
    states, gradient = CompiledLSTM.of(example.conditioned(), functions).states(z)
    assert error(states, exact.detach()) <= 2e-6
    found = gradient(slope)
    assert found.shape == z.shape
    assert not dim or error(found, wanted) <= 2e-6


@NEEDS_IT
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_both_passes_with_the_softmax_between_are_the_one(wiring: str, masked: bool) -> None:
    """Also as the tail that is not frozen at all. Oracle: the equations."""
    example = Example.draw(33, 600, 5, RAGGED, wiring, masked)
    example.bias_V[7] = -torch.inf
    example.target_BT[example.target_BT == 7] = 8
    route, z = example.conditioned(), example.codes(4)
    exact = example.value_and_grad(z)
    frozen = FrozenTailLikelihood.of(route, TailOptions(candidates=600, tail_words=4, refresh=2))
    ways = (
        route.value_and_grad(z, route.exact_softmax),
        route.value_and_grad(z),
        *(frozen.value_and_grad(z) for _ in range(3)),
    )
    for way in ways:
        for found, wanted in zip(way, exact, strict=True):
            assert error(found, wanted) <= 2e-6


# --- What it takes -------------------------------------------------------------------------------------------


def test_codes_of_any_layout_and_mode(functions: Any) -> None:
    """Strides are not for a C function to guess; no graph is made, and none is needed."""
    example = Example.draw(19, 70, 3, (2, 6, 1, 4))
    compiled = CompiledLSTM.of(example.conditioned(), functions)
    leaf = torch.randn(5, 4, 3, dtype=torch.float32, requires_grad=True)
    layouts = (
        torch.randn(3, 4, 5).permute(2, 1, 0),
        torch.randn(1, 1, 3).expand(5, 4, 3),
        torch.randn(5, 8, 6)[:, ::2, ::2],
        torch.randn(4, 5, 3).transpose(0, 1).flip(0),
        torch.randn(61)[1:].view(5, 4, 3),  # not where vectors begin
        leaf,
    )
    for z in layouts:
        expected = compiled.value_and_grad(z.detach().clone(memory_format=torch.contiguous_format))
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode():
                found = (*compiled.value_and_grad(z), compiled.value(z))
            assert_same_bits(found, (*expected, expected[0]))
            assert not any(part.requires_grad for part in found)
        states, gradient = compiled.states(z)
        assert error(gradient(torch.ones_like(states)), gradient_of_sum(example, z)) <= 2e-6
    assert leaf.grad is None


def gradient_of_sum(example: Example, z: Tensor) -> Tensor:
    leaf = z.detach().double().requires_grad_()
    return torch.autograd.grad(packed(example, example.states(leaf)).sum(), leaf)[0]


def test_no_draw_is_nothing(functions: Any) -> None:
    example = Example.draw(19, 70, 3, (2, 6, 1, 4))
    compiled, z = CompiledLSTM.of(example.conditioned(), functions), torch.randn(0, 4, 3)
    value, gradient = compiled.value_and_grad(z)
    assert (value.shape, gradient.shape, compiled.value(z).shape) == ((0, 4), (0, 4, 3), (0, 4))
    states, back = compiled.states(z)
    assert states.shape == (0, 19)
    assert back(states).shape == (0, 4, 3)
