"""Short runs against the exact law of their last state, the equations given their own path, and bad targets.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import logging
import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sri_pyro.inference import INFERENCES, PriorDraws, ShortRunLangevin
from sri_pyro.models import LSTMEncoder
from sri_pyro.numerics.langevin import INTEGRATORS, UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantNoise, ConstantSteps, GeometricSteps, LinearNoise
from sri_pyro.target import Target
from sri_pyro.types import Batch, Progress
from tests.inference.helpers import built
from tests.oracles import (
    EnumerableText,
    LinearGaussian,
    RunLaw,
    exact_law,
    gate,
    skewed,
    standard_normal_target,
)

pytestmark = pytest.mark.usefixtures("float64")
START = Progress(step=0, epoch=0.0)


def worst(oracle: LinearGaussian, x: Tensor, z: Tensor, law: RunLaw) -> float:
    """Standard errors by which the farthest mean or second moment of any mode is off its law."""
    whitened = (oracle.modes(z) - law.mean(oracle.mode_means(x))) / law.variance.sqrt()
    n = len(z)
    mean, second = (
        whitened.mean(0).abs() * math.sqrt(n),
        (whitened.square().mean(0) - 1).abs() * math.sqrt(n / 2),
    )
    return max(mean.max().item(), second.max().item())


@pytest.mark.parametrize("name", INTEGRATORS)
def test_draws_have_the_exact_law_of_k_scaled_steps(name: str) -> None:
    """Oracle: the two-moment recursion. Catches a scale not applied, applied twice, or K off by one."""
    oracle = LinearGaussian.build("power1", dim=5, information=3.0)
    x = torch.tensor([-3.0, 0.0, 4.0])[:, None].expand(3, 5)
    schedule = GeometricSteps(0.15, 0.08)
    run = ShortRunLangevin(7, INTEGRATORS[name](), schedule)
    run.step_scale.fill_(0.6)
    draws = run(oracle.target(x), 20_000)
    assert draws.z.shape == (20_000, 3, 5)
    assert draws.log_q is None
    steps = [0.6 * s for s in schedule(7)]
    assert run.step_sizes() == pytest.approx(steps, rel=1e-6)
    checks = 2 * 3 * 5
    assert worst(oracle, x, draws.z, exact_law(name, oracle.precision, steps)) < gate(checks)
    for wrong in (schedule(7), [0.6 * s for s in steps], steps[:-1]):  # positive controls
        assert worst(oracle, x, draws.z, exact_law(name, oracle.precision, wrong)) > 9


def test_chains_do_not_interact_and_begin_in_the_prior() -> None:
    """A start or a noise shared by chains or sentences shows as a correlation of order one."""
    oracle = LinearGaussian.build("flat", dim=2, information=1.0)
    x = torch.zeros(2, 2)
    n = 20_000
    draws = ShortRunLangevin(3, UnadjustedLangevin(), ConstantSteps(0.05), record_path=True)(
        oracle.target(x), n
    )
    start = draws.info["path"][:, :, 0]
    assert (start.mean(0).abs() < gate(24) / math.sqrt(n)).all()
    assert ((start.square().mean(0) - 1).abs() < gate(24) * math.sqrt(2 / n)).all()
    z = draws.z / draws.z.std(0)
    for pair in (z[:, 0] * z[:, 1], z[1:, 0] * z[:-1, 0], z[..., 0] * z[..., 1]):
        assert (pair.mean(0).abs() < gate(24) / math.sqrt(len(pair))).all()


@pytest.mark.parametrize("name", INTEGRATORS)
def test_info_is_what_its_names_say(name: str) -> None:
    """Oracle: the path itself. Catches values read after the step, squared norms, distances from z_{k-1}."""
    target = skewed()
    run = ShortRunLangevin(4, INTEGRATORS[name](), GeometricSteps(0.1, 0.03), record_path=True)
    draws = run(target, 6)
    path = draws.info["path"]
    assert path.shape == (6, 3, 5, 1)
    assert torch.equal(path[:, :, -1], draws.z)
    for k in range(4):
        found = target.value_and_grad(path[:, :, k])
        joint = found.log_prior + found.log_likelihood
        torch.testing.assert_close(draws.info["log_joint"][..., k], joint, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            draws.info["grad_norm"][..., k], found.grad.norm(dim=-1), rtol=0, atol=1e-9
        )
        moved = (path[:, :, k + 1] - path[:, :, 0]).norm(dim=-1)
        torch.testing.assert_close(draws.info["distance"][..., k], moved, rtol=0, atol=1e-9)
    for key in ("log_joint", "grad_norm", "distance"):
        assert draws.info[key].shape == (6, 3, 4)
    if name == "baoab":
        assert "step_size" not in draws.info
    else:
        exact = torch.tensor(GeometricSteps(0.1, 0.03)(4)).expand(6, 3, 4)
        torch.testing.assert_close(draws.info["step_size"], exact, rtol=1e-6, atol=0)


def test_no_path_unless_asked_for() -> None:
    assert "path" not in ShortRunLangevin(2)(skewed(), 2).info


@pytest.mark.parametrize(
    ("progress", "scale"),
    [(START, 0.1), (Progress(10, 4.0), 0.55), (Progress(99, 30.0), 1.0), (None, 1.0)],
)
def test_noise_scale_follows_training_and_is_final_in_evaluation(progress, scale: float) -> None:
    """The residual of every recorded step is tau sqrt(2 s) times a standard normal: a chi-square for tau."""
    target = skewed()
    run = ShortRunLangevin(5, UnadjustedLangevin(), ConstantSteps(0.04), LinearNoise(0.1, 1.0, 8.0), True)
    path = run(target, 4000, progress=progress).info["path"]
    drift = torch.stack([target.value_and_grad(path[:, :, k]).grad for k in range(5)], 2)
    residual = (path[:, :, 1:] - path[:, :, :-1] - 0.04 * drift) / math.sqrt(0.08)
    ratio = residual.square().mean() / scale**2 - 1
    assert ratio.abs() < gate(1) * math.sqrt(2 / residual.numel())


def test_noise_scale_zero_climbs() -> None:
    """Without noise a short run is gradient ascent, step by step."""
    target = skewed()
    run = ShortRunLangevin(4, UnadjustedLangevin(), ConstantSteps(0.05), ConstantNoise(0.0), True)
    path = run(target, 5).info["path"]
    z = path[:, :, 0]
    for _ in range(4):
        z = z + 0.05 * target.value_and_grad(z).grad
    torch.testing.assert_close(path[:, :, -1], z, rtol=0, atol=1e-9)


def test_runs_work_without_gradients_and_leave_no_graph() -> None:
    run, target = ShortRunLangevin(3), skewed()
    torch.manual_seed(3)
    with torch.no_grad():
        silent = run(target, 4).z
    torch.manual_seed(3)
    assert torch.equal(run(target, 4).z, silent)
    assert not silent.requires_grad
    assert not torch.equal(run(target, 4).z, silent)  # and the library does not seed


# --- Divergence --------------------------------------------------------------------------------------------


def stiff(curvature: float) -> Target:
    """A Gaussian so narrow that steps above 2 / curvature explode."""
    return standard_normal_target(lambda z: -0.5 * (curvature - 1) * z.square().sum(-1), batch_size=2, dim=2)


def explosive() -> Target:
    """A quartic well: from |z| above 1 / sqrt(4 s) a step overshoots, and the overshoot cubes itself to infinity."""
    return standard_normal_target(lambda z: -25.0 * z.pow(4).sum(-1), batch_size=2, dim=2)


@pytest.mark.parametrize("make", [lambda: stiff(4000.0), explosive], ids=["stiff", "explosive"])
@pytest.mark.parametrize("training", [True, False])
def test_divergence_is_logged_and_halves_the_steps(
    make: Callable[[], Target], training: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Bounded, finite draws come back; in training the halving of many chains stays, in evaluation none does."""
    run = ShortRunLangevin(20, UnadjustedLangevin(), ConstantSteps(0.1)).train(training)
    with caplog.at_level(logging.WARNING):
        draws = run(make(), 16, progress=START if training else None)
    assert draws.z.isfinite().all()
    assert draws.z.abs().max() < 100
    assert all(value.isfinite().all() for value in draws.info.values())
    pattern = (
        r"^(\d+) of 32 chains diverged at step sizes up to [\d.e-]+; running them again at half the step\.$"
    )
    assert caplog.records
    assert all(r.levelno == logging.WARNING and re.match(pattern, r.getMessage()) for r in caplog.records)
    if training:
        counts = [int(re.match(pattern, r.getMessage())[1]) for r in caplog.records]  # one event for each
        halvings = sum(count / 32 > 0.1 for count in counts)
        assert halvings
        assert run.step_scale.item() == pytest.approx(0.5**halvings)
    else:
        assert run.step_scale.item() == 1.0


