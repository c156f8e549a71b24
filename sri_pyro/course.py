"""Course: how training is asked to go, where it stands, and what each validation makes of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sri_pyro.types import InferenceDropout

Select = Literal["nll", "negative_elbo", "reconstruction"]
Turn = Literal["on", "decay", "stop"]
"""What a validation leads to: go on as before, lower the learning rate, or stop early."""
ABSURD = 5.0
"""Times worse than the uniform distribution over the vocabulary that no model is whose training has not blown up: one
that has learned nothing is about as good, and one that over-fits, or a code far from the prior, costs a few times."""


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
        ValueError: If an option is out of range.
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
        at_least(1, epochs=self.epochs, cycles=self.cycles, validate_every=self.validate_every,
                 checkpoint_every=self.checkpoint_every, log_every=self.log_every,
                 num_samples=self.num_samples)  # fmt: skip
        at_least(0, patience=self.patience, max_decays=self.max_decays, hold=self.hold,
                 clip_norm=self.clip_norm)  # fmt: skip
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be more than 0; got {self.learning_rate}.")
        if not 0 < self.decay_factor < 1:
            raise ValueError(f"decay_factor must be between 0 and 1; got {self.decay_factor}.")
        if self.waits and self.patience < 1:
            raise ValueError(f"patience must be at least 1 with decay = '{self.decay}'; got {self.patience}.")

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


def blown_up(scores: Mapping[str, float], select: str) -> str:
    """What of a validation says that training has blown up, as the end of a sentence; empty of a sound one.

    The smaller of ``nll`` and ``reconstruction`` counts: a code far from the prior spoils the one, an inference that
    errs the other, and neither alone says that the weights are lost.

    Args:
        scores: Of the validation, in nats per sentence. Without ``uniform_nll``, that of the uniform distribution, what
            is finite is not judged.
        select: The entry by which the best weights are chosen.

    Example:
        >>> blown_up({"nll": 9e5, "reconstruction": 8e5, "uniform_nll": 60.0}, "nll")
        'nll 9e+05 nats per sentence, where the uniform distribution over the vocabulary has 60.00'
        >>> blown_up({"nll": 700.0, "reconstruction": 50.0, "uniform_nll": 60.0}, "nll")
        ''
        >>> blown_up({"nll": math.nan}, "nll")
        'nll nan, which is no finite number'
    """
    if not math.isfinite(scores[select]):
        return f"{select} {scores[select]}, which is no finite number"
    uniform = scores.get("uniform_nll", math.inf)
    least = min(scores["nll"], scores.get("reconstruction", math.inf))
    if least <= ABSURD * uniform:
        return ""
    return (
        f"nll {scores['nll']:.3g} nats per sentence, where the uniform distribution over the vocabulary has "
        f"{uniform:.2f}"
    )


def at_least(least: int, **values: float) -> None:
    """Raise unless every named number is that large."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
