"""Configurations: every complaint by its whole sentence, every default filled in, every round trip exact."""

import inspect
import math
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sri_pyro.config import ConfigError, build, load_corpus, parse_config, presets, read_config
from sri_pyro.config.build import find_device
from sri_pyro.config.cost import rehearse
from sri_pyro.config.schema import Reader, keywords, options_model, trial
from sri_pyro.config.sections import NESTED, SECTIONS, SETTINGS
from sri_pyro.config.settings import laid_over, merged, overridden_config
from sri_pyro.config.toml import dumps, override
from sri_pyro.models import LanguageModel
from sri_pyro.types import Progress

PCFG: dict[str, Any] = {"data": {"kind": "pcfg", "num_train": 40, "num_valid": 12, "num_test": 12}}
TINY = merged(
    PCFG,
    {
        "model": {"prior": {"dim": 2}, "decoder": {"embedding": 4, "hidden": 6}},
        "inference": {"num_steps": 2},
        "training": {"epochs": 2, "batch_size": 16},
        "validation": {"num_sentences": 6, "num_samples": 8, "pilot_chains": 4},
    },
)


def problems(data: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(laid_over(PCFG, data), overrides)
    return list(caught.value.problems)


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
        ({"objective": "finall"}, "unknown objective 'finall'; known: final, trajectory. Did you mean 'final'?"),
        ({"training": {"epochs": 0}}, "training options out of range: epochs = 0 (at least 1)."),
        ({"training": {"batch_size": 0}}, "training: batch_size must be at least 1; got 0."),
        ({"training": {"learning_rate": "fast"}}, "training: learning_rate must be a number; got 'fast'"),
        ({"validation": {"pilot_chains": 1}}, "validation: pilot_chains must be at least 2; got 1."),
        ({"evaluation": {"split": "train"}}, "evaluation: split must be one of 'test', 'valid'; got 'train'"),
        ({"evaluation": {"estimator": {"kind": "gaussian", "num_samples": 0}}},
         "estimator 'gaussian': num_samples must be at least 2, for an error to be known; got 0."),
        ({"device": 3}, "configuration: device must be a text in quotes; got 3"),
        ({"seed": -1}, "configuration: seed must be between 0 and 2^32 - 1; got -1."),
        ({"preset": "papper"}, "unknown preset 'papper'; known: default, language_model, paper, released. "
                               "Did you mean 'paper'?"),
        ({"modle": {}}, "unknown section 'modle'; known: data, device, evaluation, inference, model, objective, "
                        "preset, seed, step_size, training, validation. Did you mean 'model'?"),
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
    assert len(told) == 5
    with pytest.raises(
        ConfigError, match=r"^the configuration has 2 problems:\n  - unknown .*\n  - unknown "
    ):
        parse_config({"data": "x", "objective": "y"})


def test_missing_data_lists_the_sources() -> None:
    with pytest.raises(
        ConfigError, match=r"^\[data\] needs a kind; known: chitchat, pcfg, sotu, text, topic_hmm$"
    ):
        parse_config({})


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
    config = parse_config(merged(small, {"preset": name}))
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
        assert config.training.options["dropout_in_inference"]
    elif name == "paper":
        assert len(set(steps)) == 1
        assert inference.noise(None) == 1.0
        assert config.step_size.options["method"] == "grid"
        assert not config.training.options["dropout_in_inference"]
    else:
        assert first == "lm"
        assert steps == sorted(steps, reverse=True)  # the numbers are settled by measurement
        assert inference.noise(None) == 1.0
        assert inference.noise(Progress(step=0, epoch=0.0)) == 0.5


WARMING = [name for name in presets() if '"linear"' in presets()[name] or '"staircase"' in presets()[name]]
"""The presets that raise the noise along training."""


@pytest.mark.parametrize("name", WARMING)
def test_a_warm_up_ends_when_its_preset_says_and_stays_there(name: str) -> None:
    """Oracle: the numbers in the preset's own TOML, and the law of its schedule in two lines of arithmetic.

    A schedule that never quite arrives, overshoots, or stops an epoch early would train at another temperature
    than it evaluates at.
    """
    declared = tomllib.loads(presets()[name])["inference"]["noise"]
    config = parse_config(merged(PCFG, {"preset": name}))
    noise = config.inference.build().noise

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
            ends[name] = config.inference.build().noise(None)
    assert ends == {"default": 1.0, "paper": 1.0, "released": 0.2}
    assert WARMING == ["default", "released"]


def test_overrides_win_over_the_file_which_wins_over_the_preset() -> None:
    data = merged(PCFG, {"preset": "paper", "training": {"epochs": 5}, "inference": {"num_steps": 7}})
    config = parse_config(data, ["training.epochs=9", "inference.integrator=lm", "preset=default"])
    assert config.training.options["epochs"] == 9
    assert config.inference.options["num_steps"] == 7
    assert config.inference.options["integrator"].kind == "lm"
    assert config.inference.options["step_schedule"].kind == "geometric"


def test_another_kind_takes_the_place_of_the_presets_options() -> None:
    """A merge by key alone would hand the LSTM's wiring to the GRU, which has none."""
    config = parse_config(PCFG, ["model.decoder.kind=gru", "inference.noise.kind=constant"])
    assert config.decoder.kind == "gru"
    assert config.inference.options["noise"].plain() == {"kind": "constant", "scale": 1.0}


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.decoder.hidden=16", "model.decoder.kind=gru"),
        ("model.decoder.kind=gru", "model.decoder.hidden=16"),
        ("model.decoder=gru", "model.decoder.hidden=16"),
        ("model.decoder.hidden=16", "model.decoder=gru"),
    ],
)
def test_an_option_and_a_kind_may_come_in_any_order_and_form(overrides: tuple[str, ...]) -> None:
    """A merge that replaces tables as it goes gives hidden = 256, or trains an LSTM."""
    config = parse_config(PCFG, overrides)
    assert config.decoder.kind == "gru"
    assert config.decoder.options["hidden"] == 16


