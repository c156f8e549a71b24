"""An export for ArviZ: labelled groups as its container, and as netCDF that both of its generations read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from sri_pyro.evaluation.diagnostics import InferenceResult, is_classic, load_arviz
from sri_pyro.evaluation.labelling import labelled
from sri_pyro.writing import atomic_path

if TYPE_CHECKING:
    import xarray as xr


def export(
    groups: Mapping[str, Mapping[str, ArrayLike]],
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
) -> InferenceResult:
    """Label arrays and hand them to ArviZ, with every group kept in both generations.

    The layout that makes ``az.ess``, ``az.summary`` and the plots come out: ``posterior`` holds
    the short-run draws and ``proposal`` the importance-sampling draws with their ``log_weight``
    (two groups, for they follow different laws); ``evidence``, ``trajectory``, ``sample_stats``,
    ``log_likelihood``, ``constant_data`` and ``observed_data`` as their names say. ``chain`` counts
    independent replicates, ``draw`` the exchangeable runs within one.

    Args:
        groups: Arrays by group and variable.
        dims: Axis names by variable, before those of ``labelling.DIMS``; ``"group/variable"`` where two
            groups hold different things by one name.
        coords: Labels by axis, for instance the corpus ids of ``sentence``. Axes without labels, and
            ``chain`` and ``draw`` of other lengths, are numbered from 0.
        attrs: Facts about the whole: versions, seed, configuration as a JSON string.

    Returns:
        ``InferenceData`` or ``DataTree``, by the ArviZ that is installed.

    Raises:
        ValueError: If a variable has no axis names, or they do not fit its shape or its labels; if
            dims or coords name what no group holds; if a sampled group does not begin with (chain,
            draw); if a group's name is not an identifier; or if an attribute is not a string or
            number.

    Example:
        >>> import numpy as np
        >>> data = export({"posterior": {"z": np.zeros((2, 100, 5, 3))}, "evidence": {"log_px": [0.0] * 5}})
        >>> dict(data["posterior"]["z"].sizes)
        {'chain': 2, 'draw': 100, 'sentence': 5, 'z_dim': 3}
    """
    attrs = dict(attrs or {})
    for name, value in attrs.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(
                f"attribute {name!r} must be a string or a number to be stored in netCDF; got "
                f"{type(value).__name__}. Write it as a string, json.dumps for instance."
            )
    return _container(labelled(groups, dims or {}, coords or {}), attrs)


def _container(datasets: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> InferenceResult:
    az = load_arviz()
    if is_classic(az):  # its from_dict drops groups it does not know; the constructor keeps them
        return az.InferenceData(attrs=dict(attrs), **datasets)
    return _tree(datasets, attrs)


def _tree(datasets: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
    import xarray as xr

    tree = xr.DataTree.from_dict(dict(datasets))
    tree.attrs.update(attrs)
    return tree


def _groups_of(data: InferenceResult) -> dict[str, xr.Dataset]:
    if hasattr(data, "children"):
        return {name: child.to_dataset() for name, child in data.children.items()}
    return dict(data.items())


def to_netcdf(data: InferenceResult, path: str | os.PathLike[str]) -> Path:
    """Write an export to netCDF, whole or not at all; either generation reads what the other wrote.

    Numbers are compressed (zlib level 4 after byte shuffling).

    Returns:
        The path written to.
    """
    path = Path(path)
    groups = _groups_of(data)
    encoding = {
        f"/{group}": {
            name: {"zlib": True, "complevel": 4, "shuffle": True}
            for name, variable in dataset.variables.items()
            if variable.dtype.kind in "iufb" and variable.ndim > 0
        }
        for group, dataset in groups.items()
    }
    # Made in memory: on a disk that runs full the HDF5 library takes the process down with it.
    content = _tree(groups, data.attrs or {}).to_netcdf(engine="h5netcdf", encoding=encoding)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def from_netcdf(path: str | os.PathLike[str]) -> InferenceResult:
    """Read an export into memory; the file is closed afterwards.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not netCDF, or is damaged.
    """
    import xarray as xr

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; write one with to_netcdf.")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            tree.load()
    except OSError as error:
        raise ValueError(f"{path} cannot be read as netCDF; write it again.") from error
    return _container(_groups_of(tree), dict(tree.attrs))
