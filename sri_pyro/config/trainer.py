"""Train: from a configuration to a run's folder, once or continued."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sri_pyro.config.build import build, find_device, load_corpus
from sri_pyro.config.cost import Cost, rehearse
from sri_pyro.config.folder import RunFolder
from sri_pyro.config.provenance import provenance
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.settings import Config
from sri_pyro.config.threads import computing_with
from sri_pyro.history import History
from sri_pyro.training import Watch, fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What the caller of ``train`` hears, and may say.

    Attributes:
        cost: Told the expected cost before anything is written.
        watch: Sees every record of training.
        should_stop: Asked after every weight step.
    """

    cost: Callable[[Cost], None] | None = None
    watch: Watch | None = None
    should_stop: Callable[[], bool] | None = None


def train(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    command: Sequence[str] = ("sri_pyro.train",),
    told: Told | None = None,
) -> History:
    """Train what a configuration names, into a new folder.

    A few steps are rehearsed on copies before the folder appears: what cannot work fails there.

    A run killed at any point and resumed ends with the weights and records of one that never stopped, bit by
    bit, on the same machine and with the same versions: the number of threads is part of the run's record,
    and resuming takes it from there. Another number of threads, another processor or another version of
    PyTorch rounds differently, and what training makes of such differences grows.

    Args:
        config: The run.
        out: Its folder.
        resume: Continue the run that the folder holds; begin it if there is none.
        command: The command line, for the record.
        told: Who hears about cost and progress.

    Raises:
        ConfigError: If the folder is taken, or what it holds is another run.
        DataError: If the text is unusable.
        Stopped: If it was told to stop; all is saved.
    """
    told = told or Told()
    folder = RunFolder(Path(out))
    if not resume or not folder.exists:
        folder.claim()
    device = find_device(config.device)
    threads = torch.get_num_threads()
    if resume and folder.exists:
        _check_same_config(folder, config)
        folder.read_vocabulary()
        threads = folder.read_record()["threads"]
    with computing_with(threads):
        return _train(config, folder, resume, device, command, told)


def _train(
    config: Config, folder: RunFolder, resume: bool, device: torch.device, command: Sequence[str], told: Told
) -> History:
    corpus = load_corpus(config)
    record = provenance(config, corpus.record(), command)
    if resume and folder.exists:
        _check_same_data(folder, record["data_digest"])
    parts = build(config, corpus, device)
    if told.cost is not None or not folder.exists:
        cost = rehearse(parts)
        if told.cost is not None:
            told.cost(cost)
    if not folder.exists:
        folder.create(config, corpus.vocabulary, record)
    with folder.training(), logging_to(folder.log):
        folder.sweep()
        continued = folder.begun()
        log.info("%s: configuration %s", "continued" if continued else "begun", config.digest[:12])
        history = fit(
            parts.model,
            parts.inference,
            parts.objective,
            parts.batches,
            parts.training,
            validate=parts.validate,
            hooks=[parts.hook],
            folder=folder.path,
            resume=continued,
            identity=folder.identity(),
            watch=told.watch,
            should_stop=told.should_stop,
        )
        log.info("finished")
    return history


def _check_same_config(folder: RunFolder, config: Config) -> None:
    old, new = flat(folder.read_config().plain()), flat(config.plain())
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if changed:
        raise ConfigError(
            [f"{folder.path} was begun with another configuration ({', '.join(changed)}); resume with its own "
             f"{folder.config}, or name another folder with --out"]
        )  # fmt: skip


def _check_same_data(folder: RunFolder, digest: str) -> None:
    if folder.read_record()["data_digest"] != digest:
        raise ConfigError(
            [f"{folder.path} was begun with other data than the configuration reads now; restore the text, or "
             "name another folder with --out"]
        )  # fmt: skip


def flat(data: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested tables with dotted keys.

    Example:
        >>> flat({"model": {"prior": {"dim": 4}}, "seed": 0})
        {'model.prior.dim': 4, 'seed': 0}
    """
    result: dict[str, object] = {}
    for name, value in data.items():
        result |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        )
    return result


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what the library logs to a file for a while; a line that the disk has no room for is left out."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # it would print a traceback
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    library = logging.getLogger("sri_pyro")
    level = library.level
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    try:
        yield
    finally:
        library.setLevel(level)
        library.removeHandler(handler)
        handler.close()
