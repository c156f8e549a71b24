"""Processes of their own, and the memory that they see rise."""

from pathlib import Path

import pytest

import benchmarks
from benchmarks import fresh
from benchmarks.fresh import MEBIBYTE, in_fresh_process
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


# A heap in which others have worked may hold what is asked for already, so that nothing rises: fresh processes.
PEAKS = """
import json
import numpy as np
from benchmarks.fresh import forget_peak, held_bytes, peak_bytes
before = held_bytes()
np.ones(SIZE // 8)  # and gone
seen = peak_bytes() - before
forget_peak()
print(json.dumps({"seen": seen, "kept": peak_bytes() - before}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_a_peak_is_seen_though_it_is_over_and_forgotten_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 96 * MEBIBYTE
    (tmp_path / "peaks.py").write_text(PEAKS.replace("SIZE", str(size)))
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    peak = in_fresh_process("peaks", {}, PYTHONPATH=str(Path(benchmarks.__file__).parents[1]))
    assert 0.9 * size < peak["seen"] < 1.3 * size
    assert peak["kept"] < 0.5 * size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_memory_answers_for_both_contestants() -> None:
    """At a size where a tensor of logits is 92 MiB: autograd holds some, the library none."""
    assert set(memory.WORDS) == {"ours", "autograd"}
    grown = {
        name: memory.grown_bytes(name, hidden=8, embedding=8, batch=16) / MEBIBYTE for name in memory.WORDS
    }
    assert grown["ours"] < 40
    assert grown["autograd"] > 180
