"""What the trace of a Pyro program says about its plates and latent sites, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyro.distributions.util import scale_and_mask
from pyro.util import check_site_shape
from torch import Tensor
from torch.distributions import biject_to

Message = dict[str, Any]
"""A site as Pyro's handlers see it."""


class PlateFrame(NamedTuple):
    """A vectorised plate: its name, its size, and its axis counted from the right."""

    name: str
    size: int
    dim: int


@dataclass(frozen=True)
class LatentSite:
    """A latent site's share of the flat z.

    Attributes:
        name: As in ``pyro.sample``.
        plates: The plates around it.
        batch_shape: Sizes of all plate axes of the program, 1 where the site is not in the plate.
        unconstrained_shape: Event shape of its coordinates; a simplex of 4 has (3,).
        event_dim: Number of event axes of its value.
    """

    name: str
    plates: tuple[PlateFrame, ...]
    batch_shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    event_dim: int


def layout(messages: Sequence[Message], name: str | None) -> tuple[PlateFrame, tuple[LatentSite, ...]]:
    """The plate of the rows and the places of the latent sites, checked."""
    plate = _rows_plate(messages, name)
    latent = [message for message in messages if not message["is_observed"]]
    for kind, found in (("latent", latent), ("observed", [m for m in messages if m["is_observed"]])):
        if not found:
            raise ValueError(
                f"the program has no {kind} site; a target needs at least one latent and one observed site "
                "(obs=...)."
            )
    depth = max(-frame.dim for message in messages for frame in message["cond_indep_stack"])
    for message in messages:
        if all(frame.name != plate.name for frame in message["cond_indep_stack"]):
            raise ValueError(
                f"site {message['name']!r} lies outside of the plate {plate.name!r}; its density cannot be "
                "given to one row. Move it into the plate, or make a global latent a parameter."
            )
        message["log_prob"] = log_prob(message)
        check_site_shape(message, depth)
    return plate, tuple(_latent_site(message, depth) for message in latent)


def _rows_plate(messages: Sequence[Message], name: str | None) -> PlateFrame:
    stacks = [{frame.name: frame for frame in message["cond_indep_stack"]} for message in messages]
    frames = {key: frame for stack in stacks for key, frame in stack.items()}
    around_all = [key for key in frames if all(key in stack for stack in stacks)]
    choices = around_all or list(frames)
    if name is None and len(choices) == 1:
        name = choices[0]
    if name not in frames:
        problem = "several plates may hold the rows" if name is None else f"there is no plate {name!r}"
        raise ValueError(
            f"{problem if frames else 'the program has no plate'}; known plates: {sorted(frames)}. Put the "
            "rows that are inferred independently into a pyro.plate, and name it by plate=..."
        )
    for key, frame in frames.items():
        if frame.dim is None:
            raise ValueError(
                f"plate {key!r} is a Python loop; use it as a context (with pyro.plate(...):) instead, so "
                "that all rows are evaluated at once."
            )
        if frame.size < 0:
            raise ValueError(f"plate {key!r} has no size; say how many rows it has.")
        if frame.full_size != frame.size:
            raise ValueError(
                f"plate {key!r} is subsampled, {frame.size} of {frame.full_size}; give the program the "
                "rows of the minibatch and a plate of their number."
            )
    return PlateFrame(frames[name].name, frames[name].size, frames[name].dim)


def _latent_site(message: Message, depth: int) -> LatentSite:
    name, fn = message["name"], message["fn"]
    if fn.support.is_discrete:
        raise ValueError(
            f"latent site {name!r} is discrete ({type(fn).__name__}), which Langevin dynamics cannot move; "
            "sum it out by hand, with a mixture distribution for instance."
        )
    try:
        transform = biject_to(fn.support)
    except NotImplementedError as error:
        raise ValueError(
            f"latent site {name!r} has support {fn.support}, for which Pyro knows no bijection from the "
            "real line; reparametrise it."
        ) from error
    plates = tuple(PlateFrame(f.name, f.size, f.dim) for f in message["cond_indep_stack"])
    batch = (*[1] * (depth - len(fn.batch_shape)), *fn.batch_shape)
    unconstrained = transform.inverse_shape(fn.shape())[len(fn.batch_shape) :]
    return LatentSite(name, plates, batch, tuple(unconstrained), fn.event_dim)


def counts(message: Message) -> bool:
    """Whether a site of type "sample" has a density: not a plate's indices, not ``pyro.deterministic``."""
    return type(message["fn"]).__name__ != "_Subsample" and not message["infer"].get("_deterministic")


def log_prob(message: Message) -> Tensor:
    """A site's log-density with its mask, which is part of the model, and without its scale, which is not."""
    unmasked = message["fn"].log_prob(message["value"], *message["args"], **message["kwargs"])
    masked: Tensor = scale_and_mask(unmasked, mask=message["mask"])
    return masked
