"""What a run was made on and of."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants.jax_process import available
from sri_pyro.models.decoders import compiled_lstm
from sri_pyro.models.decoders.cells import PLAIN, cells_for

ROOT = Path(__file__).parents[1]
PACKAGES = {"torch": "torch", "pyro": "pyro-ppl", "numpy": "numpy"}
ABSENT = "not available"


def facts() -> dict[str, Any]:
    """All that a number may depend on besides chance: two runs with the same facts can be put together."""
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "changed_since_commit": bool(
            _git("status", "--porcelain", "--", "sri_pyro", "benchmarks", *_RESULTS)
        ),
        "sources": sources_digest(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(package) for name, package in PACKAGES.items()},
        "jax": _version("jax") if available() else ABSENT,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else ABSENT,
        "gpu_cells": torch.cuda.is_available() and cells_for(torch.zeros(1, device="cuda")) is not PLAIN,
        "compiled": compiled_lstm.compiled() is not None,
    }


_RESULTS = tuple(f":!benchmarks/{name}.{kind}" for name in ("latest", "cuda") for kind in ("md", "json"))
"""What a run writes is no change of what it measures."""


def sources_digest() -> str:
    """SHA-256 of everything that is run."""
    digest = hashlib.sha256()
    for folder in ("sri_pyro", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".c", ".h"):
                digest.update(f"{path.relative_to(ROOT)}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def processor() -> str:
    """Its name, as the system tells it."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                vectors = "AVX-512" if "avx512f" in table.read_text(errors="replace") else "no AVX-512"
                return f"{line.split(':', 1)[1].strip()} ({vectors})"
    return f"{platform.machine()} {platform.processor()}".strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def _git(*arguments: str) -> str:
    """What git says; nothing outside a checkout, or without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
