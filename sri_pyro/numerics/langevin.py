r"""Langevin transitions: pure functions of position, gradient and noise, and the loop that runs K of them.

One convention everywhere: the step size :math:`s` multiplies the gradient itself, and the noise has
standard deviation :math:`\tau\sqrt{2s}` with noise scale :math:`\tau` (temperature :math:`\tau^2`).
A step quoted under the :math:`\delta^2/2` convention is ported as :math:`s = \delta^2/2`.

Axes: S draws, B sentences, D latent dimensions; any leading shape works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

Scalar = float | Tensor
ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps z, shape [S, B, D], to log p(x, z) in nats, shape [S, B], and its gradient, shape [S, B, D]."""
Noise = Callable[[int, Tensor], Tensor]
"""Maps the index of a noise (0 when the chain begins, k + 1 in step k) and z to N(0, I) like z."""
Visit = Callable[[int, Tensor, Tensor, Tensor], None]
"""Sees (k, z_k, log p(x, z_k), its gradient) before step k is taken."""


class StepSizes(NamedTuple):
    """The step sizes around one transition.

    Attributes:
        previous: Of the step before; 0 in the first step.
        current: Of this step.
        following: Of the next step; the current one again in the last step.
    """

    previous: Scalar
    current: Scalar
    following: Scalar


