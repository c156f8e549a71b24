"""What is shown: a meaning for every option of every part, and a preset as it is."""

import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from sri_pyro.cli.describing import for_terminal, show
from sri_pyro.config import ConfigError, parse_config, presets
from sri_pyro.config.describe import meaning, whole
from sri_pyro.config.schema import keywords
from sri_pyro.config.sections import NESTED, SECTIONS, SETTINGS, Experiment

OPTIONS = [
    pytest.param(factory, option, id=f"{what}-{option}")
    for what, factory, follows in [
        *((f"{table.what}-{kind}", factory, table.follows)
          for table in [*SECTIONS.values(), *NESTED.values()] for kind, factory in table.entries.items()),
        *((name, factory, {}) for name, factory in SETTINGS.items()),
        ("top", Experiment, {}),
    ]
    for option in keywords(factory) if option not in follows
]  # fmt: skip


@pytest.mark.parametrize(("factory", "option"), OPTIONS)
def test_every_option_has_a_meaning(factory: Callable[..., Any], option: str) -> None:
    """A newcomer is tested by existing. Catches an option that no docstring explains, or by its letter alone."""
    said = for_terminal(meaning(factory, option))
    assert len(re.findall(r"\w+", said)) > 1, said
    assert not re.search(r"[\\`]", said)


class Parent:
    """One sentence that names ``both``.

    Args:
        width: In metres.
    """


class Child(Parent):
    """Another sentence, about the ``length``, which is not an entry.

    Args:
        depth: In fathoms,
            told over two lines. A second sentence.
        how: What it does.
        why: ``fun`` or ``gain``.
        other: As for ``Parent``.
    """

    def __init__(self, width: float, length: float, depth: float, untold: int, other: int) -> None: ...


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("width", "In metres."),
        ("depth", "In fathoms, told over two lines."),
        ("length", ""),
        ("untold", ""),
        ("other", ""),
    ],
)
def test_where_a_meaning_is_found(option: str, said: str) -> None:
    """In its own entry, in the parent's, nowhere: none is made up of what else is said."""
    assert meaning(Child, option) == said


def test_the_values_of_a_choice_are_told() -> None:
    said = [meaning(factory, option) for factory, option in (
        (SECTIONS["model.decoder"].entries["lstm"], "wiring"),
        (SECTIONS["step_size"].entries["tuner"], "method"),
    )]  # fmt: skip
    assert said[0] == "Where z enters the initial state: hidden, cell."
    assert said[1].startswith("``grid``: ")
    assert "``gradient``: " in said[1]


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_shown_whole_but_for_its_data(name: str) -> None:
    """Oracle: with data put in, what is shown is the configuration that the preset and that data make."""
    shown = whole(name, ["training.epochs=3"])
    assert (
        "[data]\n# missing: kind, one of chitchat, pcfg, sotu, text, topic_hmm, and what it needs\n\n"
        in shown
    )
    expected = parse_config({"preset": name, "data": "pcfg"}, ["training.epochs=3"])
    assert parse_config({**tomllib.loads(shown), "data": "pcfg"}) == expected


def test_a_preset_with_data_or_with_a_mistake_is_shown_as_any_configuration() -> None:
    assert whole("paper", ["data.kind=pcfg"]) == parse_config({"preset": "paper", "data": "pcfg"}).to_toml()
    with pytest.raises(ConfigError) as caught:
        whole("paper", ["training.epochs=x", "modle.x=1"])
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match=r"^\[data\] needs a kind; known: "):
        whole("paper", ["data.seed=3"])


def test_a_terminal_gets_lines_that_break_at_blanks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the words of the unbroken text. Elsewhere an option stays on one line, for whoever searches it."""
    show(None, None)
    whole_lines = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(None, None)
    broken = capsys.readouterr().out
    assert max(map(len, broken.splitlines())) <= 60 < max(map(len, whole_lines.splitlines()))
    assert broken.split() == whole_lines.split()
