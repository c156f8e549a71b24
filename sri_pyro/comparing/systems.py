"""Systems: the files that are compared, what they must agree in, and the runs that they ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sri_pyro.comparing.published import systems_known
from sri_pyro.config import Config, ConfigError, RunFolder, read_config, toml
from sri_pyro.config.blame import Origin, option_set
from sri_pyro.config.trainer import flat
from sri_pyro.wording import listed, meant


@dataclass(frozen=True)
class System:
    """One recipe, trained with one seed or several.

    Attributes:
        name: The file's, without its ending; or the preset's.
        source: The file or preset.
        overrides: ``a.b=c`` each, for all systems alike.
        config: With the file's own seed.
    """

    name: str
    source: str
    overrides: tuple[str, ...]
    config: Config


@dataclass(frozen=True)
class Planned:
    """One training of a system.

    Attributes:
        system: Its name.
        seed: Of everything random in it but the data's splits.
        config: What it is trained and judged by.
        folder: Where it is, or will be.
        begin: The words of the command line that begins it.
    """

    system: str
    seed: int
    config: Config
    folder: RunFolder
    begin: tuple[str, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.system} seed {self.seed}"

    def beside(self, ending: str) -> Path:
        """A file beside the run's folder, which holds nothing but what ``train`` and ``evaluate`` write."""
        return self.folder.path.with_name(f"{self.folder.path.name}.{ending}")


def options_of(path: Path) -> list[str]:
    """The options of a TOML file as overrides, ``a.b=c`` each.

    Raises:
        ConfigError: If it cannot be read, or is not TOML.
    """
    return [f"{name}={json.dumps(value)}" for name, value in flat(toml.load(path)).items()]


def read_systems(
    sources: Sequence[str], overrides: Sequence[str] = (), origin: Origin = option_set
) -> list[System]:
    """Read the files, and see that they can be compared.

    Args:
        sources: TOML files or presets.
        overrides: ``a.b=c`` each, for all of them.
        origin: Where an override comes from, as messages name it.

    Raises:
        ConfigError: If some are not usable, with every problem of each; if two have the same name, are about other data
            or are judged in another way.
    """
    configs = _read_all(sources, overrides, origin)
    systems = [System(Path(s).stem, s, tuple(overrides), config) for s, config in configs]
    for i, system in enumerate(systems):
        if twin := next((other for other in systems[:i] if other.name == system.name), None):
            raise ConfigError(
                [f"{twin.source} and {system.source} are both called '{system.name}'; rename one of them"]
            )
    first = systems[0]
    for other in systems[1:]:
        _require_same_data(first, other)
        _require_same_evaluation(first, other)
    _require_one_estimator([system for system in systems if system.config.latent_dim])
    known = systems_known()
    for system in systems:
        row = system.config.experiment.options["published"]
        if row is not None and row not in known:
            raise ConfigError(
                [f"{system.source}: no published table has the system '{row}'; known: {listed(known)}"
                 f"{meant(row, known)}"]
            )  # fmt: skip
    return systems


def _read_all(sources: Sequence[str], overrides: Sequence[str], origin: Origin) -> list[tuple[str, Config]]:
    """Every source with its configuration; what is wrong with one does not hide what is wrong with the next."""
    configs: list[tuple[str, Config]] = []
    problems: list[str] = []
    for source in sources:
        try:
            configs.append((source, read_config(source, overrides, origin)))
        except ConfigError as error:
            named = (str(Path(source)), *map(origin, overrides), "--set ")
            problems += [said if said.startswith(named) else f"{source}: {said}" for said in error.problems]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return configs


def planned(systems: Sequence[System], seeds: int, out: Path) -> list[Planned]:
    """The runs, a seed of every system before the next seed of any: what is there first can be compared.

    Args:
        systems: What is compared.
        seeds: How many of each, from the one that its file names.
        out: Under which all of them lie.

    Raises:
        ConfigError: If there is to be none.
    """
    if seeds < 1:
        raise ConfigError([f"--seeds must be at least 1; got {seeds}"])
    found = []
    for i in range(seeds):
        for system in systems:
            seed = system.config.seed + i
            overrides = [*system.overrides, f"seed={seed}"]
            folder = RunFolder(out / system.name / f"seed-{seed}")
            sets = [word for override in overrides for word in ("--set", override)]
            begin = ("train", system.source, *sets, "--out", str(folder.path))
            found.append(Planned(system.name, seed, read_config(system.source, overrides), folder, begin))
    return found


def require_known(name: str, systems: Sequence[System], option: str) -> None:
    """See that an option names a system.

    Raises:
        ConfigError: If not.
    """
    known = [system.name for system in systems]
    if name not in known:
        raise ConfigError([f"{option} names no system '{name}'; known: {listed(known)}{meant(name, known)}"])


def judging(config: Config) -> dict[str, object]:
    """The section ``evaluation``, flat."""
    return flat(config.evaluation.plain())


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys of two flat tables whose values differ, sorted."""
    return [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]


def _require_same_data(first: System, other: System) -> None:
    keys = differing(flat(first.config.data.plain()), flat(other.config.data.plain()))
    if keys:
        raise ConfigError(
            [f"{first.source} and {other.source} are about other data ({_under('data', keys)}); give both the same "
             "[data], and compare other data by another command"]
        )  # fmt: skip


def _require_same_evaluation(first: System, other: System) -> None:
    keys = differing(judging(first.config), judging(other.config))
    keys = [key for key in keys if not key.startswith("estimator.")]
    if keys:
        raise ConfigError(
            [f"{first.source} and {other.source} are judged in another way ({_under('evaluation', keys)}); give both "
             "the same [evaluation]"]
        )  # fmt: skip


def _require_one_estimator(systems: Sequence[System]) -> None:
    """Among models with a latent variable; of the others log p(x) is exact, whatever it is called."""
    for other in systems[1:]:
        keys = differing(judging(systems[0].config), judging(other.config))
        if keys:
            raise ConfigError(
                [f"{systems[0].source} and {other.source} have other estimators of log p(x) "
                 f"({_under('evaluation', keys)}); give all models with a latent variable the same one"]
            )  # fmt: skip


def _under(section: str, keys: Sequence[str]) -> str:
    return ", ".join(f"{section}.{key}" for key in keys)
