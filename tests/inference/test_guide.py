"""Guides in Pyro's own consumers: exact gradients, closed-form evidence, and refusals of what would be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Importance,
    Predictive,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.importance import psis_diagnostic, vectorized_importance_weights
from pyro.infer.predictive import WeighedPredictive
from torch import Tensor, nn

from sri_pyro.classic_svi import UNTRAINED, refuse_classic_svi
from sri_pyro.inference.guide import as_guide
from sri_pyro.inference.points import WITHOUT_DENSITY
from sri_pyro.inference.short_run import PriorDraws, ShortRunLangevin
from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.program import ProgramTarget, target_from_program
from sri_pyro.target import Target
from sri_pyro.types import Batch, Draws, Progress
from tests.oracles import gate

pytestmark = pytest.mark.usefixtures("float64")
BATCH = Batch(torch.tensor([[7, 9, 4, 3], [8, 3, 0, 0], [5, 6, 3, 0]]))
WEIGHT = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _store_stays_empty() -> Iterator[None]:
    yield
    assert not list(pyro.get_param_store().keys()), "something was written to Pyro's parameter store"


class Recording(nn.Module):
    """Another inference, which remembers what it was asked and what it drew."""

    def __init__(self, inner: Callable[..., Draws]) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[tuple[int, Progress | None]] = []
        self.drawn: list[Draws] = []

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        self.calls.append((num_samples, progress))
        self.drawn.append(self.inner(target, num_samples, progress))
        return self.drawn[-1]


def text_model() -> LatentTextModel:
    return LatentTextModel(
        StandardNormal(dim=2), LSTMDecoder(vocab_size=10, latent_dim=2, embedding=3, hidden=4)
    )


class Regression(nn.Module):
    """A program that is not ours: a positive scale and a vector per row, weights in a plain layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-1):
            code = pyro.sample("code", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = pyro.sample("scale", dist.Gamma(3.0, 2.0))
            pyro.sample("x", dist.Normal(self.layer(code), 0.5 + scale.unsqueeze(-1)).to_event(1), obs=x)


def linear_gaussian(x: Tensor) -> None:
    with pyro.plate("rows", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT, 0.7).to_event(1), obs=x)


def gamma_poisson(x: Tensor) -> None:
    with pyro.plate("rows", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def nested(counts: Tensor) -> None:
    wards = pyro.plate("wards", counts.shape[1], dim=-1)
    with pyro.plate("rows", counts.shape[0], dim=-2):
        with wards:
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        with wards:
            pyro.sample("counts", dist.Poisson(rate * top), obs=counts)


COUNTS = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 5.0]], dtype=torch.float64)
SHORT = ShortRunLangevin(num_steps=4, step_schedule=ConstantSteps(0.05))


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters())))


