"""Processes side by side: real ones, of a few lines each, in place of the library's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sri_pyro.comparing import Watcher, jobs
from sri_pyro.comparing.jobs import Job, run_jobs, seconds_of_training
from tests.cli.helpers import ROOT

PROGRAM = """
import os, signal, sys, time
what, place = sys.argv[1:]
open(place + ".begun", "w").write(os.environ["OMP_NUM_THREADS"])
if what == "fail":
    print("noise"); print("sri-pyro: the text is gone", file=sys.stderr); sys.exit(2)
if what == "crash":
    raise LookupError("no such thing")
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "pair":  # ends only if another one runs beside it
    while len([name for name in os.listdir(os.path.dirname(place)) if name.endswith(".begun")]) < 2:
        time.sleep(0.01)
if what == "wait":
    try:
        open(place + ".waiting", "w").close()
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        open(place + ".saved", "w").close()
        sys.exit(130)
"""


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PROGRAM", (sys.executable, "-c", PROGRAM))


def job(folder: Path, name: str, *stages: str) -> Job:
    each = [
        ("train" if i == 0 else "evaluate", (what, str(folder / f"{name}{i}")))
        for i, what in enumerate(stages)
    ]
    return Job(name, each, folder / f"{name}.log", folder / f"{name}.json", lambda stage: stage)


def test_one_failure_takes_no_other_along(tmp_path: Path) -> None:
    told: list[str] = []
    todo = [
        job(tmp_path, "a", "fail", "ok"), job(tmp_path, "b", "ok", "ok"), job(tmp_path, "c", "ok", "crash"),
        job(tmp_path, "d", "die"),
    ]  # fmt: skip
    failed, stopped = run_jobs(todo, 2, Watcher(told.append))
    assert failed == {
        "a": f"the text is gone; see {tmp_path / 'a.log'}",
        "c": f"evaluate failed with exit code 1 (LookupError: no such thing); see {tmp_path / 'c.log'}",
        "d": f"train was ended by the signal SIGKILL; see {tmp_path / 'd.log'}",
    }
    assert not stopped
    assert sorted(path.name for path in tmp_path.glob("*.begun")) == [
        "a0.begun", "b0.begun", "b1.begun", "c0.begun", "c1.begun", "d0.begun",
    ]  # fmt: skip
    assert all(path.read_text() == "1" for path in tmp_path.glob("*.begun"))
    assert [line.split(" in ")[0] for line in told if line.startswith("b")] == [
        "b: train", "b: train done", "b: evaluate", "b: evaluate done",
    ]  # fmt: skip


def test_jobs_run_side_by_side_and_no_more_than_asked_for(tmp_path: Path) -> None:
    """The first two wait for one another, so that one at a time would never end; shown is what is under way."""
    shown: list[tuple[int, int, int]] = []
    todo = [job(tmp_path, name, "pair") for name in "abc"]
    failed, _ = run_jobs(
        todo, 2, Watcher(show=lambda lines, done, total: shown.append((len(lines), done, total)))
    )
    assert failed == {}
    assert max(lines for lines, _, _ in shown) == 2
    assert shown[-1] == (0, 3, 3)


def test_told_to_stop_it_waits_until_all_have_saved(tmp_path: Path) -> None:
    todo = [job(tmp_path, name, "wait", "ok") for name in "abc"]

    def both_wait() -> bool:
        return len(list(tmp_path.glob("*.waiting"))) == 2

    failed, stopped = run_jobs(todo, 2, Watcher(should_stop=both_wait))
    assert (failed, stopped) == ({}, True)
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["a0.saved", "b0.saved"]
    assert not list(tmp_path.glob("c*"))
    assert not list(tmp_path.glob("?1.*"))


def test_a_job_waits_until_it_may_begin_and_holds_up_no_other(tmp_path: Path) -> None:
    """The first may begin when the second is done: taken strictly in order, they would never end."""
    first = replace(job(tmp_path, "a", "ok"), ready=(tmp_path / "b0.begun").exists)
    failed, stopped = run_jobs([first, job(tmp_path, "b", "ok")], 1, Watcher())
    assert (failed, stopped) == ({}, False)
    assert (tmp_path / "a0.begun").exists()


def test_time_adds_up_over_starts_and_counts_training_alone(tmp_path: Path) -> None:
    clock = tmp_path / "a.json"
    clock.write_text(json.dumps({"training_seconds": 1000.0}))
    run_jobs([job(tmp_path, "a", "ok", "ok")], 1, Watcher())
    found = seconds_of_training(clock)
    assert found is not None
    assert 1000.0 < found < 1100.0
    assert seconds_of_training(tmp_path / "none.json") is None


PARENT = """
import sys
from pathlib import Path
from sri_pyro.comparing import Watcher, jobs
from sri_pyro.comparing.jobs import Job, run_jobs
program, folder = sys.argv[1:]
jobs.PROGRAM = (sys.executable, "-c", program)
def job(name):
    place = Path(folder) / name
    return Job(name, [("train", ("wait", str(place)))], place.with_suffix(".log"), place.with_suffix(".json"), str)
run_jobs([job("a"), job("b")], 2, Watcher())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="done by the kernel of Linux alone")
def test_children_save_when_their_parent_is_killed(tmp_path: Path) -> None:
    """A child that went on would hold the run's lock, and the same command would be refused."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, PROGRAM, str(tmp_path)], cwd=ROOT)
    while len(list(tmp_path.glob("*.waiting"))) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    assert parent.wait() == -signal.SIGKILL
    while len(list(tmp_path.glob("*.saved"))) < 2:  # a child that does not hear of it would hang here
        time.sleep(0.05)
