r"""Targets made of any Pyro program whose latent variables are continuous and local to one plate.

Axes: S draws, B rows of the plate, D unconstrained coordinates of all latent sites of a row together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import broadcast_shape, sum_rightmost
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Transform, biject_to

from sri_pyro.sites import LatentSite, Message, PlateFrame, counts, layout, log_prob
from sri_pyro.target import AutogradLikelihood, Target, evaluating


class Placed(NamedTuple):
    """A latent site at some unconstrained coordinates.

    Attributes:
        value: In the site's support, shape [S, *plates, *event].
        coordinates: Unconstrained, shape [S, *plates, *unconstrained event].
        transform: From the coordinates to the value.
        num_plates: How many axes of plates there are.
    """

    value: Tensor
    coordinates: Tensor
    transform: Transform
    num_plates: int

    @property
    def log_abs_det(self) -> Tensor:
        """Log of the volume change from the coordinates to the value, shape [S, *plates]."""
        # PyTorch does not type its transforms.
        per_event = self.transform.log_abs_det_jacobian(self.coordinates, self.value)  # type: ignore[no-untyped-call]
        total: Tensor = sum_rightmost(per_event, per_event.ndim - 1 - self.num_plates)
        return total


Choice = Callable[[str, Any], Placed]
"""Maps a latent site's name and distribution to its value."""


@dataclass(frozen=True, kw_only=True)
class ProgramTarget(Target):
    """A target that can take z back to the sites of the Pyro program it was made of.

    Attributes:
        place: Maps z [S, B, D] to every latent site, by name; differentiable in z.
        plate: The plate of the rows.
        sites: The latent sites, in the order in which they lie in z.
    """

    place: Callable[[Tensor], dict[str, Placed]]
    plate: PlateFrame
    sites: tuple[LatentSite, ...]

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """The values of the latent sites at z [S, B, D], each of shape [S, *plates, *event]."""
        return {name: placed.value for name, placed in self.place(z).items()}


def target_from_program(
    program: Callable[..., Any],
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    *,
    plate: str | None = None,
) -> ProgramTarget:
    r"""Read a Pyro program as the log joint of unconstrained coordinates, one value per row of a plate.

    .. math:: \log p(x, u) = \sum_{\text{latent } i} \log p(z_i \mid \cdot)
              + \log\Big|\frac{\partial z_i}{\partial u_i}\Big|
              + \sum_{\text{observed } j} \log p(x_j \mid \cdot), \qquad z_i = T_i(u_i)

    with :math:`T_i` Pyro's ``biject_to(support)``. The coordinates of all latent sites of a row are flattened
    and joined into one z of shape [S, B, D]. The first sum is ``log_prior``, the second ``log_likelihood``.
    A row is evaluated in one vectorised run, with the axis S to the left of all plates; the program must
    therefore index its batch axes from the right. ``poutine.mask`` counts (missing data are part of a
    model), ``poutine.scale`` does not (annealing a training loss must not change the posterior). Nothing
    leaks to handlers outside. A program that is an ``nn.Module`` is in eval mode while chains run.

    Args:
        program: Any callable with Pyro primitives and observed sites.
        model_args: Its arguments.
        model_kwargs: Its keyword arguments.
        plate: The plate whose rows are inferred independently; may be left out where only one plate is
            around every site.

    Returns:
        A target; its ``constrain`` maps z back to the program's sites. Evaluation runs without Pyro's
        validation, which can double the cost; the program is validated here, once.

    Raises:
        ValueError: If the plate is missing, ambiguous, subsampled or a Python loop; if a latent site is
            discrete, outside of the plate, or has a support without a bijection; if nothing is latent or
            nothing is observed; if the log joint is not a fixed, row-wise function of z.

    Example:
        >>> import pyro.distributions as dist
        >>> def program(x):
        ...     with pyro.plate("rows", len(x)):
        ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...         pyro.sample("x", dist.Poisson(rate), obs=x)
        >>> target = target_from_program(program, (torch.tensor([3.0, 0.0]),))
        >>> z = target.sample_prior(7)
        >>> z.shape, target.log_joint(z).shape, bool((target.constrain(z)["rate"] > 0).all())
        (torch.Size([7, 2, 1]), torch.Size([7, 2]), True)
    """
    module = program if isinstance(program, nn.Module) else None
    run = partial(program, *model_args, **(model_kwargs or {}))
    with torch.no_grad(), evaluating(module), poutine.block(), pyro.validation_enabled(True):
        nodes = poutine.trace(run).get_trace().nodes.values()
        messages = [message for message in nodes if message["type"] == "sample" and counts(message)]
        evaluate = _Program(run, module, *layout(messages, plate))
        _require_row_wise(evaluate, like=next(m["value"] for m in messages if not m["is_observed"]))
    return ProgramTarget(
        log_prior=evaluate.log_prior,
        log_likelihood=evaluate.log_likelihood,
        sample_prior=evaluate.sample_prior,
        batch_size=evaluate.plate.size,
        dim=evaluate.dim,
        module=module,
        conditioned=AutogradLikelihood(evaluate.log_likelihood, module),
        place=evaluate.place,
        plate=evaluate.plate,
        sites=evaluate.sites,
    )


