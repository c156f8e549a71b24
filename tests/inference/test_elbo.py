"""The ELBO for Pyro's users against Pyro's own, against ours, and against closed forms; in float64, noise in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from sri_pyro.inference import Amortized, AnnealedELBO, EvidenceLowerBound, as_guide
from sri_pyro.models import GaussianMixture
from sri_pyro.numerics.kl_weights import LinearWeight
from sri_pyro.types import Draws, Progress
from tests.inference.encoding import BATCH, DIM, encoder, text
from tests.inference.guides import SHORT
from tests.oracles import sentence

pytestmark = pytest.mark.usefixtures("float64", "empty_store")
ROWS = 5
X = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.4], dtype=torch.float64)


class Weights(nn.Module):
    """What models and guides of these tests learn."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.6))
        self.b = nn.Parameter(torch.tensor(-0.5))


class Closed(Weights):
    """Two normal sites in a plate, one of them of three dimensions."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(self.b.expand(3), 1.3).to_event(1))
            u = pyro.sample("u", dist.Normal(0.2, self.b.exp()))
            pyro.sample("x", dist.Normal(self.a * z.sum(-1) + u, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] * self.a.expand(3), (0.3 * x).exp()[:, None]).to_event(1))
            pyro.sample("u", dist.Normal(self.a * x, 0.4))


class Open(Weights):
    """A site of which no KL is closed: a normal against a mixture."""

    def model(self, x: Tensor) -> None:
        mixture = dist.MixtureSameFamily(
            dist.Categorical(torch.tensor([0.3, 0.7])), dist.Normal(torch.stack([self.a, self.b]), 0.8)
        )
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", mixture)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.a * x, 0.6))


class Subsampled(Closed):
    """Two of the rows at a time, which count for all."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(self.b.expand(3), 1.3).to_event(1))
            pyro.sample("x", dist.Normal(self.a * z.sum(-1), 1.0), obs=x[rows])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x), subsample_size=2) as rows:
            pyro.sample("z", dist.Normal(x[rows, None] * self.a.expand(3), 0.4).to_event(1))


class Masked(Closed):
    """Rows that do not count."""

    def model(self, x: Tensor) -> None:
        with poutine.mask(mask=x > 0):
            super().model(x)

    def guide(self, x: Tensor) -> None:
        with poutine.mask(mask=x > 0):
            super().guide(x)


class Mixed(Weights):
    """A latent outside of the plate, and a positive one within."""

    def model(self, x: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(self.a, 1.0))
        with pyro.plate("rows", len(x)):
            scale = pyro.sample("scale", dist.LogNormal(self.b, 0.5))
            pyro.sample("x", dist.Normal(level, scale), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("level", dist.Normal(self.b, 0.3))
        with pyro.plate("rows", len(x)):
            pyro.sample("scale", dist.LogNormal(self.a * x, 0.2))


def value_and_gradient(
    elbo: Trace_ELBO, model: Any, guide: Any, weights: nn.Module, *args: Any
) -> list[Tensor]:
    torch.manual_seed(8)
    loss = elbo.differentiable_loss(model, guide, *args)
    return [loss, *torch.autograd.grad(loss, list(weights.parameters()), materialize_grads=True)]


@pytest.mark.parametrize("program", [Closed, Open, Subsampled, Masked, Mixed])
@pytest.mark.parametrize(
    "options", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}]
)
def test_without_options_it_is_pyros_own(program: type[Any], options: dict[str, Any]) -> None:
    """Value and gradient. Catches a scale or mask left out, particles summed, a global latent counted once per row."""
    parts = program()
    options = options | {"max_plate_nesting": 1}
    ours = value_and_gradient(AnnealedELBO(**options), parts.model, parts.guide, parts, X)
    theirs = value_and_gradient(TraceMeanField_ELBO(**options), parts.model, parts.guide, parts, X)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    sampled = value_and_gradient(Trace_ELBO(**options), parts.model, parts.guide, parts, X)
    if program is Open:
        torch.testing.assert_close(ours, sampled, rtol=1e-10, atol=1e-12)
    else:
        assert float((ours[0] - sampled[0]).detach().abs()) > 1e-3, "closed forms must be at work"
    torch.manual_seed(8)
    assert AnnealedELBO(**options).loss(parts.model, parts.guide, X) == pytest.approx(float(ours[0].detach()))


