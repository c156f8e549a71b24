"""Blame: whether a problem of a configuration came with the file or with an override, and with which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sri_pyro.config.schema import ConfigError

Parse = Callable[[Sequence[str]], object]
"""Reads a configuration with these overrides; raises what is wrong with it."""
Origin = Callable[[str], str]
"""Where an override comes from, for people."""


def option_set(text: str) -> str:
    """An override as the command line has it."""
    return f"--set {text}"


def blamed(parse: Parse, overrides: Sequence[str], file: str = "", origin: Origin = option_set) -> list[str]:
    """Every problem of a configuration, with the name of what brought it in front.

    An override brought a problem that is not there without it; the file brought the others.

    Args:
        parse: Reads the configuration.
        overrides: ``a.b=c`` each.
        file: The file, for people; empty where nothing was read from one.
        origin: Where an override comes from.

    Example:
        >>> def parse(overrides):
        ...     if found := [text for text in ("epochs=0", "seed=-1") if text == "seed=-1" or text in overrides]:
        ...         raise ConfigError(found)
        >>> blamed(parse, ["epochs=0", "device=cpu"], "my.toml")
        ['--set epochs=0: epochs=0', 'my.toml: seed=-1']
    """
    problems = _problems(parse, overrides)
    if not problems:
        return []
    without = {
        text: _problems(parse, [o for o in overrides if o != text]) for text in dict.fromkeys(overrides)
    }
    said = []
    for problem in problems:
        brought = [origin(text) for text, rest in without.items() if problem not in rest]
        place = " and ".join(dict.fromkeys(brought)) or file
        named = not place or problem.startswith("--set ")  # what is no override at all says so itself
        said.append(problem if named else f"{place}: {problem}")
    return said


def _problems(parse: Parse, overrides: Sequence[str]) -> Sequence[str]:
    try:
        parse(overrides)
    except ConfigError as error:
        return error.problems
    return ()
