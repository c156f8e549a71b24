"""``sri-pyro presets`` and ``sri-pyro show``: what a configuration may say."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
import textwrap
from typing import Annotated, Any

import typer


def presets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A preset, to be printed whole.")] = None,
) -> None:
    """List the presets, or print one.

    sri-pyro presets

    sri-pyro presets paper
    """
    from sri_pyro.config import ConfigError
    from sri_pyro.config import presets as all_presets
    from sri_pyro.wording import meant

    known = all_presets()
    if name is None:
        for preset, text in known.items():
            about = " ".join(line[2:] for line in text.split("\n\n")[0].splitlines())
            print(f"{preset}: {about}")
        return
    if name not in known:
        raise ConfigError([f"unknown preset '{name}'; known: {', '.join(known)}{meant(name, known)}"])
    print(known[name], end="")


def show(
    source: Annotated[
        str | None, typer.Argument(metavar="FILE|PRESET", help="A configuration, to be shown whole.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override an option.")
    ] = None,
) -> None:
    """Show every part and what its options mean, or a configuration with all its defaults filled in.

    sri-pyro show

    sri-pyro show paper

    sri-pyro show experiments/demo.toml --set training.epochs=3
    """
    from sri_pyro.config.describe import whole
    from sri_pyro.config.sections import NESTED, SECTIONS, SETTINGS, Experiment

    if source is not None:
        print(whole(source, overrides or []), end="")
        return
    _say("", "Every part with its own defaults. A preset sets some of them otherwise: sri-pyro show default.")
    _say("", f"[top of the file]  {_about(Experiment)}")
    _options(Experiment, set())
    for section, settings in SETTINGS.items():
        _say("", f"[{section}]  {_about(settings)}")
        _options(settings, set())
    for section, table in [*SECTIONS.items(), *((f"... {t.what}", t) for t in NESTED.values())]:
        print(f"[{section}]")
        for kind, factory in table.entries.items():
            _say("  ", f'kind = "{kind}"  {_about(factory)}')
            _options(factory, set(table.follows))


def _about(factory: Any) -> str:
    return for_terminal((inspect.getdoc(factory) or "").split("\n\n")[0].replace("\n", " "))


def for_terminal(text: str) -> str:
    r"""A docstring's mark-up taken off: roles, double backquotes, and TeX as far as it has a plain reading.

    Example:
        >>> print(for_terminal(r"The law :math:`\mathcal{N}(0, \sigma_{i} I_D)` of ``z``; see :class:`Prior`."))
        The law N(0, sigma_i I_D) of z; see Prior.
        >>> print(for_terminal(r":math:`\hat p(x) = \frac1S\sum_s p(x \mid z_s)`"))
        p(x) = 1/S sum_s p(x | z_s)
    """
    text = re.sub(r":\w+:`([^`]*)`", lambda role: _plain_tex(role[1]), text)
    return text.replace("``", "")


def _plain_tex(tex: str) -> str:
    tex = re.sub(r"\\(?:mathcal|mathrm|text|operatorname|left|right|big|hat)\b ?", "", tex)
    tex = re.sub(r"\\frac(\w)(\w)", r"\1/\2 ", tex)
    tex = tex.replace(r"\mid", "|").replace(r"\sim", "~")
    tex = re.sub(r"\\[,;! ]|\\quad", " ", tex)
    return re.sub(" +", " ", re.sub(r"\\(?=\w)|[{}]", "", tex)).strip()


def _options(factory: Any, left_out: set[str]) -> None:
    from sri_pyro.config.describe import meaning
    from sri_pyro.config.schema import keywords

    for name, parameter in keywords(factory).items():
        if name not in left_out:
            about = for_terminal(meaning(factory, name))
            _say("      ", f"{name}{_default(parameter.default)}  {about}".rstrip())


def _say(indent: str, text: str) -> None:
    """Print a line; on a terminal, where a long one would break anywhere, as lines that break at blanks."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        more = indent + "        "
        text = textwrap.fill(
            text, width, initial_indent=indent, subsequent_indent=more, break_on_hyphens=False
        )
        print(text)
    else:
        print(indent + text)


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return " (required)"
    if value is None:
        return " (not set)"
    return f" = {str(value).lower() if isinstance(value, bool) else json.dumps(value)}"