def test_trace_elbo_has_the_gradient_of_the_log_joint_at_the_draws() -> None:
    """Eq. 9, exactly, for ours and for a foreign program, with particles in a loop and in one run.

    Oracle: float64 autograd of the target at the recorded draws. Catches an unrolled chain (another
    gradient), a Jacobian with a gradient, particles shared, and a plate that scales.
    """
    x = torch.randn(4, 3)
    cases: list[tuple[nn.Module, tuple[Any, ...], Callable[[], Target]]] = []
    ours, theirs = text_model().eval(), Regression()
    cases.append((ours, (BATCH,), lambda: ours.target(BATCH)))
    cases.append((theirs, (x,), lambda: target_from_program(theirs, (x,))))
    for model, args, target in cases:
        for vectorized in (False, True):
            inference = Recording(SHORT)
            elbo = Trace_ELBO(num_particles=3, vectorize_particles=vectorized, max_plate_nesting=1)
            loss = elbo(model, as_guide(inference, model))(*args)
            z = torch.cat([draws.z for draws in inference.drawn])
            assert len(z) == 3
            expected = -target().log_joint(z).mean(0).sum()
            torch.testing.assert_close(loss, expected)
            got, right = gradients(loss, model), gradients(expected, model)
            torch.testing.assert_close(got, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("program", [linear_gaussian, gamma_poisson, nested])
def test_elbo_is_log_p_minus_log_q(elbo: type[Trace_ELBO], program: Callable[..., None]) -> None:
    """With a density the loss is minus the mean of log p - log q, in unconstrained coordinates.

    Catches a dropped or doubled Jacobian, a density counted once per inner plate, and Pyro's KL of a
    Delta, which forgets log q.
    """
    x = COUNTS if program is not gamma_poisson else COUNTS[:, 2]
    inference = Recording(PriorDraws())
    guide = as_guide(inference, program, plate="rows")
    nesting = 2 if program is nested else 1
    for vectorized in (False, True):
        inference.drawn.clear()
        objective = elbo(num_particles=5, vectorize_particles=vectorized, max_plate_nesting=nesting)
        loss = objective.loss(program, guide, x)
        z = torch.cat([draws.z for draws in inference.drawn])
        log_q = torch.cat([draws.log_q for draws in inference.drawn if draws.log_q is not None])
        target = target_from_program(program, (x,), plate="rows")
        expected = -(target.log_joint(z) - log_q).mean(0).sum()
        torch.testing.assert_close(torch.tensor(float(loss)), expected)


def test_mean_field_elbo_without_a_density_agrees_with_trace_elbo() -> None:
    model, inference = Regression(), Recording(SHORT)
    guide = as_guide(inference, model)
    x = torch.randn(4, 3)
    loss = TraceMeanField_ELBO()(model, guide)(x)
    torch.testing.assert_close(loss, -target_from_program(model, (x,)).log_joint(inference.drawn[0].z).sum())


def test_vectorised_particles_are_distinct_and_lie_where_pyro_wants_them() -> None:
    """Catches a guide that ignores the particles' plate, which Pyro broadcasts to identical copies in silence."""
    inference = Recording(SHORT)
    guide = as_guide(inference, linear_gaussian)
    x = torch.randn(4, 3)
    with pyro.plate("chains", 3, dim=-4), pyro.plate("draws", 5, dim=-2):
        z = guide(x)["z"]
    assert z.shape == (3, 1, 5, 4, 2)
    assert len(z.reshape(-1, 2).unique(dim=0)) == 60
    torch.testing.assert_close(z.reshape(15, 4, 2), inference.drawn[0].z)


def test_what_an_inference_does_in_pyro_stays_inside() -> None:
    """Its sites would be foreign to the model, and the particles' plate would copy them."""
    shapes = []

    def sampler(target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        shapes.append(pyro.sample("inner", dist.Normal(0.0, 1.0)).shape)
        return Draws(target.sample_prior(num_samples))

    guide = as_guide(sampler, linear_gaussian)
    with pyro.plate("particles", 5, dim=-2):
        sites = poutine.trace(guide).get_trace(torch.randn(4, 3)).stochastic_nodes
    assert sites == ["rows", "z"]
    assert shapes == [()]


def test_a_plate_among_the_models_own_is_refused() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    sentence = (
        "the guide runs inside the plate 'near' at dim -1, which the model's own 2 plate axes need; give it a "
        "dim of -3 or less."
    )
    with pyro.plate("near", 3, dim=-1), pytest.raises(ValueError, match=re.escape(sentence)):
        as_guide(SHORT, program)(torch.randn(4, 1))


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_gives_a_draw_per_sample_and_site(parallel: bool) -> None:
    model = text_model()
    predict = Predictive(
        poutine.uncondition(model), guide=as_guide(SHORT, model), num_samples=6, parallel=parallel
    )
    draws = predict(BATCH)
    assert draws["z"].reshape(6, 3, 2).unique(dim=0).shape[0] == 6
    assert draws["x"].shape[-2:] == (3, 4)
    theirs = Regression()
    draws = Predictive(theirs, guide=as_guide(SHORT, theirs), num_samples=6, parallel=parallel)(
        torch.randn(4, 3)
    )
    assert draws["code"].reshape(6, 4, 2).unique(dim=0).shape[0] == 6
    assert draws["scale"].reshape(6, 4).shape == (6, 4)
    assert (draws["scale"] > 0).all()


def log_evidence_gaussian(x: Tensor) -> Tensor:
    covariance = WEIGHT.T @ WEIGHT + 0.49 * torch.eye(3)
    return torch.distributions.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)


def log_evidence_poisson(x: Tensor) -> Tensor:
    return torch.distributions.NegativeBinomial(2.0, torch.tensor(1 / 1.5)).log_prob(x)


@pytest.mark.parametrize(
    ("program", "x", "exact"),
    [
        (
            linear_gaussian,
            torch.tensor([[1.0, -0.5, 2.0], [0.0, 0.3, -1.0]], dtype=torch.float64),
            log_evidence_gaussian,
        ),
        (gamma_poisson, torch.tensor([3.0, 0.0], dtype=torch.float64), log_evidence_poisson),
    ],
)
def test_importance_gives_the_closed_form_evidence(
    program: Callable[..., None], x: Tensor, exact: Callable[[Tensor], Tensor]
) -> None:
    """Log p(x) of both rows together, within the gate's standard errors of the weights and within 0.05 nats.

    Catches a density that is not that of the draws: the mixture's weights, the inflation, the Jacobian.
    """
    truth = exact(x).sum()
    guide = as_guide(ShortRunLangevin(num_steps=20), program, density="gaussian")
    guide.fit(x)
    sampler = Importance(program, guide, num_samples=400).run(x)
    vectorised = vectorized_importance_weights(program, guide, x, num_samples=20_000, max_plate_nesting=1)[0]
    assert vectorised.shape == (20_000,)
    for log_w, tolerance in ((torch.stack(sampler.log_weights), 0.3), (vectorised, 0.05)):
        w = (log_w - truth).exp()
        assert abs(w.mean() - 1) < gate(2) * w.std() / len(w) ** 0.5
        assert abs(w.mean().log()) < tolerance
    assert sampler.get_ESS() > 200
    bound = -RenyiELBO(num_particles=500, vectorize_particles=True, max_plate_nesting=1).loss(
        program, guide, x
    )
    assert abs(bound - truth) < 0.3


def test_a_text_model_has_weights_that_agree_with_its_target() -> None:
    model = text_model().eval()
    guide = as_guide(SHORT, model, density="gaussian", num_pilots=40)
    guide.fit(BATCH)
    log_w, _, guide_trace = vectorized_importance_weights(
        model, guide, BATCH, num_samples=4, max_plate_nesting=1
    )
    z = guide_trace.nodes["z"]["value"]
    proposal = guide._kept.proposal  # type: ignore[union-attr]
    torch.testing.assert_close(log_w, (model.target(BATCH).log_joint(z) - proposal.log_prob(z)).sum(-1))


def test_a_fit_serves_the_same_arguments_and_no_others() -> None:
    inference = Recording(SHORT)
    guide = as_guide(inference, linear_gaussian, density="gaussian", num_pilots=30)
    x = torch.randn(4, 3)
    guide.progress = Progress(step=3, epoch=0.5)
    guide.fit(x)
    guide(x)
    guide(x)
    assert inference.calls == [(30, Progress(step=3, epoch=0.5))]
    guide(x.clone())
    assert len(inference.calls) == 2

    def weighted(x: Tensor, scale: Tensor) -> None:
        linear_gaussian(x * scale)

    guide = as_guide(inference, weighted, density="gaussian", num_pilots=30)
    one = torch.tensor(1.0)
    guide.fit(x, scale=one)
    guide(x, scale=one)
    assert len(inference.calls) == 3
    guide(x, scale=torch.tensor(2.0))
    guide(x, one)
    assert len(inference.calls) == 5


CONSUMERS: dict[str, Callable[..., Any]] = {
    "Importance": lambda model, guide, x: Importance(model, guide, num_samples=2).run(x),
    "RenyiELBO.loss": lambda model, guide, x: RenyiELBO().loss(model, guide, x),
    "RenyiELBO.loss_and_grads": lambda model, guide, x: RenyiELBO().loss_and_grads(model, guide, x),
    "RenyiELBO vectorised": lambda model, guide, x: RenyiELBO(vectorize_particles=True).loss(model, guide, x),
    "importance weights": lambda model, guide, x: vectorized_importance_weights(
        model, guide, x, num_samples=3, max_plate_nesting=1
    ),
    "psis_diagnostic": lambda model, guide, x: psis_diagnostic(model, guide, x, num_particles=1000),
    "WeighedPredictive": lambda model, guide, x: WeighedPredictive(model, guide=guide, num_samples=3)(x),
    "WeighedPredictive parallel": lambda model, guide, x: WeighedPredictive(
        model, guide=guide, num_samples=3, parallel=True
    )(x),
    "ReweightedWakeSleep": lambda model, guide, x: ReweightedWakeSleep().loss(model, guide, x),
    "log_prob_sum": lambda model, guide, x: (
        poutine.trace(model).get_trace(x).log_prob_sum() - poutine.trace(guide).get_trace(x).log_prob_sum()
    ),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("make", [lambda: linear_gaussian, Regression])
def test_no_weight_is_made_of_draws_without_a_density(consumer: str, make: Callable[[], Any]) -> None:
    """Each of them would take log p(x, z) for log p(x, z) - log q(z), in silence."""
    program, x = make(), torch.randn(4, 3)
    with pytest.raises(RuntimeError, match=re.escape(WITHOUT_DENSITY)):
        CONSUMERS[consumer](program, as_guide(SHORT, program), x)
    CONSUMERS[consumer](program, as_guide(PriorDraws(), program), x)  # has a density


def test_scales_and_masks_leave_a_guide_without_density_usable() -> None:
    """Annealing the KL scales both sides; Predictive masks; neither is a weight."""
    guide = as_guide(SHORT, linear_gaussian)
    for handler in (
        poutine.scale(scale=0.5),
        poutine.scale(scale=torch.tensor(0.5)),
        poutine.mask(mask=torch.tensor([True, False, True, True])),
    ):
        loss = Trace_ELBO().loss(handler(linear_gaussian), handler(guide), torch.randn(4, 3))
        assert isinstance(loss, float)


class Encoder(nn.Module):
    """An amortised inference: reparametrised, with a density."""

    def __init__(self, x: Tensor, detached: bool = False) -> None:
        super().__init__()
        self.x = x
        self.loc = nn.Linear(3, 2)
        self.detached = detached

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        q = torch.distributions.Independent(torch.distributions.Normal(self.loc(self.x), 0.5), 1)
        z = q.rsample((num_samples,))
        draws = Draws(z, q.log_prob(z))
        return draws.detach() if self.detached else draws


def test_an_inference_with_a_graph_and_a_density_trains_through_the_elbo() -> None:
    """Oracle: autograd of log p - log q written out."""
    x = torch.randn(4, 3)
    inference = Recording(Encoder(x))
    guide = as_guide(inference, linear_gaussian)
    value = Trace_ELBO().differentiable_loss(linear_gaussian, guide, x)
    draws = inference.drawn[0]
    assert draws.log_q is not None
    expected = -(target_from_program(linear_gaussian, (x,)).log_joint(draws.z) - draws.log_q).sum()
    torch.testing.assert_close(value, expected)
    parameters = list(inference.parameters())
    got = torch.autograd.grad(value, parameters, retain_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad(expected, parameters))


def test_parameters_that_would_never_train_are_refused() -> None:
    x = torch.randn(4, 3)
    guide = as_guide(Encoder(x, detached=True), linear_gaussian)
    sentence = (
        "the inference has 2 parameters that these draws never train, for they carry no graph; train it by "
    )
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        guide(x)
    with torch.no_grad():
        guide(x)
    guide.requires_grad_(False)(x)


def test_a_graph_without_a_density_is_cut() -> None:
    """The pathwise gradient of log p alone climbs to the mode: not Eq. 9, and no ELBO."""

    def unrolled(target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        return Draws(torch.zeros(num_samples, 4, 3, requires_grad=True) * 2)

    assert not as_guide(unrolled, Regression())(torch.randn(4, 3))["code"].requires_grad


def test_the_model_is_not_a_part_of_the_guide_and_the_inference_is() -> None:
    model = text_model()
    loss = Trace_ELBO()(model, as_guide(ShortRunLangevin(num_steps=2), model))
    names = [name for name, _ in loss.named_parameters(remove_duplicate=False)]
    assert names == [f"model.{name}" for name, _ in model.named_parameters()]
    assert "guide.inference.step_scale" in loss.state_dict()


def test_two_models_train_side_by_side() -> None:
    """Under Pyro's global store the second of two like-named models silently stands still."""
    models = [text_model(), text_model()]
    for model in models:
        loss = Trace_ELBO()(model, as_guide(SHORT, model))
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        before = [p.detach().clone() for p in model.parameters()]
        loss(BATCH).backward()
        optimizer.step()
        assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def adam() -> pyro.optim.PyroOptim:
    return pyro.optim.Adam({"lr": 0.01})


@pytest.mark.parametrize("vectorized", [False, True])
def test_classic_svi_on_a_plain_module_is_refused(vectorized: bool) -> None:
    """It would report a loss for every step and change no weight."""
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=vectorized)
    for model, args in ((text_model(), (BATCH,)), (Regression(), (torch.randn(4, 3),))):
        svi = SVI(model, as_guide(SHORT, model), adam(), elbo)
        with pytest.raises(RuntimeError, match=re.escape(UNTRAINED)):
            svi.step(*args)
        assert svi.evaluate_loss(*args) > 0  # trains nothing and claims nothing


def test_classic_svi_trains_a_program_that_registers_its_module() -> None:
    model = Regression()
    layer = model.layer

    def program(x: Tensor) -> None:
        pyro.module("regression", model)
        refuse_classic_svi(model)
        model(x)

    before = layer.weight.detach().clone()
    with pyro.get_param_store().scope():
        SVI(program, as_guide(SHORT, program), adam(), Trace_ELBO()).step(torch.randn(4, 3))
        assert not torch.equal(layer.weight, before)
        with pytest.raises(
            RuntimeError, match=re.escape(UNTRAINED)
        ):  # the encoder's weights are not registered
            SVI(program, as_guide(Encoder(torch.randn(4, 3)), program), adam(), Trace_ELBO()).step(
                torch.randn(4, 3)
            )


def test_a_module_can_refuse_classic_svi_whatever_the_guide() -> None:
    class Careful(Regression):
        def forward(self, x: Tensor) -> None:
            refuse_classic_svi(self)
            super().forward(x)

    model, x = Careful(), torch.randn(4, 3)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("code", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("scale", dist.Gamma(3.0, 2.0))

    with pytest.raises(RuntimeError, match=re.escape(UNTRAINED)):
        SVI(model, guide, adam(), Trace_ELBO()).step(x)
    other = nn.Linear(2, 2)

    def with_another(x: Tensor) -> None:
        pyro.module("other", other)
        model(x)

    with pyro.get_param_store().scope(), pytest.raises(RuntimeError, match=re.escape(UNTRAINED)):
        SVI(with_another, guide, adam(), Trace_ELBO()).step(x)
    model(x)
    Trace_ELBO()(model, as_guide(SHORT, model))(x).backward()
    model.requires_grad_(False)
    SVI(model, guide, adam(), Trace_ELBO()).step(x)  # nothing to train: nothing is promised


def test_bad_options_are_refused() -> None:
    model = text_model()
    with pytest.raises(ValueError, match=r"unknown density 'gauss'; known: gaussian, or None\."):
        as_guide(SHORT, model, density="gauss")
    with pytest.raises(ValueError, match=r"there is no plate 'rows'; a text model has one, 'sentences'\."):
        as_guide(SHORT, model, plate="rows")
    with pytest.raises(
        ValueError, match=r'there is nothing to fit; use as_guide\(\.\.\., density="gaussian"\)\.'
    ):
        as_guide(SHORT, model).fit(BATCH)
    with pytest.raises(
        ValueError, match=r"a Gaussian in 2 dimensions needs more than 3 pilots; got num_pilots = 3\."
    ):
        as_guide(SHORT, model, density="gaussian", num_pilots=3)(BATCH)


def test_our_program_read_as_a_foreign_one_is_the_same_target() -> None:
    model = text_model().eval()
    foreign = Target.from_program(model, (BATCH,))
    assert isinstance(foreign, ProgramTarget)
    z = torch.randn(5, 3, 2)
    torch.testing.assert_close(foreign.log_joint(z), model.target(BATCH).log_joint(z))
    torch.testing.assert_close(foreign.value_and_grad(z).grad, model.target(BATCH).value_and_grad(z).grad)
