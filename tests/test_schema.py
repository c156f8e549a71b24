"""Schemas: every entry of every table has one, outsiders' parts too, and trying one out costs nothing."""

import inspect
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sri_pyro.config import parse_config
from sri_pyro.config.layers import merged
from sri_pyro.config.reader import Reader
from sri_pyro.config.schema import Part, keywords, options_model, trial
from sri_pyro.config.sections import NESTED, SECTIONS, SETTINGS
from tests.configurations import PCFG, problems

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


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("class X(:\n", "SyntaxError in the module {module}: invalid syntax ({module}.py, line 1)"),
        ("raise RuntimeError('no\\n  licence')\n", "RuntimeError in the module {module}: no licence"),
        ("assert False\n", "AssertionError in the module {module}: no message"),
    ],
    ids=["syntax", "raises", "says nothing"],
)
def test_a_module_that_fails_while_it_is_imported(
    content: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    module = "broken_" + request.node.callspec.id.replace(" ", "_")
    (tmp_path / f"{module}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert problems({"model": {"decoder": f"{module}:X"}}) == [
        f"decoder '{module}:X' cannot be imported: {fault.format(module=module)}; mend the module"
    ]


def test_trial_needs_no_memory() -> None:
    """A prior of 2^40 numbers is tried out all the same: nothing is allocated before the real build."""
    reader = Reader(NESTED, [])
    part = reader.choice(SECTIONS["model.prior"], {"kind": "mixture", "dim": 2**20, "components": 2**20})
    assert part is not None
    assert trial(part, {}).means.device.type == "meta"


@pytest.mark.parametrize("hidden", [2**40, 2**80])
def test_a_size_beyond_any_memory_is_told_with_its_part(hidden: int) -> None:
    assert problems({"model": {"decoder": {"kind": "gru", "hidden": hidden}}}) == [
        f"decoder 'gru' does not fit into memory with embedding = 128, hidden = {hidden}, max_length = 60; "
        "choose smaller numbers"
    ]


def test_other_errors_of_a_constructor_are_not_taken_for_a_lack_of_memory() -> None:
    def wrong() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        Part("prior 'x'", "x", wrong, {}).build()
