"""How numbers are put into words."""

from __future__ import annotations

import math

from sri_pyro.evaluation.verdicts import rounded
from sri_pyro.types import Estimate


def test_estimates_are_rounded_to_the_second_digit_of_their_error() -> None:
    assert rounded(Estimate(123.456, 12.3, 5)) == "123 ± 12"
    assert rounded(Estimate(0.0, 0.0, 5)) == "0"
    assert rounded(Estimate(1.5, math.nan, 5)) == "1.5"