class _Program:
    """A program with known sites, evaluated at coordinates instead of at its own draws."""

    def __init__(
        self,
        run: Callable[[], Any],
        module: nn.Module | None,
        plate: PlateFrame,
        sites: tuple[LatentSite, ...],
    ) -> None:
        self.run = run
        self.module = module
        self.plate = plate
        self.sites = sites
        self.depth = len(sites[0].batch_shape)
        self.sizes = [prod(s.batch_shape) // plate.size * prod(s.unconstrained_shape) for s in sites]
        self.dim = sum(self.sizes)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log-densities of the latent sites, with the volume change; shape [S, B]."""
        session = self._session(self._at(z), only_latents=True)
        total = z[..., :0].sum(-1)  # zero, but a function of z even where no site is
        for message in session.messages:
            if not message["is_observed"]:
                total = total + self._by_row(log_prob(message), len(z))
        for placed in session.placed.values():
            total = total + self._by_row(placed.log_abs_det, len(z))
        return total

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Log-densities of the observed sites, shape [S, B]."""
        session = self._session(self._at(z), only_latents=False)
        total = z[..., :0].sum(-1)
        for message in session.messages:
            if message["is_observed"]:
                total = total + self._by_row(log_prob(message), len(z))
        return total

    def place(self, z: Tensor) -> dict[str, Placed]:
        """Every latent site at z."""
        return self._session(self._at(z), only_latents=True).placed

    def sample_prior(self, num_samples: int) -> Tensor:
        """Run the program forward, its observed sites held; coordinates of what it drew, shape [S, B, D]."""
        lead = (num_samples, *[1] * self.depth)

        def draw(name: str, fn: Any) -> Placed:
            value = fn.expand(broadcast_shape(lead, fn.batch_shape)).sample()
            transform = biject_to(fn.support)
            return Placed(value, transform.inv(value), transform, self.depth)

        with torch.no_grad(), evaluating(self.module):
            placed = self._session(draw, only_latents=True).placed
            coordinates = [
                placed[site.name].coordinates.movedim(self.plate.dim - len(site.unconstrained_shape), 1)
                for site in self.sites
            ]
            rows = (num_samples, self.plate.size)
            flat = [u.reshape(*rows, size) for u, size in zip(coordinates, self.sizes, strict=True)]
            return torch.cat(flat, dim=-1)

    def _at(self, z: Tensor) -> Choice:
        """Each site's coordinates cut out of z [S, B, D] and taken to its support."""
        coordinates = {}
        for site, flat in zip(self.sites, torch.split(z, self.sizes, dim=-1), strict=True):
            others = list(site.batch_shape)
            del others[self.plate.dim]
            u = flat.reshape(*z.shape[:2], *others, *site.unconstrained_shape)
            coordinates[site.name] = u.movedim(1, self.plate.dim - len(site.unconstrained_shape))

        def place(name: str, fn: Any) -> Placed:
            transform = biject_to(fn.support)
            return Placed(transform(coordinates[name]), coordinates[name], transform, self.depth)

        return place

    def _session(self, choose: Choice, only_latents: bool) -> _Session:
        known = [site.name for site in self.sites]
        session = _Session(choose, frozenset(known), only_latents)
        with pyro.validation_enabled(False), poutine.block(), suppress(_Enough), session:
            self.run()
        if session.unknown or len(session.placed) < len(known):
            raise ValueError(
                f"the program's latent sites were {known} when its target was made and are "
                f"{sorted([*session.placed, *session.unknown])} now. Let every run have the same sites."
            )
        return session

    def _by_row(self, log_prob: Tensor, num_samples: int) -> Tensor:
        """Sum over all plates but the one of the rows; shape [S, B]."""
        full = log_prob.reshape(*[1] * (1 + self.depth - log_prob.ndim), *log_prob.shape)
        rows = full.movedim(self.plate.dim, 1)
        return rows.reshape(*rows.shape[:2], -1).sum(-1).expand(num_samples, self.plate.size)


class _Enough(Exception):  # noqa: N818  # no error: ends a run of whose remaining sites nobody asks
    """Every latent site has been seen."""


class _Session(Messenger):  # type: ignore[misc]  # Pyro is not typed
    """One run of a program: gives the latent sites their values and keeps every site that counts."""

    def __init__(self, choose: Choice, names: frozenset[str], only_latents: bool) -> None:
        super().__init__()
        self.choose = choose
        self.names = names
        self.only_latents = only_latents
        self.placed: dict[str, Placed] = {}
        self.unknown: set[str] = set()
        self.messages: list[Message] = []

    def _pyro_sample(self, message: Message) -> None:
        if message["is_observed"] or not counts(message):
            return
        name = message["name"]
        if name in self.names:
            self.placed[name] = self.choose(name, message["fn"])
            message["value"], message["done"] = self.placed[name].value, True
        else:
            self.unknown.add(name)

    def _pyro_post_sample(self, message: Message) -> None:
        if counts(message):
            self.messages.append(message)
        if self.only_latents and len(self.placed) == len(self.names):
            raise _Enough


def _require_row_wise(program: _Program, like: Tensor) -> None:
    """Compare draws alone with the same draws side by side, and with a draw that has a row of each."""
    high = like.new_full((1, program.plate.size, program.dim), 0.3)
    low = high - 1
    both = low.clone()
    both[:, 0] = high[:, 0]

    def log_joint(z: Tensor) -> Tensor:
        return program.log_prior(z) + program.log_likelihood(z)

    try:
        at_low, at_high = log_joint(low), log_joint(high)
        got = log_joint(torch.cat([low, high, both]))
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the program fails with an axis of draws to the left of its plates ({error}); index batch axes "
            "from the right (dim=-1), and let no shape be fixed by len() of a latent."
        ) from error
    expected = torch.cat([at_low, at_high, torch.cat([at_high[:, :1], at_low[:, 1:]], dim=1)])
    if not torch.allclose(got, expected, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError(
            "the program's log joint is not a fixed function of each row's z: a draw's value changes with "
            "the other draws, with the other rows, or by chance. Index batch axes from the right, and hand "
            "over a program with dropout as an nn.Module, so that it can be put in eval mode."
        )
