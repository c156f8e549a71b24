"""History: the records of a run, in memory and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sri_pyro.checkpoint import CheckpointError
from sri_pyro.writing import atomic_path

Record = dict[str, float | str]
MENDING = "it was truncated or altered. Restore it from a copy, or train again."
NUMBERS = {"validation": ("nll",)}
"""What a record of a kind must hold for a run to go on from it; training tells its best validation at the end."""


class History:
    """What happened during training, one record per step logged, validation and event.

    Args:
        path: Where records are appended as JSON lines; None keeps them in memory only.
        watch: Sees every record as it is added.

    Example:
        >>> history = History()
        >>> history.add("validation", step=10, nll=41.5)
        >>> history.of("validation")
        [{'kind': 'validation', 'step': 10, 'nll': 41.5}]
    """

    def __init__(
        self, path: Path | None = None, watch: Callable[[Mapping[str, float | str]], None] | None = None
    ) -> None:
        self.records: list[Record] = []
        self._path = path
        self._watch = watch
        self._written = 0

    def __len__(self) -> int:
        return len(self.records)

    def add(self, kind: str, **values: float | str) -> None:
        """Append a record of a kind: ``step``, ``validation`` or ``event``."""
        record: Record = {"kind": kind, **values}
        self.records.append(record)
        if self._watch is not None:
            self._watch(record)

    def of(self, kind: str) -> list[Record]:
        """The records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    def flush(self) -> None:
        """Append the records that are not on disk yet."""
        if self._path is None or self._written == len(self.records):
            return
        with self._path.open("a", encoding="utf-8") as file:
            for record in self.records[self._written :]:
                file.write(json.dumps(record) + "\n")
        self._written = len(self.records)

    def truncate(self, count: int) -> None:
        """Read the file back, and forget what was written after the checkpoint that counted ``count``.

        The records beyond it belong to steps that will be taken again. There is no file before the first.

        Raises:
            CheckpointError: If the file holds fewer, or one of them is damaged.
        """
        if self._path is None:
            return
        try:
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        except UnicodeDecodeError:
            raise CheckpointError(f"{self._path} is not UTF-8 text; {MENDING}") from None
        lines = text.splitlines()[:count]
        if len(lines) < count:
            raise CheckpointError(
                f"{self._path} holds {len(lines)} records, and the checkpoint beside it was written after {count}; "
                "it was truncated or removed. Restore it from a copy, or train again."
            )
        records = []
        for i, line in enumerate(lines, 1):
            try:
                records.append(read_record(line))
            except ValueError as error:
                raise CheckpointError(f"line {i} of {self._path} {error}; {MENDING}") from None
        self.records = records
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        self._written = len(lines)


def read_record(line: str, numbers: Mapping[str, Sequence[str]] = NUMBERS) -> Record:
    """A record from its line.

    Args:
        line: JSON.
        numbers: What a record of a kind must hold, as a number.

    Raises:
        ValueError: In words that follow the name of the line.

    Example:
        >>> read_record('{"kind": "validation", "step": 10}')
        Traceback (most recent call last):
        ValueError: is a validation without the number nll
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        raise ValueError("is not JSON") from None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise ValueError("is not a record of training")
    for name in numbers.get(record["kind"], ()):
        if not isinstance(record.get(name), float | int):
            raise ValueError(f"is a {record['kind']} without the number {name}")
    return record
