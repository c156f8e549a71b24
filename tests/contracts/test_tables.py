"""Laws of names, documentation and options, that every entry of every table obeys."""

import inspect
import re
import typing

import pytest
from torch import nn

from tests.contracts.tables import TABLES, small

pytestmark = pytest.mark.usefixtures("float64")
ENTRIES = [(table, name) for table, entries in TABLES.items() for name in entries]


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_read_only(table: str) -> None:
    with pytest.raises(TypeError):
        TABLES[table]["mine"] = object


def options_of(cls: type) -> dict[str, inspect.Parameter]:
    """Options of a constructor; none where a class has no constructor of its own."""
    if cls.__init__ in (object.__init__, nn.Module.__init__):
        return {}
    return dict(inspect.signature(cls).parameters)


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_entries_are_named_and_documented(table: str, name: str) -> None:
    """The constructor is the schema of the configuration: every option typed, and explained by its name."""
    cls = TABLES[table][name]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    documentation = "\n".join(base.__doc__ or "" for base in cls.__mro__[:-1])
    assert cls.__doc__
    hints = typing.get_type_hints(cls.__init__)
    for option, parameter in options_of(cls).items():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), option
        assert option in hints, f"{option} has no type"
        assert re.search(rf"\b{option}\b", documentation), f"{option} is not explained"


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_entries_have_defaults_for_all_that_data_does_not_decide(table: str, name: str) -> None:
    decided = {"vocab_size", "step_sizes", "path", "encoder"}
    for option, parameter in options_of(TABLES[table][name]).items():
        assert option in decided or parameter.default is not parameter.empty, option


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_entries_refuse_unknown_options(table: str, name: str) -> None:
    with pytest.raises(TypeError):
        TABLES[table][name](nonsense=1)


@pytest.mark.parametrize("table", ["DECODERS", "INTEGRATORS", "NOISE_SCHEDULES", "PRIORS", "STEP_SCHEDULES"])
def test_small_builds_what_the_tables_hold(table: str) -> None:
    """The helper must not hide an entry that the laws above cannot build."""
    for name, cls in TABLES[table].items():
        assert isinstance(small(cls), nn.Module) == (table in {"PRIORS", "DECODERS"}), name
