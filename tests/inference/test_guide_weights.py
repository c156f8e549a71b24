"""Guides with a density give weights, of closed-form evidence; without one no consumer makes a weight of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Importance, RenyiELBO, ReweightedWakeSleep
from pyro.infer.importance import psis_diagnostic, vectorized_importance_weights
from pyro.infer.predictive import WeighedPredictive
from torch import Tensor

from sri_pyro.inference.guide import as_guide
from sri_pyro.inference.points import WITHOUT_DENSITY
from sri_pyro.inference.short_run import PriorDraws, ShortRunLangevin
from sri_pyro.types import Progress
from tests.inference.guides import BATCH, SHORT, Recording, Regression, gamma_poisson, text_model
from tests.oracles import gate
from tests.programs import WEIGHT, linear_gaussian

pytestmark = pytest.mark.usefixtures("float64", "empty_store")


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
