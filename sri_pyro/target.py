r"""Target: one batch's log p(x, z) as pure functions of z, and what is written against it.

All that inference and evaluation know of a model. Axes: S draws, B sentences, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from sri_pyro.types import Batch, Draws, Progress

if TYPE_CHECKING:
    from sri_pyro.program import ProgramTarget


class JointGradient(NamedTuple):
    """The log joint at z and its gradient in z, each in its two parts.

    Attributes:
        log_prior: log p(z), nats, shape [S, B].
        log_likelihood: log p(x | z), nats, shape [S, B].
        grad_prior: Gradient of the first, shape [S, B, D].
        grad_likelihood: Gradient of the second, shape [S, B, D].
    """

    log_prior: Tensor
    log_likelihood: Tensor
    grad_prior: Tensor
    grad_likelihood: Tensor

    @property
    def grad(self) -> Tensor:
        """Gradient of the log joint, shape [S, B, D]."""
        return self.grad_prior + self.grad_likelihood

    def tempered(self, power: float | Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log p(z) + \beta \log p(x \mid z)` [S, B] and its gradient [S, B, D].

        Args:
            power: :math:`\beta`, one for all or one for each sentence [B].
        """
        value = self.log_prior + power * self.log_likelihood
        if isinstance(power, Tensor):
            power = power[..., None]
        return value, self.grad_prior + power * self.grad_likelihood


class ConditionedLikelihood(Protocol):
    """log p(x | z) of one batch for inference: no graph, no dropout, no weight's gradient touched."""

    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z) in nats for z [S, B, D], shape [S, B]."""
        ...

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient in z, shape [S, B, D]."""
        ...


@runtime_checkable
class CurvedLikelihood(ConditionedLikelihood, Protocol):
    """One that knows its exact curvature in z, too; what knows it not is differentiated twice."""

    def hessian(self, z: Tensor) -> Tensor:
        """The Hessian in z of every chain, z [S, B, D] to [S, B, D, D], exactly symmetric."""
        ...

    def hessian_vector_product(self, z: Tensor, vector: Tensor) -> Tensor:
        """That Hessian times a vector of every chain's own [S, B, D], shape [S, B, D]."""
        ...


