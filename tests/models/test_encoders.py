"""Encoders: the LSTM against its cell unrolled by hand, and what a sentence's law must not depend on."""

import re

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.models import ENCODERS, LSTMEncoder
from sri_pyro.types import BOS, EOS, PAD, Batch
from tests.contracts.tables import small
from tests.oracles import randomise

pytestmark = pytest.mark.usefixtures("float64")
BATCH = Batch(torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [1, 5, EOS, PAD]]))


def built(name: str = "lstm", **options) -> nn.Module:
    encoder = small(ENCODERS[name], **options)
    randomise(encoder, 0.7)
    return encoder


def moments(encoder: nn.Module, batch: Batch) -> Tensor:
    law = encoder(batch)
    return torch.stack([law.mean, law.stddev])


@pytest.mark.parametrize("bias", [True, False])
def test_the_lstm_reads_from_beginning_to_end_symbol(bias: bool) -> None:
    """Oracle: one cell, word by word, of one sentence at a time; the log-variance halved by hand.

    Catches a beginning that is not read, an end that is not, padding that is, the hidden state of another word, and
    a log-variance taken for a log-deviation.
    """
    encoder = built(bias=bias)
    assert isinstance(encoder, LSTMEncoder)
    cell = nn.LSTMCell(4, 5)
    cell.load_state_dict(
        {name.removesuffix("_l0"): value for name, value in encoder.cell.state_dict().items()}
    )
    law = encoder(BATCH)
    assert (law.batch_shape, law.event_shape) == ((4,), (3,))
    for row, tokens in enumerate(BATCH.tokens.tolist()):
        state = (torch.zeros(1, 5), torch.zeros(1, 5))
        for token in [BOS, *(token for token in tokens if token != PAD)]:
            state = cell(encoder.embedding.weight[token][None], state)
        both = state[0] @ encoder.moments.weight.T + (encoder.moments.bias if bias else 0)
        torch.testing.assert_close(law.mean[row], both[0, :3])
        torch.testing.assert_close(law.variance[row], both[0, 3:].exp())
    assert (encoder.moments.bias is not None) is bias


@pytest.mark.parametrize("name", ENCODERS)
def test_a_law_is_a_function_of_its_sentence_alone(name: str) -> None:
    """Not of padding, of the other sentences, of their order, of ids and keys, or of the mode."""
    encoder = built(name)
    together = moments(encoder, BATCH)
    for row in range(len(BATCH)):
        alone = moments(encoder, BATCH.select(torch.tensor([row])))
        torch.testing.assert_close(alone[:, 0], together[:, row])
    wider = Batch(torch.cat([BATCH.tokens, torch.full((4, 3), PAD)], 1))
    torch.testing.assert_close(moments(encoder, wider), together)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(moments(encoder, BATCH.select(order)), together[:, order])
    other = Batch(BATCH.tokens, torch.tensor([9, 8, 7, 6]), key=3)
    assert torch.equal(moments(encoder.eval(), other), together)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_word_and_every_weight_counts(name: str) -> None:
    """The word that is read first, too; and the embedding of the padding does not learn."""
    encoder = built(name)
    whole = moments(encoder, BATCH)
    for place, word in ((0, 6), (1, 5), (2, 8 - 1)):
        changed = BATCH.tokens.clone()
        changed[0, place] = word
        assert (moments(encoder, Batch(changed)) - whole)[:, 0].abs().max() > 1e-4
    whole.square().sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in encoder.parameters())
    assert not encoder.embedding.weight.grad[PAD].any()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_law_has_its_density(name: str) -> None:
    """Event of D dimensions: one log-density for each sentence, the sum over dimensions."""
    law = built(name)(BATCH)
    z = torch.randn(7, 4, 3)
    exact = torch.distributions.Normal(law.mean, law.stddev).log_prob(z).sum(-1)
    torch.testing.assert_close(law.log_prob(z), exact)


def test_initialisations_are_the_published_ones() -> None:
    for name, width in (("uniform", 0.1), ("small_uniform", 0.01)):
        encoder = LSTMEncoder(vocab_size=40, latent_dim=8, embedding=16, hidden=16, initialisation=name)  # type: ignore[arg-type]
        sizes = {name: weight.abs().max().item() for name, weight in encoder.named_parameters()}
        assert 0.09 < sizes.pop("embedding.weight") <= 0.1
        assert all(0.5 * width < size <= width for size in sizes.values())


@pytest.mark.parametrize("options", [{"embedding": 0}, {"hidden": 0}])
def test_bad_widths_are_refused(options: dict[str, int]) -> None:
    ((option, _),) = options.items()
    with pytest.raises(ValueError, match=re.escape(option)):
        built(**options)


def test_moments_that_overflow_make_a_number_and_no_exception() -> None:
    """Training skips a step whose loss is not finite; an exception would end it."""
    encoder = built()
    with torch.no_grad():
        encoder.moments.bias.fill_(1e4)
    law = encoder(BATCH)
    assert law.stddev.isinf().all()
    assert not law.log_prob(law.mean).isfinite().any()
