"""Calls are checked against the method's signature, converted by its hints, and refused clearly."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import math
import operator
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, NamedTuple

import msgpack
import pytest

from hvrpc.msgpack.signatures import Injected, signature
from hvrpc.msgpack.values import BadValue


class Context:
    pass


class RichContext(Context):
    pass


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Address:
    street: str
    zip: int


class Call(NamedTuple):
    positional: list[Any]
    named: dict[str, Any] | None = None


def nothing() -> None:
    """Do nothing."""


def echo(x):  # type: ignore[no-untyped-def]
    return x


def one(a: int) -> int:
    return a


def add(a: int, b: int = 5) -> int:
    return a + b


def mixed(a, b: int) -> None:  # type: ignore[no-untyped-def]
    return None


def three(a: int, b: str, c: float = 0.5) -> None:
    return None


def send(address: Address, colours: list[Colour]) -> list[Address]:
    return [address]


def optional(a: int | None = None) -> None:
    return None


def everything(a: int, /, b: int = 2, *rest: int, c: int, d: int = 4, **others: str) -> None:
    return None


def only_positional(a: int, b: int = 2, /) -> None:
    return None


def only_named(*, a: int) -> None:
    return None


def untyped_rest(*args, **kwargs):  # type: ignore[no-untyped-def]
    return args, kwargs


GOOD: list[tuple[Any, Call, tuple[Any, ...], dict[str, Any]]] = [
    (nothing, Call([]), (), {}),
    (echo, Call([object]), (object,), {}),
    (echo, Call([], {"x": 1}), (), {"x": 1}),
    (one, Call([7]), (7,), {}),
    (one, Call([7], {}), (7,), {}),
    (add, Call([1]), (1,), {}),
    (add, Call([1, 2]), (1, 2), {}),
    (add, Call([1], {"b": 2}), (1,), {"b": 2}),
    (add, Call([], {"b": 2, "a": 1}), (), {"a": 1, "b": 2}),
    (mixed, Call(["x", 1]), ("x", 1), {}),
    (three, Call([1, "x"]), (1, "x"), {}),
    (three, Call([1, "x", 2]), (1, "x", 2.0), {}),
    (optional, Call([]), (), {}),
    (optional, Call([None]), (None,), {}),
    (
        send,
        Call([{"street": "a", "zip": 1}, ["red"]]),
        (Address("a", 1), [Colour.RED]),
        {},
    ),
    (send, Call([{"street": "a", "zip": 1}], {"colours": []}), (Address("a", 1),), {"colours": []}),
    (everything, Call([1], {"c": 3}), (1,), {"c": 3}),
    (everything, Call([1, 2, 3, 4], {"c": 3, "x": "y"}), (1, 2, 3, 4), {"c": 3, "x": "y"}),
    (everything, Call([1], {"c": 3, "a": "named"}), (1,), {"c": 3, "a": "named"}),
    (only_positional, Call([1]), (1,), {}),
    (only_named, Call([], {"a": 1}), (), {"a": 1}),
    (untyped_rest, Call([1, 2], {"a": 1}), (1, 2), {"a": 1}),
    (untyped_rest, Call([1, 2]), (1, 2), {}),
    (Address("a", 1).__eq__, Call([1]), (1,), {}),
    (functools.partial(add, 1), Call([2]), (2,), {}),
    (operator.add, Call([1, 2]), (1, 2), {}),
    (math.hypot, Call([3, 4]), (3, 4), {}),
]


@pytest.mark.parametrize(("function", "call", "args", "kwargs"), GOOD)
@pytest.mark.parametrize("sequence", [list, tuple])
def test_calls_that_fit_are_bound(
    function: Any, call: Call, args: Any, kwargs: Any, sequence: Any
) -> None:
    bound_args, bound_kwargs = signature(function).bind(sequence(call.positional), call.named)
    assert (tuple(bound_args), bound_kwargs) == (args, kwargs)


BAD: list[tuple[Any, Call, str]] = [
    (nothing, Call([1]), "params: expected 0 for nothing(), got 1"),
    (echo, Call([]), "params: expected 1 for echo(x), got 0"),
    (echo, Call([1, 2]), "params: expected 1 for echo(x), got 2"),
    (echo, Call([], {"y": 1}), "params.y: expected nothing (echo() has only x), got int 1"),
    (add, Call([]), "params: expected 1 to 2 for add(a, [b]), got 0"),
    (add, Call([1, 2, 3]), "params: expected 1 to 2 for add(a, [b]), got 3"),
    (add, Call(["x"]), "params[0]: expected int, got str 'x'"),
    (add, Call([1, True]), "params[1]: expected int, got True"),
    (add, Call([1], {"b": "x"}), "params.b: expected int, got str 'x'"),
    (add, Call([1], {"a": 1}), "params.a: expected it once, by position or by name, got both"),
    (add, Call([], {"b": 1}), "params.a: expected int, got nothing"),
    (mixed, Call([1, "x"]), "params[1]: expected int, got str 'x'"),
    (three, Call([1, 2]), "params[1]: expected str, got int 2"),
    (three, Call([1, "x", "y"]), "params[2]: expected float, got str 'y'"),
    (send, Call([{"street": "a", "zip": "x"}, []]), "params[0].zip: expected int, got str 'x'"),
    (
        send,
        Call([{"street": "a", "zip": 1}, ["blue"]]),
        "params[1][0]: expected Colour ('red'), got str 'blue'",
    ),
    (everything, Call([1]), "params.c: expected int, got nothing"),
    (everything, Call([1], {"d": 1}), "params.c: expected int, got nothing"),
    (everything, Call([1, 2, "x"], {"c": 3}), "params[2]: expected int, got str 'x'"),
    (everything, Call([1], {"c": 3, "x": 1}), "params.x: expected str, got int 1"),
    (everything, Call([], {"c": 3, "a": "1"}), "params.a: expected int, got nothing"),
    (
        only_positional,
        Call([], {"a": 1}),
        "params.a: expected it by position (only_positional() does not take it by name), got int 1",
    ),
    (only_named, Call([]), "params.a: expected int, got nothing"),
    (only_named, Call([1]), "params: expected 0 for only_named(), got 1"),
    (nothing, Call([], {"x": 1}), "params.x: expected nothing (nothing() has no named parameters)"),
    (echo, Call([], {1: 2}), "params[1]: expected nothing"),  # type: ignore[dict-item]
]


@pytest.mark.parametrize(("function", "call", "message"), BAD)
def test_other_calls_are_refused_with_the_place(function: Any, call: Call, message: str) -> None:
    bind = signature(function).bind
    with pytest.raises(BadValue) as caught:
        bind(call.positional, call.named)
    assert message in str(caught.value)


def test_binding_does_not_change_what_was_given() -> None:
    positional, named = [{"street": "a", "zip": 1}], {"colours": ["red"]}
    signature(send).bind(positional, named)
    assert positional == [{"street": "a", "zip": 1}]
    assert named == {"colours": ["red"]}


def test_keyword_arguments_of_one_call_never_reach_another() -> None:
    bind = signature(echo).bind
    _, first = bind([1], None)
    first["context"] = 1
    _, second = bind([1], None)
    assert second == {}


class Service:
    """Methods with a parameter that the server supplies, wherever it stands."""

    def first(self, context: Context, a: int) -> None: ...

    def middle(self, a: int, context: Context, b: int = 2) -> None: ...

    def behind_default(self, a: int = 1, context: Context | None = None) -> None: ...

    def keyword(self, a: int, *, context: RichContext) -> None: ...

    def two(self, context: Context, a: int, other: RichContext) -> None: ...

    def positional_only(self, context: Context, a: int, /) -> None: ...


@pytest.mark.parametrize(
    ("name", "injected", "given", "args", "kwargs"),
    [
        ("first", [Injected("context", Context, 0)], [1], [Context, 1], {}),
        ("middle", [Injected("context", Context, 1)], [1], [1, Context], {}),
        ("middle", [Injected("context", Context, 1)], [1, 3], [1, Context, 3], {}),
        ("behind_default", [Injected("context", Context, 1)], [], [], {"context": Context}),
        ("behind_default", [Injected("context", Context, 1)], [5], [5, Context], {}),
        ("keyword", [Injected("context", RichContext, None)], [1], [1], {"context": RichContext}),
        (
            "two",
            [Injected("context", Context, 0), Injected("other", RichContext, 2)],
            [1],
            [Context, 1, RichContext],
            {},
        ),
        ("positional_only", [Injected("context", Context, 0)], [1], [Context, 1], {}),
    ],
)
def test_injected_parameters_are_supplied_by_the_server(
    name: str, injected: Any, given: Any, args: Any, kwargs: Any
) -> None:
    method = getattr(Service(), name)
    compiled = signature(method, injected=(Context,))
    assert list(compiled.injected) == injected
    placed = compiled.place(*compiled.bind(given, None), lambda cls: cls)
    assert placed == (args, kwargs)
    method(*placed[0], **placed[1])


def test_the_caller_cannot_give_an_injected_parameter() -> None:
    compiled = signature(Service().first, injected=(Context,))
    with pytest.raises(BadValue, match=r"params.context: expected nothing"):
        compiled.bind([1], {"context": 5})
    with pytest.raises(BadValue, match=r"params: expected 1 for Service.first\(a\), got 2"):
        compiled.bind([5, 1], None)


def test_an_injected_parameter_that_cannot_be_placed_is_refused() -> None:
    def method(a: int = 1, context: Context | None = None, /) -> None: ...

    with pytest.raises(TypeError, match="'context' is supplied by the server"):
        signature(method, injected=(Context,))


def test_results_are_written_by_the_return_hint() -> None:
    write = signature(send).write
    assert write is not None
    assert write([Address("a", 1)]) == [{"street": "a", "zip": 1}]


@pytest.mark.parametrize("function", [nothing, echo, add, untyped_rest, math.hypot])
def test_results_that_are_sent_as_they_are_cost_nothing(function: Any) -> None:
    assert signature(function).write is None


def generator() -> Iterator[Colour]:
    yield Colour.RED


def loose_generator() -> collections.abc.Iterable[Colour]:
    yield Colour.RED


def untyped_generator():  # type: ignore[no-untyped-def]
    yield Colour.RED


async def async_generator() -> AsyncIterator[Colour]:
    yield Colour.RED


async def gives_a_generator() -> AsyncIterator[Colour]:
    return async_generator()


def gives_an_awaitable_iterator() -> Awaitable[Iterator[Colour]]:
    raise NotImplementedError


async def coroutine() -> Colour:
    return Colour.RED


def gives_an_awaitable() -> Awaitable[Colour]:
    return coroutine()


def gives_a_list() -> collections.abc.Iterable[Colour]:
    return [Colour.RED]


@pytest.mark.parametrize(
    ("function", "is_stream", "result"),
    [
        (generator, True, "Colour"),
        (loose_generator, True, "Colour"),
        (untyped_generator, True, "Any"),
        (async_generator, True, "Colour"),
        (gives_a_generator, True, "Colour"),
        (gives_an_awaitable_iterator, True, "Colour"),
        (coroutine, False, "Colour"),
        (gives_an_awaitable, False, "Colour"),
        (gives_a_list, False, "Iterable[Colour]"),
    ],
)
def test_streams_and_awaitables_are_known_by_their_items(
    function: Any, is_stream: bool, result: str
) -> None:
    compiled = signature(function)
    assert compiled.is_stream is is_stream
    assert compiled.describe()["result"] == result
    if result == "Colour":
        assert compiled.write is not None
        assert compiled.write(Colour.RED) == "red"


def test_a_description_says_what_a_caller_must_know() -> None:
    def method(
        context: Context, a: int, /, b: uuid.UUID | None = None, *rest: str, c: Any, **more: float
    ) -> list[Address]:
        """Do something.

        And more.
        """
        raise NotImplementedError

    description = signature(method, injected=(Context,)).describe()
    assert description == {
        "params": [
            {"name": "a", "kind": "positional", "type": "int"},
            {
                "name": "b",
                "kind": "positional or named",
                "type": "UUID | None",
                "default": "None",
            },
            {"name": "rest", "kind": "more positional", "type": "str"},
            {"name": "c", "kind": "named", "type": "Any"},
            {"name": "more", "kind": "more named", "type": "float"},
        ],
        "result": "list[Address]",
        "stream": False,
        "doc": "Do something.\n\nAnd more.",
    }
    assert msgpack.unpackb(msgpack.packb(description)) == description


def test_a_hint_that_cannot_be_checked_is_reported_with_its_parameter() -> None:
    def method(callback: collections.abc.Callable[[], int]) -> None: ...

    with pytest.raises(TypeError, match=r"method\(\), parameter 'callback'.*cannot be checked"):
        signature(method)


def test_a_recursive_alias_in_quotes_is_understood() -> None:
    compiled = signature(takes_json)
    value = {"a": [1, {"b": None}]}
    assert list(compiled.bind([value], None)[0]) == [value]
    with pytest.raises(BadValue, match=r"params\[0\]\.a\[0\]: expected .*, got bytes b'x'"):
        compiled.bind([{"a": [b"x"]}], None)


Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def takes_json(document: Json) -> Json:
    return document
