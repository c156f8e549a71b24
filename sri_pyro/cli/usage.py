"""Usage: what the command line's parser complains of, in one sentence: got, expected, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from sri_pyro.wording import listed, meant

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What the parser raises: a class of Click's, or of the copy of Click that newer versions of Typer bring along."""
WANTED = {"integer": "a whole number", "number": "a number", "float": "a number"}
"""What an option takes, by the word that the parser has for it."""


def told(error: Any, words: Sequence[str]) -> str:
    """What the parser says of these words of a command line."""
    context = error.ctx
    path = " ".join(["sri-pyro", *words[:1]]) if context is None else context.command_path
    name, see = path.split()[-1], f"; see {path} --help"
    if type(error).__name__ == "NoSuchOption":
        known = [
            text for p in context.command.get_params(context) for text in p.opts if text.startswith("--")
        ]
        return (
            f"{name} has no option '{error.option_name}'; it accepts: {listed(known)}"
            f"{meant(error.option_name, known)}"
        )
    parameter = getattr(error, "param", None)
    if type(error).__name__ == "MissingParameter" and parameter is not None:
        return f"{name} needs {parameter.metavar} ({_described(parameter)}){see}"
    wanted = next((WANTED[word] for word in WANTED if word in error.message), None)
    if parameter is not None and wanted is not None:
        return f"{name}: {parameter.opts[0]} must be {wanted}; got '{_given(parameter.opts, words)}'"
    message = error.format_message().rstrip(".")
    expected = "" if context is None else f"; expected: {context.get_usage().removeprefix('Usage: ')}"
    return f"{message[0].lower()}{message[1:]}{expected}{see}"


def unknown_command(name: str, known: Sequence[str]) -> str:
    """What is said of a command that does not exist.

    Example:
        >>> unknown_command("trian", ["train", "show"])
        "unknown command 'trian'; known: show, train. Did you mean 'train'?"
    """
    return f"unknown command '{name}'; known: {listed(known)}{meant(name, known)}"


def _described(parameter: Any) -> str:
    about: str = parameter.help.rstrip(".")
    return about[0].lower() + about[1:]


def _given(options: Sequence[str], words: Sequence[str]) -> str:
    """The value that stands behind one of these options; the last one, which is the one that counts."""
    value = ""
    for word, follower in zip(words, [*words[1:], ""], strict=True):
        name, sign, joined = word.partition("=")
        if name in options:
            value = joined if sign else follower
    return value