@dataclass(frozen=True)
class AutogradLikelihood:
    """The route that works for every model: differentiate a log-likelihood.

    Attributes:
        log_likelihood: Maps z [S, B, D] to nats [S, B].
        module: Held in eval mode during every call, because dropout would make the target move under
            the chain; None leaves modes alone.
    """

    log_likelihood: Callable[[Tensor], Tensor]
    module: nn.Module | None = None

    def value(self, z: Tensor) -> Tensor:
        """Log p(x | z), without a graph."""
        with torch.no_grad(), evaluating(self.module):
            return self.log_likelihood(z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log p(x | z) and its gradient in z."""
        with evaluating(self.module), frozen(self.module):
            return value_and_gradient(self.log_likelihood, z)


@dataclass(frozen=True)
class Target:
    r"""The log joint :math:`\log p_\theta(x, z) = \log p_\theta(z) + \log p_\theta(x \mid z)` of a batch.

    It owns two traps once: gradients in z work under ``torch.no_grad()`` and leave every parameter's
    ``.grad`` as it was, and recurrent networks are differentiated without cuDNN, which has neither an
    eval-mode nor a double backward.

    Attributes:
        log_prior: Maps z [S, B, D] to nats [S, B]; differentiable in z and in the weights.
        log_likelihood: The same for log p(x | z); in the decoder's current mode, so with dropout while
            a weight step is taken.
        sample_prior: Maps S to draws of z, shape [S, B, D], without a graph.
        batch_size: B.
        dim: D.
        batch: Tokens and example ids, which encoders and persistent chains need; None for programs
            that are not about text.
        module: All that the two log-densities depend on, held in eval mode while inference looks at them,
            so that no dropout moves the target, be it in the prior; None leaves modes alone.
        select: Maps sentence indices to the target of those alone; None where a target cannot be cut.
        conditioned: log p(x | z) for inference: a decoder's exact fast route, or autograd.
        log_prior_and_grad: log p(z) and its gradient for inference, both without a graph and in eval mode, for which
            this one sees itself: modes are slow to switch. None for autograd.
        prior: p(z) as the distribution of one code, at the current weights; None where it is not one.
    """

    log_prior: Callable[[Tensor], Tensor]
    log_likelihood: Callable[[Tensor], Tensor]
    sample_prior: Callable[[int], Tensor]
    batch_size: int
    dim: int
    conditioned: ConditionedLikelihood
    batch: Batch | None = None
    module: nn.Module | None = None
    select: Callable[[Tensor], Target] | None = None
    log_prior_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    prior: Callable[[], Distribution] | None = None

    @staticmethod
    def from_program(
        program: Callable[..., Any],
        model_args: Sequence[Any] = (),
        model_kwargs: Mapping[str, Any] | None = None,
        *,
        plate: str | None = None,
    ) -> ProgramTarget:
        """The target of a Pyro program with continuous latent sites in a plate: see ``sri_pyro.program``.

        Args:
            program: A Pyro program.
            model_args: Its arguments, as a sequence; ``(y,)`` where there is one.
            model_kwargs: Its keyword arguments.
            plate: The name of the plate of the latents, where there are several.
        """
        from sri_pyro.program import target_from_program  # here, because programs make targets

        return target_from_program(program, model_args, model_kwargs, plate=plate)

    def log_joint(self, z: Tensor) -> Tensor:
        """Log p(x, z) in nats, shape [S, B]; differentiable in z and in the weights."""
        return self.log_prior(z) + self.log_likelihood(z)

    def value(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log p(z) and log p(x | z) in nats, each [S, B], without a graph and without dropout."""
        with torch.no_grad(), evaluating(self.module):
            return self.log_prior(z), self.conditioned.value(z)

    def value_and_grad(self, z: Tensor) -> JointGradient:
        """The log joint and its gradient in z, shape [S, B] and [S, B, D].

        Raises:
            RuntimeError: Under ``torch.inference_mode()``, where autograd is needed and cannot be had.
        """
        if self.log_prior_and_grad is None:
            with evaluating(self.module):
                log_prior, grad_prior = value_and_gradient(self.log_prior, z)
        else:
            log_prior, grad_prior = self.log_prior_and_grad(z)
        log_likelihood, grad_likelihood = self.conditioned.value_and_grad(z)
        return JointGradient(log_prior, log_likelihood, grad_prior, grad_likelihood)

    def log_joint_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log p(x, z) [S, B] and its gradient [S, B, D]: the posterior's drift, as transitions want it."""
        joint = self.value_and_grad(z)
        return joint.log_prior + joint.log_likelihood, joint.grad

    def hessian_vector_product(self, z: Tensor, vector: Tensor) -> Tensor:
        r""":math:`\nabla_z^2 \log p(x, z)\, v` for every chain, shape [S, B, D].

        By the route of ``conditioned`` where that knows its curvature, by double backward where it does not.
        """
        with gradients_allowed(), evaluating(self.module):
            if not isinstance(self.conditioned, CurvedLikelihood):
                return _hessian_vector_product(self.log_joint, z, vector)
            likelihood = self.conditioned.hessian_vector_product(z.detach(), vector.detach())
            return _hessian_vector_product(self.log_prior, z, vector) + likelihood

    def hessian(self, z: Tensor) -> Tensor:
        r""":math:`\nabla_z^2 \log p(x, z)` of every chain, shape [S, B, D, D], exactly symmetric.

        By the route of ``conditioned`` where that knows its curvature, in D double backwards where it does not.
        """
        with gradients_allowed(), evaluating(self.module):
            if not isinstance(self.conditioned, CurvedLikelihood):
                return _hessian(self.log_joint, z)
            return _hessian(self.log_prior, z) + self.conditioned.hessian(z.detach())


class Inference(Protocol):
    """Turns a target into draws. Short runs, encoders, guides and NUTS share this one signature."""

    def __call__(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Draw z for every sentence of the target, ``num_samples`` times.

        ``progress`` is how far training has come, for annealed methods; None while evaluating.
        """
        ...


class Objective(Protocol):
    """Turns a target and draws into the loss of one weight step."""

    def __call__(self, target: Target, draws: Draws, progress: Progress) -> Tensor:
        """The loss, a scalar; its gradient in the weights is the learning rule.

        It is a mean over the target's sentences, so that the mean over processes, weighted by their sentences, is
        the loss of the batch. What is a sum over sentences is divided by ``progress.share`` to that end.
        """
        ...


def value_and_gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """``function(z)`` [S, B] and its gradient in z [S, B, D], both detached; no other leaf is touched."""
    with gradients_allowed():
        z = z.detach().requires_grad_()
        value = function(z)
        # A decoder may leave z unread, as one without latent dimensions does: its gradient is zero.
        if not value.requires_grad:
            return value, torch.zeros_like(z)
        (grad,) = torch.autograd.grad(value.sum(), z, materialize_grads=True)
    return value.detach(), grad


def _differentiable_gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf with the values of z [S, B, D], and the gradient of ``function(z)`` [S, B] in it with its graph."""
    z = z.detach().requires_grad_()
    (grad,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
    # Where the function is linear its gradient has no graph; one is added, so that its derivative is zero.
    return z, grad if grad.requires_grad else grad + 0 * z


def _hessian_vector_product(function: Callable[[Tensor], Tensor], z: Tensor, vector: Tensor) -> Tensor:
    """The Hessian in z of ``function(z)`` times a vector of each chain's own, shape [S, B, D]."""
    z, grad = _differentiable_gradient(function, z)
    (product,) = torch.autograd.grad(grad, z, vector)
    return product


def _hessian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The Hessian in z of ``function(z)`` for every chain, shape [S, B, D, D], in D double backwards."""
    dim = z.shape[-1]
    if not dim:
        return z.new_zeros(*z.shape, 0)
    z, grad = _differentiable_gradient(function, z)
    rows = [torch.autograd.grad(grad[..., d].sum(), z, retain_graph=True)[0] for d in range(dim)]
    hessian = torch.stack(rows, dim=-2)
    return 0.5 * (hessian + hessian.mT)


@contextmanager
def gradients_allowed() -> Iterator[None]:
    """Let gradients in z be taken for a while, of recurrent networks twice.

    Raises:
        RuntimeError: Under ``torch.inference_mode()``.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "gradients in z cannot be taken under torch.inference_mode(); use torch.no_grad(), "
            "which is enough and which short runs respect."
        )
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """Let no parameter require a gradient for a while: autograd would compute the weights' along with that of z."""
    learned = [] if module is None else [weight for weight in module.parameters() if weight.requires_grad]
    for weight in learned:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learned:
            weight.requires_grad_()


@contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """Switch every submodule to eval mode for a while, then back to what it was."""
    if module is None:
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
