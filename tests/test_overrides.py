"""Overrides and the file and the preset: which wins, what gives way, and what is refused rather than dropped."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from sri_pyro.config import ConfigError, parse_config, read_config
from sri_pyro.config.layers import merged
from sri_pyro.config.schema import keywords
from sri_pyro.config.sections import SECTIONS
from sri_pyro.config.settings import overridden_config
from sri_pyro.config.toml import assignment, dumps, nested
from tests.configurations import PCFG


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


def test_a_table_with_a_kind_takes_the_place_of_what_the_file_says() -> None:
    """One word swaps a part that has options of its own. Planted: merged as dotted keys are, which is refused."""
    data = PCFG | {"model": {"prior": {"kind": "mixture", "components": 4}, "decoder": {"hidden": 16}}}
    config = parse_config(data, ['model.prior={kind="standard_normal", dim=8}'])
    assert config.prior.plain() == {"kind": "standard_normal", "dim": 8}
    assert config.decoder.options["hidden"] == 16
    assert parse_config(data, ["model.prior={dim=8}"]).prior.options["components"] == 4


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
    assert nested(*assignment(text)) == table


@pytest.mark.parametrize("text", ["epochs", "=3", "a..b=3", "a="])
def test_override_without_key_or_value(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assignment(text)
    expected = f"--set wants section.option=value, for instance training.epochs=3; got '{text}'"
    assert str(caught.value) == expected


def test_override_with_broken_toml() -> None:
    """The whole path: the last name alone would be that of many options."""
    with pytest.raises(ConfigError, match=r"^--set model\.prior: \[1, is not a TOML value$"):
        assignment("model.prior=[1,")


def test_toml_is_written_so_that_the_standard_library_reads_it_back() -> None:
    data = {
        "text": 'quotes " backslash \\ tab \t newline \n é ∇ \x7f',
        "numbers": [1, -2.5, 1e-300, 1e22, 0.1],
        "flags": {"on": True, "off": False},
        "empty": {},
        "odd key": {"a.b": [["x"], []]},
    }
    assert tomllib.loads(dumps(data)) == data


@pytest.mark.parametrize("name", ["harmonic", "harmonic_mean"])
def test_the_harmonic_mean_is_refused_with_the_reason(name: str) -> None:
    """Not merely unknown: who asks for it by name is told why there is none."""
    with pytest.raises(ConfigError) as caught:
        parse_config(PCFG, [f"evaluation.estimator={name}"])
    assert list(caught.value.problems) == [
        f"estimator '{name}' is refused: the harmonic mean of p(x | z) over posterior draws over-states log p(x), by "
        "nats in a few dozen dimensions, for its weights have infinite variance and chains rarely meet the small "
        "likelihoods that decide it; use 'gaussian', or evaluation.simulated for bounds from both sides"
    ]


def test_a_problem_is_told_of_the_file_or_of_the_override_that_brought_it(tmp_path: Path) -> None:
    """Oracle: who said what, by hand. Catches the file blamed for the command line, which has no such line, an override
    blamed for what stands in the file, and a pair of overrides that disagree blamed singly.
    """
    path = tmp_path / "my.toml"
    path.write_text("data = 'pcfg'\nsead = 0\n[validation]\nbatch_size = 0\n[training]\nepochs = 'ten'\n")
    twenty, path_less, typo = "training.epochs=twenty", "objective=trajectory", "model.prior={kind"
    inferred, fine = "inference.record_path=false", "training.patience=1"
    with pytest.raises(ConfigError) as caught:
        read_config(path, [fine, twenty, path_less, typo, inferred])
    said = [problem.split("; ")[0] for problem in caught.value.problems]
    assert said == [
        "--set model.prior: {kind is not a TOML value",
        f"{path}: unknown option 'sead'",
        f"--set {twenty}: training: epochs must be a whole number",
        f"{path}: validation: batch_size must be at least 1",
        f"--set {path_less}: the learning rule 'trajectory' needs every position of the run, and these draws carry "
        "only the last",
    ]
    with pytest.raises(ConfigError) as caught:
        read_config("default", ["data=pcfg", "inference=prior", "step_size=tuner"])
    assert list(caught.value.problems) == [
        "--set inference=prior and --set step_size=tuner: step_size 'tuner' works on the inference ShortRunLangevin, "
        "and the configuration has PriorDraws"
    ]
    with pytest.raises(ConfigError) as caught:
        overridden_config(parse_config(PCFG), ["evaluation.simulated=1"])
    assert str(caught.value) == (
        "--set evaluation.simulated=1: evaluation: simulated must be 0, or at least 2, for an error to be known; got 1."
    )
