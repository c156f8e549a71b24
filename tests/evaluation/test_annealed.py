"""Annealed importance sampling: transitions that leave their law alone, and weights that average to p(x).

Gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math
import re
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from sri_pyro.evaluation import AnnealedImportance, annealed, estimate_evidence
from sri_pyro.evaluation.annealed import metropolis_leapfrog
from sri_pyro.target import JointGradient, Target
from tests.evaluation.helpers import Forbidden
from tests.oracles import EnumerableText, LinearGaussian, gate, quadrature, skewed, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")
KINDS = ["langevin", "hmc"]


class Tempered:
    """Exact draws from p(z) p(x | z)^power on four correlated dimensions, and how far a sample is from it."""

    def __init__(self, power: float, draws: int = 20_000) -> None:
        self.power, self.draws = power, draws
        self.oracle = LinearGaussian.build("power1", dim=4, information=3.0)
        self.x = torch.tensor([[2.0, -1.0, 0.5, 0.0], [-3.0, 1.0, 2.0, 1.0]])
        self.target = self.oracle.target(self.x)
        self.precision = 1 + power * self.oracle.snr
        self.mean = power * self.oracle.snr.sqrt() * self.x / self.precision

    def sample(self) -> Tensor:
        modes = self.mean + torch.randn(self.draws, 2, 4) / self.precision.sqrt()
        return modes @ self.oracle.rotation.T

    def worst(self, z: Tensor) -> float:
        """Largest deviation of means, second moments (in standard errors) and Kolmogorov's distance (scaled so
        that the same gate applies: sqrt(n) D exceeds g / 2 with probability 2 exp(-g^2 / 2)).
        """
        whitened = ((self.oracle.modes(z) - self.mean) * self.precision.sqrt()).flatten(1)
        n = len(whitened)
        mean = whitened.mean(0).abs().max() * math.sqrt(n)
        second = (whitened.T @ whitened / n).reshape(2, 4, 2, 4)
        own = torch.stack([second[b, :, b] for b in range(2)]) - torch.eye(4)
        spread = (own.abs() * math.sqrt(n) / (1 + torch.eye(4)).sqrt()).max()
        ordered = torch.special.ndtr(whitened.sort(0).values)
        steps = torch.arange(n + 1)[:, None] / n
        distance = torch.maximum((ordered - steps[:-1]).abs(), (ordered - steps[1:]).abs()).max() * math.sqrt(
            n
        )
        return max(mean.item(), spread.item(), 2 * distance.item())


def transition(target: Target, z: Tensor, step_size: Tensor, power: float, leapfrog: int) -> tuple:
    """One transition from where the gradient is not known yet."""
    return metropolis_leapfrog(target, z, target.value_and_grad(z), step_size, power, leapfrog)


def leapfrog_without_accepting(target: Target, z: Tensor, h: float, power: float, steps: int) -> Tensor:
    """The planted bug, from the equations: half kick, drift, half kick, and whatever comes out is taken."""
    velocity = torch.randn_like(z)
    _, grad = target.value_and_grad(z).tempered(power)
    for _ in range(steps):
        velocity = velocity + 0.5 * h * grad
        z = z + h * velocity
        _, grad = target.value_and_grad(z).tempered(power)
        velocity = velocity + 0.5 * h * grad
    return z


@pytest.mark.parametrize("power", [0.3, 1.0])
@pytest.mark.parametrize("leapfrog", [1, 3])
def test_transition_leaves_the_tempered_posterior_invariant(power: float, leapfrog: int) -> None:
    """Exact draws in, exact draws out, after one transition and after five: moments and a Kolmogorov distance.

    The step is large on purpose. Planted: no accept step, the wrong power, and a step a tenth as long
    (which must pass, for the law does not depend on it).
    """
    law = Tempered(power)
    h = 1.3 / law.precision.max().sqrt().item()
    z = law.sample()
    assert law.worst(z) < gate(60)
    for k in range(5):
        z, there, acceptance = transition(law.target, z, torch.full((2,), h), power, leapfrog)
        if k in (0, 4):
            assert law.worst(z) < gate(60)
    exact = law.oracle.log_likelihood(law.x, z)
    torch.testing.assert_close(there.log_likelihood, exact, rtol=0, atol=1e-9)
    for found, expected in zip(there, law.target.value_and_grad(z), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert 0.3 < acceptance.mean() < 0.97
    assert acceptance.min() >= 0
    assert acceptance.max() <= 1
    wrong = law.sample()
    for _ in range(5):
        wrong = leapfrog_without_accepting(law.target, wrong, h, power, leapfrog)
    assert law.worst(wrong) > 9
    other = law.sample()
    for _ in range(5):
        other, *_ = transition(law.target, other, torch.full((2,), h), 0.6, leapfrog)
    assert law.worst(other) > 9


def test_transition_is_invariant_on_a_skewed_posterior() -> None:
    """The same on a target that is no Gaussian: exact draws by inverting the quadrature's distribution."""
    target, n = skewed(), 20_000
    exact = quadrature(target, reach=8.0, points=4001)
    cumulative = exact.weights.cumsum(0)
    u = torch.rand(3, n)
    spacing = (exact.grid[1] - exact.grid[0]).item()
    index = torch.stack([torch.searchsorted(cumulative[:, b].contiguous(), u[b]) for b in range(3)], 1)
    z = (exact.grid[index.clamp(max=4000), 0] + (torch.rand(n, 3) - 0.5) * spacing)[..., None]
    for _ in range(4):
        z, *_ = transition(target, z, torch.tensor([1.6, 0.9, 1.2]), 1.0, 2)
    for b in range(3):
        at = ((z[:, b, 0] + 8.0) / spacing + 0.5).clamp(0, 4000)
        low = at.floor().long()
        padded = torch.cat([torch.zeros(1), cumulative[:, b], torch.ones(1)])
        value = padded[low] + (at - low) * (padded[low + 1] - padded[low])
        assert stats.kstest(value.numpy(), "uniform").pvalue > 1e-9


