"""Runs of several processes: their folder, how they stop, die and go on, and what they refuse."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from sri_pyro.config import RunFolder
from tests.several.starting import together, values
from tests.several.work import dies, of_unlike_data, trained, weights_of

RUN: dict[str, Any] = {
    "data": {"kind": "pcfg", "num_train": 45, "num_valid": 12, "num_test": 12},
    "model": {
        "prior": {"dim": 2},
        "decoder": {"embedding": 4, "hidden": 6, "dropout": 0.3, "word_dropout": 0.1},
    },
    "inference": {"num_steps": 3, "noise": {"epochs": 2}},
    "step_size": {"kind": "tuner", "every": 4, "num_chains": 6, "num_sentences": 4, "factors": [0.7, 1.0]},
    "training": {"epochs": 3, "batch_size": 16, "checkpoint_every": 2, "log_every": 1, "learning_rate": 0.01},
    "validation": {"num_sentences": 7, "num_samples": 8, "pilot_chains": 4, "batch_size": 3},
}
"""Three batches of 15 sentences an epoch, and three of a validation: neither number is even."""
FILES = {"best.safetensors", "config.toml", "history.jsonl", "last.safetensors", "provenance.json", "run.log",
         "vocabulary.txt"}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs never stopped, by the number of their processes."""
    folder = tmp_path_factory.mktemp("runs")
    for size in (1, 2, 4):
        values(size, trained, RUN, folder / f"{size}")
    return {size: folder / f"{size}" for size in (1, 2, 4)}


def differ(one: Path, other: Path) -> float:
    """The largest difference of two runs' weights."""
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("size", [2, 4])
def test_a_run_is_that_of_one_process(size: int, runs: dict[int, Path]) -> None:
    """Weights, tuned steps, records and validations to rounding, in single precision; one folder, of one writer.

    Catches a validation of one's own batches alone, a tuner that looks at a shard, records of every process.
    """
    assert differ(runs[1], runs[size]) < 1e-5
    assert {path.name for path in runs[size].iterdir()} == FILES
    alone, several = records(runs[1]), records(runs[size])
    assert [record.keys() for record in several] == [record.keys() for record in alone]
    for record, expected in zip(several, alone, strict=True):
        for name, value in expected.items():
            same = value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-4)
            assert record[name] == same, (record, expected)
    log = (runs[size] / "run.log").read_text().splitlines()
    assert sum("begun: configuration" in line for line in log) == 1
    assert f"{size} processes" in log[0]
    assert RunFolder(runs[size]).read_record()["processes"] == size


@pytest.mark.parametrize("asking", [0, 1])
def test_all_stop_if_one_is_asked_to_and_go_on_bit_by_bit(
    asking: int, runs: dict[int, Path], tmp_path: Path
) -> None:
    """Oracle: the run of two processes that never stopped, to the bit; that of one and of four, to rounding."""
    out = tmp_path / "run"
    assert values(2, trained, RUN, out, {asking: 5}) == [5, 5]
    assert records(out)[-1]["step"] == 5
    for size in (4, 1):
        copy = tmp_path / f"with {size}"
        shutil.copytree(out, copy)
        values(size, trained, RUN, copy, None, True)
        assert differ(copy, runs[1]) < 1e-5
    values(2, trained, RUN, out, None, True)
    assert differ(out, runs[2]) == 0.0
    assert records(out) == records(runs[2])


def test_a_killed_process_ends_the_others_and_the_run_goes_on(runs: dict[int, Path], tmp_path: Path) -> None:
    """The survivor hears of it in the very next sum, and not after minutes; what was saved is whole."""
    out = tmp_path / "run"
    survivor, killed = together(2, dies, RUN, out, 6)
    assert killed.code == -signal.SIGKILL
    assert survivor.error == (
        "ProcessLostError: one of the 2 processes was killed, failed, or did not answer for 10 minutes (torchrun says "
        "which)"
    )
    values(2, trained, RUN, out, None, True)
    assert differ(out, runs[2]) == 0.0
    assert records(out) == records(runs[2])


def test_other_data_are_refused(tmp_path: Path) -> None:
    """By every process, before anything is written."""
    for one in together(2, of_unlike_data, RUN, tmp_path / "run"):
        assert one.error.startswith("ValueError: the processes differ in their configuration: process 0 has ")
        assert one.error.endswith("; give every process the same configuration and the same text.")
    assert not list(tmp_path.iterdir())


def test_more_processes_than_sentences_are_refused(tmp_path: Path) -> None:
    few = {**RUN, "training": {**RUN["training"], "batch_size": 2}}
    for one in together(3, trained, few, tmp_path / "run"):
        assert one.error == (
            "ConfigError: there are 3 processes and training.batch_size is 2, so that some would have no sentence; "
            "start at most 2, or raise training.batch_size"
        )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_taken_is_refused_by_all(runs: dict[int, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(runs[2], out)
    for one in together(2, trained, RUN, out):
        assert one.error == (
            f"ConfigError: {out} already holds a run; continue it with --resume, or name another folder with --out"
        )


def test_a_finished_run_is_finished(runs: dict[int, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(runs[2], out)
    before = weights_of(out)
    values(4, trained, RUN, out, None, True)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(out).items())
