"""What the compiled LSTM refuses, what memory it takes, and whether it is used.

Wrong programs that these catch: one that reads beyond its codes, keeps memory for every draw, trusts a compiler
blindly, or is used where it is not wanted; and tests of it that quietly test PyTorch's operations.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from torch import Tensor

import benchmarks
from benchmarks import fresh
from benchmarks.fresh import MEBIBYTE, in_fresh_process
from benchmarks.measurements import memory
from sri_pyro import compiling
from sri_pyro.models.decoders import compiled_curvature, compiled_layer, compiled_lstm
from sri_pyro.models.decoders.cells import plain_cells
from sri_pyro.models.decoders.compiled_lstm import Call
from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM
from sri_pyro.models.decoders.frozen_tail import FrozenTailLikelihood, TailOptions
from sri_pyro.types import EOS, PAD, Batch
from tests.conditioned import RAGGED, WIRINGS, Example, error
from tests.oracles import sentence
from tests.textbook import small_lstm

pytestmark = pytest.mark.usefixtures("one_thread")
NEEDS_IT = pytest.mark.skipif(compiled_lstm.compiled() is None, reason="it cannot be compiled here")


@NEEDS_IT
def test_codes_of_another_shape_and_changed_weights_are_refused() -> None:
    """A C function would read whatever lies behind. Nor may it serve weights that it has laid out before they moved."""
    decoder = small_lstm().float()
    route = decoder.condition(Batch(torch.tensor([[5, 6, EOS], [6, EOS, PAD]])))
    route.value(torch.randn(4, 2, 3))
    for shape in ((4, 2, 2), (4, 2, 4), (4, 3, 3), (2, 3)):
        message = f"z must have shape [draws, 2, 3], a code for every sentence of the batch; got {shape}."
        for ask in (route.value, route.value_and_grad, route.hessian):
            with pytest.raises(ValueError, match=sentence(message)):
                ask(torch.randn(shape))
    with torch.no_grad():
        decoder.cell.weight_hh_l0.mul_(2)
    changed = sentence(
        "the decoder's weights have changed since this target was made; make another with "
        "model.target(batch) after each weight step."
    )
    for ask in (route.value, route.value_and_grad):
        with pytest.raises(RuntimeError, match=changed):
            ask(torch.randn(4, 2, 3))


# The least of a few runs: other parts of the process may take memory at any time.
PEAKS = """
import json
import torch
from benchmarks.fresh import forget_peak, held_bytes, peak_bytes
from tests.conditioned import Example
torch.set_num_threads(1)
route = Example.draw(64, 1000, 4, [20, 3, 7, 12]).conditioned()
grown = {}
for draws in (100, 2000):
    z = torch.randn(draws, 4, 4)
    route.value_and_grad(z[:20])
    forget_peak()
    before = held_bytes()
    route.value_and_grad(z)
    grown[draws] = peak_bytes() - before
print(json.dumps(grown))
"""


@NEEDS_IT
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_memory_does_not_grow_with_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass by operations keeps of 2,000 draws is 43 MiB of gates alone; results are 0.2."""
    (tmp_path / "peaks.py").write_text(PEAKS)
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    root, allocator = str(Path(benchmarks.__file__).parents[1]), memory.ALLOCATOR
    grown = in_fresh_process("peaks", {}, PYTHONPATH=root, **allocator)
    assert grown["2000"] <= grown["100"] + 4 * MEBIBYTE
    grown = in_fresh_process("peaks", {}, PYTHONPATH=root, SRI_PYRO_COMPILE="0", **allocator)
    assert grown["2000"] > grown["100"] + 40 * MEBIBYTE  # positive control


# --- Whether it is used --------------------------------------------------------------------------------------


