"""The compiled part of the Hessian in z, in single precision, against a double backward in double precision.

Without a compiler, or on a processor it is not written for, all of it is skipped but what tells when it is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from sri_pyro.models import LSTMDecoder
from sri_pyro.models.decoders import compiled_curvature
from sri_pyro.models.decoders.cells import plain_cells
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks
from sri_pyro.types import Batch
from tests.models.test_lstm_hessian import double_backward, rows
from tests.oracles import randomise

NEEDS_COMPILED = pytest.mark.skipif(compiled_curvature.compiled() is None, reason="nothing is compiled here")
SINGLE = 3e-5
"""Relative to the largest entry of a Hessian; PyTorch's operations are as far from it."""


def built(scale: float = 0.5, **options) -> LSTMDecoder:
    """A decoder whose units are whole panels, in single precision."""
    decoder = LSTMDecoder(
        **{"vocab_size": 150, "latent_dim": 5, "embedding": 6, "hidden": 64, "dropout": 0.0} | options
    )
    randomise(decoder, scale)
    return decoder.eval()


def twice(decoder: LSTMDecoder) -> LSTMDecoder:
    """The same weights in double precision."""
    copy = LSTMDecoder(
        decoder.output.out_features,
        decoder.latent_dim,
        6,
        decoder.cell.hidden_size,
        dropout=0.0,
        wiring=decoder.wiring,
    )
    copy.load_state_dict(decoder.state_dict())
    return copy.double().eval()


def worst(
    decoder: LSTMDecoder, z: torch.Tensor, tokens: torch.Tensor, masks: Masks = NOTHING_DROPPED
) -> float:
    """How far the compiled Hessian is from the oracle."""
    with used() as calls:
        found = decoder.condition(Batch(tokens), masks).hessian(z)
    assert calls
    in_double = Masks(**{name: None if mask is None else mask.double() for name, mask in vars(masks).items()})
    expected = double_backward(twice(decoder), z.double(), tokens, in_double)
    return ((found - expected).abs().max() / expected.abs().max()).item()


@contextmanager
def used() -> Iterator[list[str]]:
    """Whether the compiled functions are called."""
    from sri_pyro.models.decoders import lstm_hessian

    calls: list[str] = []
    add = lstm_hessian.add_curvature
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm_hessian, "add_curvature", lambda *given: (calls.append("called"), add(*given))[1])
        yield calls


@NEEDS_COMPILED
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
@pytest.mark.parametrize("dim", [1, 5, 33])
@pytest.mark.parametrize("words", [5, 112, 260])
def test_it_is_a_double_backward(wiring: str, dim: int, words: int) -> None:
    """Catches tangents that start wrong, laws whose mean is not taken off, mixed derivatives that enter once, c and
    the c before it in each other's place, and words, directions or panels that are left over.
    """
    decoder = built(wiring=wiring, latent_dim=dim, vocab_size=words, hidden=32)
    tokens = rows(words, [4, 1, 7, 2])
    assert worst(decoder, torch.randn(2, 4, dim), tokens) < SINGLE


@NEEDS_COMPILED
def test_more_tokens_than_wait_at_once() -> None:
    """Catches tokens that are counted twice, or not at all, when the first ones have met the output weights."""
    decoder = built(scale=0.3)
    tokens = rows(150, [40, 17, 16, 33])
    assert worst(decoder, torch.randn(1, 4, 5), tokens) < SINGLE


@NEEDS_COMPILED
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_dropout_of_states_and_words_that_never_come(wiring: str) -> None:
    """Catches masks that are left out or meet another token's states."""
    decoder = built(wiring=wiring)
    with torch.no_grad():
        decoder.output.bias[7] = -torch.inf
    tokens = rows(7, [5, 3, 6])
    states = torch.bernoulli(torch.full((3, 6, 64), 0.5)) * 2
    assert worst(decoder, torch.randn(2, 3, 5), tokens, Masks(states=states)) < SINGLE


@NEEDS_COMPILED
def test_neither_threads_nor_other_chains_change_it() -> None:
    """Bit by bit, against one thread and against every draw alone."""
    decoder, tokens = built(vocab_size=600), rows(600, [9, 12, 4, 11, 1])
    conditioned, z = decoder.condition(Batch(tokens)), torch.randn(6, 5, 5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = conditioned.hessian(z)
        torch.set_num_threads(3)
        assert torch.equal(conditioned.hessian(z), alone)
    finally:
        torch.set_num_threads(threads)
    parts = torch.cat([conditioned.hessian(one[None]) for one in z])
    torch.testing.assert_close(parts, alone, rtol=0, atol=SINGLE * alone.abs().max().item())


def test_it_is_used_for_whole_panels_in_single_precision_alone() -> None:
    """Catches units that are read beyond their end, and plain operations that are not."""
    tokens, at_hand = rows(150, [3, 2]), compiled_curvature.compiled() is not None
    for options, double, expected in [
        ({}, False, at_hand),
        ({"hidden": 20}, False, False),
        ({}, True, False),
    ]:
        decoder = built(**options)
        z = torch.randn(1, 2, 5)
        if double:
            decoder, z = decoder.double(), z.double()
        conditioned = decoder.condition(Batch(tokens))
        with used() as calls:
            conditioned.hessian(z)
        assert bool(calls) == expected
    with used() as calls, plain_cells():
        built().condition(Batch(tokens)).hessian(torch.randn(1, 2, 5))
    assert not calls


@NEEDS_COMPILED
def test_functions_that_give_wrong_numbers_are_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A library that leaves the Hessian as it was is what a broken compiler might make."""
    true = compiled_curvature.loaded()

    class Idle:
        panel, curvature_room = true.panel, true.curvature_room

        @staticmethod
        def curvature(structure: int, room: int) -> None:
            pass

    monkeypatch.setattr(compiled_curvature, "loaded", Idle)
    compiled_curvature.compiled.cache_clear()
    try:
        assert compiled_curvature.compiled() is None
    finally:
        compiled_curvature.compiled.cache_clear()
    assert "does not agree" in caplog.text
