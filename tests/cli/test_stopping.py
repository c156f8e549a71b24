"""Ctrl-C and a reader who has seen enough: one line or none, the right exit code, and what stands is said."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sri_pyro.cli import describing
from sri_pyro.config import Run, describe, load_run
from sri_pyro.config import judge as judging
from sri_pyro.config import run as running
from tests.cli.helpers import ROOT, SENTENCES, Said, Say

NOTHING = "stopped; nothing was written"


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def stopped(said: Said, line: str) -> None:
    """The one line, after what a bar or a note has said."""
    assert said.code == 130
    assert said.err.splitlines()[-1] == line
    assert said.err.count("stopped") == 1
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "place", "name"),
    [
        ("sample {run}", Run, "sampled"),
        ("interpolate {run} a b", Run, "interpolated"),
        ("score {run} {text}", running, "estimate_evidence"),
        ("score {run} {text} --out {out}", running, "estimate_evidence"),
        ("encode {run} {text} --out {out}", pd.DataFrame, "to_csv"),
        ("show", describing, "_options"),
        ("show paper", describe, "parse_config"),
        ("presets", describe.presets, "__code__"),
    ],
)
def test_a_stopped_command_says_so_and_leaves_nothing(
    words: str,
    place: Any,
    name: str,
    say: Say,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interrupt arrives in the middle of the work. Catches a traceback, silence, and half a table."""
    (tmp_path / "few.txt").write_text("\n".join(SENTENCES[:3]))
    monkeypatch.setattr(place, name, interrupt.__code__ if name == "__code__" else interrupt)
    out = tmp_path / "out.csv"
    stopped(say(*words.format(run=trained, text=tmp_path / "few.txt", out=out).split()), NOTHING)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.txt"]


def test_an_evaluation_that_is_stopped_says_what_stands(
    say: Say, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the bytes of the files. Catches a command that calls an old evaluation its own, or a mixture whole."""
    kept = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "run.log"}
    with monkeypatch.context() as patch:
        patch.setattr(judging, "evaluate", interrupt)
        stopped(say("evaluate", run), f"{NOTHING}, and the evaluation in {run} stands")
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != "run.log"} == kept
    with monkeypatch.context() as patch:
        patch.setattr("sri_pyro.evaluation.report.write_report", interrupt)
        for command in ("evaluate", "report"):
            stopped(say(command, run), f"{NOTHING}, and the evaluation in {run} stands")
        assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != "run.log"} == kept
    with monkeypatch.context() as patch:
        patch.setattr("sri_pyro.config.readable", interrupt)
        stopped(say("evaluate", run), f"stopped; {run / 'report.html'} was written")
    for name in ("metrics.json", "report.html"):
        (run / name).unlink()
    monkeypatch.setattr(judging, "evaluate", interrupt)
    stopped(say("evaluate", run), NOTHING)


@pytest.fixture
def by_three(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(running, "WRITTEN_AT_ONCE", 3)
    return 3


def test_sentences_that_are_written_stand(
    by_three: int, say: Say, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = say("sample", trained, "--num", 9).out.splitlines()
    sampled = Run.sampled

    def two_batches(*arguments: Any) -> Iterator[list[str]]:
        batches = sampled(*arguments)
        yield next(batches)
        yield next(batches)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "sampled", two_batches)
    said = say("sample", trained, "--num", 9)
    stopped(said, "stopped after 6 sentences")
    assert said.out.splitlines() == whole[:6]


def test_a_stream_is_cut_into_bounded_batches(
    by_three: int, trained: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    """Catches a stream that draws or writes everything at once, drops the last batch, or restarts its noise."""
    sizes: list[int] = []
    write = Run.write

    def counted(self: Run, z: Any, *rest: Any) -> list[str]:
        sizes.append(len(z))
        return write(self, z, *rest)

    monkeypatch.setattr(Run, "write", counted)
    eight = say("sample", trained, "--num", 8).out.splitlines()
    assert (len(eight), sizes) == (8, [3, 3, 2])
    assert len(set(eight)) > 3
    assert say("sample", trained, "--num", 8).out.splitlines() == eight
    assert say("sample", trained, "--num", 7).out.splitlines()[:6] == eight[:6]
    first = next(load_run(trained).sampled(10**12))
    assert len(first) == 3
    sizes.clear()
    way = say("interpolate", trained, SENTENCES[0], SENTENCES[-1], "--steps", 7).out.splitlines()
    assert (len(way), sizes) == (7, [3, 3, 1])
    monkeypatch.setattr(running, "WRITTEN_AT_ONCE", 100)
    assert say("interpolate", trained, SENTENCES[0], SENTENCES[-1], "--steps", 7).out.splitlines() == way


@pytest.mark.parametrize("words", [["sample", "--num", "1000000"], ["interpolate", "--steps", "100000"]])
def test_a_reader_of_a_long_stream_may_leave(words: list[str], trained: Path) -> None:
    """Through a real pipe that is closed after a line: exit code 0 and not a word, long before the end."""
    command, *options = words
    ends = [SENTENCES[0], SENTENCES[-1]] if command == "interpolate" else []
    process = subprocess.Popen(
        [sys.executable, "-m", "sri_pyro", command, str(trained), *ends, *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert process.stderr.read() == ""
    process.stderr.close()
