"""Writing: files that come to be whole or not at all, and where those go that can be made again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends, and vanishes if it fails.

    A reader sees the old file or the new one, never a part of one, whatever happens to the process.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "note.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "note.txt").read_text()
        'whole'
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp keeps others from reading
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


CACHE = "SRI_PYRO_CACHE"
"""Environment variable: the folder of what can be made again."""


def cache_folder() -> Path:
    """The folder that ``SRI_PYRO_CACHE`` names, or ``sri_pyro`` where the user's caches are; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(os.environ.get(CACHE) or f"{home}/sri_pyro")
    try:
        return place.expanduser()
    except RuntimeError:  # a user without a home, as in a container
        return Path(tempfile.gettempdir()) / "sri_pyro"
