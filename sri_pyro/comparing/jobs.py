"""Jobs: commands of this library as processes side by side, none of which takes the others along when it fails."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Any, Final

from sri_pyro.evaluation.export import write_json

POLL: Final = 0.1
"""Seconds between two looks at the processes."""
HEARTBEAT: Final = 5.0
"""Seconds of training that a kill may leave uncounted."""
PROGRAM: Final = (sys.executable, "-m", "sri_pyro")
THREADS: Final = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""One thread each: processes that share cores wait for one another's threads."""
SECONDS: Final = "training_seconds"
DIE_WITH_PARENT: Final = 1
"""Linux's PR_SET_PDEATHSIG."""
TOO_LONG: Final = 2000
"""Bytes of a log's end that are searched for what a process said last."""


@dataclass(frozen=True)
class Job:
    """Commands that follow one another; the next begins when the one before has ended well.

    Attributes:
        name: For people.
        stages: What each does, in a word (``train`` or ``evaluate``), and the words of its command line.
        log: Where its output is appended.
        clock: The file that its seconds of training are kept in.
        progress: How far it is, for people.
        ready: Whether it may begin: not while a process that was left behind still saves the same run.
    """

    name: str
    stages: Sequence[tuple[str, Sequence[str]]]
    log: Path
    clock: Path
    progress: Callable[[str], str]
    ready: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Watcher:
    """Who hears what happens.

    Attributes:
        tell: Told, in a line, that something has begun or ended.
        show: Told what is under way, a line each, and how many jobs are done, of how many.
        should_stop: Asked whether to stop.
    """

    tell: Callable[[str], None] = lambda line: None
    show: Callable[[Sequence[str], int, int], None] = lambda lines, done, total: None
    should_stop: Callable[[], bool] = lambda: False


def run_jobs(jobs: Sequence[Job], most: int, watcher: Watcher) -> tuple[dict[str, str], bool]:
    """Run jobs, ``most`` at a time, until all have ended or it is told to stop.

    Told to stop, it interrupts the processes, which save what they have, and waits for them. If this process is
    killed, the kernel interrupts them in its place (on Linux).

    Returns:
        What was said by those that failed, by name; and whether it was stopped before all had ended.
    """
    waiting, running = list(jobs), list[_Running]()
    failed: dict[str, str] = {}
    stopped = False
    with ExitStack() as closing:
        closing.callback(_end, running)
        while waiting or running:
            if not stopped and watcher.should_stop():
                stopped = True
                waiting.clear()
                for each in running:
                    each.interrupt()
            for job in [job for job in waiting if job.ready()][: most - len(running)]:
                waiting.remove(job)
                begun = _Running(job)
                watcher.tell(begun.begin())
                running.append(begun)
            for each in list(running):
                said = each.look()
                if said is None:
                    continue
                if each.failure is not None and not (stopped and each.was_interrupted):
                    failed[each.job.name] = each.failure
                watcher.tell(said)
                if each.failure is None and each.stages and not stopped:
                    watcher.tell(each.begin())
                else:
                    running.remove(each)
            done = len(jobs) - len(waiting) - len(running)
            watcher.show([each.shown() for each in running], done, len(jobs))
            if running or waiting:
                time.sleep(POLL)
    return failed, stopped


def seconds_of_training(clock: Path) -> float | None:
    """What is kept of a run's training time; None if nothing is."""
    try:
        return float(json.loads(clock.read_text(encoding="utf-8"))[SECONDS])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _end(running: Sequence[_Running]) -> None:
    for each in running:
        each.kill()


class _Running:
    """A job under way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stages = deque(job.stages)
        self.failure: str | None = None
        self.was_interrupted = False

    def begin(self) -> str:
        """Start the next stage."""
        self.what, words = self.stages.popleft()
        self.began = self._beat = time.monotonic()
        self.before = seconds_of_training(self.job.clock) or 0.0
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        with self.job.log.open("ab") as log:
            self._from = log.tell()
            self.process = Popen(
                [*PROGRAM, *words],
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                env={**_alone(os.environ), **THREADS},
                start_new_session=True,  # so that a Ctrl-C reaches it through this process alone
                preexec_fn=_tied,
            )
        return f"{self.job.name}: {self.job.progress(self.what)}"

    def look(self) -> str | None:
        """What there is to be told, if the stage has ended."""
        code = self.process.poll()
        now = time.monotonic()
        if self.what == "train" and (code is not None or now - self._beat > HEARTBEAT):
            self._beat = now
            write_json(self.job.clock, {SECONDS: self.before + now - self.began})
        if code is None:
            return None
        took = f"{now - self.began:.0f} s"
        if code == 0:
            return f"{self.job.name}: {self.what} done in {took}"
        self.failure = self._said(code)
        return f"{self.job.name}: {'stopped and saved' if self.was_interrupted else self.failure}"

    def shown(self) -> str:
        """A line about it."""
        return f"{self.job.name}: {self.job.progress(self.what)}, {time.monotonic() - self.began:.0f} s"

    def interrupt(self) -> None:
        """Ask it to save and end."""
        self.was_interrupted = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _said(self, code: int) -> str:
        """Why it failed, in a sentence."""
        with self.job.log.open("rb") as log:
            log.seek(max(self._from, self.job.log.stat().st_size - TOO_LONG))
            lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
        told = [line.removeprefix("sri-pyro: ") for line in lines if line.startswith("sri-pyro: ")]
        if code < 0:
            why = f"{self.what} was ended by the signal {signal.Signals(-code).name}"
        else:
            why = (
                told[-1]
                if told
                else f"{self.what} failed with exit code {code} ({(lines or ['no word'])[-1]})"
            )
        return f"{why}; see {self.job.log}"


def _alone(environment: Mapping[str, str]) -> dict[str, Any]:
    """An environment in which a process does not take itself for one of several."""
    return {name: value for name, value in environment.items() if not name.startswith("TORCHELASTIC")}


def _tied() -> None:
    """In the new process, before its program: let the kernel interrupt it when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a parent in the background may have it ignored
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGINT)
