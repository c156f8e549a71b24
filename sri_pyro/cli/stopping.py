"""Stopping: what is said when Ctrl-C ends a command, or a part of one that leaves something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

INTERRUPTED = 130
NOTHING = "stopped; nothing was written"

console = Console(stderr=True)


@contextmanager
def stopping(said: Callable[[], str] = lambda: NOTHING) -> Iterator[None]:
    """End the command on a Ctrl-C in this block, with one line that says what there is.

    Args:
        said: The line; asked for when it is needed, for what there is depends on when that is.
    """
    try:
        yield
    except KeyboardInterrupt:
        console.print(said(), highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
