"""Training: ``fit``, the one loop: draws from any inference, a weight step on any objective."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from sri_pyro.course import Training, blown_up
from sri_pyro.history import History
from sri_pyro.loop import BEST, HISTORY, LAST, Loop, learned
from sri_pyro.processes import ALONE, Group
from sri_pyro.step import StepHook, UpdateRule, never, take_step
from sri_pyro.target import Objective
from sri_pyro.types import Batch
from sri_pyro.updates import Joint


class Batches(Protocol):
    """Training data: for every epoch a sequence of batches that depends on the epoch's number alone."""

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches of one pass, in order."""
        ...


Validate = Callable[[], Mapping[str, float]]
"""Scores the model as it stands; the entry that the options select, by default ``nll`` (nats per sentence), decides
which weights are the best."""
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
    update: UpdateRule | None = None,
    validate: Validate | None = None,
    hooks: Sequence[StepHook] = (),
    folder: Path | None = None,
    resume: bool = False,
    identity: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    should_stop: Callable[[], bool] | None = None,
    group: Group = ALONE,
) -> History:
    r"""Train the weights of a model, and of an inference that has some; the one loop that every system goes through.

    Each step infers :math:`z` for a batch, without leaving a trace in any weight's gradient, and then takes
    one optimiser step on the objective. The best weights on validation are in the model and the inference at
    the end; the last ones are, where there is no validation. An update rule may make a weight step of several such
    optimiser steps.

    A run is a function of its arguments, the data, PyTorch's generator and number of threads: stopped anywhere
    (by a signal, by ``should_stop``) and resumed from its folder on the same machine, it ends with
    bit-identical weights and records. The number of threads is the caller's to restore, by
    ``torch.set_num_threads`` in both processes; ``sri_pyro.config.train`` does.

    Every weight step takes one number from PyTorch's generator, the key of its noise. What is drawn for a sentence,
    by the parts of this library, is a function of that key and of the sentence's id. N processes, all called with the
    same arguments, therefore draw for a batch what one would: each has every N-th of its sentences, and their
    gradients, losses and counts meet in one all-reduce. The weights agree with those of one process to rounding, since
    sums are taken in another order.

    Args:
        model: A ``LatentTextModel``, or any module with ``target(batch)``.
        inference: Draws z. Its buffers are saved with the weights, and its parameters learn with them wherever
            the objective's gradient reaches them: one optimiser, one clipped norm over all.
        objective: The learning rule.
        batches: Training data.
        options: How to train.
        update: How a weight step moves the weights of model and inference; ``Joint`` by default. Its state is
            changed, saved and restored with theirs.
        validate: Scores the model; without it the last weights are kept.
        hooks: Called after every weight step.
        folder: Where checkpoints and the history go; made if it is not there. Nothing is written without one.
        resume: Continue what the folder holds. If false, the folder must not hold a run.
        identity: Digests by name of what the run is made from, such as its data and vocabulary. They are kept with
            its checkpoints, and one that was saved under others is refused.
        watch: Sees every record.
        should_stop: Asked after every weight step; if true, all is saved and ``Stopped`` is raised. Of several
            processes each is asked before their sums, and all stop after the step if one of them is to.
        group: The processes that train together, see ``sri_pyro.processes.joined``; the first one writes, into a
            folder that all of them can read, and its validation counts.

    Returns:
        The records of training, validation and events, in order.

    Raises:
        ValueError: If the options wait for validations that nobody makes, the folder holds another run, there is
            none to resume from, or the processes do not have the same weights and generator.
        ProcessLostError: If another process is not there any more.
        CheckpointError: If what the folder holds cannot be resumed.
        FloatingPointError: If the loss or its gradient stays not finite for 20 steps in a row; if a validation says
            that training has blown up, see ``course.blown_up``, and no decay ``plateau`` goes back from there, or if
            none before the end was sound. The best weights so far are in place then, and in the folder.
        Stopped: If ``should_stop`` said so.
    """
    options = options or Training()
    _check(options, validate, folder if group.leads else None, resume and group.leads)
    history = History(folder / HISTORY if folder and group.leads else None, watch)
    optimizer = _optimizer(learned(model, inference), options)
    loop = Loop(
        model, inference, update or Joint(), optimizer, options, history, folder, identity or {}, group
    )
    if resume:
        loop.restore()
    else:
        loop.save()  # so that a folder without a checkpoint has lost one
    loop.require_equal()
    course = loop.course
    while not course.finished:
        epoch = batches.epoch(course.epoch)
        while course.batch < len(epoch):
            if take_step(loop, objective, epoch, hooks, should_stop or never):
                loop.save()
                raise Stopped
            if course.step % options.checkpoint_every == 0:
                loop.save()
        course.epoch, course.batch = course.epoch + 1, 0
        _end_epoch(loop, validate)
        loop.save()
    if validate is not None and course.best == math.inf:
        raise _lost(loop, f"no validation gave a sound {options.select}")
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


def _end_epoch(loop: Loop, validate: Validate | None) -> None:
    """Validate if it is time, keep the best weights, decay or stop."""
    course, options = loop.course, loop.options
    last = course.epoch >= options.epochs
    if validate is not None and (course.epoch % options.validate_every == 0 or last):
        loop.model.eval()
        loop.inference.eval()
        scores = _agreed(validate(), loop.group)
        loop.history.add("validation", step=course.step, epoch=float(course.epoch), **scores)
        course.validated = course.epoch
        selected = _selected(scores, options.select)
        fault = blown_up(scores, options.select)
        if fault and options.decay != "plateau":  # which goes back to the best weights, with a lower rate
            raise _lost(loop, f"the validation after epoch {course.epoch} gave {fault}")
        if course.hear(math.inf if fault else selected):
            loop.keep_best(scores)
        if said := loop.update.hear(scores):
            loop.history.add("event", step=course.step, message=said)
        loop.require_equal()  # and none reads the best weights before they are written
        _react(loop)
    course.finished = course.finished or last


def _lost(loop: Loop, fault: str) -> FloatingPointError:
    """That training has blown up, with the best weights put back; the newest checkpoint stays that of before."""
    course, options = loop.course, loop.options
    loop.go_back()
    kept = (
        "no epoch before has weights to be kept"
        if course.best == math.inf
        else f"the best weights so far, of epoch {course.best_epoch}, are kept"
    )
    said = (
        f"training has blown up: {fault}; lower learning_rate (it is {options.learning_rate:g}) or clip_norm (it is "
        f"{options.clip_norm:g}{'' if options.clip_norm else ', which clips nothing'}) and train anew; {kept}."
    )
    loop.history.add("event", step=course.step, message=said)
    loop.history.flush()
    return FloatingPointError(said)


def _selected(scores: Mapping[str, float], name: str) -> float:
    if name not in scores:
        raise ValueError(
            f"select = '{name}' and a validation gives {', '.join(sorted(scores))}; an inference whose draws have no "
            "density gives no negative_elbo, nor do weights that are no longer finite (then lower learning_rate)."
        )
    return scores[name]


def _agreed(scores: Mapping[str, float], group: Group) -> dict[str, float]:
    """What the first process found, for all to act on: rounding may have others find something else."""
    if group.size == 1:
        return dict(scores)
    first: dict[str, float] = json.loads(group.exchange(json.dumps(dict(scores)))[0])
    return first


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
