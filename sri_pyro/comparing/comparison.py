"""Compare: from several configurations to one table, whatever of it is there already."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sri_pyro.comparing.jobs import Job, Watcher, run_jobs
from sri_pyro.comparing.judged import Judged, require_same_sentences
from sri_pyro.comparing.outputs import write_table
from sri_pyro.comparing.rows import Row, rows_of
from sri_pyro.comparing.standing import Standing, require_one_code, require_one_data, standing
from sri_pyro.comparing.systems import (
    Planned,
    System,
    differing,
    judging,
    options_of,
    planned,
    read_systems,
    require_known,
)
from sri_pyro.config import ConfigError, load_corpus
from sri_pyro.config.blame import option_set
from sri_pyro.config.folder import locked

TAIL = 4096
"""Bytes of a history's end that hold its last record."""


@dataclass(frozen=True)
class Asked:
    """What is to be compared.

    Attributes:
        sources: TOML files or presets, one for each system.
        out: The folder of all runs and of the table.
        seeds: Trainings of each system.
        reference: The system that the others are compared with; the first one by default.
        only: Systems that are trained and evaluated; all if empty. The table shows what is there of the others.
        overrides: ``a.b=c`` each, for all systems alike.
        common: A TOML file whose options all systems share, such as a corpus; the overrides win over it, and it over
            the systems' own files.
        jobs: Processes side by side; one for each core by default.
        mixed_code: Let trainings of different source code stand in one table, which says so.
    """

    sources: Sequence[str]
    out: Path
    seeds: int = 1
    reference: str | None = None
    only: Sequence[str] = ()
    overrides: Sequence[str] = ()
    common: Path | None = None
    jobs: int | None = None
    mixed_code: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        rows: The systems that have an evaluated run.
        reference: The system that the others are compared with.
        failed: What was said by the runs that failed, by name.
        missing: Runs that are not evaluated, whatever the reason.
        done: How many are.
        stopped: Whether it was told to stop.
    """

    rows: Sequence[Row]
    reference: str
    failed: Mapping[str, str]
    missing: Sequence[str]
    done: int
    stopped: bool


@dataclass(frozen=True)
class _Plan:
    """All runs and where they stand."""

    systems: Sequence[System]
    runs: Sequence[Planned]
    reference: str
    only: Sequence[str]
    standings: Sequence[Standing] = field(default=())

    def looked_at(self) -> _Plan:
        return _Plan(self.systems, self.runs, self.reference, self.only, [standing(run) for run in self.runs])

    def left(self) -> list[tuple[Planned, Standing]]:
        """What is to be done."""
        pairs = zip(self.runs, self.standings, strict=True)
        return [(run, at) for run, at in pairs if at.state != "judged" and run.system in self.only]

    def judged(self) -> list[Planned]:
        """What is done."""
        return [run for run, at in zip(self.runs, self.standings, strict=True) if at.state == "judged"]


def plan(asked: Asked) -> list[str]:
    """What a comparison would do, a line for each run; nothing is written.

    Raises:
        ConfigError: If it would be refused.
    """
    found = _plan(asked).looked_at()
    _require_one(asked, found, None)
    return [
        f"{run.name}: {at.said}" + ("" if run.system in found.only else " (left out by --only)")
        for run, at in zip(found.runs, found.standings, strict=True)
    ]


def compare(asked: Asked, watcher: Watcher | None = None) -> Outcome:
    """Train what is missing, go on with what is half done, evaluate what is trained, and write the table.

    Every run is a folder ``out/SYSTEM/seed-N`` as ``sri-pyro train`` makes it, trained and evaluated by a process of
    its own with one thread. Files of the table: ``table.csv``, ``table.md``, ``table.tex``, ``table.html`` and
    ``comparison.json``; they are made from the runs' folders alone, anew each time.

    A number is taken from what is there only if it was made from what is asked for now: configuration, sentences,
    weights, estimator and its settings, source code. An evaluation that was made otherwise is made again. A training
    is not: one of another configuration or of other sentences is refused, and trainings of different code are refused
    unless ``mixed_code`` says otherwise.

    Args:
        asked: What is compared.
        watcher: Who hears of it.

    Raises:
        ConfigError: If the systems cannot be compared, or what is there does not belong to what is asked for.
        DataError: If the text is unusable.
    """
    watcher = watcher or Watcher()
    found = _plan(asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    lock = asked.out / ".compare"
    lock.touch()
    with locked(lock, f"another process compares in {asked.out}"):
        found = found.looked_at()
        left = found.left()
        digest = load_corpus(found.systems[0].config).digest if left else None
        _require_one(asked, found, digest)
        failed: dict[str, str] = {}
        stopped = False
        if left:
            jobs = [_job(run, at) for run, at in left]
            failed, stopped = run_jobs(jobs, asked.jobs or cores(), watcher)
            found = found.looked_at()
            _require_one(asked, found, digest)
        done = [run.name for run in found.judged()]
        missing = [run.name for run in found.runs if run.name not in done]
        if stopped:
            return Outcome([], found.reference, failed, missing, len(done), stopped)
        judged = [Judged.read(run) for run in found.judged()]
        require_same_sentences(judged)
        by_system = {
            system.name: [each for each in judged if each.run.system == system.name]
            for system in found.systems
        }
        rows = rows_of({name: runs for name, runs in by_system.items() if runs}, found.reference)
        if rows:
            write_table(asked.out, rows, found.reference, missing, failed)
    return Outcome(rows, found.reference, failed, missing, len(done), stopped)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _plan(asked: Asked) -> _Plan:
    if not asked.sources:
        raise ConfigError(["compare needs a file for each system; give at least two, the reference first"])
    if asked.jobs is not None and asked.jobs < 1:
        raise ConfigError([f"--jobs must be at least 1; got {asked.jobs}"])
    shared = [] if asked.common is None else options_of(asked.common)
    systems = read_systems(
        asked.sources,
        [*shared, *asked.overrides],
        lambda text: str(asked.common) if text in shared else option_set(text),
    )
    reference = asked.reference or systems[0].name
    require_known(reference, systems, "--reference")
    for name in asked.only:
        require_known(name, systems, "--only")
    only = asked.only or [system.name for system in systems]
    return _Plan(systems, planned(systems, asked.seeds, asked.out), reference, only)


def _require_one(asked: Asked, found: _Plan, digest: str | None) -> None:
    require_one_data(found.runs, found.standings, digest)
    if not asked.mixed_code:
        require_one_code(found.runs, found.standings)


def _job(run: Planned, at: Standing) -> Job:
    """What is left to be done of a run."""
    out = str(run.folder.path)
    stages: list[tuple[str, tuple[str, ...]]] = []
    if at.state == "absent":
        stages.append(("train", run.begin))
    elif at.state == "begun":
        stages.append(("train", ("train", str(run.folder.config), "--out", out, "--resume")))
    # What the folder's own configuration says already need not be said.
    old = judging(run.folder.read_config() if run.folder.exists else run.config)
    new = judging(run.config)
    sets = [f"evaluation.{key}={json.dumps(new[key])}" for key in differing(old, new) if key in new]
    stages.append(("evaluate", ("evaluate", out, *(word for text in sets for word in ("--set", text)))))

    def progress(stage: str) -> str:
        return _training(run) if stage == "train" else "evaluating"

    def ready() -> bool:
        return not run.folder.exists or run.folder.idle()

    return Job(run.name, stages, run.beside("log"), run.beside("json"), progress, ready)


def _training(run: Planned) -> str:
    """How far a training is, by the last record that is on disk."""
    epochs = run.config.training.options["epochs"]
    last = next(_records(run), {})
    return f"training, epoch {float(last.get('epoch', 0)):.1f} of {epochs}"


def _records(run: Planned) -> Iterator[dict[str, Any]]:
    """The newest records of a training, the last one first, as far as they are whole."""
    try:
        with run.folder.history.open("rb") as file:
            file.seek(max(0, run.folder.history.stat().st_size - TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("epoch"), float | int):
            yield record
