"""Programs that make no target, and the sentence that says so."""

from __future__ import annotations

import re
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch

from sri_pyro.program import target_from_program
from tests.programs import MOVING

pytestmark = pytest.mark.usefixtures("float64", "empty_store")


def one_site(fn: Callable[[], dist.Distribution], obs: bool = True, **plate: object) -> Callable[[], None]:
    def program() -> None:
        with pyro.plate("rows", 3, **plate):
            z = pyro.sample("z", fn())
            pyro.sample("x", dist.Normal(z * 1.0, 1.0), obs=torch.zeros(3) if obs else None)

    return program


def outside() -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.zeros(3))


def in_a_loop() -> None:
    for i in pyro.plate("rows", 3):
        z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=torch.tensor(0.0))


def without_plate() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.0))


def mixes_rows() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.mean(-1, keepdim=True), 1.0), obs=torch.zeros(3))


def mixes_draws() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z - z.reshape(-1, 3).mean(0), 1.0), obs=torch.zeros(3))


def sees_the_first_draw() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z - z.reshape(-1, 3)[0], 1.0), obs=torch.zeros(3))


def first_row_sees_the_last() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample(
            "x", dist.Normal(z + z[..., -1:] * torch.tensor([1.0, 0.0, 0.0]), 1.0), obs=torch.zeros(3)
        )


def counts_from_the_left() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.view(3, 2).sum(1), 1.0), obs=torch.zeros(3))


def normal() -> dist.Distribution:
    return dist.Normal(0.0, 1.0)


def on_a_sphere() -> None:
    with pyro.plate("rows", 3):
        z = pyro.sample("z", dist.ProjectedNormal(torch.ones(3)))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.zeros(3))


def in_two_plates() -> None:
    with pyro.plate("rows", 3, dim=-1), pyro.plate("wards", 2, dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(2, 3))


REFUSED = [
    (
        in_two_plates,
        "several plates may hold the rows; known plates: ['rows', 'wards']. Put the rows that are inferred "
        "independently into a pyro.plate, and name it by plate=...",
    ),
    (
        without_plate,
        "the program has no plate; known plates: []. Put the rows that are inferred independently into a "
        "pyro.plate, and name it by plate=...",
    ),
    (
        one_site(normal, subsample_size=2, obs=False),
        "plate 'rows' is subsampled, 2 of 3; give the program the rows of the minibatch and a plate of their "
        "number.",
    ),
    (
        in_a_loop,
        "plate 'rows' is a Python loop; use it as a context (with pyro.plate(...):) instead, so that all "
        "rows are evaluated at once.",
    ),
    (
        outside,
        "site 'loc' lies outside of the plate 'rows'; its density cannot be given to one row. Move it into "
        "the plate, or make a global latent a parameter.",
    ),
    (
        one_site(normal, obs=False),
        "the program has no observed site; a target needs at least one latent and one observed site "
        "(obs=...).",
    ),
    (
        one_site(lambda: dist.Bernoulli(0.5)),
        "latent site 'z' is discrete (Bernoulli), which Langevin dynamics cannot move; sum it out by hand, "
        "with a mixture distribution for instance.",
    ),
    (
        on_a_sphere,
        "latent site 'z' has support Sphere, for which Pyro knows no bijection from the real line; "
        "reparametrise it.",
    ),
    (mixes_rows, MOVING),
    (mixes_draws, MOVING),
    (sees_the_first_draw, MOVING),
    (first_row_sees_the_last, MOVING),
    (counts_from_the_left, "the program fails with an axis of draws to the left of its plates ("),
]


@pytest.mark.parametrize(("program", "sentence"), REFUSED)
def test_what_would_be_wrong_is_refused(program: Callable[..., None], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        target_from_program(program)


def test_an_unknown_plate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"there is no plate 'sentences'; known plates: \['rows'\]\."):
        target_from_program(one_site(normal), plate="sentences")


def test_a_run_with_other_sites_is_refused() -> None:
    name = "a"

    def program() -> None:
        with pyro.plate("rows", 3):
            z = pyro.sample(name, dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))

    target = target_from_program(program)
    name = "b"
    with pytest.raises(
        ValueError, match=r"latent sites were \['a'\] when its target was made and are \['b'\] now"
    ):
        target.log_likelihood(torch.zeros(1, 3, 1))