def kl_by_hand() -> Tensor:
    """Of ``Closed`` at its first weights, by row and dimension, [B, 4]."""
    mean, scale = (
        torch.stack([X * 0.6] * 4, -1),
        torch.stack([(0.3 * X).exp()] * 3 + [torch.full_like(X, 0.4)], -1),
    )
    prior_mean = torch.tensor([-0.5, -0.5, -0.5, 0.2])
    prior_scale = torch.tensor([1.3, 1.3, 1.3, torch.tensor(-0.5).exp()])
    ratio = (scale / prior_scale).square()
    return 0.5 * (ratio + ((mean - prior_mean) / prior_scale).square() - 1 - ratio.log())


@pytest.mark.parametrize(
    "options", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}]
)
def test_free_bits_over_several_sites(options: dict[str, Any]) -> None:
    """Four dimensions of two sites share the rate. Oracle: the formula on the KL by hand, between its smallest and
    largest values, so that some are below the hinge and some above.
    """
    parts, kl = Closed(), kl_by_hand()

    def cost(**ours: Any) -> float:
        torch.manual_seed(8)
        with_kl = AnnealedELBO(**ours, **options, max_plate_nesting=1).loss(parts.model, parts.guide, X)
        torch.manual_seed(8)
        none = AnnealedELBO(0.0, **options, max_plate_nesting=1).loss(parts.model, parts.guide, X)
        return with_kl - none

    assert cost() == pytest.approx(float(kl.sum()))
    assert cost(kl_weight=0.3) == pytest.approx(0.3 * float(kl.sum()))
    assert kl.min() < 0.5 < kl.max()
    per_dimension = float(kl.clamp_min(0.5).sum())
    assert cost(free_bits=2.0) == pytest.approx(per_dimension)
    assert kl.sum(1).min() < 2.0 < kl.sum(1).max()
    assert cost(free_bits=2.0, free_bits_per="sentence") == pytest.approx(
        float(kl.sum(1).clamp_min(2.0).sum())
    )
    assert cost(free_bits=9.0, free_bits_per="batch") == pytest.approx(9.0 * ROWS)
    assert cost(free_bits=0.1, free_bits_per="batch", kl_weight=0.5) == pytest.approx(0.5 * float(kl.sum()))


def test_free_bits_are_of_a_row_before_scale_and_mask() -> None:
    """A rate that nothing reaches: each row that counts costs just that, times the scale of its plate."""
    for program, rows in ((Subsampled, 5.0), (Masked, float((X > 0).sum()))):
        for per in ("dimension", "sentence", "batch"):
            parts, losses = program(), []
            for options in ({"free_bits": 100.0, "free_bits_per": per}, {"kl_weight": 0.0}):
                torch.manual_seed(8)
                losses.append(AnnealedELBO(**options).loss(parts.model, parts.guide, X))
            assert losses[0] - losses[1] == pytest.approx(100.0 * rows), (program, per)


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize(
    ("rate", "per"), [(0.0, "dimension"), (3.0, "dimension"), (6.0, "sentence"), (5.0, "batch")]
)
def test_it_is_our_objective_on_a_text_model(by_hand: bool, rate: float, per: Any) -> None:
    """B times ``elbo``, and its gradient in all weights; the encoder as a guide by hand, and by ``as_guide``.

    Catches the two drifting apart: another hinge, a mean for a sum, a weight that does not follow ``progress``.
    """
    model, network, weight = text(), encoder(), LinearWeight(0.2, 1.0, 4)

    def written(batch: Any) -> None:
        with pyro.plate("sentences", len(batch)):
            pyro.sample("z", network(batch))

    guide = written if by_hand else as_guide(Amortized(network), model)
    bound = AnnealedELBO(weight, rate, per)
    bound.progress = now = Progress(5, 1.5)
    weights = nn.ModuleList([model, network])
    found = value_and_gradient(bound, model, guide, weights, BATCH)
    torch.manual_seed(8)
    z = poutine.trace(guide).get_trace(BATCH).nodes["z"]["value"].reshape(1, 3, DIM)
    law = network(BATCH)
    draws = Draws(z, law.log_prob(z), law=law)
    loss = 3 * EvidenceLowerBound(weight, rate, per)(model.target(BATCH), draws, now)
    exact = [loss, *torch.autograd.grad(loss, list(weights.parameters()), materialize_grads=True)]
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-11)
    bound.progress = None
    assert bound.kl_weight(bound.progress) == 1.0


