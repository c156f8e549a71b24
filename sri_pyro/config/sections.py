"""Sections: which table answers which choice, and the sections that are settings rather than choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sri_pyro.config.schema import Table
from sri_pyro.course import Training, at_least
from sri_pyro.data import SOURCES
from sri_pyro.evaluation import EVIDENCE, REFUSED, EvaluationOptions
from sri_pyro.evaluation.evidence import EvidenceEstimator
from sri_pyro.inference import INFERENCES, OBJECTIVES, StepSizeTuner
from sri_pyro.models import DECODERS, ENCODERS, PRIORS, Encoder
from sri_pyro.numerics.kl_weights import KL_WEIGHTS, KLWeight
from sri_pyro.numerics.langevin import INTEGRATORS, Integrator
from sri_pyro.numerics.schedules import NOISE_SCHEDULES, STEP_SCHEDULES, NoiseSchedule, StepSchedule
from sri_pyro.step import UpdateRule
from sri_pyro.target import Target
from sri_pyro.types import Batch, Progress
from sri_pyro.updates import UPDATES


@dataclass(frozen=True)
class Experiment:
    """What concerns the whole run.

    Attributes:
        preset: The recipe underneath: decoder wiring, sampler, warm-up, learning rule and optimiser.
        seed: Of everything random in a run but the data's splits, which have a seed of their own.
        device: ``cpu``, ``cuda``, ``cuda:1``. Evidence and tuned steps are float64, which ``mps`` has not.
        published: The system of a published table that this run sets out to reproduce. It changes nothing in the run:
            ``sri-pyro compare`` puts that row beside it, where data and sizes are the published ones.
    """

    preset: str = "default"
    seed: int = 0
    device: str = "cpu"
    published: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be between 0 and 2^32 - 1; got {self.seed}.")


@dataclass(frozen=True)
class TrainingSection(Training):
    """How ``fit`` trains, and on how many sentences at a time.

    Attributes:
        batch_size: Most sentences of a batch.
        update: How a weight step moves the weights of model and inference; ``joint`` by default.
    """

    batch_size: int = 32
    update: UpdateRule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch_size=self.batch_size)


@dataclass(frozen=True)
class PretrainingSection:
    """An autoencoder's training in front, whose inference the run begins with; the model begins anew.

    Its objective is the ELBO without its KL term, its best weights are those with the best reconstruction. All else
    is as in [training], but for the options that are set here.

    Attributes:
        epochs: Passes over the data at most; 0 for no pretraining.
        optimizer: ``adam`` or ``sgd``.
        learning_rate: Its initial learning rate.
        decay: ``none``, ``plateau``, ``steady`` or ``cosine``, which then goes over the epochs of pretraining.
        decay_factor: Of the rate at a decay.
        patience: Validations without improvement before a decay, or before stopping early.
        max_decays: Decays that are trained with.
        hold: Epochs at first without a decay.
        validate_every: Epochs between validations.
    """

    epochs: int = 0
    optimizer: Literal["adam", "sgd"] | None = None
    learning_rate: float | None = None
    decay: Literal["none", "plateau", "steady", "cosine"] | None = None
    decay_factor: float | None = None
    patience: int | None = None
    max_decays: int | None = None
    hold: int | None = None
    validate_every: int | None = None

    def __post_init__(self) -> None:
        at_least(0, epochs=self.epochs)

    def over(self, training: Training) -> Training | None:
        """How the autoencoder trains, where the run trains so; None without pretraining.

        Raises:
            ValueError: If an option is out of range, or does not go with another.

        Example:
            >>> PretrainingSection(epochs=8).over(Training(epochs=20, learning_rate=0.5)).learning_rate
            0.5
        """
        if not self.epochs:
            return None
        own = {name: value for name, value in vars(self).items() if value is not None}
        shared = {name: getattr(training, name) for name in Training.__dataclass_fields__}
        return Training(**{**shared, "select": "reconstruction", **own})


@dataclass(frozen=True)
class ValidationSection:
    """The honest likelihood that selects the best weights, on a fixed part of the validation split.

    Attributes:
        num_sentences: Sentences, the same ones each time; fewer if the split has fewer.
        num_samples: Importance draws of each.
        pilot_chains: Short runs of each that the proposal is fitted to.
        batch_size: Sentences at a time; the proposal's covariance is pooled over them.
    """

    num_sentences: int = 200
    num_samples: int = 128
    pilot_chains: int = 24
    batch_size: int = 50

    def __post_init__(self) -> None:
        at_least(
            1, num_sentences=self.num_sentences, num_samples=self.num_samples, batch_size=self.batch_size
        )
        at_least(2, pilot_chains=self.pilot_chains)


@dataclass(frozen=True)
class EvaluationSection(EvaluationOptions):
    """What ``evaluate`` judges and how much it spends.

    Attributes:
        split: ``test``, which nothing else touches, or ``valid``.
        num_sentences: A fixed random sample of that many sentences; None for all.
        batch_size: Sentences at a time; the proposal's covariance is pooled over them.
        simulated: Sentences that the model itself writes, on which log p(x) is bounded from both sides; 0 for none.
            One costs as much as a few held-out ones.
        estimator: Of log p(x); ``gaussian`` by default.
    """

    split: Literal["test", "valid"] = "test"
    num_sentences: int | None = None
    batch_size: int = 50
    simulated: int = 0
    estimator: EvidenceEstimator | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch_size=self.batch_size)
        at_least(2, num_sentences=2 if self.num_sentences is None else self.num_sentences)
        at_least(0, simulated=self.simulated)
        if self.simulated == 1:
            raise ValueError("simulated must be 0, or at least 2, for an error to be known; got 1.")


class Untuned:
    """A step size that stays as the schedule says."""

    def __call__(
        self, make_target: Callable[[Batch], Target], batch: Batch, progress: Progress
    ) -> Mapping[str, float]:
        """Do nothing."""
        return {}


VOCABULARY_FOLLOWS: Final = {"vocab_size": "the data's vocabulary", "latent_dim": "dim of the prior"}
INFERENCE_FOLLOWS: Final = {**VOCABULARY_FOLLOWS, "num_examples": "the data's training split"}

SOURCE: Final = Table("source", SOURCES, section="[data]")
PRIOR: Final = Table("prior", PRIORS)
DECODER: Final = Table("decoder", DECODERS, VOCABULARY_FOLLOWS)
INFERENCE: Final = Table("inference", INFERENCES, INFERENCE_FOLLOWS)
STEP_SIZE: Final = Table(
    "step_size",
    {"tuner": StepSizeTuner, "none": Untuned},
    {"inference": "the section inference", "latent_dim": "dim of the prior"},
)
OBJECTIVE: Final = Table("objective", OBJECTIVES)

NESTED: Final[Mapping[Any, Table]] = {
    Integrator: Table("integrator", INTEGRATORS),
    StepSchedule: Table("step_schedule", STEP_SCHEDULES),
    NoiseSchedule: Table("noise", NOISE_SCHEDULES),
    EvidenceEstimator: Table("estimator", EVIDENCE, refused=REFUSED),
    Encoder: Table("encoder", ENCODERS, VOCABULARY_FOLLOWS, default="lstm"),
    KLWeight: Table("kl_weight", KL_WEIGHTS),
    UpdateRule: Table("update", UPDATES),
}
"""Which table answers for a keyword of a type."""

SECTIONS: Final[Mapping[str, Table]] = {
    "data": SOURCE,
    "model.prior": PRIOR,
    "model.decoder": DECODER,
    "inference": INFERENCE,
    "step_size": STEP_SIZE,
    "objective": OBJECTIVE,
}
"""The sections that choose."""
SETTINGS: Final[Mapping[str, type]] = {
    "training": TrainingSection,
    "pretraining": PretrainingSection,
    "validation": ValidationSection,
    "evaluation": EvaluationSection,
}
"""The sections that only set."""
