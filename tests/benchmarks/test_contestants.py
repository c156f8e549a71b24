"""Contestants compute one thing: whoever was made slow by computing more, or fast by computing less, is found here."""

import numpy as np
import pytest
import torch

from benchmarks.contestants.autograd_loop import AutogradLoop
from benchmarks.contestants.jax_process import JaxProcess, available
from benchmarks.contestants.ours import Ours
from benchmarks.contestants.plain_pyro import PlainPyro
from benchmarks.problem import BOS, PAD, Problem
from benchmarks.sizes import Size
from tests.oracles import gate

SIZE = Size("tiny", vocabulary=23, embedding=5, hidden=7, batch=6, length=4, latent=3, steps=3)
BUILDERS = {
    "ours": Ours,
    "plain": lambda problem, noise_scale=1.0: Ours(problem, noise_scale, plain=True),
    "pyro": PlainPyro,
    "autograd": AutogradLoop,
}


def problem(**changes) -> Problem:
    """In double precision, with weights so large that z matters; whose gradient is clipped, and steps seen."""
    built = Problem.build(SIZE, "float64")
    for name, weight in built.weights.items():
        if name != "output.bias":
            weight *= 8
    return Problem(
        built.size, built.tokens, built.weights, **{"step_size": 0.05, "learning_rate": 0.1} | changes
    )


def by_hand(given: Problem, z: np.ndarray) -> np.ndarray:
    """Gradients of log p(x, z) by central differences of the textbook's equations, one sentence at a time."""

    def log_joint(row: np.ndarray, code: np.ndarray) -> float:
        w = given.weights
        h, c, total, before = w["start.weight"] @ code + w["start.bias"], np.zeros(SIZE.hidden), 0.0, BOS
        for word in row:
            joined = np.concatenate([w["embedding.weight"][before], code])
            gates = w["cell.weight_ih_l0"] @ joined + w["cell.bias_ih_l0"]
            gates = gates + w["cell.weight_hh_l0"] @ h + w["cell.bias_hh_l0"]
            let_in, forget, candidate, let_out = np.split(gates, 4)
            c = c / (1 + np.exp(-forget)) + np.tanh(candidate) / (1 + np.exp(-let_in))
            h = np.tanh(c) / (1 + np.exp(-let_out))
            logits = w["output.weight"] @ h + w["output.bias"]
            logits[[PAD, BOS]] = -np.inf
            total += logits[word] - np.log(np.exp(logits).sum())
            before = word
        return total - 0.5 * code @ code

    step = 1e-5
    directions = step * np.eye(SIZE.latent)
    return np.array(
        [
            [(log_joint(row, code + d) - log_joint(row, code - d)) / (2 * step) for d in directions]
            for row, code in zip(given.tokens, z, strict=True)
        ]
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_gradient_is_that_of_the_textbook(name: str) -> None:
    given = problem()
    z = given.codes(seed=3)
    np.testing.assert_allclose(BUILDERS[name](given).gradient(z), by_hand(given, z), atol=1e-7)


@pytest.mark.parametrize("name", ["plain", "pyro", "autograd"])
@pytest.mark.parametrize("clip_norm", [1e-2, 1e3])
def test_training_step_without_noise_is_ours(name: str, clip_norm: float) -> None:
    """Two steps, for Adam's memory; clipped hard, and not at all."""
    given = problem(clip_norm=clip_norm)
    ours, other = Ours(given, 0.0), BUILDERS[name](given, 0.0)
    before = ours.weights()
    for seed in (3, 4):
        for contestant in (ours, other):
            contestant.train(given.codes(seed))
    assert_same_weights(other.weights(), ours.weights(), before)


def assert_same_weights(found: dict, expected: dict, before: dict) -> None:
    """Equal to rounding, where every kind of weight has moved."""
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert abs(weight - before[name]).max() > 1e-3, name
        np.testing.assert_allclose(found[name], weight, rtol=0, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("name", BUILDERS)
def test_walk_is_langevin(name: str) -> None:
    """Without noise the step is the gradient's; with it, what is left over is normal of variance 2 s."""
    given = problem()
    still = BUILDERS[name](given, 0.0)
    still.walk(2)
    z = given.codes()
    for _ in range(2):
        z = z + given.step_size * BUILDERS[name](given).gradient(z)
    np.testing.assert_allclose(still.z.numpy().reshape(z.shape), z, atol=1e-12)
    noises = []
    for _ in range(60):
        moving = BUILDERS[name](given)
        before = moving.z.numpy().reshape(z.shape)
        moving.walk(1)
        drift = given.step_size * moving.gradient(before)
        noises.append((moving.z.numpy().reshape(z.shape) - before - drift) / np.sqrt(2 * given.step_size))
    noise = np.concatenate(noises).ravel()
    limit = gate(2) / np.sqrt(len(noise))
    assert abs(noise.mean()) < limit
    assert abs((noise**2).mean() - 1) < np.sqrt(2) * limit


@pytest.mark.parametrize("name", BUILDERS)
def test_training_steps_start_from_draws_of_the_prior(name: str) -> None:
    """With steps that hardly move, weights that learn from one start and from another differ."""
    given = problem(step_size=1e-12)
    contestants = [BUILDERS[name](given, 0.0) for _ in range(3)]
    for seed, contestant in zip((1, 1, 2), contestants, strict=True):
        torch.manual_seed(seed)
        contestant.train()
    first, again, other = (contestant.weights()["output.weight"] for contestant in contestants)
    np.testing.assert_array_equal(first, again)
    assert abs(first - other).max() > 1e-6


@pytest.mark.skipif(
    not available(), reason="JAX is not installed; the benchmark itself checks this wherever it is."
)
@pytest.mark.parametrize("clip_norm", [1e-2, 1e3])
def test_jax_is_ours(clip_norm: float) -> None:
    """Through the pipe, as it is timed."""
    given = Problem.build(SIZE, "float64", clip_norm=clip_norm)
    ours = Ours(given, 0.0)
    z = given.codes(seed=3)
    before = ours.weights()
    with JaxProcess(SIZE, "float64", noise_scale=0.0, clip_norm=clip_norm) as child:
        np.testing.assert_allclose(child.gradient(z), ours.gradient(z), rtol=1e-10, atol=1e-12)
        for seed in (3, 4):
            ours.train(given.codes(seed))
            assert child.train(given.codes(seed)) > 0
        assert child.walk(2) > 0
        found = child.weights()
    moved = max(abs(ours.weights()[name] - before[name]).max() for name in before)
    for name, weight in ours.weights().items():
        np.testing.assert_allclose(found[name], weight, rtol=0, atol=1e-7 * moved, err_msg=name)


@pytest.mark.skipif(not available(), reason="JAX is not installed; see above.")
def test_a_child_that_dies_is_told() -> None:
    with JaxProcess(SIZE) as child:
        child.child.kill()
        child.child.wait()
        with pytest.raises((RuntimeError, BrokenPipeError)):
            child.walk(1)
