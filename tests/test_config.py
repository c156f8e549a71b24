"""Configurations: every complaint by its whole sentence, every file read or refused, every experiment valid."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sri_pyro.comparing.systems import options_of
from sri_pyro.config import ConfigError, parse_config, read_config
from sri_pyro.config.build import find_device
from sri_pyro.config.layers import merged
from sri_pyro.config.sections import Experiment
from sri_pyro.inference import OBJECTIVES
from tests.configurations import PCFG, PRESETS, problems

TOP = (
    "known options: device, preset, published, seed; known sections: data, evaluation, inference, model, objective, "
    "pretraining, step_size, training, validation"
)
"""What may stand at the top of a configuration."""


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"data": "chatchat"}, "unknown source 'chatchat'; known: chitchat, pcfg, sotu, text, topic_hmm. "
                               "Did you mean 'chitchat'?"),
        ({"data": "text"}, "source 'text' needs the option 'path'"),
        ({"data": {"kind": "pcfg", "num_train": 10.5}}, "source 'pcfg': num_train must be a whole number; got 10.5"),
        ({"data": {"kind": "text", "path": "x", "min_length": 0}},
         "source 'text': min_length must be at least 1; got 0."),
        ({"model": {"prior": "gauss"}}, "unknown prior 'gauss'; known: mixture, standard_normal"),
        ({"model": {"prior": {"size": 3}}}, "prior 'standard_normal' has no option 'size'; it accepts: dim"),
        ({"model": {"prior": {"dims": 3}}},
         "prior 'standard_normal' has no option 'dims'; it accepts: dim. Did you mean 'dim'?"),
        ({"model": {"prior": {"dim": -1}}}, "prior 'standard_normal': dim must be at least 0; got -1."),
        ({"model": {"prior": {"dim": True}}}, "prior 'standard_normal': dim must be a whole number; got true"),
        ({"model": {"prior": 3}}, "prior must be a table of options; got 3"),
        ({"model": {"priors": "mixture"}},
         "model has no option 'priors'; it accepts: decoder, prior. Did you mean 'prior'?"),
        ({"training": 7}, "section 'training' must be a table of options; got 7"),
        ({"model": {"decoder": {"latent_dim": 9}}},
         "decoder 'lstm': latent_dim follows from dim of the prior; leave it out"),
        ({"model": {"decoder": {"dropout": 1.0}}}, "decoder 'lstm': dropout must lie in [0, 1); got 1.0."),
        ({"model": {"decoder": {"wiring": "hiden"}}},
         "decoder 'lstm': wiring must be one of 'hidden', 'cell'; got 'hiden'. Did you mean 'hidden'?"),
        ({"model": {"decoder": {"output_bias": 1}}}, "decoder 'lstm': output_bias must be true or false; got 1"),
        ({"inference": {"num_steps": 0}}, "inference 'short_run': num_steps must be at least 1; got 0. For draws "
                                          "that do not move use the inference 'prior'."),
        ({"inference": {"step_schedule": {"first": -0.2}}},
         "step_schedule 'geometric': first must be a positive finite number; got -0.2."),
        ({"inference": {"step_schedule": {"first": math.inf}}},
         "step_schedule 'geometric': first must be a finite number; got inf"),
        ({"inference": {"step_schedule": {"kind": "listed", "step_sizes": [0.1, "x"]}}},
         "step_schedule 'listed': step_sizes[1] must be a number; got 'x'"),
        ({"inference": {"num_steps": 2, "step_schedule": {"kind": "listed", "step_sizes": [0.1]}}},
         "inference 'short_run': num_steps is 2, but 1 step sizes are listed; make the two agree."),
        ({"inference": {"integrator": "bao"}},
         "unknown integrator 'bao'; known: baoab, lm, ula. Did you mean 'baoab'?"),
        ({"inference": {"noise": {"kind": "constant", "scale": -1.0}}},
         "noise 'constant': scale must be a finite number of at least 0; got -1.0."),
        ({"inference": "prior", "step_size": "tuner"},
         "step_size 'tuner' works on the inference ShortRunLangevin, and the configuration has PriorDraws"),
        ({"step_size": {"kind": "tuner", "inference": 1}},
         "step_size 'tuner': inference follows from the section inference; leave it out"),
        ({"objective": "finall"},
         f"unknown objective 'finall'; known: {', '.join(sorted(OBJECTIVES))}. Did you mean 'final'?"),
        ({"training": {"epochs": 0}}, "training: epochs must be at least 1; got 0."),
        ({"training": {"batch_size": 0}}, "training: batch_size must be at least 1; got 0."),
        ({"training": {"learning_rate": "fast"}}, "training: learning_rate must be a number; got 'fast'"),
        ({"validation": {"pilot_chains": 1}}, "validation: pilot_chains must be at least 2; got 1."),
        ({"evaluation": {"split": "train"}}, "evaluation: split must be one of 'test', 'valid'; got 'train'"),
        ({"evaluation": {"estimator": {"kind": "gaussian", "num_samples": 0}}},
         "estimator 'gaussian': num_samples must be at least 2, for an error to be known; got 0."),
        ({"device": 3}, "configuration: device must be a text in quotes; got 3"),
        ({"seed": -1}, "configuration: seed must be between 0 and 2^32 - 1; got -1."),
        ({"preset": "papper"}, f"unknown preset 'papper'; known: {PRESETS}. "
                               "Did you mean 'paper'?"),
        ({"preset": ["default"]},
         f"preset must be one name in quotes; got ['default']; known: {PRESETS}"),
        ({"preset": {"kind": "paper"}},
         "preset must be one name in quotes; got {'kind': 'paper'}; known: " + PRESETS),
        ({"modle": {}}, f"unknown section 'modle'; {TOP}. Did you mean 'model'?"),
        ({"sead": 0}, f"unknown option 'sead'; {TOP}. Did you mean 'seed'?"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_sentence(data: dict[str, Any], sentence: str) -> None:
    assert problems(data) == [sentence]


def test_all_mistakes_are_told_at_once() -> None:
    """A reader that stops at the first would show one."""
    told = problems(
        {
            "model": {"prior": {"dim": -1}, "decoder": {"hiden": 3}},
            "training": {"epochs": 0, "clip": 5},
            "inference": {"num_steps": "many", "integrator": "euler"},
        }
    )
    assert len(told) == 6
    with pytest.raises(
        ConfigError, match=r"^the configuration has 2 problems:\n  - unknown .*\n  - unknown "
    ):
        parse_config({"data": "x", "objective": "y"})


def test_missing_data_lists_the_sources() -> None:
    with pytest.raises(
        ConfigError, match=r"^\[data\] needs a kind; known: chitchat, pcfg, sotu, text, topic_hmm$"
    ):
        parse_config({})


def test_trying_a_part_out_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    parse_config(merged(PCFG, {"model": {"prior": {"kind": "mixture"}}}))
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_device_is_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"^there is no device 'cuda:7' here; available: cpu"):
        find_device("cuda:7")
    with pytest.raises(ConfigError, match=r"^there is no device 'gpu' here; available: cpu"):
        find_device("gpu")


def test_every_device_that_is_promised_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the names in the option's own documentation, on a machine said to have two GPUs.

    Catches a device that is documented and never listed, as ``mps`` was: the buffers in double precision cannot go
    there.
    """
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    promised = re.search(r"device: (.*?)\.", str(Experiment.__doc__), re.DOTALL)
    assert promised is not None
    names = re.findall(r"``(.*?)``", promised[1])
    assert len(names) >= 3
    assert [str(find_device(name)) for name in names] == names
    with pytest.raises(ConfigError, match=r"^there is no device 'mps' here; available: cpu, cuda:0, cuda:1$"):
        find_device("mps")


