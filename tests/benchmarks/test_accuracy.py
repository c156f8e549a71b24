"""Accuracy per second: the laws, the search, the interpolation and the contestants. No test looks at a clock."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.accuracy import gaussian, mcmc, plain
from benchmarks.accuracy.clock import priced, steps_timed, transitions_timed
from benchmarks.accuracy.curves import Curve, Price, compared, reached
from benchmarks.accuracy.laws import divergence, law_of_run
from benchmarks.accuracy.search import RECIPES, searched
from benchmarks.accuracy.store import QUICK, Effort, Store
from benchmarks.accuracy.text import (
    by_energy,
    by_moments,
    extrapolated,
    halved_moments,
    reference,
    summarised,
)
from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.numerics.gaussians import log_det
from sri_pyro.numerics.langevin import INTEGRATORS, run_langevin
from sri_pyro.types import EOS, PAD, Batch
from tests.oracles import LinearGaussian, divergence_to_posterior, exact_law, gate

FALLING = [0.3 * 0.85**k for k in range(9)]


# --- laws --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_sizes", [[0.1], [0.1, 0.05], FALLING, [0.08] * 20])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_impulses_give_the_law_of_the_moment_recursion(name: str, step_sizes: list[float]) -> None:
    """Oracle: the two-moment recursion of the test-suite, written from the equations; impulses run the library's."""
    precision = LinearGaussian.build("power1").precision
    found = law_of_run(INTEGRATORS[name](), step_sizes, precision)
    exact = exact_law(name, precision, step_sizes)
    torch.testing.assert_close(found.response, exact.response, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.variance, exact.variance, rtol=0, atol=1e-12)
    assert divergence(found, precision) == pytest.approx(divergence_to_posterior(exact, precision), abs=1e-10)


def test_the_published_divergence_of_the_paper_run() -> None:
    """Golden: at K = 20 the best constant step is 0.0726, and 0.178 nats are left."""
    precision = gaussian.oracle().precision

    def quality(numbers: Sequence[float]) -> float:
        return -gaussian.run_divergence("ula, constant", tuple(numbers), 20, precision)

    [step], best = searched(quality, RECIPES["ula, constant"].start, finest=0.005)
    assert step == pytest.approx(0.07262, rel=0.01)
    assert -best == pytest.approx(0.17802, abs=1e-4)


def test_an_unstable_run_is_infinitely_far() -> None:
    precision = gaussian.oracle().precision
    assert gaussian.run_divergence("ula, constant", (50.0,), 200, precision) == math.inf


def test_state_divergence_is_that_of_simulated_runs() -> None:
    """Oracle: the exact law. 4,000 states with a data set each; 32 variances cost 0.01 nats at most."""
    of, steps = gaussian.oracle(), [0.0726] * 20
    _, x = of.sample(4000)
    z = run_langevin(
        of.target(x).log_joint_and_grad, torch.randn(1, *x.shape, dtype=x.dtype), steps, INTEGRATORS["ula"]()
    )
    found = gaussian.state_divergence(z[0], x)
    assert found == pytest.approx(0.178, abs=0.05)
    assert gaussian.state_divergence(torch.randn_like(x), x) > 10  # the prior


def test_the_program_of_the_oracle_has_its_posterior() -> None:
    of = gaussian.oracle()
    _, x = of.sample(3)
    z = torch.randn_like(x)
    log_joint, grad = plain.gradient(gaussian.program(of), x, z)
    expected = of.target(x).value_and_grad(z[None])
    assert log_joint.item() == pytest.approx(
        (expected.log_prior + expected.log_likelihood).sum().item(), abs=1e-9
    )
    torch.testing.assert_close(grad, expected.grad[0], rtol=0, atol=1e-10)


# --- the plain Pyro contestant -----------------------------------------------------------------------------


def small_text() -> tuple[LatentTextModel, Batch]:
    decoder = LSTMDecoder(vocab_size=30, latent_dim=5, embedding=6, hidden=8)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.normal_(0, 0.5)
    tokens = torch.tensor([[7, 9, 1, 8, EOS], [12, EOS, PAD, PAD, PAD], [5, 29, EOS, PAD, PAD]])
    return LatentTextModel(StandardNormal(5), decoder).double().eval(), Batch(tokens)


