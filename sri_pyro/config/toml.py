"""TOML: nested tables of plain values as text, the half that the standard library leaves out."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sri_pyro.config.schema import ConfigError


def dumps(data: Mapping[str, Any]) -> str:
    """Write nested tables of texts, numbers, truth values and lists of them; ``tomllib`` reads it back.

    Example:
        >>> print(dumps({"seed": 0, "model": {"prior": {"kind": "mixture", "dim": 4}}}))
        seed = 0
        <BLANKLINE>
        [model.prior]
        kind = "mixture"
        dim = 4
        <BLANKLINE>
    """
    return "\n".join(_table((), data)).lstrip("\n") + "\n"


def _table(path: tuple[str, ...], data: Mapping[str, Any]) -> list[str]:
    lines = [f"{_key(k)} = {_value(v)}" for k, v in data.items() if not isinstance(v, Mapping)]
    tables = {k: v for k, v in data.items() if isinstance(v, Mapping)}
    if path and (lines or not tables):
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    return lines + [line for key, table in tables.items() for line in _table((*path, key), table)]


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    assert isinstance(value, int | float), f"no TOML for {type(value)}"
    return repr(value)


def loads(text: str, name: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ConfigError: If it is not TOML; says where.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{name} is not TOML: {error}"]) from None


def load(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: If it cannot be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError([f"{path} is not TOML: it is not UTF-8 text"]) from None
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror or error}"]) from None
    return loads(text, str(path))


def assignment(text: str) -> tuple[list[str], Any]:
    """Path and value of ``a.b=c``; c is a TOML value, or a word without quotes.

    Raises:
        ConfigError: If it is not of that form.

    Example:
        >>> assignment("model.prior.dim=8"), assignment("device=cuda:0")
        ((['model', 'prior', 'dim'], 8), (['device'], 'cuda:0'))
    """
    key, sign, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not sign or not all(parts) or not value.strip():
        raise ConfigError([f"--set wants section.option=value, for instance training.epochs=3; got '{text}'"])
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        if any(sign in value for sign in "\"'[]{}\n"):
            raise ConfigError([f"--set {'.'.join(parts)}: {value.strip()} is not a TOML value"]) from None
        parsed = value.strip()
    return parts, parsed


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """The table that holds a value at a path.

    Example:
        >>> nested(["model", "prior", "dim"], 8)
        {'model': {'prior': {'dim': 8}}}
    """
    table: dict[str, Any] = {path[-1]: value}
    for part in reversed(path[:-1]):
        table = {part: table}
    return table
