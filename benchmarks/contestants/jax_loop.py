"""JAX in practised hands: the whole K-step loop is one compiled program.

Token projections are made once per batch, outside the loop, as are the output rows of the words that came. The
gradient of the softmax is in closed form, so that the loss itself is never computed; the recurrence is a scan that JAX
differentiates, which was faster here than a reverse pass by hand, an unrolled scan, chunked logits or the
logits' transpose. (Subtracting a bound of the logits instead of their maximum would gain another 7 % and lose every
row whose bound is 87 nats too high.)

Import it only in a process of its own, with one thread: see ``jax_process``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.problem import BOS, Array, Problem

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's, as in PyTorch."""

Weights = dict[str, jax.Array]


class JaxLoop:
    """The contestant.

    Args:
        problem: What to compute.
        noise_scale: Of the Langevin step.
    """

    def __init__(self, problem: Problem, noise_scale: float = 1.0) -> None:
        self.size = problem.size
        self.params = {name: jnp.asarray(weight) for name, weight in problem.weights.items()}
        self.moments = [jax.tree.map(jnp.zeros_like, self.params) for _ in range(2)]
        self.updates = 0
        self.tokens = jnp.asarray(problem.tokens)
        self.z = jnp.asarray(problem.codes())
        self.key = jax.random.key(0)
        s = problem.step_size
        move = partial(moved, step_size=s, noise=noise_scale * math.sqrt(2 * s))
        self._hoist = jax.jit(hoisted)
        self._gradient = jax.jit(lambda constants, z: jax.grad(log_joint, 1)(constants, z))
        self._walk = jax.jit(move)
        self._step = jax.jit(
            partial(
                training_step,
                move=move,
                steps=problem.size.steps,
                rate=problem.learning_rate,
                clip=problem.clip_norm,
            ),
            donate_argnums=(0, 1),
        )
        self.constants = self._hoist(self.params, self.tokens)

    def gradient(self, z: Array) -> Array:
        return np.asarray(self._gradient(self.constants, jnp.asarray(z)))

    def walk(self, steps: int) -> None:
        self.key, key = jax.random.split(self.key)
        self.z = jax.block_until_ready(self._walk(self.constants, self.z, key, steps))

    def train(self, start: Array | None = None) -> None:
        self.key, first, key = jax.random.split(self.key, 3)
        z = jax.random.normal(first, self.z.shape, self.z.dtype) if start is None else jnp.asarray(start)
        self.updates += 1
        self.params, self.moments = jax.block_until_ready(
            self._step(self.params, self.moments, self.tokens, z, key, self.updates)
        )

    def weights(self) -> dict[str, Array]:
        return {name: np.asarray(weight) for name, weight in self.params.items()}


def hoisted(params: Weights, tokens: jax.Array) -> dict[str, Any]:
    """All that does not depend on z, time first."""
    embedding, into, output = (
        params[f"{name}"] for name in ("embedding.weight", "cell.weight_ih_l0", "output.weight")
    )
    width = embedding.shape[1]
    targets = tokens.T.reshape(-1)
    words = embedding[inputs(tokens)]
    return {
        "token_gates": words @ into[:, :width].T + params["cell.bias_ih_l0"] + params["cell.bias_hh_l0"],
        "code_to_gates": into[:, width:],
        "recurrent": params["cell.weight_hh_l0"],
        "start": (params["start.weight"], params["start.bias"]),
        "output": (output, params["output.bias"]),
        "target_weight": output[targets],
    }


def inputs(tokens: jax.Array) -> jax.Array:
    """What is read before each word is predicted, [T, B]."""
    return jnp.concatenate([jnp.full_like(tokens[:, :1], BOS), tokens[:, :-1]], 1).T


