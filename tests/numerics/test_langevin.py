"""Langevin transitions against the exact law of their own K-th iterate, and against loops written by hand.

A short run is not the posterior: nothing here asks whether a chain "is close to" its target. Every
statistical gate allows one false alarm in 1e8 runs of its test (``oracles.gate``).
"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sri_pyro.numerics.langevin import (
    INTEGRATORS,
    Baoab,
    Integrator,
    StepSizes,
    UnadjustedLangevin,
    neighbours,
    run_langevin,
)
from sri_pyro.target import Target
from tests.oracles import (
    LinearGaussian,
    RunLaw,
    divergence_to_posterior,
    exact_law,
    gate,
    sentence,
    skewed,
    ula_law_on_grid,
)

pytestmark = pytest.mark.usefixtures("float64")
ALL = ["ula", "lm", "baoab"]


def gradient_of(target: Target) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def value_and_grad(z: Tensor) -> tuple[Tensor, Tensor]:
        found = target.value_and_grad(z)
        return found.log_prior + found.log_likelihood, found.grad

    return value_and_grad


class GaussianRuns:
    """Many chains on six correlated dimensions, and how far they are from a law, in standard errors."""

    def __init__(self, num_samples: int = 30_000) -> None:
        self.oracle = LinearGaussian.build("power1", dim=6, information=3.0)
        _, self.x = self.oracle.sample(2)
        self.target = self.oracle.target(self.x)
        self.start = self.target.sample_prior(num_samples)
        self.checks = 2 * (6 + 21)  # a mean per mode and a covariance per pair, for each of two data sets

    def run(self, integrator: Integrator, step_sizes: Sequence[float], **options) -> Tensor:
        drift = options.pop("drift", gradient_of(self.target))
        return run_langevin(drift, self.start, step_sizes, integrator, **options)

    def law(self, name: str, step_sizes: Sequence[float], **options) -> RunLaw:
        return exact_law(name, self.oracle.precision, step_sizes, **options)

    def worst(self, z: Tensor, law: RunLaw) -> float:
        """Largest deviation of any mean or covariance; the modes are independent under the law."""
        mean = law.mean(self.oracle.mode_means(self.x))
        whitened = (self.oracle.modes(z) - mean) / law.variance.sqrt()
        n = len(z)
        off_mean = whitened.mean(0).abs() * math.sqrt(n)
        second = torch.einsum("sbd,sbe->bde", whitened, whitened) / n
        eye = torch.eye(6)
        off_second = (second - eye).abs() / ((1 + eye) / n).sqrt()
        return max(off_mean.max().item(), off_second.max().item())


STEPS = {
    "constant": lambda k: [0.12] * k,
    "falling": lambda k: [0.3 * 0.85**i for i in range(k)],
    "uneven": lambda k: [0.05 + 0.2 * (i % 3 == 1) for i in range(k)],
}


@pytest.mark.parametrize("noise_scale", [1.0, 0.3])
@pytest.mark.parametrize("schedule", STEPS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 25])
@pytest.mark.parametrize("name", ALL)
def test_chain_has_the_exact_law_of_its_last_state(
    name: str, num_steps: int, schedule: str, noise_scale: float
) -> None:
    """On a Gaussian target every step is affine: the law of z_K from N(0, I) is a two-moment recursion."""
    runs, step_sizes = GaussianRuns(), STEPS[schedule](num_steps)
    z = runs.run(INTEGRATORS[name](), step_sizes, noise_scale=noise_scale)
    assert runs.worst(z, runs.law(name, step_sizes, noise_scale=noise_scale)) < gate(runs.checks)


@pytest.mark.parametrize("friction", [0.5, 6.0])
def test_friction_enters_as_written(friction: float) -> None:
    runs, step_sizes = GaussianRuns(), STEPS["falling"](6)
    z = runs.run(Baoab(friction), step_sizes)
    assert runs.worst(z, runs.law("baoab", step_sizes, friction=friction)) < gate(runs.checks)
    assert runs.worst(z, runs.law("baoab", step_sizes, friction=2.0)) > 9


@pytest.mark.parametrize("name", ALL)
def test_stationary_law(name: str) -> None:
    """After 150 steps nothing is left of the start; ``ula`` has variance 1 / (precision (1 - s precision/2))."""
    runs, step_sizes = GaussianRuns(), [0.2] * 150
    precision = runs.oracle.precision
    inflation = 1 / (1 - 0.1 * precision) if name == "ula" else 1.0
    settled = RunLaw(torch.zeros(6), inflation / precision)
    z = runs.run(INTEGRATORS[name](), step_sizes)
    assert runs.worst(z, settled) < gate(runs.checks)
    if name == "ula":  # the posterior itself is what the chain does not have
        assert runs.worst(z, RunLaw(torch.zeros(6), 1 / precision)) > 9


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bug", ["noise without sqrt(2s)", "sqrt(s) for sqrt(2s)", "s for 2s", "no prior"])
def test_the_gate_catches_planted_bugs(name: str, bug: str) -> None:
    """Positive control: each wrong program is more than nine standard errors from the law."""
    runs, s = GaussianRuns(), 0.12
    step_sizes, options = [s] * 7, {}
    if bug == "noise without sqrt(2s)":
        options["noise_scale"] = 1 / math.sqrt(2 * s)
    elif bug == "sqrt(s) for sqrt(2s)":
        options["noise_scale"] = math.sqrt(0.5)
    elif bug == "s for 2s":  # the delta^2 / 2 convention: half the drift with this noise
        value_and_grad = gradient_of(runs.target)
        options["drift"] = lambda z: (value_and_grad(z)[0], 0.5 * value_and_grad(z)[1])
    else:
        options["drift"] = runs.target.conditioned.value_and_grad
    z = runs.run(INTEGRATORS[name](), step_sizes, **options)
    assert runs.worst(z, runs.law(name, step_sizes)) > 9


def simulated_divergence(name: str, step_size: float, num_steps: int = 20) -> tuple[float, float]:
    """KL(q_K || posterior) from the moments of the library's own chains, and from the recursion."""
    oracle = LinearGaussian.build("power1")
    _, x = oracle.sample(4)
    target, steps = oracle.target(x), [step_size] * num_steps
    z = run_langevin(gradient_of(target), target.sample_prior(25_000), steps, INTEGRATORS[name]())
    modes, m = oracle.modes(z), oracle.mode_means(x)
    response = 1 - (modes.mean(0) * m).sum(0) / m.square().sum(0)  # least squares over the data sets
    law = RunLaw(response, modes.var(0).mean(0))
    exact = exact_law(name, oracle.precision, steps)
    return divergence_to_posterior(law, oracle.precision), divergence_to_posterior(exact, oracle.precision)


