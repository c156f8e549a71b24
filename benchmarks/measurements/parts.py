"""Where the time of one gradient goes: the softmax, the products of the recurrence, the cells, and what is left."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.contestants.ours import Ours
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Row
from benchmarks.sizes import SIZES, Size
from benchmarks.timing import CLOCKS, Effort, Spread, Timer, interleaved, ratio, timed
from sri_pyro.models.decoders.cells import PLAIN, Cells, cells_for
from sri_pyro.models.decoders.vocabulary import vocabulary_attention

EFFORT = Effort(60, 20)
WORDS = {
    "softmax": "the softmax, forward and reverse in one kernel",
    "products": "products of the recurrence",
    "cells": "compiled cells",
    "plain_cells": "cells by PyTorch's operations, of the time with compiled ones",
}


def timers(size: Size) -> dict[str, Timer]:
    """A whole gradient, and its parts on numbers of the same sizes."""
    conditioned = (contestant := Ours(Problem.build(size))).target.conditioned
    B, H, T = size.batch, size.hidden, size.length
    states, weight, bias = (
        torch.randn(B * T, H) / 4,
        torch.randn(size.vocabulary, H) / 4,
        torch.zeros(size.vocabulary),
    )
    state, recurrent, gates = torch.randn(B, H), torch.randn(H, 4 * H), torch.empty(B, 4 * H)
    into, back = recurrent.T.contiguous(), torch.empty(B, H)

    def products() -> None:
        for _ in range(T):
            torch.mm(state, recurrent, out=gates)
            torch.mm(gates, into, out=back)

    return {
        "gradient": timed(lambda: conditioned.value_and_grad(contestant.z)),
        "softmax": timed(lambda: vocabulary_attention(states, weight, bias)),
        "products": timed(products),
        "cells": cells_timer(cells_for(state), size),
        "plain_cells": cells_timer(PLAIN, size),
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
    """Shares of the whole, in per cent."""
    seconds = interleaved(timers(size), run.effort(*EFFORT), run.watch)
    shares = {name: ratio(seconds[name], seconds["gradient"]).scaled(100) for name in WORDS}
    rows = [Row(f"parts/{size.name}/{name}", words, shares[name], "%") for name, words in WORDS.items()]
    known = [seconds[name] for name in ("softmax", "products", "cells")]
    left = [100 * (1 - sum(parts) / whole) for *parts, whole in zip(*known, seconds["gradient"], strict=True)]
    return [*rows, Row(f"parts/{size.name}/left", "what is left", Spread.of(left), "%")]


MEASUREMENTS = [
    Measurement(
        f"parts/{name}", f"Where the time of a gradient goes, size {name}", partial(measure, SIZES[name])
    )
    for name in ("S", "M")
]
