"""A run stopped anywhere and resumed is the run never stopped, bit by bit.

Sums in another order are other sums, so both runs compute with the same number of threads: one, in this process
and in those that are killed, but where the number is what is tested.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from sri_pyro import checkpoint
from sri_pyro.checkpoint import CheckpointError
from sri_pyro.config import ConfigError, RunFolder, Told, load_run, parse_config, train
from sri_pyro.config.layers import merged
from sri_pyro.config.settings import Config
from sri_pyro.data import DataError
from sri_pyro.training import Stopped

pytestmark = pytest.mark.usefixtures("one_thread")  # tests that want several threads say so

ROOT = Path(__file__).parents[1]
RUN: dict[str, Any] = {
    "data": {"kind": "pcfg", "num_train": 60, "num_valid": 12, "num_test": 12},
    "model": {
        "prior": {"dim": 2},
        "decoder": {"embedding": 4, "hidden": 6, "dropout": 0.3, "word_dropout": 0.1},
    },
    "inference": {"num_steps": 3, "noise": {"epochs": 2}},
    "step_size": {"kind": "tuner", "every": 3, "num_chains": 8, "num_sentences": 4},
    "training": {"epochs": 4, "batch_size": 16, "checkpoint_every": 3, "log_every": 1, "learning_rate": 0.01},
    "validation": {"num_sentences": 6, "num_samples": 8, "pilot_chains": 4},
}
PLATEAU = merged(
    RUN,
    {
        "training": {
            "optimizer": "sgd",
            "decay": "plateau",
            "decay_factor": 0.5,
            "patience": 1,
            "max_decays": 1,
            "learning_rate": 10.0,
        }
    },
)
"""A rate so large that validation gets worse at once, and the best weights are read back."""

KILLED = """
import os, signal, sys
from pathlib import Path
from sri_pyro import checkpoint
from sri_pyro.config import parse_config, train, Told
import json, torch, sri_pyro.step, sri_pyro.history, sri_pyro.config.folder

torch.set_num_threads(int(sys.argv[5]))
moment, count, out, data = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
calls = 0

def killing(function):
    def wrapped(*arguments, **keywords):
        global calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return wrapped

if moment == "replace":     # a new file is whole, and has not taken its place
    Path.replace = killing(Path.replace)
elif moment == "save":      # the history is written, the checkpoint is not
    checkpoint.save_file = killing(checkpoint.save_file)
elif moment == "step":      # between checkpoints
    sri_pyro.step._update = killing(sri_pyro.step._update)
elif moment == "rename":    # the folder is made, and has not got its name
    Path.rename = killing(Path.rename)
train(parse_config(data), Path(out), resume=(Path(out) / "config.toml").exists())
"""


def killed(moment: str, count: int, out: Path, data: Mapping[str, Any], threads: int = 1) -> int:
    """Train in another process, and kill it at the given call of what the moment names."""
    command = [sys.executable, "-c", KILLED, moment, str(count), str(out), json.dumps(data), str(threads)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(parse_config(RUN), tmp_path_factory.mktemp("whole") / "run")


def uninterrupted(config: Config, out: Path) -> Path:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        train(config, out)
    torch.set_num_threads(before)
    return out


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        one, one_state = checkpoint.load(a / name)
        two, two_state = checkpoint.load(b / name)
        assert one.keys() == two.keys()
        different = [key for key in one if not torch.equal(one[key], two[key])]
        assert not different, (name, different)
        assert one_state == two_state
    assert (a / "history.jsonl").read_text() == (b / "history.jsonl").read_text()
    assert (a / "config.toml").read_text() == (b / "config.toml").read_text()
    assert not list(b.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("moment", "count", "left"),
    [
        pytest.param("rename", 1, {}, id="before the folder has its name"),
        pytest.param("save", 1, {"history": False, "last": False}, id="before the checkpoint of the beginning"),
        pytest.param("step", 6, {"history": False, "last": True}, id="before the first checkpoint on the way"),
        pytest.param("save", 2, {"history": True, "last": True}, id="between the first history and checkpoint"),
        pytest.param("save", 4, {"last": True, "best": True}, id="between best weights and checkpoint of an epoch"),
        pytest.param("step", 10, {"last": True}, id="between two checkpoints"),
        pytest.param("replace", 9, {"last": True}, id="before a checkpoint takes its place"),
    ],
)  # fmt: skip
def test_killed_and_resumed_is_bit_identical(
    moment: str, count: int, left: dict[str, bool], whole: Path, tmp_path: Path
) -> None:
    """Oracle: the run never stopped. A generator, a tuned step or an optimiser state lost would differ.

    Four rehearsed steps come before the first real one, so the sixth is the second.
    """
    out = tmp_path / "run"
    assert killed(moment, count, out, RUN) == -signal.SIGKILL
    assert out.exists() == bool(left)
    for name, there in left.items():
        assert getattr(RunFolder(out), name).exists() == there, name
    train(parse_config(RUN), out, resume=True)
    assert_same_run(whole, out)


@pytest.mark.parametrize(
    "left", [("history.jsonl",), ("best.safetensors",), ("history.jsonl", "best.safetensors")]
)
def test_a_lost_checkpoint_is_not_begun_over(left: tuple[str, ...], whole: Path, tmp_path: Path) -> None:
    """No kill leaves that behind, so somebody removed it; a resume that begins again throws hours away."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for path in out.iterdir():
        if path.name in {"last.safetensors", "history.jsonl", "best.safetensors"} - set(left):
            path.unlink()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError) as told:
        train(parse_config(RUN), out, resume=True)
    assert str(told.value) == (
        f"{out} has lost last.safetensors, without which training cannot go on ({', '.join(left)} is there); "
        "restore it, or train again into another folder"
    )
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "run.log"} == {
        name: content for name, content in before.items() if name != "run.log"
    }


