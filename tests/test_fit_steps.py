"""The weight step of ``fit`` against optimisers written by hand, and every option against what reaches the parts.

Deterministic in float64. The oracle is the equations: gradients summed in Python, Adam by its Algorithm 1.
"""

import logging
import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from sri_pyro.inference import FinalState, ShortRunLangevin
from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
from sri_pyro.numerics.schedules import LinearNoise
from sri_pyro.step import MOST_SKIPPED_STEPS
from sri_pyro.target import Target
from sri_pyro.training import Training, fit
from sri_pyro.types import Progress
from tests.fitting import (
    Listed,
    Regression,
    Scores,
    Step,
    adam,
    batches,
    clipped,
    gradient_by_hand,
    listed,
    plain_descent,
)

pytestmark = pytest.mark.usefixtures("float64")


def cosine(epoch: float) -> float:
    """From 0.1 down to 0.02 over three epochs."""
    return 0.1 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * epoch / 3)))


@pytest.mark.parametrize(
    ("options", "step", "rate"),
    [
        ({"optimizer": "sgd", "clip_norm": 0.0}, lambda: plain_descent, lambda _: 0.1),
        ({"optimizer": "sgd", "clip_norm": 1.5}, lambda: plain_descent, lambda _: 0.1),
        ({"optimizer": "sgd", "clip_norm": 0.0, "num_samples": 3}, lambda: plain_descent, lambda _: 0.1),
        ({"optimizer": "sgd", "decay": "cosine", "decay_factor": 0.2}, lambda: plain_descent, cosine),
        ({"clip_norm": 0.0}, adam, lambda _: 0.1),
        ({"clip_norm": 1.5, "num_samples": 2, "decay": "cosine", "decay_factor": 0.2}, adam, cosine),
    ],
    ids=["sgd", "clipped", "three chains", "cosine", "adam", "adam with all"],
)  # fmt: skip
def test_every_step_is_the_one_of_the_equations(
    options: dict, step: Callable[[], Step], rate: Callable[[float], float]
) -> None:
    """Six steps: two batches, three epochs. Each step sees its own draws, by progress, and its own rate.

    Catches a rate never applied or that of an epoch before, other numbers of chains, a sum for a mean, a gradient
    that piles up, momentum in sgd, an optimiser whose moments start again.
    """
    model, inference = Regression(), Listed()
    training = Training(epochs=3, learning_rate=0.1, log_every=1, **options)
    history = fit(model, inference, FinalState(), batches(), training)
    weight, move = [0.3, -0.2], step()
    for k, record in enumerate(history.of("step")):
        batch, epoch = batches().batches[k % 2], k / 2
        draws = listed(training.num_samples, 3, epoch)
        gradient = gradient_by_hand(weight, batch, draws)
        assert record["gradient_norm"] == pytest.approx(math.hypot(*gradient), rel=1e-5)
        assert record["learning_rate"] == pytest.approx(rate(epoch), rel=1e-12)
        weight = move(weight, clipped(gradient, training.clip_norm), rate(epoch))
    assert len(history.of("step")) == 6
    assert model.weight.tolist() == pytest.approx(weight, rel=2e-5)
    assert math.hypot(weight[0] - 0.3, weight[1] + 0.2) > 0.05  # positive control: it went somewhere
    asked = [(training.num_samples, Progress(k, k / 2)) for k in range(6)]
    assert inference.asked == asked


def test_weights_learn_in_train_mode_and_are_validated_in_eval_mode() -> None:
    """A weight step in eval mode would train without dropout, a validation in train mode would score with it."""
    model = Regression()
    scores = Scores([3.0, 2.0], model)
    fit(model, Listed(), FinalState(), batches(), Training(epochs=2), validate=scores)
    assert model.modes == [True] * 4
    assert scores.modes == [False, False]


def small_text() -> LatentTextModel:
    torch.manual_seed(3)
    decoder = LSTMDecoder(vocab_size=12, latent_dim=2, embedding=3, hidden=4, dropout=0.5)
    return LatentTextModel(StandardNormal(2), decoder)


def test_dropout_acts_in_the_weight_step_alone() -> None:
    """Oracle: the loss that the objective saw, by the model's own likelihood with and without dropout.

    Without dropout the same batch, draws and weights give the same loss twice; with it they do not.
    """
    model, losses = small_text(), []

    def rule(target: Target, draws, progress: Progress):
        with torch.no_grad():
            losses.append([target.log_likelihood(draws.z).mean().item() for _ in range(2)])
        return FinalState()(target, draws, progress)

    fit(model, Listed(), rule, batches(1), Training(epochs=2))
    assert all(one != other for one, other in losses)


