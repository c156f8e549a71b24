"""The softmax with a frozen tail against its formula written out, and the surrogate likelihood against autograd of it.

A wrong program that these catch: an anchor that moves with every call or never, a call too early or too late, a
gradient that is not the value's. Axes: S draws, B sentences, N hidden states, H units, V words.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sri_pyro.models import LSTMDecoder
from sri_pyro.models.decoders import fast_lstm
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks
from sri_pyro.models.decoders.frozen_tail import FrozenTail, FrozenTailLikelihood, TailOptions
from sri_pyro.types import BOS, PAD, Batch
from tests.textbook import lstm_logits, lstm_states, lstm_value_and_grad, rows, small_lstm

pytestmark = pytest.mark.usefixtures("float64")


def layer(words: int = 40, width: int = 6) -> tuple[Tensor, Tensor]:
    """Weights [V, H] and biases [V] of an output layer in which two words have no share."""
    bias = torch.randn(words)
    bias[[PAD, BOS]] = -torch.inf
    return torch.randn(words, width), bias


def likely(logits: Tensor, candidates: int) -> Tensor:
    """The words with the largest probability summed over all hidden states [..., V]; True for those, [V]."""
    summed = logits.softmax(-1).reshape(-1, logits.shape[-1]).sum(0)
    chosen = torch.zeros(logits.shape[-1], dtype=torch.bool)
    chosen[summed.argsort(descending=True)[:candidates]] = True
    return chosen


def formula(
    h: Tensor, anchor: Tensor, layer: tuple[Tensor, Tensor], chosen: Tensor, groups: list[Tensor]
) -> Tensor:
    """The surrogate's log-normaliser: candidates as they are, each group as one word of the slope at the anchor."""
    weight, bias = layer
    terms = [(h @ weight.T + bias)[..., chosen]]
    for group in groups:
        logits = (anchor @ weight.T + bias)[..., group]
        slope = logits.softmax(-1) @ weight[group]
        terms.append((logits.logsumexp(-1) + (slope * (h - anchor)).sum(-1))[..., None])
    return torch.cat(terms, -1).logsumexp(-1)


