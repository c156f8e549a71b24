"""How numbers are put into words."""

from __future__ import annotations

import math

from sri_pyro.evaluation.verdicts import rounded
from sri_pyro.evaluation.verdicts.reading import sentences_to_settle
from sri_pyro.types import Estimate


def test_estimates_are_rounded_to_the_second_digit_of_their_error() -> None:
    assert rounded(Estimate(123.456, 12.3, 5)) == "123 ± 12"
    assert rounded(Estimate(0.0, 0.0, 5)) == "0"
    assert rounded(Estimate(1.5, math.nan, 5)) == "1.5"
    assert rounded(Estimate(-1.5, math.nan, 5)) == "−1.5"


def test_an_error_that_underflows_takes_no_digits_with_it() -> None:
    """Catches six places of zeros, 1e-18 for 0, and a zero with a sign."""
    assert rounded(Estimate(0.682123, 1e-17, 16)) == "0.6821"
    assert rounded(Estimate(-3e-18, 1e-17, 16)) == "0"
    assert rounded(Estimate(0.682123, 2e-6, 16)) == "0.682123 ± 0.000002"


def test_an_interval_of_no_width_settles_at_once_and_an_estimate_on_the_threshold_never() -> None:
    assert sentences_to_settle(0.0, 0.1, 20).startswith("About 21 sentences in place of 20")
    for half_width in (0.0, 0.4):
        assert sentences_to_settle(half_width, 0.0, 20).endswith("more sentences will hardly settle it.")
