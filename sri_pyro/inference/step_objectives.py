r"""What tuning the step size looks at: which common factor of the schedule brings q_K closest to the posterior.

The objective is that of the paper's Eq. 12, :math:`\tilde Q(s) = \mathbb{E}_{q_K} \log p(x, z_K) + H(q_K)
= \log p(x) - \mathrm{KL}(q_K \| p(z \mid x))`, and only the entropy needs an estimate. The debiased Gaussian
entropy of independent chains gives the right optimum; the paper's own, the entropy with the noise held fixed,
is too small by the information between z_K and the noise and picks steps about ten times too small. It can
be chosen by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sri_pyro.inference.short_run import ShortRunLangevin, noise_of
from sri_pyro.numerics.divergence import FAR
from sri_pyro.numerics.folding import step_map
from sri_pyro.numerics.gaussians import gaussian_entropy, moments
from sri_pyro.numerics.langevin import StepSizes, neighbours, run_langevin
from sri_pyro.target import Target

CURVATURE_CHAINS = 16
CURVATURE_ROUNDS = 10


class CommonNoise:
    """Starts and noises drawn once, so that candidate step sizes differ in nothing else.

    Args:
        target: Gives the starts.
        num_chains: Chains per sentence.
        num_steps: K.
    """

    def __init__(self, target: Target, num_chains: int, num_steps: int) -> None:
        self.start = target.sample_prior(num_chains)
        noise = noise_of(target, self.start, num_steps)
        self.noises = [noise(index, self.start) for index in range(num_steps + 1)]

    def __call__(self, index: int, like: Tensor) -> Tensor:
        """The noise of one step."""
        return self.noises[index]


def gaussian_objective(
    target: Target, inference: ShortRunLangevin, scale: float, noise: CommonNoise
) -> float:
    r""":math:`\tilde Q` with the debiased Gaussian entropy, mean over sentences, nats; -inf on divergence.

    References:
        Pang et al. (2021), Eq. 12, with ``gaussian_entropy`` for H(q_K).
    """
    z = _end_point(target, inference, scale, noise)
    if not bool((z.abs() < FAR).all()):
        return -math.inf
    log_prior, log_likelihood = target.value(z)
    quality = float(((log_prior + log_likelihood).mean(0) + gaussian_entropy(z)).mean())
    return quality if math.isfinite(quality) else -math.inf


def jacobian_objective(
    target: Target, inference: ShortRunLangevin, scale: float, noise: CommonNoise
) -> float:
    r""":math:`\tilde Q` as in the paper, with the entropy of z_K given the noise; -inf where a step folds.

    .. math:: H(z_K \mid \epsilon) = H(z_0) + \sum_k \mathbb{E} \log |\det(I + s_k H_k)|

    The constant :math:`H(z_0)` is left out. Biased towards small steps; costs one Hessian more per step.

    References:
        Pang et al. (2021), Eqs. 12 and 16-18.
    """
    require_maps(inference)
    steps = _scaled(inference, scale)
    total = torch.zeros(())
    folded = False

    def visit(k: int, z: Tensor, log_joint: Tensor, grad: Tensor) -> None:
        nonlocal total, folded
        if folded or not bool(z.isfinite().all()):
            folded = True
            return
        fold = step_map(target.hessian(z), steps[k])
        total = total + fold.log_abs_det.mean()
        folded = bool((fold.smallest_eigenvalue <= 0).any())

    z = run_langevin(
        target.log_joint_and_grad, noise.start, steps, inference.integrator, noise=noise, visit=visit
    )
    if folded or not bool((z.abs() < FAR).all()):
        return -math.inf
    log_prior, log_likelihood = target.value(z)
    return float((log_prior + log_likelihood).mean() + total)


def gaussian_gradient(target: Target, inference: ShortRunLangevin, scale: float, noise: CommonNoise) -> float:
    r"""The derivative of :math:`\tilde Q` in the logarithm of the scale, mean over sentences.

    .. math:: \frac{d\tilde Q}{d\log c} = \mathbb{E}\Big[\big(\nabla \log p(x, z_K) - \nabla\log q_K(z_K)\big)
              \cdot \frac{dz_K}{d \log c}\Big]

    with the Gaussian score :math:`-\Sigma^{-1}(z - \mu)` for q_K. The tangent :math:`dz/d\log c` passes
    through each transition forward in time; a step costs one Hessian-vector product.

    Returns:
        Nats per unit of the log scale; NaN on divergence.
    """
    integrator = inference.integrator
    log_scale = torch.tensor(math.log(scale), dtype=noise.start.dtype)
    one = torch.ones_like(log_scale)
    around = neighbours(inference.step_schedule(inference.num_steps))

    def begin(log_scale: Tensor) -> Tensor:
        first = log_scale.exp() * around[0].current
        return integrator.begin(noise.start, first, 1.0, noise(0, noise.start))

    z, z_t = noise.start, torch.zeros_like(noise.start)
    push: Callable[..., Any] = torch.func.jvp
    memory, memory_t = push(begin, (log_scale,), (one,))
    for k, near in enumerate(around):

        def advance(
            z: Tensor, memory: Tensor, grad: Tensor, log_scale: Tensor, k: int = k, near: StepSizes = near
        ) -> tuple[Tensor, Tensor]:
            # A first step has none before it: that 0 must stay a number, see Baoab.
            scaled = StepSizes(*(log_scale.exp() * step if step else 0.0 for step in near))
            return integrator.advance(z, memory, grad, scaled, 1.0, noise(k + 1, z))

        grad = target.value_and_grad(z).grad
        grad_t = target.hessian_vector_product(z, z_t)
        (z, memory), (z_t, memory_t) = push(
            advance, (z, memory, grad, log_scale), (z_t, memory_t, grad_t, one)
        )
    if not bool((z.abs() < FAR).all()):
        return math.nan
    fit = moments(z.double())
    centred = z.double() - fit.mean
    score = -torch.linalg.solve(fit.covariance, centred.permute(1, 2, 0)).permute(2, 0, 1)
    direction = target.value_and_grad(z).grad.double() - score
    return float((direction * z_t.double()).sum(-1).mean())


def stable_scale(target: Target, inference: ShortRunLangevin, scale: float, noise: CommonNoise) -> float:
    r"""The scale at which the run stops contracting in the stiffest direction of any sentence's posterior.

    .. math:: c^* = \frac{2}{\lambda\, \min_k s_k},\qquad
              \lambda = \max_b \lambda_{\max}\Big(-\frac1S \sum_s \nabla_z^2 \log p(x_b, z_{K,s,b})\Big)

    A step of any of our integrators is stable on a Gaussian of precision :math:`\lambda` if
    :math:`s \lambda < 2`. The first steps of a falling schedule may lie beyond that on purpose, since later ones
    contract what they stretch: the bound is that of the smallest step, which is every step of a constant one.

    The mean curvature of a few chains is found by power iteration, at one Hessian-vector product a round, which
    errs to a larger bound.

    Returns:
        Infinity where the chains end too far to tell, or nothing curves downwards.
    """
    z = _end_point(target, inference, scale, noise)[:CURVATURE_CHAINS]
    if not target.dim or not bool((z.abs() < FAR).all()):
        return math.inf
    # A direction of every sentence, the noise that is there already: fresh draws would move the generator.
    direction = torch.nn.functional.normalize(noise.noises[0][0], dim=-1)
    curvature = torch.zeros(direction.shape[:-1], dtype=direction.dtype, device=direction.device)
    for _ in range(CURVATURE_ROUNDS):
        product = -target.hessian_vector_product(z, direction.expand_as(z)).mean(0)
        curvature = (direction * product).sum(-1)
        direction = torch.nn.functional.normalize(product, dim=-1)
    stiffest = float(curvature.max())
    smallest = min(inference.step_schedule(inference.num_steps))
    return 2 / (stiffest * smallest) if stiffest > 0 and math.isfinite(stiffest) else math.inf


def require_maps(inference: ShortRunLangevin) -> None:
    """Refuse an inference whose steps are not maps of z alone, for ``jacobian_objective``."""
    if not inference.integrator.moves_position_only:
        raise ValueError(
            "the Jacobian objective needs a map of z alone, and 'baoab' moves a velocity too; use the "
            "integrator 'ula' or 'lm', or the objective 'gaussian'."
        )


def _scaled(inference: ShortRunLangevin, scale: float) -> list[float]:
    return [scale * step for step in inference.step_schedule(inference.num_steps)]


def _end_point(target: Target, inference: ShortRunLangevin, scale: float, noise: CommonNoise) -> Tensor:
    return run_langevin(
        target.log_joint_and_grad, noise.start, _scaled(inference, scale), inference.integrator, noise=noise
    )