def exactly(h: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
    """The log-normaliser of all words."""
    return (h @ layer[0].T + layer[1]).logsumexp(-1)


def with_gradient(function: Callable[..., Tensor], h: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """The gradient of a log-normaliser and its value, in the order of a softmax layer's answer."""
    h = h.clone().requires_grad_()
    value = function(h, *others)
    return torch.autograd.grad(value.sum(), h)[0], value.detach()


def assert_pairs(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float = 1e-12
) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


# --- The softmax ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refresh", [1, 2, 3, 5])
@pytest.mark.parametrize("candidates", [1, 7, 30])
def test_every_call_is_the_formula_about_its_anchor(candidates: int, refresh: int) -> None:
    """Exact at calls 0, R, 2R, ...; in between about the last of these, with the candidates of call 0."""
    words, h = layer(), torch.randn(9, 6)
    softmax = FrozenTail(*words, TailOptions(candidates, 1, refresh))
    chosen = likely(h @ words[0].T + words[1], candidates)
    for call in range(11):
        exact = expected = with_gradient(exactly, h, words)
        if call % refresh == 0:
            anchor = h
        else:
            expected = with_gradient(formula, h, anchor, words, chosen, [~chosen])
            assert (expected[1] - exact[1]).abs().max() > 1e-6  # positive control
        assert_pairs(softmax(h), expected)
        h = h + 0.1 * torch.randn_like(h)


def test_many_states_choose_candidates_by_some_of_them() -> None:
    """Every third of 650, as 200 are enough. Here others would choose otherwise."""
    words, h = layer(), 2 * torch.randn(650, 6)
    h[1::3], h[2::3] = h[1::3] + words[0][-1], h[2::3] + words[0][-2]
    softmax, logits = FrozenTail(*words, TailOptions(3, 1, refresh=2)), h @ words[0].T + words[1]
    softmax(h)
    chosen, by_all = likely(logits[::3], 3), likely(logits, 3)
    assert not torch.equal(chosen, by_all)
    moved = h + 0.1 * torch.randn_like(h)
    assert_pairs(softmax(moved), with_gradient(formula, moved, h, words, chosen, [~chosen]))


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_groups_of_like_words_are_one_word_each(blocks: int) -> None:
    """Blocks of ten like words, each block less likely than the one before: groups begin one in each of them."""
    block = torch.cat([torch.full((6,), -1), torch.arange(blocks).repeat_interleave(10)])
    weight, bias = layer(words=len(block))
    weight[6:] = 3 * torch.randn(blocks, 6)[block[6:]] + 0.3 * torch.randn(10 * blocks, 6)
    bias[:4], bias[4:6] = -torch.inf, 2.0  # words that cannot come are in no group; two candidates
    bias[6:] = -2.0 * block[6:]
    words, h = (weight, bias), torch.randn(50, 6) / 20
    chosen = likely(h @ weight.T + bias, 2)
    assert chosen.nonzero().flatten().tolist() == [4, 5]
    softmax = FrozenTail(*words, TailOptions(2, blocks, refresh=2))
    softmax(h)
    moved = h + 0.5 * torch.randn_like(h)
    expected = with_gradient(formula, moved, h, words, chosen, [block == m for m in range(blocks)])
    assert_pairs(softmax(moved), expected)
    one_group = formula(moved, h, words, chosen, [block >= 0])
    assert (one_group - expected[1]).abs().max() > 1e-6  # positive control


def test_an_anchor_is_not_a_view_of_states_that_are_written_over() -> None:
    words, h = layer(), torch.randn(5, 6)
    anchor, softmax = h.clone(), FrozenTail(*words, TailOptions(4, 1, refresh=3))
    chosen = likely(h @ words[0].T + words[1], 4)
    softmax(h)
    h += 0.3 * torch.randn_like(h)
    assert_pairs(softmax(h), with_gradient(formula, h, anchor, words, chosen, [~chosen]))


@pytest.mark.parametrize("tail_words", [1, 8])
@pytest.mark.parametrize("candidates", [38, 39, 40, 100])
def test_nothing_is_lost_where_every_possible_word_is_a_candidate(candidates: int, tail_words: int) -> None:
    """38 of 40 words can follow: the tail is empty, or holds words without mass, whose mean weight is 0 / 0.

    States go from end to end of what an LSTM can have; a tail of a rounding error would not stay one.
    """
    words = layer(words=40, width=64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        softmax = FrozenTail(words[0].to(dtype), words[1].to(dtype), TailOptions(candidates, tail_words, 3))
        for _ in range(5):
            h = torch.randn(200, 64).tanh()
            found = softmax(h.to(dtype))
            assert found[0].dtype == found[1].dtype == dtype
            assert_pairs(found, with_gradient(exactly, h.to(dtype).double(), words), tolerance)


@pytest.mark.parametrize("tail_words", [1, 3, 8, 40, 100])
def test_a_group_of_equals_and_a_word_alone_are_exact(tail_words: int) -> None:
    """Equal words make one log-linear word, however many groups stay empty; so does each word by itself."""
    weight, bias = layer()
    equal = weight[4].repeat(40, 1)
    if tail_words > 1:  # two kinds of words, one of them after the other in probability
        equal[20:] = weight[5]
        bias[20:] -= 15
    for words in [(equal, bias)] + [(weight, bias)] * (tail_words >= 38):
        softmax, h = FrozenTail(*words, TailOptions(2, tail_words, 9)), torch.randn(9, 6)
        for _ in range(4):
            assert_pairs(softmax(h), with_gradient(exactly, h, words), 1e-11)
            h = h + 0.5 * torch.randn_like(h)


@pytest.mark.parametrize("tail_words", [1, 4])
def test_error_is_of_second_order_in_the_distance_from_the_anchor(tail_words: int) -> None:
    """A tail frozen without its slope errs to first order: half the distance would halve it, not quarter it."""
    words, anchor, direction, errors = layer(), torch.randn(9, 6), torch.randn(9, 6), []
    for distance in (2e-3, 1e-3):
        softmax = FrozenTail(*words, TailOptions(5, tail_words, refresh=2))
        softmax(anchor)
        h = anchor + distance * direction
        errors.append((softmax(h)[1] - exactly(h, words)).abs().sum().item())
    assert errors[0] > 1e-7
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("name", ["candidates", "tail_words", "refresh"])
def test_sizes_out_of_range_are_refused(name: str) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"{name}.*{size}"):
            TailOptions(**{name: size})


# --- The surrogate likelihood --------------------------------------------------------------------------------


def text(**options) -> tuple[LSTMDecoder, Tensor]:
    """A decoder, and sentences in no order of length."""
    return small_lstm(vocab_size=30, hidden=7, **options), rows(30, [2, 5, 1, 4], width=6)


class Surrogate:
    """What the surrogate of one run must answer, call by call; hidden states and formula by hand."""

    def __init__(
        self, decoder: LSTMDecoder, tokens: Tensor, masks: Masks, candidates: int, refresh: int
    ) -> None:
        self.decoder, self.tokens, self.masks = decoder, tokens, masks
        self.candidates, self.refresh, self.calls = candidates, refresh, 0

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Value [S, B] and gradient [S, B, D]."""
        z = z.clone().requires_grad_()
        states = lstm_states(self.decoder, z, self.tokens, self.masks)
        if self.calls == 0:
            real = torch.cat([part.flatten(0, 1) for part in states])
            self.chosen = likely(lstm_logits(self.decoder, real), self.candidates)
        if self.calls % self.refresh == 0:
            self.anchors = [part.detach() for part in states]
        self.calls += 1
        bias = (
            torch.zeros(30) if self.decoder.output.bias is None else self.decoder.output.bias.detach().clone()
        )
        bias[[PAD, BOS]] = -torch.inf
        value = []
        for row, part, anchor in zip(self.tokens, states, self.anchors, strict=True):
            targets = row[row != PAD].expand(len(z), -1)[..., None]
            said = lstm_logits(self.decoder, part).gather(-1, targets)[..., 0]
            words = (self.decoder.output.weight, bias)
            normaliser = formula(part, anchor, words, self.chosen, [~self.chosen])
            value.append((said - normaliser).sum(-1))
        gradient = torch.autograd.grad(sum(one.sum() for one in value), z)[0]
        return torch.stack(value, -1).detach(), gradient


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_surrogate_is_the_formula_through_the_textbook(wiring: str, masked: bool, draws: int) -> None:
    """Oracle: autograd through recurrence and formula, over a run of calls; values asked in between are exact."""
    decoder, tokens = text(wiring=wiring, output_bias=not masked)
    masks = Masks(states=(torch.rand(4, 6, 7) > 0.4) / 0.6) if masked else NOTHING_DROPPED
    exact = decoder.condition(Batch(tokens), masks=masks)
    run, expected = (
        FrozenTailLikelihood.of(exact, TailOptions(6, 1, 3)),
        Surrogate(decoder, tokens, masks, 6, 3),
    )
    z = torch.randn(draws, 4, 3)
    for call in range(7):
        found, truth = run.value_and_grad(z), lstm_value_and_grad(decoder, z, tokens, masks)
        assert_pairs(found, expected(z), 1e-11)
        assert ((found[1] - truth[1]).abs().max() < 1e-11) == (call % 3 == 0)
        if call == 1:  # a value is exact, and no call
            torch.testing.assert_close(run.value(z), truth[0], rtol=1e-12, atol=1e-12)
        z = z + 0.3 * torch.randn_like(z)


def test_surrogate_with_every_word_is_exact() -> None:
    decoder, tokens = text()
    for candidates in (28, 30):
        run = FrozenTailLikelihood.of(decoder.condition(Batch(tokens)), TailOptions(candidates, 4, 4))
        for _ in range(6):
            z = torch.randn(2, 4, 3)
            assert_pairs(run.value_and_grad(z), lstm_value_and_grad(decoder, z, tokens), 1e-11)


def test_a_run_counts_once_however_many_passes_its_draws_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws in several passes: each pass has states of its own, and anchors of its own."""
    decoder, tokens = text()
    z = torch.randn(4, 4, 3)
    run = FrozenTailLikelihood.of(decoder.condition(Batch(tokens)), TailOptions(6, 1, 3))
    expected = Surrogate(decoder, tokens, NOTHING_DROPPED, 6, 3)
    monkeypatch.setattr(fast_lstm, "BUDGET", 1)
    for _ in range(5):
        assert_pairs(run.value_and_grad(z), expected(z), 1e-11)
        z = z + 0.2 * torch.randn_like(z)


def test_surrogate_leaves_no_trace() -> None:
    decoder, tokens = text()
    before = copy.deepcopy(decoder.state_dict())
    run = FrozenTailLikelihood.of(decoder.condition(Batch(tokens)), TailOptions(6, 3, 2))
    z = torch.randn(2, 4, 3, requires_grad=True)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            answers = run.value_and_grad(z)
        assert not any(part.requires_grad for part in answers)
    assert z.grad is None
    assert all(weight.grad is None and weight.requires_grad for weight in decoder.parameters())
    assert all(torch.equal(before[name], now) for name, now in decoder.state_dict().items())
