r"""Semi-amortised inference: an encoder's Gaussian, refined for every sentence by steps up its own evidence bound.

Axes: S draws, B sentences, D latent dimensions, K steps, W weights. Moments are mean and log-variance, [2, B, D].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sri_pyro.inference.amortized import readable, reparameterised, standard_normals
from sri_pyro.inference.bounds import kl_by_dimension
from sri_pyro.models.encoders import Encoder
from sri_pyro.numerics.kl_weights import ConstantWeight, KLWeight
from sri_pyro.numerics.schedules import require_not_negative, require_positive
from sri_pyro.target import Target, evaluating, gradients_allowed
from sri_pyro.types import Draws, Progress


class SemiAmortized(nn.Module):
    r"""Refine an encoder's Gaussian by K steps up the bound, then draw z from it with fresh noise.

    From the encoder's :math:`\lambda_0 = (\mu, \log \sigma^2)`, with the loss of a sentence
    :math:`\ell_b = -\log p_\theta(x_b \mid z) + \beta\, \mathrm{KL}(q_\lambda \| p)` at one
    :math:`z = \mu + \sigma \epsilon_k`, its noise another in every step, and a velocity :math:`v_0 = 0`,

    .. math:: v_{k+1} = m v_k - \operatorname{clip}\big(\tfrac1N \nabla_\lambda \textstyle\sum_b \ell_b\big),
              \qquad \lambda_{k+1} = \lambda_k + s\, v_{k+1} .

    A step s on the mean loss of a batch of N moves a sentence by s/N times its own gradient. N is ``nominal_batch``,
    and not the batch at hand, so that a sentence is refined alike among few and many. Gradients in the mean and in the
    log-variance are clipped separately: the norm of a batch is :math:`\sqrt{N}` times the root of the mean over its
    sentences of :math:`\lVert \tfrac1N \nabla \ell_b \rVert^2`, which for N sentences is its plain norm. Where it is
    clipped, and nowhere else, what is drawn for a sentence depends on the others of its batch; and of several
    processes each clips by its own part, so that their draws are then not quite those of one.

    The draws have an exact density and a ``law``, given the noise of the refinement. ``through`` says what they teach:

    - ``exact``: the objective's gradient is that of the whole computation. It goes back through every step, by second
      derivatives, to the encoder; and in the weights of the model it has, besides the part at the draws, the one
      through the refinement. A backward pass computes each step anew, so that no more than K moments are kept.
    - ``stop``: the gradients :math:`\nabla \ell` are constants. The encoder's gradient is then that of the objective
      in :math:`\lambda_K`, as though the encoder had given :math:`\lambda_K` itself, and the model learns at the
      draws alone. It costs a fraction, and no second derivative.

    The authors' code differs in this: products with second derivatives are finite differences of width 1e-5 and are
    clipped once more at every step, while the derivative of the first clipping is left out; dropout is on during the
    refinement, with one seed for a step and its reversal, where here it is off (a bound that moves is none to climb;
    with ``inference_dropout = "shared"`` it is that of the weight step's thinned network). In their ablation without
    second derivatives the encoder climbs the bound at its own moments, or follows
    :math:`\mathrm{KL}(q_{\lambda_0} \| q_{\lambda_K})`, instead of ``stop``.

    Noise is keyed where the target's batch has a key. Give the objective the same ``kl_weight``.

    Args:
        encoder: q(z | x) at first, independent normals.
        num_steps: K, steps of the refinement.
        step_size: s, of a step on the mean loss of ``nominal_batch`` sentences.
        momentum: m, the share of the velocity that stays.
        clip_norm: The largest norm of a batch's gradient; 0 clips nothing.
        nominal_batch: N, the sentences over whose mean ``step_size`` and ``clip_norm`` are quoted; the authors' batch.
        through: ``exact`` or ``stop``.
        kl_weight: :math:`\beta` over training; 1 by default.

    Raises:
        ValueError: If an option is out of range; when it draws, if the target is not about sentences or has another
            number of dimensions, or moves while it is looked at and ``through`` is ``exact``.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, LSTMEncoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> target = LatentTextModel(StandardNormal(4), decoder).target(Batch(torch.tensor([[7, 9, 3]])))
        >>> encoder = LSTMEncoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> draws = SemiAmortized(encoder, num_steps=3)(target, num_samples=5)
        >>> draws.z.shape, draws.log_q.shape, draws.law.batch_shape
        (torch.Size([5, 1, 4]), torch.Size([5, 1]), torch.Size([1]))

    References:
        Kim, Wiseman, Miller, Sontag, Rush (2018), Algorithm 1. Gradients held constant: Finn, Abbeel, Levine (2017).
    """

    def __init__(
        self,
        encoder: Encoder,
        num_steps: int = 20,
        step_size: float = 1.0,
        momentum: float = 0.5,
        clip_norm: float = 5.0,
        nominal_batch: int = 32,
        through: Literal["exact", "stop"] = "exact",
        kl_weight: KLWeight | None = None,
    ) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(
                f"num_steps must be at least 1; got {num_steps}. For an encoder alone use the inference 'amortized'."
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1; got {momentum}.")
        if through not in ("exact", "stop"):
            raise ValueError(f"unknown through {through!r}; known: exact, stop.")
        require_positive(step_size=step_size, nominal_batch=nominal_batch)
        require_not_negative(clip_norm=clip_norm)
        self.encoder = encoder
        self.num_steps = num_steps
        self.step_size = step_size
        self.momentum = momentum
        self.clip_norm = clip_norm
        self.nominal_batch = nominal_batch
        self.through = through
        self.kl_weight = kl_weight or ConstantWeight()

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Refine the law of every sentence, and draw from it ``num_samples`` times."""
        batch = readable(target, self.encoder)
        law = self.encoder(batch)
        start = torch.stack([law.mean, 2 * law.stddev.log()])
        climb = Climb(
            target, self.kl_weight(progress), self.step_size, self.momentum, self.clip_norm, self.nominal_batch
        )  # fmt: skip
        noise = standard_normals(batch, law.mean, self.num_steps, index=1)  # the draws below take index 0
        if self.through == "exact" and torch.is_grad_enabled():
            refined = differentiable(climb, start, noise)
        else:
            refined = start + (climb.path(start.detach(), noise)[-1].moments - start.detach())
        law = gaussian(refined)
        z = reparameterised(law, batch, num_samples)
        return Draws(z, law.log_prob(z), law=law)


class State(NamedTuple):
    """Where the refinement stands: moments and their velocity, each [2, B, D]."""

    moments: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Climb:
    """The refinement of one batch, as a function of where it starts, of its noise and of the model's weights.

    Attributes:
        target: Of the batch.
        kl_weight: At this moment of training.
        step_size: See ``SemiAmortized``; so the rest.
        momentum: Share of the velocity that stays.
        clip_norm: The largest norm of a batch's gradient.
        nominal_batch: Sentences of that batch.
    """

    target: Target
    kl_weight: float
    step_size: float
    momentum: float
    clip_norm: float
    nominal_batch: int

    def path(self, start: Tensor, noise: Tensor) -> list[State]:
        """All states from the start [2, B, D] on under noise [K, B, D], without a graph."""
        states = [State(start, torch.zeros_like(start))]
        with evaluating(self.target.module):
            for epsilon in noise:
                moments, velocity = states[-1]
                states.append(self.moved(moments, velocity, self.gradient(moments, epsilon)))
        return states

    def moved(self, moments: Tensor, velocity: Tensor, gradient: Tensor) -> State:
        """The next state; differentiable in all."""
        velocity = self.momentum * velocity - self.clipped(gradient / self.nominal_batch)
        return State(moments + self.step_size * velocity, velocity)

    def clipped(self, gradient: Tensor) -> Tensor:
        """Gradients [2, B, D] of a mean, those in the mean and in the log-variance each of a norm that is allowed."""
        if not self.clip_norm:
            return gradient
        share = math.sqrt(self.nominal_batch / gradient.shape[1])
        norm: Tensor = share * torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True)
        return gradient * (self.clip_norm / norm.clamp_min(self.clip_norm))

    def gradient(self, moments: Tensor, epsilon: Tensor) -> Tensor:
        r""":math:`\nabla_\lambda \sum_b \ell_b` [2, B, D] at noise [B, D], without a graph, by the fast route."""
        with gradients_allowed():
            moments = moments.detach().requires_grad_()
            z = drawn(moments, epsilon)
            _, slope = self.target.conditioned.value_and_grad(z)
            loss = -(slope * z).sum() + self.kl_weight * self._kl(moments, z)
            (gradient,) = torch.autograd.grad(loss, moments)
        return gradient

    def gradient_with_graph(self, moments: Tensor, epsilon: Tensor) -> Tensor:
        """The same, differentiable in the moments, which have a graph, and in the weights."""
        z = drawn(moments, epsilon)
        loss = -self.target.log_likelihood(z).sum() + self.kl_weight * self._kl(moments, z)
        (gradient,) = torch.autograd.grad(loss, moments, create_graph=True)
        return gradient

    def _kl(self, moments: Tensor, z: Tensor) -> Tensor:
        """KL(q || p) of all sentences; at the draw where it has no closed form."""
        law = gaussian(moments)
        exact = kl_by_dimension(law, self.target.prior() if self.target.prior else None)
        return (law.log_prob(z) - self.target.log_prior(z) if exact is None else exact).sum()


