"""Pretraining: what the run begins with, that it resumes in either stage, and what is kept apart."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from sri_pyro import checkpoint
from sri_pyro.checkpoint import CheckpointError
from sri_pyro.config import (
    ConfigError,
    RunFolder,
    Told,
    build,
    load_corpus,
    load_run,
    parse_config,
    train,
    trainer,
)
from sri_pyro.config.pretraining import autoencoder
from sri_pyro.training import Stopped
from sri_pyro.types import Progress
from tests.test_training import assert_same_run, killed, uninterrupted

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 10.0
RUN: dict[str, Any] = {
    "preset": "fb_vae_small",
    "data": {"kind": "pcfg", "num_train": 60, "num_valid": 12, "num_test": 12},
    "model": {
        "prior": {"dim": 2},
        "decoder": {"embedding": 4, "hidden": 6, "initialisation": "small_uniform"},
    },
    "inference": {"encoder": {"embedding": 4, "hidden": 6, "initialisation": "small_uniform"}},
    "objective": {"kl_weight": {"epochs": 2}},
    "training": {
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "checkpoint_every": 3,
        "log_every": 1,
        "validate_every": 1,
    },
    "pretraining": {"epochs": 4, "optimizer": "sgd", "learning_rate": RATE},
    "validation": {"num_sentences": 6, "num_samples": 8, "pilot_chains": 4},
}
"""Four steps an epoch. The rate of pretraining is so large that its last weights are not its best."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(parse_config(RUN), tmp_path_factory.mktemp("whole") / "run")


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def weights_of(file: Path, part: str) -> dict[str, torch.Tensor]:
    return checkpoint.part(part, checkpoint.load(file)[0])


def test_the_run_begins_with_the_best_encoder_and_a_new_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracles: the best checkpoint of the autoencoder, and a build of the configuration. Catches the last weights, a
    decoder that is kept or learns from the generator where the autoencoder left it, and noise used twice.
    """
    seen: dict[str, Any] = {}

    def begin(model: torch.nn.Module, inference: torch.nn.Module, *_: Any, **__: Any) -> None:
        seen.update(
            model=model.state_dict(), inference=inference.state_dict(), generator=torch.get_rng_state()
        )
        raise Stopped

    monkeypatch.setattr(trainer, "fit", begin)
    out, config = tmp_path / "run", parse_config(RUN)
    with pytest.raises(Stopped):
        train(config, out)
    best, last = (
        weights_of(out / "pretraining" / f"{name}.safetensors", "inference") for name in ("best", "last")
    )
    fresh = build(config, load_corpus(config), torch.device("cpu"))
    assert torch.equal(seen["generator"], torch.get_rng_state())
    assert fresh.model.state_dict().keys() == seen["model"].keys()
    for name, value in fresh.model.state_dict().items():
        assert torch.equal(seen["model"][name], value), name
    assert best.keys() == seen["inference"].keys()
    for name, value in best.items():
        assert torch.equal(seen["inference"][name], value), name
    assert any(not torch.equal(best[name], last[name]) for name in best)
    first = fresh.inference.state_dict()
    assert all(not torch.equal(best[name], first[name]) for name in best)


def test_an_autoencoder_is_what_is_trained_before(whole: Path) -> None:
    """Oracle: its own records. It has four epochs and its own rate, none of the run's records, and what is best has the
    best reconstruction.
    """
    before, after = records(whole / "pretraining"), records(whole)
    validations = [r for r in before if r["kind"] == "validation"]
    assert [r["epoch"] for r in validations] == [1, 2, 3, 4]
    assert [r["epoch"] for r in after if r["kind"] == "validation"] == [1, 2, 3]
    rates = [[r["learning_rate"] for r in found if r["kind"] == "step"] for found in (before, after)]
    assert (rates[0][0], rates[1][0]) == (RATE, RUN["training"]["learning_rate"])
    assert rates[0][-1] < RATE / 5  # the cosine has gone over its own epochs
    header = checkpoint.load(whole / "pretraining" / "best.safetensors")[1]
    assert header["reconstruction"] == min(r["reconstruction"] for r in validations)
    assert header["epoch"] < 4


def test_its_objective_is_the_reconstruction_alone() -> None:
    """Oracle: log p(x | z) at the draws. Catches a KL term that counts."""
    parts = build(config := parse_config(RUN), load_corpus(config), torch.device("cpu"))
    target = parts.model.eval().target(parts.validation[0])
    draws = parts.inference(target)
    loss = autoencoder()(target, draws, Progress(0, 0.0))
    assert loss.item() == pytest.approx(-target.log_likelihood(draws.z).mean().item())
    assert parts.pretraining is not None
    assert parts.pretraining.select == "reconstruction" != parts.training.select


def test_its_noise_is_not_that_of_the_run(whole: Path) -> None:
    """Both count their steps from 0, and keys follow from the generator: stages seeded alike would draw alike."""
    generators = [
        checkpoint.load(place / "last.safetensors")[0]["generator/cpu"]
        for place in (whole, whole / "pretraining")
    ]
    assert not torch.equal(generators[0][:8], generators[1][:8])


@pytest.mark.parametrize(
    ("moment", "count", "left"),
    [
        pytest.param("save", 1, ["config.toml"], id="before the first checkpoint of pretraining"),
        pytest.param("step", 16, ["config.toml", "pretraining/last.safetensors"], id="in pretraining"),
        pytest.param("save", 12, ["pretraining/best.safetensors"], id="between the stages"),
        pytest.param("step", 29, ["last.safetensors", "best.safetensors"], id="in the run"),
    ],
)
def test_killed_in_either_stage_and_resumed_is_bit_identical(
    moment: str, count: int, left: list[str], whole: Path, tmp_path: Path
) -> None:
    """Oracle: the run never stopped. Five steps are rehearsed before, of which one is the autoencoder's.

    Catches a stage begun over or left out, and an encoder taken from where the autoencoder was stopped.
    """
    out = tmp_path / "run"
    assert killed(moment, count, out, RUN) == -signal.SIGKILL
    assert all((out / name).exists() for name in left)
    assert (out / "last.safetensors").exists() == ("last.safetensors" in left)
    train(parse_config(RUN), out, resume=True)
    assert_same_run(whole, out)
    assert_same_stage(whole, out)


def assert_same_stage(whole: Path, out: Path) -> None:
    one, two = (checkpoint.load(path / "pretraining" / "last.safetensors") for path in (whole, out))
    assert one[1] == two[1]
    assert all(torch.equal(one[0][name], two[0][name]) for name in one[0].keys() | two[0].keys())
    assert records(whole / "pretraining") == records(out / "pretraining")


@pytest.mark.parametrize("after", [5, 18])
def test_stopped_by_request_in_either_stage_goes_on(after: int, whole: Path, tmp_path: Path) -> None:
    """16 steps are the autoencoder's. What it left behind is not needed any more in the run."""
    out, asked = tmp_path / "run", []

    def stop() -> bool:
        asked.append(None)
        return len(asked) == after

    with pytest.raises(Stopped):
        train(parse_config(RUN), out, told=Told(should_stop=stop))
    if after > 16:
        shutil.rmtree(out / "pretraining")
    train(parse_config(RUN), out, resume=True)
    assert_same_run(whole, out)
    assert (out / "pretraining").exists() == (after <= 16)


