"""Priors: modules whose forward returns a Pyro distribution over one sentence's code z, built afresh."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from sri_pyro.numerics import keyed
from sri_pyro.target import value_and_gradient

LOG_TWO_PI = math.log(2 * math.pi)


class Prior(nn.Module, ABC):
    """p(z): a module that answers with a distribution of event shape [D].

    Attributes:
        dim: D, dimensions of z.
    """

    dim: int

    @abstractmethod
    def forward(self) -> dist.TorchDistribution:
        """The distribution at the current weights, without batch axes."""

    def log_prob_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log p(z) in nats [...] and its gradient in z [..., D], without a graph; here by autograd."""
        return value_and_gradient(lambda z: self().log_prob(z), z)

    def draw(self, keys: Tensor) -> Tensor:
        """One draw of z for every key, a function of the key and the weights alone, without a graph.

        This one seeds a fork of PyTorch's generator for each key in turn, which serves every distribution, and takes
        about 0.2 ms for each.

        Args:
            keys: Int64, any shape (``numerics.keyed``).

        Returns:
            Shape [*keys, D].
        """
        law = self()
        drawn = []
        for key in keys.flatten().tolist():
            with torch.no_grad(), keyed.seeded(key, keys.device):
                drawn.append(law.sample())
        return torch.stack(drawn).reshape(*keys.shape, -1)


def _require_dim(dim: int, least: int) -> int:
    if dim < least:
        raise ValueError(f"dim must be at least {least}; got {dim}.")
    return dim


class StandardNormal(Prior):
    r"""The prior :math:`p(z) = \mathcal{N}(0, I_D)`.

    With ``dim = 0`` there is no code at all, and a decoder on top of it is a plain language model.

    Args:
        dim: Latent dimension :math:`D`.

    Example:
        >>> StandardNormal(dim=32)().event_shape
        torch.Size([32])
    """

    loc: Tensor

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.dim = _require_dim(dim, least=0)
        self.register_buffer("loc", torch.zeros(dim))

    def forward(self) -> dist.TorchDistribution:
        """N(0, I)."""
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)

    @property
    def _another(self) -> bool:
        """Whether this is a prior that was made from this one and has another distribution."""
        return type(self).forward is not StandardNormal.forward

    def log_prob_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`-(\lVert z \rVert^2 + D \log 2\pi)/2` and :math:`-z`."""
        if self._another:
            return super().log_prob_and_grad(z)
        z = z.detach()
        return -0.5 * (z.square().sum(-1) + self.dim * LOG_TWO_PI), -z

    def draw(self, keys: Tensor) -> Tensor:
        """Keyed normals."""
        if self._another:
            return super().draw(keys)
        return keyed.normal(keys, (self.dim,), self.loc.dtype)


class GaussianMixture(Prior):
    r"""A learnable mixture :math:`p(z) = \sum_c \pi_c\, \mathcal{N}(\mu_c, \operatorname{diag} \sigma_c^2)`.

    Its weights climb :math:`\log p(z_K)` together with the decoder's.

    Args:
        dim: Latent dimension :math:`D`.
        components: Number of components.
        spread: Standard deviation of the initial means; they must differ, or they never part.

    Example:
        >>> prior = GaussianMixture(dim=4, components=3)
        >>> prior().log_prob(prior().sample((7,))).shape
        torch.Size([7])
    """

    def __init__(self, dim: int = 32, components: int = 10, spread: float = 1.0) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1; got {components}.")
        if spread < 0:
            raise ValueError(f"spread must be at least 0; got {spread}.")
        self.dim = _require_dim(dim, least=1)
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(spread * torch.randn(components, dim))
        self.log_scales = nn.Parameter(torch.zeros(components, dim))

    def forward(self) -> dist.TorchDistribution:
        """The mixture at the current weights."""
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits),
            dist.Normal(self.means, self.log_scales.exp()).to_event(1),
        )

    @torch.no_grad()
    def draw(self, keys: Tensor) -> Tensor:
        """A component by the inverse of its distribution function, and a keyed normal within it."""
        if type(self).forward is not GaussianMixture.forward:  # a prior that was made from this one
            return super().draw(keys)
        of_component, of_place = (keyed.folded(keys, keys.new_tensor(i)) for i in range(2))
        below = self.logits.double().softmax(-1).cumsum(-1)
        component = torch.searchsorted(below, keyed.uniform(of_component, (), torch.float64).contiguous())
        component = component.clamp_(max=len(below) - 1)  # where rounding leaves the last sum below 1
        noise = keyed.normal(of_place, (self.dim,), self.means.dtype)
        return self.means[component] + self.log_scales[component].exp() * noise
