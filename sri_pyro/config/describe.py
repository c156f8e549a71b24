"""Describe: what every option means, read from the docstrings that say it, and a configuration written out whole."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from sri_pyro.config import toml
from sri_pyro.config.schema import keywords, unwrapped
from sri_pyro.config.sections import SOURCE
from sri_pyro.config.settings import STAND_INS, parse_config, presets, read_config
from sri_pyro.wording import listed


def meaning(factory: Callable[..., Any], option: str) -> str:
    """What an option of a constructor means, in a sentence and with the docstring's mark-up; empty if nothing says it.

    Its own entry in the docstring says it, or the parent's.

    Example:
        >>> from sri_pyro.models import GRUDecoder, GaussianMixture
        >>> meaning(GaussianMixture, "components")
        'Number of components.'
        >>> meaning(GRUDecoder, "initialisation").startswith("``uniform``: U(-0.1, 0.1)")
        True
    """
    said = _entry(factory, option)
    if said is None:
        return ""
    if other := re.fullmatch(r"As for ``(\w+)``\.", said):
        return meaning(getattr(inspect.getmodule(factory), other[1]), option)
    choices = _choices(factory, option)
    first = re.split(r"(?<=\.)\s+(?=[A-Z`])", said)[0]
    if _names(first, choices):
        return first
    return said if _names(said, choices) else f"{first.rstrip('.')}: {', '.join(choices)}."


def _names(said: str, choices: Iterable[str]) -> bool:
    return all(re.search(rf"\b{choice}\b", said) for choice in choices)


def _entry(factory: Callable[..., Any], option: str) -> str | None:
    """What the sections ``Args`` and ``Attributes`` say of an option, on one line."""
    for owner in inspect.getmro(factory) if inspect.isclass(factory) else [factory]:
        for section in re.findall(r"^(?:Args|Attributes):\n((?: .*\n|\n)*)", _doc(owner), re.MULTILINE):
            if found := re.search(rf"^ {{4}}{option}: (.*(?:\n {{8}}.*)*)", section, re.MULTILINE):
                return " ".join(found[1].split())
    return None


def _doc(owner: Any) -> str:
    return inspect.cleandoc(owner.__doc__ or "") + "\n"


def _choices(factory: Callable[..., Any], option: str) -> list[str]:
    annotation = unwrapped(keywords(factory)[option].annotation)
    return (
        [str(choice) for choice in typing.get_args(annotation)]
        if typing.get_origin(annotation) is Literal
        else []
    )


def whole(source: str, overrides: Iterable[str] = ()) -> str:
    """A configuration as TOML, every default included; a preset that was given no data says that it needs some.

    Args:
        source: As for ``read_config``.
        overrides: As for ``read_config``.

    Raises:
        ConfigError: With every problem of the configuration.

    Example:
        >>> print("\\n".join(whole("paper").splitlines()[3:6]))
        <BLANKLINE>
        [data]
        # missing: kind, one of chitchat, pcfg, sotu, text, topic_hmm, and what it needs
    """
    overrides = list(overrides)
    recipe = source in presets() and not Path(source).exists()
    if not recipe or any(text.strip().startswith("data") for text in overrides):
        return read_config(source, overrides).to_toml()
    config = parse_config({"preset": source, "data": STAND_INS["data"]}, overrides)
    missing = f"[data]\n# missing: kind, one of {listed(SOURCE.entries)}, and what it needs\n"
    return toml.dumps({**config.plain(), "data": {}}).replace("[data]\n", missing, 1)
