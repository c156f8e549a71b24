"""MCMC: the Hamiltonian kernels of Pyro on a batch's target, as the slow reference.

Axes: S draws, B sentences, D latent dimensions.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
from pyro.infer.mcmc import HMC, NUTS
from torch import Tensor, nn

from sri_pyro.numerics.keyed import Purpose, fold, seeded
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress

SITE = "z"
Kernel = Literal["hmc", "nuts"]


class HamiltonianChain(nn.Module):
    r"""Draw z by Pyro's HMC or NUTS: exact in the limit of a long chain, and slow.

    One chain runs over the codes of all B sentences jointly, on the potential

    .. math:: U(z_1, \dots, z_B) = -\sum_b \log p(x_b, z_b),

    for that is how Pyro vectorises local latents. The sentences are independent under it, and the chain's invariant law
    is the product of their posteriors, but they are accepted or refused together, with one step size and one length:
    the step is that of the stiffest sentence, it shrinks as :math:`(BD)^{-1/4}`, and a draw of one sentence depends on
    which others are in the batch. That law of the other inferences cannot hold here; of several processes each has a
    chain of its own over its part of a batch, so that what is drawn depends on their number, too.

    A call starts at a draw of the prior, adapts step size and diagonal mass for ``warmup`` transitions, and returns the
    next ``num_samples`` states. They are successive states of one chain and not independent; nothing is kept between
    calls. In training, this is Monte Carlo EM with a new chain for each weight step.

    The gradient of the potential is that of the target's own route, not autograd through Pyro; neither Pyro's
    parameter store nor the seed is touched. Where the batch has a key, the draws are a function of it, of the weights
    and of the batch.

    Args:
        kernel: ``hmc``, or ``nuts``, which finds the length of every trajectory itself.
        warmup: Transitions that adapt and are thrown away.
        num_steps: HMC only: leapfrog steps of a trajectory at the first step size. Its length, their product, stays
            as the step size adapts. None for a length of 2 pi.
        trajectory_length: HMC only: the length of a trajectory, in place of ``num_steps``.
        step_size: The first leapfrog step; it adapts.
        target_accept: The acceptance probability at which the step size aims.

    Raises:
        ValueError: If an option is out of range, or is not the kernel's.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> target = LatentTextModel(StandardNormal(4), decoder).target(Batch(torch.tensor([[7, 9, 3]])))
        >>> draws = HamiltonianChain("hmc", warmup=5, num_steps=4)(target, 6)
        >>> draws.z.shape, int(draws.info["divergences"])
        (torch.Size([6, 1, 4]), 0)

    References:
        Neal (2011), MCMC using Hamiltonian dynamics; its Section 4.4 for the dimension. Hoffman and Gelman (2014), The
        No-U-Turn sampler.
    """

    def __init__(
        self,
        kernel: Kernel = "nuts",
        warmup: int = 20,
        num_steps: int | None = None,
        trajectory_length: float | None = None,
        step_size: float = 0.1,
        target_accept: float = 0.8,
    ) -> None:
        super().__init__()
        if kernel not in get_args(Kernel):
            raise ValueError(f"unknown kernel {kernel!r}; known: {', '.join(get_args(Kernel))}.")
        if kernel == "nuts" and not (num_steps is None and trajectory_length is None):
            raise ValueError(
                "the kernel 'nuts' finds the length of a trajectory itself; leave out num_steps and "
                "trajectory_length, or use the kernel 'hmc'."
            )
        if num_steps is not None and trajectory_length is not None:
            raise ValueError("num_steps and trajectory_length say the same thing; give one of them.")
        if warmup < 0:
            raise ValueError(f"warmup must be at least 0; got {warmup}.")
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"num_steps must be at least 1; got {num_steps}.")
        for name, value in (("step_size", step_size), ("trajectory_length", trajectory_length)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive; got {value}.")
        if not 0 < target_accept < 1:
            raise ValueError(f"target_accept must lie between 0 and 1; got {target_accept}.")
        self.kernel = kernel
        self.warmup = warmup
        self.num_steps = num_steps
        self.trajectory_length = trajectory_length
        self.step_size = step_size
        self.target_accept = target_accept

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Run one chain and return its last ``num_samples`` states.

        Returns:
            Draws with ``info``: ``acceptance``, the mean acceptance probability after the warm-up; ``divergences``,
            transitions after it whose energy went astray; ``gradients`` of the whole batch that were taken; and the
            ``step_size`` of the end, each a scalar.

        Raises:
            FloatingPointError: If the log joint of the start is not finite.
            RuntimeError: Under ``torch.inference_mode()``.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "Hamiltonian chains cannot run under torch.inference_mode(); use torch.no_grad(), which is enough."
            )
        start = target.sample_prior(num_samples)[0]
        if not target.dim:
            return Draws(start.expand(num_samples, -1, -1))
        with torch.enable_grad(), self._noise(target):
            return self._run(target, start, num_samples)

    def _noise(self, target: Target) -> Any:
        """Pyro's kernels draw from PyTorch's generator, which cannot be keyed: fork it where the batch has a key."""
        batch = target.batch
        if batch is None or batch.key is None:
            return nullcontext()
        # By the first sentence as well, so that parts of a batch on several processes have noise of their own.
        return seeded(fold(batch.key, Purpose.TRAJECTORY, int(batch.ids[0])), batch.tokens.device)

    def _run(self, target: Target, start: Tensor, num_samples: int) -> Draws:
        potential = _Potential(target)
        kernel = self._kernel(potential)
        kernel.initial_params = {SITE: start}
        kernel.setup(self.warmup)
        state, states = kernel.initial_params, []
        if not bool(kernel._potential_energy_last.isfinite()):
            raise FloatingPointError(
                "the log joint is not finite at a draw of the prior; check the decoder's weights and the data."
            )
        for transition in range(self.warmup + num_samples):
            state = kernel.sample(state)
            if transition >= self.warmup:
                states.append(state[SITE].detach())
        info = {
            "acceptance": torch.tensor(kernel._mean_accept_prob),
            "divergences": torch.tensor(len(kernel.diagnostics()["divergences"])),
            "gradients": torch.tensor(potential.gradients),
            "step_size": torch.tensor(float(kernel.step_size)),
        }
        return Draws(torch.stack(states), info=info)

    def _kernel(self, potential: _Potential) -> Any:
        options = {"step_size": self.step_size, "target_accept_prob": self.target_accept}
        if self.kernel == "nuts":
            return NUTS(potential_fn=potential, **options)
        lengths = {"num_steps": self.num_steps, "trajectory_length": self.trajectory_length}
        return HMC(potential_fn=potential, **options, **lengths)


class _Potential:
    """U of the codes of all sentences, shape [B, D] to nats; Pyro differentiates it by autograd.

    Attributes:
        gradients: How many were taken.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.gradients = 0

    def __call__(self, state: dict[str, Tensor]) -> Tensor:
        self.gradients += 1
        energy: Tensor = _Energy.apply(state[SITE], self.target)  # type: ignore[no-untyped-call]
        return energy


class _Energy(torch.autograd.Function):
    """The potential with the gradient of the target's exact fast route."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, target: Target) -> Tensor:
        log_joint, grad = target.log_joint_and_grad(z.detach()[None])
        ctx.save_for_backward(grad[0])
        return -log_joint.sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return -upstream[0] * grad, None
