"""The compiled LSTM bit by bit: a chain's numbers are its own, and nothing is written beside its place.

Wrong programs that these catch: a chain that leaks into another; sums whose order depends on the company or on
threads; room that is too small, or read before it is written.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sri_pyro.config.threads import computing_with
from sri_pyro.models.decoders import compiled_layer, compiled_lstm
from sri_pyro.models.decoders.compiled_lstm import Call, CompiledLSTM
from tests.conditioned import (
    MANY,
    RAGGED,
    WIDTHS,
    Example,
    assert_same_bits,
    functions_for,
    guarded,
    untouched_around,
)


@pytest.fixture(params=WIDTHS)
def functions(request: pytest.FixtureRequest) -> Any:
    return functions_for(request.param, compiled_lstm.loaded, lambda functions: functions.layer.panel())


@pytest.mark.parametrize(("units", "words"), [(19, 70), (64, 1100)])
def test_a_chain_depends_on_no_company(units: int, words: int, functions: Any) -> None:
    """Bit by bit: any sentences in any order, any draws. A sum in an order that depends on the block would show."""
    example = Example.draw(units, words, 5, RAGGED, masked=True)
    z, draw = example.codes(33), torch.Generator().manual_seed(3)
    together = CompiledLSTM.of(example.conditioned(), functions).value_and_grad(z)
    companies = [([n], [s]) for n, s in ((0, 0), (5, 32), (2, 13))]
    for _ in range(12):
        sentences = torch.randperm(7, generator=draw)[: int(torch.randint(1, 8, (), generator=draw))]
        draws = torch.randperm(33, generator=draw)[: int(torch.randint(1, 34, (), generator=draw))]
        companies.append((sentences.tolist(), draws.tolist()))
    for sentences, draws in companies:
        compiled = CompiledLSTM.of(example.of(sentences).conditioned(), functions)
        some = z[draws][:, sentences]
        expected = tuple(part[draws][:, sentences] for part in together)
        assert_same_bits(compiled.value_and_grad(some), expected)
        assert_same_bits((compiled.value(some),), expected[:1])


@pytest.mark.parametrize(("lengths", "draws"), [([3], 1), (RAGGED, 5), (MANY, 20), ([2, 4], 300)])
def test_threads_and_repetition_change_no_bit(lengths: list[int], draws: int, functions: Any) -> None:
    """Also more threads than chains: work that is shared must be shared whole. Codes stay as they are."""
    example = Example.draw(45, 600, 3, lengths)
    compiled, z = CompiledLSTM.of(example.conditioned(), functions), example.codes(draws)
    kept = z.clone()

    def answers() -> tuple[Tensor, ...]:
        states, gradient = compiled.states(z)
        seen = states.clone()
        return *compiled.value_and_grad(z), compiled.value(z), seen, gradient(seen.sin() - 0.3)

    with computing_with(1):
        expected = answers()
    assert_same_bits(expected[2:3], expected[:1])
    for threads in (1, 2, 3, 16):
        with computing_with(threads):
            assert_same_bits(answers(), expected)
    assert torch.equal(z, kept)


def test_both_passes_share_their_room_whatever_threads_come_between(functions: Any) -> None:
    """A pass that cuts the work anew would write beyond the room that the other one left."""
    example = Example.draw(45, 40, 3, MANY)
    compiled, z = CompiledLSTM.of(example.conditioned(), functions), example.codes(20)
    found = []
    for one, other in ((1, 1), (1, 3), (3, 1)):
        with computing_with(one):
            states, gradient = compiled.states(z)
        with computing_with(other):
            found.append(gradient(states.cos()))
    assert_same_bits((found[0], found[0]), (found[1], found[2]))


def test_nothing_is_written_beside_its_place_nor_read_before_it_is_written(functions: Any) -> None:
    """Results and scratch lie between numbers that must stay, and are full of NaN to begin with."""
    for units, dim, draws, threads in ((19, 3, 5, 1), (64, 16, 33, 3), (1, 0, 1, 2)):
        example = Example.draw(units, 70, dim, RAGGED, masked=True)
        compiled, z = CompiledLSTM.of(example.conditioned(), functions), example.codes(draws)
        slope = torch.randn(sum(RAGGED) * draws, units)
        kept = [tensor.clone() for tensor in compiled.kept[1].values()]
        places = {
            "value": (draws, 7),
            "grad": z.shape,
            "states": (len(slope), compiled.structure.layer.units),
        }
        with computing_with(threads):
            value, gradient = compiled.value_and_grad(z)
            for functions_, names, expected in (
                (["lstm_likelihood"], ["value"], [value]),
                (["lstm_likelihood"], ["value", "grad"], [value, gradient]),
                (["lstm_states", "lstm_gradient"], ["grad", "states"], [compiled.states(z)[1](slope)]),
            ):
                given = {name: guarded(*places[name]) for name in names}
                call = Call.of(compiled, z, **{name: inside for name, (inside, _) in given.items()})
                given["room"] = guarded(len(call.room))
                call = replace(call, room=given["room"][0])
                for name in functions_:
                    call.run(getattr(functions.lstm, name))
                    if name == "lstm_states":
                        given["states"][0][:, :units] = slope
                assert_same_bits(tuple(given[name][0] for name in names[: len(expected)]), tuple(expected))
                assert all(untouched_around(around) for _, around in given.values())
        for tensor, before in zip(compiled.kept[1].values(), kept, strict=True):
            assert torch.equal(tensor, before)


def test_an_output_layer_too_large_for_copies_gives_the_same_bits(
    functions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a room for its blocks that is too small, or that two threads share."""
    for units, words in ((19, 70), (64, 1100)):
        example = Example.draw(units, words, 5, RAGGED, masked=True)
        z = example.codes(33)
        expected = CompiledLSTM.of(example.conditioned(), functions).value_and_grad(z)
        monkeypatch.setattr(compiled_layer, "MOST_PACKED", 0)
        compiled = CompiledLSTM.of(example.conditioned(), functions)
        monkeypatch.undo()
        for threads in (1, 3):
            with computing_with(threads):
                assert_same_bits(compiled.value_and_grad(z), expected)
                assert_same_bits((compiled.value(z),), expected[:1])
