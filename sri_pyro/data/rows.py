"""Rows: the sentences of one text as numbers of words, and the parts that a text is cut into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sri_pyro.data.columns import in_pieces
from sri_pyro.data.errors import DataError
from sri_pyro.data.ranks import Ranks, distinct

MIN_SENTENCES: Final = 10
"""Fewest distinct sentences that are split; fewer make no training, validation and test set."""

END: Final = 0
"""Number of the end of a sentence."""


class Rows(NamedTuple):
    """N sentences of one text.

    Attributes:
        tokens: Numbers of words, sentence after sentence, each followed by ``END``; int32, shape [tokens].
        ranks: ``keyed_ranks`` of the sentences, by which copies are known; uint64, shape [N].
        labels: Numbers of labels, 0 for none; int32, shape [N].
    """

    tokens: NDArray[np.int32]
    ranks: Ranks
    labels: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a text, in its order.

    Attributes:
        rows: The text.
        chosen: Which of them, shape [N]; None for all.
    """

    rows: Rows
    chosen: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.rows.ranks) if self.chosen is None else int(np.count_nonzero(self.chosen))

    def tokens(self) -> Iterator[NDArray[np.int32]]:
        """Their tokens, in pieces that need not end with a sentence."""
        begun = 0
        for piece in in_pieces(self.rows.tokens):
            if self.chosen is None:
                yield piece
            else:
                ends = piece == END
                yield piece[self.chosen[begun + np.cumsum(ends) - ends]]
                begun += int(np.count_nonzero(ends))

    def ranks(self) -> Ranks:
        """Their ranks."""
        return self.rows.ranks if self.chosen is None else self.rows.ranks[self.chosen]

    def labels(self) -> NDArray[np.int32]:
        """Numbers of their labels."""
        return self.rows.labels if self.chosen is None else self.rows.labels[self.chosen]

    def cut(self, fractions: Mapping[str, float]) -> dict[str, Part]:
        """Put aside a share of the distinct sentences for each name in ``fractions``; the rest is ``train``.

        Raises:
            DataError: If there are fewer than ``MIN_SENTENCES`` distinct sentences.
        """
        ranks = distinct(self.ranks())
        if len(ranks) < MIN_SENTENCES:
            raise DataError(
                f"too few sentences to split: {len(ranks)} distinct ones are left and at least "
                f"{MIN_SENTENCES} are needed; give more text, or a file for each split."
            )
        sizes = [max(1, round(share * len(ranks))) for share in fractions.values()]
        highest = ranks[np.cumsum(sizes) - 1]
        pieces = in_pieces(self.rows.ranks)
        place = np.concatenate([np.searchsorted(highest, piece).astype(np.int8) for piece in pieces])
        allowed = True if self.chosen is None else self.chosen
        return {name: Part(self.rows, (place == i) & allowed) for i, name in enumerate([*fractions, "train"])}
