"""Reads lines of plain or gzip text with bounded memory, and says in one sentence what is wrong."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sri_pyro.data.errors import DataError

MAX_LINE_BYTES: Final = 1 << 20
"""Longest line that is read; a file without line breaks must not fill the memory."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


def read_lines(path: str | Path, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 file, plain or gzip, without their line ends.

    Gzip is known by its first two bytes, not by its name. Lines end at ``\n`` or ``\r\n`` and at
    nothing else, so that line numbers agree with an editor's. A byte-order mark is dropped.

    Args:
        path: The file. It may be a pipe.
        max_line_bytes: Longest line accepted, in bytes.

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
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a text file, one sentence a line.")
    try:
        with path.open("rb") as raw:
            yield from _lines(path, raw, max_line_bytes)
    except FileNotFoundError:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"{path} does not exist{where}; give a text file, one sentence a line.") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{path} is damaged gzip ({str(error).rstrip('.')}); make or fetch it again."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def _lines(path: Path, raw: io.BufferedReader, limit: int) -> Iterator[str]:
    handle: io.BufferedIOBase = raw
    if raw.peek(2)[:2] == _GZIP_MAGIC:
        handle = gzip.GzipFile(fileobj=raw)
    elif path.suffix == ".gz" and raw.peek(1):
        raise DataError(f"{path} is named .gz but is not gzip; rename it, or make it again.")
    number = 0
    while line := handle.readline(limit + 1):
        number += 1
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
        yield text.removeprefix("\ufeff") if number == 1 else text
    if number == 0:
        raise DataError(f"{path} is empty; give a text file, one sentence a line.")
