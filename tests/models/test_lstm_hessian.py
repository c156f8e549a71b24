"""Exact curvature of the LSTM's log p(x | z) against a double backward through the decoder, in float64.

The double backward knows nothing of tangents, of chunks, or of the softmax as a law: it is the oracle of every
test here that does not name another.
"""

import pytest
import torch
from pyro.distributions import Distribution, Exponential
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sri_pyro.models import GRUDecoder, LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.models.decoders import lstm_hessian, lstm_sweeps
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks
from sri_pyro.target import CurvedLikelihood
from sri_pyro.types import EOS, PAD, Batch
from tests.oracles import randomise, sentence

pytestmark = pytest.mark.usefixtures("float64")
TOKENS = torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [1, 5, 5, 6]])
EXACT = 1e-13
"""Relative to the largest entry of a Hessian; in double precision."""


def built(scale: float = 0.6, **options) -> LSTMDecoder:
    """A small decoder whose weights matter, in eval mode."""
    decoder = LSTMDecoder(**{"vocab_size": 8, "latent_dim": 3, "hidden": 5, "dropout": 0.0} | options)
    randomise(decoder, scale)
    return decoder.eval()


def rows(vocab_size: int, lengths: list[int], width: int | None = None) -> Tensor:
    """Random sentences of the given lengths, the end of sentence included, in a batch of some width."""
    tokens = torch.full((len(lengths), width or max(lengths)), PAD)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(4, vocab_size, (length - 1,))
        row[length - 1] = EOS
    return tokens


def double_backward(
    decoder: torch.nn.Module, z: Tensor, tokens: Tensor, masks: Masks | None = None
) -> Tensor:
    """The Hessian of the decoder's own log-likelihood, one row after another, [S, B, D, D]."""
    z = z.detach().requires_grad_()
    value = decoder.log_likelihood(z, tokens, masks).sum()
    (grad,) = torch.autograd.grad(value, z, create_graph=True)
    return torch.stack(
        [torch.autograd.grad(grad[..., d].sum(), z, retain_graph=True)[0] for d in range(z.shape[-1])], -2
    )