class Integrator(Protocol):
    """A discretisation of Langevin dynamics that spends one gradient per step.

    Both methods are pure; ``memory`` is all that a chain remembers besides its position. They are
    differentiable in every argument, so tangents in the step size pass through them.

    Attributes:
        moves_position_only: Whether a step, its noise held fixed, is a map of z alone with Jacobian
            I + s H; so for ``ula`` and ``lm``, not for ``baoab``.
    """

    moves_position_only: ClassVar[bool]

    def begin(self, z: Tensor, step: Scalar, noise_scale: float, noise: Tensor) -> Tensor:
        """The memory of a chain that stands at z and has not moved yet."""
        ...

    def advance(
        self,
        z: Tensor,
        memory: Tensor,
        grad: Tensor,
        steps: StepSizes,
        noise_scale: float,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Position and memory after one step, given the gradient at z."""
        ...


@dataclass(frozen=True)
class UnadjustedLangevin:
    r"""The Euler-Maruyama transition of the paper (``ula``).

    .. math:: z' = z + s\,\nabla_z \log p(x, z) + \tau\sqrt{2s}\,\epsilon

    On a Gaussian target of precision :math:`\lambda` it settles at variance
    :math:`\tau^2 / (\lambda (1 - s\lambda/2))`, too wide by a factor of order :math:`s`.

    References:
        Pang, Nijkamp, Han, Wu (2021), Eq. 7.
    """

    moves_position_only: ClassVar[bool] = True

    def begin(self, z: Tensor, step: Scalar, noise_scale: float, noise: Tensor) -> Tensor:
        """Nothing is remembered."""
        return torch.zeros_like(z)

    def advance(
        self,
        z: Tensor,
        memory: Tensor,
        grad: Tensor,
        steps: StepSizes,
        noise_scale: float,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One Euler-Maruyama step."""
        step = steps.current
        return z + step * grad + noise_scale * (2 * step) ** 0.5 * noise, memory


@dataclass(frozen=True)
class LeimkuhlerMatthews:
    r"""Langevin with the mean of two consecutive noises (``lm``).

    .. math:: z_{k+1} = z_k + s_k \nabla_z \log p(x, z_k)
              + \tau\left(\sqrt{s_k/2}\,\epsilon_k + \sqrt{s_{k+1}/2}\,\epsilon_{k+1}\right)

    Same cost as ``ula``; on a Gaussian target the stationary law is exact for every stable step.
    The memory is the half of a noise that the next step uses again.

    References:
        Leimkuhler and Matthews (2013), Rational construction of stochastic numerical methods.
    """

    moves_position_only: ClassVar[bool] = True

    def begin(self, z: Tensor, step: Scalar, noise_scale: float, noise: Tensor) -> Tensor:
        """The first half noise."""
        return noise_scale * (step / 2) ** 0.5 * noise

    def advance(
        self,
        z: Tensor,
        memory: Tensor,
        grad: Tensor,
        steps: StepSizes,
        noise_scale: float,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One step; its second half noise is remembered."""
        fresh = noise_scale * (steps.following / 2) ** 0.5 * noise
        return z + steps.current * grad + memory + fresh, fresh


@dataclass(frozen=True)
class Baoab:
    r"""Underdamped Langevin, split as kick, drift, refresh, drift, kick (``baoab``).

    With :math:`h = \sqrt{2s}`, so that infinite friction gives back ``lm``, and
    :math:`c = e^{-\gamma h}`:

    .. math:: v \leftarrow v + \tfrac h2 \nabla; \quad z \leftarrow z + \tfrac h2 v; \quad
              v \leftarrow c v + \tau\sqrt{1 - c^2}\,\epsilon; \quad
              z \leftarrow z + \tfrac h2 v; \quad v \leftarrow v + \tfrac h2 \nabla

    The closing kick of a step and the opening one of the next use the same gradient, so K steps
    cost K gradients; the very last kick moves no position and is left out. The memory is v.

    Args:
        friction: :math:`\gamma > 0`, in inverse units of h.

    References:
        Leimkuhler and Matthews (2013).
    """

    friction: float = 2.0
    moves_position_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.friction > 0:
            raise ValueError(
                f"friction must be positive; got {self.friction}. For the limit of infinite "
                "friction use the integrator 'lm'."
            )

    def begin(self, z: Tensor, step: Scalar, noise_scale: float, noise: Tensor) -> Tensor:
        """A velocity from its stationary law."""
        return noise_scale * noise

    def advance(
        self,
        z: Tensor,
        memory: Tensor,
        grad: Tensor,
        steps: StepSizes,
        noise_scale: float,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Kick (closing the step before, opening this one), drift, refresh, drift."""
        h = (2 * steps.current) ** 0.5
        kick = ((2 * steps.previous) ** 0.5 if _positive(steps.previous) else 0.0) + h
        velocity = memory + kick / 2 * grad
        z = z + h / 2 * velocity
        decay = torch.exp(torch.as_tensor(-self.friction * h, dtype=z.dtype, device=z.device))
        velocity = decay * velocity + noise_scale * (1 - decay**2) ** 0.5 * noise
        return z + h / 2 * velocity, velocity


def _positive(step: Scalar) -> bool:
    # The square root has no derivative at 0, which stands for "no step before this one".
    return not (isinstance(step, float | int) and step == 0)


INTEGRATORS: MappingProxyType[str, type[Integrator]] = MappingProxyType(
    {"ula": UnadjustedLangevin, "lm": LeimkuhlerMatthews, "baoab": Baoab}
)


def standard_normal(index: int, like: Tensor) -> Tensor:
    """Fresh N(0, I) of the shape of z from PyTorch's global generator; the default noise."""
    return torch.randn_like(like)


def neighbours(step_sizes: Sequence[Scalar]) -> list[StepSizes]:
    """Each step size with the one before (0 at first) and the one after (itself at last).

    Example:
        >>> neighbours([0.2, 0.1])
        [StepSizes(previous=0.0, current=0.2, following=0.1),
         StepSizes(previous=0.2, current=0.1, following=0.1)]
    """
    previous = [0.0, *step_sizes[:-1]]
    following = [*step_sizes[1:], step_sizes[-1]]
    return [StepSizes(*steps) for steps in zip(previous, step_sizes, following, strict=True)]


def run_langevin(
    value_and_grad: ValueAndGrad,
    z: Tensor,
    step_sizes: Sequence[Scalar],
    integrator: Integrator,
    *,
    noise_scale: float = 1.0,
    noise: Noise = standard_normal,
    visit: Visit | None = None,
) -> Tensor:
    r"""Run one chain per row of z for K transitions and return where they end.

    Chains do not interact and no move is rejected: the law of :math:`z_K` is not the posterior, and
    it has no closed density unless the target is Gaussian.

    Args:
        value_and_grad: The log joint and its gradient in z.
        z: Where the chains start, shape [S, B, D]. Not modified.
        step_sizes: :math:`s_0, \dots, s_{K-1}`, each positive; their number is K.
        integrator: One of ``INTEGRATORS``, built.
        noise_scale: :math:`\tau`; 1 samples, 0 ascends.
        noise: Where noise comes from; keyed noise makes a run independent of the batch's order.
        visit: Called with (k, z_k, log joint, gradient) before step k.

    Returns:
        :math:`z_K`, shape [S, B, D]. Not checked for divergence: see ``ShortRunLangevin``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> standard = lambda z: (-0.5 * z.square().sum(-1), -z)
        >>> run_langevin(standard, torch.zeros(2, 1, 3), [0.1] * 5, LeimkuhlerMatthews()).shape
        torch.Size([2, 1, 3])
    """
    if not step_sizes or min(float(step) for step in step_sizes) <= 0:
        raise ValueError(f"step_sizes must be at least one positive number; got {list(step_sizes)}.")
    memory = integrator.begin(z, step_sizes[0], noise_scale, noise(0, z))
    for k, steps in enumerate(neighbours(step_sizes)):
        log_joint, grad = value_and_grad(z)
        if visit is not None:
            visit(k, z, log_joint, grad)
        z, memory = integrator.advance(z, memory, grad, steps, noise_scale, noise(k + 1, z))
    return z
