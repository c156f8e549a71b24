"""The course of training: what options are taken, and what each validation leads to, by hand."""

import math
import re

import pytest

from sri_pyro.course import Course, Training


def test_every_option_out_of_range_is_named() -> None:
    with pytest.raises(ValueError) as caught:
        Training(epochs=0, learning_rate=-1.0, decay="plateau", decay_factor=1.0)
    assert str(caught.value) == (
        "training options out of range: epochs = 0 (at least 1), learning_rate = -1.0 (more than 0), "
        "decay_factor = 1.0 (between 0 and 1), patience = 0 (at least 1 with decay = 'plateau')."
    )


def test_a_learning_rate_that_is_not_a_number_is_refused() -> None:
    """Every comparison with it is false: a check of ``<= 0`` would let it through."""
    sentence = "training options out of range: learning_rate = nan (more than 0)."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Training(learning_rate=math.nan)


def test_only_a_cosine_has_a_scheduled_rate_and_it_falls_from_whole_to_factor() -> None:
    options = Training(epochs=8, learning_rate=0.3, decay="cosine", decay_factor=0.1)
    rates = [options.scheduled_rate(epoch) for epoch in (0, 2, 4, 6, 8, 9)]
    half = math.sqrt(0.5)
    by_hand = [0.3 * (0.1 + 0.9 * share) for share in (1, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0)]
    assert rates == pytest.approx(by_hand, rel=1e-12)
    assert Training(decay="none").scheduled_rate(3) is None
    assert Training(decay="plateau", patience=1).scheduled_rate(3) is None


def test_a_better_validation_is_remembered_and_ends_the_waiting() -> None:
    course = Course(epoch=1)
    heard = []
    for course.epoch, nll in enumerate((50.0, 40.0, 40.0, math.nan, 39.0), 1):
        heard.append((course.hear(nll), course.best, course.best_epoch, course.waited))
    assert heard == [
        (True, 50.0, 1, 0), (True, 40.0, 2, 0), (False, 40.0, 2, 1), (False, 40.0, 2, 2), (True, 39.0, 5, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        (Training(patience=0), ["on", "on", "on", "on"]),
        (Training(patience=2), ["on", "on", "stop", "stop"]),
        (Training(patience=2, decay="cosine"), ["on", "on", "stop", "stop"]),
        (Training(patience=2, decay="plateau", max_decays=1), ["on", "on", "decay", "decay"]),
        (Training(patience=2, decay="plateau", max_decays=0), ["on", "on", "stop", "stop"]),
    ],
    ids=["never", "early", "early with a cosine", "decay", "no decay left"],
)
def test_what_waiting_leads_to(options: Training, turns: list[str]) -> None:
    assert [Course(epoch=1, waited=waited).turn(options) for waited in range(4)] == turns


def test_after_the_last_decay_waiting_ends_training() -> None:
    options = Training(patience=1, decay="plateau", max_decays=2)
    assert [Course(epoch=1, waited=1, decays=decays).turn(options) for decays in range(4)] == [
        "decay", "decay", "stop", "stop",
    ]  # fmt: skip
