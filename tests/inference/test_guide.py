"""Guides in Pyro's own consumers: exact gradients, draws where Pyro wants them, and refusals of what would be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from sri_pyro.inference.guide import as_guide
from sri_pyro.inference.short_run import PriorDraws
from sri_pyro.program import ProgramTarget, target_from_program
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress
from tests.inference.guides import (
    BATCH,
    COUNTS,
    SHORT,
    Recording,
    Regression,
    gamma_poisson,
    nested,
    text_model,
)
from tests.programs import linear_gaussian

pytestmark = pytest.mark.usefixtures("float64", "empty_store")


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
