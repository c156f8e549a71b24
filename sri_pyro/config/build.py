"""Build: from a configuration to the parts it names. The only place that seeds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sri_pyro.config.schema import ConfigError
from sri_pyro.config.sections import EvaluationSection, TrainingSection, ValidationSection
from sri_pyro.config.settings import Config
from sri_pyro.config.validation import validation_batches, validator
from sri_pyro.course import Training
from sri_pyro.data import Corpus, LengthBuckets, TextOptions
from sri_pyro.inference import ShortRunLangevin, SurrogateCheck
from sri_pyro.models import LanguageModel, LatentTextModel
from sri_pyro.processes import ALONE, Group
from sri_pyro.step import StepHook
from sri_pyro.target import Objective
from sri_pyro.types import Batch


@dataclass(frozen=True)
class Parts:
    """Everything that a configuration names, built.

    Attributes:
        model: On its device, freshly initialised.
        inference: Draws z.
        objective: The learning rule.
        hooks: Tune the step size, and look at a surrogate of the inner loop, where there are such.
        batches: Training data.
        training: How ``fit`` trains.
        pretraining: How it pretrains the inference; None if it does not.
        validation: The sentences that ``validate`` scores.
        validation_options: How it does.
        validate: Scores the model as it stands.
    """

    model: LatentTextModel
    inference: nn.Module
    objective: Objective
    hooks: list[StepHook]
    batches: LengthBuckets
    training: TrainingSection
    pretraining: Training | None
    validation: list[Batch]
    validation_options: ValidationSection
    validate: Callable[[], dict[str, float]]


def seed_everything(seed: int) -> None:
    """Seed PyTorch, NumPy's legacy generator and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # what a user's own parts may draw from
    random.seed(seed)


def load_corpus(config: Config) -> Corpus:
    """Read or make the sentences.

    Raises:
        DataError: If the text is unusable.
    """
    corpus: Corpus = config.data.build().load()
    return corpus


def text_options(config: Config) -> TextOptions:
    """How a further text has to be read to be comparable with the data, which is not read for it."""
    source = config.data.build()
    return source if isinstance(source, TextOptions) else TextOptions()


def build_model(
    config: Config, vocab_size: int, num_examples: int, device: torch.device
) -> tuple[LatentTextModel, nn.Module]:
    """Model and inference, initialised from the generator as it stands.

    Args:
        config: What they are.
        vocab_size: Entries of the vocabulary.
        num_examples: Training sentences, of which an inference may remember something each.
        device: Where they are put.

    Raises:
        ValueError: If the parts do not go together.
    """
    prior = config.prior.build()
    decoder = config.decoder.build(vocab_size=vocab_size, latent_dim=prior.dim)
    model = LatentTextModel(prior, decoder) if prior.dim else LanguageModel(decoder)
    inference = config.inference.build(vocab_size=vocab_size, latent_dim=prior.dim, num_examples=num_examples)
    return model.to(device), inference.to(device)


def build(config: Config, corpus: Corpus, device: torch.device, group: Group = ALONE) -> Parts:
    """Everything that training needs, seeded: the generator stands where the initialisation leaves it."""
    seed_everything(config.seed)
    model, inference = build_model(config, len(corpus.vocabulary), len(corpus.train), device)
    training: TrainingSection = config.training.build()
    validation: ValidationSection = config.validation.build()
    held_out = validation_batches(corpus.valid, validation)
    checks = [SurrogateCheck(inference)] if isinstance(inference, ShortRunLangevin) else []
    return Parts(
        model=model,
        inference=inference,
        objective=config.objective.build(),
        hooks=[config.step_size.build(inference=inference, latent_dim=model.prior.dim), *checks],
        batches=LengthBuckets(corpus.train, training.batch_size, config.seed),
        training=training,
        pretraining=config.pretraining.build().over(training),
        validation=held_out,
        validation_options=validation,
        validate=validator(model, inference, held_out, validation, group),
    )


def evaluation_section(config: Config) -> EvaluationSection:
    """What the finished model is judged by."""
    section: EvaluationSection = config.evaluation.build()
    return section


def available_devices() -> list[str]:
    """The devices of this machine, by the names that a configuration uses; all of them know float64."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def find_device(name: str, group: Group = ALONE) -> torch.device:
    """The device of that name; of several processes on ``cuda`` each has a GPU of its own.

    Raises:
        ConfigError: If this machine has none, or not one for each process.
    """
    known = available_devices()
    if group.size > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(
                [f"device is '{name}' and {group.size} processes need a GPU each; set device = 'cuda', of which each "
                 "takes its own"]
            )  # fmt: skip
        if group.local_size > len(known) - 1:
            raise ConfigError(
                [f"there are {group.local_size} processes on this machine and {len(known) - 1} GPUs; start as many "
                 "processes as there are GPUs, or set device = 'cpu'"]
            )  # fmt: skip
        name = f"cuda:{group.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    full = f"{name}:0" if name == "cuda" else name
    if device is None or full not in known:
        raise ConfigError([f"there is no device '{name}' here; available: {', '.join(known)}"])
    return device
