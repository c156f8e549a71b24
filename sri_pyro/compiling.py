"""C sources of this package, compiled on first use where there is a compiler, and kept for later processes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sri_pyro.writing import atomic_path, cache_folder

log = logging.getLogger(__name__)

SWITCH = "SRI_PYRO_COMPILE"
"""Environment variable; at ``0`` nothing is compiled or loaded, and PyTorch's operations do everything."""
# Without -ffast-math, which would link code that changes how the whole process rounds small numbers.
FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-shared",
    "-pthread",
    "-fPIC",
)
WIDE = ("-mprefer-vector-width=512",)
"""Compilers shun the widest vectors of x86 processors that have them, which were slow once."""
TIMEOUT_S = 60


def compiling_is_off() -> bool:
    """Whether the user wants PyTorch's operations alone."""
    return os.environ.get(SWITCH) == "0"


@functools.cache
def library(source: Path, *definitions: str) -> ctypes.CDLL | None:
    """The functions of a C file, compiled for this processor; None without a compiler, or if it fails.

    The library is kept in ``compiled`` of the ``cache_folder`` under a digest of all that determines it: source and
    headers beside it, compiler, flags and processor. Where that folder cannot be written it is made for this process
    alone.

    Args:
        source: The C file.
        definitions: Preprocessor definitions, such as ``REAL=float``.
    """
    compiler = _compiler()
    if compiling_is_off() or compiler is None:
        return None
    options = [
        *FLAGS,
        *(WIDE if platform.machine() in ("x86_64", "AMD64") else ()),
        *(f"-D{definition}" for definition in definitions),
    ]
    try:
        key = _digest(source, compiler, options)
        with _folder() as folder:
            kept = folder / f"{source.stem}-{key}.so"
            if not kept.exists():
                _compile(compiler, options, source, kept)
            return ctypes.CDLL(str(kept))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s is not compiled (%s); PyTorch's own operations are used.", source.name, error)
        return None


def _compiler() -> str | None:
    """``$CC``, or the first usual one on the path."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _digest(source: Path, compiler: str, options: list[str]) -> str:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, timeout=TIMEOUT_S
    ).stdout
    headers = sorted(source.parent.glob("*.h"))
    parts = [
        *(path.read_bytes() for path in (source, *headers)),
        compiler.encode(),
        version,
        " ".join(options).encode(),
        _processor().encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _processor() -> str:
    """What -march=native stands for: a home folder may be shared by different machines."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        lines = facts.read_text(errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
    return f"{platform.machine()} {platform.processor()}"


@contextmanager
def _folder() -> Iterator[Path]:
    """Where libraries are kept, writable by their owner alone; a folder for a moment where that cannot be."""
    place = cache_folder() / "compiled"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = not hasattr(os, "getuid") or place.stat().st_uid == os.getuid()
        usable = mine and os.access(place, os.W_OK)
    except OSError:
        usable = False
    if usable:
        yield place
        return
    with tempfile.TemporaryDirectory(
        prefix="sri_pyro-"
    ) as passing:  # a library that is loaded needs its file no more
        yield Path(passing)


def _compile(compiler: str, options: list[str], source: Path, kept: Path) -> None:
    """Build beside the place and move there, so that no process loads half a library."""
    with atomic_path(kept) as temporary:
        command = [compiler, *options, "-o", str(temporary), str(source), "-lm"]
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()  # in the language of the user
            raise OSError(f"{compiler} ended with {done.returncode}: {said[:500]}")
