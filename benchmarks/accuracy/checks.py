"""What stands beside the curves: that both sides have one posterior, and what NUTS costs once it is warm."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from benchmarks.accuracy import mcmc, plain
from benchmarks.accuracy import text as real
from benchmarks.accuracy.store import Effort, Store
from sri_pyro.types import Batch

OWN_WARMUP, OWN_DRAWS = 100, 200


def agreement(text: real.Text) -> dict[str, float]:
    """How far the plain Pyro program is from the library: the log joint and its gradient at draws of the prior.

    In single precision, in which everything is timed, and in double precision, in which it must be rounding.

    Returns:
        By precision, the largest difference of a gradient's coordinate over the largest coordinate, and of the log
        joint of the batch over its size.
    """
    found = {}
    for name, dtype in (("single", torch.float32), ("double", torch.float64)):
        model = copy.deepcopy(text.model).to(dtype)
        z = torch.randn(len(text.judged), model.prior.dim, dtype=dtype)
        log_joint, grad = plain.gradient(plain.text_program(model.decoder), text.judged.tokens, z)
        ours = model.target(text.judged).value_and_grad(z[None])
        total = (ours.log_prior + ours.log_likelihood).sum()
        found[f"{name}_log_joint"] = float((total - log_joint).abs() / log_joint.abs())
        found[f"{name}_gradient"] = float((ours.grad[0] - grad).abs().max() / grad.abs().max())
    return found


def warm_nuts(store: Store[Effort], text: real.Text) -> list[dict[str, float]]:
    """NUTS with a chain to each of a few sentences: what warming up costs, and an effective draw after that."""
    program, found = plain.text_program(text.model.decoder), []
    rows = torch.linspace(0, len(text.judged) - 1, store.effort.own_chains + 2)[1:-1].round().long()
    for row in rows:
        alone = text.judged.select(row[None])

        def make(alone: Batch = alone) -> dict[str, float]:
            start = torch.randn(1, text.model.prior.dim)
            return _warm(mcmc.run("NUTS", program, alone.tokens, start, OWN_WARMUP, OWN_DRAWS))

        found.append(store.once(f"text/NUTS alone/{int(row)}", make))
    return found


def _warm(path: mcmc.Path) -> dict[str, Any]:
    z = path.states[OWN_WARMUP:, 0].double()
    ess = _ess(z)
    last = OWN_WARMUP - 1
    return {
        "warmup_gradients": int(path.gradients[last]),
        "warmup_seconds": float(path.seconds[last]),
        "draw_gradients": float(path.gradients[-1] - path.gradients[last]) / OWN_DRAWS,
        "draw_seconds": float(path.seconds[-1] - path.seconds[last]) / OWN_DRAWS,
        "ess_share_least": float(ess.min()) / OWN_DRAWS,
        "ess_share_median": float(ess.median()) / OWN_DRAWS,
    }


def _ess(z: Tensor) -> Tensor:
    """Effective draws of every coordinate of a chain [draws, D], its halves taken as two chains."""
    halves = z.reshape(2, len(z) // 2, z.shape[1])
    found: Tensor = effective_sample_size(halves, chain_dim=0, sample_dim=1)
    return found
