"""The application: commands gathered, and every error of a user turned into one sentence and exit code 2."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

from sri_pyro.cli import (
    calibrating,
    comparing,
    describing,
    examining,
    referencing,
    running,
    training,
    usage,
)
from sri_pyro.cli.failing import FAILED, another_speaks, described, say, sentence_of, several
from sri_pyro.cli.stopping import INTERRUPTED, NOTHING, stopping

HELP = """
Latent-variable text models in Pyro, inferred by short-run Langevin dynamics and evaluated honestly.

A run is a folder. It is made from a TOML file or a preset, and every other command works on it:

    sri-pyro train experiments/demo.toml --out runs/demo

    sri-pyro evaluate runs/demo

    sri-pyro sample runs/demo --num 10

Ctrl-C saves and stops; the same command with --resume goes on, to the same numbers.
"""


class Commands(typer.core.TyperGroup):
    """The commands, of which an unknown one is refused in the words of this house."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names."""
        known = self.list_commands(ctx)
        if args[0] not in known:
            raise ValueError(usage.unknown_command(args[0], known))
        if several() and args[0] != "train":
            raise ValueError(
                f"{args[0]} computes in one process, and only train in several; start it without torchrun"
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends it, and so does a reader of its output who has seen enough."""
        try:
            with stopping():
                return super().invoke(ctx)
        except BrokenPipeError:  # the parser would leave the program with 1
            raise typer.Exit(_flushed()) from None


app = typer.Typer(
    cls=Commands,
    help=HELP,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_versions(wanted: bool) -> None:
    if wanted:
        from sri_pyro.config.provenance import versions  # not before: it takes the library with it

        found = versions()
        named = ", ".join(f"{name} {found[name]}" for name in ("sri_pyro", "torch", "pyro"))
        print(f"{named}, Python {found['python']}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_versions, is_eager=True, help="Print versions and exit."),
    ] = False,
) -> None:
    """What stands before a command."""


app.command()(training.train)
app.command()(running.evaluate)
app.command()(running.report)
app.command()(calibrating.calibrate)
app.command()(referencing.reference)
app.command()(comparing.compare)
app.command()(examining.doctor)
app.command()(examining.criticise)

app.command()(running.sample)
app.command()(running.interpolate)
app.command()(running.score)
app.command()(running.encode)
app.command()(describing.presets)
app.command()(describing.show)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for what the user can mend, 130 after Ctrl-C."""
    if "" not in sys.path:
        sys.path.append("")  # a dotted path may name a module of the working folder
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Not as a program of its own: there the parser prints its complaints as a box of several lines.
        code = app(
            args=words or ["--help"],
            prog_name="sri-pyro",
            obj=["sri-pyro", *map(shlex.quote, words)],
            standalone_mode=False,
        )
        return code or _flushed()
    except (KeyboardInterrupt, typer.Abort):  # before any command began
        print(NOTHING, file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        sentence = sentence_of(error, words)
        if sentence is None:
            raise
        if another_speaks():
            return 0
        say(sentence)
        return FAILED


def _flushed() -> int:
    """Bring what was printed to its reader now, while a full disk can still be told; the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer goes nowhere, or Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0
        say(described(error))
        return FAILED
    return 0
