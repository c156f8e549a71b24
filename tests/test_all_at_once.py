"""Every problem of a configuration is told at once: faults planted by twos to eights, each to be found, and no other.

The oracle is the reader itself on one fault at a time, whose sentences the tests of single mistakes hold: what it says
of several independent faults is what it says of each.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import pytest

from sri_pyro.config import ConfigError, parse_config
from sri_pyro.config.layers import laid_over
from tests.configurations import PRESETS

TUNED: dict[str, Any] = {
    "preset": "paper",
    "data": {"kind": "text", "path": "x.txt"},
    "model": {"prior": {"kind": "mixture", "dim": 4}},
    "step_size": {"num_chains": 12},
    "validation": {"num_sentences": 9},
}
RELEASED: dict[str, Any] = {"preset": "released", "data": "sotu", "evaluation": {"estimator": "annealed"}}
BASES = {"tuned": TUNED, "released": RELEASED, "grammar": {"data": "pcfg"}}
KINDS = [
    ("data",), ("model", "prior"), ("model", "decoder"), ("inference",), ("inference", "integrator"),
    ("inference", "noise"), ("step_size",), ("objective",), ("evaluation", "estimator"),
]  # fmt: skip
SECTIONS = ["data", "model", "inference", "step_size", "objective", "training", "validation", "evaluation"]


class Fault(NamedTuple):
    """A value where it does not belong."""

    path: tuple[str, ...]
    value: Any


def told(base: Mapping[str, Any], faults: Iterable[Fault]) -> set[str]:
    """What is said of a configuration with these faults."""
    data: dict[str, Any] = dict(base)
    for fault in faults:
        table: Any = fault.value
        for name in reversed(fault.path):
            table = {name: table}
        data = laid_over(data, table)
    try:
        parse_config(data)
    except ConfigError as error:
        return {problem.partition("; got ")[0] for problem in error.problems}  # several may give one value
    return set()


def leaves(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in table.items():
        found += leaves(value, (*path, name)) if isinstance(value, Mapping) else [((*path, name), value)]
    return found


@cache
def faults_of(base: str) -> Mapping[Fault, set[str]]:
    """Wrong types and negative numbers for every option, unknown ones everywhere, unknown kinds and sections."""
    options = leaves(parse_config(BASES[base]).plain())
    options = [(path, value) for path, value in options if path[-1] not in ("kind", "preset")]
    found = [Fault(path, ("x",)) for path, _ in options]
    found += [Fault(path, -1 if isinstance(value, int) else -1.0) for path, value in options
              if isinstance(value, int | float) and not isinstance(value, bool)]  # fmt: skip
    found += [
        Fault((*path, "strange"), 3) for path in [(), ("model",), ("training",), ("validation",), *KINDS]
    ]
    found += [Fault((*path, "kind"), "strange") for path in KINDS]
    found += [Fault((name,), 7) for name in SECTIONS]
    found += [Fault(("preset",), str(BASES[base].get("preset", "default")) + "z")]
    said = {fault: told(BASES[base], [fault]) for fault in found}
    return {fault: alone for fault, alone in said.items() if alone}  # some options may be negative


def independent(faults: Sequence[Fault]) -> bool:
    """Whether none of them stands inside another, or takes away the kind that another one belongs to."""
    places = [fault.path[:-1] if fault.path[-1] == "kind" else fault.path for fault in faults]
    return not any(b[: len(a)] == a for i, a in enumerate(places) for k, b in enumerate(places) if i != k)


@pytest.mark.parametrize("base", BASES)
def test_a_fault_is_one_problem(base: str) -> None:
    """Catches false alarms: a refused section whose kind is missed as well, a default blamed for its neighbour."""
    assert {fault: said for fault, said in faults_of(base).items() if len(said) != 1} == {}
    assert len(faults_of(base)) > 100


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("base", BASES)
def test_several_faults_are_told_at_once(base: str, seed: int) -> None:
    """Catches a reader that leaves a section, or a constructor, at its first problem, and one that invents problems."""
    source, faults = random.Random(seed), list(faults_of(base))
    planted = source.sample(faults, source.randint(2, 8))
    while not independent(planted):
        planted = source.sample(faults, source.randint(2, 8))
    assert told(BASES[base], planted) == set().union(*(faults_of(base)[fault] for fault in planted))


def test_of_a_preset_that_nobody_knows_only_what_is_wrong_on_every_one_is_told() -> None:
    """``every`` is an option of the tuner of the preset ``paper``: on ``default`` alone it would be complained of."""
    faults = [Fault(("preset",), "qqq"), Fault(("step_size", "every"), 100), Fault(("training", "epochs"), 0)]
    assert told(BASES["grammar"], faults) == {
        f"unknown preset 'qqq'; known: {PRESETS}",
        "training: epochs must be at least 1",
    }


def test_what_cannot_be_read_of_the_command_line_hides_nothing() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"data": "pcfg", "training": {"epochs": "x"}}, ["seed", "model.prior.dim=-1", "=3"])
    assert list(caught.value.problems) == [
        "--set wants section.option=value, for instance training.epochs=3; got 'seed'",
        "--set wants section.option=value, for instance training.epochs=3; got '=3'",
        "prior 'standard_normal': dim must be at least 0; got -1.",
        "training: epochs must be a whole number; got 'x'",
    ]


def test_a_default_is_not_blamed_for_a_value_that_is_not_usable() -> None:
    """Three step sizes are listed for as many steps as the broken option would say; 20 is nobody's choice."""
    schedule = {"kind": "listed", "step_sizes": [0.1, 0.1, 0.1]}
    for number in ("three", 0):
        faults = [Fault(("inference",), {"num_steps": number, "step_schedule": schedule})]
        assert len(told(BASES["grammar"], faults)) == 1