def test_progress_reaches_the_noise_of_the_inference() -> None:
    """The warm-up's noise at each step, as the schedule of a real short run was asked for it.

    Oracle: start + (end - start) epoch / epochs by hand. Without progress every step would have the final noise.
    """
    seen: list[float] = []

    class Recorded(LinearNoise):
        def __call__(self, progress: Progress | None) -> float:
            seen.append(super().__call__(progress))
            return seen[-1]

    inference = ShortRunLangevin(2, noise=Recorded(start=0.2, end=1.0, epochs=2.0))
    fit(small_text(), inference, FinalState(), batches(2), Training(epochs=3))
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rel=1e-12)


@pytest.mark.parametrize("choice", ["off", "shared", "fresh"])
def test_the_dropout_of_the_inference_is_the_one_asked_for(choice: str) -> None:
    """Oracle: what inference sees in training mode. ``off`` is the network without dropout, twice the same;
    ``shared`` a thinned one, twice the same; ``fresh`` another one each time.
    """
    model, whole, twice = small_text(), [], []

    class Looking(Listed):
        def forward(self, target, num_samples=1, progress=None):
            draws = super().forward(target, num_samples, progress)
            twice.append([target.value_and_grad(draws.z).log_likelihood for _ in range(2)])
            whole.append(model.target(target.batch).value(draws.z)[1])
            return draws

    fit(model, Looking(), FinalState(), batches(2), Training(epochs=1, inference_dropout=choice))
    same = [torch.allclose(one, other) for one, other in twice]
    thinned = [not torch.allclose(one, plain) for (one, _), plain in zip(twice, whole, strict=True)]
    assert same == [choice != "fresh"] * 2
    assert thinned == [choice != "off"] * 2


@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping_ends_training(patience: int) -> None:
    """Of six epochs, 1 + patience are trained: the first validation is the best. The event says why it ended."""
    model = Regression()
    scores = Scores([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], model)
    training = Training(epochs=6, patience=patience)
    history = fit(model, Listed(), FinalState(), batches(), training, validate=scores)
    assert len(scores.weights) == 1 + patience
    assert [record["message"] for record in history.of("event")] == [
        "stopped early: validation no longer improves"
    ]
    assert torch.equal(model.weight, scores.weights[0])


class Failing(nn.Module):
    """The rule of ``final``, times NaN or infinity from some step on; its loss stays finite if asked to."""

    def __init__(self, start: int, end: int, factor: float, gradient_alone: bool = False) -> None:
        super().__init__()
        self.start, self.end, self.factor, self.gradient_alone = start, end, factor, gradient_alone

    def forward(self, target: Target, draws, progress: Progress):
        loss = FinalState()(target, draws, progress)
        if not self.start <= progress.step < self.end:
            return loss
        broken = loss * self.factor
        return loss.detach() + (broken - broken.detach()).nan_to_num(0) if self.gradient_alone else broken


@pytest.mark.parametrize("gradient_alone", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_loss_that_is_no_number_moves_no_weight_and_ends_training_in_time(
    factor: float, optimizer: str, gradient_alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """From the third step on nothing is finite: the weights stay those of the second, to the bit.

    Oracle: a run of two steps. Catches a guard that looks at the loss alone or is not there, and a count that never
    ends or starts again.
    """
    training = Training(epochs=100, optimizer=optimizer, clip_norm=0.0)
    events: list[dict] = []

    def watch(record: Mapping[str, float | str]) -> None:
        if record["kind"] == "event":
            events.append(dict(record))

    model, rule = Regression(), Failing(2, 10**6, factor, gradient_alone)
    with caplog.at_level(logging.ERROR), pytest.raises(FloatingPointError) as caught:
        fit(model, Listed(), rule, batches(), training, watch=watch)
    assert str(caught.value) == (
        "the loss or its gradient was not finite for 20 weight steps in a row; lower learning_rate or clip_norm. "
        "The weights are those before the first of these steps."
    )
    two = Regression()
    fit(two, Listed(), FinalState(), batches(), Training(epochs=1, optimizer=optimizer, clip_norm=0.0))
    assert torch.equal(model.weight, two.weight)
    assert [event["step"] for event in events] == list(range(2, 2 + MOST_SKIPPED_STEPS))
    assert all(str(event["message"]).startswith("step skipped: loss ") for event in events)


def test_a_step_that_works_ends_the_count_of_those_that_did_not() -> None:
    """19 failures, one step, 19 failures: training goes on, since no 20 were in a row."""
    model = Regression()

    class Twice(Failing):
        def forward(self, target, draws, progress):
            self.start, self.end = (0, 19) if progress.step < 20 else (20, 39)
            return super().forward(target, draws, progress)

    history = fit(model, Listed(), Twice(0, 0, math.nan), batches(40), Training(epochs=1))
    assert len(history.of("event")) == 38
    assert bool(model.weight.isfinite().all())
