"""Ranks and their simultaneous band: ties, enumeration of small cases, and the level by simulation.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import itertools
import math

import numpy as np
import pytest
import torch

from sri_pyro.numerics.ranks import RankBand, counts_below, rank_band, ranks_among
from tests.oracles import gate, sentence


def off(ranks: torch.Tensor, num_draws: int) -> float:
    """Standard errors by which the most or least frequent of L + 1 ranks is off uniform."""
    share = 1 / (num_draws + 1)
    counts = torch.bincount(ranks.flatten(), minlength=num_draws + 1)
    assert len(counts) == num_draws + 1  # none beyond the last
    error = math.sqrt(ranks.numel() * share * (1 - share))
    return ((counts - ranks.numel() * share).abs() / error).max().item()


def test_ranks_of_exchangeable_numbers_are_uniform_with_and_without_ties() -> None:
    """Oracle: exchangeability. Counting equals below, above or by half gives ranks that are not.

    Planted: a rank that counts from 1, and one that takes no notice of ties.
    """
    smooth, coarse = torch.randn(8, 60_000), torch.randint(0, 3, (8, 60_000)).float()
    for values in (smooth, coarse):
        ranks = ranks_among(values[0], values[1:])
        assert off(ranks, 7) < gate(16)
    assert off((coarse[1:] < coarse[0]).sum(0), 7) > 9
    assert off((coarse[1:] <= coarse[0]).sum(0), 7) > 9
    with pytest.raises(AssertionError):
        off(ranks_among(smooth[0], smooth[1:]) + 1, 7)
    assert (ranks_among(torch.zeros(9), torch.zeros(4, 9)) <= 4).all()


def inside(band: RankBand, counts: np.ndarray) -> np.ndarray:
    """Which paths [L, n] keep to a band."""
    return ((counts >= band.lower[:, None]) & (counts <= band.upper[:, None])).all(0)


@pytest.mark.parametrize("law", [None, np.array([0.1, 0.45, 0.9])])
def test_the_confidence_of_a_band_is_that_of_all_outcomes(law: np.ndarray | None) -> None:
    """Oracle: all 4^5 outcomes of five ranks among three draws, each with its probability."""
    band = rank_band(5, 3, 0.9, law)
    cdf = np.arange(1, 4) / 4 if law is None else law
    chance = np.diff(np.concatenate([[0], cdf, [1]]))
    outcomes = np.array(list(itertools.product(range(4), repeat=5))).T
    weight = chance[outcomes].prod(0)
    kept = weight[inside(band, counts_below(outcomes, 3))].sum()
    assert band.confidence == pytest.approx(kept, abs=1e-12)
    assert band.confidence >= 0.9


@pytest.mark.parametrize(("num", "draws"), [(60, 19), (200, 99), (1000, 199)])
def test_the_level_holds_at_all_places_at_once(num: int, draws: int) -> None:
    """Oracle: simulation. Positive control: the band of 95 % at each place alone is left far more often."""
    simulations = 4000
    ranks = torch.randint(0, draws + 1, (num, simulations)).numpy()
    counts = np.stack([(ranks < place).sum(0) for place in range(1, draws + 1)])
    band = rank_band(num, draws)
    error = math.sqrt(0.05 * 0.95 / simulations)
    share = inside(band, counts).mean()
    assert abs(share - band.confidence) < gate(3) * error
    assert 0.95 <= band.confidence < 0.97
    places = np.arange(1, draws + 1) / (draws + 1)
    half = 1.96 * np.sqrt(num * places * (1 - places))
    pointwise = RankBand(num * places - half, num * places + half, 0.95)
    assert inside(pointwise, counts).mean() < 0.95 - 20 * error
    narrower = RankBand(band.lower + 1, band.upper - 1, 0.95)
    assert inside(narrower, counts).mean() < inside(band, counts).mean()


def test_a_wider_confidence_is_a_wider_band() -> None:
    one, other = rank_band(300, 99, 0.95), rank_band(300, 99, 0.999)
    assert (other.lower <= one.lower).all()
    assert (other.upper >= one.upper).all()
    assert other.confidence >= 0.999
    for band in (one, other):  # as far above as below, seen from the other end
        assert (band.lower + band.upper[::-1] == 300).all()
    assert (one.lower <= 300 * np.arange(1, 100) / 100).all()


def test_what_cannot_have_a_band_is_refused() -> None:
    for arguments in ((0, 3, 0.9), (3, 0, 0.9), (3, 3, 1.0)):
        num, draws, confidence = arguments
        message = (
            "a band needs at least one rank, one draw and a confidence between 0 and 1; got "
            f"{num}, {draws} and {confidence}."
        )
        with pytest.raises(ValueError, match=sentence(message)):
            rank_band(*arguments)