@pytest.mark.usefixtures("float64")
def test_plain_pyro_has_the_log_joint_and_gradient_of_the_library() -> None:
    """Two programs written apart, one in Pyro's own parts: 1e-12 apart, padding and impossible words included."""
    model, batch = small_text()
    z = torch.randn(3, 5)
    log_joint, grad = plain.gradient(plain.text_program(model.decoder), batch.tokens, z)
    ours = model.target(batch).value_and_grad(z[None])
    assert log_joint.item() == pytest.approx((ours.log_prior + ours.log_likelihood).sum().item(), abs=1e-10)
    torch.testing.assert_close(grad, ours.grad[0], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_plain_pyro_makes_the_run_of_the_library() -> None:
    """The same noises give the same end; so that one estimate of the divergence serves both."""
    model, batch = small_text()
    steps, start, noises = [0.1, 0.05, 0.02], torch.randn(3, 5), torch.randn(4, 3, 5)
    at = iter(noises[1:])
    end = plain.langevin(plain.text_program(model.decoder), batch.tokens, start, steps, lambda z: next(at))
    ours = run_langevin(
        model.target(batch).log_joint_and_grad, start[None], steps, INTEGRATORS["ula"](),
        noise=lambda k, like: noises[k][None],
    )  # fmt: skip
    torch.testing.assert_close(end, ours[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", mcmc.KERNELS)
def test_mcmc_counts_its_gradients_and_shows_its_warmup(kernel: str) -> None:
    calls = 0
    linear = gaussian.program(gaussian.oracle())

    def counted(x: Tensor) -> None:
        nonlocal calls
        calls += 1
        linear(x)

    _, x = gaussian.oracle().sample(4)
    path = mcmc.run(kernel, counted, x, torch.randn_like(x), warmup=3, draws=2)
    assert path.states.shape == (5, 4, 32)
    assert path.gradients[-1] == calls
    assert (path.gradients.diff() >= 1).all()
    assert (path.seconds.diff() >= 0).all()


# --- divergences of text -----------------------------------------------------------------------------------


class GaussianSentences:
    """A linear-Gaussian oracle of few dimensions in the place of a text model's target."""

    def __init__(self) -> None:
        self.oracle = LinearGaussian.build("power1", dim=4, information=2.0)
        _, self.x = self.oracle.sample(3)
        self.target = self.oracle.target(self.x)


def test_reference_is_log_evidence_on_a_gaussian() -> None:
    """There the Gaussian entropy is the posterior's own: ``free`` and ``log_px`` are log p(x), ``excess`` is 0."""
    few = GaussianSentences()
    known = reference(few.target, 4000)
    exact = few.oracle.log_evidence(few.x)
    assert known["log_px"] == pytest.approx(exact.tolist(), abs=0.05)
    assert known["free"] == pytest.approx(exact.tolist(), abs=0.1)
    assert known["excess"] == pytest.approx([0.0] * 3, abs=0.1)


def test_log_volume_of_few_draws_is_freed_of_its_leading_bias() -> None:
    """1,000 sentences of 60 weighted draws; the plain log-determinant is short by a fifth, and more with weights."""
    z = torch.randn(60, 1000, 4, dtype=torch.float64)
    volumes = log_det(halved_moments(z, 0.5 * torch.randn(60, 1000, dtype=torch.float64)).covariance)
    found = extrapolated(volumes)
    error = (found.std() / math.sqrt(1000)).item()
    assert volumes[0].mean().item() < -0.15
    assert abs(found.mean().item()) < 0.02 + gate(1) * error


@pytest.mark.parametrize("estimate", [by_energy, by_moments])
def test_divergence_of_a_short_run_is_the_exact_one(estimate: Callable[..., list[float]]) -> None:
    """Oracle: the law of the paper's run on a Gaussian, where both estimates are exact but for their draws.

    Of 20,000 chains and as many importance draws: 0.01 nats. A forgotten debiasing or part of the formula shows.
    """
    few, steps = GaussianSentences(), [0.1] * 3
    z = run_langevin(
        few.target.log_joint_and_grad, few.target.sample_prior(20_000), steps, INTEGRATORS["ula"]()
    )
    found = estimate(summarised(few.target, z), reference(few.target, 20_000))
    law, precision = exact_law("ula", few.oracle.precision, steps), few.oracle.precision
    mean = few.oracle.mode_means(few.x)
    ratio = precision * law.variance
    exact = 0.5 * (ratio - 1 - ratio.log() + precision * (law.response * mean).square()).sum(-1)
    assert found == pytest.approx(exact.tolist(), abs=0.06)
    assert min(exact.tolist()) > 0.1


@pytest.mark.parametrize("estimate", [by_energy, by_moments])
def test_few_draws_of_the_posterior_are_not_taken_for_another_law(
    estimate: Callable[..., list[float]],
) -> None:
    """40 exact draws of each of 200 posteriors, 400 importance draws: without debiasing 0.05 nats off or more."""
    oracle = LinearGaussian.build("power1", dim=4, information=2.0)
    _, x = oracle.sample(200)
    mean, covariance = oracle.posterior(x)
    z = torch.distributions.MultivariateNormal(mean, covariance).sample((40,))
    found = estimate(summarised(oracle.target(x), z), reference(oracle.target(x), 400))
    error = np.std(found) / math.sqrt(200)
    assert abs(np.mean(found)) < 0.01 + gate(1) * error


# --- curves ------------------------------------------------------------------------------------------------


def test_levels_are_reached_by_geometric_interpolation() -> None:
    """By hand: from 8 to 2 over one gradient, 4 lies halfway in the logarithm; 1 halfway from 2 to 0.5."""
    assert reached([1, 2, 4], [8.0, 2.0, 0.5], 4.0) == pytest.approx(1.5)
    assert reached([1, 2, 4], [8.0, 2.0, 0.5], 1.0) == pytest.approx(3.0)
    assert reached([1, 2, 4], [8.0, 2.0, 0.5], 2.0) == pytest.approx(2.0)


def test_levels_that_are_reached_at_once_or_never() -> None:
    assert reached([3, 5], [0.1, 0.01], 0.5) == 3
    assert reached([3, 5], [0.1, 0.01], 0.001) == math.inf


def test_a_noisy_divergence_below_zero_is_interpolated_linearly() -> None:
    assert reached([2, 4], [0.3, -0.1], 0.1) == pytest.approx(3.0)


def test_the_first_point_below_counts_though_a_later_one_be_above() -> None:
    """Noise above the level later on is the competitor's bad luck, not ours to use."""
    assert reached([1, 2, 3], [4.0, 1.0, 3.0], 1.0) == pytest.approx(2.0)


def price(fixed: float, each: float, rounds: int = 5) -> Price:
    return Price(np.full(rounds, fixed), np.full(rounds, each))


def halving(name: str, cost: str, rate: float, units: int) -> Curve:
    """Divergence falls by ``rate`` a gradient, from a start of each unit's own."""
    gradients = np.arange(1, 31, dtype=float)
    starts = np.linspace(1.0, 2.0, units)
    divergence = starts * np.exp(-rate * gradients)[:, None]
    return Curve(name, cost, gradients, divergence, tuple(str(unit) for unit in range(units)))


def test_comparison_is_gradients_times_price() -> None:
    """By hand: twice the rate and a third of the price is six times less, for every choice of sentences."""
    baseline, ours = halving("baseline", "dear", 0.1, 7), halving("ours", "cheap", 0.2, 7)
    found = compared(ours, baseline, 20, {"dear": price(0.0, 3.0), "cheap": price(0.0, 1.0)}, replicates=50)
    assert found.gradients == pytest.approx(10.0)
    assert found.seconds == pytest.approx(10.0)
    assert found.ratio == pytest.approx(6.0)
    assert found.interval == pytest.approx((6.0, 6.0))


def test_comparison_counts_what_a_run_costs_besides_gradients() -> None:
    baseline, ours = halving("baseline", "dear", 0.1, 3), halving("ours", "cheap", 0.2, 3)
    found = compared(ours, baseline, 20, {"dear": price(0.0, 3.0), "cheap": price(5.0, 1.0)}, replicates=5)
    assert found.ratio == pytest.approx(4.0)


def test_comparison_takes_the_level_of_the_contestants_own_sentences() -> None:
    """The baseline ends elsewhere on other sentences; a level of all of them would be another."""
    baseline, all_of_ours = halving("baseline", "dear", 0.1, 7), halving("ours", "cheap", 0.1, 7)
    few = Curve("few", "cheap", all_of_ours.gradients, all_of_ours.divergence[:, 5:], all_of_ours.units[5:])
    prices = {"dear": price(0.0, 1.0), "cheap": price(0.0, 1.0)}
    assert compared(few, baseline, 20, prices, replicates=5).gradients == pytest.approx(20.0)


def test_intervals_follow_the_rounds_of_timing() -> None:
    random = np.random.default_rng(0)
    noisy = Price(np.zeros(15), np.exp(0.1 * random.standard_normal(15)))
    baseline, ours = halving("baseline", "dear", 0.1, 4), halving("ours", "cheap", 0.1, 4)
    low, high = compared(ours, baseline, 20, {"dear": price(0, 1.0, 15), "cheap": noisy}).interval
    assert 0.8 < low < high < 1.25
    assert high - low > 0.03


def test_search_finds_the_top_of_a_hill() -> None:
    best, top = searched(
        lambda x: -(math.log(x[0] / 0.3) ** 2) - math.log(x[1] / 7 * x[0]) ** 2, [1.0, 1.0], finest=0.01
    )
    assert best[0] == pytest.approx(0.3, rel=0.03)
    assert best[0] * best[1] == pytest.approx(7, rel=0.03)
    assert -1e-3 < top <= 0


def test_search_stays_where_runs_do_not_diverge() -> None:
    best, _ = searched(lambda x: x[0] if x[0] < 2 else -math.inf, [1.0], finest=0.01)
    assert 1.9 < best[0] < 2


# --- clock and store ---------------------------------------------------------------------------------------


class Clock:
    """A clock that a run itself moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, num_steps: int) -> None:
        self.now += 0.5 + 0.25 * num_steps


def test_prices_part_gradients_from_what_a_run_costs_besides() -> None:
    """By hand: half a second and a quarter for each step, on ten rows."""
    clock = Clock()
    found = priced({"one": [steps_timed(clock.run, 10, clock), steps_timed(clock.run, 5, clock)]}, rounds=3)[
        "one"
    ]
    assert found.each.tolist() == pytest.approx([0.25 * (1 / 10 + 1 / 5) / 2] * 3)
    assert found.fixed.tolist() == pytest.approx([0.5 * (1 / 10 + 1 / 5) / 2] * 3)
    assert found.seconds(4.0) == pytest.approx(0.15 * (0.5 + 4 * 0.25))


def test_transitions_are_priced_by_what_they_count() -> None:
    path = mcmc.Path(torch.zeros(3, 2, 1), torch.tensor([4, 10, 24]), torch.tensor([2.0, 2.6, 4.0]))
    fixed, each = transitions_timed(lambda: path, 2)()
    assert each == pytest.approx(0.1 / 2)
    assert fixed == pytest.approx((2.0 - 0.4) / 2)


def test_what_is_stored_is_not_measured_again(tmp_path) -> None:
    store, made = Store(tmp_path / "work", QUICK), []

    def make() -> list[float]:
        made.append(1)
        return torch.rand(2).tolist()

    first = store.once("a/b", make)
    assert Store(tmp_path / "work", QUICK).once("a/b", make) == first
    assert made == [1]
    assert Store(tmp_path / "other", QUICK).once("a/b", make) == first  # seeded by its name alone


def test_a_store_of_another_effort_is_refused(tmp_path) -> None:
    Store(tmp_path, QUICK)
    with pytest.raises(
        ValueError, match="holds measurements of another effort; name another folder with --work"
    ):
        Store(tmp_path, Effort())
