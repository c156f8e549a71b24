"""An inference with weights of its own learns in ``fit``, is saved with the model and goes on where it stopped."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.target import Target
from sri_pyro.training import Stopped, Training, fit
from sri_pyro.types import Draws, Progress
from tests.fitting import Regression, Scores, batches, clipped

pytestmark = pytest.mark.usefixtures("float64")


class Shifted(nn.Module):
    """z = shift, for every sentence: one weight vector, and one that must not move."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([1.0, -1.0]))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.modes: list[bool] = []

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        self.modes.append(self.training)
        return Draws(self.shift.expand(num_samples, target.batch_size, 2))


def reparameterised(target: Target, draws: Draws, progress: Progress) -> Tensor:
    """A loss whose gradient flows into the draws, as an ELBO's does."""
    return -target.log_likelihood(draws.z).mean()


def trained(
    options: Training, folder: Path | None = None, stop: int = 0, resume: bool = False
) -> list[Tensor]:
    model, inference, steps = Regression(), Shifted(), []
    validate = Scores([5.0, 4.0, 3.0], model)  # the last is the best, however often it is asked

    def should_stop() -> bool:
        steps.append(None)
        return len(steps) == stop

    try:
        fit(model, inference, reparameterised, batches(), options, validate=validate, folder=folder,
            resume=resume, should_stop=should_stop)  # fmt: skip
    except Stopped:
        assert stop
    assert inference.frozen.tolist() == [1.0, 1.0]
    return [model.weight.detach(), inference.shift.detach()]


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_model_and_inference_take_one_clipped_step_together(clip_norm: float) -> None:
    """Oracle: both gradients by hand, for z = (1, -1) and x = 0.8, 1.8, 1.2; the norm is that of both at once.

    Catches an inference left out of the optimiser, gradients that pile up, a norm of the model's alone.
    """
    weight, shift = [0.3, -0.2], [1.0, -1.0]
    for word in (0.0, 0.2):  # the second batch's words are one id higher
        miss = sum(w * z for w, z in zip(weight, shift, strict=True)) - (0.8 + 1.8 + 1.2) / 3 - word
        gradient = clipped([miss * z for z in shift] + [miss * w for w in weight], clip_norm)
        weight = [w - 0.1 * g for w, g in zip(weight, gradient[:2], strict=True)]
        shift = [z - 0.1 * g for z, g in zip(shift, gradient[2:], strict=True)]
    found = trained(Training(epochs=1, optimizer="sgd", learning_rate=0.1, clip_norm=clip_norm))
    assert found[0].tolist() == pytest.approx(weight, rel=1e-5)
    assert found[1].tolist() == pytest.approx(shift, rel=1e-5)


@pytest.mark.parametrize("stop", [1, 3])
def test_an_inference_that_learns_resumes_bit_identical(stop: int, tmp_path: Path) -> None:
    """Oracle: the run never stopped. Adam's moments of the inference's weights come back too."""
    options = Training(epochs=3)
    whole = trained(options)
    trained(options, tmp_path, stop=stop)
    again = trained(options, tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert not torch.equal(whole[1], torch.tensor([1.0, -1.0]))


def test_the_inference_trains_in_train_mode_and_is_validated_in_eval_mode() -> None:
    """An encoder's dropout belongs to the weight step alone."""
    model, inference, seen = Regression(), Shifted(), []

    def validate() -> dict[str, float]:
        seen.append(inference.training)
        return {"nll": 1.0}

    fit(model, inference, reparameterised, batches(), Training(epochs=2), validate=validate)
    assert seen == [False, False]
    assert inference.modes == [True] * 4


def test_a_parameter_that_both_have_is_one_parameter() -> None:
    """An encoder that reads with the decoder's embedding: twice in an optimiser would be two steps, or an error."""
    model, inference = Regression(), Shifted()
    inference.shift = model.weight
    fit(model, inference, reparameterised, batches(1), Training(epochs=1, optimizer="sgd", learning_rate=0.1))
    miss = [0.13 - x for x in (0.8, 1.8, 1.2)]  # d/dw (w.w - x)^2 / 2 = 2 (w.w - x) w
    gradient = [2 * sum(miss) / 3 * w for w in (0.3, -0.2)]
    assert model.weight.tolist() == pytest.approx(
        [0.3 - 0.1 * gradient[0], -0.2 - 0.1 * gradient[1]], rel=1e-9
    )
