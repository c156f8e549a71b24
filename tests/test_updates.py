"""Update rules: what a weight step moves, when the inference is no longer trained ahead, and that all of it resumes."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sri_pyro import checkpoint
from sri_pyro.config.cost import Fixed
from sri_pyro.inference import Amortized, EvidenceLowerBound, FinalState
from sri_pyro.models import LatentTextModel, LSTMDecoder, LSTMEncoder, StandardNormal
from sri_pyro.step import Learner, Step, Updated, UpdateRule
from sri_pyro.target import Target
from sri_pyro.training import Stopped, Training, fit
from sri_pyro.types import EOS, PAD, Batch, Draws, Progress
from sri_pyro.updates import Aggressive, Joint
from tests.fitting import Listed, Regression, batches
from tests.oracles import sentence

pytestmark = pytest.mark.usefixtures("float64")

TEXT = Fixed(
    [Batch(torch.tensor([[5, 6, EOS], [7, EOS, PAD]]) + i, torch.tensor([i, i + 9])) for i in (0, 3, 4)]
)


class Seeing(nn.Module):
    """z = shift for every sentence; it keeps what it was asked to read.

    Attributes:
        seen: Of every call the first word, the sentences, their tokens and the key.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([1.0, -1.0]))
        self.seen: list[tuple[int, int, int, int | None]] = []

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        batch = target.batch
        assert batch is not None
        self.seen.append((int(batch.tokens[0, 0]), len(batch), int(batch.lengths.sum()), batch.key))
        return Draws(self.shift.expand(num_samples, len(batch), 2))


def miss(target: Target, draws: Draws, progress: Progress) -> Tensor:
    """Mean of (w . z - x)^2 / 2, whose gradient reaches z."""
    return -target.log_likelihood(draws.z).mean()


