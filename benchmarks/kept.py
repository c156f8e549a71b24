"""Finished measurements, each in a file of its own, so that a run that was stopped goes on where it was.

They lie in a folder that is named by the commit and by a digest of all facts, so that numbers of other sources,
versions or machines are never put beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from sri_pyro.writing import atomic_path


@dataclass(frozen=True)
class Kept:
    """The finished measurements of one set of facts.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    @classmethod
    def under(cls, root: Path, facts: Mapping[str, Any], quick: bool) -> Kept:
        """Those of these facts."""
        digest = hashlib.sha256(json.dumps({**facts, "quick": quick}, sort_keys=True).encode()).hexdigest()
        return cls(root / f"{facts['commit'][:12]}-{digest[:12]}")

    def put(self, name: str, rows: list[Row], date: str) -> None:
        """Keep a measurement."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"name": name, "date": date, "rows": [row.plain() for row in rows]}
        with atomic_path(self._path(name)) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def get(self, name: str) -> tuple[list[Row], str] | None:
        """Rows of a measurement and when it was made; None if it has not been finished."""
        try:
            record = json.loads(self._path(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return [Row.of_plain(row) for row in record["rows"]], record["date"]

    def forget(self, name: str) -> None:
        """Let a measurement be made anew."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '-')}.json"
