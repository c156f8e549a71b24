"""The mutual information of laws: against sums over all pairs, a closed form, and its cap."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from sri_pyro.numerics import information
from sri_pyro.numerics.information import as_normals, mutual_information
from tests.oracles import gate

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_it_is_the_sum_over_all_pairs(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the densities of PyTorch, pair by pair. Catches a mean over draws under one law in place of one over laws
    at one draw, which unequal scales tell apart, a lost volume, and rows that are not those of their part.
    """
    monkeypatch.setattr(information, "AT_ONCE", at_once)
    mean, scale = torch.randn(5, 3), torch.rand(5, 3) + 0.2
    draws = mean + scale * torch.randn(5, 3)
    gains = []
    for n in range(5):
        densities = [math.exp(float(Normal(mean[m], scale[m]).log_prob(draws[n]).sum())) for m in range(5)]
        gains.append(math.log(densities[n] / (sum(densities) / 5)))
    assert float(mutual_information(mean, scale, draws)) == pytest.approx(sum(gains) / 5, rel=1e-12)


def test_it_is_that_of_a_linear_gaussian_encoder() -> None:
    r"""Oracle: z = a x + s noise with x normal has :math:`\tfrac12 \log(1 + a^2 / s^2)` nats a dimension.

    Its error has the spread of its gains and, for the mean over 4000 laws in place of all, a bias of about
    chi-square / 2 N, below 0.001. Gate: one check, false alarm 1e-8.
    """
    num, signal, noise = 4000, torch.tensor([1.0, 0.5]), torch.tensor([0.5, 1.0])
    mean = torch.randn(num, 2) * signal
    draws = mean + noise * torch.randn(num, 2)
    exact = float(0.5 * torch.log1p((signal / noise).square()).sum())
    total = (signal.square() + noise.square()).sqrt()
    gains = (Normal(mean, noise).log_prob(draws) - Normal(0.0, total).log_prob(draws)).sum(-1)
    found = float(mutual_information(mean, noise.expand(num, 2), draws))
    assert abs(found - exact) < gate(1) * float(gains.std()) / math.sqrt(num) + 0.001
    assert 0.8 < exact < 1.0


def test_it_is_capped_at_log_n_and_nothing_where_all_laws_are_one() -> None:
    far = 1000.0 * torch.arange(7.0)[:, None]
    assert float(mutual_information(far, torch.ones(7, 1), far)) == pytest.approx(math.log(7), rel=1e-12)
    same = torch.zeros(7, 2)
    assert float(mutual_information(same, torch.ones(7, 2), torch.randn(7, 2))) == pytest.approx(0, abs=1e-12)


def test_only_independent_normals_are_taken_for_such() -> None:
    normal = Normal(torch.zeros(4, 3), torch.ones(4, 3))
    assert as_normals(Independent(normal, 1)) is normal
    for other in (None, normal, Independent(normal, 2), MultivariateNormal(torch.zeros(3), torch.eye(3))):
        assert as_normals(other) is None