class Of(UpdateRule):
    """One update, of the weights that the test says."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner, self.made = learner, []

    def forward(self, step: Step) -> Updated:
        self.made.append(step.update(step.batch, self.learner))
        return self.made[-1]

    def hear(self, scores: object) -> str:
        return ""


def text() -> tuple[LatentTextModel, Amortized]:
    torch.manual_seed(4)
    sizes = {"vocab_size": 14, "latent_dim": 2, "embedding": 3, "hidden": 4}
    return LatentTextModel(StandardNormal(2), LSTMDecoder(**sizes, dropout=0.3)), Amortized(
        LSTMEncoder(**sizes)
    )


def weights(module: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in module.parameters()]


def equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def close(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=0, atol=1e-13) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_half_an_update_moves_its_half_as_the_joint_one_does_and_leaves_the_other(clip_norm: float) -> None:
    """Oracle: the joint step from the same weights, with the same noise; the halves' norms are its norm's sides.

    The losses are equal, for the KL is exact in all of them. Catches an encoder that learns from the KL of a
    step of the model's, draws with a graph, a norm over both, an optimiser that moves by old moments, a
    gradient of the frozen half that is computed and thrown away.
    """
    found = {}
    for learner in ("both", "inference", "model"):
        model, inference = text()
        start, computed, rule = (weights(model), weights(inference)), set(), Of(learner)
        for owner, module in (("model", model), ("inference", inference)):
            for weight in module.parameters():
                weight.register_hook(lambda _, owner=owner, computed=computed: computed.add(owner))
        torch.manual_seed(5)
        options = Training(epochs=1, optimizer="sgd", learning_rate=0.1, clip_norm=clip_norm)
        fit(model, inference, EvidenceLowerBound(), Fixed(TEXT.batches[:1]), options, update=rule)
        assert computed == ({"model", "inference"} if learner == "both" else {learner})
        assert equal(weights(model), start[0]) == (learner == "inference")
        assert equal(weights(inference), start[1]) == (learner == "model")
        assert all(weight.requires_grad for weight in (*model.parameters(), *inference.parameters()))
        found[learner] = (weights(model), weights(inference), rule.made[0])
    joint, inner, outer = (found[learner][2] for learner in ("both", "inference", "model"))
    assert joint.loss == pytest.approx(inner.loss, rel=1e-12) == pytest.approx(outer.loss, rel=1e-12)
    assert joint.norm == pytest.approx(math.hypot(inner.norm, outer.norm), rel=1e-12)
    if not clip_norm:
        assert close(found["inference"][1], found["both"][1])
        assert close(found["model"][0], found["both"][0])
    else:  # each is shortened to the whole length, and both together to no more
        assert clip_norm < min(inner.norm, outer.norm)
        start = weights(text()[1])
        moved = math.sqrt(
            sum(float((a - b).square().sum()) for a, b in zip(found["inference"][1], start, strict=True))
        )
        assert moved == pytest.approx(0.1 * clip_norm, rel=1e-4)


@pytest.mark.parametrize("learner", ["inference", "model"])
def test_adam_knows_nothing_of_the_half_that_rests(learner: Learner, tmp_path: Path) -> None:
    """Its moments would move weights whose gradient is zero. Oracle: the moments in the checkpoint."""
    model, inference = text()
    fit(model, inference, EvidenceLowerBound(), TEXT, Training(epochs=1), update=Of(learner), folder=tmp_path)
    tensors, _ = checkpoint.load(tmp_path / "last.safetensors")
    known = {int(name.split("/")[0]) for name in checkpoint.part("optimizer", tensors)}
    first = len(list(model.parameters()))
    ours = range(first) if learner == "model" else range(first, first + len(list(inference.parameters())))
    assert known == set(ours)


UNLIKE = Fixed([
    Batch(torch.tensor([[4, 5, 6, 7, 8], [9, EOS, PAD, PAD, PAD]])),
    Batch(torch.tensor([[7, EOS]])),
    Batch(torch.tensor([[12, 5, EOS], [13, EOS, PAD], [11, 6, 6]])),
])  # fmt: skip
"""Unlike in words, sentences, and tokens a sentence."""
WORDS = {4: (4, 9), 7: (7,), 12: (12, 13, 11)}


def by_hand(
    seen: Sequence[tuple[int, int, int, int | None]], rate: float, most: int, window: int, epochs: int
) -> tuple[list[float], list[float], list[int]]:
    """The algorithm in Python, given which batches were drawn: both weights, and the inner updates of every step."""
    w, z, made, at = [0.3, -0.2], [1.0, -1.0], [], 0

    def error(words: Sequence[int]) -> tuple[float, float]:
        misses = [w[0] * z[0] + w[1] * z[1] - word / 5 for word in words]
        return sum(m * m for m in misses) / 2 / len(words), sum(misses) / len(words)

    for turn in [4, 7, 12] * epochs:
        losses, before = [], math.inf
        while len(losses) < most:
            first, sentences, tokens, _ = seen[at]
            assert losses or first == turn, "the first inner update is on the step's own batch"
            at += 1
            loss, mean = error(WORDS[first])
            losses.append((loss * sentences, tokens))
            z = [z[0] - rate * mean * w[0], z[1] - rate * mean * w[1]]
            if len(losses) % window == 0:
                last = losses[-window:]
                now = sum(nats for nats, _ in last) / sum(tokens for _, tokens in last)
                if now > before:
                    break
                before = now
        made.append(len(losses))
        assert seen[at][0] == turn, "the update of the model is on the step's own batch"
        at += 1
        _, mean = error(WORDS[turn])
        w = [w[0] - rate * mean * z[0], w[1] - rate * mean * z[1]]
    assert at == len(seen)
    return w, z, made


@pytest.mark.parametrize(("most", "window"), [(99, 4), (5, 2), (3, 15)])
def test_the_inner_loop_is_the_algorithm_by_hand(most: int, window: int) -> None:
    """Oracle: Algorithm 1 in Python floats on a model with two weights. Catches means over batches in place of tokens,
    windows that overlap or grow, a break that comes early, a model trained on the batch drawn last.
    """
    model, inference = Regression(), Seeing()
    options = Training(epochs=3, optimizer="sgd", learning_rate=0.05, clip_norm=0.0, log_every=1)
    history = fit(model, inference, miss, UNLIKE, options, update=Aggressive(most, window))
    w, z, made = by_hand(inference.seen, 0.05, most, window, epochs=3)
    assert model.weight.tolist() == pytest.approx(w, rel=1e-9)
    assert inference.shift.tolist() == pytest.approx(z, rel=1e-9)
    totals = [record["inner_updates"] for record in history.of("step")]
    assert totals == [sum(made[: i + 1]) for i in range(9)]
    assert [record["step"] for record in history.of("step")] == list(range(1, 10))
    if most == 99:
        assert len(set(made)) > 1, "the loop is to end for the losses' sake"
        assert max(made) < 99


def test_every_update_has_noise_of_its_own_and_a_step_takes_one_number() -> None:
    """Oracle: the keys of joint steps. The generator must not move with the number of inner updates."""
    keys = {}
    for rule in (Joint(), Aggressive(4, 2)):
        inference = Seeing()
        torch.manual_seed(8)
        fit(Regression(), inference, miss, UNLIKE, Training(epochs=2, learning_rate=1e-4), update=rule)
        keys[type(rule)] = [key for *_, key in inference.seen]
    assert keys[Aggressive][4::5] == keys[Joint]
    assert len(set(keys[Aggressive])) == len(keys[Aggressive]) == 30


def test_batches_are_drawn_from_all_of_the_epoch_with_replacement() -> None:
    """Each of three is expected 600 times among 1800 draws, with a deviation of 20; the seed is fixed."""
    inference = Seeing()
    fit(
        Regression(),
        inference,
        miss,
        UNLIKE,
        Training(epochs=20, learning_rate=1e-5),
        update=Aggressive(31, 40),
    )
    drawn = [first for i, (first, *_) in enumerate(inference.seen) if i % 32 not in (0, 31)]
    assert len(drawn) == 1800
    assert all(abs(drawn.count(first) - 600) < 100 for first in WORDS)
    assert any(a == b for a, b in pairwise(drawn))


class Informing:
    """A validation that finds the mutual information listed, and the third epoch best."""

    def __init__(self, found: Sequence[float]) -> None:
        self.found, self.calls = found, 0

    def __call__(self) -> dict[str, float]:
        self.calls += 1
        return {
            "nll": [9.0, 8.0, 1.0, 7.0, 7.0, 7.0][self.calls - 1],
            "mutual_information": self.found[self.calls - 1],
        }


@pytest.mark.parametrize(
    ("found", "ahead"),
    [
        ([1.0, 2.0, 2.0, 1.5, 3.0, 1.0], 4),
        ([-0.1, -0.2, 5.0, 6.0, 7.0, 8.0], 2),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 6),
    ],
)
def test_it_ends_for_good_at_the_first_fall_of_the_mutual_information(
    found: list[float], ahead: int, tmp_path: Path
) -> None:
    """Oracle: the inner updates of every epoch, four a step. It goes back to best weights of a time when the inference
    was ahead, and is not ahead again. Catches a comparison with the highest so far, with zero at first, or upside down.
    """
    options = Training(
        epochs=6, optimizer="sgd", learning_rate=1e-4, decay="plateau", patience=1, log_every=1
    )
    rule, inference = Aggressive(4, 2), Seeing()
    history = fit(
        Regression(), inference, miss, batches(2), options, update=rule, validate=Informing(found), folder=tmp_path
    )  # fmt: skip
    assert len(inference.seen) == 10 * ahead + 2 * (6 - ahead)
    assert [r["inner_updates"] for r in history.of("step")][-1] == 8 * ahead
    events = [r["message"] for r in history.of("event") if "mutual" in str(r["message"])]
    before, now = ("2", "1.5") if ahead == 4 else ("-0.1", "-0.2")
    said = (
        f"inference no longer trained ahead: mutual information fell from {before} to {now} nats, after "
        f"{8 * ahead} updates of it alone"
    )
    assert events == ([] if ahead == 6 else [said])


def run(folder: Path | None = None, stop: int = 0, resume: bool = False) -> tuple[list[Tensor], list[str]]:
    """Six epochs of text, of which the first three are trained ahead; all weights, and the records without a folder."""
    (model, inference), asked = text(), []
    epochs = (
        len([r for r in (folder / "history.jsonl").read_text().splitlines() if '"validation"' in r])
        if resume
        else 0
    )
    validate = Informing([1.0, 2.0, 1.5, 3.0, 4.0, 5.0])
    validate.calls = epochs

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) == stop

    torch.manual_seed(6)
    rule = Aggressive(3, 2)
    try:
        fit(model, inference, EvidenceLowerBound(), TEXT, Training(epochs=6, log_every=1, learning_rate=0.01),
            update=rule, validate=validate, folder=folder, resume=resume, should_stop=should_stop)  # fmt: skip
    except Stopped:
        assert stop
    lines = (folder / "history.jsonl").read_text().splitlines() if folder is not None else []
    return [*weights(model), *weights(inference), rule.ahead, rule.information, rule.inner_updates], lines


@pytest.mark.parametrize("stop", [2, 8, 9, 10, 14])
def test_it_resumes_bit_identical_while_ahead_and_after(stop: int, tmp_path: Path) -> None:
    """Oracle: the run never stopped. Catches a rule that is ahead again, or forgets what it counts and
    compares with.
    """
    whole = run(tmp_path / "whole")
    run(tmp_path / "run", stop=stop)
    again = run(tmp_path / "run", resume=True)
    assert equal(whole[0], again[0])
    assert whole[1] == again[1]
    assert not whole[0][-3]
    assert json.loads(whole[1][-2])["inner_updates"] == 27.0  # three epochs of three steps of three


def test_a_run_that_was_saved_under_another_rule_is_refused(tmp_path: Path) -> None:
    run(tmp_path, stop=2)
    model, inference = text()
    with pytest.raises(checkpoint.CheckpointError, match="the configuration has no 'ahead'"):
        fit(model, inference, EvidenceLowerBound(), TEXT, Training(epochs=6), folder=tmp_path, resume=True)


def test_what_it_cannot_work_with_is_told() -> None:
    with pytest.raises(ValueError, match=sentence("window must be at least 1; got 0.")):
        Aggressive(window=0)
    weightless = (
        "the update 'aggressive' moves the weights of the inference ahead of the model's, and this inference has none; "
        "use one that has, such as 'amortized', or the update 'joint'."
    )
    with pytest.raises(ValueError, match=sentence(weightless)):
        fit(Regression(), Listed(), FinalState(), batches(), Training(epochs=1), update=Aggressive())
    blind = (
        "the update 'aggressive' ends by mutual_information, and a validation gives nll; use an inference whose draws "
        "have a law of independent normals, or the update 'joint'."
    )
    with pytest.raises(ValueError, match=sentence(blind)):
        fit(Regression(), Seeing(), miss, batches(), Training(epochs=1, learning_rate=1e-4), update=Aggressive(2, 1),
            validate=lambda: {"nll": 1.0})  # fmt: skip
