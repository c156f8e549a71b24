"""Failing: every error of a user in one sentence, and of several processes in one voice."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from sri_pyro.cli import usage

if TYPE_CHECKING:
    from sri_pyro.config import Group

FAILED = 2
OUT_OF_MEMORY = (
    "the memory of this device is not enough for the run; choose a smaller model, smaller batches or fewer "
    "samples"
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sentence_of(error: BaseException, words: Sequence[str]) -> str | None:
    """What is said of an error of these words of a command line; None of one that is not the user's."""
    if isinstance(error, usage.UsageError):
        return usage.told(error, words)
    if isinstance(error, ValueError | OSError | FloatingPointError):  # what the library says to its user
        return described(error)
    if isinstance(error, MemoryError | RuntimeError):
        from sri_pyro.config.schema import lacks_memory  # not before: it takes the library with it

        return OUT_OF_MEMORY if lacks_memory(error) else None
    return None


def described(error: Exception) -> str:
    """An error in one sentence."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None and error.errno in NO_SPACE:  # a file would have been named
            return f"cannot write to standard output: {error.strerror}"
        place = f" {error.filename}" if error.filename else ""
        return f"cannot read or write{place}: {error.strerror}"
    return str(error).strip()


def say(sentence: str) -> None:
    """Tell the user, beside any progress that is shown."""
    print(f"sri-pyro: {sentence}", file=sys.__stderr__ if several() else sys.stderr, flush=True)


def several() -> bool:
    """Whether torchrun started this process together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE") or 1) > 1


def another_speaks() -> bool:
    """Whether this process may leave it to the first one to say what all of them meet with.

    It then ends with 0: where one process fails torchrun ends the others at once, be they about to speak.
    """
    return several() and os.environ["RANK"] != "0"


@contextmanager
def one_voice(group: Group, words: Sequence[str], saved: Callable[[], str]) -> Iterator[None]:
    """Of several processes that fail, each for its reason or because another did, let the first to fail say why.

    It is said here, while signals are still collected: torchrun may be ending this process already.

    Args:
        group: The processes.
        words: Of the command line.
        saved: What there is after the loss of a process.
    """
    from sri_pyro.config import ProcessLostError

    try:
        yield
    except (MemoryError, OSError, RuntimeError, ValueError, FloatingPointError) as error:
        if group.size == 1 or isinstance(error, typer.Exit):
            raise
        if not group.first("failure"):
            raise typer.Exit from None
        sentence = sentence_of(error, words)
        if sentence is None:
            raise
        say(f"{sentence}; {saved()}" if isinstance(error, ProcessLostError) else sentence)
        raise typer.Exit(FAILED) from None
