"""Laws that every decoder obeys: a newcomer is tested by existing, and a failure names it."""

import pytest
import torch

from sri_pyro.models import DECODERS
from sri_pyro.models.decoders.base import Decoder
from sri_pyro.models.decoders.cells import plain_cells
from sri_pyro.numerics.keyed import chains
from sri_pyro.types import BOS, EOS, PAD
from tests.contracts.tables import BATCH, small
from tests.oracles import randomise, sentence

pytestmark = pytest.mark.usefixtures("float64")


def decoder_of(name: str, **options) -> Decoder:
    decoder = small(DECODERS[name], **options)
    randomise(decoder, 0.6)
    return decoder.eval()


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_scores_are_a_loop_over_its_steps(name: str) -> None:
    """Teacher forcing in one sweep against ``begin`` and ``advance``, one token at a time, BOS first."""
    decoder, z = decoder_of(name), torch.randn(4, 3)
    found = decoder.token_log_probs(z, BATCH.tokens)
    expected = torch.zeros(4, 4)
    for n, row in enumerate(BATCH.tokens.tolist()):
        state, before = decoder.begin(z[n : n + 1]), BOS
        for t, token in enumerate(row):
            if token == PAD:
                break
            logits, state = decoder.advance(torch.tensor([before]), z[n : n + 1], state)
            expected[n, t] = logits.log_softmax(-1)[0, token]
            before = token
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (found[BATCH.tokens == PAD] == 0).all()
    total = decoder.log_likelihood(z, BATCH.tokens)
    torch.testing.assert_close(total, expected.sum(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_broadcasts_codes_and_tokens(name: str) -> None:
    decoder, z = decoder_of(name), torch.randn(5, 2, 4, 3)
    found = decoder.log_likelihood(z, BATCH.tokens)
    assert found.shape == (5, 2, 4)
    one = decoder.log_likelihood(z[3, 1], BATCH.tokens)
    torch.testing.assert_close(found[3, 1], one, rtol=0, atol=1e-12)
    many = decoder.log_likelihood(z[0, 0, :1], BATCH.tokens)
    assert many.shape == (4,)
    single = decoder.log_likelihood(z[0, 0, 0], BATCH.tokens[2])
    assert single.shape == ()
    assert single.item() == pytest.approx(many[2].item(), abs=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_has_no_value_for_no_draw(name: str) -> None:
    z = torch.zeros(0, 4, 3, requires_grad=True)
    found = decoder_of(name).log_likelihood(z, BATCH.tokens)
    assert found.shape == (0, 4)
    found.sum().backward()
    assert z.grad is not None
    assert z.grad.shape == (0, 4, 3)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "rows", [[[PAD, PAD], [5, EOS]], [[5, PAD, EOS], [6, EOS, PAD]], [[PAD, 5], [5, EOS]]]
)
def test_decoder_refuses_rows_that_are_no_sentences_or_scores_each_alone(rows: list, name: str) -> None:
    """An empty row, or one with a gap, must not take another's score, nor the process with it."""
    decoder, z, tokens = decoder_of(name), torch.randn(2, 3), torch.tensor(rows)
    with plain_cells():  # so that a wrong program fails instead of dying
        try:
            found = decoder.log_likelihood(z, tokens)
        except ValueError:
            return
        alone = [decoder.log_likelihood(z[n : n + 1], tokens[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_ignores_padding_and_neighbours(name: str) -> None:
    decoder, z = decoder_of(name), torch.randn(4, 3)
    together = decoder.log_likelihood(z, BATCH.tokens)
    wider = torch.cat([BATCH.tokens, torch.full((4, 5), PAD)], -1)
    torch.testing.assert_close(decoder.log_likelihood(z, wider), together, rtol=0, atol=1e-12)
    for n, length in enumerate(BATCH.lengths.tolist()):
        alone = decoder.log_likelihood(z[n : n + 1], BATCH.tokens[n : n + 1, :length])
        torch.testing.assert_close(alone, together[n : n + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_listens_to_z_and_teaches_every_weight(name: str) -> None:
    decoder = decoder_of(name)
    z = torch.randn(4, 3, requires_grad=True)
    decoder.log_likelihood(z, BATCH.tokens).sum().backward()
    assert (z.grad.abs().sum(-1) > 1e-6).all()
    for parameter, weight in decoder.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.abs().max() > 0, parameter


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_route_for_inference_is_autograd(name: str) -> None:
    decoder = decoder_of(name)
    route = decoder.condition(BATCH)
    if route is None:
        pytest.skip("no fast route")
    z = torch.randn(2, 4, 3, requires_grad=True)
    expected = decoder.log_likelihood(z, BATCH.tokens)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    value, fast = route.value_and_grad(z.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=0, atol=1e-11)
    torch.testing.assert_close(fast, gradient, rtol=0, atol=1e-11)
    torch.testing.assert_close(route.value(z.detach()), expected.detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_writes_sentences(name: str) -> None:
    """No PAD before the end, no BOS ever, nothing but PAD after the end; z may have any leading shape."""
    decoder = decoder_of(name)
    drawn = decoder.generate(torch.randn(200, 2, 3), max_length=7)
    assert drawn.shape == (200, 2, 7)
    assert drawn.dtype == torch.int64
    assert not (drawn == BOS).any()
    ended = (drawn == EOS).cumsum(-1)
    after = (ended - (drawn == EOS).long()) > 0
    assert torch.equal(drawn == PAD, after)
    assert (ended[..., -1] == 0).any()
    assert (ended[..., -1] == 1).any()
    assert decoder.generate(torch.randn(3)).shape == (6,)  # max_length of the decoder


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_writes_without_dropout(name: str) -> None:
    """Generation in the middle of training must not see the masks of weight steps."""
    from sri_pyro.models import Strategy

    decoder = decoder_of(name, dropout=0.7)
    z = torch.randn(40, 3)
    calm = decoder.generate(z, strategy=Strategy.greedy())
    decoder.train()
    assert torch.equal(decoder.generate(z, strategy=Strategy.greedy()), calm)
    assert all(module.training for module in decoder.modules())


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_answers_with_a_distribution_as_long_as_the_batch(name: str) -> None:
    decoder, z = decoder_of(name), torch.randn(2, 4, 3)
    law = decoder(z, BATCH)
    assert law.batch_shape == (2, 4)
    assert law.event_shape == (4,)
    torch.testing.assert_close(law.log_prob(BATCH.tokens), decoder.log_likelihood(z, BATCH.tokens))
    assert decoder(z).sample().shape == (2, 4, 6)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_refuses_foreign_tokens(name: str) -> None:
    decoder, z = decoder_of(name), torch.zeros(1, 3)
    for tokens, span in (([8, EOS], "3 to 8"), ([-1, EOS], "-1 to 3")):
        message = (
            f"token ids must lie in [0, 8); got {span}. Encode the text with the vocabulary this decoder "
            "was built for."
        )
        with pytest.raises(ValueError, match=sentence(message)):
            decoder.log_likelihood(z, torch.tensor([tokens]))


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_refuses_codes_of_another_size(name: str) -> None:
    with pytest.raises(ValueError, match="latent"):
        decoder_of(name).log_likelihood(torch.zeros(4, 2), BATCH.tokens)


@pytest.mark.parametrize("length", [0, -1])
@pytest.mark.parametrize("name", DECODERS)
def test_decoder_refuses_to_write_nothing(name: str, length: int) -> None:
    """Zero must not fall back to the default in silence."""
    with pytest.raises(ValueError, match="max_length"):
        decoder_of(name).generate(torch.zeros(1, 3), max_length=length)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_survives_its_state_dict(name: str) -> None:
    decoder, copy, z = decoder_of(name), small(DECODERS[name]).eval(), torch.randn(4, 3)
    copy.load_state_dict(decoder.state_dict())
    found, expected = (d.log_likelihood(z, BATCH.tokens) for d in (copy, decoder))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", DECODERS)
def test_keyed_masks_are_functions_of_the_key(name: str) -> None:
    """To the bit, whatever other rows there are, and however far their padding goes: a shard has fewer of both."""
    decoder = small(DECODERS[name], dropout=0.5, word_dropout=0.4).train()
    keys, state = chains(4, torch.arange(len(BATCH)), 1)[0], torch.get_rng_state()
    whole = vars(decoder.draw_masks(BATCH.tokens, keys))
    rows = torch.tensor([2, 1])
    part = vars(decoder.draw_masks(BATCH.tokens[rows, :2], keys[rows]))
    assert torch.equal(torch.get_rng_state(), state)
    assert any(mask is not None for mask in whole.values())
    for kind, mask in whole.items():
        assert (mask is None) == (part[kind] is None)
        if mask is not None:
            assert torch.equal(
                part[kind], mask[rows, :2] if mask.ndim > 2 or kind == "unread" else mask[rows]
            )
    again = vars(decoder.draw_masks(BATCH.tokens, keys + 1))
    assert not all(mask is None or torch.equal(mask, again[kind]) for kind, mask in whole.items())
    assert all(mask is None for mask in vars(decoder.eval().draw_masks(BATCH.tokens, keys)).values())
