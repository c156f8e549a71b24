"""An evaluation that fails on the way leaves the former one as it was, whole."""

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from sri_pyro.config.folder import EVALUATION, RunFolder
from tests.cli.helpers import ROOT, Say, refused

COMMAND = (sys.executable, "-m", "sri_pyro", "evaluate")
OTHER = ("--set", "evaluation.num_chains=40")  # so that its numbers and the size of every file are others


def contents(run: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.name != "run.log"}


def limited(run: Path, size: int) -> subprocess.CompletedProcess[str]:
    """Evaluate under a limit on file size, which stands for the full disk: the kernel fails the same write."""
    return subprocess.run(
        [*COMMAND, str(run), *OTHER], cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["inference.nc", "report.html", "sentences.csv"])
def test_a_full_disk_leaves_the_former_evaluation(name: str, run: Path) -> None:
    """Each limit lets the files through that are smaller than the named one, and fails that.

    Catches files that replace the old ones one by one, and the crash of the HDF5 library on a failed write.
    """
    before = contents(run)
    done = limited(run, len(before[name]) // 2)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"sri-pyro: cannot read or write {run}: ")
    assert "Traceback" not in done.stderr
    assert "Logging error" not in done.stderr
    assert contents(run) == before


KILLED = """
import os, signal, sys
from sri_pyro.evaluation import report

write = report.write_report
def kill(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

report.write_report = kill
from sri_pyro.cli import main
main(sys.argv[1:])
"""


def test_a_kill_leaves_the_former_evaluation_and_the_next_one_sweeps(run: Path, say: Say) -> None:
    """Killed after the last file is written and before any takes its place."""
    before = contents(run)
    command = [sys.executable, "-c", KILLED, "evaluate", str(run), *OTHER]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert (run / ".evaluation" / "report.html").exists()
    shutil.move(run / ".evaluation", run.parent / "left")
    assert contents(run) == before
    shutil.move(run.parent / "left", run / ".evaluation")
    assert say("evaluate", run, *OTHER).code == 0
    after = contents(run)
    assert set(after) == set(before)
    changed = {name for name in after if after[name] != before[name]}
    assert set(EVALUATION) - {"samples.json"} <= changed <= set(EVALUATION)


def test_a_folder_that_cannot_be_written_to_fails_before_the_work(
    run: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("the sentences were scored first")

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("sri_pyro.config.judge.evaluate", worked)
    monkeypatch.setattr(Path, "mkdir", refuse)
    refused(say("evaluate", run), f"cannot read or write {run / '.evaluation'}: Permission denied")


def test_two_processes_do_not_evaluate_one_run(run: Path, say: Say) -> None:
    with RunFolder(run).evaluation():
        for name in EVALUATION:
            shutil.copyfile(run / name, run / ".evaluation" / name)
        refused(say("evaluate", run), f"another process evaluates {run}; wait until it has ended, or stop it")
    assert say("evaluate", run).code == 0


def test_a_run_may_be_evaluated_while_it_trains(run: Path, say: Say) -> None:
    with RunFolder(run).training():
        assert say("evaluate", run).code == 0
