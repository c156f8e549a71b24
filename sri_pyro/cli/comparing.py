"""``sri-pyro compare``: several systems side by side, and one table of them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from sri_pyro.cli.failing import FAILED, say
from sri_pyro.cli.stopping import INTERRUPTED, console, stopping
from sri_pyro.cli.training import stop_on_signal


def compare(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="A TOML file (or preset) for each system.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The folder of all runs and of the table. Required.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each system, which differ in the seed alone.")] = 1,
    reference: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The system that others are compared with; the first by default."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Train and evaluate this system alone; may be repeated."),
    ] = None,
    common: Annotated[
        Path | None,
        typer.Option("--with", metavar="FILE", help="A TOML file that all share, such as a corpus."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override an option of all files.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes side by side, of one thread each; one a core by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is done, half done and to be done.")
    ] = False,
    mixed_code: Annotated[
        bool,
        typer.Option("--mixed-code", help="Allow trainings by different source code; the table says so."),
    ] = False,
) -> None:
    """Train and evaluate several systems on the same sentences, and write one table of them.

    sri-pyro compare experiments/demo-lm.toml experiments/demo.toml --seeds 3 --out runs/compared

    The same command goes on after Ctrl-C or a kill, and does again what has failed. What is there is used only if
    configuration, sentences, weights, estimator and source code are those of now.
    """
    with stopping(lambda: f"stopped at once; the same command goes on with what {out} holds"):
        _compare(
            sources, out, seeds, reference, only or [], common, overrides or [], jobs, dry_run, mixed_code
        )


def _compare(
    sources: Sequence[str],
    out: Path | None,
    seeds: int,
    reference: str | None,
    only: Sequence[str],
    common: Path | None,
    overrides: Sequence[str],
    jobs: int | None,
    dry_run: bool,
    mixed_code: bool,
) -> None:
    from sri_pyro.comparing import Asked, Watcher, lines, plan
    from sri_pyro.comparing import compare as compare_all
    from sri_pyro.config import ConfigError

    if out is None:
        raise ConfigError(["compare needs a folder for the runs and the table; give one, for instance --out "
                           "runs/compared"])  # fmt: skip
    asked = Asked(sources, out, seeds, reference, only, overrides, common, jobs, mixed_code)
    if dry_run:
        print("\n".join(plan(asked)))
        return
    received: list[int] = []
    with stop_on_signal(received), Board() as board:
        outcome = compare_all(asked, Watcher(board.tell, board.show, lambda: bool(received)))
    if outcome.stopped:
        console.print(
            f"stopped and saved; {outcome.done} runs are done and {len(outcome.missing)} are not: the same command "
            "goes on",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED)
    for line in lines(outcome.rows, outcome.reference) if outcome.rows else []:
        print(line)
    if outcome.rows:
        print(f"table: {out / 'table.html'}, and table.csv, table.md, table.tex, comparison.json beside it")
    for name, said in outcome.failed.items():
        say(f"{name} failed: {said}")
    if outcome.failed:
        raise typer.Exit(FAILED)


class Board:
    """One display for all runs: a line for each under way, and how many are done; plain lines where no terminal is."""

    def __init__(self) -> None:
        # Without a thread of its own: processes are forked meanwhile.
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Board:
        if console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if console.is_terminal:
            self._live.stop()

    def tell(self, line: str) -> None:
        """Say that something has begun or ended."""
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, lines: Sequence[str], done: int, total: int) -> None:
        """Show what is under way."""
        if console.is_terminal:
            texts = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
            self._live.update(Group(*texts, Text(f"{done} of {total} runs done")), refresh=True)
