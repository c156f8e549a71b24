r"""Any inference in the guide slot of Pyro: ELBOs, ``Predictive`` and, with a density, importance sampling.

Axes: S particles, B sentences or rows, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn

from sri_pyro.classic_svi import UNTRAINED, parameter_capture, parameter_sites
from sri_pyro.inference.points import Point, PointWithoutDensity
from sri_pyro.models.text import LatentTextModel
from sri_pyro.numerics.gaussians import Gaussian, moments
from sri_pyro.numerics.proposals import DefensiveGaussian
from sri_pyro.program import ProgramTarget, target_from_program
from sri_pyro.sites import LatentSite, PlateFrame
from sri_pyro.target import Inference, Target
from sri_pyro.types import Draws, Progress

INFLATION = 1.2
"""Factor on the covariance fitted to the pilots: a little too wide is safe, too narrow is not."""
DENSITIES = ("gaussian",)


def as_guide(
    inference: Inference,
    model: Callable[..., Any],
    *,
    plate: str | None = None,
    density: str | None = None,
    num_pilots: int = 256,
) -> InferenceGuide:
    r"""Put an inference in the guide slot of Pyro.

    The guide draws with the inference and says so with a Delta at each latent site, whose ``log_density`` is
    the draw's. ``Trace_ELBO()(model, guide)`` is then :math:`-\mathbb{E}[\log p_\theta(x, z) - \log q(z)]`, and
    its gradient in the weights :math:`-\mathbb{E}\,\partial_\theta \log p_\theta(x, z_K)` at fixed draws, the
    learning rule of Eq. 9; an inference whose draws carry a graph and a density trains by it as well. Draws
    without a density, as short runs are, give :math:`-\mathbb{E} \log p_\theta(x, z_K)` (of unconstrained z)
    alone: right for training, no bound on the evidence, and refused wherever a weight would be made of them.
    Where the model is ours and the draws name their ``law``, ``TraceMeanField_ELBO`` and ``AnnealedELBO`` have its
    KL in closed form.

    With ``density="gaussian"`` the draws come from a Gaussian fitted to independent pilot runs of the inference
    (covariance times 1.2), mixed with 5 % of the prior, and the density is exactly that of the mixture:
    ``Importance``, ``RenyiELBO`` and the ELBO are then what they claim to be. Pyro's ``Importance`` gives one
    weight for the whole batch; for log p(x) of each sentence use ``sri_pyro.evaluation``.

    Args:
        inference: Maps (target, number of draws, progress) to draws.
        model: A ``LatentTextModel``, or any Pyro program that ``Target.from_program`` takes.
        plate: Which plate of a foreign program holds the rows; may be left out where only one can.
        density: None, or ``"gaussian"``.
        num_pilots: Pilot runs per row for the fit; more than D + 1.

    Raises:
        ValueError: If the density or the plate is unknown.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from sri_pyro.inference import ShortRunLangevin
        >>> from sri_pyro.models import LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> model = LatentTextModel(StandardNormal(dim=4), decoder)
        >>> loss = Trace_ELBO()(model, as_guide(ShortRunLangevin(num_steps=5), model))
        >>> optimizer = torch.optim.Adam(loss.parameters())
        >>> loss(Batch(torch.tensor([[7, 9, 3], [8, 3, 0]]))).backward()
        >>> optimizer.step()

    References:
        Pang, Nijkamp, Han, Wu (2021), Eq. 9. Defensive mixtures: Hesterberg (1995).
    """
    return InferenceGuide(inference, model, plate=plate, density=density, num_pilots=num_pilots)


class InferenceGuide(nn.Module):
    """An inference as a Pyro guide; made by ``as_guide``, which see.

    The model is not a submodule, so that an ELBO lists its weights once; the inference is.

    Attributes:
        progress: How far training has come, for annealed inferences; set it before a step. None stands for
            evaluation.
    """

    def __init__(
        self,
        inference: Inference,
        model: Callable[..., Any],
        *,
        plate: str | None,
        density: str | None,
        num_pilots: int,
    ) -> None:
        super().__init__()
        if density is not None and density not in DENSITIES:
            raise ValueError(f"unknown density {density!r}; known: {', '.join(DENSITIES)}, or None.")
        if isinstance(model, LatentTextModel) and plate not in (None, "sentences"):
            raise ValueError(
                f"there is no plate {plate!r}; a text model has one, 'sentences'. Leave plate out."
            )
        self.inference = inference
        self.plate = plate
        self.density = density
        self.num_pilots = num_pilots
        self.progress: Progress | None = None
        self._model = (model,)  # in a tuple, which hides it from nn.Module
        self._kept: _Kept | None = None

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw every latent site of the model for these arguments of the model.

        Inside vectorised plates, such as those of ``num_particles`` with ``vectorize_particles=True``, every
        particle gets a draw of its own, all in one run.

        Returns:
            The draws by site, shape [*particles, *plates, *event].

        Raises:
            RuntimeError: Under Pyro's classic ``SVI`` where it would train nothing; and where the inference has
                parameters that these draws would never train.
        """
        self._refuse_classic_svi(*args, **kwargs)
        particles = [frame for frame in get_plates() if frame.vectorized]
        num_samples = prod(frame.size for frame in particles)
        with poutine.block():  # outside of the model's plate, which the model opens itself
            target = self.target(*args, **kwargs)
            draws = self._draw(target, num_samples, args, kwargs)
        self._require_trainable(draws)
        return _emit(target, draws, particles)

    def target(self, *args: Any, **kwargs: Any) -> Target:
        """The target of the model for these arguments of the model."""
        (model,) = self._model
        if isinstance(model, LatentTextModel):
            return model.target(*args, **kwargs)
        return target_from_program(model, args, kwargs, plate=self.plate)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Fit the Gaussian once, for every later call with these very arguments.

        Without it each call fits anew, as training needs but ``Importance`` with a thousand samples does not.
        The weights of a kept fit stay exact when the model changes, though they grow less even.

        Raises:
            ValueError: If the guide has no density to fit, or too few pilots.
        """
        if self.density is None:
            raise ValueError('there is nothing to fit; use as_guide(..., density="gaussian").')
        with poutine.block():
            self._kept = _Kept(args, kwargs, self._proposal(self.target(*args, **kwargs)))

    def _draw(self, target: Target, num_samples: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Draws:
        if self.density is None:
            draws = self.inference(target, num_samples, self.progress)
            # A graph through z without the density's own would climb to the mode, which nobody asked for.
            return draws if draws.log_q is not None and draws.z.requires_grad else draws.detach()
        if self._kept is not None and self._kept.serves(args, kwargs):
            proposal = self._kept.proposal
        else:
            proposal = self._proposal(target)
        z = proposal.sample(num_samples)
        return Draws(z, proposal.log_prob(z))

    def _proposal(self, target: Target) -> DefensiveGaussian:
        if self.num_pilots <= target.dim + 1:
            raise ValueError(
                f"a Gaussian in {target.dim} dimensions needs more than {target.dim + 1} pilots; got num_pilots "
                f"= {self.num_pilots}."
            )
        with torch.no_grad():
            pilots = self.inference(target, self.num_pilots, self.progress).z
            mean, covariance = moments(pilots.double())
            mean, factor = Gaussian.from_moments(mean, INFLATION * covariance)
        fitted = Gaussian(mean.to(pilots.dtype), factor.to(pilots.dtype))
        return DefensiveGaussian(fitted, target.log_prior, target.sample_prior)

    def _refuse_classic_svi(self, *args: Any, **kwargs: Any) -> None:
        if parameter_capture() is None:
            return
        (model,) = self._model
        with poutine.block(), torch.no_grad(), poutine.trace(param_only=True) as capture:
            model(*args, **kwargs)
        if not parameter_sites(capture) or any(p.requires_grad for p in self.parameters()):
            raise RuntimeError(UNTRAINED)

    def _require_trainable(self, draws: Draws) -> None:
        waiting = sum(p.requires_grad for p in self.parameters())
        if waiting and torch.is_grad_enabled() and not draws.z.requires_grad:
            raise RuntimeError(
                f"the inference has {waiting} parameters that these draws never train, for they carry no graph; "
                "train it by its own rule and freeze it here (inference.requires_grad_(False)), or evaluate "
                "under torch.no_grad()."
            )


class _Kept(NamedTuple):
    """A fitted proposal and the arguments it was fitted to."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    proposal: DefensiveGaussian

    def serves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether these are the very same objects; equal numbers in another tensor are not compared."""
        if len(args) != len(self.args) or kwargs.keys() != self.kwargs.keys():
            return False
        pairs = [*zip(args, self.args, strict=True), *((kwargs[k], self.kwargs[k]) for k in kwargs)]
        return all(given is kept for given, kept in pairs)


def _emit(target: Target, draws: Draws, particles: Sequence[Any]) -> dict[str, Tensor]:
    """Say with ``pyro.sample`` what was drawn, in the support of each site."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and draws.z.requires_grad):
        if isinstance(target, ProgramTarget):
            rows, sites, placed = target.plate, target.sites, target.place(draws.z)
            values = [placed[site.name].value for site in sites]
            log_density = [-placed[site.name].log_abs_det for site in sites]
        else:
            rows = PlateFrame("sentences", target.batch_size, -1)
            sites = (LatentSite("z", (rows,), (rows.size,), (target.dim,), event_dim=1),)
            values, log_density = [draws.z], [draws.z.new_zeros(draws.z.shape[:-1])]
        if draws.log_q is not None:
            log_density[0] = log_density[0] + _spread(draws.log_q, log_density[0].shape, rows.dim)
    lead = _particle_shape(particles, num_plates=len(sites[0].batch_shape))
    frames = {frame for site in sites for frame in site.plates}
    plates = {frame: pyro.plate(frame.name, frame.size, dim=frame.dim) for frame in frames}
    emitted = {}
    for site, value, density in zip(sites, values, log_density, strict=True):
        point = Point if draws.log_q is not None else PointWithoutDensity
        with ExitStack() as stack:
            for frame in site.plates:
                stack.enter_context(plates[frame])
            fn = point(
                value.reshape(*lead, *value.shape[1:]),
                density.reshape(*lead, *density.shape[1:]),
                site.event_dim,
            )
            if draws.law is not None and not isinstance(target, ProgramTarget):  # where z is not transformed
                fn.law = draws.law.expand(fn.batch_shape)
            emitted[site.name] = pyro.sample(site.name, fn)
    return emitted


def _spread(log_q: Tensor, shape: torch.Size, rows_dim: int) -> Tensor:
    """One log-density per row, shared out evenly over the site's inner plates; [S, B] to [S, *plates]."""
    full = [1] * len(shape)
    full[0], full[rows_dim] = log_q.shape
    return (log_q.reshape(full) * log_q.numel() / shape.numel()).expand(shape)


def _particle_shape(particles: Sequence[Any], num_plates: int) -> list[int]:
    """The axes to the left of the program's plates, 1 where no plate is."""
    shape = [1] * (max((-frame.dim for frame in particles), default=num_plates) - num_plates)
    for frame in particles:
        if -frame.dim <= num_plates:
            raise ValueError(
                f"the guide runs inside the plate {frame.name!r} at dim {frame.dim}, which the model's own "
                f"{num_plates} plate axes need; give it a dim of {-num_plates - 1} or less."
            )
        shape[frame.dim + num_plates] = frame.size
    return shape
