"""Config: one run as one typed value that round-trips through TOML, and the presets underneath it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from sri_pyro.config import toml
from sri_pyro.config.agreement import disagreements, untrainable
from sri_pyro.config.blame import blamed, option_set
from sri_pyro.config.layers import laid_over, merged, without
from sri_pyro.config.reader import Reader
from sri_pyro.config.schema import ConfigError, Part, trial
from sri_pyro.config.sections import (
    DECODER,
    INFERENCE,
    NESTED,
    OBJECTIVE,
    PRIOR,
    SOURCE,
    STEP_SIZE,
    EvaluationSection,
    Experiment,
    PretrainingSection,
    TrainingSection,
    ValidationSection,
)
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.wording import listed, meant, shown

TABLES = (
    "data", "model", "inference", "step_size", "objective", "training", "pretraining", "validation", "evaluation",
)  # fmt: skip
SCALARS = ("preset", "seed", "device", "published")
STAND_IN_VOCABULARY = 8
"""Entries of the vocabulary that a decoder is tried out with before the data is read."""
STAND_INS: Mapping[str, Any] = {
    "data": {"kind": "pcfg"},
    "model": {"prior": {"kind": "standard_normal", "dim": 1}},
    "inference": {"kind": "short_run", "record_path": True},
}
"""Sections with which every other one agrees, for a configuration that is read without its own."""
STAND_IN_INFERENCE = Part("inference", None, ShortRunLangevin, {})
"""What a tuner is tried out with if the inference itself has to be mended first."""


@dataclass(frozen=True)
class Config:
    """A run, checked. Every part knows its constructor and all its options.

    Attributes:
        experiment: Preset, seed and device.
        data: The source of sentences.
        prior: p(z).
        decoder: p(x | z); its vocabulary and latent dimension follow from data and prior.
        inference: Draws z.
        step_size: What tunes the inference's steps, if anything does.
        objective: The learning rule.
        training: How ``fit`` trains.
        pretraining: What the weights of the inference begin with.
        validation: What selects the best weights.
        evaluation: What the finished model is judged by.
    """

    experiment: Part
    data: Part
    prior: Part
    decoder: Part
    inference: Part
    step_size: Part
    objective: Part
    training: Part
    pretraining: Part
    validation: Part
    evaluation: Part

    @property
    def seed(self) -> int:
        """Of everything random but the data's splits."""
        seed: int = self.experiment.options["seed"]
        return seed

    @property
    def device(self) -> str:
        """Where the tensors are."""
        device: str = self.experiment.options["device"]
        return device

    @property
    def latent_dim(self) -> int:
        """Of the prior; 0 for a language model."""
        dim: int = trial(self.prior, {}).dim
        return dim

    def plain(self) -> dict[str, Any]:
        """The whole configuration as TOML would say it, every default included."""
        model = {"prior": self.prior.plain(), "decoder": self.decoder.plain()}
        rest = {name: getattr(self, name).plain() for name in TABLES if name != "model"}
        return self.experiment.plain() | {name: model if name == "model" else rest[name] for name in TABLES}

    def to_toml(self) -> str:
        """The whole configuration as TOML; ``parse_config`` reads it back to the same value."""
        return toml.dumps(self.plain())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``to_toml()``, in hexadecimal."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()


def presets() -> dict[str, str]:
    """Every preset's TOML, by name.

    Example:
        >>> "default" in presets(), "paper" in presets()
        (True, True)
    """
    folder = resources.files("sri_pyro.config") / "presets"
    files = {Path(file.name).stem: file for file in folder.iterdir() if file.name.endswith(".toml")}
    return {name: files[name].read_text(encoding="utf-8") for name in sorted(files)}


def read_config(
    source: str | Path, overrides: Sequence[str] = (), origin: Callable[[str], str] = option_set
) -> Config:
    """Read a configuration from a file, or from a preset's name.

    Args:
        source: A TOML file, or the name of a preset.
        overrides: ``a.b=c`` each, with a TOML value; they win over the file, which wins over the preset.
        origin: Where an override comes from, as messages name it.

    Raises:
        ConfigError: With every problem of the configuration, and the file or the override that brought it.
    """
    path = Path(source)
    if not path.exists() and str(source) in presets():
        data: Mapping[str, Any] = {"preset": str(source)}
    else:
        data = _read_file(path)
    try:
        return parse_config(data, overrides)
    except ConfigError:
        file = str(path) if path.exists() else ""
        raise ConfigError(blamed(lambda some: parse_config(data, some), overrides, file, origin)) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return toml.load(path)
    except ConfigError as error:
        if path.is_file():
            raise
        known = f"; give a TOML file or a preset ({listed(presets())}){meant(str(path), presets())}"
        raise ConfigError([error.problems[0] + known]) from None


