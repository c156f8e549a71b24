"""Encoding: from the parts of gathered texts to splits, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sri_pyro.data.columns import Column, in_pieces
from sri_pyro.data.ranks import found
from sri_pyro.data.rows import END, Part
from sri_pyro.data.split import Split

COLUMNS: Final[Mapping[str, str]] = {"tokens": "<i4", "offsets": "<i8", "labels": "<i4"}
"""Types of the arrays of a split that lie in files, by the end of the file's name."""


def count_words(part: Part, words: Sequence[str]) -> dict[str, int]:
    """How often each word stands in a part, in the order of first appearance there.

    Args:
        part: Some rows.
        words: Every word at its number.
    """
    counts = np.zeros(len(words), np.int64)
    first = np.full(len(words), -1)
    position = 0
    for piece in part.tokens():
        counts += np.bincount(piece, minlength=len(words))
        new = np.flatnonzero(first[piece] < 0)[::-1]  # backwards: what is assigned last stays
        first[piece[new]] = position + new
        position += len(piece)
    counts[END] = 0
    present = np.flatnonzero(counts)
    ordered = present[np.argsort(first[present])]
    return {words[number]: int(counts[number]) for number in ordered}


def number_labels(
    parts: Iterable[Part], labels: Sequence[str | None]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """The labels that stand in some parts, sorted, and where each number's label is among them, or -1.

    Args:
        parts: Some rows.
        labels: Every label at its number.
    """
    counts = np.zeros(len(labels), np.int64)
    for part in parts:
        for piece in in_pieces(part.labels()):
            counts += np.bincount(piece, minlength=len(labels))
    names = sorted(label for label, count in zip(labels, counts, strict=True) if count and label is not None)
    places: dict[str | None, int] = {label: i for i, label in enumerate(names)}
    return tuple(names), np.array([places.get(label, -1) for label in labels], np.int32)


def encode(
    part: Part,
    ids: NDArray[np.int32],
    labels: NDArray[np.int32] | None,
    exact_log_prob: NDArray[np.float64] | None,
    file: Path | None,
) -> Split:
    """A split of some rows.

    Args:
        part: The rows.
        ids: Of every word, at its number.
        labels: Of every label, at its number; None if there are none.
        exact_log_prob: As for ``Split``.
        file: Where it lies, less the ends of ``COLUMNS``; None for memory.
    """
    columns = {
        name: Column(dtype, None if file is None else file.with_suffix(f".{name}"))
        for name, dtype in COLUMNS.items()
        if name != "labels" or labels is not None
    }
    columns["offsets"].append(np.zeros(1, np.int64))
    done = 0
    for piece in part.tokens():
        columns["tokens"].append(ids[piece])
        columns["offsets"].append(done + 1 + np.flatnonzero(piece == END))
        done += len(piece)
    if labels is not None:
        for piece in in_pieces(part.labels()):
            columns["labels"].append(labels[piece])
    arrays = {name: column.whole() for name, column in columns.items()}
    return Split(**arrays, ids=np.arange(len(part)), exact_log_prob=exact_log_prob)


def count_shared(part: Part, other: Part) -> int:
    """Sentences of a part, copies counted, that stand in another one too."""
    distinct, copies = np.unique(part.ranks(), return_counts=True)
    shared = np.zeros(len(distinct), bool)
    for piece in in_pieces(other.ranks()):
        shared[np.searchsorted(distinct, piece[found(distinct, piece)])] = True
    return int(copies[shared].sum())