@pytest.mark.parametrize("training", [True, False])
def test_a_chain_that_only_falls_in_energy_has_diverged(training: bool) -> None:
    """A step of 0.3 is unstable in the steepest of these modes: ten of them leave z finite, at |z| near 200."""
    oracle = LinearGaussian.build("power2")
    target = oracle.target(oracle.sample(8)[1])
    run = ShortRunLangevin(10, step_schedule=GeometricSteps(0.3, 0.03)).train(training)
    draws = run(target, 32, progress=START if training else None)
    assert 0.3 * oracle.precision.max() > 2
    assert (run.step_scale.item() < 1) == training
    start, end = draws.info["log_joint"][..., 0], target.log_joint(draws.z)
    assert (end - start).min() > -62
    assert draws.z.abs().max() < 10


def test_a_few_steep_sentences_shorten_no_step_of_those_to_come(caplog: pytest.LogCaptureFixture) -> None:
    """One sentence of twenty is run again; the planted guard that lets every halving stay is red."""
    curvature = torch.ones(20)
    curvature[7] = 5000.0
    target = standard_normal_target(lambda z: -0.5 * (curvature - 1) * z.square().sum(-1), 20, 1)
    run = ShortRunLangevin(20, UnadjustedLangevin(), ConstantSteps(0.1)).train()
    with caplog.at_level(logging.WARNING):
        draws = run(target, 8, progress=START)
    assert caplog.records
    assert draws.z[:, 7].abs().max() < 10
    assert run.step_scale.item() == 1.0