def test_divergence_of_the_paper_run_is_the_golden_one() -> None:
    """0.178 nats at s = 0.0726. Simulation error: d KL = 1/2 sum (ratio - 1) d(log variance), sd 0.002."""
    simulated, exact = simulated_divergence("ula", 0.0726)
    assert exact == pytest.approx(0.178, abs=1e-3)
    assert simulated == pytest.approx(exact, abs=0.012)


def test_divergence_of_the_better_integrators_is_far_below() -> None:
    """At the same 20 gradients. Estimating 32 variances from 100,000 states costs about 2e-4 nats."""
    simulated, exact = simulated_divergence("lm", 0.135)
    assert exact <= 0.002
    assert simulated == pytest.approx(exact, abs=0.002)
    simulated, exact = simulated_divergence("baoab", 0.1)
    assert exact < 1e-4
    assert simulated < 0.002


@pytest.mark.parametrize("num_steps", [1, 3, 12])
def test_law_on_a_skewed_target(num_steps: int) -> None:
    """Not affine: the exact law of z_K comes from propagating a density over a grid."""
    target, step_sizes = skewed(), [0.25 * 0.9**k for k in range(num_steps)]
    grid = torch.linspace(-12, 12, 1201)[:, None]
    probability = ula_law_on_grid(target, step_sizes, grid)
    assert probability.sum(0).tolist() == pytest.approx([1.0] * 3, abs=1e-8)
    n = 100_000
    z = run_langevin(gradient_of(target), target.sample_prior(n), step_sizes, UnadjustedLangevin())
    worst = 0.0
    for function in (torch.tanh, torch.square, lambda z: (z > 0.5).double(), lambda z: torch.sin(3 * z)):
        expected = (probability * function(grid)).sum(0)
        spread = ((probability * function(grid).square()).sum(0) - expected.square()).sqrt()
        off = (function(z[..., 0]).mean(0) - expected).abs() / spread * math.sqrt(n)
        worst = max(worst, off.max().item())
    assert worst < gate(12)


def quartic(z: Tensor) -> tuple[Tensor, Tensor]:
    return -(z**4).sum(-1) / 4, -(z**3)


