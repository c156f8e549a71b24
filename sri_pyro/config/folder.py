"""The folder of a run: which file is what, how it comes to be whole or not at all, how it is found again."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sri_pyro import checkpoint
from sri_pyro.checkpoint import CheckpointError
from sri_pyro.config import toml
from sri_pyro.config.schema import ConfigError
from sri_pyro.config.settings import Config, parse_config
from sri_pyro.data import Vocabulary
from sri_pyro.evaluation.export import write_json
from sri_pyro.loop import BEST, HISTORY, LAST

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

log = logging.getLogger(__name__)

EVALUATION = ("samples.json", "sentences.csv", "inference.nc", "metrics.json", "report.html")
"""The files of an evaluation, in the order in which they take their places."""


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration with every default filled in."""
        return self.path / "config.toml"

    @property
    def vocabulary(self) -> Path:
        """One entry a line, in the order of the ids."""
        return self.path / "vocabulary.txt"

    @property
    def provenance(self) -> Path:
        """Versions, seed, data digest, command."""
        return self.path / "provenance.json"

    @property
    def history(self) -> Path:
        """What happened during training, as JSON lines."""
        return self.path / HISTORY

    @property
    def log(self) -> Path:
        """Warnings and stages, with their time."""
        return self.path / "run.log"

    @property
    def last(self) -> Path:
        """The newest checkpoint: weights, optimiser, generators."""
        return self.path / LAST

    @property
    def best(self) -> Path:
        """The weights that did best on validation."""
        return self.path / BEST

    @property
    def pretraining(self) -> RunFolder:
        """Checkpoints and history of the stage before, if there is one; nothing needs it once training has begun."""
        return RunFolder(self.path / "pretraining")

    @property
    def exists(self) -> bool:
        """Whether there is a run here."""
        return self.config.is_file()

    def claim(self) -> None:
        """See that a new run may be put here.

        Raises:
            ConfigError: If something is here already, or the place cannot be written to.
        """
        if self.exists:
            raise ConfigError(
                [
                    f"{self.path} already holds a run; continue it with --resume, or name another folder with --out"
                ]
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError([f"{self.path} exists and is not a run folder; name another one with --out"])

    def create(self, config: Config, vocabulary: Vocabulary, record: Mapping[str, Any]) -> None:
        """Make the folder with what is known before training; it appears whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp"))
        try:
            draft = RunFolder(temporary)
            draft.config.write_text(config.to_toml(), encoding="utf-8")
            vocabulary.save(draft.vocabulary)
            write_json(draft.provenance, record)
            temporary.chmod(0o755)  # mkdtemp keeps others from reading
            temporary.rename(self.path)  # takes the place of an empty folder too
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise ConfigError(
                [f"{self.path} was made by another process meanwhile; name another folder with --out"]
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keep other processes from training this run while the block runs.

        Raises:
            ConfigError: If one does.
        """
        with locked(self.config, f"another process trains {self.path}"):
            yield

    @contextmanager
    def evaluation(self) -> Iterator[Path]:
        """A place for the files of an evaluation; they take the place of the former ones together, at the end.

        What fails before, a full disk for one, leaves those as they were; a folder that cannot be written to fails
        at once.

        Raises:
            ConfigError: If another process evaluates this run.
        """
        with locked(self.provenance, f"another process evaluates {self.path}"):
            place = self.path / ".evaluation"
            shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
            place.mkdir()
            try:
                if self.history.exists():  # the report draws it
                    shutil.copyfile(self.history, place / self.history.name)
                yield place
                for name in EVALUATION:
                    (place / name).replace(self.path / name)
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def idle(self) -> bool:
        """Whether no other process trains or evaluates this run."""
        try:
            with locked(self.config, "it is trained"), locked(self.provenance, "it is evaluated"):
                return True
        except ConfigError:
            return False

    def identity(self) -> dict[str, str]:
        """What every checkpoint of this run says that it is of: digests by name. Those of pretraining say so."""
        record = self.read_record()
        return {
            "configuration": record["configuration_digest"],
            "text": record["data_digest"],
            "vocabulary": record["data"]["vocabulary"]["digest"],
        }

    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from.

        Training writes one before its first step; what can only follow it says that it was lost.

        Raises:
            ConfigError: If it was.
        """
        if self.last.exists():
            return True
        if left := [path.name for path in (self.history, self.best) if path.exists()]:
            raise ConfigError(
                [
                    f"{self.path} has lost {self.last.name}, without which training cannot go on ({', '.join(left)} "
                    "is there); restore it, or train again into another folder"
                ]
            )
        return False

    def weights(self) -> Path:
        """The checkpoint that is loaded and judged: the best weights; before a validation has chosen any, the newest.

        Raises:
            CheckpointError: If the best ones were lost, or there are none at all.
        """
        if self.best.exists():
            return self.best
        course = checkpoint.load(self.last)[1]["course"]
        if course["best_epoch"]:
            raise CheckpointError(
                f"{self.path} has lost {self.best.name}, the weights of epoch {course['best_epoch']} that did best on "
                f"validation; restore it, or copy {self.last.name} to that name to take the newest weights, of epoch "
                f"{course['epoch']}, for the best."
            )
        return self.last

    def sweep(self) -> None:
        """Remove what a killed process was in the middle of writing."""
        for path in (*self.path.glob(".*.tmp"), *self.pretraining.path.glob(".*.tmp")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def read_config(self) -> Config:
        """The configuration of the run.

        Raises:
            ConfigError: If there is no run here, or its configuration is not usable, or not the one it had.
        """
        if not self.exists:
            raise ConfigError([f"{self.path} is not a run folder: it has no {self.config.name}"])
        try:
            text = self.config.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError([f"{self.config} is not TOML: it is not UTF-8 text"]) from None
        # Of the text and not of the value: a later version may know options that this run never heard of.
        if hashlib.sha256(text.encode()).hexdigest() != self.read_record()["configuration_digest"]:
            raise ConfigError(
                [
                    f"{self.config} is not the configuration that this run was trained with; restore the file, "
                    "or train again"
                ]
            )
        try:
            return parse_config(toml.loads(text, str(self.config)))
        except ConfigError as error:
            raise ConfigError([f"{self.config}: {problem}" for problem in error.problems]) from None

    def read_record(self) -> dict[str, Any]:
        """The provenance of the run.

        Raises:
            ConfigError: If it is missing or damaged.
        """
        try:
            record: dict[str, Any] = json.loads(self.provenance.read_text(encoding="utf-8"))
            record["data"]["vocabulary"]["digest"], record["data"]["vocabulary"]["size"]
            record["configuration_digest"], record["data_digest"]
            record["data"]["splits"]["train"]["sentences"]
            if not (isinstance(record["threads"], int) and record["threads"] > 0):
                raise ValueError(f"threads is {record['threads']!r}")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError([f"{self.provenance} is missing or damaged ({error}); train again"]) from None
        return record

    @property
    def num_examples(self) -> int:
        """Training sentences of the run.

        Raises:
            ConfigError: If the record of the run is missing or damaged.
        """
        number: int = self.read_record()["data"]["splits"]["train"]["sentences"]
        return number

    def read_vocabulary(self) -> Vocabulary:
        """The vocabulary of the run.

        Raises:
            DataError: If the file is not a vocabulary.
            ConfigError: If it is not the one the run was trained with.
        """
        vocabulary = Vocabulary.load(self.vocabulary)
        expected = self.read_record()["data"]["vocabulary"]
        if vocabulary.digest != expected["digest"]:
            raise ConfigError(
                [
                    f"{self.vocabulary} is not the vocabulary that this run was trained with: it has "
                    f"{len(vocabulary)} entries, and the record says {expected['size']} entries with digest "
                    f"{expected['digest'][:12]}; restore the file, or train again"
                ]
            )
        return vocabulary


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the kernel's lock on a file, which falls with the process however that ends.

    A system without such locks, or a file system that refuses them, goes without.

    Args:
        path: A file that exists.
        busy: What it means that another process holds it.
    """
    if fcntl is None:
        yield
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError([f"{busy}; wait until it has ended, or stop it"]) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s); see that no other process writes beside it.", path, error)
        yield
