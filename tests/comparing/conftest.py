"""Comparisons of seconds, trained once."""

import shutil
from pathlib import Path

import pytest

from sri_pyro.comparing import Asked, Outcome, compare
from tests.comparing.helpers import Calls, called, write_systems


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return called(monkeypatch)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Three systems, two seeds each."""
    folder = tmp_path_factory.mktemp("compared")
    sources = [str(path) for path in write_systems(folder)]
    with pytest.MonkeyPatch.context() as patch:
        called(patch)
        return folder, compare(Asked(sources, folder / "out", seeds=2))


@pytest.fixture
def folder(made: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of files and runs that a test may damage; the text stays where it was."""
    return Path(shutil.copytree(made[0], tmp_path / "compared"))
