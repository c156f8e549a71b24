"""A comparison interrupted or killed, by real signals to real processes, and what the same command makes of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sri_pyro.comparing import Asked, Outcome, compare, plan
from sri_pyro.config import RunFolder
from tests.cli.helpers import ROOT
from tests.comparing.helpers import Calls, write_systems


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes outlive their parent elsewhere")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_goes_on_to_the_same_numbers(
    number: signal.Signals, made: tuple[Path, Outcome], tmp_path: Path, calls: Calls
) -> None:
    """Oracle: the bytes of an evaluation that was never interrupted. Two runs are under way when the signal comes."""
    sources = [str(path) for path in write_systems(tmp_path)[:2]]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sri_pyro", "compare", *sources, "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folders = [RunFolder(out / name / "seed-0") for name in ("lm", "two")]
    while not any(folder.last.exists() for folder in folders):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1] == (
            "stopped and saved; 0 runs are done and 2 are not: the same command goes on"
        )
        assert all(not folder.exists or folder.idle() for folder in folders)
    else:
        assert process.returncode == -signal.SIGKILL
    assert "Traceback" not in err
    assert not (out / "table.csv").exists()
    outcome = compare(Asked(sources, out))
    assert (outcome.failed, outcome.done) == ({}, 2)
    assert "evaluate two/seed-0" in calls.told
    for name in ("lm", "two"):
        file = Path(name) / "seed-0" / "sentences.csv"
        assert (out / file).read_bytes() == (made[0] / "out" / file).read_bytes()
    assert [line.split(": ")[1] for line in plan(Asked(sources, out))] == ["done", "done"]
