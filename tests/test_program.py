"""Targets of programs that are not ours: hand-written densities, single rows, autograd, exact laws."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from sri_pyro.inference.short_run import ShortRunLangevin
from sri_pyro.numerics.langevin import LeimkuhlerMatthews, UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.program import target_from_program
from sri_pyro.target import Target
from tests.oracles import gate

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def _store_stays_empty() -> Iterator[None]:
    yield
    assert not list(pyro.get_param_store().keys()), "a target wrote to Pyro's parameter store"


WEIGHT = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]], dtype=torch.float64)


def survey(x: Tensor) -> None:
    """Four latent sites of different supports and event shapes in one row."""
    with pyro.plate("people", len(x), dim=-1):
        trait = pyro.sample("trait", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        speed = pyro.sample("speed", dist.Gamma(2.0, 3.0))
        mix = pyro.sample("mix", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
        bias = pyro.sample("bias", dist.Beta(2.0, 5.0).expand([2]).to_event(1))
        loc = trait @ WEIGHT + mix * bias.sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(loc, 0.2 + speed.unsqueeze(-1)).to_event(1), obs=x)


def survey_by_hand(u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same log prior and log likelihood written out: u is [..., 2 + 1 + 2 + 2] and unconstrained.

    Jacobians: exp for speed; sigmoid for bias; for the simplex PyTorch's stick-breaking, whose determinant
    comes here from the matrix of partial derivatives, not from its own formula.
    """
    trait, log_speed, stick, logit = u.split([2, 1, 2, 2], dim=-1)
    normal = -0.5 * trait.square().sum(-1) - torch.log(torch.tensor(2 * torch.pi))
    speed = log_speed.exp().squeeze(-1)
    gamma = 2 * torch.log(torch.tensor(3.0)) + speed.log() - 3 * speed + log_speed.squeeze(-1)
    simplex = biject_to(constraints.simplex)
    mix = simplex(stick)
    flat = stick.reshape(-1, 2)
    free = torch.stack([torch.autograd.functional.jacobian(lambda s: simplex(s)[:2], row) for row in flat])
    log_det = torch.linalg.slogdet(free).logabsdet.reshape(stick.shape[:-1])
    constant = torch.lgamma(torch.tensor(6.0)) - torch.lgamma(torch.tensor([1.0, 2.0, 3.0])).sum()
    dirichlet = constant + mix[..., 1].log() + 2 * mix[..., 2].log() + log_det
    bias = logit.sigmoid()
    beta = (torch.log(torch.tensor(30.0)) + 2 * bias.log() + 5 * (1 - bias).log()).sum(-1)
    loc = trait @ WEIGHT + mix * bias.sum(-1, keepdim=True)
    scale = 0.2 + speed.unsqueeze(-1)
    z = (x - loc) / scale
    likelihood = (-0.5 * z.square() - scale.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))).sum(-1)
    return normal + gamma + dirichlet + beta, likelihood


def test_equals_the_hand_written_densities_with_their_jacobians() -> None:
    """Catches a dropped or doubled log-determinant, sites in a wrong order, and axes swapped in z."""
    x = torch.randn(4, 3)
    target = Target.from_program(survey, (x,))
    assert (target.batch_size, target.dim) == (4, 7)
    z = torch.randn(5, 4, 7)
    log_prior, log_likelihood = survey_by_hand(z, x)
    torch.testing.assert_close(target.log_prior(z), log_prior)
    torch.testing.assert_close(target.log_likelihood(z), log_likelihood)


def hospital(counts: Tensor, ages: Tensor | None = None) -> None:
    """Nested plates, rows on axis -2, a support that depends on another latent, data seen between latents."""
    rows, wards = counts.shape
    with pyro.plate("rows", rows, dim=-2):
        top = pyro.sample("top", dist.LogNormal(0.0, 0.5))
        if ages is not None:
            pyro.sample("age", dist.Normal(top, 1.0), obs=ages.unsqueeze(-1))
        with pyro.plate("wards", wards, dim=-1):
            rate = pyro.sample("rate", dist.Uniform(0.0, top))
            pyro.deterministic("double", 2 * rate)
            pyro.sample("counts", dist.Poisson(rate + 0.1), obs=counts)


