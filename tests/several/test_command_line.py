"""``torchrun -m sri_pyro train``: one voice, one folder, and what a killed worker leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.helpers import ROOT, TINY, Say, refused, write_config
from tests.several.starting import DEADLINE, values
from tests.several.work import commanded, weights_of

LOST = "sri-pyro: one of the 2 processes was killed, failed, or did not answer for 10 minutes (torchrun says which); "


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    from sri_pyro.cli import main
    from tests.cli.helpers import Said

    return lambda *words: Said(main([str(word) for word in words]), *capsys.readouterr())


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A run of two dozen steps that leave time for a kill, saved at every one of them."""
    path = write_config(tmp_path)
    text = TINY.format(path=tmp_path / "text.txt").replace("num_steps = 3", "num_steps = 100")
    path.write_text(
        text.replace("epochs = 2", "epochs = 12").replace("every = 2", "every = 1\nlog_every = 1")
    )
    return path


def launched(logs: Path, *words: object) -> subprocess.Popen[str]:
    """Two processes, each with a file for what it says."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--redirects=3",
               f"--log-dir={logs}", "-m", "sri_pyro", "train", *map(str, words)]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )


def said(logs: Path, rank: int, stream: str) -> str:
    (path,) = logs.glob(f"*/attempt_0/{rank}/{stream}.log")
    return path.read_text()


def worker(launcher: int, rank: int) -> int:
    """The process of that rank."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no process has rank {rank}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a worker by Linux's /proc")
def test_a_killed_worker_ends_the_job_with_one_sentence_and_the_run_goes_on(
    slow: Path, tmp_path: Path, say: Say
) -> None:
    """Through torchrun, twice. Oracle: one process that was never stopped, to rounding."""
    out = tmp_path / "run"
    job = launched(tmp_path / "killed", slow, "--out", out)
    history, deadline = out / "history.jsonl", time.monotonic() + DEADLINE
    while not (history.exists() and history.read_text().count("\n") > 2):
        assert time.monotonic() < deadline
        assert job.poll() is None
    os.kill(worker(job.pid, 1), signal.SIGKILL)
    assert job.wait(DEADLINE) != 0
    first, second = said(tmp_path / "killed", 0, "stderr"), said(tmp_path / "killed", 1, "stderr")
    assert first.splitlines()[-1] == f"{LOST}{out} is as it was last saved, and --resume continues it"
    assert "Traceback" not in first
    assert "2 processes share every batch" in first
    assert second == said(tmp_path / "killed", 1, "stdout") == ""

    job = launched(tmp_path / "resumed", slow, "--out", out, "--resume")
    assert job.wait(DEADLINE) == 0
    assert said(tmp_path / "resumed", 0, "stdout").startswith(f"trained: {out}; best validation nll ")
    assert said(tmp_path / "resumed", 1, "stderr") == said(tmp_path / "resumed", 1, "stdout") == ""

    assert say("train", slow, "--out", tmp_path / "alone").code == 0
    alone = weights_of(tmp_path / "alone")
    for name, weight in weights_of(out).items():
        assert (weight.double() - alone[name].double()).abs().max() < 1e-4, name


def test_what_all_processes_meet_with_one_says(tmp_path: Path) -> None:
    """A folder that is taken: each of three finds it so, one says it and fails, and the others end in silence."""
    write_config(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    words = ["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")]
    assert sorted(values(3, commanded, words, tmp_path)) == [0, 0, 2]
    heard = "".join((tmp_path / f"{rank}.2").read_text() for rank in range(3))
    assert heard.strip() == (
        f"sri-pyro: {tmp_path / 'run'} exists and is not a run folder; name another one with --out"
    )


def test_what_the_first_process_fails_of_is_said_and_not_that_it_was_lost(tmp_path: Path) -> None:
    """A full disk is met with by the process that writes; the other one then loses it, and has nothing to add."""
    write_config(tmp_path)
    words = ["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")]
    assert values(2, commanded, words, tmp_path, True) == [2, 0]
    told = (tmp_path / "0.2").read_text().splitlines()[-1]
    assert told.startswith(f"sri-pyro: cannot read or write {tmp_path}")
    assert told.endswith(": No space left on device")
    assert (tmp_path / "1.2").read_text() == ""


@pytest.mark.parametrize("words", [["evaluate", "run"], ["sample", "run"], ["show"]])
def test_other_commands_compute_in_one_process(
    words: list[str], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    sentence = f"{words[0]} computes in one process, and only train in several; start it without torchrun"
    refused(say(*words), sentence)
    monkeypatch.setenv("RANK", "1")
    assert say(*words) == (0, "", "")
