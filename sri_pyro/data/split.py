"""Token rows in compact storage, with the ids, labels and exact log-probabilities that belong to them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sri_pyro.data.columns import in_pieces
from sri_pyro.data.errors import DataError
from sri_pyro.types import UNK
from sri_pyro.wording import counted


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """N sentences as token rows, each ending with EOS.

    The arrays lie in memory, or are files mapped into it; no method but ``take`` and ``subset``, which copy
    their rows, holds more than a piece of the tokens.

    Attributes:
        tokens: All rows one after another, int32, shape [tokens].
        offsets: Row i is ``tokens[offsets[i]:offsets[i + 1]]``, int64, shape [N + 1].
        ids: Which example each row is, int64, strictly increasing, shape [N]. A whole split counts
            from 0; a subset keeps the ids of the split it is from. ``values[torch.argsort(ids)]``
            puts results computed in any order back into the order of the split.
        labels: Index into ``Corpus.label_names``, int32, shape [N], -1 for none; None if no row has one.
        exact_log_prob: log p(x) in nats under the grammar that made the rows, float64, shape [N];
            None for real text.

    Example:
        >>> split = Split.from_rows([[7, 5, 3], [9, 3]])
        >>> len(split), split.num_tokens, split.sentence(1).tolist(), split.lengths.tolist()
        (2, 5, [9, 3], [3, 2])
        >>> split
        Split(2 sentences, 5 tokens)
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int32] | None = None
    exact_log_prob: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.offsets) - 1
        assert self.offsets[0] == 0, "offsets begin at the first token"
        assert self.offsets[-1] == len(self.tokens), "offsets end at the last token"
        assert self.ids.shape == (n,), "one id per row"
        neighbours = zip(in_pieces(self.ids[:-1]), in_pieces(self.ids[1:]), strict=True)
        assert all((one < next_one).all() for one, next_one in neighbours), "ids increase"
        for extra in (self.labels, self.exact_log_prob):
            assert extra is None or extra.shape == (n,), "one entry per row"

    def __repr__(self) -> str:
        return f"Split({counted(len(self), 'sentence')}, {counted(self.num_tokens, 'token')})"

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Sequence[int]],
        *,
        ids: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        exact_log_prob: NDArray[np.float64] | None = None,
    ) -> Split:
        """Store rows of token ids, each ending with EOS as ``Vocabulary.encode`` gives them."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        flat = (token for row in rows for token in row)
        return cls(
            tokens=np.fromiter(flat, np.int32, count=int(offsets[-1])),
            offsets=offsets,
            ids=np.arange(len(rows), dtype=np.int64) if ids is None else np.asarray(ids, np.int64),
            labels=None if labels is None else np.asarray(labels, np.int32),
            exact_log_prob=exact_log_prob,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_tokens(self) -> int:
        """Predicted tokens, the end of each sentence included: what a perplexity divides by."""
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Predicted tokens of each row, the end of sentence included, shape [N]."""
        return np.diff(self.offsets)

    @property
    def unknown_share(self) -> float:
        """Share of the words (ends of sentence not counted) that are UNK."""
        words = self.num_tokens - len(self)
        unknown = sum(np.count_nonzero(piece == UNK) for piece in in_pieces(self.tokens))
        return unknown / words if words else 0.0

    def sentence(self, i: int) -> NDArray[np.int32]:
        """Row i, the final EOS included, shape [length]; a view, not a copy."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of a split of {len(self)} sentences")
        i %= len(self)
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: NDArray[np.int64]) -> Split:
        """The rows at some strictly increasing positions; they keep their ids."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Position of every token kept: the row's start, plus how far into the row it is.
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Split(
            tokens=self.tokens[np.repeat(starts, lengths) + within],
            offsets=offsets,
            ids=self.ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            exact_log_prob=None if self.exact_log_prob is None else self.exact_log_prob[rows],
        )

    def subset(self, n: int, seed: int) -> Split:
        """A random sample of n rows without replacement, in corpus order; they keep their ids.

        Raises:
            DataError: If the split has fewer than n rows, or n is below 1.
        """
        if not 1 <= n <= len(self):
            raise DataError(f"a subset of a split of {len(self)} sentences has 1 to {len(self)}; got {n}.")
        chosen = np.random.default_rng(seed).choice(len(self), size=n, replace=False)
        return self.take(np.sort(chosen))

    def update_digest(self, digest: hashlib._Hash) -> None:
        """Feed rows, ids and labels to a running hash, the same on every machine."""
        columns: list[tuple[NDArray[Any] | None, str]] = [
            (self.tokens, "<i4"),
            (self.offsets, "<i8"),
            (self.ids, "<i8"),
            (self.labels, "<i4"),
        ]
        for column, dtype in columns:
            if column is not None:
                for piece in in_pieces(column):
                    digest.update(np.ascontiguousarray(piece, dtype).data)