def test_nested_plates_equal_the_hand_written_densities() -> None:
    """Catches a sum over the wrong plate, and a support read once although it depends on a latent."""
    counts, ages = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]]), torch.tensor([0.5, 1.5])
    target = Target.from_program(hospital, (counts,), {"ages": ages}, plate="rows")
    z = torch.randn(6, 2, 4)
    log_top, logits = z[..., :1], z[..., 1:]
    top = log_top.exp()
    rate = top * logits.sigmoid()
    prior = dist.Normal(0.0, 0.5).log_prob(log_top).squeeze(-1)
    prior = prior + (nn.functional.logsigmoid(logits) + nn.functional.logsigmoid(-logits)).sum(-1)
    likelihood = dist.Poisson(rate + 0.1).log_prob(counts).sum(-1) + dist.Normal(top[..., 0], 1.0).log_prob(
        ages
    )
    torch.testing.assert_close(target.log_prior(z), prior)
    torch.testing.assert_close(target.log_likelihood(z), likelihood)
    placed = target.constrain(z)
    torch.testing.assert_close(placed["top"], top.unsqueeze(-2)[..., 0])
    torch.testing.assert_close(placed["rate"], rate)


def test_rows_equal_targets_of_single_rows() -> None:
    """Catches rows that see one another, and a plate's scale left in."""
    x = torch.randn(3, 3)
    z = torch.randn(2, 3, 7)
    together = target_from_program(survey, (x,)).log_joint(z)
    apart = [target_from_program(survey, (x[b : b + 1],)).log_joint(z[:, b : b + 1]) for b in range(3)]
    torch.testing.assert_close(together, torch.cat(apart, dim=1))


def test_equals_pyros_own_trace_at_the_constrained_values() -> None:
    """Oracle: Pyro's log_prob_sum of the conditioned program, plus the volume change."""
    x = torch.randn(4, 3)
    target = target_from_program(survey, (x,))
    z = torch.randn(1, 4, 7)
    values = {name: value[0] for name, value in target.constrain(z).items()}
    trace = poutine.trace(poutine.condition(survey, values)).get_trace(x)
    volume = sum(placed.log_abs_det.sum() for placed in target.place(z).values())
    torch.testing.assert_close(target.log_joint(z).sum(), trace.log_prob_sum() + volume)


def test_gradient_equals_autograd_and_finite_differences() -> None:
    target = target_from_program(survey, (torch.randn(2, 3),))
    z = torch.randn(3, 2, 7, requires_grad=True)
    (expected,) = torch.autograd.grad(target.log_joint(z).sum(), z)
    torch.testing.assert_close(target.value_and_grad(z).grad, expected)
    assert torch.autograd.gradcheck(lambda u: target.log_joint(u), (z,))