def worst(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest entry expected."""
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


def assert_curvature_is_autograd(
    decoder: LSTMDecoder, tokens: Tensor, draws: int = 3, masks: Masks = NOTHING_DROPPED
) -> None:
    z = torch.randn(draws, len(tokens), decoder.latent_dim)
    vector = torch.randn_like(z)
    route = decoder.condition(Batch(tokens), masks)
    expected = double_backward(decoder, z, tokens, masks)
    found = route.hessian(z)
    assert found.shape == expected.shape
    assert worst(found, expected) < EXACT
    assert torch.equal(found, found.mT)
    product = route.hessian_vector_product(z, vector)
    assert product.shape == z.shape
    assert worst(product, (expected @ vector[..., None])[..., 0]) < EXACT
    assert not found.requires_grad
    assert not product.requires_grad


# --- The oracle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["hidden", "cell"])
@pytest.mark.parametrize(
    ("vocab_size", "latent_dim", "hidden", "embedding", "lengths", "width"),
    [
        (5, 1, 1, 1, [1], None),  # V just above the special symbols, everything of size one
        (5, 2, 3, 2, [1, 1, 1], None),  # only empty sentences: one token, no step of the recurrence between
        (9, 3, 5, 4, [4, 4], None),  # no padding
        (9, 3, 5, 4, [1, 6, 3, 2], None),  # chains leave one after another, not in the order of the batch
        (9, 3, 5, 4, [2, 3], 9),  # padded beyond the longest
        (9, 8, 3, 4, [5, 2], None),  # more latent dimensions than hidden units
        (40, 7, 16, 3, [12, 1, 9, 5, 12], None),
        (2000, 4, 8, 4, [5, 7], None),  # several blocks of words, the last one shorter
    ],
)
def test_curvature_is_autograd(
    vocab_size: int, latent_dim: int, hidden: int, embedding: int, lengths: list[int], width: int, wiring: str
) -> None:
    """Wrong if a term is lost: the start's, a mixed one of the cell, the square of the softmax's mean."""
    decoder = built(
        vocab_size=vocab_size, latent_dim=latent_dim, hidden=hidden, embedding=embedding, wiring=wiring
    )
    assert_curvature_is_autograd(decoder, rows(vocab_size, lengths, width))


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_curvature_without_output_bias_and_for_prefixes(wiring: str, output_bias: bool) -> None:
    assert_curvature_is_autograd(built(wiring=wiring, output_bias=output_bias), TOKENS, draws=1)


@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_curvature_under_masks_is_that_of_the_thinned_network(wiring: str) -> None:
    """Wrong if the mask is left off a tangent, off the way back, or met by another token than its own."""
    decoder = built(wiring=wiring, dropout=0.4, word_dropout=0.3).train()
    masks = decoder.draw_masks(TOKENS)
    assert (masks.states == 0).any()
    assert_curvature_is_autograd(decoder, TOKENS, masks=masks)


@pytest.mark.parametrize("wiring", ["hidden", "cell"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_no_answer_depends_on_where_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, dropout: float, wiring: str
) -> None:
    """Two chains a chunk, two tokens a Gram matrix, three words a block; wrong if a remainder is lost."""
    decoder = built(wiring=wiring, dropout=dropout).train()
    tokens = rows(8, [3, 1, 5, 4, 5])
    z, vector = torch.randn(3, 5, 3), torch.randn(3, 5, 3)
    route = decoder.condition(Batch(tokens), decoder.draw_masks(tokens))
    whole = route.hessian(z), route.hessian_vector_product(z, vector)
    monkeypatch.setattr(lstm_sweeps, "TANGENT_ELEMENTS", 2 * 6 * 5 * 3)
    monkeypatch.setattr(lstm_hessian, "WAITING_ROWS", 7)
    monkeypatch.setattr(lstm_hessian, "WORDS", 3)
    for kept in (lstm_sweeps.KEPT_ELEMENTS, 2 * 5 * (8 + 32 * 5), 1):
        monkeypatch.setattr(lstm_sweeps, "KEPT_ELEMENTS", kept)
        sizes = [len(chunk.chains) for chunk in lstm_sweeps.chunks(route, z, directions=3)]
        assert sizes == ([1] * 15 if kept == 1 else [2] * 7 + [1])
        assert worst(route.hessian(z), whole[0]) < EXACT
        assert worst(route.hessian_vector_product(z, vector), whole[1]) < EXACT


def test_chunks_have_every_chain_once_and_the_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstm_sweeps, "TANGENT_ELEMENTS", 4 * 6 * 5 * 3)
    route, z = built().condition(Batch(TOKENS)), torch.randn(3, 4, 3)
    cut = list(lstm_sweeps.chunks(route, z, directions=3))
    chains = torch.cat([chunk.chains for chunk in cut])
    assert sorted(chains.tolist()) == list(range(12))
    lengths = (TOKENS != PAD).sum(-1)[chains % 4]
    assert (lengths.diff() <= 0).all()
    assert torch.equal(torch.cat([chunk.real_TN.sum(0) for chunk in cut]), lengths)
    assert torch.equal(torch.cat([chunk.z_ND for chunk in cut]), z.reshape(12, 3)[chains])


class LargestTensor(TorchFunctionMode):
    """Watches how many numbers the largest tensor has that any function returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


def test_memory_does_not_grow_with_the_number_of_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong if all chains are taken at once: their laws alone would be 10 times the largest tensor here."""
    decoder = built(vocab_size=300, latent_dim=3, hidden=5)
    tokens = rows(300, [6, 6])
    monkeypatch.setattr(lstm_sweeps, "KEPT_ELEMENTS", 4 * 6 * (300 + 32 * 5))
    monkeypatch.setattr(lstm_hessian, "WAITING_ROWS", 4 * 3)
    monkeypatch.setattr(lstm_hessian, "CACHE_LINE", 0)  # as long as all the rest here
    route, z = decoder.condition(Batch(tokens)), torch.randn(20, 2, 3)
    for ask in (route.hessian, lambda z: route.hessian_vector_product(z, z)):
        with LargestTensor() as largest:
            ask(z)
        assert largest.numbers <= 4 * 6 * 300


# --- Numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_curvature_in_single_precision(wiring: str) -> None:
    decoder = built(vocab_size=600, latent_dim=8, hidden=16, embedding=6, wiring=wiring)
    tokens, z = rows(600, [12, 7, 1]), torch.randn(4, 3, 8)
    vector, expected = torch.randn_like(z), double_backward(decoder, z, tokens)
    route = decoder.float().condition(Batch(tokens))
    found = route.hessian(z.float())
    product = route.hessian_vector_product(z.float(), vector.float())
    assert found.dtype == product.dtype == torch.float32
    assert worst(found, expected) < 1e-5
    assert worst(product, (expected @ vector[..., None])[..., 0]) < 1e-5


def test_what_all_words_share_costs_no_digits() -> None:
    """A vector added to every output weight changes no law; squared before it is taken off, it takes digits."""
    decoder = built(vocab_size=40, latent_dim=4, hidden=8, output_bias=False)
    tokens, z = rows(40, [6, 3]), torch.randn(2, 2, 4)
    expected = double_backward(decoder, z, tokens)
    with torch.no_grad():
        decoder.output.weight += 64.0
    found = decoder.float().condition(Batch(tokens)).hessian(z.float())
    assert worst(found, expected) < 1e-4


def test_curvature_survives_saturated_gates() -> None:
    decoder, z = built(), 1e3 * torch.randn(2, 4, 3)
    route = decoder.condition(Batch(TOKENS))
    expected = double_backward(decoder, z, TOKENS)
    torch.testing.assert_close(route.hessian(z), expected, rtol=1e-9, atol=1e-9)
    product = route.hessian_vector_product(z, torch.ones_like(z))
    torch.testing.assert_close(product, expected.sum(-1), rtol=1e-9, atol=1e-9)


# --- Edges and traps ---------------------------------------------------------------------------------------


def test_nothing_curves_where_there_is_no_code_or_no_chain() -> None:
    language_model = built(latent_dim=0).condition(Batch(TOKENS))
    for route, shape in ((language_model, (2, 4, 0)), (built().condition(Batch(TOKENS)), (0, 4, 3))):
        z = torch.zeros(shape)
        assert route.hessian(z).shape == (*shape, shape[-1])
        assert route.hessian_vector_product(z, z).shape == shape


@pytest.mark.parametrize("sentences", [1, 3, 8])
def test_codes_of_another_batch_are_never_answered(sentences: int) -> None:
    """Wrong if sentences are cut off or counted twice in silence; the gradient refuses such codes, too."""
    route, z = built().condition(Batch(TOKENS)), torch.randn(2, sentences, 3)
    for ask in (route.value_and_grad, route.hessian, lambda z: route.hessian_vector_product(z, z)):
        with pytest.raises(ValueError, match="a code for every sentence"):
            ask(z)


def test_curvature_never_drops_out_and_touches_no_weight() -> None:
    decoder = built(dropout=0.5, word_dropout=0.3)
    z = torch.randn(2, 4, 3, requires_grad=True)
    calm = decoder.condition(Batch(TOKENS)).hessian(z)
    route = decoder.train().condition(Batch(TOKENS))
    assert torch.equal(route.hessian(z), calm)
    route.hessian_vector_product(z, z)
    assert z.grad is None
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_curvature_serves_the_weights_it_was_made_with_and_no_others() -> None:
    decoder, z = built(), torch.randn(2, 4, 3)
    route = decoder.condition(Batch(TOKENS))
    randomise(decoder, 0.6)
    changed = sentence(
        "the decoder's weights have changed since this target was made; make another with "
        "model.target(batch) after each weight step."
    )
    for ask in (route.hessian, lambda z: route.hessian_vector_product(z, z)):
        with pytest.raises(RuntimeError, match=changed):
            ask(z)


# --- The target that asks for it ---------------------------------------------------------------------------


class Exponentials(StandardNormal):
    """A prior whose log-density is linear in z, so that its gradient has no graph to differentiate."""

    def forward(self) -> Distribution:
        return Exponential(2 * torch.ones(3)).to_event(1)


def of_joint(model: LatentTextModel, z: Tensor, tokens: Tensor) -> Tensor:
    """The likelihood's Hessian by the oracle, and the prior's by torch.func, point by point."""
    prior = torch.stack([torch.func.hessian(model.prior().log_prob)(point) for point in z.reshape(-1, 3)])
    return double_backward(model.decoder, z, tokens) + prior.reshape(*z.shape, 3)


@pytest.mark.parametrize("decoder", [LSTMDecoder, GRUDecoder])
@pytest.mark.parametrize("prior", [StandardNormal, Exponentials])
def test_a_target_adds_the_curvature_of_the_prior(prior: type, decoder: type) -> None:
    """Wrong if the prior is left out, or counted twice: by the fast route, and where there is none."""
    model = LatentTextModel(prior(3), decoder(vocab_size=8, latent_dim=3, hidden=5)).eval()
    randomise(model, 0.6)
    target, z = model.target(Batch(TOKENS)), torch.rand(2, 4, 3)
    assert isinstance(target.conditioned, CurvedLikelihood) == (decoder is LSTMDecoder)
    expected, vector = of_joint(model, z, TOKENS), torch.randn_like(z)
    found = target.hessian(z)
    assert worst(found, expected) < EXACT
    assert torch.equal(found, found.mT)
    product = target.hessian_vector_product(z, vector)
    assert worst(product, (expected @ vector[..., None])[..., 0]) < EXACT
    assert not found.requires_grad
    assert not product.requires_grad


def test_a_target_under_shared_masks_curves_as_the_thinned_network() -> None:
    model = LatentTextModel(StandardNormal(3), built(dropout=0.4)).train()
    target, z = model.target(Batch(TOKENS), inference_dropout="shared"), torch.randn(2, 4, 3)
    leaf = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(target.log_joint(leaf).sum(), leaf, create_graph=True)
    expected = [torch.autograd.grad(grad[..., d].sum(), leaf, retain_graph=True)[0] for d in range(3)]
    assert worst(target.hessian(z), torch.stack(expected, -2)) < EXACT
