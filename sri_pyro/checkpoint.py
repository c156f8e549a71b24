"""Checkpoints: tensors and a JSON header in one safetensors file, written atomically and never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sri_pyro.writing import atomic_path

HEADER = "sri_pyro"
DIGEST = "sri_pyro.digest"
IDENTITY = "identity"
"""Key of the header under which digests of what a run is made from are kept, by name."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not belong to this model."""


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a JSON-able header as one file."""
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(header)
    metadata = {HEADER: text, DIGEST: digest(contiguous, text)}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written ({error}); is the disk full?") from None


def load(path: Path, identity: Mapping[str, str] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save`` wrote.

    Args:
        path: Of the file.
        identity: What its header must say under ``IDENTITY``: weights of equal shapes that were trained on other
            data, or with another vocabulary, would load and mean nothing.

    Raises:
        CheckpointError: If the file is missing, truncated, not one of ours, or of another run.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; train first, or name another run folder.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            if metadata[DIGEST] != digest(tensors, metadata[HEADER]):
                raise SafetensorError("its digest is not that of its content")
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint of this library ({error}); it was truncated or altered. "
            "Restore it from a copy, or train again."
        ) from None
    saved = header.get(IDENTITY, {})
    if other := [name for name, digest in (identity or {}).items() if saved.get(name) != digest]:
        raise CheckpointError(
            f"{path} belongs to another run, of another {' and '.join(other)}; put this run's own file back, or "
            "train again."
        )
    return tensors, header


def digest(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """SHA-256 of names, types, shapes, values and the header: a flipped bit in a weight is noticed."""
    found = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def prefixed(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put ``name/`` in front of every key, so that several dictionaries share a file."""
    return {f"{name}/{key}": value for key, value in tensors.items()}


def part(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``prefixed(name, ...)`` put into a file."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}/")}


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors into a module; names, shapes and finiteness must agree.

    Raises:
        CheckpointError: With the first disagreement.
    """
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            where = "the configuration has no" if name in tensors else "the checkpoint has no"
            raise CheckpointError(
                f"{what} does not fit its configuration: {where} '{name}'. Use the configuration and the "
                "checkpoint of one and the same run."
            )
        if tensors[name].shape != expected[name].shape:
            raise CheckpointError(
                f"{what} does not fit its configuration: '{name}' has shape {tuple(tensors[name].shape)}, "
                f"the configuration makes {tuple(expected[name].shape)}. A different vocabulary or width?"
            )
        if tensors[name].is_floating_point() and not bool(tensors[name].isfinite().all()):
            raise CheckpointError(f"{what} holds values in '{name}' that are not finite; it was damaged.")
    module.load_state_dict(dict(tensors))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state, parted into tensors and plain numbers."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    return tensors, {"groups": state["param_groups"], "numbers": numbers}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Put back what ``optimizer_tensors`` took apart.

    Raises:
        CheckpointError: If another kind of optimiser, or one of other weights, was saved.
    """
    now = optimizer.state_dict()["param_groups"]
    if [set(group) for group in now] != [set(group) for group in header["groups"]] or any(
        len(ours["params"]) != len(saved["params"]) for ours, saved in zip(now, header["groups"], strict=True)
    ):
        raise CheckpointError(
            "the checkpoint's optimiser is not the one the configuration builds; resume with the configuration "
            "the run was started with."
        )
    state: dict[int, dict[str, Any]] = {int(i): dict(entries) for i, entries in header["numbers"].items()}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": header["groups"]})