@pytest.mark.parametrize("training", [True, False])
def test_a_diverging_sentence_changes_no_draw_of_its_neighbours(training: bool) -> None:
    """Oracle: the same generator on the batch without the steep one. Planted: the whole batch run again at half."""
    ends = []
    for steepest in (1.0, 5000.0):
        curvature = torch.tensor([1.0, 2.0, steepest])
        target = standard_normal_target(lambda z, c=curvature: -0.5 * (c - 1) * z.square().sum(-1), 3, 1)
        run = ShortRunLangevin(20, UnadjustedLangevin(), ConstantSteps(0.1), record_path=True).train(training)
        torch.manual_seed(0)
        ends.append(run(target, 8, progress=START if training else None))
    calm, mixed = ends
    assert torch.equal(calm.z[:, :2], mixed.z[:, :2])
    assert all(torch.equal(calm.info[name][:, :2], mixed.info[name][:, :2]) for name in calm.info)
    # What is told of the chains that ran again is told of the run that ended well.
    assert torch.equal(mixed.info["path"][:, :, -1], mixed.z)
    assert (mixed.info["step_size"][:, 2] < 0.01).all()
    assert torch.equal(
        mixed.info["distance"][:, 2, -1], (mixed.z - mixed.info["path"][:, :, 0]).norm(dim=-1)[:, 2]
    )


def test_a_target_that_x_says_nothing_of_is_no_divergence(caplog: pytest.LogCaptureFixture) -> None:
    """Energy of a chain at rest goes up and down; a guard without slack would halve here for ever."""
    for dim in (1, 32):
        flat = standard_normal_target(lambda z: 0.0 * z.sum(-1), 100, dim)
        ShortRunLangevin(10)(flat, 100)
    assert not caplog.records


def test_a_calm_target_moves_no_scale_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    run = ShortRunLangevin(20).train()
    with caplog.at_level(logging.DEBUG):
        run(skewed(), 50, progress=START)
    assert run.step_scale.item() == 1.0
    assert not caplog.records


def test_one_diverging_sentence_does_not_hide_among_calm_ones(caplog: pytest.LogCaptureFixture) -> None:
    """A guard that looks at an average, or at the first sentence, would let the NaN through."""
    curvature = torch.tensor([1.0, 1.0, 5000.0])
    target = standard_normal_target(lambda z: -0.5 * (curvature - 1) * z.square().sum(-1), 3, 1)
    with caplog.at_level(logging.WARNING):
        draws = ShortRunLangevin(20, UnadjustedLangevin(), ConstantSteps(0.1))(target, 8)
    assert caplog.records
    assert draws.z[:, 2].abs().max() < 10


@pytest.mark.parametrize("training", [True, False])
def test_a_hopeless_target_raises_one_clear_sentence(training: bool) -> None:
    target = standard_normal_target(lambda z: z.sum(-1) * math.nan, batch_size=2, dim=2)
    run = ShortRunLangevin(3).train(training)
    sentence = (
        "chains diverge at every step size (sentence 0 of the batch first); the log joint or its gradient is "
        "not finite there. Check the decoder's weights and the data."
    )
    with pytest.raises(FloatingPointError, match=f"^{re.escape(sentence)}$"):
        run(target, 4, progress=START if training else None)


# --- What persists, and what must not be touched -----------------------------------------------------------


