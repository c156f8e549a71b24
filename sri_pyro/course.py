"""Course: how training is asked to go, where it stands, and what each validation makes of that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sri_pyro.types import InferenceDropout

Select = Literal["nll", "negative_elbo", "reconstruction"]
Turn = Literal["on", "decay", "stop"]
"""What a validation leads to: go on as before, lower the learning rate, or stop early."""


@dataclass(frozen=True)
class Training:
    """How ``fit`` trains.

    Attributes:
        epochs: Passes over the data at most.
        optimizer: ``adam`` or ``sgd`` (without momentum, as in the literature's LSTM baselines).
        learning_rate: Its initial learning rate.
        decay: ``none``; ``plateau``: multiply the rate by ``decay_factor`` when validation has not improved
            for ``patience`` validations, and go back to the best weights; ``steady``: once it has not, multiply
            the rate after every validation from then on, and go back nowhere; ``cosine``: fall to
            ``decay_factor`` of the rate over all epochs, or over each of ``cycles``. Published rules, all with
            factor 0.5: He et al. 2019 and Li et al. 2019, ``plateau`` with sgd at 1.0 (or 0.5), patience 2 (or
            5), hold 15, max_decays 4, since their code stops at the fifth halving; it counts patience against
            the last loss that was not worse, we against the best. SA-VAE (Kim et al. 2018), ``steady`` with sgd
            at 1.0, patience 1, hold 14, max_decays 5, so that the rate never falls below 0.03. Cyclical-VAE
            (Fu et al. 2019), ``cosine`` with adam, 40 epochs and cycles 4, at a rate that falls to 0 and is set
            once an epoch; ours is set at every step.
        decay_factor: See ``decay``.
        patience: Validations without improvement before a decay; without ``plateau`` or ``steady``, before
            stopping early. 0 never stops early.
        max_decays: Decays that are trained with; where one more is due, training stops.
        hold: Epochs at first in which neither ``plateau`` nor ``steady`` decays or stops; patience counts on.
        cycles: Times that ``cosine`` falls, each from the whole rate.
        clip_norm: The gradient's norm is clipped here; 0 leaves it alone.
        validate_every: Epochs between validations.
        checkpoint_every: Weight steps between checkpoints; one is written after every validation too.
        log_every: Weight steps between training records.
        select: What is smallest of the best weights, among the entries of a validation: ``nll``, the honest one;
            ``negative_elbo``, the usual one of variational autoencoders; ``reconstruction``, that of an
            autoencoder.
        num_samples: Chains per sentence for a weight step.
        inference_dropout: What inference sees of dropout: ``off``, ``shared`` or ``fresh``; see
            ``LatentTextModel.target``.

    Raises:
        ValueError: If an option is out of range; every bad option is named.
    """

    epochs: int = 30
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    decay: Literal["none", "plateau", "steady", "cosine"] = "none"
    decay_factor: float = 0.5
    patience: int = 0
    max_decays: int = 5
    hold: int = 0
    cycles: int = 1
    clip_norm: float = 5.0
    validate_every: int = 1
    checkpoint_every: int = 200
    log_every: int = 20
    select: Select = "nll"
    num_samples: int = 1
    inference_dropout: InferenceDropout = "off"

    def __post_init__(self) -> None:
        bad = [
            f"{name} = {getattr(self, name)} (at least {least})"
            for name, least in {
                "epochs": 1, "patience": 0, "max_decays": 0, "hold": 0, "cycles": 1, "clip_norm": 0,
                "validate_every": 1, "checkpoint_every": 1, "log_every": 1, "num_samples": 1,
            }.items()
            if getattr(self, name) < least
        ]  # fmt: skip
        if not self.learning_rate > 0:
            bad.append(f"learning_rate = {self.learning_rate} (more than 0)")
        if not 0 < self.decay_factor < 1:
            bad.append(f"decay_factor = {self.decay_factor} (between 0 and 1)")
        if self.waits and self.patience < 1:
            bad.append(f"patience = {self.patience} (at least 1 with decay = '{self.decay}')")
        if bad:
            raise ValueError(f"training options out of range: {', '.join(bad)}.")

    @property
    def waits(self) -> bool:
        """Whether the rate decays for want of improvement."""
        return self.decay in ("plateau", "steady")

    def scheduled_rate(self, epoch: float) -> float | None:
        """The learning rate after so many epochs; None where the rate follows from validation, or stays.

        Example:
            >>> [Training(epochs=10, learning_rate=1.0, decay="cosine").scheduled_rate(e) for e in (0, 5, 10)]
            [1.0, 0.75, 0.5]
            >>> twice = Training(epochs=20, learning_rate=1.0, decay="cosine", cycles=2)
            >>> [twice.scheduled_rate(epoch) for epoch in (0, 5, 10, 15, 20)]
            [1.0, 0.75, 1.0, 0.75, 0.5]
        """
        if self.decay != "cosine":
            return None
        done = epoch * self.cycles / self.epochs
        done = done % 1 if done < self.cycles else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.decay_factor + (1 - self.decay_factor) * fall)


@dataclass
class Course:
    """Where training stands; the part of a checkpoint that is not a tensor.

    Attributes:
        epoch: The epoch under way.
        batch: Batches of it already done.
        step: Weight steps done.
        validated: Epochs whose validation is done.
        best: Lowest validation nll so far, nats per sentence.
        best_epoch: When it was reached.
        waited: Validations since it was.
        decays: Learning-rate decays so far.
        skipped: Weight steps in a row that were skipped because something was not finite.
        finished: Whether training has ended.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    validated: int = 0
    best: float = math.inf
    best_epoch: int = 0
    waited: int = 0
    decays: int = 0
    skipped: int = 0
    finished: bool = False

    def hear(self, nll: float) -> bool:
        """Take in a validation's nll; whether it is the best so far. One that is not a number never is."""
        if nll < self.best:
            self.best, self.best_epoch, self.waited = nll, self.epoch, 0
            return True
        self.waited += 1
        return False

    def turn(self, options: Training) -> Turn:
        """What the validations so far lead to.

        Example:
            >>> patient = Training(decay="plateau", patience=2, max_decays=1)
            >>> [Course(1, waited=waited, decays=decays).turn(patient) for waited, decays in ((1, 0), (2, 0), (2, 1))]
            ['on', 'decay', 'stop']
        """
        falling = options.decay == "steady" and self.decays > 0
        if not options.patience or (self.waited < options.patience and not falling):
            return "on"
        if options.waits and self.epoch <= options.hold:
            return "on"
        return "decay" if options.waits and self.decays < options.max_decays else "stop"