def test_a_scale_changes_nothing_and_a_mask_does() -> None:
    """A scale weighs a training loss; a mask says which data are missing. Inside and around the program."""
    x = torch.randn(4, 3)
    present = torch.tensor([True, False, True, False])

    def scaled(x: Tensor) -> None:
        with poutine.scale(scale=7.0):
            survey(x)

    def masked(x: Tensor) -> None:
        with pyro.plate("people", len(x), dim=-1):
            trait = pyro.sample("trait", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.mask(mask=present):
                pyro.sample("x", dist.Normal(trait @ WEIGHT, 1.0).to_event(1), obs=x)

    z = torch.randn(2, 4, 7)
    plain = target_from_program(survey, (x,))
    with poutine.scale(scale=3.0), poutine.mask(mask=False):
        inside = target_from_program(scaled, (x,)).log_joint(z)
    torch.testing.assert_close(inside, plain.log_joint(z))
    likelihood = target_from_program(masked, (x,)).log_likelihood(z[..., :2])
    assert (likelihood[:, ~present] == 0).all()
    assert (likelihood[:, present] != 0).all()


def test_nothing_leaks_to_an_outer_trace() -> None:
    with poutine.trace() as outer:
        target = target_from_program(survey, (torch.randn(2, 3),))
        target.log_joint(target.sample_prior(3))
        target.constrain(torch.zeros(1, 2, 7))
    assert not outer.trace.nodes


def test_prior_draws_have_the_priors_law() -> None:
    """Means of 40,000 draws, within 6.2 standard errors: over 8 numbers a false alarm in 1e8.

    Catches draws left on the constrained scale, shared over S or over rows, and sites in a wrong order.
    """
    n = 40_000
    target = target_from_program(survey, (torch.randn(2, 3),))
    draws = target.constrain(target.sample_prior(n // 2))
    checks = {
        "trait": (torch.zeros(2), torch.ones(2)),
        "speed": (torch.tensor(2 / 3), torch.tensor(2 / 9)),
        "mix": (torch.tensor([1.0, 2.0, 3.0]) / 6, torch.tensor([5.0, 8.0, 9.0]) / 252),
        "bias": (torch.full((2,), 2 / 7), torch.full((2,), 10 / 392)),
    }
    for name, (mean, variance) in checks.items():
        error = (draws[name].flatten(0, 1).mean(0) - mean) / (variance / n).sqrt()
        assert (error.abs() < gate(8)).all(), name


def test_prior_draws_follow_the_nesting() -> None:
    counts = torch.zeros(2, 3)
    draws = target_from_program(hospital, (counts,), plate="rows")
    z = draws.sample_prior(500)
    assert z.shape == (500, 2, 4)
    placed = draws.constrain(z)
    assert (placed["rate"] <= placed["top"]).all()
    assert len(placed["top"].unique()) == 1000


def linear_gaussian(x: Tensor, scale: float = 0.7) -> None:
    with pyro.plate("rows", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT, scale).to_event(1), obs=x)


@pytest.mark.parametrize("integrator", [UnadjustedLangevin(), LeimkuhlerMatthews()])
def test_a_short_run_on_a_conjugate_program_has_its_exact_law(
    integrator: UnadjustedLangevin | LeimkuhlerMatthews,
) -> None:
    """Every step is affine, so the law of z_K is Gaussian with moments from a recursion of matrices.

    The state is (z, memory); the gate is over 12 numbers, a false alarm in 1e8.
    After 3 steps at s = 0.1 the run is far from the posterior, which a looser test would confuse it with.
    """
    steps, s, n = 3, 0.1, 60_000
    x = torch.tensor([[1.0, -0.5, 2.0], [0.0, 0.3, -1.0]])
    target = Target.from_program(linear_gaussian, (x,))
    run = ShortRunLangevin(steps, integrator, ConstantSteps(s))
    z = run(target, n).z
    precision = torch.eye(2) + WEIGHT @ WEIGHT.T / 0.7**2
    drift = torch.eye(2) - s * precision
    pull = s * x @ WEIGHT.T / 0.7**2
    zero, one = torch.zeros(2, 2), torch.eye(2)
    if isinstance(integrator, UnadjustedLangevin):
        move, noise, memory = torch.cat([drift, zero], 1), (2 * s) ** 0.5, zero
    else:
        move, noise, memory = torch.cat([drift, one], 1), (s / 2) ** 0.5, s / 2 * one
    move = torch.cat([move, torch.zeros(2, 4)], 0)
    both = torch.cat([one, one * isinstance(integrator, LeimkuhlerMatthews)], 0) * noise
    mean, cov = torch.zeros(2, 2), torch.block_diag(one, memory)
    for _ in range(steps):
        mean = mean @ drift.T + pull
        cov = move @ cov @ move.T + both @ both.T
    expected = cov[:2, :2]
    for row in range(2):
        got = z[:, row]
        assert ((got.mean(0) - mean[row]).abs() < gate(12) * (expected.diagonal() / n).sqrt()).all()
        bound = gate(12) * ((expected.square() + torch.outer(*[expected.diagonal()] * 2)) / n).sqrt()
        assert ((got.T.cov() - expected).abs() < bound).all()
    posterior = torch.linalg.inv(precision)
    assert ((posterior - expected).abs() > 2 * bound).any(), (
        "the oracle must tell a short run from the posterior"
    )


def test_a_module_is_in_eval_mode_for_chains_and_in_its_own_mode_for_training() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.layer(z), 1.0).to_event(1), obs=x)

    net = Net()
    target = target_from_program(net, (torch.randn(4, 3),))
    z = target.sample_prior(3)
    torch.testing.assert_close(target.conditioned.value(z), target.conditioned.value(z))
    assert not torch.equal(target.log_likelihood(z), target.log_likelihood(z))
    target.log_joint(z).sum().backward()
    assert net.layer[0].weight.grad is not None
    before = net.layer[0].weight.grad.clone()
    target.value_and_grad(z)
    assert torch.equal(net.layer[0].weight.grad, before)
    with pytest.raises(ValueError, match=re.escape(MOVING)):
        target_from_program(lambda x: net(x), (torch.randn(4, 3),))


def test_validation_is_off_while_chains_run_and_as_it_was_afterwards() -> None:
    seen = []

    def program(x: Tensor) -> None:
        survey(x)
        seen.append(is_validation_enabled())

    target = target_from_program(program, (torch.randn(2, 3),))
    assert seen[0] is True
    seen.clear()
    for outside in (True, False):
        with pyro.validation_enabled(outside):
            target.log_likelihood(torch.zeros(1, 2, 7))
            assert is_validation_enabled() is outside
    assert seen == [False, False]


