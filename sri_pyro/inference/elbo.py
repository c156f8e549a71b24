r"""An ELBO for Pyro's own users: a weight on the KL, free bits, and closed forms, for any program and guide.

Axes: B rows of a plate, D latent dimensions of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.util import check_fully_reparametrized, torch_item
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from sri_pyro.inference.bounds import kl_by_dimension
from sri_pyro.inference.points import Point
from sri_pyro.numerics.free_bits import FreeBitsPer, require_free_bits, with_free_bits
from sri_pyro.numerics.kl_weights import ConstantWeight, KLWeight
from sri_pyro.types import Progress

Site = Mapping[str, Any]
PARTICLES: Final = "num_particles_vectorized"
"""Pyro's name for the plate of its particles."""


class AnnealedELBO(TraceMeanField_ELBO):  # type: ignore[misc]  # Pyro is not typed
    r"""The negative evidence lower bound with a weight on its KL, and free bits, for any Pyro program and guide.

    .. math:: \mathcal{L} = -\mathbb{E}_q \log p(x \mid z)
              + \beta \sum_b \mathrm{KL}^{\lambda}\big(q(z_b \mid x) \,\|\, p(z_b)\big)

    in nats of all rows together, as Pyro's bounds are: B times the objective ``elbo``, whose arguments these are. Its
    place is that of Pyro's own: ``SVI(model, guide, optim, loss=AnnealedELBO(...))``, or as a module,
    ``AnnealedELBO(...)(model, guide)``, over whose parameters an optimiser of ``torch.optim`` goes.

    A site's KL is exact where Pyro knows a closed form, be it that of an ``AutoNormal`` or of a guide made of an
    encoder by ``as_guide``; else it is the draw's :math:`\log q - \log p`. With a weight of 1 and no free bits this is
    ``TraceMeanField_ELBO``; where no form is closed, ``Trace_ELBO``. The guide's latents must be reparameterised
    throughout, and independent given the data if a form is closed. Scales of plates that subsample, and masks, count
    as ever: free bits are of a row, before the scale.

    Args:
        kl_weight: :math:`\beta`, or a schedule of ``numerics.kl_weights``, which reads ``progress``.
        free_bits: :math:`\lambda`, nats a row that cost nothing; 0 for none. They need all latents in one plate.
        free_bits_per: ``dimension``: each of the D of a row, over all its sites, has :math:`\lambda / D` of them;
            ``sentence``: each row has all; ``batch``: the mean over the rows of the plate has.
        options: Those of Pyro's ELBO: ``num_particles``, ``vectorize_particles``, ``max_plate_nesting``.

    Attributes:
        progress: How far training has come; set it before a step. None stands for evaluation: the final weight.

    Raises:
        ValueError: If ``free_bits`` is negative or ``free_bits_per`` unknown; in a step, if free bits are asked for
            where latents are not in one plate, or do not part into dimensions.
        NotImplementedError: In a step, if a latent of the guide is not reparameterised.
        RuntimeError: In a step, if the guide's draws have no density, as those of short runs.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("rows", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("rows", len(x)):
        ...         pyro.sample("z", dist.Normal(0.5 * x, 0.7))
        >>> bound = AnnealedELBO(kl_weight=0.5, free_bits=0.1)
        >>> bound.loss(model, guide, torch.tensor([0.3, -1.2])) > 0
        True

    References:
        Annealing: Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio (2016). Free bits: see ``numerics.free_bits``.
    """

    def __init__(
        self,
        kl_weight: KLWeight | float = 1.0,
        free_bits: float = 0.0,
        free_bits_per: FreeBitsPer = "dimension",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        require_free_bits(free_bits, free_bits_per)
        self.kl_weight = ConstantWeight(float(kl_weight)) if isinstance(kl_weight, int | float) else kl_weight
        self.free_bits = free_bits
        self.free_bits_per: FreeBitsPer = free_bits_per
        self.progress: Progress | None = None

    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The loss, a number."""
        return float(torch_item(self.differentiable_loss(model, guide, *args, **kwargs)))

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss with its graph."""
        return self._of(list(self._get_traces(model, guide, args, kwargs)))

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The loss, a number, its gradient left in what passed through ``pyro.param`` or ``pyro.module``."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        loss = self._of(traces)
        sites = (site for pair in traces for trace in pair for site in trace.nodes.values())
        if loss.requires_grad and any(site["type"] == "param" for site in sites):
            loss.backward(retain_graph=self.retain_graph)  # type: ignore[no-untyped-call]
        return float(torch_item(loss))

    def _of(self, traces: list[tuple[Trace, Trace]]) -> Tensor:
        """The loss of all particles, be they in one pair of traces or in one each."""
        reconstruction = -sum(
            site["log_prob_sum"]
            for model_trace, _ in traces
            for site in model_trace.nodes.values()
            if site["type"] == "sample" and site["is_observed"]
        )
        particles = [list(_divergences(*pair)) for pair in traces]
        loss: Tensor = reconstruction / self.num_particles + self.kl_weight(self.progress) * self._kl(
            particles
        )
        return loss

    def _kl(self, particles: list[list[Divergence]]) -> Tensor:
        """KL of all rows, mean over particles."""
        first = particles[0]
        if not self.free_bits or not first:
            totals = [each.total for divergences in particles for each in divergences]
            total: Tensor = sum(totals, torch.zeros(())) / self.num_particles
            return total
        if self.free_bits_per == "dimension" and (whole := [each.name for each in first if not each.parted]):
            raise ValueError(
                f"free_bits_per = 'dimension' needs a KL that parts into dimensions, and that of the site "
                f"{whole[0]!r} does not, as that of independent normals does; use 'sentence'."
            )
        kl = torch.stack(
            [torch.cat([each.rows for each in divergences], -1) for divergences in particles]
        ).mean(0)
        weight = first[0].row_weights
        if any(not torch.equal(each.row_weights, weight) for each in first):
            raise ValueError("free bits need latents of one scale and mask; set free_bits = 0.")
        counted = weight > 0
        return (weight[counted] * with_free_bits(kl[counted], self.free_bits, self.free_bits_per)).sum()


class Divergence(NamedTuple):
    """The KL of one latent site, or what an auxiliary site adds to it.

    Attributes:
        name: Of the site.
        kl: By latent dimension where it parts, else whole: [*batch shape, D or 1], without scale and mask.
        parted: Whether its last axis is that of the dimensions.
        site: In the guide's trace.
    """

    name: str
    kl: Tensor
    parted: bool
    site: Site

    @property
    def total(self) -> Tensor:
        """Of all rows and particles, with scale and mask."""
        total: Tensor = scale_and_mask(self.kl.sum(-1), self.site["scale"], self.site["mask"]).sum()
        return total

    @property
    def rows(self) -> Tensor:
        """Of every row, mean over particles, [B, D or 1], without scale and mask."""
        return self._by_row(self.kl)

    @property
    def row_weights(self) -> Tensor:
        """Scale of every row, 0 where it is masked, shape [B]."""
        ones = torch.ones_like(self.kl[..., 0])
        return self._by_row(scale_and_mask(ones, self.site["scale"], self.site["mask"])[..., None])[:, 0]

    def _by_row(self, values: Tensor) -> Tensor:
        plates = [
            frame for frame in self.site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES
        ]
        if len(plates) != 1:
            names = ", ".join(frame.name for frame in plates) or "none"
            raise ValueError(
                f"free bits are of the rows of one plate, and the plates of the site {self.name!r} are: {names}; "
                "put all latents into one plate, or set free_bits = 0."
            )
        rows = values.movedim(plates[0].dim - 1, 0)
        return rows.reshape(len(rows), -1, values.shape[-1]).mean(1)


def _divergences(model_trace: Trace, guide_trace: Trace) -> Iterator[Divergence]:
    """The KL of every latent site of a model, and the densities of what the guide draws besides."""
    auxiliary = {
        name: site
        for name, site in guide_trace.nodes.items()
        if site["type"] == "sample" and name not in model_trace.nodes
    }
    for name, prior in model_trace.nodes.items():
        if prior["type"] != "sample" or prior["is_observed"]:
            continue
        site = guide_trace.nodes[name]
        check_fully_reparametrized(site)
        law, behind = _law(site, auxiliary)
        auxiliary.pop(behind, None)
        yield _divergence(name, law, site, prior)
    for name, site in auxiliary.items():
        check_fully_reparametrized(site)
        yield Divergence(name, site["unscaled_log_prob"][..., None], False, site)


def _law(site: Site, auxiliary: Mapping[str, Site]) -> tuple[Distribution, str]:
    """What a site's value was drawn from, and the name of the auxiliary site where that happened, if it did.

    ``AutoNormal`` draws a normal at an auxiliary site and says its value with a Delta: if nothing was transformed in
    between, the normal is the law.
    """
    fn: Distribution = site["fn"]
    if isinstance(fn, Point):
        return fn.law or fn, ""
    if isinstance(fn, Delta) and not bool(fn.log_density.any()):
        for name, other in auxiliary.items():
            if other["fn"].event_dim == fn.event_dim and torch.equal(other["value"], site["value"]):
                return other["fn"], name
    return fn, ""


def _divergence(name: str, law: Distribution, site: Site, prior: Site) -> Divergence:
    """The KL of one site in the finest form that is known."""
    scalar = not len(law.event_shape)
    if (by_dimension := kl_by_dimension(law, prior["fn"])) is not None:
        return Divergence(name, by_dimension, True, site)
    try:
        if isinstance(law, Delta) and not isinstance(law, Point):
            raise NotImplementedError  # Pyro's KL of a Delta drops its log_density
        kl = kl_divergence(law, prior["fn"])
    except NotImplementedError:
        kl = site["unscaled_log_prob"] - prior["unscaled_log_prob"]
    return Divergence(name, kl[..., None], scalar, site)