def parse_config(data: Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """Check nested tables, as TOML gives them, and fill in what the preset and the constructors say.

    What the user says, in the data and in the overrides, is gathered first and all of it counts. Where it
    names another ``kind`` than the preset does, the preset's options for it do not apply. An override that is a
    table with a ``kind`` takes the place of all that the data says of that part.

    Raises:
        ConfigError: With every problem.

    Example:
        >>> config = parse_config({"data": "pcfg", "model": {"prior": {"dim": 8}}}, ["training.epochs=3"])
        >>> config.prior.options["dim"], config.training.options["epochs"], config.inference.kind
        (8, 3, 'short_run')
        >>> mixture = {"data": "pcfg", "model": {"prior": {"kind": "mixture", "components": 4}}}
        >>> parse_config(mixture, ['model.prior={kind="standard_normal"}']).prior.kind
        'standard_normal'
    """
    problems: list[str] = []
    return _on_preset(_gathered(data, overrides, problems), problems)


def overridden_config(config: Config, overrides: Sequence[str]) -> Config:
    """A finished configuration with some options changed.

    Its options are defaults by now: where an override names another ``kind``, they do not apply to it.

    Raises:
        ConfigError: With every problem, and the override that brought it.

    Example:
        >>> config = parse_config({"data": "pcfg"})
        >>> overridden_config(config, ["evaluation.estimator=annealed"]).evaluation.options["estimator"].kind
        'annealed'
    """

    def parsed(some: Sequence[str]) -> Config:
        problems: list[str] = []
        return _on_preset(laid_over(config.plain(), _gathered({}, some, problems)), problems)

    try:
        return parsed(overrides)
    except ConfigError:
        raise ConfigError(blamed(parsed, overrides)) from None


def _gathered(data: Mapping[str, Any], overrides: Iterable[str], problems: list[str]) -> dict[str, Any]:
    """All that a user says as one table; where two say the same option, the later one counts."""
    for text in overrides:
        try:
            path, value = toml.assignment(text)
            whole = isinstance(value, Mapping) and "kind" in value
            data = merged(without(data, path) if whole else data, toml.nested(path, value))
        except ConfigError as error:
            problems += error.problems
    return dict(data)


def _on_preset(data: Mapping[str, Any], problems: list[str]) -> Config:
    known = presets()
    data = _usable(data, problems)
    preset = data.get("preset", Experiment.preset)
    if not isinstance(preset, str):  # a list or a table could not even be looked up
        problems.append(f"preset must be one name in quotes; got {shown(preset)}; known: {listed(known)}")
    elif preset not in known:
        problems.append(f"unknown preset {shown(preset)}; known: {listed(known)}{meant(preset, known)}")
    # Where nobody can tell which preset is meant, what is wrong with each of them is told all the same.
    likely = get_close_matches(str(preset), known, n=1) or list(known)
    read = [_read(laid_over(_preset(name, known), {**data, "preset": name})) for name in likely]
    (parts, first), *rest = read
    problems += [problem for problem in first if all(problem in others for _, others in rest)]
    if problems:
        raise ConfigError(problems)
    return Config(**{name: part for name, part in parts.items() if part is not None})


def _preset(name: str, known: Mapping[str, str]) -> Mapping[str, Any]:
    """The options of a preset, laid over those of the preset that it names as its own."""
    own = toml.loads(known[name], name)
    return laid_over(_preset(own["preset"], known), without(own, ["preset"])) if "preset" in own else own


def _usable(data: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """The data without the sections that are no tables, each of which is a problem."""
    refused = [name for name in TABLES if not isinstance(data.get(name, {}), str | Mapping)]
    problems += [f"section '{name}' must be a table of options; got {shown(data[name])}" for name in refused]
    usable = {name: value for name, value in data.items() if name not in refused}
    return usable | {name: STAND_INS[name] for name in refused if name in STAND_INS}


def _read(data: Mapping[str, Any]) -> tuple[dict[str, Part | None], list[str]]:
    """The parts of a configuration, None for one that is not usable, and all problems."""
    problems: list[str] = []
    reader = Reader(NESTED, problems)
    given = {name: data.get(name, {}) for name in TABLES}
    tables = {name: {"kind": it} if isinstance(it, str) else it for name, it in given.items()}
    problems += [
        f"unknown {'section' if isinstance(value, Mapping) else 'option'} '{name}'; known options: {listed(SCALARS)}; "
        f"known sections: {listed(TABLES)}{meant(name, TABLES + SCALARS)}"
        for name, value in data.items()
        if name not in TABLES + SCALARS
    ]
    model = tables["model"]
    problems += [
        f"model has no option '{name}'; it accepts: decoder, prior{meant(name, ('prior', 'decoder'))}"
        for name in model
        if name not in ("prior", "decoder")
    ]
    scalars = {name: data[name] for name in SCALARS if name in data}
    prior = reader.choice(PRIOR, model.get("prior", {}))
    latent_dim = trial(prior, {}).dim if prior else 1
    follows = {"vocab_size": STAND_IN_VOCABULARY, "latent_dim": latent_dim}
    inference = reader.choice(INFERENCE, tables["inference"], **follows)
    built = trial(inference, follows) if inference else None
    tuned = trial(STAND_IN_INFERENCE, {}) if built is None else built
    parts = {
        "experiment": reader.options("configuration", Experiment, scalars),
        "data": reader.choice(SOURCE, tables["data"]),
        "prior": prior,
        "decoder": reader.choice(DECODER, model.get("decoder", {}), **follows),
        "inference": inference,
        "step_size": reader.choice(STEP_SIZE, tables["step_size"], inference=tuned, latent_dim=latent_dim),
        "objective": reader.choice(OBJECTIVE, tables["objective"]),
        "training": reader.options("training", TrainingSection, tables["training"]),
        "pretraining": reader.options("pretraining", PretrainingSection, tables["pretraining"]),
        "validation": reader.options("validation", ValidationSection, tables["validation"]),
        "evaluation": reader.options("evaluation", EvaluationSection, tables["evaluation"]),
    }
    problems += disagreements(built, parts["objective"], parts["training"], parts["evaluation"])
    problems += untrainable(built, tables["inference"].get("kind"), parts["training"], parts["pretraining"])
    problems += _pretraining_problems(parts["training"], parts["pretraining"])
    return parts, problems


def _pretraining_problems(training: Part | None, pretraining: Part | None) -> list[str]:
    """What is wrong with the options of pretraining once those of training stand underneath."""
    if training is None or pretraining is None:
        return []
    try:
        pretraining.build().over(trial(training, {}))
    except ValueError as error:
        return [f"pretraining, over the options of training: {error}"]
    return []
