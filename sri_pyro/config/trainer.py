"""Train: from a configuration to a run's folder, once or continued."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sri_pyro.config.build import build, find_device, load_corpus
from sri_pyro.config.cost import Cost, rehearse
from sri_pyro.config.folder import RunFolder
from sri_pyro.config.pretraining import pretrain
from sri_pyro.config.provenance import provenance
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.settings import Config
from sri_pyro.config.threads import computing_with
from sri_pyro.config.warmup import unreached
from sri_pyro.data import Corpus
from sri_pyro.history import History
from sri_pyro.processes import ALONE, Group
from sri_pyro.training import Watch, fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What the caller of ``train`` hears, and may say.

    Attributes:
        cost: Told the expected cost before anything is written.
        watch: Sees every record of training; those of pretraining with ``stage`` = "pretraining".
        should_stop: Asked after every weight step.
        tell: Hears, in a sentence each and before the first step, what is doubtful about the run; the log does too.
    """

    cost: Callable[[Cost], None] | None = None
    watch: Watch | None = None
    should_stop: Callable[[], bool] | None = None
    tell: Callable[[str], None] | None = None


def train(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    command: Sequence[str] = ("sri_pyro.train",),
    told: Told | None = None,
    group: Group = ALONE,
) -> History:
    """Train what a configuration names, into a new folder.

    A few steps are rehearsed on copies before the folder appears: what cannot work fails there.

    A run killed at any point and resumed ends with the weights and records of one that never stopped, bit by
    bit, on the same machine and with the same versions: the number of threads is part of the run's record,
    and resuming takes it from there. Another number of threads, another processor or another version of
    PyTorch rounds differently, and what training makes of such differences grows. So does another number of
    processes, with which a run may go on all the same.

    Args:
        config: The run.
        out: Its folder.
        resume: Continue the run that the folder holds; begin it if there is none.
        command: The command line, for the record.
        told: Who hears about cost and progress.
        group: The processes that train it together, of which all call this; see ``sri_pyro.processes.joined``.

    Raises:
        ConfigError: If the folder is taken, or what it holds is another run; if there are more processes than a
            batch has sentences, or one of them has other data.
        DataError: If the text is unusable.
        ProcessLostError: If another process is not there any more.
        Stopped: If it was told to stop; all is saved.
    """
    told = told or Told()
    _check_work_for_all(config, group)
    folder = RunFolder(Path(out))
    if not resume or not folder.exists:
        folder.claim()
    device = find_device(config.device, group)
    threads = torch.get_num_threads()
    if resume and folder.exists:
        _check_same_config(folder, config)
        folder.read_vocabulary()
        record = folder.read_record()
        if record.get("processes", 1) == group.size:  # others round otherwise whatever their threads
            threads = record["threads"]
    with computing_with(threads), _one_log(group):
        return _train(config, folder, resume, device, command, told, group)


def _train(
    config: Config,
    folder: RunFolder,
    resume: bool,
    device: torch.device,
    command: Sequence[str],
    told: Told,
    group: Group,
) -> History:
    corpus = load_corpus(config)
    record = provenance(config, corpus.record(), command, group.size)
    if resume and folder.exists:
        _check_same_data(folder, record["data_digest"])
    made_from = {"configuration": config.digest, "data": record["data_digest"]}
    group.require_same(made_from, "give every process the same configuration and the same text")
    parts = build(config, corpus, device, group)
    if _agreed(group, told.cost is not None or not folder.exists):
        begun = _agreed(group, folder.last.exists())
        cost = rehearse(replace(parts, pretraining=None) if begun else parts, group)
        if told.cost is not None:
            told.cost(cost)
    with _place(folder, config, corpus, record) if group.leads else nullcontext():
        continued = _agreed(group, group.leads and folder.begun())  # and the folder is there, for all to read
        log.info(
            "%s: configuration %s, %d process%s",
            "continued" if continued else "begun", config.digest[:12], group.size, "es" if group.size > 1 else "",
        )  # fmt: skip
        for doubt in [] if continued else unreached(config):
            log.warning("%s.", doubt)
            if told.tell is not None:
                told.tell(doubt)
        if parts.pretraining is not None and not continued:
            again = _agreed(group, group.leads and folder.pretraining.begun())
            pretrain(
                parts, config.seed, folder, again, watch=told.watch, should_stop=told.should_stop, group=group
            )
            weights = parts.inference.state_dict()
            parts = build(config, corpus, device, group)  # the model begins anew, and so does the generator
            parts.inference.load_state_dict(weights)
        history = fit(
            parts.model,
            parts.inference,
            parts.objective,
            parts.batches,
            parts.training,
            update=parts.training.update,
            validate=parts.validate,
            hooks=parts.hooks,
            folder=folder.path,
            resume=continued,
            identity=folder.identity(),
            watch=told.watch,
            should_stop=told.should_stop,
            group=group,
        )
        log.info("finished")
    return history


@contextmanager
def _place(folder: RunFolder, config: Config, corpus: Corpus, record: Mapping[str, Any]) -> Iterator[None]:
    """The folder, made if it is not there, held and logged to while the block runs."""
    if not folder.exists:
        folder.create(config, corpus.vocabulary, record)
    with folder.training(), logging_to(folder.log):
        folder.sweep()
        yield


def _agreed(group: Group, here: bool) -> bool:
    """What the first process says."""
    return group.exchange(str(here))[0] == str(True)


def _check_work_for_all(config: Config, group: Group) -> None:
    most = config.training.options["batch_size"]
    if group.size > most:
        raise ConfigError(
            [f"there are {group.size} processes and training.batch_size is {most}, so that some would have no "
             f"sentence; start at most {most}, or raise training.batch_size"]
        )  # fmt: skip


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
def _one_log(group: Group) -> Iterator[None]:
    """Keep the library's warnings of further processes to themselves: the first one's go to the log, or are shown."""
    library, nowhere = logging.getLogger("sri_pyro"), logging.NullHandler()
    if not group.leads:
        library.addHandler(nowhere)
    try:
        yield
    finally:
        library.removeHandler(nowhere)


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
