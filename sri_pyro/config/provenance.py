"""Provenance: what a result was made from, by what, and how to make it again."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from sri_pyro.config.settings import Config

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