@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize("decoder", ["lstm", "gru", "bag_of_words"])
def test_inference_touches_no_weight_and_no_mode(name: str, decoder: str) -> None:
    """The authors' release accumulates weight gradients while it infers; here every ``grad`` is as before."""
    model = EnumerableText.build(decoder, latent_dim=2).model.train()
    rows = EnumerableText.build(decoder, latent_dim=2).rows
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(i)) if i % 2 else None
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    weights = [p.detach().clone() for p in model.parameters()]
    own = {"persistent": {"num_chains": 3}, "mcmc": {"warmup": 3}}.get(name, {})
    draws = built(INFERENCES[name], **own)(model.target(rows), 3, progress=START)
    assert draws.z.shape == (3, len(rows), 2)
    for parameter, grad, weight in zip(model.parameters(), before, weights, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
        assert torch.equal(parameter, weight)
        assert parameter.requires_grad
    assert all(module.training for module in model.modules())


def test_the_scale_is_the_only_state_and_travels() -> None:
    run = ShortRunLangevin(5)
    run.step_scale.fill_(0.37)
    other = ShortRunLangevin(5)
    other.load_state_dict(run.state_dict())
    assert list(run.state_dict()) == ["step_scale"]
    assert other.step_sizes() == run.step_sizes()
    assert other.step_sizes() != ShortRunLangevin(5).step_sizes()
    assert not list(run.parameters())


def test_prior_draws_are_the_priors_with_their_density() -> None:
    n, target = 20_000, skewed()
    draws = PriorDraws()(target, n)
    assert (draws.z.mean(0).abs() < gate(6) / math.sqrt(n)).all()
    assert ((draws.z.square().mean(0) - 1).abs() < gate(6) * math.sqrt(2 / n)).all()
    exact = -0.5 * (draws.z.square() + math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(draws.log_q, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_steps", [0, -3])
def test_a_run_has_at_least_one_step(num_steps: int) -> None:
    sentence = f"num_steps must be at least 1; got {num_steps}. For draws that do not move use the inference 'prior'."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        ShortRunLangevin(num_steps)


def test_chains_that_ran_again_are_told() -> None:
    """Oracle: the first run alone, on the same generator. Planted: only those of the last halving are kept."""
    curvature = torch.tensor([1.0, 5000.0])
    target = standard_normal_target(lambda z: -0.5 * (curvature - 1) * z.square().sum(-1), 2, 1)
    halved = ShortRunLangevin(20, UnadjustedLangevin(), ConstantSteps(0.1))(target, 8).info["halved"]
    assert halved.shape == (8, 2)
    assert not halved[:, 0].any()
    assert halved[:, 1].all()


class Listening(UnadjustedLangevin):
    """Keeps every noise that it is given."""

    def advance(self, z, memory, grad, steps, noise_scale, noise):
        HEARD.append(noise)
        return super().advance(z, memory, grad, steps, noise_scale, noise)


HEARD: list[Tensor] = []


def test_keyed_noise_is_of_the_key_the_sentence_the_step_and_the_run() -> None:
    """The steep sentence runs again: with noise of its own, and the same one in a batch of its own.

    Catches a second run on the noise of the first, steps that share one, and noise by place in the batch.
    """
    curvature = torch.tensor([1.0, 50.0, 2.0])
    batch = Batch(torch.tensor([[5], [6], [7]]), torch.tensor([30, 10, 20])).keyed(4)

    def run_on(rows: list[int]) -> list[Tensor]:
        of_rows = curvature[rows]
        target = standard_normal_target(lambda z: -0.5 * (of_rows - 1) * z.square().sum(-1), len(rows), 1)
        HEARD.clear()
        run = ShortRunLangevin(5, Listening(), ConstantSteps(0.1))
        run(replace(target, batch=batch.select(torch.tensor(rows))), 4, progress=START)
        return list(HEARD)

    whole, alone = run_on([0, 1, 2]), run_on([1])
    assert len(whole) == len(alone) == 5 * 3  # steps of 0.1, 0.05 and 0.025
    for noise, other in zip(whole, alone, strict=True):
        assert torch.equal(noise[:, [1]], other)
    assert len(torch.stack(whole).unique()) == 15 * 4 * 3


def test_an_encoder_starts_the_chains() -> None:
    """Oracle: without noise and with next to no step, chains end where the encoder draws.

    Catches a start from the prior, a graph through the start, a density at the start instead of the end, and the
    paper's density told of chains that did not begin at the prior.
    """
    oracle = EnumerableText.build("lstm", latent_dim=2)
    encoder = built(LSTMEncoder, latent_dim=2)
    target, law = oracle.target(), encoder(oracle.rows)
    run = ShortRunLangevin(
        1, UnadjustedLangevin(), ConstantSteps(1e-12), ConstantNoise(0.0), True, start=encoder
    )
    draws = run(target, 4000)
    assert not draws.z.requires_grad
    assert "step_size" not in draws.info
    off = (draws.z.mean(0) - law.mean).abs() / law.stddev * math.sqrt(4000)
    assert off.max() < gate(law.mean.numel())
    torch.testing.assert_close(draws.info["log_encoder"], law.log_prob(draws.z))
    draws.info["log_encoder"].mean().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())