def test_a_folder_that_lost_its_vocabulary_is_not_resumed(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "vocabulary.txt").unlink()
    with pytest.raises(DataError, match=re.escape(str(out / "vocabulary.txt"))):
        train(parse_config(RUN), out, resume=True)


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
def test_a_checkpoint_of_another_run_of_equal_shapes_is_refused(
    name: str, whole: Path, tmp_path: Path
) -> None:
    """Only digests tell them apart: shapes, names and values all pass. Planted: identities not compared."""
    other = uninterrupted(parse_config(RUN, ["seed=1"]), tmp_path / "other")
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.copyfile(other / name, out / name)
    sentence = (
        f"{out / name} belongs to another run, of another configuration; put this run's own file back, or "
    )
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        train(parse_config(RUN), out, resume=True)
    if name == "best.safetensors":
        with pytest.raises(CheckpointError, match=re.escape(sentence)):
            load_run(out)


def test_two_processes_do_not_train_one_folder(whole: Path, tmp_path: Path) -> None:
    """The lock is the kernel's: it is held by another open file, as another process would, and falls with it."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with RunFolder(out).training(), pytest.raises(ConfigError) as told:
        train(parse_config(RUN), out, resume=True)
    assert str(told.value) == f"another process trains {out}; wait until it has ended, or stop it"
    train(parse_config(RUN), out, resume=True)


def test_killed_twice_while_resuming(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for moment, count in (("step", 10), ("replace", 2), ("save", 2)):
        assert killed(moment, count, out, RUN) == -signal.SIGKILL
    train(parse_config(RUN), out, resume=True)
    assert_same_run(whole, out)


@pytest.mark.parametrize("after", [1, 4, 7, 15])
def test_stopped_by_request_and_resumed_is_bit_identical(after: int, whole: Path, tmp_path: Path) -> None:
    """7 is not a multiple of ``checkpoint_every`` and 4 ends an epoch: a stop saves wherever it is."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == after

    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(parse_config(RUN), out, told=Told(should_stop=stop))
    train(parse_config(RUN), out, resume=True)
    assert_same_run(whole, out)


def test_plateau_decay_resumes_bit_identical(tmp_path: Path) -> None:
    """Going back to the best weights and a cleared optimiser state survive a kill, just before and after."""
    config = parse_config(PLATEAU)
    whole = uninterrupted(config, tmp_path / "whole")
    events = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    decayed = [e["step"] // 4 for e in events if e.get("message") == "learning rate decayed to 5"]
    assert (
        len(decayed) == 1
    )  # four steps make an epoch, and each epoch writes three checkpoints after the first
    for count in (3 * decayed[0], 3 * decayed[0] + 1):  # the last before the decay, and the one after
        out = tmp_path / f"run{count}"
        assert killed("save", count, out, PLATEAU) == -signal.SIGKILL
        train(config, out, resume=True)
        assert_same_run(whole, out)


@pytest.mark.parametrize("threads", [2, 3])
def test_resumes_with_the_threads_that_it_began_with(threads: int, tmp_path: Path) -> None:
    """Begun with several threads and continued by a process that has one, as on a busy machine.

    Oracle: the run never stopped, in a process of that many. A resume that kept its own number would round
    differently, and this run, whose rate is far too large, makes much of it.
    """
    assert killed("never", 0, tmp_path / "whole", PLATEAU, threads) == 0
    out = tmp_path / "run"
    assert killed("save", 6, out, PLATEAU, threads) == -signal.SIGKILL
    assert RunFolder(out).read_record()["threads"] == threads
    train(parse_config(PLATEAU), out, resume=True)
    assert_same_run(tmp_path / "whole", out)
    assert torch.get_num_threads() == 1  # the caller's number is given back


def test_resuming_a_finished_run_changes_nothing(whole: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir() if path.name != "run.log"}
    history = train(parse_config(RUN), whole, resume=True)
    assert {path.name: path.read_bytes() for path in whole.iterdir() if path.name != "run.log"} == before
    assert len(history.of("validation")) == 4


def test_another_seed_is_another_run(whole: Path, tmp_path: Path) -> None:
    """The comparison above could pass on files that never change."""
    other = uninterrupted(parse_config(RUN, ["seed=1"]), tmp_path / "run")
    ours, theirs = (checkpoint.load(path / "last.safetensors")[0] for path in (whole, other))
    assert not torch.equal(ours["model/decoder.output.weight"], theirs["model/decoder.output.weight"])


def test_watching_and_costing_do_not_change_the_run(whole: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    out = tmp_path / "run"
    train(parse_config(RUN), out, told=Told(cost=seen.append, watch=seen.append))
    assert_same_run(whole, out)
    assert str(seen[0]).startswith("about ")
    assert {record["kind"] for record in seen[1:]} == {"step", "validation"}


def test_a_failing_writer_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.ones(3)}, {})

    def half(tensors: Mapping[str, torch.Tensor], file: Path, metadata: Mapping[str, str]) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(path, {"a": torch.zeros(3)}, {})
    assert checkpoint.load(path)[0]["a"].tolist() == [1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
