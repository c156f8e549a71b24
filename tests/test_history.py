"""The history of a run, in memory and as JSON lines: whatever is killed when, records are whole and in order."""

import json
import re
from pathlib import Path

import pytest

from sri_pyro.checkpoint import CheckpointError
from sri_pyro.history import History


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_keep_kind_order_and_values() -> None:
    history = History()
    history.add("step", step=1, loss=2.5)
    history.add("validation", step=1, nll=41.5)
    history.add("step", step=2, loss=2.0, note="clipped")
    assert len(history) == 3
    assert history.of("step") == [
        {"kind": "step", "step": 1, "loss": 2.5},
        {"kind": "step", "step": 2, "loss": 2.0, "note": "clipped"},
    ]
    assert history.of("event") == []
    history.flush()  # without a file there is nothing to write


def test_watch_sees_every_record_as_it_is_added() -> None:
    seen: list[dict] = []
    history = History(watch=lambda record: seen.append(dict(record)))
    history.add("event", what="diverged", step=4)
    assert seen == [{"kind": "event", "what": "diverged", "step": 4}]


def test_flush_appends_what_is_new_and_only_once(tmp_path: Path) -> None:
    """Catches a flush that rewrites, writes twice, or buffers until the end."""
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.add("step", step=1)
    assert not path.exists() or not path.read_text()
    history.flush()
    history.flush()
    assert [record["step"] for record in lines(path)] == [1]
    history.add("step", step=2)
    history.add("step", step=3)
    history.flush()
    assert [record["step"] for record in lines(path)] == [1, 2, 3]
    assert path.read_text().endswith("\n")


def written(path: Path, count: int) -> History:
    history = History(path)
    for step in range(count):
        history.add("step", step=step, loss=0.1 + step)
    history.flush()
    return history


@pytest.mark.parametrize("keep", [0, 3, 5])
def test_truncate_forgets_what_came_after_the_checkpoint(keep: int, tmp_path: Path) -> None:
    """Steps that will be taken again must not stand twice: neither in memory nor in the file."""
    path = tmp_path / "history.jsonl"
    written(path, 5)
    resumed = History(path)
    resumed.truncate(keep)
    assert len(resumed) == keep
    assert [record["step"] for record in resumed.of("step")] == list(range(keep))
    assert [record["step"] for record in lines(path)] == list(range(keep))
    resumed.add("step", step=keep)
    resumed.flush()
    assert [record["step"] for record in lines(path)] == list(range(keep + 1))


def test_a_run_stopped_before_its_first_record_has_none(tmp_path: Path) -> None:
    """Ctrl-C before ``log_every`` steps leaves a checkpoint and no history; resuming failed over the missing file."""
    resumed = History(tmp_path / "history.jsonl")
    resumed.truncate(0)
    assert len(resumed) == 0


@pytest.mark.parametrize("there", [True, False])
def test_records_that_a_checkpoint_counted_and_nobody_finds_are_missed(there: bool, tmp_path: Path) -> None:
    """A curve with a hole in it would pass for the run's."""
    path = tmp_path / "history.jsonl"
    if there:
        written(path, 2)
    sentence = (
        f"{path} holds {2 if there else 0} records, and the checkpoint beside it was written after 3; it was "
        "truncated or removed. Restore it from a copy, or train again."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        History(path).truncate(3)


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.add("step", loss=0.1 + 0.2, tiny=5e-324, word="ü")
    history.flush()
    resumed = History(path)
    resumed.truncate(1)
    assert resumed.of("step") == history.of("step")


@pytest.mark.parametrize("tail", ['{"kind": "step", "st', '{"kind": "step"}', "\x00\x00\x00"])
def test_a_line_cut_short_by_a_kill_is_dropped(tail: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of a write leaves half a line after the last checkpoint; resuming must mend it."""
    path = tmp_path / "history.jsonl"
    written(path, 4)
    with path.open("a") as file:
        file.write(tail)
    resumed = History(path)
    resumed.truncate(3)
    resumed.add("step", step=3)
    resumed.flush()
    assert [record["step"] for record in lines(path)] == [0, 1, 2, 3]


def test_a_number_that_json_does_not_know_still_leaves_readable_lines(tmp_path: Path) -> None:
    """A NaN loss is news: it must be recorded, and read back."""
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.add("event", loss=float("nan"), gap=float("inf"))
    history.flush()
    resumed = History(path)
    resumed.truncate(1)
    record = resumed.of("event")[0]
    assert record["loss"] != record["loss"]
    assert record["gap"] == float("inf")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"kind": "step", "lo', "is not JSON"),
        ("[1]", "is not a record of training"),
        ('{"step": 1}', "is not a record of training"),
        ('{"kind": "validation", "step": 1}', "is a validation without the number nll"),
        ('{"kind": "validation", "nll": "low"}', "is a validation without the number nll"),
    ],
)
def test_a_damaged_record_is_named_and_the_file_stays(line: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    written(path, 3)
    kept = path.read_text().splitlines()
    path.write_text("\n".join([kept[0], line, kept[2]]) + "\n")
    before = path.read_text()
    sentence = (
        f"line 2 of {path} {fault}; it was truncated or altered. Restore it from a copy, or train again."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        History(path).truncate(3)
    assert path.read_text() == before


def test_a_binary_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    sentence = (
        f"{path} is not UTF-8 text; it was truncated or altered. Restore it from a copy, or train again."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        History(path).truncate(1)
