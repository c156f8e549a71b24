"""Wording: what messages about options say, and how they show names and values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

EXPECTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
}
"""What pydantic's faults ask for, in words."""


def sentence(what: str, name: str, fault: Any) -> str:
    """One of pydantic's faults as a sentence that names the option and what it takes."""
    if fault["type"] == "missing":
        return f"{what} needs the option '{name}'"
    place = name + "".join(f"[{key}]" for key in fault["loc"][1:] if isinstance(key, int))
    got = shown(fault["input"])
    if fault["type"] == "literal_error":
        known = fault["ctx"]["expected"].replace(" or ", ", ")
        close = meant(str(fault["input"]), [word.strip("'") for word in known.split(", ")])
        return f"{what}: {place} must be one of {known}; got {got}{close}"
    wanted = EXPECTED.get(fault["type"])
    if wanted is None:
        return f"{what}: {place} is not usable ({fault['msg'].rstrip('.').lower()}); got {got}"
    return f"{what}: {place} must be {wanted}; got {got}"


def listed(names: Iterable[str]) -> str:
    """Names for a message: sorted, or ``nothing``.

    Example:
        >>> listed(["standard_normal", "mixture"]), listed([])
        ('mixture, standard_normal', 'nothing')
    """
    return ", ".join(sorted(names)) or "nothing"


def meant(name: str, known: Iterable[str]) -> str:
    """A guess at a misspelt name, as the end of a sentence; empty without one.

    Example:
        >>> meant("standart_normal", ["standard_normal", "mixture"])
        ". Did you mean 'standard_normal'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f". Did you mean '{close[0]}'?" if close else ""


def counted(number: int, noun: str) -> str:
    """A number of things, the noun in the plural unless there is one.

    Example:
        >>> counted(1, "epoch"), counted(1200, "validation")
        ('1 epoch', '1,200 validations')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals; from a million on, where they say nothing, in scientific notation.

    Example:
        >>> fixed(27.9149, 2), fixed(3.2e300, 2)
        ('27.91', '3.20e+300')
    """
    return f"{value:.{decimals}{'e' if abs(value) >= 1e6 else 'f'}}"


def shown(value: Any) -> str:
    """A value as TOML shows it, cut short."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def are(number: int) -> str:
    """The verb after a number of things.

    Example:
        >>> are(1), are(0)
        ('is', 'are')
    """
    return "is" if number == 1 else "are"
