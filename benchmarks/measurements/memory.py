"""How much memory an inner step takes on top of model and batch, in processes that have done nothing else."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.fresh import MEBIBYTE, forget_peak, held_bytes, in_fresh_process, peak_bytes
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Bar, Row, single
from benchmarks.sizes import Size

SIZE = Size("wide vocabulary", vocabulary=60_000, embedding=256, hidden=256, batch=64, length=25)
BAR = Bar(40.0, "less")
WORDS = {"ours": "the library", "autograd": "autograd loop"}
# So that what is freed goes back to the system at once, and what is taken again shows.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}


def measure(run: Run) -> list[Row]:
    """Growth of the peak during one Langevin step."""
    logits = SIZE.tokens * SIZE.vocabulary * 4 / MEBIBYTE
    rows = []
    for name, words in WORDS.items():
        run.watch(words)
        grown = grown_bytes(name)
        rows.append(
            Row(
                f"memory/{name}",
                f"growth of peak memory in an inner step, {SIZE.vocabulary:,} words, {SIZE.tokens:,} tokens, {words}",
                single(grown / MEBIBYTE),
                "MiB",
                BAR if name == "ours" else None,
                note=f"one tensor of logits takes {logits:.0f} MiB",
            )
        )
    return rows


def grown_bytes(contestant: str, **changes: int) -> int:
    """By how much the peak of a fresh process grows in one step, at ``SIZE`` with some of its numbers changed."""
    request = {"contestant": contestant, "changes": changes}
    grown: int = in_fresh_process(__name__, request, **ALLOCATOR)["grown"]
    return grown


def main(request: dict[str, Any]) -> dict[str, Any]:
    """In the fresh process: bytes by which the peak grew."""
    import torch

    from benchmarks.contestants.autograd_loop import AutogradLoop
    from benchmarks.contestants.ours import Ours

    torch.set_num_threads(1)
    build = {"ours": Ours, "autograd": AutogradLoop}[request["contestant"]]
    # What is loaded or compiled on first use is none of the step's memory.
    warm: Contestant = build(Problem.build(replace(SIZE, vocabulary=100, batch=2, length=3)))
    warm.walk(2)
    contestant: Contestant = build(Problem.build(replace(SIZE, **request["changes"])))
    forget_peak()
    before = held_bytes()
    contestant.walk(1)
    return {"grown": peak_bytes() - before}


MEASUREMENTS = [Measurement("memory", "Memory", measure)]

if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