def test_short_forms_take_options_at_every_depth() -> None:
    config = parse_config({}, ["data=text", "data.path=my.txt", "inference.step_schedule=constant",
                               "inference.step_schedule.step_size=0.1"])  # fmt: skip
    assert config.data.plain()["path"] == "my.txt"
    assert config.inference.options["step_schedule"].plain() == {"kind": "constant", "step_size": 0.1}
    assert parse_config({"data": "pcfg"}, ["data.num_train=40"]).data.options["num_train"] == 40


def test_a_kind_that_does_not_change_keeps_the_options_of_the_file() -> None:
    data = PCFG | {"model": {"decoder": {"kind": "lstm", "hidden": 16}}}
    assert parse_config(data, ["model.decoder.kind=lstm"]).decoder.options["hidden"] == 16
    assert parse_config(data, ["model.decoder.kind=gru"]).decoder.options["hidden"] == 16
    assert parse_config(PCFG, ["data.kind=topic_hmm"]).data.options["num_train"] == 40


@pytest.mark.parametrize(
    ("data", "overrides"),
    [
        (PCFG | {"model": {"decoder": {"wiring": "cell"}}}, ["model.decoder.kind=gru"]),
        (PCFG, ["model.decoder.wiring=cell", "model.decoder=gru"]),
    ],
)
def test_what_the_user_said_is_refused_rather_than_dropped(
    data: dict[str, Any], overrides: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(data, overrides)
    accepted = [
        name
        for name in keywords(SECTIONS["model.decoder"].entries["gru"])
        if not name.endswith(("_dim", "_size"))
    ]
    assert str(caught.value) == (
        f"decoder 'gru' has no option 'wiring'; it accepts: {', '.join(sorted(accepted))}"
    )


def test_another_source_does_not_drop_the_path_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"data": {"kind": "text", "path": "my.txt"}}, ["data.kind=pcfg"])
    expected = "source 'pcfg' has no option 'path'; it accepts: num_test, num_train, num_valid, seed"
    assert str(caught.value) == expected


def test_a_finished_configuration_gives_way_as_a_preset_does() -> None:
    """Its estimator's options are all written out: taken for the user's own, they would be refused."""
    config = parse_config(PCFG, ["evaluation.estimator.num_samples=40", "evaluation.num_sentences=9"])
    other = overridden_config(config, ["evaluation.estimator=annealed"])
    assert other.evaluation.options["estimator"].kind == "annealed"
    assert other.evaluation.options["num_sentences"] == 9
    same = overridden_config(config, ["evaluation.estimator.inflation=1.3"])
    assert same.evaluation.options["estimator"].options["num_samples"] == 40


