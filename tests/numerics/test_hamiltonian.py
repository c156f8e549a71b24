"""Hamiltonian transitions against exact laws: order of the integrator, invariance, and what a warm-up adapts.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sri_pyro.numerics.hamiltonian import (
    StepSearch,
    estimated_scale,
    hamiltonian_transition,
    warmup_windows,
)
from tests.oracles import gate

pytestmark = pytest.mark.usefixtures("float64")
FACTOR = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.6, 0.0], [-0.7, 0.9, 0.3]], dtype=torch.float64)
"""A covariance's triangular root, far from symmetric and from I."""


def gaussian(factor: Tensor):
    """Log density and gradient of N(0, F F')."""
    precision = torch.cholesky_inverse(factor)

    def look(z: Tensor) -> tuple[Tensor, Tensor]:
        pull = z @ precision
        return -0.5 * (z * pull).sum(-1), -pull

    return look


def moved(z: Tensor, step: float, leapfrog: int | Tensor, scale: Tensor | None, look=None):
    look = look or gaussian(FACTOR)
    h = torch.full((z.shape[1],), step)
    return hamiltonian_transition(look, lambda seen: seen, z, look(z), h, leapfrog, scale)


SCALES = {
    "none": None,
    "diagonal": torch.tensor([[2.0, 1.6, 1.2]], dtype=torch.float64),
    "dense": torch.tensor([[[1.9, 0, 0], [1.4, 0.7, 0], [-0.6, 0.8, 0.4]]], dtype=torch.float64),
}


@pytest.mark.parametrize("name", SCALES)
def test_leapfrog_is_of_second_order(name: str) -> None:
    """Halving h at the same length divides the error of the energy by four.

    Catches the transpose of the scale on the wrong side, which keeps no energy at all, and half a kick lost.
    """
    z = torch.randn(4000, 1, 3) @ FACTOR.T
    refused = []
    for step in (0.06, 0.03):
        torch.manual_seed(1)
        refused.append((1 - moved(z, step, round(0.6 / step), SCALES[name]).probability).mean())
    assert 3.6 < refused[0] / refused[1] < 4.4
    assert refused[1] < 0.02


def off(z: Tensor, factor: Tensor) -> float:
    """Standard errors by which the farthest first or second moment of draws [S, D] is off those of N(0, F F')."""
    white = torch.linalg.solve_triangular(factor, z.T, upper=False).T
    second = white.T @ white / len(z) - torch.eye(3)
    error = torch.full((3, 3), 1.0).fill_diagonal_(math.sqrt(2)) / math.sqrt(len(z))
    return max((white.mean(0).abs() * math.sqrt(len(z))).max().item(), (second / error).abs().max().item())


@pytest.mark.parametrize("name", SCALES)
def test_the_density_is_invariant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact draws stay exact draws, at a step so long that every other proposal is refused.

    Positive control: the same chain that accepts all.
    """
    step = {"none": 0.5, "diagonal": 0.45, "dense": 1.15}[name]
    found = {}
    for correction in (True, False):
        if not correction:
            monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
        z = torch.randn(40_000, 1, 3) @ FACTOR.T
        for _ in range(3):
            result = moved(z, step, 2, SCALES[name])
            z = result.z
        found[correction] = off(z[:, 0], FACTOR)
    assert result.probability.mean() < 0.9
    assert found[True] < gate(9)
    assert found[False] > 9


def test_each_sentence_has_a_length_of_its_own() -> None:
    """Oracle: the same run with one length for all. A sentence that is done waits and moves no more."""
    ends = []
    for leapfrog in (torch.tensor([2, 7, 1]), 2, 7, 1):
        torch.manual_seed(5)
        start = torch.randn(8, 3, 3) @ FACTOR.T
        ends.append(moved(start, 0.1, leapfrog, FACTOR.diagonal().expand(3, 3)).z)
    for sentence in range(3):
        assert torch.equal(ends[0][:, sentence], ends[1 + sentence][:, sentence])
    assert not torch.equal(ends[1][:, 1], ends[2][:, 1])


def test_what_is_not_finite_is_refused_and_told() -> None:
    def cliff(z: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.where(z[..., 0] > 0, -0.5 * z.square().sum(-1), torch.nan)
        return value, -z

    start = torch.full((200, 1, 3), 0.1)
    result = moved(start, 0.5, 3, None, cliff)
    there = result.z[..., 0] > 0
    assert there.all()
    assert result.astray.any()
    assert torch.equal(result.z[result.astray], start[result.astray])
    assert (result.probability[result.astray] == 0).all()


def test_the_search_finds_the_step_of_each_sentence() -> None:
    """Oracle: acceptance exp(-r h) is 0.8 at h = -log(0.8) / r. Noise of 0.2 in what is heard averages out."""
    rate = torch.tensor([0.05, 1.0, 20.0])
    search = StepSearch.around(torch.ones(3))
    for _ in range(3000):
        search = search.heard((-rate * search.step).exp() + 0.2 * torch.randn(3), wanted=0.8)
    exact = -math.log(0.8) / rate
    assert (search.found / exact).log().abs().max() < 0.15


@pytest.mark.parametrize("warmup", [*range(120), 300, 999, 1000])
def test_windows_follow_one_another_and_leave_both_ends(warmup: int) -> None:
    windows = warmup_windows(warmup)
    for one, other in pairwise(windows):
        assert one.stop == other.start
        assert len(other) >= 2 * len(one)
    if windows:
        assert windows[0].start == round(0.15 * warmup)
        assert windows[-1].stop == warmup - round(0.2 * warmup)
        assert len(windows[0]) >= 25
    else:
        assert warmup < 40


def test_a_scale_is_the_root_of_the_covariance_and_never_singular() -> None:
    """Oracle: the covariance that the states were drawn with. Too few states give a diagonal that is not zero."""
    many = torch.randn(200_000, 1, 3) @ FACTOR.T
    scale = estimated_scale(many, dense=True)[0]
    torch.testing.assert_close(scale @ scale.T, FACTOR @ FACTOR.T, rtol=0.03, atol=0.03)
    assert torch.equal(scale, scale.tril())
    deviation = (FACTOR @ FACTOR.T).diagonal().sqrt()
    torch.testing.assert_close(estimated_scale(many, dense=False)[0], deviation, rtol=0.02, atol=0)
    for dense in (True, False):
        still = estimated_scale(torch.zeros(4, 2, 9), dense)
        assert still.isfinite().all()
        assert (still.diagonal(dim1=-2, dim2=-1) if dense else still).min() > 0
