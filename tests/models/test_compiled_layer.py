"""The compiled softmax layer against softmax means and log-normalisers in double precision.

Where a processor has vectors of 64 bytes, all is also tested as compiled for those of 32. Wrong programs that these
catch: states, units or words beside whole tiles, panels and blocks that are forgotten or read twice; an exponential
that leaves its range; a state whose sums depend on its company. Axes: N hidden states, H units, V words.
"""

import ctypes
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from sri_pyro.config.threads import computing_with
from sri_pyro.models.decoders import compiled_layer, compiled_lstm
from sri_pyro.models.decoders.compiled_layer import CompiledLayer
from tests.conditioned import WIDTHS, assert_same_bits, functions_for, guarded, normal, untouched_around


@pytest.fixture(params=WIDTHS)
def functions(request: pytest.FixtureRequest) -> Any:
    return functions_for(request.param, compiled_layer.loaded, lambda functions: functions.panel())


def layer(n: int, units: int, words: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, H], weights [V, H] and biases [V], of which two words have no share where there are more."""
    bias = normal(words)
    if words > 4:
        bias[[0, words // 2]] = -torch.inf
    return normal(n, units), 2 * normal(words, units) / units**0.5, bias


def assert_softmax(h: Tensor, weight: Tensor, bias: Tensor, functions: Any, tolerance: float = 2e-6) -> None:
    """Every state's mean relative to the longest weight that it may be, every normaliser to numbers of order one."""
    mean, normaliser = CompiledLayer.of(weight, bias, functions).attention(h)
    logits = h.double() @ weight.double().T + bias.double()
    assert (mean.shape, normaliser.shape) == (h.shape, h.shape[:1])
    length = weight[bias > -torch.inf].double().norm(dim=1).max()
    off = (mean.double() - logits.softmax(-1) @ weight.double()).norm(dim=1)
    assert not len(h) or off.max() <= tolerance * length
    torch.testing.assert_close(normaliser.double(), logits.logsumexp(-1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [1, 12, 13, 14, 15, 100])
@pytest.mark.parametrize("units", [1, 19, 32, 130, 300])
@pytest.mark.parametrize("words", [1, 2, 33, 70, 512, 600, 1100])
def test_compiled_layer_is_the_softmax(words: int, units: int, n: int, functions: Any) -> None:
    assert_softmax(*layer(n, units, words), functions)


def test_states_wider_than_a_block_of_words(functions: Any) -> None:
    assert_softmax(*layer(15, 2100, 70), functions, tolerance=5e-6)


def test_compiled_layer_is_the_softmax_at_random_sizes(functions: Any) -> None:
    draw = torch.Generator().manual_seed(11)
    for _ in range(150):
        n, units, words = (int(torch.randint(1, top, (), generator=draw)) for top in (60, 90, 1300))
        assert_softmax(*layer(n, units, words), functions)


@pytest.mark.parametrize(
    "possible", [[0], [1999], [700, 1300], list(range(1200, 2000)), list(range(0, 2000, 7))]
)
def test_long_runs_of_impossible_words(possible: list[int], functions: Any) -> None:
    """Vectors, panels and blocks of words without any mass, at either end: infinity minus infinity is NaN."""
    h, weight, some = layer(30, 19, 2000)
    bias = torch.full((2000,), -torch.inf)
    bias[possible] = some[possible].nan_to_num(neginf=0.0)
    assert_softmax(h, weight, bias, functions)


@pytest.mark.parametrize("rising", [True, False])
def test_logits_that_rise_or_fall_through_the_words(rising: bool, functions: Any) -> None:
    """The largest so far changes at every block, or never: what was summed before must be put on the new footing.

    Logits are known to 2e-5 here, hence the tolerance.
    """
    h, weight, _ = layer(30, 19, 1500)
    bias = torch.linspace(-150, 150, 1500)
    assert_softmax(h, weight, bias if rising else bias.flip(0), functions, tolerance=5e-5)
    few = torch.linspace(-3, 3, 1500)
    assert_softmax(h, weight, few if rising else few.flip(0), functions)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_large_logits_neither_overflow_nor_lose_their_differences(shift: float, functions: Any) -> None:
    """Exponentials of either sign leave the range. Oracle: numbers that single precision tells exactly."""
    h = torch.tensor([[1e3, 0.0], [-1e3, 0.0], [0.0, 1.0], [1e3, 1.0]])
    weight = torch.tensor([[1.0, 0.5], [-1.0, 0.25], [1.0, 0.125], [0.5, 3.0], [1.0, 1.0]])
    assert_softmax(h, weight, torch.full((5,), shift), functions)
    assert_softmax(h[:1], -weight[:1].repeat(5, 1), torch.full((5,), shift), functions)


def test_the_longest_exponentials_down_to_nothing(functions: Any) -> None:
    """One word beside a certain one, from as likely to impossible: its share is right to its last digits.

    Where it vanishes beside 1 even in double precision, it may be nothing.
    """
    behind = torch.linspace(0, 120, 1201)
    h, weight = behind[:, None], torch.tensor([[0.0], [-1.0]])
    mean, normaliser = CompiledLayer.of(weight, torch.zeros(2), functions).attention(h)
    share = torch.sigmoid(-behind.double())
    assert ((-mean[:, 0].double() - share).abs() <= 4e-7 * share + 1e-26).all()
    torch.testing.assert_close(
        normaliser.double(), torch.log1p((-behind.double()).exp()), rtol=3e-7, atol=1e-7
    )


def test_a_lost_state_spoils_no_other(functions: Any) -> None:
    for n in (4, 100):
        h, weight, bias = layer(n, 19, 600)
        compiled = CompiledLayer.of(weight, bias, functions)
        before, others = compiled.attention(h), torch.arange(n) != 2
        for lost in (torch.nan, torch.inf):
            h[2, 1] = lost
            found = compiled.attention(h)
            assert lost == torch.inf or all(part[2].isnan().all() for part in found)
            assert_same_bits(tuple(part[others] for part in found), tuple(part[others] for part in before))


@pytest.mark.parametrize("word", [0, 3, 17, 40, 599])
def test_a_lost_word_is_lost_for_every_state(word: int, functions: Any) -> None:
    """Of diverged training. A maximum overlooks NaN; the sums must not."""
    for part in (1, 2):
        given = layer(20, 19, 600)
        given[part][word] = torch.nan
        for found in CompiledLayer.of(*given[1:], functions).attention(given[0]):
            assert found.isnan().all()


def test_a_state_depends_on_neither_company_nor_threads(functions: Any) -> None:
    """Bit by bit: alone, among others, in another place, on any number of threads, more than there are states."""
    for n, units, words in ((101, 33, 1100), (3000, 64, 600)):
        h, weight, bias = layer(n, units, words)
        compiled = CompiledLayer.of(weight, bias, functions)
        with computing_with(1):
            expected = compiled.attention(h)
            for some in (torch.arange(1), torch.arange(2, 16), torch.randperm(n)[:29], torch.randperm(n)):
                assert_same_bits(compiled.attention(h[some]), tuple(part[some] for part in expected))
        for threads in (1, 2, 3, 16):
            with computing_with(threads):
                assert_same_bits(compiled.attention(h), expected)
                assert_same_bits(compiled.attention(h[:2]), tuple(part[:2] for part in expected))


@pytest.mark.parametrize("most", [0, compiled_layer.MOST_PACKED])
def test_nothing_is_written_beside_its_place_nor_read_before_it_is_written(
    most: int, functions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results and scratch lie between numbers that must stay, and are full of NaN to begin with."""
    monkeypatch.setattr(compiled_layer, "MOST_PACKED", most)
    for n, units, words, threads in ((1, 1, 1, 1), (15, 19, 70, 2), (3000, 33, 600, 3)):
        h, weight, bias = layer(n, units, words)
        compiled = CompiledLayer.of(weight, bias, functions)
        with computing_with(threads):
            mean, normaliser = compiled.attention(h)
        h_NX = compiled_layer.padded(h, units, functions.panel())
        given = h_NX.clone(), *(tensor.clone() for tensor in compiled.tensors)
        room_size = functions.attention_room(ctypes.addressof(compiled.structure), n, threads)
        places = [guarded(*h_NX.shape), guarded(n), guarded(room_size)]
        (found, _), (found_normaliser, _), (room, _) = places
        functions.attention(
            ctypes.addressof(compiled.structure), n, h_NX.data_ptr(), found.data_ptr(), found_normaliser.data_ptr(),
            threads, room.data_ptr(),
        )  # fmt: skip
        assert_same_bits((found[:, :units], found_normaliser), (mean, normaliser))
        assert all(untouched_around(around) for _, around in places)
        assert all(torch.equal(*pair) for pair in zip(given, (h_NX, *compiled.tensors), strict=True))


def test_a_layer_too_large_for_copies_gives_the_same_bits(
    functions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its panels are made a block at a time. Catches blocks that begin at another word than their biases."""
    for n, units, words in (
        (1, 1, 1),
        (15, 19, 70),
        (40, 32, 600),
        (30, 130, 1100),
        (14, 300, 700),
        (15, 2100, 70),
    ):
        h, weight, bias = layer(n, units, words)
        expected = CompiledLayer.of(weight, bias, functions).attention(h)
        monkeypatch.setattr(compiled_layer, "MOST_PACKED", 0)
        made_by_and_by = CompiledLayer.of(weight, bias, functions)
        monkeypatch.undo()
        assert made_by_and_by.structure.logits is None
        assert_same_bits(made_by_and_by.attention(h), expected)


def test_rows_and_columns_of_any_distance_in_memory(functions: Any) -> None:
    """A transposed weight, as tied layers have: strides are not for a C function to guess."""
    h, weight, bias = layer(100, 6, 9)
    wide = h.T.contiguous().T
    for states in (h[:5], h[::7], wide, h[:1].expand(100, -1)):
        assert_softmax(states, weight, bias, functions)
        assert_softmax(states, weight.T.contiguous().T, bias, functions)
        assert_softmax(states, weight.repeat_interleave(2, 0)[::2], bias.repeat_interleave(2)[::2], functions)
    whole = layer(40, 64, 64)  # whole panels, where nothing need be padded
    assert_softmax(whole[0].T.contiguous().T, whole[1].T.contiguous().T, whole[2], functions)
    assert_softmax(whole[0], whole[1], whole[2].repeat_interleave(2)[::2], functions)


def test_no_state_is_nothing(functions: Any) -> None:
    assert_softmax(*layer(0, 5, 8), functions)


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("wrong", [0, 1], ids=["mean", "normaliser"])
def test_a_wrong_layer_is_not_used(
    wrong: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A compiler that miscompiles: wrong in one number by 1e-3."""
    if compiled_layer.loaded() is None:
        pytest.skip("it cannot be compiled here")
    right = CompiledLayer.attention

    def attention(self: CompiledLayer, h: Tensor) -> tuple[Tensor, Tensor]:
        found = right(self, h)
        found[wrong][-1] += 1e-3
        return found

    monkeypatch.setattr(CompiledLayer, "attention", attention)
    with caplog.at_level(logging.WARNING):
        assert compiled_layer.compiled() is None
        assert compiled_lstm.compiled() is None
    assert caplog.messages == [
        "the compiled softmax layer does not agree with PyTorch's operations and is not used."
    ]
