"""Batches: every row once, little padding, and an order that depends on seed and epoch alone."""

import hashlib
import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from sri_pyro.data import DataError, LengthBuckets, Split, columns, in_order, pad
from sri_pyro.types import EOS, PAD, UNK


@pytest.fixture
def split() -> Split:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 12, size=103)
    return Split.from_rows([[*random.integers(4, 50, size=n).tolist(), EOS] for n in lengths])


@pytest.mark.parametrize("batch_size", [1, 7, 50, 103, 500])
def test_an_epoch_has_every_row_once_with_its_tokens(split: Split, batch_size: int) -> None:
    """Oracle: the split itself, row by row. Catches a dropped last batch and rows under wrong ids."""
    for batches in (
        LengthBuckets(split, batch_size, seed=3).epoch(2),
        list(in_order(split, batch_size)),
    ):
        ids = torch.cat([batch.ids for batch in batches])
        assert sorted(ids.tolist()) == list(range(len(split)))
        for batch in batches:
            assert len(batch) <= batch_size
            for row, i in zip(batch.tokens, batch.ids, strict=True):
                n = len(split.sentence(int(i)))
                assert row[:n].tolist() == split.sentence(int(i)).tolist()
                assert (row[n:] == PAD).all()
        assert sum(batch.mask.sum().item() for batch in batches) == split.num_tokens


def test_the_order_depends_on_seed_and_epoch_alone(split: Split) -> None:
    """A generator that advances from epoch to epoch would give a resumed run other batches."""

    def order(seed: int, e: int) -> list[list[int]]:
        return [batch.ids.tolist() for batch in LengthBuckets(split, 8, seed).epoch(e)]

    batches = LengthBuckets(split, 8, seed=0)
    for e in range(3):
        list(batches.epoch(e))
    assert [batch.ids.tolist() for batch in batches.epoch(3)] == order(0, 3)
    assert batches.epoch(3)[5].ids.tolist() == order(0, 3)[5]
    composition = {frozenset(map(frozenset, order(seed, e))) for seed in (0, 1) for e in (0, 1)}
    assert len(composition) == 4, "equal lengths meet other partners in another epoch"


def batches_as_defined(split: Split, batch_size: int, seed: int, e: int) -> list[list[int]]:
    """Permuted, sorted by length, cut into nearly equal parts, and the parts permuted."""
    random = np.random.default_rng([seed, e])
    rows = random.permutation(len(split)).tolist()
    rows.sort(key=lambda i: len(split.sentence(i)))
    parts = np.array_split(rows, -(-len(split) // batch_size))
    return [parts[i].tolist() for i in random.permutation(len(parts))]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 103, 500])
def test_an_epoch_is_the_one_that_runs_have_begun_with(split: Split, batch_size: int) -> None:
    """Oracle: the definition, one sentence at a time. A resumed run would go on with other batches."""
    for e in range(3):
        batches = LengthBuckets(split, batch_size, seed=5).epoch(e)
        wanted = batches_as_defined(split, batch_size, 5, e)
        assert [batch.ids.tolist() for batch in batches] == wanted
        assert [batch.ids.tolist() for batch in batches[1:4]] == wanted[1:4]
        assert batches[-1].ids.tolist() == wanted[-1]


def test_the_plan_of_an_epoch_takes_a_few_bytes_a_sentence() -> None:
    """Two to eight bytes for the sentence's number, none for its tokens, a slice or a list."""
    n = 60_000
    offsets = np.arange(n + 1) * 2
    split = Split(np.full(2 * n, EOS, np.int32), offsets, np.arange(n))
    tracemalloc.start()
    try:
        batches = LengthBuckets(split, 4, seed=0).epoch(0)
        assert len(batches) == n // 4
        assert tracemalloc.get_traced_memory()[0] / n < 9
    finally:
        tracemalloc.stop()


def test_what_is_said_of_a_split_does_not_depend_on_the_pieces(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the whole arrays at once. Catches what is lost or counted twice where pieces meet."""
    marked = Split(np.where(split.tokens % 3, split.tokens, UNK).astype(np.int32), split.offsets, split.ids)
    whole = hashlib.sha256()
    for array in (marked.tokens, marked.offsets, marked.ids):
        whole.update(array.tobytes())
    share = (marked.tokens == UNK).sum() / (marked.num_tokens - len(marked))
    monkeypatch.setattr(columns, "PIECE", 5)
    digest = hashlib.sha256()
    marked.update_digest(digest)
    assert digest.digest() == whole.digest()
    assert marked.unknown_share == share
    for wrong in (
        [*range(5), 4, *range(5, 10)],
        [*range(6), 5, *range(6, 10)],
    ):  # within a piece and where two meet
        with pytest.raises(AssertionError, match="ids increase"):
            Split.from_rows([[EOS]] * 11, ids=wrong)


def test_batches_hold_neighbours_in_length_and_nearly_equal_numbers(split: Split) -> None:
    batches = list(LengthBuckets(split, 10, seed=0).epoch(0))
    assert len(batches) == len(LengthBuckets(split, 10, seed=0)) == 11
    assert {len(batch) for batch in batches} == {9, 10}
    spans = sorted((b.lengths.min().item(), b.lengths.max().item()) for b in batches)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    first = [b.lengths.min().item() for b in batches]
    assert first != sorted(first), "an epoch does not go from short to long"


def test_results_in_evaluation_order_go_back_into_corpus_order(split: Split) -> None:
    """The documented recipe, on a subset too, whose ids have gaps."""
    for part in (split, split.subset(40, seed=1)):
        batches = list(in_order(part, 6))
        lengths = torch.cat([batch.lengths for batch in batches])
        ids = torch.cat([batch.ids for batch in batches])
        assert lengths.tolist() == sorted(lengths.tolist())
        assert lengths[torch.argsort(ids)].tolist() == part.lengths.tolist()


def test_a_subset_keeps_rows_ids_and_what_belongs_to_them() -> None:
    rows = [[4, EOS], [5, 6, EOS], [7, EOS], [8, 9, 4, EOS]]
    split = Split.from_rows(rows, labels=[0, 1, 0, 1], exact_log_prob=-np.arange(4.0))
    part = split.subset(3, seed=0).subset(2, seed=5)
    assert len(part) == 2
    assert part.labels is not None
    assert part.exact_log_prob is not None
    for position, i in enumerate(part.ids.tolist()):
        assert part.sentence(position).tolist() == rows[i]
        assert part.labels[position] == i % 2
        assert part.exact_log_prob[position] == -i
    with pytest.raises(DataError, match=r"^a subset of a split of 4 sentences has 1 to 4; got 5\.$"):
        split.subset(5, seed=0)


def test_rows_that_make_no_batch_are_named() -> None:
    message = r"each row at least an end of sentence; got lengths \[1, 0\]\.$"
    with pytest.raises(DataError, match=message):
        pad([[EOS], []])
    with pytest.raises(DataError, match=r"^batch_size must be at least 1; got 0\.$"):
        LengthBuckets(Split.from_rows([[EOS]]), 0, seed=0)
    with pytest.raises(DataError, match=r"^there are no sentences to make batches of"):
        LengthBuckets(Split.from_rows([]), 4, seed=0)
