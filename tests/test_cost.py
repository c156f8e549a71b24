"""The expected cost: what a few timed steps are made into, under a clock that the test holds."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sri_pyro.config import build, cost, load_corpus, parse_config
from sri_pyro.config.build import Parts

pytestmark = pytest.mark.usefixtures("one_thread")  # tests that want several threads say so

TINY: dict[str, Any] = {
    "data": {"kind": "pcfg", "num_train": 400, "num_valid": 40, "num_test": 12},
    "model": {"prior": {"dim": 2}, "decoder": {"embedding": 4, "hidden": 6}},
    "inference": {"num_steps": 2},
    "training": {"epochs": 7, "batch_size": 4, "validate_every": 3},
    "validation": {"num_sentences": 20, "num_samples": 8, "pilot_chains": 4, "batch_size": 8},
}


@pytest.fixture
def parts() -> Parts:
    config = parse_config(TINY)
    return build(config, load_corpus(config), torch.device("cpu"))


def clock(monkeypatch: pytest.MonkeyPatch, laps: Iterator[float]) -> list[float]:
    """Let every lap of the rehearsal's clock take as long as told; returns the times it showed."""
    shown = [0.0]

    def now() -> float:
        shown.append(shown[-1] + next(laps))
        return shown[-1]

    monkeypatch.setattr(cost.time, "perf_counter", now)
    return shown


