"""The course of training: what options are taken, and what each validation leads to, by hand."""

import math
import re
from typing import Any

import pytest

from sri_pyro.course import ABSURD, Course, Training, blown_up


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": -3}, "epochs must be at least 1; got -3."),
        ({"hold": -1}, "hold must be at least 0; got -1."),
        ({"clip_norm": -0.5}, "clip_norm must be at least 0; got -0.5."),
        ({"learning_rate": 0.0}, "learning_rate must be more than 0; got 0.0."),
        # Every comparison with it is false: a check of ``<= 0`` would let it through.
        ({"learning_rate": math.nan}, "learning_rate must be more than 0; got nan."),
        ({"decay_factor": 1.0}, "decay_factor must be between 0 and 1; got 1.0."),
        ({"decay": "plateau"}, "patience must be at least 1 with decay = 'plateau'; got 0."),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Training(**options)


def test_training_has_blown_up_only_where_both_likelihoods_are_absurd() -> None:
    """Oracle: the definition, at its edges. Catches a code far from the prior, or an inference that errs, taken for
    weights that are lost; a limit on the other side; and infinities that compare as any number does.
    """
    sound = {"nll": 50.0, "reconstruction": 40.0, "uniform_nll": 60.0}
    for scores in (sound, sound | {"nll": 9e9}, sound | {"reconstruction": 9e9}, {"nll": 9e9}):
        assert blown_up(scores, "nll") == ""
    edge = ABSURD * 60.0
    assert blown_up({"nll": edge, "reconstruction": 9e9, "uniform_nll": 60.0}, "nll") == ""
    assert blown_up({"nll": 9e9, "reconstruction": edge * 1.01, "uniform_nll": 60.0}, "nll") == (
        "nll 9e+09 nats per sentence, where the uniform distribution over the vocabulary has 60.00"
    )
    for value in (math.nan, math.inf, -math.inf):
        assert blown_up({"nll": value}, "nll") == f"nll {value}, which is no finite number"
    said = blown_up(sound | {"reconstruction": math.nan}, "reconstruction")
    assert said == "reconstruction nan, which is no finite number"


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
