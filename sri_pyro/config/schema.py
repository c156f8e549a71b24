"""Schema: what a configuration may say of a part, derived from the typed keywords of its constructor."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, create_model
from torch.overrides import TorchFunctionMode

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
        default: The kind of one that a constructor needs and nobody names.
        refused: Kinds that others have and this library does not, and why, as the end of a sentence.
    """

    what: str
    entries: Mapping[str, Callable[..., Any]]
    follows: Mapping[str, str] = field(default_factory=dict)
    section: str = ""
    default: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


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
            name: value.build(**given) if isinstance(value, Part) else value
            for name, value in self.options.items()
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


def trial(part: Part, given: Mapping[str, Any]) -> Any:
    """Build a part without memory for its weights and without touching the generator."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Undrawn():
        return part.build(**given)


class _Undrawn(TorchFunctionMode):
    """Leaves out normal draws, of which tensors without memory hold nothing.

    PyTorch makes them of its compiler there, the import of which takes longer than all else that a refusal needs.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of PyTorch, unless it draws."""
        named = kwargs or {}
        if func in (torch.Tensor.normal_, torch.nn.init.normal_):
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def complaints(
    part: Part, given: Mapping[str, Any], chosen: Iterable[str], unusable: Iterable[str] = ()
) -> list[str]:
    """All that a constructor has to say against its options: ranges are stated there, and nowhere else.

    A constructor stops at its first complaint. What that one is about goes back to its default, and the
    constructor is asked again. An option is what a complaint is about if its default changes the complaint.

    Args:
        part: The constructor and its options.
        given: What follows from elsewhere.
        chosen: The options that somebody gave a value.
        unusable: Options with a default in place of a value that is not usable. A complaint that names one, and
            has not got a value that somebody gave, is about the default, and is not told.
    """
    defaults = {name: p.default for name, p in keywords(part.factory).items()}
    suspected = {name for name in chosen if defaults[name] is not inspect.Parameter.empty}
    restored, options, found = set(unusable), dict(part.options), []
    while said := _complaint(replace(part, options=options), given):
        about = {
            name
            for name in suspected - restored
            if _complaint(replace(part, options={**options, name: defaults[name]}), given) != said
        }
        if not _blames(said, restored) or _got(said, {str(options[name]) for name in about}):
            found.append(said)
        if not about:
            break
        restored |= about
        options |= {name: defaults[name] for name in about}
    return found


def _blames(said: str, names: Iterable[str]) -> bool:
    return any(re.search(rf"\b{name}\b", said) for name in names)


def _got(said: str, values: Set[str]) -> bool:
    """Whether one of these values is among those that a complaint says it got."""
    return not values.isdisjoint(re.split("[ ,]+", said.partition("; got ")[2].rstrip(".")))


def _complaint(part: Part, given: Mapping[str, Any]) -> str:
    try:
        trial(part, given)
    except (ValueError, TypeError) as error:
        said = str(error)
        return said if said.startswith(part.what) else f"{part.what}: {said}"
    return ""


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