def test_stalled_steps_do_not_count(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a millisecond a token, every third one of which waits a hundred times as long, after a first that
    builds everything anew: oracle, a millisecond a token. A mean would say more than thirty.
    """
    epoch = parts.batches.epoch(0)
    steps = [int(epoch[i].lengths.sum()) / 1000 for i in range(cost.MOST_STEPS + 1)]
    stalled = [seconds * (100 if i % 3 == 0 else 1) for i, seconds in enumerate(steps)]
    monkeypatch.setattr(cost, "BUDGET", 1e9)
    clock(monkeypatch, iter([0.0, *stalled, 0.0, 0.5]))
    found = cost.rehearse(parts)
    assert found.epoch == pytest.approx(parts.batches.split.num_tokens / 1000)
    first, *rest = (int(batch.lengths.sum()) for batch in parts.validation)
    assert found.validation == pytest.approx(
        0.5 * (first + sum(rest)) / first
    )  # by tokens: the first are short
    assert (found.epochs, found.validations, found.sentences) == (7, 3, 400)
    assert found.total == pytest.approx(7 * found.epoch + 3 * found.validation)


@pytest.mark.parametrize(("step", "steps"), [(1000.0, 2), (0.9, 3), (0.3, 7), (1e-6, cost.MOST_STEPS + 1)])
def test_the_rehearsal_is_bounded(
    step: float, steps: int, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds, and two steps at least: the first one alone is not to be believed."""
    shown = clock(monkeypatch, itertools.chain([0.0], itertools.repeat(step)))
    cost.rehearse(parts)
    assert len(shown) - 2 == steps + 2  # the start, the steps, and the two ends of the validation


def test_a_run_of_one_batch_is_costed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(TINY, ["training.batch_size=1000"])
    built = build(config, load_corpus(config), torch.device("cpu"))
    clock(monkeypatch, iter([0.0, 3.0, 0.0, 0.5]))
    assert cost.rehearse(built).epoch == pytest.approx(3.0)


def test_rehearsing_leaves_everything_as_it_was(parts: Parts) -> None:
    """Weights, their gradients and the generator: what is taken are copies."""
    generator = torch.get_rng_state()
    weights = {name: value.clone() for name, value in parts.model.state_dict().items()}
    cost.rehearse(parts)
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in parts.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert all(parameter.grad is None for parameter in parts.model.parameters())


@pytest.mark.parametrize(
    ("several", "advice"),
    [(8.0, "one thread is 4.0 times faster here: set OMP_NUM_THREADS=1"), (2.5, None), (1.0, None)],
)
def test_one_thread_is_advised_where_it_is_clearly_faster(
    several: float, advice: str | None, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which a token takes 2 ms with one thread and ``several`` with two. Oracle: the ratio.

    Catches a ratio upside down, one of different steps, a threshold that a quarter passes, and a cost of the
    steps of one thread, with which the run does not compute.
    """
    now = [0.0]
    generator = torch.get_rng_state()
    torch.set_num_threads(2)

    def steps(*arguments: Any, should_stop: Any, **_: Any) -> None:
        for batch in arguments[3].batches:
            now[0] += int(batch.lengths.sum()) * (2e-3 if torch.get_num_threads() == 1 else several / 1000)
            torch.rand(1)
            should_stop()

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost, "fit", steps)
    found = cost.rehearse(parts)
    assert found.advice == advice
    assert found.one_thread == pytest.approx(several / 2)
    assert found.epoch == pytest.approx(parts.batches.split.num_tokens * several / 1000)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_threads_are_given_back_if_a_step_fails(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)

    def fails(*_: Any, should_stop: Any, **__: Any) -> None:
        if torch.get_num_threads() == 1:
            raise FloatingPointError("not finite")
        should_stop()

    monkeypatch.setattr(cost, "fit", fails)
    with pytest.raises(FloatingPointError):
        cost.rehearse(parts)
    assert torch.get_num_threads() == 2


def test_one_thread_alone_is_not_timed_twice(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(cost, "fit", lambda *_, should_stop, **__: calls.append(should_stop()))
    assert cost.rehearse(parts).advice is None
    assert len(calls) == 1


def test_a_run_of_two_stages_is_costed_as_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a millisecond a token, and validations of half a second at one batch. Oracle: 3 + 7 epochs and, every
    third epoch and at the end, 1 + 3 validations.
    """
    config = parse_config(TINY | {"preset": "fb_vae_small", "inference": {}}, ["pretraining.epochs=3"])
    built = build(config, load_corpus(config), torch.device("cpu"))
    monkeypatch.setattr(cost, "BUDGET", 1e9)
    epoch = built.batches.epoch(0)
    steps = [int(epoch[i].lengths.sum()) / 1000 for i in range(cost.MOST_STEPS + 1)]
    clock(monkeypatch, iter([0.0, 9.0, 0.0, *steps, 0.0, 0.5]))  # of the autoencoder a step is tried out
    found = cost.rehearse(built)
    assert (found.pretraining_epochs, found.pretraining_validations) == (3, 1)
    assert found.total == pytest.approx(10 * found.epoch + 4 * found.validation)
    assert found.epoch == pytest.approx(built.batches.split.num_tokens / 1000)
    assert found.lines[0].split(": ")[1].startswith("3 + 7 epochs of ")
    assert found.lines[1].startswith("1 + 3 validations of ")
    assert found.lines[2] == "the first 3 epochs are the pretraining"


def test_further_updates_of_a_step_are_costed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joint steps of a millisecond a token, and of seven where the inference is trained ahead."""
    config = parse_config(TINY | {"preset": "lagging_vae_small", "inference": {}})
    built = build(config, load_corpus(config), torch.device("cpu"))
    monkeypatch.setattr(cost, "BUDGET", 1e9)
    epoch = built.batches.epoch(0)
    steps = [int(epoch[i].lengths.sum()) / 1000 for i in range(cost.MOST_STEPS + 1)]
    clock(monkeypatch, iter([0.0, *(7 * step for step in steps), 0.0, *steps, 0.0, 0.5]))
    found = cost.rehearse(built)
    assert found.epoch == pytest.approx(built.batches.split.num_tokens / 1000)
    assert found.epoch_at_first == pytest.approx(7 * found.epoch)
    assert found.total == pytest.approx(7 * found.epoch + 3 * found.validation)
    assert found.lines[2].startswith("and more at first: epochs of ")
    assert bool(built.training.update.ahead)
    assert int(built.training.update.inner_updates) == 0


def test_the_cost_fits_a_terminal_of_80_columns() -> None:
    """A run of a year on a billion sentences: no line has to be broken by a terminal, which breaks anywhere."""
    huge = cost.Cost(36e4, 36e4, 9999, 9999, 999_999_999, 999_999_999)
    more = cost.Cost(36e4, 36e4, 999, 999, 999_999_999, 999_999_999, 1.0, 99, 99, 36e4)
    assert all(len(f"expected: {line}") <= 80 for line in (*huge.lines, *more.lines))
    assert str(cost.Cost(120.0, 3.0, 24, 12, 9000, 1234567)) == (
        "about 49 min: 24 epochs of 2 min on 9,000 sentences, 12 validations of 3.0 s; 1,234,567 weights"
    )
