"""Provenance: a digest of the source that numbers depend on."""

from pathlib import Path

from sri_pyro.config.provenance import source_digest


def package(folder: Path) -> Path:
    for name in ("cli", "comparing", "models"):
        (folder / name).mkdir(parents=True)
        (folder / name / "part.py").write_text("x = 1\n")
    (folder / "step.py").write_text("y = 2\n")
    (folder / "models" / "cells.c").write_text("int z;\n")
    (folder / "models" / "cells.h").write_text("int y;\n")
    return folder


def test_it_changes_with_every_file_that_numbers_depend_on(tmp_path: Path) -> None:
    """Catches a digest of names alone, of Python alone, and one in which content moves between files unseen."""
    folder = package(tmp_path)
    seen = {source_digest(folder)}
    for name, text in [
        ("models/part.py", "x = 3\n"),
        ("models/cells.c", "long z;\n"),
        ("models/cells.h", "long y;\n"),
        ("step.py", "x = 3\n"),
        ("models/part.py", "y = 2\n"),  # the two have changed places
        ("models/new.py", ""),
    ]:
        (folder / name).write_text(text)
        seen.add(source_digest(folder))
    assert len(seen) == 7


def test_it_does_not_change_with_what_only_shows(tmp_path: Path) -> None:
    folder = package(tmp_path)
    before = source_digest(folder)
    (folder / "cli" / "part.py").write_text("x = 9\n")
    (folder / "comparing" / "part.py").unlink()
    (folder / "models" / "notes.md").write_text("z is latent\n")
    assert source_digest(folder) == before


def test_the_library_has_one() -> None:
    assert source_digest() == source_digest()
    assert len(source_digest()) == 64
