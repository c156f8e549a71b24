"""Work in a process of its own, where memory has not been touched by others; and how high its memory rose."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MEBIBYTE = 2**20
STATUS = Path("/proc/self/status")


def in_fresh_process(module: str, request: dict[str, Any], **environment: str) -> dict[str, Any]:
    """What a module's ``main`` answers to a request, both JSON objects.

    Raises:
        RuntimeError: If the process fails; its last words are in the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(request)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def peak_bytes() -> int:
    """The most memory that this process has held since ``forget_peak``, or since it began."""
    if (held := _status("VmHWM")) is not None:
        return held
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def held_bytes() -> int:
    """The memory that this process holds now; where that is not told, the most that it has held."""
    held = _status("VmRSS")
    return peak_bytes() if held is None else held


def forget_peak() -> None:
    """Let the peak begin anew where the system can; elsewhere a growth below an earlier peak is not seen."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int | None:
    if not STATUS.exists():
        return None
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
