"""Target: values, gradients and curvature against autograd and finite differences, and the traps it owns."""

import copy

import pytest
import torch
from pyro.distributions import Distribution, Normal
from torch import Tensor

from sri_pyro.models import DECODERS, PRIORS, GRUDecoder, LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.target import AutogradLikelihood, Target, evaluating, frozen, value_and_gradient
from sri_pyro.types import EOS, PAD, Batch
from tests.oracles import LinearGaussian, bimodal, gate, randomise, sentence, skewed

pytestmark = pytest.mark.usefixtures("float64")
BATCH = Batch(torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD]]))
INFERENCE_MODE = sentence(
    "gradients in z cannot be taken under torch.inference_mode(); use torch.no_grad(), which is enough "
    "and which short runs respect."
)


def model_of(decoder: str, prior: str = "standard_normal", dropout: float = 0.0) -> LatentTextModel:
    network = DECODERS[decoder](vocab_size=8, latent_dim=3, hidden=5, dropout=dropout)
    model = LatentTextModel(PRIORS[prior](dim=3), network)
    randomise(model, 0.6)
    return model.eval()


def linear() -> Target:
    oracle = LinearGaussian.build("power1", dim=4, information=2.0)
    return oracle.target(oracle.sample(3)[1])


TARGETS = {
    "linear": linear,
    "skewed": skewed,
    "bimodal": bimodal,
    **{
        f"{decoder} {prior}": lambda decoder=decoder, prior=prior: model_of(decoder, prior).target(BATCH)
        for decoder in DECODERS
        for prior in PRIORS
    },
}
WRITTEN_OUT = "lstm standard_normal"


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param]()


def points(target: Target, draws: int = 4) -> Tensor:
    return torch.randn(draws, target.batch_size, target.dim)


def central_difference(function, z: Tensor, delta: float = 1e-5) -> Tensor:
    """Derivative of function(z) in every coordinate of z; a new last axis, valid since rows are independent."""
    columns = []
    for d in range(z.shape[-1]):
        step = torch.zeros_like(z)
        step[..., d] = delta
        columns.append((function(z + step) - function(z - step)) / (2 * delta))
    return torch.stack(columns, -1)


def test_parts_add_up(target: Target) -> None:
    z = points(target)
    log_prior, log_likelihood = target.value(z)
    assert log_prior.shape == log_likelihood.shape == (4, target.batch_size)
    torch.testing.assert_close(log_prior, target.log_prior(z).detach(), rtol=0, atol=1e-11)
    torch.testing.assert_close(log_likelihood, target.log_likelihood(z).detach(), rtol=0, atol=1e-11)
    joint = target.log_joint(z).detach()
    torch.testing.assert_close(log_prior + log_likelihood, joint, rtol=0, atol=1e-11)
    found = target.value_and_grad(z)
    torch.testing.assert_close(found.log_prior, log_prior, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.log_likelihood, log_likelihood, rtol=0, atol=1e-11)
    assert not any(part.requires_grad for part in (*found, log_prior, log_likelihood))


def test_gradient_is_a_finite_difference(target: Target) -> None:
    z = points(target)
    expected = central_difference(lambda z: target.log_joint(z).detach(), z)
    torch.testing.assert_close(target.value_and_grad(z).grad, expected, rtol=1e-6, atol=1e-6)
    without_prior = central_difference(lambda z: target.log_likelihood(z).detach(), z)
    assert (without_prior - expected).abs().max() > 0.1  # positive control


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_likelihood_power_weighs_the_likelihood_alone(target: Target, power: float) -> None:
    z = points(target)
    expected = central_difference(
        lambda z: (target.log_prior(z) + power * target.log_likelihood(z)).detach(), z
    )
    for given in (power, torch.tensor(power)):
        found, grad = target.value_and_grad(z).tempered(given)
        torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-6)
        log_prior, log_likelihood = target.value(z)
        torch.testing.assert_close(found, log_prior + power * log_likelihood, rtol=0, atol=1e-11)


def test_hessian_is_a_finite_difference_of_the_gradient(target: Target) -> None:
    z = points(target)
    expected = central_difference(lambda z: target.value_and_grad(z).grad, z)
    found = target.hessian(z)
    assert found.shape == (4, target.batch_size, target.dim, target.dim)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-9)
    vector = torch.randn_like(z)
    product = target.hessian_vector_product(z, vector)
    torch.testing.assert_close(product, (found @ vector[..., None])[..., 0], rtol=0, atol=1e-9)
    assert not found.requires_grad
    assert not product.requires_grad


def test_no_grad_is_respected_and_overruled(target: Target) -> None:
    z = points(target)
    expected = target.value_and_grad(z)
    with torch.no_grad():
        found = target.value_and_grad(z)
        hessian = target.hessian(z)
        assert not torch.is_grad_enabled()
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(hessian, target.hessian(z))


