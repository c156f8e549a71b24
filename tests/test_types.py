"""What travels between the rooms: shapes, counts, and whole sentences for what does not fit."""

import math

import pytest
import torch

from sri_pyro.types import BOS, EOS, PAD, SPECIAL_SYMBOLS, UNK, Batch, Draws, Estimate, Progress
from tests.oracles import sentence


def test_special_symbols_are_four_ids_in_the_order_of_their_names() -> None:
    assert [SPECIAL_SYMBOLS[i] for i in (PAD, UNK, BOS, EOS)] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert sorted((PAD, UNK, BOS, EOS)) == [0, 1, 2, 3]


def test_lengths_count_the_end_of_sentence_and_no_padding() -> None:
    batch = Batch(torch.tensor([[7, 5, EOS, PAD], [EOS, PAD, PAD, PAD], [7, UNK, 7, EOS]]))
    assert batch.lengths.tolist() == [3, 1, 4]
    assert batch.mask.tolist()[0] == [True, True, True, False]
    assert len(batch) == 3
    assert batch.ids.tolist() == [0, 1, 2]


def test_ids_travel_with_the_tokens() -> None:
    batch = Batch(torch.tensor([[7, EOS]]), torch.tensor([41])).to("cpu")
    assert batch.ids.tolist() == [41]
    assert batch.tokens.tolist() == [[7, EOS]]


@pytest.mark.parametrize(
    ("tokens", "got"),
    [
        (torch.zeros(3, dtype=torch.int64), "torch.int64 of shape (3,)"),
        (torch.zeros(3, 2), "torch.float32 of shape (3, 2)"),
        (torch.zeros(3, 2, dtype=torch.int32), "torch.int32 of shape (3, 2)"),
    ],
)
def test_tokens_of_another_shape_are_refused(tokens: torch.Tensor, got: str) -> None:
    message = f"tokens must be int64 of shape [sentences, positions]; got {got}. Pad rows with PAD = 0."
    with pytest.raises(ValueError, match=sentence(message)):
        Batch(tokens)


def test_ids_must_be_one_per_sentence() -> None:
    message = "ids must have one entry per sentence, shape (3,); got (2,)."
    with pytest.raises(ValueError, match=sentence(message)):
        Batch(torch.ones(3, 2, dtype=torch.int64), torch.arange(2))


def test_negative_token_ids_are_refused() -> None:
    """As the class promises."""
    with pytest.raises(ValueError, match="negative"):
        Batch(torch.tensor([[-1, EOS]]))


@pytest.mark.parametrize("row", [[0, 0, 0], [5, 0, 3], [0, 5, 3], [5, 3, 5], [3, 3, 0]])
def test_rows_that_are_no_sentences_are_refused(row: list[int]) -> None:
    """Empty, a gap, or more after the end: decoders would give such rows a probability all the same."""
    message = (
        f"row 1 of tokens is {row}; a row needs at least one token, nothing but PAD = 0 after EOS = 3, and no "
        "PAD before its end."
    )
    with pytest.raises(ValueError, match=sentence(message)):
        Batch(torch.tensor([[5, 6, EOS], row]))
    assert len(Batch(torch.tensor([[5, 6, 7], [5, 6, EOS], [EOS, 0, 0]]))) == 3  # a prefix is one
    assert len(Batch(torch.zeros(0, 3, dtype=torch.int64))) == 0


def test_draws_know_their_number_and_can_leave_their_graph() -> None:
    z = torch.randn(5, 2, 3, requires_grad=True)
    draws = Draws(z, log_q=z.sum(-1), info={"energy": torch.zeros(5, 2)})
    assert draws.num_samples == 5
    free = draws.detach()
    assert not free.z.requires_grad
    assert not free.log_q.requires_grad
    assert list(free.info) == ["energy"]
    assert draws.log_q.requires_grad
    assert Draws(z).detach().log_q is None


def test_draws_of_another_shape_are_refused() -> None:
    message = "z must have shape [samples, sentences, latent dimensions]; got (2, 3)."
    with pytest.raises(ValueError, match=sentence(message)):
        Draws(torch.zeros(2, 3))
    message = (
        "log_q must have one value per draw, shape (2, 3) (z without its last axis); got (2, 3, 4). "
        "Sum the density over the latent axis before building Draws."
    )
    with pytest.raises(ValueError, match=sentence(message)):
        Draws(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


def test_estimates_carry_their_error() -> None:
    estimate = Estimate(10.0, 0.5, 100, method="importance")
    low, high = estimate.interval()
    assert (low, high) == (pytest.approx(10 - 0.98), pytest.approx(10 + 0.98))
    assert estimate.interval(z=0.0) == (10.0, 10.0)
    assert str(Estimate(1.23456, math.nan, 1)) == "1.235 ± nan"


def test_records_are_frozen() -> None:
    for record in (Batch(torch.tensor([[3]])), Draws(torch.zeros(1, 1, 1)), Progress(0, 0.0)):
        with pytest.raises(AttributeError):
            record.anything = 1
