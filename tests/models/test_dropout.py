"""Dropout as a value: masks against hand-made networks, and one draw shared by inference and weight step."""

import pytest
import torch

from sri_pyro.models import (
    DECODERS,
    BagOfWordsDecoder,
    GRUDecoder,
    LatentTextModel,
    LSTMDecoder,
    StandardNormal,
)
from sri_pyro.models.decoders.dropout import Masks
from sri_pyro.numerics.keyed import chains
from sri_pyro.target import Target
from sri_pyro.types import BOS, EOS, PAD, UNK, Batch
from tests.oracles import gate, randomise, sentence

pytestmark = pytest.mark.usefixtures("float64")
BATCH = Batch(torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [7, 5, EOS, PAD]]))
DROPPING = {
    "lstm": {"dropout": 0.5, "word_dropout": 0.4},
    "gru": {"dropout": 0.5, "word_dropout": 0.4},
    "bag_of_words": {"dropout": 0.5},
}


def model_of(name: str, **rates: float) -> LatentTextModel:
    model = LatentTextModel(StandardNormal(3), DECODERS[name](vocab_size=8, latent_dim=3, hidden=5, **rates))
    randomise(model, 0.6)
    return model.train()


def both(target: Target, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What inference sees, and what the weight step does, by autograd: values and z-gradients side by side."""
    seen = target.conditioned.value_and_grad(z)
    z = z.clone().requires_grad_()
    learned = target.log_likelihood(z)
    (gradient,) = torch.autograd.grad(learned.sum(), z)
    return torch.cat([seen[0][..., None], seen[1]], -1), torch.cat(
        [learned.detach()[..., None], gradient], -1
    )


@pytest.mark.parametrize("name", DECODERS)
def test_inference_and_weight_step_see_one_draw_of_the_masks(name: str) -> None:
    """Oracle: autograd. Masks repeated in another order than the chains would show from two chains on."""
    model, z = model_of(name, **DROPPING[name]), torch.randn(4, 3, 3)
    target = model.target(BATCH, "shared")
    seen, learned = both(target, z)
    torch.testing.assert_close(seen, learned, rtol=0, atol=1e-11)
    torch.testing.assert_close(*both(target, z), rtol=0, atol=1e-11)
    assert torch.equal(both(target, z)[1], learned)  # the target does not move
    chains = torch.cat([both(target, chain[None])[0] for chain in z])
    torch.testing.assert_close(chains, seen, rtol=0, atol=1e-11)  # every chain under the same masks
    another = both(model.target(BATCH, "shared"), z)[0]
    assert not torch.allclose(another, seen)  # drawn once for a target, not once for all
    calm = both(model.eval().target(BATCH, "shared"), z)[0]
    assert torch.equal(calm, both(model.target(BATCH), z)[0])
    assert not torch.allclose(calm, seen)


@pytest.mark.parametrize("name", DECODERS)
def test_a_part_of_a_target_keeps_its_masks(name: str) -> None:
    target = model_of(name, **DROPPING[name]).target(BATCH, "shared")
    rows, z = torch.tensor([2, 1]), torch.randn(4, 3, 3)
    assert target.select is not None
    part = target.select(rows)
    assert part.batch is not None
    assert part.batch.tokens.shape == (2, 3)  # trimmed, so the masks must be too
    for whole, cut in zip(both(target, z), both(part, z[:, rows]), strict=True):
        torch.testing.assert_close(cut, whole[:, rows], rtol=0, atol=1e-11)


def test_masks_of_a_bag_of_words_by_hand() -> None:
    decoder = model_of("bag_of_words", dropout=0.5).decoder
    assert isinstance(decoder, BagOfWordsDecoder)
    assert decoder.hidden is not None
    z, keep = torch.randn(3, 3), torch.tensor([[2.0, 0, 2, 0, 0], [0, 0, 0, 0, 0], [2, 2, 2, 2, 2]])
    hidden = torch.tanh(z @ decoder.hidden.weight.T + decoder.hidden.bias) * keep
    logits = hidden @ decoder.output.weight.T + decoder.output.bias
    logits[:, [PAD, BOS]] = -torch.inf
    scores = logits.log_softmax(-1).gather(-1, BATCH.tokens)
    found = decoder.log_likelihood(z, BATCH.tokens, Masks(states=keep))
    torch.testing.assert_close(found, torch.where(BATCH.mask, scores, 0).sum(-1))


@pytest.mark.parametrize("cls", [LSTMDecoder, GRUDecoder])
def test_masks_of_a_recurrent_network_by_hand(cls: type) -> None:
    """Each mask at its extreme, where another network, or no network, says the same."""
    decoder = cls(vocab_size=8, latent_dim=3, embedding=4, hidden=5)
    randomise(decoder, 0.6)
    decoder.eval()
    z, tokens = torch.randn(3, 3), BATCH.tokens

    silent = Masks(states=torch.zeros(3, 4, 5))  # only the bias of the output is left
    bias = decoder.output.bias + decoder.unpredictable
    by_bias = torch.where(BATCH.mask, bias.log_softmax(-1)[tokens], 0.0).sum(-1)
    torch.testing.assert_close(decoder.log_likelihood(z, tokens, silent), by_bias)

    doubled = Masks(states=torch.full((3, 4, 5), 2.0), words=torch.full((3, 4, 4), 0.5))
    unread = Masks(unread=torch.ones(3, 4, dtype=torch.bool))
    found = decoder.log_likelihood(z, tokens, doubled), decoder.log_likelihood(z, tokens, unread)
    with torch.no_grad():
        decoder.output.weight *= 2
        decoder.embedding.weight *= 0.5
        torch.testing.assert_close(found[0], decoder.log_likelihood(z, tokens))
        decoder.output.weight /= 2
        decoder.embedding.weight *= 2
        decoder.embedding.weight[4:] = decoder.embedding.weight[UNK]
        decoder.embedding.weight[EOS] = decoder.embedding.weight[UNK]
    torch.testing.assert_close(found[1], decoder.log_likelihood(z, tokens))


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "bag_of_words"])
def test_masks_drop_at_their_rates_and_keep_the_mean(name: str, keyed: bool) -> None:
    """Binomial counts; the three gates together at a false-alarm rate below 1e-6."""
    rates = {"dropout": 0.3} if name == "bag_of_words" else {"dropout": 0.3, "word_dropout": 0.2}
    decoder = DECODERS[name](vocab_size=8, latent_dim=3, hidden=40, **rates).train()
    keys = chains(5, torch.arange(200), 1)[0] if keyed else None
    masks = decoder.draw_masks(torch.full((200, 30), 5), keys)
    for mask, rate in ((masks.words, 0.3), (masks.states, 0.3)):
        if mask is None:
            assert name == "bag_of_words"
            continue
        torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / (1 - rate)))
        off = (mask == 0).double().mean() - rate
        assert off.abs() < gate(3) * (rate * (1 - rate) / mask.numel()) ** 0.5
    if masks.unread is not None:
        off = masks.unread.double().mean() - 0.2
        assert off.abs() < gate(3) * (0.2 * 0.8 / masks.unread.numel()) ** 0.5
    assert all(mask is None for mask in vars(decoder.eval().draw_masks(BATCH.tokens)).values())


def test_word_dropout_never_hides_the_beginning() -> None:
    inputs = torch.tensor([[BOS, 5, 6, PAD]])
    assert Masks(unread=torch.ones(1, 4, dtype=torch.bool)).read(inputs).tolist() == [[BOS, UNK, UNK, PAD]]


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(
        ValueError, match=sentence("unknown inference_dropout 'on'; known: off, shared, fresh.")
    ):
        model_of("lstm").target(BATCH, "on")  # type: ignore[arg-type]


def test_keyed_masks_of_a_row_are_unrelated() -> None:
    """Which words are hidden says nothing of which states are dropped, at the same rate: one draw used twice would."""
    decoder = DECODERS["lstm"](
        vocab_size=8, latent_dim=3, embedding=40, hidden=40, dropout=0.5, word_dropout=0.5
    )
    masks = decoder.train().draw_masks(torch.full((200, 40), 5), chains(5, torch.arange(200), 1)[0])
    assert masks.words is not None
    assert masks.states is not None
    assert masks.unread is not None
    first_word, first_state = masks.words[..., 0], masks.states[..., 0]
    for one, other in ((masks.words, masks.states), (first_word, masks.unread), (first_state, masks.unread)):
        agreement = ((one > 0) == (other > 0)).double()
        assert (agreement.mean() - 0.5).abs() < gate(3) * 0.5 / agreement.numel() ** 0.5


@pytest.mark.parametrize("choice", ["off", "shared", "fresh"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_part_of_a_keyed_batch_has_the_noise_of_the_whole(name: str, choice: str) -> None:
    """Oracle: the whole batch's target, asked the same things in the same order. Catches noise by row instead of by id,
    chains that share masks, and a weight step whose masks depend on how often inference looked.
    """
    model, keyed = model_of(name, **DROPPING[name]), BATCH.keyed(12)
    rows = torch.tensor([2, 1])
    whole, part = model.target(keyed, choice), model.target(keyed.select(rows), choice)
    for _ in range(2):  # another draw the second time
        z = whole.sample_prior(4)
        torch.testing.assert_close(part.sample_prior(2), z[:2, rows], rtol=0, atol=0)
        for _ in range(2):
            seen, learned = both(whole, z), both(part, z[:, rows])
            for one, other in zip(seen, learned, strict=True):
                torch.testing.assert_close(other, one[:, rows], rtol=0, atol=1e-11)
        whole.conditioned.value_and_grad(z)  # once more than the part's: a run that is done again, elsewhere
        first, again = whole.log_likelihood(z), whole.log_likelihood(z)
        assert torch.equal(first, again) == (choice == "shared")
        torch.testing.assert_close(part.log_likelihood(z[:, rows]), first[:, rows], rtol=0, atol=1e-11)
        torch.testing.assert_close(part.log_likelihood(z[:, rows]), again[:, rows], rtol=0, atol=1e-11)
        if choice == "fresh":
            break