def test_a_misspelt_preset_is_guessed() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config("defualt")
    assert str(caught.value) == (
        "defualt cannot be read: No such file or directory; give a TOML file or a preset "
        "(default, language_model, paper, released). Did you mean 'default'?"
    )


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("a.b=1e-3", {"a": {"b": 1e-3}}),
        ("a.b = [1, 2]", {"a": {"b": [1, 2]}}),
        ("a.b={kind = 'x'}", {"a": {"b": {"kind": "x"}}}),
        ("a=true", {"a": True}),
        ("a=some/file.txt", {"a": "some/file.txt"}),
        ("a='3'", {"a": "3"}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_override_values_are_toml_or_bare_words(text: str, table: dict[str, Any]) -> None:
    assert override(text) == table


@pytest.mark.parametrize("text", ["epochs", "=3", "a..b=3", "a="])
def test_override_without_key_or_value(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(text)
    expected = f"--set wants section.option=value, for instance training.epochs=3; got '{text}'"
    assert str(caught.value) == expected


def test_override_with_broken_toml() -> None:
    with pytest.raises(ConfigError, match=r"^--set step_sizes: \[1, is not a TOML value$"):
        override("step_sizes=[1,")


def test_toml_is_written_so_that_the_standard_library_reads_it_back() -> None:
    data = {
        "text": 'quotes " backslash \\ tab \t newline \n é ∇ \x7f',
        "numbers": [1, -2.5, 1e-300, 1e22, 0.1],
        "flags": {"on": True, "off": False},
        "empty": {},
        "odd key": {"a.b": [["x"], []]},
    }
    assert tomllib.loads(dumps(data)) == data


TABLES = [
    pytest.param(factory, table.follows, id=f"{table.what}-{kind}")
    for table in [*SECTIONS.values(), *NESTED.values()]
    for kind, factory in table.entries.items()
] + [pytest.param(factory, {}, id=name) for name, factory in SETTINGS.items()]


@pytest.mark.parametrize(("factory", "follows"), TABLES)
def test_every_entry_of_every_table_has_a_schema(
    factory: Callable[..., Any], follows: dict[str, str]
) -> None:
    """A newcomer is tested by existing: typed keywords, a docstring, defaults that its own schema accepts."""
    assert inspect.getdoc(factory)
    nested = {name for name, p in keywords(factory).items() if name not in follows and _is_part(p)}
    model = options_model(factory, frozenset(nested) | frozenset(follows))
    for name, parameter in keywords(factory).items():
        assert parameter.annotation is not parameter.empty, name
        if name in model.model_fields and parameter.default is not parameter.empty:
            model.__pydantic_validator__.validate_assignment(model.model_construct(), name, parameter.default)


def _is_part(parameter: inspect.Parameter) -> bool:
    from sri_pyro.config.schema import unwrapped

    return unwrapped(parameter.annotation) in NESTED


def test_a_dotted_path_serves_outsiders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_lab.py").write_text(
        "from sri_pyro.models import StandardNormal\n"
        "class Wide(StandardNormal):\n"
        "    '''Mine.'''\n"
        "    def __init__(self, dim: int = 3, width: float = 2.0) -> None:\n"
        "        super().__init__(dim)\n"
        "        if width <= 0:\n"
        "            raise ValueError(f'width must be positive; got {width}.')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = parse_config(merged(PCFG, {"model": {"prior": {"kind": "my_lab:Wide", "width": 3.0}}}))
    assert config.prior.plain() == {"kind": "my_lab:Wide", "dim": 3, "width": 3.0}
    assert parse_config(tomllib.loads(config.to_toml())) == config
    assert problems({"model": {"prior": {"kind": "my_lab:Wide", "width": -1.0}}}) == [
        "prior 'my_lab:Wide': width must be positive; got -1.0."
    ]
    assert problems({"model": {"prior": "my_lab:Narrow"}}) == [
        "prior 'my_lab:Narrow' cannot be imported: module 'my_lab' has no attribute 'Narrow'"
    ]
    assert problems({"model": {"prior": "no_lab:Wide"}}) == [
        "prior 'no_lab:Wide' cannot be imported: No module named 'no_lab'"
    ]
    sys.modules.pop("my_lab", None)


def test_trying_a_part_out_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    parse_config(merged(PCFG, {"model": {"prior": {"kind": "mixture"}}}))
    assert torch.equal(torch.get_rng_state(), before)


def test_trial_needs_no_memory() -> None:
    """A prior of 2^40 numbers is tried out all the same: nothing is allocated before the real build."""
    reader = Reader(NESTED)
    part = reader.choice(SECTIONS["model.prior"], {"kind": "mixture", "dim": 2**20, "components": 2**20})
    assert part is not None
    assert trial(part, {}).means.device.type == "meta"


def test_unknown_device_is_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"^there is no device 'cuda:7' here; available: cpu"):
        find_device("cuda:7")
    with pytest.raises(ConfigError, match=r"^there is no device 'gpu' here; available: cpu"):
        find_device("gpu")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "x.toml"
    with pytest.raises(ConfigError) as caught:
        read_config(missing)
    assert str(caught.value) == (
        f"{missing} cannot be read: No such file or directory; give a TOML file or a preset "
        "(default, language_model, paper, released)"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a = ", "{path} is not TOML: Invalid value (at end of document)"),
        (b"\xff\xfe", "{path} is not TOML: it is not UTF-8 text"),
        (b"data = 'pcfg'\nsead = 3", "{path}: unknown section 'sead'; known: data, device, evaluation, "
         "inference, model, objective, preset, seed, step_size, training, validation. Did you mean 'seed'?"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value) == sentence.format(path=path)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "experiments").glob("*.toml")), ids=str)
def test_every_experiment_is_a_configuration(path: Path) -> None:
    read_config(path)