def test_a_run_with_other_sites_is_refused() -> None:
    name = "a"

    def program() -> None:
        with pyro.plate("rows", 3):
            z = pyro.sample(name, dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))

    target = target_from_program(program)
    name = "b"
    with pytest.raises(
        ValueError, match=r"latent sites were \['a'\] when its target was made and are \['b'\] now"
    ):
        target.log_likelihood(torch.zeros(1, 3, 1))


def one_site(fn: Callable[[], dist.Distribution], obs: bool = True, **plate: object) -> Callable[[], None]:
    def program() -> None:
        with pyro.plate("rows", 3, **plate):
            z = pyro.sample("z", fn())
            pyro.sample("x", dist.Normal(z * 1.0, 1.0), obs=torch.zeros(3) if obs else None)

    return program


def outside() -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.zeros(3))


def in_a_loop() -> None:
    for i in pyro.plate("rows", 3):
        z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=torch.tensor(0.0))


def without_plate() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.0))


def mixes_rows() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.mean(-1, keepdim=True), 1.0), obs=torch.zeros(3))


def mixes_draws() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z - z.reshape(-1, 3).mean(0), 1.0), obs=torch.zeros(3))


def sees_the_first_draw() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z - z.reshape(-1, 3)[0], 1.0), obs=torch.zeros(3))


def first_row_sees_the_last() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample(
            "x", dist.Normal(z + z[..., -1:] * torch.tensor([1.0, 0.0, 0.0]), 1.0), obs=torch.zeros(3)
        )


def counts_from_the_left() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.view(3, 2).sum(1), 1.0), obs=torch.zeros(3))


def normal() -> dist.Distribution:
    return dist.Normal(0.0, 1.0)


def on_a_sphere() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.ProjectedNormal(torch.ones(3)))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.zeros(3))


def in_two_plates() -> None:
    with pyro.plate("rows", 3, dim=-1), pyro.plate("wards", 2, dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(2, 3))


MOVING = (
    "the program's log joint is not a fixed function of each row's z: a draw's value changes with the other "
    "draws, with the other rows, or by chance. Index batch axes from the right, and hand over a program with "
    "dropout as an nn.Module, so that it can be put in eval mode."
)
REFUSED = [
    (
        in_two_plates,
        "several plates may hold the rows; known plates: ['rows', 'wards']. Put the rows that are inferred "
        "independently into a pyro.plate, and name it by plate=...",
    ),
    (
        without_plate,
        "the program has no plate; known plates: []. Put the rows that are inferred independently into a "
        "pyro.plate, and name it by plate=...",
    ),
    (
        one_site(normal, subsample_size=2, obs=False),
        "plate 'rows' is subsampled, 2 of 3; give the program the rows of the minibatch and a plate of their "
        "number.",
    ),
    (
        in_a_loop,
        "plate 'rows' is a Python loop; use it as a context (with pyro.plate(...):) instead, so that all "
        "rows are evaluated at once.",
    ),
    (
        outside,
        "site 'loc' lies outside of the plate 'rows'; its density cannot be given to one row. Move it into "
        "the plate, or make a global latent a parameter.",
    ),
    (
        one_site(normal, obs=False),
        "the program has no observed site; a target needs at least one latent and one observed site "
        "(obs=...).",
    ),
    (
        one_site(lambda: dist.Bernoulli(0.5)),
        "latent site 'z' is discrete (Bernoulli), which Langevin dynamics cannot move; sum it out by hand, "
        "with a mixture distribution for instance.",
    ),
    (
        on_a_sphere,
        "latent site 'z' has support Sphere, for which Pyro knows no bijection from the real line; "
        "reparametrise it.",
    ),
    (mixes_rows, MOVING),
    (mixes_draws, MOVING),
    (sees_the_first_draw, MOVING),
    (first_row_sees_the_last, MOVING),
    (counts_from_the_left, "the program fails with an axis of draws to the left of its plates ("),
]


@pytest.mark.parametrize(("program", "sentence"), REFUSED)
def test_what_would_be_wrong_is_refused(program: Callable[..., None], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        target_from_program(program)


def test_an_unknown_plate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"there is no plate 'sentences'; known plates: \['rows'\]\."):
        target_from_program(one_site(normal), plate="sentences")
