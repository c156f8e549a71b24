"""One weight step: infer z for a batch, learn from it, on one process or on several that share the batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from sri_pyro.loop import Loop
from sri_pyro.numerics.keyed import Purpose, fold, seeded
from sri_pyro.processes import Group, sum_gradients
from sri_pyro.target import Objective, Target
from sri_pyro.types import Batch, Heard, InferenceDropout, Progress

log = logging.getLogger(__name__)

MOST_SKIPPED_STEPS = 20


class TextModel(Protocol):
    """What ``fit`` needs of a model, besides being a module."""

    def target(self, batch: Batch, inference_dropout: InferenceDropout = "off") -> Target:
        """The log joint of a batch."""
        ...


class StepHook(Protocol):
    """Something done after a weight step, such as tuning a step size; returns what to log."""

    def __call__(
        self, make_target: Callable[[Batch], Target], batch: Batch, progress: Progress
    ) -> Mapping[str, float]:
        """Act, or not, at this moment of training."""
        ...


def never() -> bool:
    """No."""
    return False


def take_step(
    loop: Loop,
    objective: Objective,
    epoch: Sequence[Batch],
    hooks: Sequence[StepHook],
    should_stop: Callable[[], bool],
) -> bool:
    """One batch: infer, learn, call the hooks, write a record; whether training is to stop."""
    course, options, several = loop.course, loop.options, loop.group.size > 1
    device = next(loop.model.parameters()).device
    key = int(torch.randint(2**63 - 1, (), device="cpu"))
    batch = epoch[course.batch].to(device).keyed(key)
    progress = loop.progress(len(epoch))
    rate = options.scheduled_rate(progress.epoch)
    for parameters in loop.optimizer.param_groups:
        parameters["lr"] = rate if rate is not None else parameters["lr"]
    # A fork, from which whatever is not keyed draws: others on each process, and as much as it likes.
    with seeded(fold(key, Purpose.GENERATOR, loop.group.rank), device):
        loss, stop = _learn(loop, objective, batch, progress, should_stop if several else never)
    norm = nn.utils.clip_grad_norm_(loop.parameters, options.clip_norm or math.inf)
    _update(loop, loss, norm)
    course.step += 1
    course.batch += 1
    record: dict[str, float | str] = {}
    for number, hook in enumerate(hooks):
        own = fold(key, Purpose.HOOK, number)
        with seeded(own, device):
            record |= hook(cast("TextModel", loop.model).target, batch.keyed(own), loop.progress(len(epoch)))
    if record or course.step % options.log_every == 0:
        loop.history.add(
            "step", step=course.step, epoch=progress.epoch, loss=loss, gradient_norm=float(norm),
            learning_rate=loop.optimizer.param_groups[0]["lr"], **record,
        )  # fmt: skip
    return stop if several else should_stop()


def _learn(
    loop: Loop, objective: Objective, batch: Batch, progress: Progress, should_stop: Callable[[], bool]
) -> tuple[float, bool]:
    """Leave the gradient of the batch's loss in the weights; the loss, and whether a process is to stop."""
    rows, weight = _part(batch, loop.group)
    part = batch if rows is None else batch.select(rows)
    tally: list[tuple[Tensor, Heard]] = []
    progress = replace(progress, share=len(part) / len(batch), rows=rows, tally=tally)
    loop.model.train()
    loop.inference.train()
    make_target = cast("TextModel", loop.model).target  # a Protocol cannot ask for a module
    target = make_target(part, loop.options.inference_dropout)
    draws = loop.inference(target, loop.options.num_samples, progress)
    loop.optimizer.zero_grad(set_to_none=True)
    loss = weight * objective(target, draws, progress)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch does not type it
    here = float(weight > 0)
    counts = [here * numbers.double().cpu() for numbers, _ in tally]
    said = torch.tensor([float(loss.detach()), float(should_stop())], dtype=torch.float64)
    sums = sum_gradients(loop.group, loop.parameters, torch.cat([said, *counts]))
    total, stopping, *sums_of_counts = torch.split(sums, [1, 1, *map(len, counts)])
    for (_, heard), numbers in zip(tally, sums_of_counts, strict=True):
        heard(numbers)
    return float(total), bool(stopping)


def _part(batch: Batch, group: Group) -> tuple[Tensor | None, float]:
    """Which sentences of a batch are this process's, None for all; and the weight of their mean in the loss of all.

    Of N processes each has every N-th one, for neighbours are of like length. Where there are fewer sentences than
    processes, one that has none takes the first, at no weight: it takes part in everything, and changes nothing.
    """
    if group.size == 1:
        return None, 1.0
    rows = torch.arange(group.rank, len(batch), group.size, device=batch.ids.device)
    if not len(rows):
        return rows.new_zeros(1), 0.0
    return rows, len(rows) / len(batch)


def _update(loop: Loop, loss: float, norm: Tensor) -> None:
    """Move the weights, unless that would put a value into them that is not finite."""
    course = loop.course
    if math.isfinite(loss) and bool(norm.isfinite()):
        loop.optimizer.step()
        for weight in loop.parameters:  # the fused Adam of the CPU counts no versions
            torch.autograd.graph.increment_version(weight)
        course.skipped = 0
        return
    course.skipped += 1
    loop.history.add(
        "event",
        step=course.step,
        message=f"step skipped: loss {loss}, gradient norm {float(norm)}",
    )
    log.warning("step %d skipped: loss %s, gradient norm %s.", course.step, loss, float(norm))
    if course.skipped >= MOST_SKIPPED_STEPS:
        raise FloatingPointError(
            f"the loss or its gradient was not finite for {course.skipped} weight steps in a row; lower "
            "learning_rate or clip_norm. The weights are those before the first of these steps."
        )
