"""Labels for arrays: groups of them become xarray datasets whose axes have names; ArviZ's conventions without ArviZ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import xarray as xr

SAMPLED_GROUPS: Final = ("posterior", "proposal", "sample_stats", "log_likelihood")
"""Groups whose variables begin with the axes (chain, draw)."""

DIMS: Final[Mapping[str, tuple[str, ...]]] = {
    "z": ("chain", "draw", "sentence", "z_dim"),
    "log_weight": ("chain", "draw", "sentence"),
    "log_q": ("chain", "draw", "sentence"),
    "log_likelihood/x": ("chain", "draw", "sentence"),
    "trajectory/z": ("chain", "draw", "step", "sentence", "z_dim"),
    "trajectory/energy": ("chain", "draw", "step", "sentence"),
    "trajectory/gradient_norm": ("chain", "draw", "step", "sentence"),
    "trajectory/distance": ("chain", "draw", "step", "sentence"),
    "log_px": ("sentence",),
    "se": ("sentence",),
    "khat": ("sentence",),
    "ess": ("sentence",),
    "n_tokens": ("sentence",),
    "text": ("sentence",),
}
"""The axes of the variables that every evaluation writes; ``netcdf.export`` knows them already."""


def labelled(
    groups: Mapping[str, Mapping[str, ArrayLike]],
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, ArrayLike],
) -> dict[str, xr.Dataset]:
    """Datasets by group; arguments and complaints as of ``netcdf.export``."""
    datasets = {name: _dataset(name, held, dims, coords) for name, held in groups.items()}
    variables = {key for group, held in groups.items() for v in held for key in (v, f"{group}/{v}")}
    axes = {str(axis) for dataset in datasets.values() for axis in dataset.dims}
    for argument, given, known in (("dims", dims, variables), ("coords", coords, axes)):
        if unknown := sorted(set(given) - known):
            raise ValueError(f"{argument} names {unknown}, which no group holds; held: {sorted(known)}.")
    return datasets


def _dataset(
    group: str,
    variables: Mapping[str, ArrayLike],
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, ArrayLike],
) -> xr.Dataset:
    import xarray as xr

    if not group.isidentifier():
        raise ValueError(f"a group's name must be an identifier such as 'evidence'; got {group!r}.")
    arrays = {name: np.asarray(values) for name, values in variables.items()}
    axes = {name: _axes(group, name, array, dims) for name, array in arrays.items()}
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        for axis, size in zip(axes[name], array.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"{group}/{name} has {size} along {axis!r} where another variable of its group "
                    f"has {sizes[axis]}."
                )
    labels = {axis: _labels(group, axis, size, coords) for axis, size in sizes.items()}
    return xr.Dataset({name: (axes[name], array) for name, array in arrays.items()}, coords=labels)


def _axes(
    group: str, variable: str, array: NDArray[Any], dims: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    label = f"{group}/{variable}"
    tables_and_keys = ((dims, label), (dims, variable), (DIMS, label), (DIMS, variable))
    axes = next((tuple(table[key]) for table, key in tables_and_keys if key in table), ())
    if len(axes) != array.ndim:
        raise ValueError(
            f"{label} has shape {array.shape} but its axes are named {axes}; give one name per "
            f"axis in dims[{variable!r}]."
        )
    if group in SAMPLED_GROUPS and axes[:2] != ("chain", "draw"):
        raise ValueError(
            f"{label} must begin with the axes ('chain', 'draw'), as all of group {group!r}; got {axes}."
        )
    return axes


def _labels(group: str, axis: str, size: int, coords: Mapping[str, ArrayLike]) -> NDArray[Any]:
    labels = np.asarray(coords.get(axis, np.arange(size)))
    if len(labels) == size:
        return labels
    if axis in ("chain", "draw"):  # groups differ in how many draws they hold
        return np.arange(size)
    raise ValueError(
        f"group {group!r} has {size} along {axis!r} but coords[{axis!r}] has {len(labels)} labels."
    )