def used(route: ConditionedLSTM, z: Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the answers come from the C functions; they are right in any case."""
    calls: list[str] = []
    run = Call.run
    with monkeypatch.context() as watching:
        watching.setattr(
            Call, "run", lambda self, function: calls.append(function.__name__) or run(self, function)
        )
        found = (*route.value_and_grad(z), route.value(z), *route.value_and_grad(z, route.exact_softmax))
    expected = route.by_operations(z)
    for ours, wanted in zip(found, (*expected, expected[0], *expected), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    assert calls in ([], ["lstm_likelihood"] * 2 + ["lstm_states", "lstm_gradient"])
    return bool(calls)


def test_it_is_used_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise half of the tests here would be skipped, or compare PyTorch's operations with themselves."""
    facts = Path("/proc/cpuinfo")
    able = facts.exists() and {"avx2", "fma"} <= set(facts.read_text().split())
    wanted = which(os.environ.get("CC", "cc")) and os.environ.get("SRI_PYRO_COMPILE") != "0"
    example = Example.draw(19, 70, 3, RAGGED)
    assert used(example.conditioned(), example.codes(3), monkeypatch) == bool(able and wanted)


@NEEDS_IT
def test_plain_cells_and_double_precision_do_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    example = Example.draw(19, 70, 3, RAGGED)
    route, z = example.conditioned(), example.codes(3)
    assert used(route, z, monkeypatch)
    with plain_cells():
        assert not used(route, z, monkeypatch)
    assert used(route, z, monkeypatch)
    double = {
        name: part.double()
        for name, part in vars(route).items()
        if torch.is_tensor(part) and part.is_floating_point()
    }
    assert not used(replace(route, **double), z.double(), monkeypatch)


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("without", ["switch", "compiler", "processor"])
def test_all_goes_well_without_it(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, without a compiler, on a processor that it is not for; frozen tails and decoders included."""
    if without == "switch":
        monkeypatch.setenv("SRI_PYRO_COMPILE", "0")
    elif without == "compiler":
        monkeypatch.setattr(compiling, "_compiler", lambda: None)
    else:
        monkeypatch.setattr(
            compiling, "FLAGS", tuple(flag for flag in compiling.FLAGS if "native" not in flag)
        )
    assert compiled_lstm.compiled() is compiled_layer.compiled() is None
    example = Example.draw(19, 70, 3, RAGGED)
    route, z = example.conditioned(), example.codes(3)
    assert not used(route, z, monkeypatch)
    exact = example.value_and_grad(z)
    for way in (route, FrozenTailLikelihood.of(route, TailOptions(70, 1, 2))):
        for found, wanted in zip(way.value_and_grad(z), exact, strict=True):
            assert error(found, wanted) <= 2e-6


def spoilt(which_one: str, wiring: str) -> Callable[[Any, Any], None]:
    """A C function's caller that moves one number of its results by a thousandth of its size, or by 0.01."""
    run = Call.run

    def wrong(self: Call, function: Any) -> None:
        run(self, function)
        place = getattr(self.structure, which_one)
        of_this_wiring = WIRINGS[1 - self.structure.hidden_wiring] == wiring
        if place and of_this_wiring and function.__name__ != "lstm_states" * (which_one == "grad"):
            number = ctypes.c_float.from_address(place)
            number.value += max(0.01, 1e-3 * abs(number.value))

    return wrong


@NEEDS_IT
@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("wrong", ["value", "grad", "states"])
def test_a_wrong_function_is_not_used(
    wrong: str, wiring: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A compiler that miscompiles something that one of the wirings alone needs."""
    example = Example.draw(19, 70, 3, RAGGED)
    monkeypatch.setattr(Call, "run", spoilt(wrong, wiring))
    with caplog.at_level(logging.WARNING):
        assert compiled_lstm.compiled() is None
    assert caplog.messages == ["the compiled LSTM does not agree with PyTorch's operations and is not used."]
    assert not used(example.conditioned(), example.codes(3), monkeypatch)


@NEEDS_IT
@pytest.mark.usefixtures("compiled_anew", "float64")
def test_it_is_trusted_whatever_the_type_of_new_tensors() -> None:
    """Catches a trial on tensors of the default type, which are doubles here and no numbers to C."""
    assert compiled_lstm.compiled() is not None
    assert compiled_curvature.compiled() is not None
