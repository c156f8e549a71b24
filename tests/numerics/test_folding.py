"""The Jacobian of one step against autograd through the step itself, and what its sign can and cannot tell.

Everything here is deterministic in float64, so a tolerance is rounding, not luck.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from sri_pyro.numerics.folding import step_map
from sri_pyro.target import Target
from tests.oracles import LinearGaussian, bimodal, quadrature, skewed

pytestmark = pytest.mark.usefixtures("float64")


def jacobian_of_step(target: Target, z: Tensor, s: float) -> Tensor:
    """d(z + s grad log p(x, z) + noise)/dz of every chain, by differentiating the step as it is written."""

    def step(position: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(target.log_joint(position).sum(), position, create_graph=True)
        return position + s * grad + math.sqrt(2 * s) * 0.7

    full = jacobian(step, z)  # [S, B, D, S, B, D]; chains do not interact, so only the diagonal is not zero
    return torch.einsum("sbdsbe->sbde", full)


@pytest.mark.parametrize("make", [skewed, bimodal], ids=["skewed", "bimodal"])
@pytest.mark.parametrize("s", [0.02, 0.3, 0.9])
def test_log_det_and_sign_are_those_of_the_step_differentiated(make, s: float) -> None:
    """Oracle: slogdet of autograd's Jacobian. Catches I - sH, a forgotten s, log det for log |det|, a lost sign."""
    target = make()
    z = 1.5 * torch.randn(5, 3, target.dim)
    exact = jacobian_of_step(target, z, s)
    sign, log_abs_det = torch.linalg.slogdet(exact)
    found = step_map(target.hessian(z), s)
    torch.testing.assert_close(found.log_abs_det, log_abs_det, rtol=0, atol=1e-9)
    assert torch.equal(found.negative, sign < 0)
    smallest = torch.linalg.eigvals(exact).real.min(-1).values
    torch.testing.assert_close(found.smallest_eigenvalue, smallest, rtol=0, atol=1e-9)
    if s == 0.9:  # positive controls: folded chains occur, and the wrong sign of H is far away
        assert found.negative.any()
        wrong = step_map(-target.hessian(z), s).log_abs_det
        assert (wrong - log_abs_det).abs().max() > 0.5


def test_gaussian_closed_form() -> None:
    """H = -precision, so log |det| = sum log |1 - s precision|, on both sides of folding."""
    oracle = LinearGaussian.build("power1", dim=6, information=3.0)
    _, x = oracle.sample(2)
    hessian = oracle.target(x).hessian(torch.randn(3, 2, 6))
    for s in (0.01, 0.9 / oracle.precision.max().item(), 0.6):
        found = step_map(hessian, s)
        exact = (1 - s * oracle.precision).abs().log().sum()
        torch.testing.assert_close(found.log_abs_det, exact.expand(3, 2), rtol=0, atol=1e-9)
        smallest = 1 - s * oracle.precision.max()
        torch.testing.assert_close(found.smallest_eigenvalue, smallest.expand(3, 2), rtol=0, atol=1e-9)


def test_two_folded_directions_hide_from_the_sign_but_not_from_the_eigenvalue() -> None:
    """The determinant of diag(-1, -2) is positive: a rule that reads the sign alone would call it one-to-one."""
    hessian = torch.diag(torch.tensor([-2.0, -3.0])).expand(1, 1, 2, 2)
    found = step_map(hessian, 1.0)
    assert not found.negative.item()
    assert found.smallest_eigenvalue.item() == pytest.approx(-2.0, abs=1e-12)
    assert found.log_abs_det.item() == pytest.approx(math.log(2.0), abs=1e-12)


def test_a_flattened_direction_has_no_volume() -> None:
    """S precision = 1 exactly: the step forgets where it was; log |det| is -inf and not NaN."""
    found = step_map(torch.full((1, 1, 1, 1), -4.0), 0.25)
    assert found.log_abs_det.item() == -math.inf
    assert not found.negative.item()
    assert found.smallest_eigenvalue.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("s", [0.25, 0.5, 0.75])
def test_why_folding_matters_signed_volumes_add_up_and_unsigned_ones_exceed(s: float) -> None:
    """One step, noise held fixed: E[sign w] = p(x) always, E[w] > p(x) once the map folds.

    Oracle: the degree of a proper map (signed preimages add up to one), with p(x) from quadrature; the
    integral over z_0 runs on a grid, so there is no Monte Carlo error. 6 trials of sigmoid(2 z + 1) have
    largest curvature 1 + 6 = 7 (the step folds where s exceeds 1/7), while far out the map is (1 - s) z.
    """
    target = skewed()
    exact = quadrature(target)
    axis = torch.linspace(-120.0, 120.0, 120_001)[:, None, None].expand(-1, 3, 1)
    spacing = (axis[1] - axis[0])[0, 0]
    found = target.value_and_grad(axis)
    fold = step_map(target.hessian(axis), s)
    assert fold.negative.any()
    signed = torch.zeros(3)
    unsigned = torch.zeros(3)
    offsets = torch.tensor([-0.9, 0.0, 0.8])
    for noise in offsets:
        end = axis + s * found.grad + math.sqrt(2 * s) * noise
        weight = (target.log_joint(end) + fold.log_abs_det).exp() * spacing
        unsigned += weight.sum(0) / len(offsets)
        signed += (weight * torch.where(fold.negative, -1.0, 1.0)).sum(0) / len(offsets)
    torch.testing.assert_close(signed.log(), exact.log_evidence, rtol=0, atol=1e-6)
    assert (unsigned.log() - exact.log_evidence).max() > 0.03
    assert (unsigned.log() - exact.log_evidence).min() > -1e-6
