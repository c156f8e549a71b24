"""Where the time of one gradient goes: in the compiled call, and in the route by PyTorch's operations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.contestants.ours import Ours, build_decoder
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Row
from benchmarks.sizes import SIZES, Size
from benchmarks.timing import CLOCKS, Effort, Spread, Timer, interleaved, ratio, timed
from sri_pyro.models.decoders import compiled_layer, compiled_lstm
from sri_pyro.models.decoders.cells import PLAIN, Cells, plain_cells
from sri_pyro.models.decoders.fast_lstm import ConditionedLSTM
from sri_pyro.models.decoders.vocabulary import vocabulary_attention

EFFORT = Effort(40, 15)
COMPILED = "compiled"
OPERATIONS = "operations"
WORDS = {
    (COMPILED, "forward"): "compiled: recurrence forward, products and cells",
    (COMPILED, "softmax"): "compiled: logits, softmax and mean output weights",
    (COMPILED, "reverse"): "compiled: recurrence in reverse",
    (COMPILED, "left"): "compiled: what is left",
    (OPERATIONS, "products"): "PyTorch's operations: products of the recurrence",
    (OPERATIONS, "softmax"): "PyTorch's operations: softmax, forward and reverse in one kernel",
    (OPERATIONS, "cells"): "PyTorch's operations: cells",
    (OPERATIONS, "left"): "PyTorch's operations: what is left",
}


def compiled_timers(conditioned: ConditionedLSTM, z: torch.Tensor) -> Iterator[tuple[str, Timer]]:
    """The compiled gradient and its parts, where it can be had."""
    functions, layer_functions = compiled_lstm.compiled(), compiled_layer.compiled()
    if functions is None or layer_functions is None:
        return
    whole = compiled_lstm.CompiledLSTM.of(conditioned, functions)
    layer = compiled_layer.CompiledLayer.of(
        conditioned.output_weight_VH, conditioned.output_bias_V, layer_functions
    )
    states, clock = whole.states(z)[0].clone(), CLOCKS["cpu"]

    def reverse() -> float:
        _, gradient = whole.states(z)  # it writes over what it needs
        start = clock()
        gradient(states)
        return clock() - start

    yield "gradient", timed(lambda: whole.value_and_grad(z))
    yield "forward", timed(lambda: whole.states(z))
    yield "softmax", timed(lambda: layer.attention(states))
    yield "reverse", reverse


def operations_timers(conditioned: ConditionedLSTM, z: torch.Tensor, size: Size) -> dict[str, Timer]:
    """The gradient by PyTorch's operations, and its parts on numbers of the same sizes."""
    B, H, T = size.batch, size.hidden, size.length
    states, state, recurrent = torch.randn(B * T, H) / 4, torch.randn(B, H), torch.randn(H, 4 * H)
    into, gates, back = recurrent.T.contiguous(), torch.empty(B, 4 * H), torch.empty(B, H)

    def gradient() -> None:
        with plain_cells():
            conditioned.by_operations(z)

    def products() -> None:
        for _ in range(T):
            torch.mm(state, recurrent, out=gates)
            torch.mm(gates, into, out=back)

    def softmax() -> None:
        vocabulary_attention(states, conditioned.output_weight_VH, conditioned.output_bias_V)

    return {
        "gradient": timed(gradient),
        "products": timed(products),
        "softmax": timed(softmax),
        "cells": cells_timer(PLAIN, size),
    }


def cells_timer(cells: Cells, size: Size) -> Timer:
    """Every cell of a batch once forward and once in reverse."""
    B, H, clock = size.batch, size.hidden, CLOCKS["cpu"]
    fresh = [torch.randn(B, 4 * H) for _ in range(size.length)]
    gates = [torch.empty_like(each) for each in fresh]
    token, code, before = torch.randn(B, 4 * H), torch.randn(B, 4 * H), torch.randn(B, H)
    cell, squashed, hidden, later = (torch.zeros(B, H) for _ in range(4))
    slope, total = torch.randn(B, H) / 8, torch.zeros(B, 4 * H)
    carried = torch.zeros(B, H)

    def run() -> float:
        for place, each in zip(gates, fresh, strict=True):  # cells write over them
            place.copy_(each)
        carried.zero_()
        start = clock()
        for each in gates:
            cells.forward(each, token, code, before, cell, squashed, hidden)
        for each in gates:
            cells.reverse(each, before, squashed, slope, later, carried, total)
        return clock() - start

    return run


def measure(size: Size, run: Run) -> list[Row]:
    """Shares of each whole, in per cent."""
    contestant = Ours(Problem.build(size))
    conditioned = ConditionedLSTM.build(build_decoder(contestant.problem), contestant.batch)
    routes = {
        COMPILED: dict(compiled_timers(conditioned, contestant.z)),
        OPERATIONS: operations_timers(conditioned, contestant.z, size),
    }
    timers = {f"{route}/{part}": timer for route, parts in routes.items() for part, timer in parts.items()}
    seconds = interleaved(timers, run.effort(*EFFORT), run.watch)
    return [
        row for route, parts in routes.items() if parts for row in _shares(size, route, list(parts), seconds)
    ]


def _shares(size: Size, route: str, names: list[str], seconds: dict[str, list[float]]) -> Iterator[Row]:
    whole = seconds[f"{route}/gradient"]
    parts = [name for name in names if name != "gradient"]
    for part in parts:
        share = ratio(seconds[f"{route}/{part}"], whole).scaled(100)
        yield Row(f"parts/{size.name}/{route}_{part}", WORDS[route, part], share, "%")
    known = zip(*(seconds[f"{route}/{part}"] for part in parts), strict=True)
    left = [100 * (1 - sum(some) / all_of_it) for some, all_of_it in zip(known, whole, strict=True)]
    yield Row(f"parts/{size.name}/{route}_left", WORDS[route, "left"], Spread.of(left), "%")


MEASUREMENTS = [
    Measurement(
        f"parts/{name}", f"Where the time of a gradient goes, size {name}", partial(measure, SIZES[name])
    )
    for name in ("S", "M")
]