def test_a_misspelt_preset_is_guessed() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config("defualt")
    assert str(caught.value) == (
        "defualt cannot be read: No such file or directory; give a TOML file or a preset "
        f"({PRESETS}). Did you mean 'default'?"
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "x.toml"
    with pytest.raises(ConfigError) as caught:
        read_config(missing)
    assert str(caught.value) == (
        f"{missing} cannot be read: No such file or directory; give a TOML file or a preset ({PRESETS})"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a = ", "{path} is not TOML: Invalid value (at end of document)"),
        (b"\xff\xfe", "{path} is not TOML: it is not UTF-8 text"),
        (b"data = 'pcfg'\nsead = 3", f"{{path}}: unknown option 'sead'; {TOP}. Did you mean 'seed'?"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value) == sentence.format(path=path)


EXPERIMENTS = Path(__file__).parents[1] / "experiments"
CORPORA = sorted((EXPERIMENTS / "corpora").glob("*.toml"))


ROWS = sorted([*EXPERIMENTS.glob("table1-*.toml"), *EXPERIMENTS.glob("full-*/*.toml")])


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_experiment_is_a_configuration(path: Path) -> None:
    if path not in ROWS:
        read_config(path)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_rows_of_tables_name_no_corpus_and_take_any(path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a kind"):
        read_config(path)
    for corpus in CORPORA:
        read_config(path, options_of(corpus))
