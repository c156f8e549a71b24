"""Several processes on one machine that meet through a file: no ports, and no imports to wait for.

They are forked from a server that has imported the library and computed nothing, so that they start in no time.
"""

import multiprocessing
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from sri_pyro.processes import ALONE, Group, member

DEADLINE = 120.0
"""Seconds after which processes that have not come to an end are killed, and the test fails."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.several.work", "torch._dynamo"])  # an optimiser imports the latter


class Ended(NamedTuple):
    """How a process came to its end.

    Attributes:
        value: What its work gave; None if it failed.
        error: What it said on failing: the type's name and the sentence; a traceback of what is nobody's fault.
        code: Of its exit.
    """

    value: Any
    error: str
    code: int | None


def together(size: int, work: Callable[..., Any], *arguments: Any) -> list[Ended]:
    """Have ``work(group, *arguments)`` done by ``size`` processes, and see them all to their end."""
    with tempfile.TemporaryDirectory() as folder:
        started = [_start(rank, size, f"{folder}/store", work, arguments) for rank in range(size)]
        try:
            return [_ended(process, ours) for process, ours in started]
        finally:
            for process, _ in started:
                process.kill()


def values(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What the work of every process gave; none may fail."""
    ended = together(size, work, *arguments)
    assert not any(one.error or one.code for one in ended), ended
    return [one.value for one in ended]


def _start(rank: int, size: int, store: str, work: Any, arguments: Any) -> tuple[Any, Connection]:
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(rank, size, store, work, arguments, theirs))
    process.start()
    theirs.close()
    return process, ours


def _ended(process: Any, ours: Connection) -> Ended:
    ready = wait([ours, process.sentinel], DEADLINE)
    assert ready, f"a process did not come to its end within {DEADLINE} s"
    try:
        value, error = ours.recv() if ours.poll() else (None, "")
    except EOFError:  # it was killed
        value, error = None, ""
    process.join(DEADLINE)
    return Ended(value, error, process.exitcode)


def _run(rank: int, size: int, store: str, work: Any, arguments: Any, theirs: Connection) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests' own Ctrl-C is not theirs
    try:
        if size == 1:
            theirs.send((work(ALONE, *arguments), ""))
            return
        with member(Group(rank, size, rank, size, dist.FileStore(store, size))) as group:
            value = work(group, *arguments)
            group.exchange()
            theirs.send((value, ""))
    except SystemExit as ended:  # at once, as a process ends that does not wait for the others
        theirs.send((ended.code, ""))
    except (ValueError, OSError) as error:
        theirs.send((None, f"{type(error).__name__}: {error}"))
    except Exception:
        theirs.send((None, traceback.format_exc()))


def last_line(path: Path) -> str:
    """Of a file that may not be there yet."""
    return path.read_text().splitlines()[-1] if path.exists() and path.read_text() else ""
