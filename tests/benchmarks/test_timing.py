"""The contest on clocks that tests turn by hand: no time passes here."""

import numpy as np
import pytest

from benchmarks.timing import LEAST_ROUNDS, Effort, Spread, interleaved, ratio, timed


class Clock:
    """Shows what it was told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_timed_is_the_mean_of_calls_in_a_row() -> None:
    clock, calls = Clock(), []

    def work() -> None:
        calls.append(1)
        clock.now += len(calls)

    assert timed(work, repeats=3, clock=clock)() == pytest.approx((1 + 2 + 3) / 3)
    assert timed(work, clock=clock)() == pytest.approx(4)


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that slows down for both leaves the ratio; medians apart would say 2 / 3 * 3 = 6 or 2 / 3."""
    slowness = [1.0, 1.0, 3.0, 9.0, 9.0]
    above = [2.0 * slow for slow in slowness]
    assert ratio(above, slowness) == Spread(2.0, 2.0, 2.0, 5)
    below = [3.0, 1.0, 1.0]
    assert ratio([3.0, 4.0, 9.0], below) == pytest.approx(Spread(4.0, 1.6, 8.0, 3))  # of 1, 4 and 9
    with pytest.raises(ValueError, match="argument"):
        ratio(above, below)


def test_spread_is_the_median_and_the_middle_four_fifths() -> None:
    numbers = np.random.default_rng(0).permutation(101).astype(float).tolist()
    assert Spread.of(numbers) == Spread(50.0, 10.0, 90.0, 101)
    assert Spread.of(numbers).scaled(0.5) == Spread(25.0, 5.0, 45.0, 101)


def test_every_contestant_runs_once_a_round_and_none_is_always_first() -> None:
    order: list[str] = []

    def contestant(name: str, seconds: float):
        def run() -> float:
            order.append(name)
            return seconds + len(order)

        return run

    contest = {name: contestant(name, 100.0 * i) for i, name in enumerate("abc")}
    seconds = interleaved(contest, Effort(rounds=4, seconds=1e9))
    assert "".join(order) == "abc" + "abc" + "cab" + "bca" + "abc"
    # The first three runs warm up and do not count.
    assert seconds["a"] == [4.0, 8.0, 12.0, 13.0]
    assert seconds["c"] == [206.0, 207.0, 211.0, 215.0]


def test_contest_ends_when_its_time_is_up_but_not_before_a_few_rounds() -> None:
    clock = Clock()

    def slow() -> float:
        clock.now += 10
        return 1.0

    assert len(interleaved({"slow": slow}, Effort(50, 45), wall=clock)["slow"]) == 5
    assert len(interleaved({"slow": slow}, Effort(50, 1), wall=clock)["slow"]) == LEAST_ROUNDS
    assert len(interleaved({"slow": slow}, Effort(2, 1e9), wall=clock)["slow"]) == 2
