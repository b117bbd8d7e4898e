"""Type hints taken apart, for those who read values by them and write values by them.

Three questions are answered here: what a hint means once its wrappers are gone (:func:`bare`), how
it is called in an error message (:func:`text`), and which fields a record has (:func:`fields`).
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from hvrpc.msgpack.values import short_repr

NoneType = type(None)

# Hints that say nothing about the value: it is taken and sent as it is.
UNCHECKED = frozenset({Any, object, inspect.Parameter.empty})

# Wrappers around the hint that counts. `ReadOnly` came with Python 3.13.
_TRANSPARENT = frozenset(
    {
        typing.Annotated,
        typing.Required,
        typing.NotRequired,
        typing.Final,
        getattr(typing, "ReadOnly", typing.Required),
    }
)

# `type X = ...` came with Python 3.12.
_TypeAliasType: type | None = getattr(typing, "TypeAliasType", None)


def bare(hint: Any) -> Any:
    """The hint without NewType, TypeVar, Annotated and other wrappers."""
    while True:
        origin = typing.get_origin(hint)
        if origin in _TRANSPARENT:
            hint = hint.__origin__ if origin is typing.Annotated else typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif isinstance(hint, typing.TypeVar):
            hint = _meaning_of_variable(hint)
        elif isinstance(hint, dataclasses.InitVar):
            hint = hint.type
        elif hint is None:
            return NoneType
        elif hint is typing.LiteralString:
            return str
        else:
            return hint


def _meaning_of_variable(variable: typing.TypeVar) -> Any:
    if variable.__constraints__:
        return typing.Union[variable.__constraints__]  # noqa: UP007 (a tuple of members)
    return Any if variable.__bound__ is None else variable.__bound__


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def union_members(hint: Any) -> list[Any]:
    """The members of a union in their order, unions inside it dissolved."""
    members: list[Any] = []
    for member in map(bare, typing.get_args(hint)):
        members.extend(union_members(member) if is_union(member) else [member])
    return members


def alias_value(hint: Any, names: Mapping[str, Any]) -> tuple[bool, Any]:
    """Whether the hint is a named alias or a reference by name, and what it stands for.

    Python looks up references in annotations, but leaves those inside a recursive alias
    (``Json = … | list["Json"]``). They are looked up in ``names``.
    """
    if isinstance(hint, str | typing.ForwardRef):
        return True, _look_up(text(hint), names)
    if _TypeAliasType is None:
        return False, None
    if isinstance(hint, _TypeAliasType):
        return True, hint.__value__  # type: ignore[attr-defined]
    origin = typing.get_origin(hint)
    if isinstance(origin, _TypeAliasType):
        given = dict(zip(origin.__type_params__, typing.get_args(hint), strict=False))  # type: ignore[attr-defined]
        return True, specialise(origin.__value__, given)  # type: ignore[attr-defined]
    return False, None


def _look_up(reference: str, names: Mapping[str, Any]) -> Any:
    holder = types.SimpleNamespace(__annotations__={"hint": reference})
    try:
        return typing.get_type_hints(holder, dict(names), include_extras=True)["hint"]
    except NameError as error:
        raise TypeError(_unknown_name(repr(reference), error)) from error


def specialise(hint: Any, given: Mapping[Any, Any]) -> Any:
    """The hint with type variables replaced by what they stand for here (``list[T]``)."""
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if not parameters or isinstance(hint, type):
        return hint
    return hint[tuple(given.get(parameter, parameter) for parameter in parameters)]


def is_typed_dict(hint: Any) -> bool:
    return typing.is_typeddict(hint)


def is_dataclass(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def is_named_tuple(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of a record: a dataclass, a TypedDict or a NamedTuple."""

    name: str
    hint: Any
    required: bool
    sent: bool = True  # goes to the wire; every field may come from it


def fields(record: Any, arguments: tuple[Any, ...] = ()) -> list[Field]:
    """The fields of a dataclass, TypedDict or NamedTuple, in their order.

    ``arguments`` are those of a generic record: ``Box[int]`` is ``fields(Box, (int,))``.
    """
    given = dict(zip(getattr(record, "__parameters__", ()), arguments, strict=False))
    hints = {name: specialise(hint, given) for name, hint in class_hints(record).items()}
    if is_typed_dict(record):
        return _typed_dict_fields(record, hints)
    if is_named_tuple(record):
        return _named_tuple_fields(record, hints)
    return _dataclass_fields(record, hints)


def _dataclass_fields(record: Any, hints: dict[str, Any]) -> list[Field]:
    """Fields that ``__init__`` takes.

    An InitVar is accepted but cannot be sent, for the instance does not keep it. A field with
    ``init=False`` is neither: the other end computes it by itself.
    """
    kept = {field.name for field in dataclasses.fields(record)}
    every: dict[str, dataclasses.Field[Any]] = record.__dataclass_fields__
    return [
        Field(
            name=field.name,
            hint=hints[field.name],
            required=field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING,
            sent=field.name in kept,
        )
        for field in every.values()
        if field.init and not _is_class_variable(hints[field.name])
    ]