def states(constants: dict[str, Any], z: jax.Array) -> jax.Array:
    """Hidden states, [T B, H]."""
    weight, bias = constants["start"]
    h = z @ weight.T + bias
    code = z @ constants["code_to_gates"].T

    def cell(state: tuple[jax.Array, jax.Array], token_gates: jax.Array) -> Any:
        h, c = state
        gates = token_gates + code + h @ constants["recurrent"].T
        let_in, forget, candidate, let_out = jnp.split(gates, 4, 1)
        c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(let_in) * jnp.tanh(candidate)
        h = jax.nn.sigmoid(let_out) * jnp.tanh(c)
        return (h, c), h

    _, hidden = lax.scan(cell, (h, jnp.zeros_like(h)), constants["token_gates"])
    return hidden.reshape(-1, h.shape[1])


@jax.custom_vjp
def score(hidden: jax.Array, weight: jax.Array, bias: jax.Array, target_weight: jax.Array) -> jax.Array:
    """Log p(x | z) but for a constant in the states; only its gradient in them is ever asked for."""
    normaliser = jax.nn.logsumexp(hidden @ weight.T + bias, -1)
    return (hidden * target_weight).sum() - normaliser.sum()


def _score_forward(*args: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return jnp.zeros((), args[0].dtype), args


def _score_reverse(args: tuple[jax.Array, ...], slope: jax.Array) -> tuple[jax.Array | None, ...]:
    hidden, weight, bias, target_weight = args
    logits = hidden @ weight.T + bias
    shares = jnp.exp(logits - logits.max(-1, keepdims=True))
    mean = (shares @ weight) / shares.sum(-1, keepdims=True)
    return slope * (target_weight - mean), None, None, None


score.defvjp(_score_forward, _score_reverse)


def log_joint(constants: dict[str, Any], z: jax.Array) -> jax.Array:
    """Log p(x, z) but for constants; to be differentiated in z alone."""
    weight, bias = constants["output"]
    return score(states(constants, z), weight, bias, constants["target_weight"]) - 0.5 * (z * z).sum()


def moved(
    constants: dict[str, Any], z: jax.Array, key: jax.Array, steps: int, *, step_size: float, noise: float
) -> jax.Array:
    """Z after some Langevin steps."""

    def step(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        z, key = state
        key, now = jax.random.split(key)
        gradient = jax.grad(log_joint, 1)(constants, z)
        return z + step_size * gradient + noise * jax.random.normal(now, z.shape, z.dtype), key

    return lax.fori_loop(0, steps, step, (z, key))[0]


def training_step(
    params: Weights,
    moments: list[Weights],
    tokens: jax.Array,
    z: jax.Array,
    key: jax.Array,
    updates: int,
    *,
    move: Any,
    steps: int,
    rate: float,
    clip: float,
) -> tuple[Weights, list[Weights]]:
    """The K steps, the gradient in the weights, its norm clipped, and Adam's step."""
    z = move(hoisted(params, tokens), z, key, steps)
    gradient = jax.grad(loss)(params, tokens, z)
    norm = jnp.sqrt(sum((part * part).sum() for part in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda part: part * jnp.minimum(1.0, clip / (norm + 1e-6)), gradient)
    first = jax.tree.map(lambda old, new: BETA_1 * old + (1 - BETA_1) * new, moments[0], gradient)
    second = jax.tree.map(lambda old, new: BETA_2 * old + (1 - BETA_2) * new * new, moments[1], gradient)
    far, wide = rate / (1 - BETA_1**updates), 1 / (1 - BETA_2**updates)
    after = jax.tree.map(
        lambda weight, m, v: weight - far * m / (jnp.sqrt(v * wide) + EPSILON), params, first, second
    )
    return after, [first, second]


def loss(params: Weights, tokens: jax.Array, z: jax.Array) -> jax.Array:
    """Negative mean log-likelihood, to be differentiated in the weights."""
    constants = hoisted(params, tokens)
    weight, bias = constants["output"]
    log_probs = jax.nn.log_softmax(states(constants, z) @ weight.T + bias)
    return -jnp.take_along_axis(log_probs, tokens.T.reshape(-1, 1), 1).sum() / len(tokens)