def test_rejected_chains_stay_and_acceptance_is_their_share() -> None:
    law = Tempered(1.0)
    z = law.sample()
    h = torch.tensor([0.9, 0.4])  # a step of its own for each sentence
    new, _, acceptance = transition(law.target, z, h, 1.0, 1)
    moved = (new != z).any(-1)
    assert torch.equal(moved, (new != z).all(-1))
    for b in range(2):
        error = moved[:, b].double().mean() - acceptance[:, b].mean()
        assert abs(error) < gate(2) * 0.5 / math.sqrt(len(z))
    assert moved[:, 1].double().mean() > moved[:, 0].double().mean() + 0.1


def test_proposals_of_no_finite_energy_are_rejected() -> None:
    """Beyond a wall the likelihood is NaN: no chain may be found there, and none may freeze as NaN."""
    target = standard_normal_target(
        lambda z: torch.where(z.abs().sum(-1) < 2.5, 0.0, math.nan) + 0.0 * z.sum(-1), 2, 1
    )
    z = torch.zeros(500, 2, 1)
    for _ in range(20):
        z, there, acceptance = transition(target, z, torch.full((2,), 1.0), 1.0, 1)
        assert z.isfinite().all()
        assert (z.abs() < 2.5).all()
        assert (there.log_likelihood == 0).all()
        assert acceptance.isfinite().all()
    assert z.std() > 0.7


# --- Weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_average_weight_is_the_evidence_on_the_linear_gaussian(kind: str) -> None:
    """E w = p(x): two dimensions, 20 temperatures, 4000 chains a sentence; weights have relative variance < 1.

    Planted: a likelihood weighed after the move instead of before it is an importance weight no more.
    """
    oracle = LinearGaussian.build("power1", dim=2, information=1.5)
    x = torch.tensor([[1.0, -1.0], [2.5, 1.0], [0.0, 0.3]])
    estimator = AnnealedImportance(num_samples=4000, temperatures=20, transition=kind)
    ((_, draws),) = estimator(oracle.target(x), Forbidden())
    assert draws.log_weight.shape == (4000, 3)
    ratio = (draws.log_weight - oracle.log_evidence(x)).exp()
    for b in range(3):
        assert ratio[:, b].std() < 1
        assert abs(ratio[:, b].mean() - 1) < gate(3) * ratio[:, b].std() / math.sqrt(4000)
    # the weighted end points are the posterior's
    weight = ratio / ratio.sum(0)
    mean, covariance = oracle.posterior(x)
    error = (weight[..., None] * draws.z).sum(0) - mean
    spread = covariance.diagonal().sqrt() * (weight.square().sum(0).sqrt())[:, None]
    assert (error.abs() < gate(6) * 1.5 * spread).all()
    torch.testing.assert_close(draws.log_likelihood, oracle.log_likelihood(x, draws.z), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", ["lstm", "gru"])
def test_average_weight_is_the_evidence_on_enumerable_text(kind: str, decoder: str) -> None:
    """Oracle: quadrature, every row; and p_hat of all rows adds up to one."""
    oracle = EnumerableText.build(decoder, latent_dim=1)
    target, exact = oracle.target(), quadrature(oracle.target(), points=161)
    estimator = AnnealedImportance(num_samples=150, temperatures=8, transition=kind)
    evidence, draws = estimate_evidence(target, Forbidden(), estimator)
    ratio = (draws.log_weight - exact.log_evidence).exp()
    error = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(150))
    assert error.abs().max() < 9  # 40 rows, 150 draws each: tails of a t are not a normal's
    assert (
        abs(error.mean()) < gate(1) * error.std() / math.sqrt(40) + 0.2
    )  # mean and deviation are correlated
    p = evidence.log_px.exp()
    assert abs(p.sum() - 1) < gate(1) * (p * evidence.se).square().sum().sqrt()
    assert (evidence.kl_posterior_prior - exact.divergence).abs().mean() < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_more_temperatures_close_the_gap(kind: str) -> None:
    """E log p_hat <= log p(x) and rises towards it: 5, 20 and 80 temperatures in eight dimensions."""
    oracle = LinearGaussian.build("power1", dim=8, information=5.0)
    _, x = oracle.sample(24)
    gaps = []
    for temperatures in (5, 20, 80):
        estimator = AnnealedImportance(num_samples=8, temperatures=temperatures, transition=kind)
        evidence, _ = estimate_evidence(oracle.target(x), Forbidden(), estimator)
        error = evidence.log_px - oracle.log_evidence(x)
        assert error.mean() < gate(3) * error.std() / math.sqrt(24)
        gaps.append(-error.mean().item())
    assert gaps[0] > gaps[1] + 0.2
    assert gaps[2] < gaps[0] / 2
    assert gaps[2] < 0.4


