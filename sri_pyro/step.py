"""One weight step: infer z for a batch, learn from it, on one process or on several that share the batch."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from sri_pyro.loop import Loop
from sri_pyro.numerics.keyed import Purpose, fold, seeded
from sri_pyro.processes import Group, sum_gradients
from sri_pyro.target import Objective, Target, frozen
from sri_pyro.types import Batch, Heard, InferenceDropout, Progress

log = logging.getLogger(__name__)

MOST_SKIPPED_STEPS = 20

Learner = Literal["both", "inference", "model"]
"""Whose weights an update moves."""


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


@dataclass(frozen=True)
class Updated:
    """What became of an update of weights.

    Attributes:
        loss: Before it, nats per sentence of its batch.
        norm: Of the gradient of the weights that it was to move, before clipping.
        numbers: What an update rule has to say of itself in the records of training, by name.
    """

    loss: float
    norm: float
    numbers: Mapping[str, float] = field(default_factory=dict)


class UpdateRule(nn.Module, ABC):
    """How the weights of model and inference are moved in a weight step: together, or one ahead of the other.

    What it must remember are buffers, which are saved with the weights and restored with them. It is not taken back
    when a decay goes back to the best weights.
    """

    @abstractmethod
    def forward(self, step: Step) -> Updated:
        """Take a weight step: as many updates as it likes, at least one; what is told of the step is the last one's."""

    @abstractmethod
    def hear(self, scores: Mapping[str, float]) -> str:
        """Take in a validation; what is to be recorded as an event, or nothing."""


@dataclass
class Step:
    """A weight step under way, as an update rule sees it.

    Attributes:
        batch: The sentences whose turn it is, on their device, with the step's key.
        progress: Where training stands; the same for all updates of the step.
        stop: Whether a process is to stop after it.
    """

    batch: Batch
    progress: Progress
    _loop: Loop = field(repr=False)
    _objective: Objective = field(repr=False)
    _epoch: Sequence[Batch] = field(repr=False)
    _should_stop: Callable[[], bool] = field(repr=False)
    stop: bool = False

    @property
    def key(self) -> int:
        """Of the step's noise; an update beside the last one needs a key of its own below it."""
        assert self.batch.key is not None
        return self.batch.key

    @property
    def inference_learns(self) -> bool:
        """Whether the inference has weights to be moved."""
        return any(weight.requires_grad for weight in self._loop.inference.parameters())

    def drawn(self, key: int) -> Batch:
        """A batch of the epoch, each equally likely, as the key says; it bears the key."""
        number = fold(key, Purpose.BATCH) % len(self._epoch)
        return self._epoch[number].to(self.batch.tokens.device).keyed(key)

    def update(self, batch: Batch, learner: Learner = "both") -> Updated:
        """Infer z of a batch and take one optimiser step on the objective.

        Args:
            batch: With a key.
            learner: Whose weights are moved. Of the others no gradient is computed, and what the optimiser knows of
                them stays as it is. Weights that inference and model share are the model's.
        """
        loop = self._loop
        # A fork, from which whatever is not keyed draws: others on each process, and as much as it likes.
        with seeded(fold(cast("int", batch.key), Purpose.GENERATOR, loop.group.rank), batch.tokens.device):
            loss, stop = _learn(loop, self._objective, batch, self.progress, self._should_stop, learner)
        self._should_stop = never  # each process is asked once a step
        self.stop = self.stop or stop
        norm = nn.utils.clip_grad_norm_(loop.parameters, loop.options.clip_norm or math.inf)
        _update(loop, loss, norm)
        return Updated(loss, float(norm))


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
    step = Step(batch, progress, loop, objective, epoch, should_stop if several else never)
    updated = loop.update(step)
    course.step += 1
    course.batch += 1
    record: dict[str, float | str] = {}
    for number, hook in enumerate(hooks):
        own = fold(key, Purpose.HOOK, number)
        with seeded(own, device):
            record |= hook(cast("TextModel", loop.model).target, batch.keyed(own), loop.progress(len(epoch)))
    if record or course.step % options.log_every == 0:
        loop.history.add(
            "step", step=course.step, epoch=progress.epoch, loss=updated.loss, gradient_norm=updated.norm,
            learning_rate=loop.optimizer.param_groups[0]["lr"], **updated.numbers, **record,
        )  # fmt: skip
    return step.stop if several else should_stop()


def _learn(
    loop: Loop,
    objective: Objective,
    batch: Batch,
    progress: Progress,
    should_stop: Callable[[], bool],
    learner: Learner,
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
    constant = loop.model if learner == "inference" else None
    everything = nn.ModuleList([loop.model, loop.inference])
    # For the model alone nothing is learned of the draws, which are then without a graph, law and all.
    with frozen(everything if learner == "model" else constant):
        draws = loop.inference(target, loop.options.num_samples, progress)
    loop.optimizer.zero_grad(set_to_none=True)
    with frozen(constant):
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
