"""Training: ``fit``, the one loop: draws from any inference, a weight step on any objective."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from sri_pyro.course import Training
from sri_pyro.history import History
from sri_pyro.loop import BEST, HISTORY, LAST, Loop, learned
from sri_pyro.target import Objective, Target
from sri_pyro.types import Batch, InferenceDropout, Progress

log = logging.getLogger(__name__)

MOST_SKIPPED_STEPS = 20


class TextModel(Protocol):
    """What ``fit`` needs of a model, besides being a module."""

    def target(self, batch: Batch, inference_dropout: InferenceDropout = "off") -> Target:
        """The log joint of a batch."""
        ...


class Batches(Protocol):
    """Training data: for every epoch a sequence of batches that depends on the epoch's number alone."""

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches of one pass, in order."""
        ...


class StepHook(Protocol):
    """Something done after a weight step, such as tuning a step size; returns what to log."""

    def __call__(
        self, make_target: Callable[[Batch], Target], batch: Batch, progress: Progress
    ) -> Mapping[str, float]:
        """Act, or not, at this moment of training."""
        ...


Validate = Callable[[], Mapping[str, float]]
"""Scores the model as it stands; the entry ``nll`` (nats per sentence) selects the best weights."""
Watch = Callable[[Mapping[str, float | str]], None]
"""Sees every record as it is written: steps, validations and events."""


class Stopped(Exception):  # noqa: N818  # an outcome, not an error
    """Training was asked to stop; all is saved and ``resume=True`` continues it."""


def fit(
    model: nn.Module,
    inference: nn.Module,
    objective: Objective,
    batches: Batches,
    options: Training | None = None,
    *,
    validate: Validate | None = None,
    hooks: Sequence[StepHook] = (),
    folder: Path | None = None,
    resume: bool = False,
    identity: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> History:
    r"""Train the weights of a model, and of an inference that has some; the one loop that every system goes through.

    Each step infers :math:`z` for a batch, without leaving a trace in any weight's gradient, and then takes
    one optimiser step on the objective. The best weights on validation are in the model and the inference at
    the end; the last ones are, where there is no validation or none of them gave a number.

    A run is a function of its arguments, the data, PyTorch's generator and number of threads: stopped anywhere
    (by a signal, by ``should_stop``) and resumed from its folder on the same machine, it ends with
    bit-identical weights and records. The number of threads is the caller's to restore, by
    ``torch.set_num_threads`` in both processes; ``sri_pyro.config.train`` does.

    Args:
        model: A ``LatentTextModel``, or any module with ``target(batch)``.
        inference: Draws z. Its buffers are saved with the weights, and its parameters learn with them wherever
            the objective's gradient reaches them: one optimiser, one clipped norm over all.
        objective: The learning rule.
        batches: Training data.
        options: How to train.
        validate: Scores the model; without it the last weights are kept.
        hooks: Called after every weight step.
        folder: Where checkpoints and the history go; made if it is not there. Nothing is written without one.
        resume: Continue what the folder holds. If false, the folder must not hold a run.
        identity: Digests by name of what the run is made from, such as its data and vocabulary. They are kept with
            its checkpoints, and one that was saved under others is refused.
        watch: Sees every record.
        should_stop: Asked after every weight step; if true, all is saved and ``Stopped`` is raised.

    Returns:
        The records of training, validation and events, in order.

    Raises:
        ValueError: If the options wait for validations that nobody makes, the folder holds another run, or
            there is none to resume from.
        CheckpointError: If what the folder holds cannot be resumed.
        FloatingPointError: If the loss or its gradient stays not finite for 20 steps in a row.
        Stopped: If ``should_stop`` said so.
    """
    options = options or Training()
    _check(options, validate, folder, resume)
    history = History(folder / HISTORY if folder else None, watch)
    optimizer = _optimizer(learned(model, inference), options)
    loop = Loop(model, inference, optimizer, options, history, folder, identity or {})
    if resume:
        loop.restore()
    else:
        loop.save()  # so that a folder without a checkpoint has lost one
    course = loop.course
    while not course.finished:
        epoch = batches.epoch(course.epoch)
        while course.batch < len(epoch):
            _step(loop, objective, epoch, hooks)
            if should_stop is not None and should_stop():
                loop.save()
                raise Stopped
            if course.step % options.checkpoint_every == 0:
                loop.save()
        course.epoch, course.batch = course.epoch + 1, 0
        _end_epoch(loop, validate)
        loop.save()
    if validate is not None and course.best == math.inf:
        log.warning("no validation gave a number; the weights are the last ones, not the best.")
    loop.go_back()
    return history


def _check(options: Training, validate: Validate | None, folder: Path | None, resume: bool) -> None:
    """Refuse what would otherwise do nothing, or end with the weights of another run."""
    if validate is None and options.patience:  # and no other decay that waits is without patience
        raise ValueError(
            f"patience = {options.patience} and decay = '{options.decay}' wait for validations, and there are "
            "none; give fit a validate, or set patience = 0 and a decay that does not wait."
        )
    if folder is None:
        if resume:
            raise ValueError("resume = True and no folder; name the folder of the run that is to go on.")
        return
    held = [name for name in (LAST, BEST, HISTORY) if (folder / name).exists()]
    if held and not resume:
        raise ValueError(
            f"{folder} already holds a run ({', '.join(held)}); continue it with resume = True, or name another "
            "folder."
        )
    folder.mkdir(parents=True, exist_ok=True)


def _optimizer(parameters: list[nn.Parameter], options: Training) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=options.learning_rate)
    return torch.optim.Adam(parameters, lr=options.learning_rate, fused=True)


def _step(loop: Loop, objective: Objective, epoch: Sequence[Batch], hooks: Sequence[StepHook]) -> None:
    """One batch: infer, learn, call the hooks, write a record."""
    course, options, model = loop.course, loop.options, loop.model
    device = next(model.parameters()).device
    batch = epoch[course.batch].to(device)
    progress = loop.progress(len(epoch))
    rate = options.scheduled_rate(progress.epoch)
    for group in loop.optimizer.param_groups:
        group["lr"] = rate if rate is not None else group["lr"]
    model.train()
    loop.inference.train()
    make_target = cast("TextModel", model).target  # a Protocol cannot ask for a module
    target = make_target(batch, options.inference_dropout)
    draws = loop.inference(target, options.num_samples, progress)
    loop.optimizer.zero_grad(set_to_none=True)
    loss = objective(target, draws, progress)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch does not type it
    norm = nn.utils.clip_grad_norm_(loop.parameters, options.clip_norm or math.inf)
    _update(loop, loss, norm)
    course.step += 1
    course.batch += 1
    record: dict[str, float | str] = {}
    for hook in hooks:
        record |= hook(make_target, batch, loop.progress(len(epoch)))
    if record or course.step % options.log_every == 0:
        loop.history.add(
            "step", step=course.step, epoch=progress.epoch, loss=float(loss.detach()), gradient_norm=float(norm),
            learning_rate=loop.optimizer.param_groups[0]["lr"], **record,
        )  # fmt: skip


def _update(loop: Loop, loss: Tensor, norm: Tensor) -> None:
    """Move the weights, unless that would put a value into them that is not finite."""
    course = loop.course
    if bool(loss.isfinite()) and bool(norm.isfinite()):
        loop.optimizer.step()
        for weight in loop.parameters:  # the fused Adam of the CPU counts no versions
            torch.autograd.graph.increment_version(weight)
        course.skipped = 0
        return
    course.skipped += 1
    loop.history.add(
        "event",
        step=course.step,
        message=f"step skipped: loss {float(loss.detach())}, gradient norm {float(norm)}",
    )
    log.warning("step %d skipped: loss %s, gradient norm %s.", course.step, float(loss.detach()), float(norm))
    if course.skipped >= MOST_SKIPPED_STEPS:
        raise FloatingPointError(
            f"the loss or its gradient was not finite for {course.skipped} weight steps in a row; lower "
            "learning_rate or clip_norm. The weights are those before the first of these steps."
        )


def _end_epoch(loop: Loop, validate: Validate | None) -> None:
    """Validate if it is time, keep the best weights, decay or stop."""
    course, options = loop.course, loop.options
    last = course.epoch >= options.epochs
    if validate is not None and (course.epoch % options.validate_every == 0 or last):
        loop.model.eval()
        loop.inference.eval()
        scores = dict(validate())
        loop.history.add("validation", step=course.step, epoch=float(course.epoch), **scores)
        course.validated = course.epoch
        if course.hear(scores["nll"]):
            loop.keep_best(scores)
        _react(loop)
    course.finished = course.finished or last


def _react(loop: Loop) -> None:
    """Decay the learning rate or stop early, once validation has waited long enough."""
    course, options = loop.course, loop.options
    turn = course.turn(options)
    if turn == "on":
        return
    if turn == "stop":
        course.finished = True
        loop.history.add("event", step=course.step, message="stopped early: validation no longer improves")
        return
    course.decays += 1
    course.waited = 0
    if options.decay == "plateau":
        loop.go_back()
        loop.optimizer.state.clear()  # He et al. build a new optimiser at each decay
    for group in loop.optimizer.param_groups:
        group["lr"] *= options.decay_factor
    loop.history.add("event", step=course.step, message=f"learning rate decayed to {group['lr']:.3g}")
