"""Provenance: what a result was made from, by what, and how to make it again."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

import sri_pyro
from sri_pyro.config.settings import Config

WITHOUT_NUMBERS: Final = ("cli", "comparing")
"""Rooms that start runs and lay out what they found, and whose code no number of a run depends on."""

PACKAGES = {"torch": "torch", "pyro": "pyro-ppl", "numpy": "numpy", "arviz": "arviz", "sri_pyro": "sri_pyro"}


def provenance(
    config: Config, data: Mapping[str, Any], command: Sequence[str], processes: int = 1
) -> dict[str, Any]:
    """The record of a run: JSON-able, and the same whenever nothing has changed.

    Args:
        config: What was asked for.
        data: ``Corpus.record()``.
        command: The command line.
        processes: How many train together.
    """
    return {
        "configuration": config.plain(),
        "configuration_digest": config.digest,
        "seed": config.seed,
        "data": dict(data),
        "data_digest": data["digest"],
        "source_digest": source_digest(),
        "versions": versions(),
        "command": " ".join(command),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "processes": processes,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def source_digest(package: Path | None = None) -> str:
    """SHA-256 of the library's source as it lies on disk, in hexadecimal: of all that numbers can depend on.

    Presets are not in it, for a run's configuration says all that they said; nor are templates of pages.

    Args:
        package: Its folder; this library's own by default.
    """
    folder = package or Path(sri_pyro.__path__[0])
    files = (path for end in ("py", "c", "h") for path in folder.rglob(f"*.{end}"))
    named = {path.relative_to(folder).as_posix(): path for path in files}
    digest = hashlib.sha256()
    for name in sorted(named):
        if name.split("/")[0] not in WITHOUT_NUMBERS:
            content = named[name].read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
