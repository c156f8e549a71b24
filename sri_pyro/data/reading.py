"""Reads lines of plain or gzip text with bounded memory, and says in one sentence what is wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sri_pyro.data.errors import DataError

MAX_LINE_BYTES: Final = 1 << 20
"""Longest line that is read; a file without line breaks must not fill the memory."""

_BLOCK: Final = 1 << 18
_GZIP_MAGIC: Final = b"\x1f\x8b"


def read_lines(
    path: str | Path, max_line_bytes: int = MAX_LINE_BYTES, digest: hashlib._Hash | None = None
) -> Generator[str, None, None]:
    r"""Yield the lines of a UTF-8 file, plain or gzip, without their line ends.

    Gzip is known by its first two bytes, not by its name. Lines end at ``\n`` or ``\r\n`` and at
    nothing else, so that line numbers agree with an editor's. A byte-order mark is dropped.

    Args:
        path: The file. It may be a pipe.
        max_line_bytes: Longest line accepted, in bytes.
        digest: Receives every byte of the file as it lies there, in the one pass that gives the lines; if
            the iterator is closed before its end, the bytes that are left too.

    Raises:
        DataError: If the file is missing, a folder, unreadable, empty, binary, not UTF-8, damaged
            gzip, or has a line over the limit.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "text.txt"
        ...     _ = file.write_bytes(b"one line\r\nanother\n")
        ...     list(read_lines(file))
        ['one line', 'another']
    """
    path = Path(path)
    with _opened(path, digest) as raw:
        try:
            yield from _lines(path, raw, max_line_bytes)
        except GeneratorExit:
            if digest is not None:
                _exhaust(raw)
            raise
        _exhaust(raw)


def content_digest(path: str | Path) -> str:
    """SHA-256 in hexadecimal of a file as it lies there, about a second for a gigabyte.

    Raises:
        DataError: If the file is missing, a folder, a pipe, unreadable, or named .gz without being gzip.
    """
    path = Path(path)
    if path.is_fifo() or path.is_char_device():
        raise DataError(
            f"{path} can be read only once, and a text whose tokens are kept is read twice; give a file, or "
            "leave data.cache out."
        )
    digest = hashlib.sha256()
    with _opened(path, digest) as raw:
        _unpacked(path, raw)
        _exhaust(raw)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path, digest: hashlib._Hash | None) -> Iterator[io.BufferedReader]:
    """The bytes of a file, fed to a digest as they are read; what goes wrong is said in a sentence."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a text file, one sentence a line.")
    try:
        with path.open("rb", buffering=0) as file:
            yield io.BufferedReader(file if digest is None else _Digested(file, digest), _BLOCK)
    except FileNotFoundError:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"{path} does not exist{where}; give a text file, one sentence a line.") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{path} is damaged gzip ({str(error).rstrip('.')}); make or fetch it again."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


class _Digested(io.RawIOBase):
    """A file that tells a digest what is read of it."""

    def __init__(self, file: io.RawIOBase, digest: hashlib._Hash) -> None:
        self._file = file
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._digest.update(memoryview(buffer)[:count])
        return count


def _exhaust(raw: io.BufferedReader) -> None:
    while raw.read1(_BLOCK):
        pass


def _unpacked(path: Path, raw: io.BufferedReader) -> io.BufferedIOBase:
    if raw.peek(2)[:2] == _GZIP_MAGIC:
        return gzip.GzipFile(fileobj=raw)
    if path.suffix == ".gz" and raw.peek(1):
        raise DataError(f"{path} is named .gz but is not gzip; rename it, or make it again.")
    return raw


def _lines(path: Path, raw: io.BufferedReader, limit: int) -> Iterator[str]:
    handle = _unpacked(path, raw)
    number, rest = 0, b""
    while block := handle.read1(_BLOCK):
        whole, newline, tail = block.rpartition(b"\n")
        if not newline:
            rest += block
            if len(rest) > limit:
                _decoded(path, rest[: limit + 1], number + 1, limit)
            continue
        for line in _cut(path, rest + whole, number, limit):
            number += 1
            yield line
        rest = tail
    if rest:
        number += 1
        yield _decoded(path, rest, number, limit)
    if number == 0:
        raise DataError(f"{path} is empty; give a text file, one sentence a line.")


def _cut(path: Path, block: bytes, number: int, limit: int) -> Iterator[str]:
    """The lines of a block that a line break ends, after so many others; all at once where nothing is wrong."""
    try:
        text = block.decode("utf-8") if len(block) < limit and b"\0" not in block else None
    except UnicodeDecodeError:
        text = None
    if text is None:
        for i, line in enumerate(block.split(b"\n"), number + 1):
            yield _decoded(path, line + b"\n", i, limit)
        return
    lines = text.split("\n")
    if number == 0:
        lines[0] = lines[0].removeprefix("\ufeff")
    yield from [line.removesuffix("\r") for line in lines] if "\r" in text else lines


def _decoded(path: Path, line: bytes, number: int, limit: int) -> str:
    """One line without its end, or what is wrong with it."""
    line = line[: limit + 1]
    if b"\0" in line:
        raise DataError(
            f"{path} is binary (a zero byte in line {number}); give UTF-8 text, one sentence a line."
        )
    if len(line) > limit:
        raise DataError(
            f"line {number} of {path} is longer than {limit} bytes; "
            "give one sentence a line, ended by line breaks."
        )
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"line {number} of {path} is not UTF-8 (byte 0x{line[error.start]:02x} at position "
            f"{error.start + 1}); convert the file, for example with iconv -t utf-8."
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    return text.removeprefix("\ufeff") if number == 1 else text
