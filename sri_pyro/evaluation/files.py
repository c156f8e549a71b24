"""What the JSON files of an evaluation must hold: derived from the records that are written, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_args, get_origin, get_type_hints

from sri_pyro.evaluation.aggregate import Aggregate
from sri_pyro.evaluation.chains import Divergence
from sri_pyro.evaluation.export import Texts
from sri_pyro.evaluation.guarantees import Guarantees
from sri_pyro.evaluation.latent_space import Settling
from sri_pyro.evaluation.metrics import Floor, JensenCheck, Perplexity
from sri_pyro.evaluation.units import ActiveUnits
from sri_pyro.evaluation.weight_summary import Folding, Tails, Worth
from sri_pyro.types import Estimate
from sri_pyro.wording import listed, shown

METRICS: Final[Mapping[str, type]] = MappingProxyType({
    "perplexity": Perplexity,
    "nll": Estimate,
    "reconstruction": Estimate,
    "kl_posterior_prior": Estimate,
    "kl_q_prior": Estimate,
    "kl_q_posterior": Estimate,
    "mutual_information": Estimate,
    "active_units": ActiveUnits,
    "khat": Tails,
    "ess": Worth,
    "jensen": JensenCheck,
    "divergence": Divergence,
})  # fmt: skip
"""What ``metrics.json`` has of every model."""
OF_CODES: Final[Mapping[str, type]] = MappingProxyType(
    {"posterior_spread_ratio": Estimate, "aggregate": Aggregate}
)
"""What it has of a model with codes besides."""
AT_TIMES: Final[Mapping[str, type]] = MappingProxyType(
    {"short_run": Settling, "folding": Folding, "floor": Floor, "guarantees": Guarantees}
)
"""What it has of some."""
KINDS: Final[Mapping[type, str]] = MappingProxyType(
    {int: "a whole number", float: "a number or null", bool: "true or false", str: "a text"}
)


def check_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """See that ``metrics.json`` holds all that verdicts, table and figures read.

    Raises:
        ValueError: In one sentence that names the first key that is missing or not what it should be.
    """
    lacking = [name for name in METRICS if name not in metrics]
    if lacking:
        raise ValueError(f"{path} lacks {listed(lacking)}; evaluate the run again.")
    try:
        for name, record in METRICS.items():
            _check(metrics[name], record, name)
        if metrics["active_units"]["of"]:
            for name, record in OF_CODES.items():
                _check(_entry(metrics, name, name), record, name)
        for name, record in AT_TIMES.items():
            if metrics.get(name) is not None:
                _check(metrics[name], record, name)
        _check_lengths(metrics["active_units"])
        provenance = metrics.get("provenance", {})
        _require(isinstance(provenance, Mapping), "provenance", "an object", provenance)
        configuration = provenance.get("configuration")
        is_one = configuration is None or isinstance(configuration, Mapping)
        _require(is_one, "provenance.configuration", "an object", configuration)
    except ValueError as error:
        raise ValueError(f"{path} {error}; evaluate the run again.") from None


def check_texts(texts: Mapping[str, Any], path: Path) -> None:
    """The same of ``samples.json``."""
    try:
        _check(texts, Texts, "")
    except ValueError as error:
        raise ValueError(f"{path} {error}; evaluate the run again.") from None


def _check(value: Any, kind: Any, name: str) -> None:
    """A value against a record, a list, or one of ``KINDS``."""
    if is_dataclass(kind):
        _require(isinstance(value, Mapping), name, "an object", value)
        hints = get_type_hints(kind)
        for entry in fields(kind):
            place = f"{name}.{entry.name}".lstrip(".")
            _check(_entry(value, entry.name, place), hints[entry.name], place)
    elif get_origin(kind) in (list, Sequence):
        _require(isinstance(value, list), name, "a list", value)
        for i, each in enumerate(value):
            _check(each, get_args(kind)[0], f"{name}[{i}]")
    else:
        _require(_fits(value, kind), name, KINDS[kind], value)


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return value is None or (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _entry(record: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in record:
        raise ValueError(f"lacks {place}")
    return record[key]


def _require(fits: bool, place: str, wanted: str, value: Any) -> None:
    if not fits:
        raise ValueError(f"must hold {wanted} as {place}, and holds {shown(value)}")


def _check_lengths(units: Mapping[str, Any]) -> None:
    """One number per unit."""
    for name in ("variances", "lower_bounds", "upper_bounds", "eigenvalues"):
        if len(units[name]) != units["of"]:
            raise ValueError(
                f"must hold {units['of']} numbers as active_units.{name}, and holds {len(units[name])}"
            )
