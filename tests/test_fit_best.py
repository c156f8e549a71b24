"""Which weights ``fit`` ends with, with a folder and without, and what it does with a folder that is used.

Oracle: the weights that a validation itself saw, which are copied there.
"""

import math
import re
from pathlib import Path

import pytest
import torch

from sri_pyro import checkpoint
from sri_pyro.inference import FinalState
from sri_pyro.training import Stopped, Training, fit
from tests.fitting import Listed, Regression, Scores, batches

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=["folder", "no folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "not" / "there" if request.param == "folder" else None


def run(options: Training, nlls: list[float], folder: Path | None = None) -> tuple[Regression, Scores, list]:
    model = Regression()
    scores = Scores(nlls, model)
    history = fit(model, Listed(), FinalState(), batches(), options, validate=scores, folder=folder)
    return model, scores, history.of("event")


def test_the_best_weights_are_in_the_model_at_the_end(folder: Path | None) -> None:
    """Catches the last weights kept, as they were without a folder, and best weights that alias the live ones."""
    model, scores, _ = run(Training(epochs=4), [9.0, 5.0, 7.0, 6.0], folder)
    assert torch.equal(model.weight, scores.weights[1])
    assert not torch.equal(model.weight, scores.weights[3])


def test_a_plateau_goes_back_to_the_best_weights(folder: Path | None) -> None:
    """After the decay that the third validation brings, one epoch of plain descent starts at the second's weights.

    Oracle: a run of its own that starts there. Catches a decay that goes on from where it was.
    """
    options = Training(epochs=4, optimizer="sgd", learning_rate=0.1, decay="plateau", patience=1)
    _, scores, events = run(options, [9.0, 5.0, 7.0, 4.0], folder)
    assert [event["message"] for event in events] == ["learning rate decayed to 0.05"]
    again = Regression(scores.weights[1].tolist())
    once = Training(epochs=4, optimizer="sgd", learning_rate=0.05)
    moved: list[torch.Tensor] = []

    class Later(Listed):
        def forward(self, target, num_samples=1, progress=None):
            return super().forward(target, num_samples, type(progress)(progress.step, progress.epoch + 3))

    def after_one_epoch() -> bool:
        moved.append(again.weight.detach().clone())
        return len(moved) == 2

    with pytest.raises(Stopped):
        fit(again, Later(), FinalState(), batches(), once, should_stop=after_one_epoch)
    assert torch.equal(scores.weights[3], moved[-1])


def test_without_a_validation_the_last_weights_stay(folder: Path | None) -> None:
    model, seen = Regression(), []
    fit(model, Listed(), FinalState(), batches(), Training(epochs=2), folder=folder,
        should_stop=lambda: seen.append(model.weight.detach().clone()) is not None)  # fmt: skip
    assert len(seen) == 4
    assert torch.equal(model.weight, seen[-1])


def test_a_plateau_of_no_number_decays_where_it_stands(folder: Path | None) -> None:
    """There are no best weights to go back to; it raised an error about a checkpoint that nobody can supply. In the end
    no weights are worth keeping, and training says so rather than end as if it was well.
    """
    model, events = Regression(), []
    scores = Scores([math.nan] * 3, model)
    options = Training(epochs=3, decay="plateau", patience=1, max_decays=1)

    def blown_up() -> None:
        fit(
            model,
            Listed(),
            FinalState(),
            batches(),
            options,
            validate=scores,
            folder=folder,
            watch=events.append,
        )

    sentence = (
        "training has blown up: no validation gave a sound nll; lower learning_rate (it is 0.001) or clip_norm (it is "
        "5) and train anew; no epoch before has weights to be kept."
    )
    with pytest.raises(FloatingPointError, match=f"^{re.escape(sentence)}$"):
        blown_up()
    assert [event["message"] for event in events if event["kind"] == "event"] == [
        "learning rate decayed to 0.0005", "stopped early: validation no longer improves", sentence,
    ]  # fmt: skip
    assert torch.equal(model.weight, scores.weights[-1])


@pytest.mark.parametrize("bad", [math.nan, 301.0], ids=["no number", "absurd"])
def test_a_training_that_blew_up_ends_with_the_best_weights(bad: float, folder: Path | None) -> None:
    """Oracle: the weights that the second validation saw, in memory and in the folder. A resume goes on before the
    fault, and ends as the run did. Catches a run that goes on to its last epoch, and one that keeps the weights lost.
    """
    model = Regression()
    scores = Scores([9.0, 5.0, bad, 4.0], model)
    judged = lambda: scores() | {"uniform_nll": 60.0}  # noqa: E731
    options = Training(epochs=4, learning_rate=0.5, clip_norm=0)
    fault = "nan, which is no finite number" if math.isnan(bad) else (
        "301 nats per sentence, where the uniform distribution over the vocabulary has 60.00"
    )  # fmt: skip
    sentence = (
        f"training has blown up: the validation after epoch 3 gave nll {fault}; lower learning_rate (it is 0.5) or "
        "clip_norm (it is 0, which clips nothing) and train anew; the best weights so far, of epoch 2, are kept."
    )
    with pytest.raises(FloatingPointError, match=f"^{re.escape(sentence)}$"):
        fit(model, Listed(), FinalState(), batches(), options, validate=judged, folder=folder)
    assert torch.equal(model.weight, scores.weights[1])
    if folder is None:
        return
    kept, header = checkpoint.load(folder / "best.safetensors")
    assert torch.equal(kept["model/weight"], scores.weights[1])
    assert header["epoch"] == 2
    again, later = Regression(), iter([bad])
    with pytest.raises(FloatingPointError, match=f"^{re.escape(sentence)}$"):
        fit(again, Listed(), FinalState(), batches(), options, folder=folder, resume=True,
            validate=lambda: {"nll": next(later), "uniform_nll": 60.0})  # fmt: skip
    assert torch.equal(again.weight, scores.weights[1])


def test_a_plateau_goes_back_from_where_training_blew_up(folder: Path | None) -> None:
    """Its rule mends what the rate spoiled; an absurd validation is never the best one, however finite."""
    options = Training(epochs=3, decay="plateau", patience=1)
    model = Regression()
    scores = Scores([900.0, 5.0, 900.0], model)
    judged = lambda: scores() | {"uniform_nll": 60.0}  # noqa: E731
    history = fit(model, Listed(), FinalState(), batches(), options, validate=judged, folder=folder)
    assert len(history.of("event")) == 2
    assert torch.equal(model.weight, scores.weights[1])


@pytest.mark.parametrize(
    "options", [Training(patience=2), Training(patience=1, decay="plateau")], ids=["early", "plateau"]
)
def test_waiting_for_a_validation_that_nobody_makes_is_refused(options: Training) -> None:
    """Neither ever acted, in silence."""
    sentence = (
        f"patience = {options.patience} and decay = '{options.decay}' wait for validations, and there are none; "
        "give fit a validate, or set patience = 0 and a decay that does not wait."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit(Regression(), Listed(), FinalState(), batches(), options)


def test_a_used_folder_is_refused_and_nothing_in_it_changes(tmp_path: Path) -> None:
    """The run ended with the other one's best weights, and its records were appended to the other one's."""
    run(Training(epochs=2), [5.0, 6.0], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = Regression((2.0, 2.0))
    sentence = (
        f"{tmp_path} already holds a run (last.safetensors, best.safetensors, history.jsonl); continue it with "
        "resume = True, or name another folder."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit(model, Listed(), FinalState(), batches(), Training(epochs=1), folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert model.weight.tolist() == [2.0, 2.0]


def test_resuming_from_nowhere_is_refused() -> None:
    sentence = "resume = True and no folder; name the folder of the run that is to go on."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit(Regression(), Listed(), FinalState(), batches(), resume=True)
