"""The same contests on a GPU, by the clock on the wall, and how much of its memory an inner step takes.

Both precisions are those that PyTorch has by default: products of the library are in full single precision, and so are
those of the others outside of ``nn.LSTM``, which cuDNN computes with TF32.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.contestants import Contestant
from benchmarks.contestants.autograd_loop import AutogradLoop
from benchmarks.contestants.ours import Ours
from benchmarks.fresh import MEBIBYTE
from benchmarks.measurements import accuracy, langevin, memory
from benchmarks.measurements.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.rows import Row, single
from benchmarks.sizes import SIZES

DEVICE = "cuda"


def grown(run: Run) -> list[Row]:
    """Growth of the allocator's peak during one Langevin step."""
    rows = []
    for name, build in {"ours": Ours, "autograd": AutogradLoop}.items():
        run.watch(memory.WORDS[name])
        contestant: Contestant = build(Problem.build(memory.SIZE, device=DEVICE))
        contestant.walk(1)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contestant.walk(1)
        rows.append(
            Row(
                f"cuda/memory/{name}",
                f"growth of peak memory in an inner step, {memory.SIZE.vocabulary:,} words, {memory.SIZE.tokens:,} "
                f"tokens, {memory.WORDS[name]}",
                single((torch.cuda.max_memory_allocated() - before) / MEBIBYTE),
                "MiB",
                memory.BAR if name == "ours" else None,
            )
        )
    return rows


MEASUREMENTS = [
    *(
        Measurement(
            f"cuda/{kind}/{name}",
            f"{words} on a GPU, size {name}",
            partial(langevin.measure, kind, size, device=DEVICE),
            slow=True,
        )
        for kind, words in langevin.TITLES.items()
        for name, size in SIZES.items()
    ),
    *(
        Measurement(
            f"cuda/gradient_error/{name}",
            f"Gradient error on a GPU, size {name}",
            partial(accuracy.gradient_errors, size, device=DEVICE),
            slow=True,
        )
        for name, size in SIZES.items()
    ),
    Measurement("cuda/memory", "Memory on a GPU", grown, slow=True),
]
