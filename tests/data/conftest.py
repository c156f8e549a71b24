"""Lines to be split, and a labelled text that is kept in a store."""

from pathlib import Path

import pytest

from sri_pyro.data import TextFile
from tests.data.helpers import write


@pytest.fixture
def lines() -> list[str]:
    return [f"{a} {b} {c}" for a in "abcde" for b in "fghij" for c in "klmno"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "not" / "yet" / "there"


@pytest.fixture
def source(tmp_path: Path, cache: Path, lines: list[str]) -> TextFile:
    labelled = [f"{'neg' if i % 3 else 'pos'}\t{line}" for i, line in enumerate(lines)]
    return TextFile(path=write(tmp_path / "text", labelled), min_count=1, cache=str(cache))