@pytest.mark.parametrize("name", ALL)
def test_path_is_the_equations_given_the_noise(name: str) -> None:
    """Replay the very noises of a run through a loop written from the equations; 1e-12 apart at most."""
    step_sizes, tau, drawn = [0.2, 0.05, 0.1, 0.15], 0.7, []

    def noise(index: int, like: Tensor) -> Tensor:
        drawn.append((index, torch.randn_like(like)))
        return drawn[-1][1]

    start = torch.randn(5, 2, 3)
    seen: list[Tensor] = []
    end = run_langevin(
        quartic,
        start,
        step_sizes,
        INTEGRATORS[name](),
        noise_scale=tau,
        noise=noise,
        visit=lambda k, z, value, grad: seen.append(z),
    )
    assert len({index for index, _ in drawn}) == len(drawn)  # or keyed noise would repeat itself
    eps = [value for _, value in drawn]
    z, path = start, [start]
    if name == "ula":
        eps = eps[-4:]
        for s, e in zip(step_sizes, eps, strict=True):
            z = z - s * z**3 + tau * math.sqrt(2 * s) * e
            path.append(z)
    elif name == "lm":
        for k, s in enumerate(step_sizes):
            following = step_sizes[min(k + 1, 3)]
            z = z - s * z**3 + tau * (math.sqrt(s / 2) * eps[k] + math.sqrt(following / 2) * eps[k + 1])
            path.append(z)
    else:
        v = tau * eps[0]
        for k, s in enumerate(step_sizes):
            h = math.sqrt(2 * s)
            c = math.exp(-2.0 * h)
            v = v - h / 2 * z**3
            z = z + h / 2 * v
            v = c * v + tau * math.sqrt(1 - c * c) * eps[k + 1]
            z = z + h / 2 * v
            v = v - h / 2 * z**3
            path.append(z)
    torch.testing.assert_close(end, path[-1], rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.stack(seen), torch.stack(path[:-1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_run_spends_one_gradient_a_step_and_leaves_its_start_alone(name: str) -> None:
    calls = []

    def counted(z: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(z.shape)
        return quartic(z)

    start = torch.randn(3, 2, 2)
    before = start.clone()
    end = run_langevin(counted, start, [0.1] * 6, INTEGRATORS[name]())
    assert calls == [(3, 2, 2)] * 6
    assert torch.equal(start, before)
    assert end.shape == start.shape
    assert not end.requires_grad


@pytest.mark.parametrize("name", ALL)
def test_visit_sees_value_and_gradient_of_every_state(name: str) -> None:
    seen = []
    start = torch.randn(3, 2, 2)
    run_langevin(quartic, start, [0.1] * 3, INTEGRATORS[name](), visit=lambda *state: seen.append(state))
    assert [state[0] for state in seen] == [0, 1, 2]
    assert torch.equal(seen[0][1], start)
    for _, z, value, grad in seen:
        assert torch.equal(value, quartic(z)[0])
        assert torch.equal(grad, quartic(z)[1])


def test_infinite_friction_gives_back_leimkuhler_matthews() -> None:
    """Once c = 0, a fresh velocity is half of this move's noise and half of the next one's.

    Only the first step differs, whose opening kick has no closing one before it; both chains start at the
    mode, where there is nothing to kick.
    """
    noises = [torch.randn(4, 1, 2) for _ in range(6)]
    lm, baoab = (
        run_langevin(quartic, torch.zeros(4, 1, 2), [0.2] * 5, integrator, noise=lambda k, like: noises[k])
        for integrator in (INTEGRATORS["lm"](), Baoab(200.0))
    )
    torch.testing.assert_close(lm, baoab, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_tangent_in_the_step_size_passes_through(name: str) -> None:
    """Derivative of z_2 in s by autograd against a central difference, noise held fixed."""
    integrator, eps = INTEGRATORS[name](), torch.randn(3, 1, 2, 2)
    start = torch.randn(1, 2, 2)

    def end(s: Tensor) -> Tensor:
        z, memory = start, integrator.begin(start, s, 1.0, eps[0])
        for k in range(2):
            steps = StepSizes(s if k else 0.0, s, s)
            z, memory = integrator.advance(z, memory, -(z**3), steps, 1.0, eps[k + 1])
        return z

    s, delta = torch.tensor(0.1, requires_grad=True), 1e-6
    (tangent,) = torch.autograd.grad(end(s).sum(), s)
    with torch.no_grad():
        difference = (end(s + delta).sum() - end(s - delta).sum()) / (2 * delta)
    assert tangent.item() == pytest.approx(difference.item(), rel=1e-6)


def test_neighbours_wrap_a_run() -> None:
    found = [tuple(sizes) for sizes in neighbours([0.3, 0.2, 0.1])]
    assert found == [(0.0, 0.3, 0.2), (0.3, 0.2, 0.1), (0.2, 0.1, 0.1)]


@pytest.mark.parametrize("friction", [0.0, -1.0])
def test_friction_must_be_positive(friction: float) -> None:
    message = f"friction must be positive; got {friction}. For the limit of infinite friction use the integrator 'lm'."
    with pytest.raises(ValueError, match=sentence(message)):
        Baoab(friction)


@pytest.mark.parametrize("step_sizes", [[], [0.1, -0.1]])
def test_run_refuses_step_sizes_that_are_no_run(step_sizes: list[float]) -> None:
    """A negative step would give complex positions, and no step at all would not be a run."""
    with pytest.raises(ValueError, match="step"):
        run_langevin(quartic, torch.zeros(1, 1, 1), step_sizes, UnadjustedLangevin())
