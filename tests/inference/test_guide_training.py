"""Training through guides: what an ELBO reaches, and the classic SVI that would train nothing in silence."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from sri_pyro.classic_svi import UNTRAINED, refuse_classic_svi
from sri_pyro.inference.guide import as_guide
from sri_pyro.inference.short_run import ShortRunLangevin
from sri_pyro.program import target_from_program
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress
from tests.inference.guides import BATCH, SHORT, Encoder, Recording, Regression, text_model
from tests.programs import linear_gaussian

pytestmark = pytest.mark.usefixtures("float64", "empty_store")


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