def _is_class_variable(hint: Any) -> bool:
    return hint is typing.ClassVar or typing.get_origin(hint) is typing.ClassVar


def _typed_dict_fields(record: Any, hints: dict[str, Any]) -> list[Field]:
    return [
        Field(name, hint, required=_is_required(hint, name in record.__required_keys__))
        for name, hint in hints.items()
    ]


def _is_required(hint: Any, otherwise: bool) -> bool:
    """What Required or NotRequired say.

    Under ``from __future__ import annotations`` the TypedDict itself did not see them.
    """
    origin = typing.get_origin(hint)
    while origin in _TRANSPARENT:
        if origin is typing.Required or origin is typing.NotRequired:
            return origin is typing.Required
        hint = hint.__origin__ if origin is typing.Annotated else typing.get_args(hint)[0]
        origin = typing.get_origin(hint)
    return otherwise


def _named_tuple_fields(record: Any, hints: dict[str, Any]) -> list[Field]:
    return [
        Field(name, hints.get(name, Any), required=name not in record._field_defaults)
        for name in record._fields
    ]


# Types of enum values that have a form on the wire.
_ENUM_VALUES = frozenset({NoneType, bool, int, float, str, bytes})


def enum_wire_value(member: enum.Enum) -> Any:
    """What is sent for a member: its value, or its name if the value has no form on the wire."""
    value = member.value
    parts = value if type(value) is tuple else (value,)
    if all(type(part) in _ENUM_VALUES for part in parts):
        return value
    return member.name


def class_names(record: Any) -> dict[str, Any]:
    """The names that hints in a class's body may use."""
    module = sys.modules.get(record.__module__)
    return {**vars(module), record.__name__: record} if module else {record.__name__: record}


def function_names(function: Callable[..., Any]) -> dict[str, Any]:
    """The names that hints of a function may use."""
    inner = _defined(function)
    return {**getattr(inner, "__globals__", {}), **_enclosed(inner)}


def class_hints(record: Any) -> dict[str, Any]:
    """The hints in a class's body, names in them looked up."""
    own = {record.__name__: record}
    try:
        return typing.get_type_hints(record, localns=own, include_extras=True)
    except NameError as error:
        raise TypeError(_unknown_name(f"a type hint of {record.__qualname__}", error)) from error


def function_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The hints of a function's parameters and of its result (``return``)."""
    inner = _defined(function)
    try:
        return typing.get_type_hints(inner, localns=_enclosed(inner), include_extras=True)
    except NameError as error:
        name = getattr(inner, "__qualname__", repr(inner))
        raise TypeError(_unknown_name(f"a type hint of {name}()", error)) from error


def _defined(function: Any) -> Any:
    """The ``def`` behind a method, a partial, a class or a callable object."""
    while hasattr(function, "func") and hasattr(function, "keywords"):  # functools.partial
        function = function.func
    if inspect.isclass(function):
        return function.__init__
    if not inspect.isroutine(function):
        function = type(function).__call__
    return inspect.unwrap(function)


def _enclosed(function: Any) -> dict[str, Any]:
    """Names a nested function sees: its hints may speak of a class made beside it."""
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if cells else ()
    found = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _unknown_name(what: str, error: NameError) -> str:
    return (
        f"{what} cannot be looked up: {error}. Hints are used at run time: import the name "
        f"outside `if TYPE_CHECKING`, and define it at the top level of its module"
    )


def text(hint: Any) -> str:
    """The hint as people write it: ``list[Point | None]``."""
    if isinstance(hint, str):
        return hint
    if hint is inspect.Parameter.empty:
        return "Any"
    if hint is None or hint is NoneType:
        return "None"
    if hint is Ellipsis:
        return "..."
    if isinstance(hint, typing.ForwardRef):
        return hint.__forward_arg__
    if isinstance(hint, dataclasses.InitVar):
        return text(hint.type)
    if isinstance(hint, list):  # the parameters of a Callable
        return f"[{', '.join(map(text, hint))}]"
    return _text_of_generic(hint)


def _text_of_generic(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in _TRANSPARENT:
        return text(hint.__origin__) if origin is typing.Annotated else text(arguments[0])
    if is_union(hint):
        return " | ".join(map(text, arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(short_repr, arguments))}]"
    if origin is None:
        return _name(hint)
    if origin is tuple and not arguments:
        return "tuple[()]"
    return f"{_name(origin)}[{', '.join(map(text, arguments))}]"


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint).removeprefix("typing.")
