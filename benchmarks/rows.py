"""Rows: a measured number with its spread and its bar, as the table and the JSON file hold it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.timing import Spread

Better = Literal["more", "less"]


@dataclass(frozen=True)
class Bar:
    """What a number is asked to reach.

    Attributes:
        value: In the row's unit.
        better: Whether the number has to be at least or at most that.
    """

    value: float
    better: Better = "more"

    def met_by(self, value: float) -> bool:
        """Whether a number reaches it; one that is not a number does not."""
        return value >= self.value if self.better == "more" else value <= self.value


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: Unique among all, such as ``training_step/S/pyro_over_ours``.
        what: The same in words.
        spread: The number, and how far it is known; of a single measurement there is one pair and no spread.
        unit: ``x`` for a ratio, else as printed; may be empty.
        bar: What is asked of it, where anything is.
        note: What one should know to read it.
    """

    name: str
    what: str
    spread: Spread
    unit: str = ""
    bar: Bar | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None without one."""
        return None if self.bar is None else self.bar.met_by(self.spread.value)

    def plain(self) -> dict[str, Any]:
        """As values that go into JSON."""
        return {
            "name": self.name,
            "what": self.what,
            **self.spread._asdict(),
            "unit": self.unit,
            "bar": None if self.bar is None else asdict(self.bar),
            "met": self.met,
            "note": self.note,
        }

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> Row:
        """What ``plain`` gave."""
        bar = plain["bar"]
        return cls(
            name=plain["name"],
            what=plain["what"],
            spread=Spread(*(plain[field] for field in Spread._fields)),
            unit=plain["unit"],
            bar=None if bar is None else Bar(**bar),
            note=plain["note"],
        )


def on(device: str) -> str:
    """What the names of rows of a device begin with."""
    return "" if device == "cpu" else f"{device}/"


def single(value: float) -> Spread:
    """A number that was measured once, or is not random."""
    return Spread(value, value, value, 1)