@pytest.mark.parametrize("name", TARGETS)
def test_inference_mode_is_refused_where_autograd_is_needed(name: str) -> None:
    target = TARGETS[name]()
    z = points(target)
    calls = [target.hessian, lambda z: target.hessian_vector_product(z, z)]
    for call in calls + [target.value_and_grad] * (name != WRITTEN_OUT):
        with torch.inference_mode(), pytest.raises(RuntimeError, match=INFERENCE_MODE):
            call(z)


def test_gradients_that_are_written_out_need_no_autograd() -> None:
    target = TARGETS[WRITTEN_OUT]()
    z = points(target)
    with torch.inference_mode():
        found = target.value_and_grad(z)
    for ours, theirs in zip(found, target.value_and_grad(z), strict=True):
        assert torch.equal(ours, theirs)


def test_values_work_under_inference_mode(target: Target) -> None:
    z = points(target)
    with torch.inference_mode():
        found = target.value(z)
    for ours, theirs in zip(found, target.value(z), strict=True):
        assert torch.equal(ours, theirs)


def test_z_and_its_graph_are_left_alone(target: Target) -> None:
    z = points(target).requires_grad_()
    before = z.detach().clone()
    target.value_and_grad(z)
    target.hessian(z)
    target.value(z)
    assert z.grad is None
    assert torch.equal(z.detach(), before)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_inference_leaves_every_weight_gradient_as_it_was(decoder: str, prior: str) -> None:
    """The authors' release lets the sampler's backward passes into the weights' gradients."""
    model = model_of(decoder, prior, dropout=0.3)
    target, z = model.target(BATCH), torch.randn(4, 3, 3)
    for start in (None, "random"):
        for mode in (True, False):
            model.train(mode)
            for parameter in model.parameters():
                parameter.grad = None if start is None else torch.randn_like(parameter)
            before = [copy.deepcopy(parameter.grad) for parameter in model.parameters()]
            target.value_and_grad(z)
            target.hessian(z)
            target.hessian_vector_product(z, z)
            target.value(z)
            for parameter, kept in zip(model.parameters(), before, strict=True):
                assert parameter.requires_grad
                assert (parameter.grad is None) if kept is None else torch.equal(parameter.grad, kept)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_one_target_serves_several_weight_gradients(decoder: str, prior: str) -> None:
    """Two backward passes from one target are twice one: the prior's graph must not be used up."""
    model = model_of(decoder, prior)
    target, z = model.target(BATCH), torch.randn(4, 3, 3)
    target.value_and_grad(z)
    target.log_joint(z).sum().backward()
    once = [parameter.grad.clone() for parameter in model.parameters()]
    target.log_joint(z).sum().backward()
    for parameter, first in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * first)


@pytest.mark.parametrize("decoder", DECODERS)
def test_dropout_moves_the_weights_objective_but_never_the_chains_target(decoder: str) -> None:
    model = model_of(decoder, dropout=0.5)
    z = torch.randn(4, 3, 3)
    calm = model.target(BATCH).value_and_grad(z)
    model.train()
    target = model.target(BATCH)
    assert any(not torch.equal(target.log_likelihood(z), target.log_likelihood(z)) for _ in range(8))
    for _ in range(3):
        found = target.value_and_grad(z)
        for ours, theirs in zip(found, calm, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        torch.testing.assert_close(target.value(z)[1], calm.log_likelihood, rtol=0, atol=1e-11)
    curvature = target.hessian(z)
    assert torch.equal(curvature, target.hessian(z))
    assert all(module.training for module in model.modules())


class DroppingPrior(StandardNormal):
    """A prior whose mean comes out of dropout; users may write such a thing."""

    def __init__(self) -> None:
        super().__init__(dim=3)
        self.mean = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))

    def forward(self) -> Distribution:
        return Normal(self.mean(torch.ones(3)), 1.0).to_event(1)


