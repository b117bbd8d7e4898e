"""What a method takes and gives, compiled once, used for every call.

:func:`signature` looks at a function and makes of it a :class:`Signature`: ``bind`` checks and
converts the parameters of a call, ``write`` prepares the result. A call that simply fits is seen by
a short closure made for this very method (count, and types if there are any); all others go the
long way, which also words the errors.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import itertools
import math
import typing
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from hvrpc.msgpack import hints
from hvrpc.msgpack.readers import Rule, rule
from hvrpc.msgpack.values import BadValue, key_step, refuse, short_repr
from hvrpc.msgpack.writers import Writer, writer

Bound = tuple[Sequence[Any], dict[str, Any]]
Bind = Callable[[Sequence[Any], "Mapping[str, Any] | None"], Bound]

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_POSITIONAL = (_POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_REST = inspect.Parameter.VAR_POSITIONAL
_NAMED_REST = inspect.Parameter.VAR_KEYWORD

# Results of these kinds are sent item by item.
_STREAMS = (
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Injected:
    """A parameter that the server supplies; the caller on the other end knows nothing of it."""

    name: str
    cls: type
    position: int | None  # among the positional parameters; None: keyword only


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """A compiled method.

    ``bind(positional, named)`` gives the args and kwargs to call the function with (without the
    injected ones, see :meth:`place`) or raises BadValue. ``write`` converts the result, or each
    item of a stream; None if there is nothing to do.
    """

    bind: Bind
    write: Writer | None
    injected: tuple[Injected, ...]
    is_stream: bool
    arity: int
    """How many parameters it takes, if they need no look at all: no hints, no defaults; else -1."""
    _description: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """Parameters, result and documentation in words, ready to be sent."""
        return {
            **self._description,
            "params": [dict(parameter) for parameter in self._description["params"]],
        }

    def place(
        self, args: Sequence[Any], kwargs: dict[str, Any], supply: Callable[[type], Any]
    ) -> Bound:
        """Put the injected parameters among those of a call; ``supply(cls)`` gives each."""
        placed = list(args)
        for parameter in self.injected:
            value = supply(parameter.cls)
            if parameter.position is not None and parameter.position <= len(placed):
                placed.insert(parameter.position, value)
            else:
                kwargs[parameter.name] = value
        return placed, kwargs


def signature(
    function: Callable[..., Any],
    *,
    injected: tuple[type, ...] = (),
    registered: Container[Any] = (),
) -> Signature:
    """Compile a function, method or callable object.

    Parameters hinted with one of the classes ``injected`` (or a subclass) are left out of what the
    caller gives. ``registered`` are the classes that extension types pack.

    Raises TypeError for hints that cannot be looked up or checked, naming function and parameter.
    """
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # a builtin that does not tell
        parameters = [
            inspect.Parameter("args", _REST),
            inspect.Parameter("kwargs", _NAMED_REST),
        ]
    found = hints.function_hints(function)
    parameters = [
        parameter.replace(annotation=found.get(parameter.name, parameter.annotation))
        for parameter in parameters
    ]
    supplied = _find_injected(name, parameters, injected)
    names = {parameter.name for parameter in supplied}
    wire_parameters = [parameter for parameter in parameters if parameter.name not in names]
    is_stream, item = _result(function, found.get("return", Any))
    in_quotes = hints.function_names(function)
    compiled = _compiled(name, wire_parameters, in_quotes)
    return Signature(
        bind=_binder(name, compiled),
        write=_result_writer(name, item, registered, in_quotes),
        injected=supplied,
        is_stream=is_stream,
        arity=_arity(compiled),
        _description=_describe(function, wire_parameters, is_stream, item),
    )


def _find_injected(
    name: str, parameters: list[inspect.Parameter], classes: tuple[type, ...]
) -> tuple[Injected, ...]:
    found = []
    skippable = False
    for position, parameter in enumerate(parameters):
        cls = _injected_class(parameter.annotation, classes)
        if cls is None or parameter.kind in (_REST, _NAMED_REST):
            skippable = skippable or parameter.default is not inspect.Parameter.empty
            continue
        if parameter.kind is _POSITIONAL_ONLY and skippable:
            raise TypeError(
                f"{name}(): parameter {parameter.name!r} is supplied by the server, so it must not "
                f"be positional-only behind parameters that may be missing; move it to the front"
            )
        is_positional = parameter.kind in _POSITIONAL
        found.append(Injected(parameter.name, cls, position if is_positional else None))
    return tuple(found)


def _injected_class(hint: Any, classes: tuple[type, ...]) -> type | None:
    hint = hints.bare(hint)
    members = hints.union_members(hint) if hints.is_union(hint) else [hint]
    for member in members:
        cls = typing.get_origin(member) or member
        if isinstance(cls, type) and issubclass(cls, classes):
            return cls
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    kind: Any
    required: bool
    rule: Rule


def _compiled(
    name: str, parameters: list[inspect.Parameter], in_quotes: Mapping[str, Any]
) -> list[_Parameter]:
    return [
        _Parameter(
            name=parameter.name,
            kind=parameter.kind,
            required=parameter.default is inspect.Parameter.empty
            and parameter.kind not in (_REST, _NAMED_REST),
            rule=_parameter_rule(name, parameter, in_quotes),
        )
        for parameter in parameters
    ]


def _parameter_rule(name: str, parameter: inspect.Parameter, in_quotes: Mapping[str, Any]) -> Rule:
    try:
        return rule(parameter.annotation, in_quotes)
    except TypeError as error:
        raise TypeError(f"{name}(), parameter {parameter.name!r}: {error}") from error


def _arity(parameters: list[_Parameter]) -> int:
    plain = all(
        each.kind in _POSITIONAL and each.required and each.rule.read is None for each in parameters
    )
    return len(parameters) if plain else -1


def _binder(name: str, parameters: list[_Parameter]) -> Bind:
    """The quickest ``bind`` this method allows, with the long way behind it."""
    long_way = _LongWay(name, parameters).bind
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    by_kind = {parameter.kind: parameter for parameter in parameters}
    if any(parameter.required and parameter.kind is _KEYWORD_ONLY for parameter in parameters):
        return long_way
    if _REST in by_kind and by_kind[_REST].rule.read is not None:
        return long_way
    fewest = sum(parameter.required for parameter in positional)
    most = math.inf if _REST in by_kind else len(positional)
    if all(parameter.rule.read is None for parameter in positional):
        return _counting(fewest, most, long_way)
    if _REST in by_kind:
        return long_way
    return _checking([parameter.rule for parameter in positional], fewest, long_way)


def _counting(fewest: int, most: float, long_way: Bind) -> Bind:
    """For parameters without hints."""

    def bind_exactly(positional: Sequence[Any], named: Mapping[str, Any] | None) -> Bound:
        if len(positional) == fewest and not named:
            return positional, {}
        return long_way(positional, named)

    def bind_between(positional: Sequence[Any], named: Mapping[str, Any] | None) -> Bound:
        if fewest <= len(positional) <= most and not named:
            return positional, {}
        return long_way(positional, named)

    return bind_exactly if fewest == most else bind_between


def _checking(rules: list[Rule], fewest: int, long_way: Bind) -> Bind:
    """For parameters with hints.

    One and two parameters are written out, for values that are right as they are: the loop would
    double the time of the check.
    """
    rows = [(rule.unchanged, rule.read) for rule in rules]
    most = len(rules)
    first, second = rules[0].unchanged, rules[-1].unchanged

    def bind_one(positional: Sequence[Any], named: Mapping[str, Any] | None) -> Bound:
        if len(positional) == 1 and type(positional[0]) in first and not named:
            return positional, {}
        return bind_each(positional, named)

    def bind_two(positional: Sequence[Any], named: Mapping[str, Any] | None) -> Bound:
        if len(positional) == 2 and not named:
            one, two = positional
            if type(one) in first and type(two) in second:
                return positional, {}
        return bind_each(positional, named)

    def bind_each(positional: Sequence[Any], named: Mapping[str, Any] | None) -> Bound:
        if named or not fewest <= len(positional) <= most:
            return long_way(positional, named)
        args: list[Any] = []
        try:
            for value, (unchanged, read) in zip(positional, rows):  # noqa: B905 (costs 50 ns)
                if type(value) not in unchanged and read is not None:
                    value = read(value)
                args.append(value)
        except BadValue as bad:
            bad.under(f"params[{len(args)}]")
            raise
        return args, {}

    if most > 2 or not (first and second):
        return bind_each
    return bind_one if most == 1 else bind_two


class _LongWay:
    """Binds any call, parameter by parameter, and words the errors."""

    def __init__(self, name: str, parameters: list[_Parameter]) -> None:
        self._name = name
        self._positional = [each for each in parameters if each.kind in _POSITIONAL]
        self._by_name = {
            each.name: each
            for each in parameters
            if each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, _KEYWORD_ONLY)
        }
        kinds = {each.kind: each for each in parameters}
        self._rest = kinds.get(_REST)
        self._named_rest = kinds.get(_NAMED_REST)
        self._rules = [each.rule for each in self._positional]
        self._required = [each for each in parameters if each.required]
        self._fewest = sum(each.required for each in self._positional)

    def bind(self, positional: Sequence[Any], named: Mapping[str, Any] | None) -> Bound:
        count = len(positional)
        if count > len(self._rules) and self._rest is None:
            raise self._wrong_count(count)
        if named:
            kwargs = self._read_named(named, count)
        else:
            kwargs = {}
            if count < self._fewest:
                raise self._wrong_count(count)
        if len(self._required) > self._fewest or named:
            self._check_complete(count, kwargs)
        return self._read_positional(positional), kwargs

    def _read_positional(self, positional: Sequence[Any]) -> list[Any]:
        args: list[Any] = []
        rules: Iterable[Rule] = self._rules
        if self._rest is not None:
            rules = itertools.chain(rules, itertools.repeat(self._rest.rule))
        try:
            for value, expected in zip(positional, rules, strict=False):
                args.append(expected.take(value))
        except BadValue as bad:
            bad.under(f"params[{len(args)}]")
            raise
        return args

    def _read_named(self, named: Mapping[str, Any], count: int) -> dict[str, Any]:
        kwargs = {}
        by_position = {each.name for each in self._positional[:count]}
        for name, value in named.items():
            parameter = self._by_name.get(name, self._named_rest)
            if parameter is None or not isinstance(name, str):
                raise refuse(self._no_such_name(name), value).under(f"params{key_step(name)}")
            if name in by_position and name in self._by_name:
                expected = "it once, by position or by name"
                raise BadValue(expected, "both").under(f"params.{name}")
            try:
                kwargs[name] = parameter.rule.take(value)
            except BadValue as bad:
                bad.under(f"params{key_step(name)}")
                raise
        return kwargs

    def _check_complete(self, count: int, kwargs: dict[str, Any]) -> None:
        by_position = {each.name for each in self._positional[:count]}
        for parameter in self._required:
            given_by_name = parameter.kind is not _POSITIONAL_ONLY and parameter.name in kwargs
            if parameter.name not in by_position and not given_by_name:
                raise BadValue(parameter.rule.text, "nothing").under(f"params.{parameter.name}")

    def _wrong_count(self, count: int) -> BadValue:
        most = len(self._positional)
        if self._rest is not None:
            wanted = f"{self._fewest} or more"
        else:
            wanted = str(most) if self._fewest == most else f"{self._fewest} to {most}"
        names = ", ".join(
            each.name if each.required else f"[{each.name}]" for each in self._positional
        )
        return BadValue(f"{wanted} for {self._name}({names})", str(count)).under("params")

    def _no_such_name(self, name: Any) -> str:
        if any(each.name == name for each in self._positional):
            return f"it by position ({self._name}() does not take it by name)"
        known = f"only {', '.join(self._by_name)}" if self._by_name else "no named parameters"
        return f"nothing ({self._name}() has {known})"


def _result(function: Callable[..., Any], hint: Any) -> tuple[bool, Any]:
    """Whether the result is a stream, and the hint of the result or of the stream's items."""
    inner = inspect.unwrap(function)
    is_generator = inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
    hint = hints.bare(hint)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    while isinstance(origin, type) and origin in (
        collections.abc.Awaitable,
        collections.abc.Coroutine,
    ):
        hint = hints.bare(arguments[-1] if arguments else Any)
        origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in _STREAMS or (is_generator and origin is collections.abc.Iterable):
        return True, arguments[0] if arguments else Any
    return is_generator, Any if is_generator else hint


def _result_writer(
    name: str, hint: Any, registered: Container[Any], in_quotes: Mapping[str, Any]
) -> Writer | None:
    try:
        return writer(hint, registered, in_quotes)
    except TypeError as error:
        raise TypeError(f"{name}(), result: {error}") from error


_KIND_NAMES = {
    _POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional or named",
    _REST: "more positional",
    _KEYWORD_ONLY: "named",
    _NAMED_REST: "more named",
}


def _describe(
    function: Callable[..., Any], parameters: list[inspect.Parameter], is_stream: bool, item: Any
) -> dict[str, Any]:
    return {
        "params": [_describe_parameter(parameter) for parameter in parameters],
        "result": hints.text(item),
        "stream": is_stream,
        "doc": inspect.getdoc(function) or "",
    }


def _describe_parameter(parameter: inspect.Parameter) -> dict[str, str]:
    words = {
        "name": parameter.name,
        "kind": _KIND_NAMES[parameter.kind],
        "type": hints.text(parameter.annotation),
    }
    if parameter.default is not inspect.Parameter.empty:
        words["default"] = short_repr(parameter.default)
    return words
