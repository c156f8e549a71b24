"""Batches of nearly equal length: little padding, and an order that a resumed run finds again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from sri_pyro.data.errors import DataError
from sri_pyro.data.split import Split
from sri_pyro.types import PAD, Batch


class LengthBuckets:
    """Cuts a split into batches of nearly equal length, anew in every epoch.

    An epoch's rows are permuted, sorted by length (ties stay permuted), cut into ``len(self)`` batches
    whose sizes differ by at most one, and the batches are permuted. The result depends on the split,
    ``seed`` and the epoch's number alone, not on what was drawn before.

    Args:
        split: What to train on.
        batch_size: Most sentences of a batch.
        seed: Keys every permutation.

    Raises:
        DataError: If ``batch_size`` is below 1 or the split is empty.

    Example:
        >>> split = Split.from_rows([[5, 3], [6, 7, 3], [8, 3], [9, 9, 3]])
        >>> batches = LengthBuckets(split, batch_size=2, seed=0)
        >>> len(batches), sorted(batches.epoch(0)[0].ids.tolist()) in ([0, 2], [1, 3])
        (2, True)
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        _check(split, batch_size)
        self.split = split
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.split) // self.batch_size)

    def epoch(self, e: int) -> Sequence[Batch]:
        """The batches of epoch e, counted from 0; each is made when it is asked for."""
        random = np.random.default_rng([self.seed, e])
        rows = _compact(random.permutation(len(self.split)))
        rows = rows[_by_length(_compact(self.split.lengths)[rows])]
        number = np.arange(len(self) + 1)
        size, longer = divmod(len(self.split), len(self))  # so many batches have one sentence more
        bounds = number * size + np.minimum(number, longer)
        return _Batches(self.split, rows, bounds, random.permutation(len(self)))


def in_order(split: Split, batch_size: int) -> Iterator[Batch]:
    """Every sentence of a split once, shortest first, for evaluation.

    ``values[torch.argsort(ids)]``, with the ids of all batches concatenated, puts results back into
    the order of the split.

    Example:
        >>> split = Split.from_rows([[6, 7, 3], [5, 3]])
        >>> [batch.ids.tolist() for batch in in_order(split, batch_size=1)]
        [[1], [0]]
    """
    _check(split, batch_size)
    rows = _compact(_by_length(_compact(split.lengths)))
    bounds = np.append(np.arange(0, len(split), batch_size), len(split))
    yield from _Batches(split, rows, bounds, np.arange(len(bounds) - 1))


def pad(rows: Sequence[Sequence[int]], ids: Sequence[int] | None = None) -> Batch:
    """Put rows of token ids, each ending with EOS, into one batch.

    Raises:
        DataError: If there is no row, or a row is empty.

    Example:
        >>> pad([[5, 3], [6, 7, 3]]).tokens
        tensor([[5, 3, 0],
                [6, 7, 3]])
    """
    if not rows or not all(len(row) for row in rows):
        raise DataError(
            "a batch needs at least one row, and each row at least an end of sentence; "
            f"got lengths {[len(row) for row in rows]}."
        )
    return _collate(Split.from_rows(rows), np.arange(len(rows)), ids)


class _Batches(Sequence[Batch]):
    """A plan of batches, four to eight bytes a sentence; batches are collated on access.

    Args:
        split: Of the sentences.
        rows: All of them, part after part.
        bounds: Part k is ``rows[bounds[k]:bounds[k + 1]]``.
        order: Which part each batch is.
    """

    def __init__(
        self, split: Split, rows: NDArray[Any], bounds: NDArray[np.int64], order: NDArray[np.int64]
    ) -> None:
        self._split = split
        self._rows = rows
        self._bounds = bounds
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, i: int) -> Batch: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Batch]: ...
    def __getitem__(self, i: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(i, slice):
            return _Batches(self._split, self._rows, self._bounds, self._order[i])
        part = self._order[i]
        rows = self._rows[self._bounds[part] : self._bounds[part + 1]]
        return _collate(self._split, rows.astype(np.int64))


def _compact(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Numbers from 0 in the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(numbers.max()))


def _by_length(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Rows from short to long, those of one length in their order; a third of the memory of ``np.argsort``."""
    bits = len(lengths).bit_length()
    keys = lengths.astype(np.int64)
    keys <<= bits
    keys |= np.arange(len(lengths), dtype=np.min_scalar_type(len(lengths)))
    keys.sort()
    keys &= (1 << bits) - 1
    return keys


def _collate(split: Split, rows: NDArray[np.int64], ids: Sequence[int] | None = None) -> Batch:
    """Gather rows, shape [B], into tokens of shape [B, T], T the longest row's length."""
    starts = split.offsets[rows][:, None]
    lengths = split.offsets[rows + 1][:, None] - starts
    position = np.arange(lengths.max())
    inside = position < lengths
    tokens = np.full(inside.shape, PAD, np.int64)
    tokens[inside] = split.tokens[(starts + position)[inside]]
    return Batch(torch.from_numpy(tokens), torch.as_tensor(split.ids[rows] if ids is None else ids))


def _check(split: Split, batch_size: int) -> None:
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1; got {batch_size}.")
    if len(split) == 0:
        raise DataError("there are no sentences to make batches of; give a split that is not empty.")
