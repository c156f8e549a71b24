"""Columns of numbers that grow at their end, in memory or on disk, and are read in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

PIECE: Final = 1 << 18
"""Entries of a piece: what is held of a column at a time."""

_Entry = TypeVar("_Entry", bound=np.generic)


class Column:
    """An array in the making.

    Args:
        dtype: Of its entries.
        path: The file that holds them, which must not be there yet; None to hold them in memory.

    Example:
        >>> column = Column("<i4")
        >>> column.append(np.array([7, 5]))
        >>> column.append(np.array([3]))
        >>> column.whole().tolist()
        [7, 5, 3]
    """

    def __init__(self, dtype: str, path: Path | None = None) -> None:
        self._dtype = np.dtype(dtype)
        self._path = path
        self._memory = bytearray()
        self._length = 0
        if path is not None:
            path.open("xb").close()

    def append(self, values: NDArray[Any]) -> None:
        """Add values at the end; they are converted to the column's type."""
        content = np.ascontiguousarray(values, self._dtype).data
        if self._path is None:
            self._memory += content
        else:  # written, for a full disk is an error here, and a signal that kills where a file is mapped
            with self._path.open("ab") as file:  # and closed, whatever becomes of the making
                file.write(content)
        self._length += len(values)

    def whole(self) -> NDArray[Any]:
        """All values; on disk they are mapped, so that the kernel fetches and drops them as they are used."""
        if self._path is None:
            return np.frombuffer(self._memory, self._dtype)
        return mapped(self._path, self._dtype, self._length)


def mapped(path: Path, dtype: np.dtype[Any] | str, length: int) -> NDArray[Any]:
    """A file of numbers as an array that cannot be written to.

    Raises:
        ValueError: If the file has fewer.
        OSError: If it cannot be read.
    """
    if length == 0:  # nothing can be mapped of an empty file
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r", shape=(length,)))


def in_pieces(column: NDArray[_Entry]) -> Iterator[NDArray[_Entry]]:
    """A column in views of at most ``PIECE`` entries."""
    for start in range(0, len(column), PIECE):
        yield column[start : start + PIECE]
