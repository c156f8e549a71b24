"""Cost: how long a run is expected to take, from a few real steps."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import nn

from sri_pyro.config.build import Parts
from sri_pyro.config.pretraining import autoencoder
from sri_pyro.config.threads import computing_with
from sri_pyro.config.validation import validator
from sri_pyro.course import Training
from sri_pyro.models import LatentTextModel
from sri_pyro.processes import ALONE, Group
from sri_pyro.step import UpdateRule
from sri_pyro.training import Stopped, fit
from sri_pyro.types import Batch
from sri_pyro.wording import counted

BUDGET = 2.0
"""Seconds that steps are rehearsed for; a step that has begun is finished, and two are taken at least."""
MOST_STEPS = 40
CLEARLY = 1.3
"""Times faster that one thread has to be, to be worth a word."""


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take, from a few real steps.

    Attributes:
        epoch: Seconds of an epoch.
        validation: Seconds of a validation.
        epochs: Epochs at most.
        validations: Validations at most.
        sentences: Training sentences.
        parameters: Weights of the model.
        pretraining_epochs: Epochs before, at most; they and their validations take as long as the others.
        pretraining_validations: Validations of those, at most.
        epoch_at_first: Seconds of an epoch in which an update rule makes further updates, where there is one that may;
            how many are like that is not known, and ``total`` holds none.
        one_thread: Times faster that one thread takes the same steps; 1 if there is only one, or a GPU.
    """

    epoch: float
    validation: float
    epochs: int
    validations: int
    sentences: int
    parameters: int
    one_thread: float = 1.0
    pretraining_epochs: int = 0
    pretraining_validations: int = 0
    epoch_at_first: float | None = None

    @property
    def total(self) -> float:
        """Seconds of the whole run, if it does not stop early."""
        epochs = self.epochs + self.pretraining_epochs
        validations = self.validations + self.pretraining_validations
        return self.epoch * epochs + self.validation * validations

    @property
    def advice(self) -> str | None:
        """What would make the run faster, if anything is known to."""
        if self.one_thread <= CLEARLY:
            return None
        return f"one thread is {self.one_thread:.1f} times faster here: set OMP_NUM_THREADS=1"

    @property
    def lines(self) -> tuple[str, ...]:
        """In words, as two lines or more that fit a terminal of 80 columns."""
        before = self.pretraining_epochs > 0
        epochs, validations = counted(self.epochs, "epoch"), counted(self.validations, "validation")
        if before:
            epochs = f"{self.pretraining_epochs} + {epochs}"
            validations = f"{self.pretraining_validations} + {validations}"
        found = [
            f"about {duration(self.total)}: {epochs} of {duration(self.epoch)} on "
            f"{counted(self.sentences, 'sentence')},",
            f"{validations} of {duration(self.validation)}; {counted(self.parameters, 'weight')}",
        ]
        if before:
            first = counted(self.pretraining_epochs, "epoch")
            found.append(
                f"the first {first} {'is' if self.pretraining_epochs == 1 else 'are'} the pretraining"
            )
        if self.epoch_at_first is not None:
            found.append(
                f"and more at first: epochs of {duration(self.epoch_at_first)}, until a validation ends that"
            )
        return tuple(found)

    def __str__(self) -> str:
        return " ".join(self.lines)


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(0.4), duration(75), duration(5000)
        ('0.4 s', '75 s', '83 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def rehearse(parts: Parts, group: Group = ALONE) -> Cost:
    """Take a few steps and a piece of a validation on copies, and say what the whole will cost.

    The steps of the first epoch are timed one by one, and the median of their seconds per token stands for
    all: a step during which another process held the core does not count for more than one. It is wall time
    all the same, on the machine as it is loaded now: where others compute throughout, so do they in the
    estimate, and a machine that becomes free or busy later makes it wrong. What a tuner of the step size
    adds every few hundred steps is not in it, nor are checkpoints.

    Where several threads compute, the same steps are taken with one as well, for a small model may lose by
    more. The number of threads is then what it was, and the run computes with that.

    An update rule's further updates are timed apart, since nobody knows how long it makes them.

    Several processes rehearse together, and all call this.
    """
    device = next(parts.model.parameters()).device
    epoch = parts.batches.epoch(0)
    few = [epoch[i] for i in range(min(len(epoch), MOST_STEPS + 1))]
    batch = parts.validation[0]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        at_first = None
        if parts.training.update is not None:
            *_, clock = _stepped(parts, few, device, group, parts.training.update)
            at_first = per_token(clock.steps, [_tokens(b) for b in few]) * parts.batches.split.num_tokens
        if parts.pretraining is not None:  # what cannot work is to fail here
            _stepped(replace(parts, objective=autoencoder()), few[:1], device, group)
        model, inference, clock = _stepped(parts, few, device, group)
        steps = clock.steps
        validate = validator(model, inference, [batch], parts.validation_options)
        model.eval()
        clock.lap()
        validate()
        clock.lap()
    epochs, before = parts.training.epochs, parts.pretraining
    batches = len(parts.validation)
    at_once = batches / -(-batches // group.size)  # batches of a validation; each is scored by one process
    return Cost(
        epoch=per_token(steps, [_tokens(b) for b in few]) * parts.batches.split.num_tokens,
        validation=clock.steps[-1] / _tokens(batch) * sum(map(_tokens, parts.validation)) / at_once,
        epochs=epochs,
        validations=-(-epochs // parts.training.validate_every),
        sentences=len(parts.batches.split),
        parameters=sum(p.numel() for p in model.parameters()),
        one_thread=_gain_of_one_thread(parts, few, steps, device, group),
        pretraining_epochs=before.epochs if before else 0,
        pretraining_validations=-(-before.epochs // before.validate_every) if before else 0,
        epoch_at_first=at_first,
    )


def _stepped(
    parts: Parts,
    few: Sequence[Batch],
    device: torch.device,
    group: Group,
    update: UpdateRule | None = None,
) -> tuple[LatentTextModel, nn.Module, _Clock]:
    """Copies that were trained for a few steps, and the clock that timed each."""
    model, inference, rule = copy.deepcopy((parts.model, parts.inference, update))
    once = replace(parts.training, epochs=1, patience=0, decay="none")
    plain = Training(**{name: getattr(once, name) for name in Training.__dataclass_fields__})
    clock = _Clock(device)
    with suppress(Stopped):
        fit(
            model, inference, parts.objective, Fixed(few), plain,
            update=rule, should_stop=clock, group=group,
        )  # fmt: skip
    return model, inference, clock


def _gain_of_one_thread(
    parts: Parts, few: Sequence[Batch], seconds: Sequence[float], device: torch.device, group: Group
) -> float:
    """Times faster that one thread takes the steps which several took in so many seconds, with the same noise."""
    if torch.get_num_threads() == 1 or device.type == "cuda":
        return 1.0
    few = few[: len(seconds)]
    with computing_with(1), torch.random.fork_rng(devices=[]):
        *_, clock = _stepped(parts, few, device, group)
    tokens = [_tokens(batch) for batch in few[: len(clock.steps)]]
    return per_token(seconds[: len(tokens)], tokens) / per_token(clock.steps, tokens)


def per_token(seconds: Sequence[float], tokens: Sequence[int]) -> float:
    """Median seconds per token over steps; the first step pays for allocations that no other pays for.

    Example:
        >>> per_token([9.0, 0.4, 0.2, 7.5, 0.4], [2, 4, 2, 3, 4])  # the fourth one had to wait for the core
        0.1
    """
    rates = [second / count for second, count in zip(seconds, tokens, strict=False)]
    return statistics.median(rates[1:] or rates)


def _tokens(batch: Batch) -> int:
    return int(batch.lengths.sum())


class _Clock:
    """Times what lies between its calls; asked after every weight step, it stops when enough are known."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps = [time.perf_counter()]

    @property
    def steps(self) -> list[float]:
        """Seconds of every lap so far."""
        return [after - before for before, after in zip(self._laps, self._laps[1:], strict=False)]

    def lap(self) -> None:
        """End a lap, and begin the next."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._laps.append(time.perf_counter())

    def __call__(self) -> bool:
        self.lap()
        return len(self._laps) > 2 and self._laps[-1] - self._laps[0] > BUDGET


@dataclass(frozen=True)
class Fixed:
    """The same batches in every epoch.

    Attributes:
        batches: In order.
    """

    batches: Sequence[Batch]

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches."""
        return self.batches