def test_one_temperature_is_prior_importance() -> None:
    """T = 1: the whole likelihood is weighed at the prior draw, before anything moves."""
    oracle = LinearGaussian.build("flat", dim=2, information=1.0)
    x = torch.tensor([[1.0, -1.0]])
    target, starts = oracle.target(x), []

    def sample_prior(num: int) -> Tensor:
        starts.append(target.sample_prior(num))
        return starts[-1]

    estimator = AnnealedImportance(num_samples=50, temperatures=1)
    ((_, draws),) = estimator(replace(target, sample_prior=sample_prior), Forbidden())
    exact = oracle.log_likelihood(x, starts[-1])
    torch.testing.assert_close(draws.log_weight, exact, rtol=0, atol=1e-9)
    assert not torch.equal(draws.log_weight, draws.log_likelihood)  # the returned z has moved


def test_two_temperatures_weigh_as_written() -> None:
    """Power = 1, T = 2: log w = (log p(x | z_0) + log p(x | z_1)) / 2, with z_0 from the prior; the bracket is
    halved by beta, not by anything else. Seen through a likelihood that does not move chains: a constant slope
    of zero, sentence by sentence.
    """
    levels = torch.tensor([-3.0, 2.0])
    target = standard_normal_target(lambda z: levels + 0.0 * z.sum(-1), 2, 1)
    for power in (1.0, 2.0):
        estimator = AnnealedImportance(num_samples=10, temperatures=7, power=power)
        ((_, draws),) = estimator(target, Forbidden())
        torch.testing.assert_close(draws.log_weight, levels.expand(10, 2), rtol=0, atol=1e-9)


def test_the_run_that_counts_does_not_adapt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps chosen by the chains that are weighed would bias them by too little to see in any average, so the
    steps themselves are looked at: a wild first guess is mended by the pilot, and then two runs of different
    chains take the same step at the same power, to the last bit.
    """
    calls: list[tuple[int, float, list[float]]] = []

    def recorded(
        target: Target, z: Tensor, here: JointGradient, step_size: Tensor, power: float, leapfrog: int
    ) -> tuple:
        calls.append((len(z), power, step_size.tolist()))
        return metropolis_leapfrog(target, z, here, step_size, power, leapfrog)

    monkeypatch.setattr(annealed, "metropolis_leapfrog", recorded)
    oracle = LinearGaussian.build("power1", dim=3, information=3.0)
    target = oracle.target(torch.tensor([[1.0, 2.0, 0.0], [-3.0, 1.0, 1.0]]))
    estimator = AnnealedImportance(num_samples=1500, temperatures=6, transition="langevin", step_size=3.0)
    estimator(target, Forbidden())
    runs = [calls[k : k + 6] for k in range(0, len(calls), 6)]
    counted = [run for run in runs if run[0][0] > 100]
    assert sum(run[0][0] for run in counted) == 1500
    assert len(counted) > 1  # more than memory allows at once: otherwise nothing is compared
    for run in counted[1:]:
        assert [call[1:] for call in run] == [call[1:] for call in counted[0]]
    assert counted[0][-1][2] != [3.0, 3.0]
    betas = [call[1] for call in counted[0]]
    assert betas == pytest.approx([(k / 6) ** 2 for k in range(1, 7)])


def test_no_weight_gradient_is_touched() -> None:
    oracle = EnumerableText.build("lstm", latent_dim=1)
    model = oracle.model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    AnnealedImportance(num_samples=2, temperatures=2)(model.target(oracle.rows), Forbidden())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    "option",
    [
        {"num_samples": 0},
        {"temperatures": 0},
        {"transition": "gibbs"},
        {"leapfrog": 0},
        {"step_size": 0.0},
        {"power": 0.0},
    ],
    ids=str,
)
def test_an_option_out_of_range_is_named(option: dict) -> None:
    with pytest.raises(ValueError, match=re.escape(next(iter(option)))):
        AnnealedImportance(**option)