def test_dropout_of_a_prior_never_moves_the_chains_target() -> None:
    model = LatentTextModel(DroppingPrior(), DECODERS["lstm"](vocab_size=8, latent_dim=3, hidden=5))
    z, calm = torch.randn(4, 3, 3), model.eval().target(BATCH)
    target = model.train().target(BATCH)
    assert any(not torch.equal(target.log_prior(z), target.log_prior(z)) for _ in range(8))
    for _ in range(5):
        for ours, theirs in zip(target.value_and_grad(z), calm.value_and_grad(z), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        assert torch.equal(target.value(z)[0], calm.value(z)[0])
        torch.manual_seed(0)
        drawn = target.sample_prior(5)
        torch.manual_seed(0)
        assert torch.equal(drawn, calm.sample_prior(5))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_target_serves_the_weights_it_was_made_with_and_no_others(optimizer: type) -> None:
    """Half of the fast route is copied, half a view: a mixture of old and new weights would go unseen."""
    model = model_of("lstm")
    target, z = model.target(BATCH), torch.randn(4, 3, 3)
    before = target.value(z)[1]
    (-target.log_likelihood(z)).mean().backward()
    assert torch.equal(target.value(z)[1], before)  # a gradient changes nothing yet
    optimizer(model.parameters(), lr=0.1).step()
    changed = sentence(
        "the decoder's weights have changed since this target was made; make another with "
        "model.target(batch) after each weight step."
    )
    asked = (
        target.value,
        target.value_and_grad,
        target.hessian,
        lambda z: target.hessian_vector_product(z, z),
    )
    for ask in asked:
        with pytest.raises(RuntimeError, match=changed):
            ask(z)
    assert not torch.allclose(model.target(BATCH).value(z)[1], before)


@pytest.mark.parametrize("decoder", DECODERS)
def test_fresh_dropout_in_inference_is_a_choice(decoder: str) -> None:
    model = model_of(decoder, dropout=0.5).train()
    target, z = model.target(BATCH, inference_dropout="fresh"), torch.randn(4, 3, 3)
    gradients = [target.value_and_grad(z).grad for _ in range(8)]
    assert any(not torch.equal(gradients[0], other) for other in gradients[1:])
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    assert torch.equal(target.value_and_grad(z).grad, target.value_and_grad(z).grad)


@pytest.mark.parametrize("decoder", DECODERS)
def test_samples_of_the_prior(decoder: str) -> None:
    target = model_of(decoder).target(BATCH)
    z = target.sample_prior(20_000)
    assert z.shape == (20_000, 3, 3)
    assert not z.requires_grad
    off = z.mean(0).abs() * 20_000**0.5
    columns = z.reshape(20_000, 9)  # every sentence has draws of its own
    eye = torch.eye(9)
    second = (columns.T @ columns / 20_000 - eye).abs() / ((1 + eye) / 20_000).sqrt()
    assert max(off.max(), second.max()) < gate(9 + 45)


def test_a_fast_route_is_used_where_there_is_one_and_agrees_with_autograd() -> None:
    model = model_of("lstm")
    target, z = model.target(BATCH), torch.randn(4, 3, 3)
    assert not isinstance(target.conditioned, AutogradLikelihood)
    slow = AutogradLikelihood(target.log_likelihood, model)
    for ours, theirs in zip(target.conditioned.value_and_grad(z), slow.value_and_grad(z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("cls", [LSTMDecoder, GRUDecoder])
def test_tokens_of_another_vocabulary_are_refused_on_every_route(cls: type) -> None:
    model = LatentTextModel(StandardNormal(3), cls(vocab_size=8, latent_dim=3, hidden=5))
    message = (
        "token ids must lie in [0, 8); got 3 to 9. Encode the text with the vocabulary this decoder was "
        "built for."
    )
    foreign, z = Batch(torch.tensor([[9, EOS]])), torch.zeros(1, 1, 3)
    with pytest.raises(ValueError, match=sentence(message)):
        model.target(foreign).log_likelihood(z)
    with pytest.raises(ValueError, match=sentence(message)):
        model.target(foreign).value_and_grad(z)


# --- The tools beside it -----------------------------------------------------------------------------------


def test_value_and_gradient_touches_no_other_leaf() -> None:
    weight = torch.randn(3, requires_grad=True)
    z = torch.randn(4, 2, 3)
    value, grad = value_and_gradient(lambda z: (z * weight).sin().sum(-1), z)
    torch.testing.assert_close(value, (z * weight).sin().sum(-1).detach())
    torch.testing.assert_close(grad, ((z * weight).cos() * weight).detach())
    assert weight.grad is None
    assert not value.requires_grad
    assert not grad.requires_grad


def test_evaluating_puts_every_mode_back() -> None:
    """Also modes that differ within one module, and after an error."""
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    network.train()
    network[1][0].eval()
    before = [module.training for module in network.modules()]
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == before
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert [module.training for module in network.modules()] == before
    with evaluating(None):
        pass


def test_frozen_puts_back_what_learned_and_nothing_else() -> None:
    """Also after an error, within itself, and for a weight that never learned."""
    network, x = torch.nn.Linear(2, 2), torch.randn(3, 2, requires_grad=True)
    network.bias.requires_grad_(False)

    def learning() -> list[bool]:
        return [weight.requires_grad for weight in network.parameters()]

    with frozen(network):
        with frozen(network):
            network(x).sum().backward()
        assert learning() == [False, False]
    assert learning() == [True, False]
    assert network.weight.grad is None
    assert x.grad is not None
    with pytest.raises(KeyError), frozen(network):
        raise KeyError
    assert learning() == [True, False]
    with frozen(None):
        pass


def test_target_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        skewed().dim = 3
