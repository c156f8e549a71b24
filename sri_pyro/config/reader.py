"""Reader: parts read out of parsed TOML, with every problem that there is on the way."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Set
from typing import Any

from pydantic import ValidationError

from sri_pyro.config.schema import Part, Table, complaints, keywords, options_model, unwrapped
from sri_pyro.wording import listed, meant, sentence, shown


class Reader:
    """Reads parts out of parsed TOML and collects every problem on the way.

    Args:
        nested: Which table answers for a keyword of a given type, such as ``Integrator``.
        problems: Where they are collected.
    """

    def __init__(self, nested: Mapping[Any, Table], problems: list[str]) -> None:
        self.problems = problems
        self._nested = nested

    def choice(self, table: Table, data: Any, **given: Any) -> Part | None:
        """Read a part whose constructor ``kind`` names, and build it once to hear its own complaints.

        Args:
            table: The constructors.
            data: A table with ``kind``, or the kind alone.
            given: Stand-ins for what follows from elsewhere.

        Returns:
            The part; None if there were problems.
        """
        data = {"kind": data} if isinstance(data, str) else data
        if not isinstance(data, Mapping):
            self.problems.append(f"{table.what} must be a table of options; got {shown(data)}")
            return None
        kind = data.get("kind")
        if not isinstance(kind, str):
            got = "" if kind is None else f"; got {shown(kind)}"
            self.problems.append(
                f"{table.section or table.what} needs a kind{got}; known: {listed(table.entries)}"
            )
            return None
        factory = self._factory(table, kind)
        if factory is None:
            return None
        options = {name: value for name, value in data.items() if name != "kind"}
        return self.options(f"{table.what} '{kind}'", factory, options, kind, table.follows, **given)

    def _factory(self, table: Table, kind: str) -> Callable[..., Any] | None:
        if kind in table.refused:
            self.problems.append(f"{table.what} '{kind}' is refused: {table.refused[kind]}")
            return None
        if ":" not in kind:
            if kind not in table.entries:
                self.problems.append(
                    f"unknown {table.what} '{kind}'; known: {listed(table.entries)}{meant(kind, table.entries)}"
                )
            return table.entries.get(kind)
        module, _, name = kind.partition(":")
        try:
            factory = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            self.problems.append(f"{table.what} '{kind}' cannot be imported: {error}")
            return None
        except Exception as error:  # a module of the user's own may raise anything while it is run
            self.problems.append(
                f"{table.what} '{kind}' cannot be imported: {type(error).__name__} in the module {module}: "
                f"{' '.join(str(error).split()) or 'no message'}; mend the module"
            )
            return None
        if not callable(factory):
            self.problems.append(f"{table.what} '{kind}' must be a class; got {shown(factory)}")
            return None
        return typing.cast("Callable[..., Any]", factory)

    def options(
        self,
        what: str,
        factory: Callable[..., Any],
        data: Mapping[str, Any],
        kind: str | None = None,
        follows: Mapping[str, str] = types.MappingProxyType({}),
        **given: Any,
    ) -> Part | None:
        """Read the options of a known constructor, and try it out; None if there were problems."""
        before = len(self.problems)
        parameters = {name: p for name, p in keywords(factory).items() if name not in follows}
        for name in data:
            if name in follows and name in keywords(factory):
                self.problems.append(f"{what}: {name} follows from {follows[name]}; leave it out")
            elif name not in parameters:
                self.problems.append(
                    f"{what} has no option '{name}'; it accepts: {listed(parameters)}{meant(name, parameters)}"
                )
        nested = {
            name: self._nested[unwrapped(p.annotation)]
            for name, p in parameters.items()
            if unwrapped(p.annotation) in self._nested
        }
        needed = {
            name: table.default
            for name, table in nested.items()
            if parameters[name].default is inspect.Parameter.empty
        }
        chosen = {name: data.get(name, needed.get(name)) for name in nested if name in data or name in needed}
        parts = {name: self.choice(nested[name], value, **given) for name, value in chosen.items()}
        plain = {name: data[name] for name in parameters if name in data and name not in nested}
        values = {name: part for name, part in parts.items() if part is not None}
        values |= self._plain(what, factory, plain, frozenset(nested) | frozenset(follows))
        rest = {name: _stand_in(p) for name, p in parameters.items() if name not in values}
        if inspect.Parameter.empty not in rest.values():
            part = Part(what, kind, factory, {name: (values | rest)[name] for name in parameters})
            unusable = {name for name in rest if name in data or name not in nested}
            self.problems += self._tried(part, given, values.keys() & data.keys(), unusable)
        return part if len(self.problems) == before else None

    def _tried(self, part: Part, given: Mapping[str, Any], chosen: Set[str], unusable: Set[str]) -> list[str]:
        """What is against the values of a part, where those that are not usable are defaults by now."""
        for name, value in given.items():
            hint = keywords(part.factory).get(name)
            wanted = None if hint is None else hint.annotation
            if isinstance(wanted, type) and not isinstance(value, wanted):
                return [
                    f"{part.what} works on the {name} {wanted.__name__}, and the configuration has "
                    f"{type(value).__name__}"
                ]
        return complaints(part, given, chosen, unusable)

    def _plain(
        self, what: str, factory: Callable[..., Any], data: Mapping[str, Any], left_out: frozenset[str]
    ) -> dict[str, Any]:
        """The options that are not parts, defaults filled in; those that are not usable are left out."""
        try:
            model = options_model(factory, left_out).model_validate(data)
        except ValidationError as error:
            # An option may be a list: name it once, with the first of its faults.
            faults = {str(fault["loc"][0]): fault for fault in reversed(error.errors(include_url=False))}
            self.problems += [sentence(what, name, faults[name]) for name in sorted(faults)]
            usable = {name: value for name, value in data.items() if name not in faults}
            model = options_model(factory, left_out.union(faults)).model_validate(usable)
        read = {name: getattr(model, name) for name in type(model).model_fields}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}


def _stand_in(parameter: inspect.Parameter) -> Any:
    """What an option that is not usable is while the others are tried out; empty if nothing serves."""
    if parameter.default is inspect.Parameter.empty and parameter.annotation is str:
        return "stand-in"
    return parameter.default
