"""Amortised inference: its draws and their density by hand, the law of its noise, and its gradient by differences."""

import math

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.inference import OBJECTIVES, Amortized
from sri_pyro.inference.amortized import standard_normals
from sri_pyro.models import LSTMEncoder
from sri_pyro.types import Batch, Draws
from tests.inference.encoding import BATCH, DIM, START, VOCABULARY, encoder, text
from tests.oracles import gate, sentence, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")
KEYED = BATCH.keyed(5)


def drawn(batch: Batch, num: int = 2) -> Draws:
    torch.manual_seed(4)
    model, network = text(), encoder()
    return Amortized(network)(model.target(batch), num, START)


@pytest.mark.parametrize("batch", [BATCH, KEYED])
def test_draws_are_of_the_law_that_they_carry_and_have_its_density(batch: Batch) -> None:
    """Log q by hand. Catches a deviation taken for a variance, and a density summed over the wrong axis."""
    draws = drawn(batch, 4)
    assert draws.law is not None
    mean, scale = draws.law.mean, draws.law.stddev
    noise = (draws.z - mean) / scale
    exact = -(0.5 * noise.square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(draws.log_q, exact)
    assert draws.z.shape == (4, 3, DIM)
    if batch.key is not None:
        torch.testing.assert_close(noise, standard_normals(batch, mean, 4))


def test_keyed_noise_is_a_function_of_key_sentence_and_draw() -> None:
    """Alone, beside others, with more draws: the same numbers; with another key, id, or index: others."""
    whole = drawn(KEYED, 3)
    for row in range(3):
        torch.testing.assert_close(drawn(KEYED.select(torch.tensor([row])), 3).z[:, 0], whole.z[:, row])
    torch.testing.assert_close(drawn(KEYED, 1).z, whole.z[:1])
    like = torch.zeros(3, DIM)
    noise = standard_normals(KEYED, like, 2)
    renamed = Batch(KEYED.tokens, torch.tensor([40, 7, 12]), 5)
    others = (
        standard_normals(BATCH.keyed(6), like, 2),
        standard_normals(KEYED, like, 2, index=1),
        standard_normals(renamed, like, 2)[:, 2:],
    )
    for other in others:
        assert (other - noise[:, -other.shape[1] :]).abs().min() > 1e-9
    assert torch.equal(standard_normals(renamed, like, 2)[:, :2], noise[:, :2])
    torch.manual_seed(1)
    plain = standard_normals(BATCH, like, 2)
    torch.manual_seed(1)
    assert torch.equal(plain, torch.randn(2, 3, DIM))


def test_the_noise_is_standard_normal() -> None:
    """Mean, variance and fourth moment of 200,000 numbers, and the correlation of sentences and of draws.

    Five checks at 6.0 standard errors in all: a false alarm in 1e8.
    """
    size = 100
    batch = Batch(torch.full((size, 1), 3), key=9)
    noise = standard_normals(batch, torch.zeros(size, 20), size)
    n, bound = noise.numel(), gate(5)
    assert abs(float(noise.mean())) < bound / math.sqrt(n)
    assert abs(float(noise.var()) - 1) < bound * math.sqrt(2 / n)
    assert abs(float(noise.pow(4).mean()) - 3) < bound * math.sqrt(96 / n)
    for other in (noise.roll(1, 0), noise.roll(1, 1)):
        assert abs(float((noise * other).mean())) < bound / math.sqrt(n)


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_the_gradient_is_the_slope_of_the_loss(objective: str) -> None:
    """Of the encoder's weights and of the model's, along random directions, the noise held by its key.

    Oracle: central differences in float64. Catches a draw without its graph, and a density with the graph of its
    point left out.
    """
    model, network = text(), encoder()
    loss_of = OBJECTIVES[objective]()

    def loss() -> Tensor:
        target = model.target(KEYED)
        return loss_of(target, Amortized(network)(target, 3, START), START)

    for module in (network, model):
        weights = list(module.parameters())
        gradient = torch.autograd.grad(loss(), weights)
        for _ in range(3):
            direction = [torch.randn_like(weight) for weight in weights]
            slope = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
            values, step = [], 1e-5
            for sign in (1, -2):
                with torch.no_grad():
                    for weight, d in zip(weights, direction, strict=True):
                        weight += sign * step * d
                    values.append(float(loss()))
            with torch.no_grad():
                for weight, d in zip(weights, direction, strict=True):
                    weight += step * d
            assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-6)


def test_targets_that_an_encoder_cannot_read_are_refused() -> None:
    strange = standard_normal_target(lambda z: -z.square().sum(-1), batch_size=2, dim=DIM)
    message = "an encoder reads sentences, and this target is not about any; infer z of other programs by short_run."
    with pytest.raises(ValueError, match=sentence(message)):
        Amortized(encoder())(strange)
    message = "encoder and prior must agree about z: the encoder has latent_dim = 2, the prior dim = 3."
    with pytest.raises(ValueError, match=sentence(message)):
        Amortized(LSTMEncoder(VOCABULARY, 2, 4, 5))(text().target(BATCH))


def test_its_weights_are_the_encoders_alone() -> None:
    """The model is nothing that it keeps, or an optimiser would hold its weights twice."""
    network = encoder()
    inference: nn.Module = Amortized(network)
    inference(text().target(BATCH))
    assert [id(w) for w in inference.parameters()] == [id(w) for w in network.parameters()]
    assert not list(inference.buffers())
