"""Presets: each builds, makes the round trip, and says what its source says."""

import math
import tomllib

import pytest
import torch

from sri_pyro.config import build, load_corpus, parse_config, presets
from sri_pyro.config.cost import rehearse
from sri_pyro.config.layers import merged
from sri_pyro.models import LanguageModel
from sri_pyro.types import Progress
from tests.configurations import PCFG

TINY = merged(
    PCFG,
    {
        "model": {"prior": {"dim": 2}, "decoder": {"embedding": 4, "hidden": 6}},
        "inference": {"num_steps": 2},
        "training": {"epochs": 2, "batch_size": 16},
        "validation": {"num_sentences": 6, "num_samples": 8, "pilot_chains": 4},
    },
)


@pytest.mark.parametrize("name", presets())
def test_round_trip_through_toml_is_exact(name: str) -> None:
    config = parse_config(merged(PCFG, {"preset": name}))
    again = parse_config(tomllib.loads(config.to_toml()))
    assert again == config
    assert again.to_toml() == config.to_toml()
    assert again.digest == config.digest
    assert parse_config(merged(PCFG, {"preset": name, "seed": 1})).digest != config.digest


@pytest.mark.parametrize("name", presets())
def test_every_preset_builds_and_takes_a_step(name: str) -> None:
    small = {name: value for name, value in TINY.items() if name not in ("inference", "model")}
    dim = {} if name == "language_model" else {"prior": {"dim": 2}}
    small["model"] = {"decoder": {"embedding": 4, "hidden": 6}, **dim}
    brief = {"inference": {"warmup": 1}} if name.startswith("mcmc") else {}
    config = parse_config(merged(small, {"preset": name, **brief}))
    parts = build(config, load_corpus(config), torch.device("cpu"))
    assert isinstance(parts.model, LanguageModel) == (name == "language_model")
    cost = rehearse(parts)
    assert cost.total > 0
    assert cost.epochs == config.training.options["epochs"]


@pytest.mark.parametrize("name", ["default", "paper", "released"])
def test_presets_say_what_their_sources_say(name: str) -> None:
    """Oracle: research notes. delta of the release becomes s = delta^2 / 2."""
    config = parse_config(merged(PCFG, {"preset": name}))
    inference = config.inference.build()
    steps, first = inference.step_sizes(), config.inference.options["integrator"].kind
    if name == "released":
        deltas = [0.8, 0.7, 0.6, 0.5, 0.2, 0.2, 0.1, 0.1, *[0.05] * 12]
        assert steps == pytest.approx([delta**2 / 2 for delta in deltas])
        assert inference.noise(None) == 0.2
        assert config.objective.kind == "trajectory"
        assert config.training.options["inference_dropout"] == "fresh"
    elif name == "paper":
        assert len(set(steps)) == 1
        assert inference.noise(None) == 1.0
        assert config.step_size.options["method"] == "grid"
        assert config.training.options["inference_dropout"] == "off"
    else:
        assert first == "lm"
        assert steps == sorted(steps, reverse=True)  # the numbers are settled by measurement
        assert inference.noise(None) == 1.0
        assert inference.noise(Progress(step=0, epoch=0.0)) == 0.05


NOISES = {
    name: parse_config(merged(PCFG, {"preset": name})).plain()["inference"].get("noise", {})
    for name in presets()
}
WARMING = [name for name, noise in NOISES.items() if noise.get("kind") in ("linear", "staircase")]
"""The presets that raise the noise along training."""


@pytest.mark.parametrize("name", WARMING)
def test_a_warm_up_ends_when_its_preset_says_and_stays_there(name: str) -> None:
    """Oracle: the numbers in the preset's own TOML, and the law of its schedule in two lines of arithmetic.

    A schedule that never quite arrives, overshoots, or stops an epoch early would train at another temperature
    than it evaluates at.
    """
    declared = NOISES[name]
    config = parse_config(merged(PCFG, {"preset": name}))
    noise = config.inference.build(vocab_size=8, latent_dim=32).noise

    def at(epoch: float) -> float:
        return float(noise(Progress(step=0, epoch=epoch)))

    start, end = declared["start"], declared["end"]
    if declared["kind"] == "linear":
        last = declared["epochs"]
        rises = end - start
    else:  # it rises at the beginning of an epoch, for the first time after the hold
        last = declared["hold"] + math.ceil((end - start) / declared["increment"] - 1e-9) - 1
        rises = declared["increment"]
    assert at(0.0) == start < end
    assert end - rises - 1e-12 <= at(last - 1e-6) < end
    assert [at(epoch) for epoch in (last, last + 0.5, last + 1, 10 * last)] == [end] * 4
    assert noise(None) == end
    assert last < config.training.options["epochs"], "the last epochs are to train at the noise that is kept"


def test_the_recipes_that_sample_end_at_the_full_noise() -> None:
    """1 is the scale at which chains sample the posterior; ``released`` stops at 0.2, as the authors' code does."""
    ends = {}
    for name in presets():
        config = parse_config(merged(PCFG, {"preset": name}))
        if config.inference.kind == "short_run":
            ends[name] = config.inference.build(vocab_size=8, latent_dim=32).noise(None)
    assert {name for name, end in ends.items() if end != 1.0} == {"released", "released_small"}
    assert ends["released"] == ends["released_small"] == 0.2
    assert {"default", "released"} <= set(WARMING)