@pytest.mark.parametrize("per", ["sentence", "batch"])
@pytest.mark.parametrize("vectorized", [False, True])
def test_particles_are_averaged_before_the_hinge(per: Any, vectorized: bool) -> None:
    """As in ``elbo``, whose KL to a mixture is the mean over draws. A hinge on each draw would cost more."""
    model, network = text(prior=GaussianMixture(DIM, components=2)), encoder()
    guide = as_guide(Amortized(network), model)
    options = {"num_particles": 4, "vectorize_particles": vectorized, "max_plate_nesting": 1}
    bound = AnnealedELBO(0.7, 3.0, per, **options)
    torch.manual_seed(8)
    found = bound.loss(model, guide, BATCH)
    torch.manual_seed(8)
    size = 4 if vectorized else 1
    z = torch.cat([Amortized(network)(model.target(BATCH), size).z for _ in range(4 // size)])
    draws = Draws(z, network(BATCH).log_prob(z), law=network(BATCH))
    weight = LinearWeight(0.7, 0.7, 1.0)
    exact = 3 * EvidenceLowerBound(weight, 3.0, per)(model.target(BATCH), draws, Progress(0, 0.0))
    assert found == pytest.approx(float(exact.detach()))


def test_the_law_of_a_guide_serves_pyros_mean_field_elbo_in_particles_too() -> None:
    """``as_guide`` of an encoder has a closed KL in Pyro's hands: no noise is left in it."""
    model, network = text(), encoder()
    guide = as_guide(Amortized(network), model)
    law = network(BATCH)
    kl = 0.5 * (law.mean.square() + law.variance - 1 - law.variance.log()).sum()
    for vectorized in (False, True):
        bound = TraceMeanField_ELBO(num_particles=3, vectorize_particles=vectorized, max_plate_nesting=1)
        torch.manual_seed(8)
        found = bound.differentiable_loss(model, guide, BATCH)
        torch.manual_seed(8)
        draws = [
            Amortized(network)(model.target(BATCH), 3 if vectorized else 1).z
            for _ in range(1 if vectorized else 3)
        ]
        z = torch.cat(draws)
        torch.testing.assert_close(found, kl - model.target(BATCH).log_likelihood(z).mean(0).sum())


@pytest.fixture
def own_store() -> Any:
    """Pyro's store, as a user of ``SVI`` has one, empty before and after."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def test_a_mean_field_guide_of_one_batch_is_trained_by_svi(own_store: None) -> None:
    """``AutoNormal`` is local to the batch; the model stands still. Its KL is the closed form of its normals.

    Catches a Delta taken for a law (the KL would be a draw's), and a step that trains nothing.
    """
    model = text().requires_grad_(False)
    guide = AutoNormal(model)
    bound = AnnealedELBO(free_bits=0.3, free_bits_per="sentence")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=bound)
    losses = [svi.step(BATCH) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 10
    mean, scale = guide.locs.z.detach(), guide.scales.z.detach()
    assert mean.abs().max() > 0.1
    kl = 0.5 * (mean.square() + scale.square() - 1 - 2 * scale.log()).sum(-1)
    costs = []
    for each in (bound, AnnealedELBO(), AnnealedELBO(0.0)):
        torch.manual_seed(8)
        costs.append(each.loss(model, guide, BATCH))
    assert costs[0] - costs[2] == pytest.approx(float(kl.clamp_min(0.3).sum()))
    assert costs[1] - costs[2] == pytest.approx(float(kl.sum()))


def test_svi_trains_the_model_that_gives_itself_to_pyro(own_store: None) -> None:
    """Gradients of ``loss_and_grads`` are those of the module, and weights outside of the store are left alone."""
    model, network = text(), encoder()
    weights = nn.ModuleList([model, network])

    def program(batch: Any) -> None:
        pyro.module("model", model)
        model(batch)

    def guide(batch: Any) -> None:
        pyro.module("encoder", network)
        with pyro.plate("sentences", len(batch)):
            pyro.sample("z", network(batch))

    bound = AnnealedELBO(0.4, 1.0)
    exact = value_and_gradient(bound, program, guide, weights, BATCH)
    torch.manual_seed(8)
    found = bound.loss_and_grads(program, guide, BATCH)
    assert found == pytest.approx(float(exact[0].detach()))
    torch.testing.assert_close([w.grad for w in weights.parameters()], exact[1:])
    before = [w.detach().clone() for w in weights.parameters()]
    SVI(program, guide, pyro.optim.Adam({"lr": 0.01}), loss=bound).step(BATCH)
    moved = [bool((w - b).abs().max() > 0) for w, b in zip(weights.parameters(), before, strict=True)]
    assert all(moved)


def positive(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, scale), obs=x)


def test_an_automatic_guide_of_a_positive_latent_keeps_its_volume(own_store: None) -> None:
    """Log q is that of the positive value, as in ``Trace_ELBO``; Pyro's mean-field bound loses the change of volume."""
    guide, losses = AutoNormal(positive), []
    with torch.no_grad():
        guide(X)
        for bound in (AnnealedELBO(), Trace_ELBO(), TraceMeanField_ELBO()):
            torch.manual_seed(8)
            losses.append(bound.loss(positive, guide, X))
    assert losses[0] == pytest.approx(losses[1])
    assert abs(losses[2] - losses[1]) > 0.01


def test_a_density_that_a_point_states_is_not_that_of_the_normal_behind_it() -> None:
    """A Delta at an auxiliary normal's value, with a density of its own: log q is both, as in ``Trace_ELBO``."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            behind = pyro.sample("behind", dist.Normal(x, 0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(behind, torch.full_like(x, 0.7)))

    losses = []
    for bound in (AnnealedELBO(), Trace_ELBO()):
        torch.manual_seed(8)
        losses.append(bound.loss(model, guide, X))
    assert losses[0] == pytest.approx(losses[1])


def bad(model: Callable[..., Any], guide: Callable[..., Any], **options: Any) -> Callable[[], float]:
    return lambda: AnnealedELBO(**options).loss(model, guide, X)


def test_what_cannot_be_is_said() -> None:
    mixed, open_ = Mixed(), Open()
    message = (
        "free bits are of the rows of one plate, and the plates of the site 'level' are: none; put all latents into "
        "one plate, or set free_bits = 0."
    )
    with pytest.raises(ValueError, match=sentence(message)):
        bad(mixed.model, mixed.guide, free_bits=1.0, free_bits_per="sentence")()

    model, network = text(prior=GaussianMixture(DIM, components=2)), encoder()
    message = (
        "free_bits_per = 'dimension' needs a KL that parts into dimensions, and that of the site 'z' does not, as "
        "that of independent normals does; use 'sentence'."
    )
    with pytest.raises(ValueError, match=sentence(message)):
        AnnealedELBO(free_bits=1.0).loss(model, as_guide(Amortized(network), model), BATCH)
    assert bad(open_.model, open_.guide, free_bits=1.0)() > 0  # a site of one dimension is one

    with pytest.raises(RuntimeError, match="the guide's draws have no density"):
        AnnealedELBO().loss(model, as_guide(SHORT, model), BATCH)

    def counted(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            n = pyro.sample("n", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(n, 1.0), obs=x)

    def guess(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("n", dist.Poisson(1.0))

    with pytest.raises(NotImplementedError, match="fully reparam"):
        bad(counted, guess)()
    with pytest.raises(
        ValueError, match=sentence("free_bits must be a finite number of at least 0; got -1.0.")
    ):
        AnnealedELBO(free_bits=-1.0)
    with pytest.raises(
        ValueError, match=sentence("unknown free_bits_per 'row'; known: batch, dimension, sentence.")
    ):
        AnnealedELBO(free_bits_per="row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=sentence("weight must be a finite number of at least 0; got -0.5.")):
        AnnealedELBO(-0.5)
