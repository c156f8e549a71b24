"""Ranks: the eight bytes by which a sentence is known again, and ordered, without its words.

Of n distinct sentences, two have the same rank with probability n^2 / 2^65, 3e-4 for a hundred million; the
later one is then taken for a copy of the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ranks: TypeAlias = NDArray[np.uint64]

_RATIO: Final = 8


def keyed_ranks(sentences: Iterable[Sequence[str]], seed: int, purpose: bytes) -> Ranks:
    """Pseudo-random ranks of sentences, each of which depends on its words, the seed and the purpose alone.

    Example:
        >>> a, b, c = keyed_ranks([("a", "rose"), ("a", "tree"), ("a", "rose")], 0, b"split")
        >>> bool(a == c), bool(a == b)
        (True, False)
    """
    keyed = hashlib.blake2b(digest_size=8, key=seed.to_bytes(8, "little"), person=purpose)

    def rank(words: Sequence[str]) -> bytes:
        digest = keyed.copy()  # half the time of a new one
        digest.update(" ".join(words).encode())
        return digest.digest()

    return np.frombuffer(b"".join(map(rank, sentences)), ">u8").astype(np.uint64)


def found(known: Ranks, ranks: Ranks) -> NDArray[np.bool_]:
    """Which ranks are among some known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(ranks), bool)
    at = np.searchsorted(known, ranks)
    return np.asarray(known[np.minimum(at, len(known) - 1)] == ranks)


def distinct(ranks: Ranks) -> Ranks:
    """The distinct ranks, sorted; 16 bytes a rank at most, where ``np.unique`` may take 60."""
    ordered = np.sort(ranks)
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered if new.all() else ordered[new]


class Seen:
    """A set of ranks that is asked and extended a block at a time.

    It holds eight bytes a rank, and as much again while it merges: sorted runs, of which each is more than
    ``_RATIO`` times as long as the next, so that there are few to ask, and merging takes little longer than reading.

    Example:
        >>> seen = Seen()
        >>> seen.fresh(np.array([5, 3, 5], np.uint64)).tolist()
        [True, True, False]
        >>> seen.fresh(np.array([3, 4], np.uint64)).tolist()
        [False, True]
    """

    def __init__(self) -> None:
        self._runs: list[Ranks] = []

    def fresh(self, ranks: Ranks) -> NDArray[np.bool_]:
        """Which ranks stand for the first time, here and in all blocks before; from now on they are known."""
        run, places = np.unique(ranks, return_index=True)
        for known in self._runs:
            new = ~found(known, run)
            run, places = run[new], places[new]
        first = np.zeros(len(ranks), bool)
        first[places] = True
        while self._runs and len(self._runs[-1]) <= _RATIO * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # which merges what is sorted already
        self._runs.append(run)
        return first
