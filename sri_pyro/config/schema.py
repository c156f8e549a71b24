"""Schema: what a configuration may say of a part, derived from the typed keywords of its constructor."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from sri_pyro.wording import listed, meant, sentence, shown

BEYOND_MEMORY = (
    "can't allocate memory", "not enough memory", "Storage size calculation overflowed",
    "Overflow when unpacking long", "too large to convert to C",
)  # fmt: skip
"""Words of PyTorch and Python for sizes that no memory holds."""


class ConfigError(ValueError):
    """A configuration that cannot be used; holds every problem found, one sentence each.

    Attributes:
        problems: The sentences.

    Example:
        >>> print(ConfigError(["unknown prior 'gauss'; known: mixture", "unknown section 'modle'"]))
        the configuration has 2 problems:
          - unknown prior 'gauss'; known: mixture
          - unknown section 'modle'
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        many = f"the configuration has {len(self.problems)} problems:{lines}"
        super().__init__(self.problems[0] if len(self.problems) == 1 else many)


@dataclass(frozen=True)
class Table:
    """One choice of a configuration: the constructors that may answer it, by name.

    Attributes:
        what: Its noun in messages.
        entries: Constructors by the name that ``kind`` gives. A dotted path ``module:Name`` reaches others.
        follows: Keywords that a user does not give, and what they follow from.
        section: Where it stands, if its noun does not say so.
    """

    what: str
    entries: Mapping[str, Callable[..., Any]]
    follows: Mapping[str, str] = field(default_factory=dict)
    section: str = ""


@dataclass(frozen=True)
class Part:
    """A constructor and its options, checked: a thing that can be built.

    Attributes:
        what: Its noun in messages, with its kind.
        kind: The name it was asked for by; None for a section that has no choice.
        factory: The constructor.
        options: Values and nested parts, defaults filled in.
    """

    what: str
    kind: str | None
    factory: Callable[..., Any]
    options: Mapping[str, Any]

    def build(self, **given: Any) -> Any:
        """Construct it; of the keywords that follow from elsewhere, those that it has are passed on.

        Raises:
            ConfigError: If it does not fit into memory.
        """
        own = {
            name: value.build() if isinstance(value, Part) else value for name, value in self.options.items()
        }
        accepted = keywords(self.factory)
        try:
            return self.factory(**own, **{name: value for name, value in given.items() if name in accepted})
        except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
            if not lacks_memory(error):
                raise
            sizes = [
                f"{name} = {value}" for name, value in sorted(self.options.items()) if type(value) is int
            ]
            those = f" with {', '.join(sizes)}; choose smaller numbers" if sizes else "; make it smaller"
            raise ConfigError([f"{self.what} does not fit into memory{those}"]) from None

    def plain(self) -> dict[str, Any]:
        """As TOML would say it. TOML has no null: what is None is left out, and is the default."""
        named = {} if self.kind is None else {"kind": self.kind}
        values = {
            name: value.plain() if isinstance(value, Part) else value
            for name, value in self.options.items()
            if value is not None
        }
        return named | {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, or that a size is beyond any memory.

    PyTorch has a type of its own for this on a GPU only.

    Example:
        >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("shapes do not match"))
        (True, False)
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in BEYOND_MEMORY
    )


@cache
def keywords(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The named parameters of a constructor, their annotations resolved where each was written."""
    # A field that a dataclass inherits is annotated in its parent's module, and only there do its names exist.
    fields = is_dataclass(factory) or not inspect.isclass(factory)
    hints = typing.get_type_hints(factory if fields else factory.__init__)
    flexible = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        p.name: p.replace(annotation=hints.get(p.name, p.annotation))
        for p in inspect.signature(factory).parameters.values()
        if p.kind not in flexible
    }


class Reader:
    """Reads parts out of parsed TOML and collects every problem on the way.

    Args:
        nested: Which table answers for a keyword of a given type, such as ``Integrator``.
    """

    def __init__(self, nested: Mapping[Any, Table]) -> None:
        self.problems: list[str] = []
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
        """Read the options of a known constructor, and build it once; None if there were problems."""
        before = len(self.problems)
        parameters = {name: p for name, p in keywords(factory).items() if name not in follows}
        for name in data:
            if name in follows and name in keywords(factory):
                self.problems.append(f"{what}: {name} follows from {follows[name]}; leave it out")
            elif name not in parameters:
                self.problems.append(
                    f"{what} has no option '{name}'; it accepts: {listed(parameters)}{meant(name, parameters)}"
                )
        values: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        for name, parameter in parameters.items():
            table = self._nested.get(unwrapped(parameter.annotation))
            if table is None:
                plain |= {name: data[name]} if name in data else {}
            elif name in data:
                values[name] = self.choice(table, data[name])
            else:
                values[name] = None if parameter.default is parameter.empty else parameter.default
        values |= self._plain(what, factory, plain, frozenset(values) | frozenset(follows))
        if len(self.problems) > before:
            return None
        part = Part(what, kind, factory, {name: values[name] for name in parameters})
        return part if self._builds(part, given) else None

    def _plain(
        self, what: str, factory: Callable[..., Any], data: Mapping[str, Any], left_out: frozenset[str]
    ) -> dict[str, Any]:
        try:
            model = options_model(factory, left_out).model_validate(data)
        except ValidationError as error:
            # An option may be a list: name it once, with the first of its faults.
            faults = {str(fault["loc"][0]): fault for fault in reversed(error.errors(include_url=False))}
            self.problems += [sentence(what, name, faults[name]) for name in sorted(faults)]
            return {}
        read = {name: getattr(model, name) for name in type(model).model_fields}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}

    def _builds(self, part: Part, given: Mapping[str, Any]) -> bool:
        """Whether the constructor takes the values: ranges are stated there, and nowhere else."""
        for name, value in given.items():
            hint = keywords(part.factory).get(name)
            if (
                hint is not None
                and isinstance(hint.annotation, type)
                and not isinstance(value, hint.annotation)
            ):
                self.problems.append(
                    f"{part.what} works on the {name} {hint.annotation.__name__}, and the configuration has "
                    f"{type(value).__name__}"
                )
                return False
        try:
            trial(part, given)
        except (ValueError, TypeError) as error:
            said = str(error)
            self.problems.append(said if said.startswith(part.what) else f"{part.what}: {said}")
            return False
        return True


def trial(part: Part, given: Mapping[str, Any]) -> Any:
    """Build a part without memory for its weights and without touching the generator."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return part.build(**given)


@cache
def options_model(factory: Callable[..., Any], left_out: frozenset[str]) -> type[BaseModel]:
    """The strict pydantic model of a constructor's plain keywords."""
    fields: dict[str, Any] = {
        name: (
            Any if p.annotation is p.empty else p.annotation,
            ... if p.default is p.empty else p.default,
        )
        for name, p in keywords(factory).items()
        if name not in left_out
    }
    config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    model: type[BaseModel] = create_model("Options", __config__=config, **fields)
    return model


def unwrapped(annotation: Any) -> Any:
    """``X`` of ``X | None``; anything else as it is."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation
