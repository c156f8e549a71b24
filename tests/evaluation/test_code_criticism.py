"""Tests of codes against a prior: their level by simulation, and codes with a hole, a shift, or a lost direction."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sri_pyro.evaluation import code_criticism
from sri_pyro.evaluation.code_criticism import TESTS, compare_codes, weighted_draw

DIM = 3


def prior(num: int) -> Tensor:
    return torch.randn(num, DIM, dtype=torch.float64)


def as_it_is(z: Tensor) -> Tensor:
    return z


compare = partial(compare_codes, prior=prior, whiten=as_it_is, replicates=99)


@pytest.fixture(autouse=True)
def fewer_reference_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_criticism, "REFERENCE", 200)


def p_of(codes: Tensor) -> dict[str, float]:
    return dict(zip(TESTS, compare(codes).p_holm, strict=True))


def test_the_level_is_that_of_the_tests() -> None:
    """Oracle: p-values of draws of the prior itself are uniform on ranks. 60 sets, 19 replicates each: rejections at
    level 0.2 of a binomial law, two-sided at 1e-8 for each test. Catches a null of other size or spread.
    """
    found = [compare_codes(prior(30), prior, as_it_is, 19).p for _ in range(60)]
    rejections = (np.array(found) <= 0.2 + 1e-9).sum(0)
    low, high = stats.binom.ppf(0.5e-8, 60, 0.2), stats.binom.isf(0.5e-8, 60, 0.2)
    assert ((low <= rejections) & (rejections <= high)).all(), rejections


def test_draws_of_the_prior_pass() -> None:
    assert min(p_of(prior(150)).values()) > 0.05


def test_a_hole_is_found() -> None:
    """The prior's draws with nobody on one side: all that is left lies densely enough elsewhere."""
    z = prior(600)
    p = p_of(z[z[:, 0] < 0.3][:150])
    assert p["holes"] <= 0.05
    assert p["energy"] <= 0.05


def test_each_fault_is_found_by_its_own_test() -> None:
    """A shell has the prior's mean and covariance, and no codes in the middle: the radius tells. A direction that is
    not used has an eigenvalue of its own. A shift moves the energy distance.
    """
    shell = torch.nn.functional.normalize(prior(150), dim=-1) * DIM**0.5
    assert p_of(shell)["radius"] <= 0.05
    flat = prior(150) * torch.tensor([1.0, 1.0, 0.3], dtype=torch.float64)
    assert p_of(flat)["eigenvalues"] <= 0.05
    found = compare(flat)
    assert (found.eigenvalues[-1] < found.eigenvalue_band[0, -1]).all()
    assert p_of(prior(150) + 0.5)["energy"] <= 0.05


def test_a_prior_of_another_scale_is_whitened() -> None:
    """The same codes in other units give the same statistics. Catches distances or eigenvalues taken before."""
    turn = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    codes = prior(60)
    torch.manual_seed(5)
    plain = compare_codes(codes, prior, as_it_is, 9)
    torch.manual_seed(5)
    back = torch.linalg.inv(turn)
    scaled = compare_codes(codes @ turn, lambda num: prior(num) @ turn, lambda z: z @ back, 9)
    assert np.allclose(plain.statistic, scaled.statistic)
    assert np.allclose(plain.squared_radius, scaled.squared_radius)


def test_the_radius_statistic_and_the_energy_distance() -> None:
    """Oracles: SciPy's two-sample Kolmogorov-Smirnov statistic; the definition of the energy distance, pair by pair."""
    reference, codes = prior(200), 1.2 * prior(40)
    look = code_criticism._Reference(reference).look(codes)
    expected = stats.ks_2samp(codes.square().sum(1), reference.square().sum(1)).statistic
    assert look.radius == pytest.approx(expected)
    across = np.mean([[float((x - y).norm()) for x in codes] for y in reference])
    within = [torch.pdist(each).mean().item() for each in (codes, reference)]
    assert look.energy == pytest.approx(2 * across - sum(within))


def test_codes_are_drawn_by_their_weight() -> None:
    """Oracle: the weights; 4,000 sentences of weights 0.8 and 0.2 within 6 standard errors."""
    z = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 4000, 1)
    log_weight = torch.tensor([0.8, 0.2]).log()[:, None].expand(2, 4000)
    assert abs(weighted_draw(z, log_weight).mean().item() - 0.2) < 6 * (0.16 / 4000) ** 0.5


def test_few_codes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^codes of at least 10 sentences are needed to test them; got 9\.$"
    ):
        compare(prior(9))
