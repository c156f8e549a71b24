"""What a measurement is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.rows import Row
from benchmarks.timing import Effort, Watch

QUICK = 0.12
"""Share of the time that a quick run spends."""


@dataclass(frozen=True)
class Run:
    """How a measurement is to be made.

    Attributes:
        watch: Shows progress.
        quick: Whether to spend as little as shows that everything works; spreads are wide then.
    """

    watch: Watch
    quick: bool = False

    def effort(self, rounds: int, seconds: float) -> Effort:
        """How long a contest goes on."""
        return Effort(rounds, seconds * (QUICK if self.quick else 1))


@dataclass(frozen=True)
class Measurement:
    """Something that is measured, stored and shown as a whole.

    Attributes:
        name: Unique; what ``--only`` takes.
        title: Its heading in the table.
        run: Makes its rows.
        slow: Whether a quick run leaves it out.
    """

    name: str
    title: str
    run: Callable[[Run], list[Row]]
    slow: bool = False
