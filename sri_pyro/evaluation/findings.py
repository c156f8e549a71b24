"""Findings of a further analysis of a run, beside its evaluation: numbers as JSON, arrays as netCDF."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.export import finite, write_json
from sri_pyro.evaluation.netcdf import export, from_netcdf, to_netcdf
from sri_pyro.wording import shown


@dataclass(frozen=True)
class Variable:
    """An array that a plot or a number came from.

    Attributes:
        values: The array.
        dims: Names of its axes.
        units: ``nat``, ``1``, ``draws`` and so on.
        description: What it is, in a line.
    """

    values: ArrayLike
    dims: Sequence[str]
    units: str
    description: str


@dataclass(frozen=True)
class Findings:
    """What one analysis found.

    Attributes:
        name: Of the analysis; files are called after it.
        numbers: The summary, JSON-able.
        groups: Arrays by group and variable.
        coords: Labels by axis.
    """

    name: str
    numbers: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Variable]] = field(default_factory=dict)
    coords: Mapping[str, ArrayLike] = field(default_factory=dict)


def write_findings(folder: Path, findings: Findings, provenance: Mapping[str, Any]) -> None:
    """Write ``NAME.nc`` and then ``NAME.json`` into a folder, each whole or not at all.

    Args:
        folder: Exists already.
        findings: What to write; a number that is not finite becomes null.
        provenance: JSON-able; goes into both files.
    """
    record = finite(provenance)
    data = export(
        {
            group: {name: each.values for name, each in found.items()}
            for group, found in findings.groups.items()
        },
        {
            f"{group}/{name}": each.dims
            for group, found in findings.groups.items()
            for name, each in found.items()
        },
        findings.coords,
        {"provenance": json.dumps(record, ensure_ascii=False)},
    )
    for group, found in findings.groups.items():
        for name, each in found.items():
            data[group][name].attrs.update(units=each.units, description=each.description)
    to_netcdf(data, folder / f"{findings.name}.nc")
    write_json(folder / f"{findings.name}.json", {**findings.numbers, "provenance": record})


def read_findings(folder: Path, name: str) -> tuple[dict[str, Any], InferenceResult] | None:
    """Numbers and arrays of an analysis; None where it has not been made.

    Raises:
        ValueError: If a file is damaged, or one of the two is missing.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    numbers = read_object(path, "make the analysis again")
    if not (folder / f"{name}.nc").is_file():
        raise ValueError(f"{path} lacks {name}.nc beside it; make the analysis again.")
    return numbers, from_netcdf(folder / f"{name}.nc")


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: Of the file.
        remedy: What to do if it is damaged, for the message.

    Raises:
        ValueError: If it is.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not whole JSON ({error}); {remedy}.") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold an object; got {shown(data)}; {remedy}.")
    return data