def test_what_a_kill_left_half_written_is_swept_in_both_places(tmp_path: Path) -> None:
    place = RunFolder(tmp_path)
    place.pretraining.path.mkdir()
    for folder in (place.path, place.pretraining.path):
        (folder / ".last.safetensors.x.tmp").touch()
    place.sweep()
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_lost_checkpoint_of_pretraining_is_not_begun_over(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("last.safetensors", "best.safetensors", "history.jsonl", "pretraining/last.safetensors"):
        (out / name).unlink()
    with pytest.raises(ConfigError, match=re.escape(f"{out / 'pretraining'} has lost last.safetensors")):
        train(parse_config(RUN), out, resume=True)


def test_the_autoencoder_is_not_taken_for_the_model(whole: Path, tmp_path: Path) -> None:
    """Names and shapes are the same; only the identity tells them apart."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.copyfile(out / "pretraining" / "best.safetensors", out / "best.safetensors")
    with pytest.raises(CheckpointError, match="belongs to another run, of another configuration"):
        load_run(out)


def test_watchers_are_told_of_the_stage(whole: Path, tmp_path: Path) -> None:
    """Oracle: both histories, one after the other."""
    seen: list[Any] = []
    train(parse_config(RUN), tmp_path / "run", told=Told(watch=seen.append))
    before = [{**record, "stage": "pretraining"} for record in records(whole / "pretraining")]
    assert seen == before + records(whole)


def test_without_it_there_is_no_such_folder(tmp_path: Path) -> None:
    train(parse_config(RUN, ["pretraining.epochs=0", "training.epochs=1"]), tmp_path / "run")
    assert not (tmp_path / "run" / "pretraining").exists()
