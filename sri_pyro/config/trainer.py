"""Train: from a configuration to a run's folder, once or continued."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sri_pyro.config.build import Parts, build, find_device, load_corpus
from sri_pyro.config.folder import RunFolder
from sri_pyro.config.provenance import provenance
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.settings import Config
from sri_pyro.config.validation import validator
from sri_pyro.history import History
from sri_pyro.training import Training, Watch, fit
from sri_pyro.types import Batch

log = logging.getLogger(__name__)

REHEARSED_STEPS = 4


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take, from a few real steps.

    Attributes:
        epoch: Seconds of an epoch.
        validation: Seconds of a validation.
        epochs: Epochs at most.
        validations: Validations at most.
        sentences: Training sentences.
        parameters: Weights of the model.
    """

    epoch: float
    validation: float
    epochs: int
    validations: int
    sentences: int
    parameters: int

    @property
    def total(self) -> float:
        """Seconds of the whole run, if it does not stop early."""
        return self.epoch * self.epochs + self.validation * self.validations

    def __str__(self) -> str:
        return (
            f"about {duration(self.total)}: {self.epochs} epochs of {duration(self.epoch)} on "
            f"{self.sentences:,} sentences, {self.validations} validations of {duration(self.validation)}; "
            f"{self.parameters:,} weights"
        )


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(0.4), duration(75), duration(5000)
        ('0.4 s', '75 s', '83 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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
    if resume and folder.exists:
        _check_same_config(folder, config)
        torch.set_num_threads(folder.read_record()["threads"])  # sums in another order are other sums
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
    folder.sweep()
    continued = folder.last.exists()
    if not continued:
        folder.history.unlink(missing_ok=True)  # records written before a checkpoint that never came
    with logging_to(folder.log):
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


def rehearse(parts: Parts) -> Cost:
    """Take a few steps and a piece of a validation on copies, and say what the whole will cost."""
    model, inference = copy.deepcopy((parts.model, parts.inference))
    device = next(model.parameters()).device
    epoch = parts.batches.epoch(0)
    few = [epoch[i] for i in range(min(len(epoch), REHEARSED_STEPS + 1))]
    batch = parts.validation[0]
    validate = validator(model, inference, [batch], parts.validation_options)
    once = replace(parts.training, epochs=1, patience=0, decay="none")
    plain = Training(**{name: getattr(once, name) for name in Training.__dataclass_fields__})
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if len(few) > 1:  # the first step pays for allocations that no other pays for
            fit(model, inference, parts.objective, Fixed(few[:1]), plain)
            few = few[1:]
        seconds = _seconds(lambda: fit(model, inference, parts.objective, Fixed(few), plain), device)
        model.eval()
        checked = _seconds(validate, device)
    tokens = sum(int(b.lengths.sum()) for b in few)
    epochs = parts.training.epochs
    return Cost(
        epoch=seconds * parts.batches.split.num_tokens / tokens,
        validation=checked * sum(map(len, parts.validation)) / len(batch),
        epochs=epochs,
        validations=-(-epochs // parts.training.validate_every),
        sentences=len(parts.batches.split),
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    before = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - before


@dataclass(frozen=True)
class Fixed:
    """The same batches in every epoch.

    Attributes:
        batches: In order.
    """

    batches: Sequence[Batch]

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches."""
        return self.batches


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what the library logs to a file for a while."""
    handler = logging.FileHandler(path, encoding="utf-8")
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
