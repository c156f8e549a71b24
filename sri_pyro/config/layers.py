"""Layers: nested tables laid one over another, as a preset, a file and what the command line says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the options of ``over`` put in; nothing else of ``base`` is lost. A bare text is a kind.

    Example:
        >>> merged({"prior": {"kind": "mixture", "components": 4}}, {"prior": {"components": 9}})
        {'prior': {'kind': 'mixture', 'components': 9}}
        >>> merged({"decoder": {"hidden": 4}}, {"decoder": "gru"})
        {'decoder': {'hidden': 4, 'kind': 'gru'}}
        >>> merged({"decoder": "gru"}, {"decoder": {"hidden": 4}})
        {'decoder': {'kind': 'gru', 'hidden': 4}}
    """
    result = dict(base)
    for name, new in over.items():
        old, new = _as_tables(base.get(name), new)
        both = isinstance(old, Mapping) and isinstance(new, Mapping)
        result[name] = merged(old, new) if both else new
    return result


def laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """As ``merged``, but a table of ``over`` that names another kind takes the place of one in ``base`` that names one.

    Example:
        >>> laid_over({"prior": {"kind": "mixture", "components": 4}}, {"prior": {"components": 9}})
        {'prior': {'kind': 'mixture', 'components': 9}}
        >>> laid_over({"prior": {"kind": "mixture", "components": 4}}, {"prior": "standard_normal"})
        {'prior': {'kind': 'standard_normal'}}
    """
    result = dict(base)
    for name, new in over.items():
        old, new = _as_tables(base.get(name), new)
        both = isinstance(old, Mapping) and isinstance(new, Mapping)
        same = both and ("kind" not in old or new.get("kind", old["kind"]) == old["kind"])
        result[name] = laid_over(old, new) if same else new
    return result


def _as_tables(old: Any, new: Any) -> tuple[Any, Any]:
    """Of a table and a bare text, the text as the table with that kind."""
    if isinstance(old, Mapping) and isinstance(new, str):
        return old, {"kind": new}
    if isinstance(old, str) and isinstance(new, Mapping):
        return {"kind": old}, new
    return old, new


def without(data: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """Nested tables without the entry at a path."""
    first, *rest = path
    if first not in data:
        return data
    others = {name: value for name, value in data.items() if name != first}
    inner = data[first]
    return others | {first: without(inner, rest)} if rest and isinstance(inner, Mapping) else others
