"""Processes of their own, and the memory that they see rise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fresh
from benchmarks.fresh import MEBIBYTE, forget_peak, held_bytes, in_fresh_process, peak_bytes
from benchmarks.measurements import memory


def test_a_request_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echo.py").write_text(
        "import json, os, sys\nprint('noise')\n"
        "print(json.dumps({**json.loads(sys.argv[1]), 'seen': os.environ['SEEN']}))"
    )
    (tmp_path / "broken.py").write_text("raise SystemExit('no such thing')")
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    assert in_fresh_process("echo", {"a": 1}, SEEN="yes") == {"a": 1, "seen": "yes"}
    with pytest.raises(RuntimeError, match=r"^broken ended with 1: no such thing$"):
        in_fresh_process("broken", {})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_a_peak_is_seen_though_it_is_over_and_forgotten_when_asked() -> None:
    size = 96 * MEBIBYTE
    forget_peak()
    before = held_bytes()
    np.ones(size // 8)  # and gone
    assert 0.9 * size < peak_bytes() - before < 1.3 * size
    forget_peak()
    assert peak_bytes() - before < 0.5 * size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_memory_answers_for_both_contestants(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a size where a tensor of logits is 92 MiB: autograd holds some, the library none."""
    assert set(memory.WORDS) == {"ours", "autograd"}
    monkeypatch.setattr(memory, "SIZE", replace(memory.SIZE, hidden=8, embedding=8, batch=16))
    grown = {name: memory.main({"contestant": name})["grown"] / MEBIBYTE for name in memory.WORDS}
    assert grown["ours"] < 40
    assert grown["autograd"] > 180
