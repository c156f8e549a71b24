"""How far the surrogate that an inner loop follows is from the exact gradient, measured while training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sri_pyro.inference.short_run import ShortRunLangevin, frozen_tail, noise_of
from sri_pyro.numerics.langevin import run_langevin
from sri_pyro.target import Target
from sri_pyro.types import Batch, Progress


class SurrogateCheck:
    """A hook that logs the error of ``inner_softmax = "frozen_tail"`` every so often; nothing where it is off.

    Args:
        inference: Whose runs are looked at.
        every: Weight steps from one look to the next.
    """

    def __init__(self, inference: ShortRunLangevin, every: int = 100) -> None:
        self.inference = inference
        self.every = every

    def __call__(
        self, make_target: Callable[[Batch], Target], batch: Batch, progress: Progress
    ) -> dict[str, float]:
        """Look if it is time."""
        if self.inference.tail is None or progress.step % self.every:
            return {}
        return {"inner_gradient_error": gradient_error(make_target(batch), self.inference)}


def gradient_error(target: Target, inference: ShortRunLangevin) -> float:
    r"""Relative error of the surrogate's gradient g of log p(x, z) along one run of every sentence.

    .. math:: \Big(\sum_k \lVert g(z_k) - \nabla \log p(x, z_k) \rVert^2 \Big/
              \sum_k \lVert \nabla \log p(x, z_k) \rVert^2\Big)^{1/2}

    with the norms over all chains. The run is the surrogate's own.
    """
    assert inference.tail is not None
    surrogate = frozen_tail(target, inference.tail)
    start = target.sample_prior(1)
    sums = torch.zeros(2, dtype=torch.float64)

    def visit(step: int, z: Tensor, log_joint: Tensor, grad: Tensor) -> None:
        exact = target.value_and_grad(z).grad
        sums.add_(torch.stack([(grad - exact).square().sum(), exact.square().sum()]).double().cpu())

    run_langevin(
        surrogate.log_joint_and_grad, start, inference.step_sizes(), inference.integrator,
        noise=noise_of(target, start, inference.num_steps), visit=visit,
    )  # fmt: skip
    return float((sums[0] / sums[1]).sqrt())