def gaussian(moments: Tensor) -> dist.TorchDistribution:
    """The law of batch shape [B] and event shape [D] that has these moments [2, B, D]."""
    mean, log_variance = moments
    return dist.Normal(mean, (0.5 * log_variance).exp(), validate_args=False).to_event(1)


def drawn(moments: Tensor, epsilon: Tensor) -> Tensor:
    """One draw [1, B, D] of a law of moments [2, B, D] at noise [B, D]."""
    mean, log_variance = moments
    z: Tensor = mean + (0.5 * log_variance).exp() * epsilon
    return z[None]


def differentiable(climb: Climb, start: Tensor, noise: Tensor) -> Tensor:
    """The refined moments, differentiable in the start and in the model's weights.

    Raises:
        ValueError: If the target moves while it is looked at: the way back would not be that of the way there.
    """
    if climb.target.module is None:
        raise ValueError(
            "through = 'exact' looks at the model twice and needs it to stand still, which it does not with "
            "inference_dropout = 'fresh'; use 'off' or 'shared', or through = 'stop'."
        )
    weights = [weight for weight in climb.target.module.parameters() if weight.requires_grad]
    refined: Tensor = _Refinement.apply(climb, noise, start, *weights)  # type: ignore[no-untyped-call]
    return refined


class _Refinement(torch.autograd.Function):
    """Steps forward without a graph, and back with one for each step in turn: K times the memory of moments."""

    @staticmethod
    def forward(ctx: Any, climb: Climb, noise: Tensor, start: Tensor, *weights: Tensor) -> Tensor:
        states = climb.path(start, noise)
        ctx.climb = climb
        ctx.save_for_backward(
            noise, *(torch.stack(kept) for kept in zip(*states[:-1], strict=True)), *weights
        )
        return states[-1].moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_moments: Tensor) -> tuple[Tensor | None, ...]:
        climb: Climb = ctx.climb
        noise, moments, velocities, *weights = ctx.saved_tensors  # refuses weights that have changed since
        of_velocity = torch.zeros_like(of_moments)
        of_weights = [torch.zeros_like(weight) for weight in weights]
        with gradients_allowed(), evaluating(climb.target.module):
            for k in range(len(noise) - 1, -1, -1):
                here = State(moments[k].requires_grad_(), velocities[k].requires_grad_())
                ahead = climb.moved(*here, climb.gradient_with_graph(here.moments, noise[k]))
                of_moments, of_velocity, *parts = torch.autograd.grad(
                    ahead, [*here, *weights], [of_moments, of_velocity], materialize_grads=True
                )
                for total, part in zip(of_weights, parts, strict=True):
                    total += part
        return None, None, of_moments, *of_weights
