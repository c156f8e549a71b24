r"""Local variational inference: a diagonal Gaussian fitted to every sentence, by gradients taken by hand.

Axes: S draws, M draws that a fit's gradient averages, B sentences, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from sri_pyro.inference.amortized import standard_normals
from sri_pyro.numerics.keyed import Purpose
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress

Optimizer = Literal["adam", "sgd"]
FitNoise = Callable[[int], Tensor]
"""Maps the number of a step to N(0, I) of shape [M, B, D]."""


def fit_gaussians(
    target: Target,
    mean: Tensor,
    log_scale: Tensor,
    noise: FitNoise,
    num_steps: int,
    optimizer: Optimizer = "adam",
    learning_rate: float = 0.1,
    momentum: float = 0.5,
) -> tuple[Tensor, Tensor]:
    r"""Climb the evidence lower bound of every sentence in the moments of its own diagonal Gaussian.

    With :math:`z = \mu + \sigma\epsilon` and :math:`g = \nabla_z \log p(x, z)`, the gradient of
    :math:`\mathbb{E} \log p(x, z) + \mathbb{H}(q)` is

    .. math:: \nabla_\mu = \mathbb{E}\, g, \qquad \nabla_{\log \sigma} = \mathbb{E}\,[g\,\sigma\,\epsilon] + 1,

    estimated by the mean over M noises. Both parts go uphill by ``optimizer``, number by number, so that what is
    fitted to one sentence does not depend on the others. No graph is made.

    Args:
        target: Whose log joint is approximated.
        mean: Where the means start, shape [B, D]; of the prior, or what an encoder says. Not modified.
        log_scale: The same for the logarithms of the standard deviations.
        noise: Of every step.
        num_steps: Steps of the optimiser, each of M gradients.
        optimizer: ``adam`` or ``sgd``.
        learning_rate: Of either.
        momentum: Of ``sgd``.

    Returns:
        Means and log standard deviations, each [B, D].

    Raises:
        FloatingPointError: If a gradient is not finite; names the first such sentence of the batch.

    References:
        Gradients: Kingma and Welling (2014), Eq. 10, with the entropy in closed form.
    """
    mean, log_scale = (part.detach().clone() for part in (mean, log_scale))
    parts = [mean, log_scale]
    if optimizer == "adam":
        climb: torch.optim.Optimizer = torch.optim.Adam(parts, learning_rate, maximize=True)
    else:
        climb = torch.optim.SGD(parts, learning_rate, momentum, maximize=True)
    for step in range(num_steps):
        spread = noise(step) * log_scale.exp()
        _, grad = target.log_joint_and_grad(mean + spread)
        mean.grad, log_scale.grad = grad.mean(0), (grad * spread).mean(0) + 1
        _require_finite(mean.grad, log_scale.grad)
        climb.step()
    return mean.detach(), log_scale.detach()


def _require_finite(*gradients: Tensor) -> None:
    broken = ~torch.cat([gradient.isfinite() for gradient in gradients], -1).all(-1)
    if bool(broken.any()):
        raise FloatingPointError(
            f"the gradient of the bound of sentence {int(broken.nonzero()[0])} of the batch is not finite; lower "
            "learning_rate of the inference, or check the decoder's weights and the data."
        )


class LocalGaussians(nn.Module):
    r"""Draw z from a diagonal Gaussian that is fitted to every sentence anew: variational EM with local parameters.

    .. math:: q_b = \mathcal{N}(\mu_b, \operatorname{diag} \sigma_b^2) \approx
              \arg\max_q \mathbb{E}_q[\log p(x_b, z) - \log q(z)],

    by ``num_steps`` steps of ``fit_gaussians`` from mean 0 and deviation 1. The draws use noise that the fit has not
    seen, so that :math:`\log p(x, z) - \log q(z)` averages to a lower bound of log p(x) however few steps and noises
    the fit had: scored on its own noise, a fit looks better than it is. ``log_q`` is the density of the draws, exactly.
    Nothing is remembered between calls, and the draws carry no graph.

    Noise is keyed where the batch has a key: what is fitted and drawn is then a function of the weights, the key
    and the sentence.

    Args:
        num_steps: Steps of the optimiser, each of ``num_particles`` gradients.
        num_particles: Noises that the gradient of a step averages, M.
        optimizer: ``adam`` or ``sgd``.
        learning_rate: Of the fit; its gradients are of one sentence, not of a batch's mean.
        momentum: Of ``sgd``; ``adam`` has its own.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> target = LatentTextModel(StandardNormal(4), decoder).target(Batch(torch.tensor([[7, 9, 3]])))
        >>> draws = LocalGaussians(num_steps=5)(target, 6)
        >>> draws.log_q.shape, draws.info["mean"].shape
        (torch.Size([6, 1]), torch.Size([1, 4]))

    References:
        Hoffman, Blei, Wang, Paisley (2013), Stochastic variational inference; for text, the local steps of Kim,
        Wiseman, Miller, Sontag, Rush (2018), Semi-amortized variational autoencoders.
    """

    def __init__(
        self,
        num_steps: int = 20,
        num_particles: int = 1,
        optimizer: Optimizer = "adam",
        learning_rate: float = 0.1,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in (("num_steps", num_steps), ("num_particles", num_particles)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if optimizer not in get_args(Optimizer):
            raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(get_args(Optimizer))}.")
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise ValueError(f"learning_rate must be a positive finite number; got {learning_rate}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1; got {momentum}.")
        self.num_steps = num_steps
        self.num_particles = num_particles
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Fit every sentence, then draw.

        Returns:
            Draws with their law, its density and ``info``: ``mean`` and ``log_scale`` of every sentence, [B, D].

        Raises:
            FloatingPointError: If a gradient is not finite.
        """
        like = target.sample_prior(1)[0]
        mean, log_scale = fit_gaussians(
            target, torch.zeros_like(like), torch.zeros_like(like),
            lambda step: standard_normals(target.batch, like, self.num_particles, step, Purpose.FIT),
            self.num_steps, self.optimizer, self.learning_rate, self.momentum,
        )  # fmt: skip
        fresh = standard_normals(target.batch, like, num_samples, purpose=Purpose.DRAW)
        log_q = -(0.5 * fresh.square() + log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)
        law = Independent(Normal(mean, log_scale.exp()), 1)
        info = {"mean": mean, "log_scale": log_scale}
        return Draws(mean + log_scale.exp() * fresh, log_q, info, law)
