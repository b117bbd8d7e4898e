"""Hints are understood however they are written, and named as people write them."""

from __future__ import annotations

import dataclasses
import enum
import functools
import typing
from typing import Annotated, Any, ClassVar, Generic, Literal, NewType, TypeVar

import pytest

from hvrpc.msgpack import hints

T = TypeVar("T")
Bounded = TypeVar("Bounded", bound=int)
Either = TypeVar("Either", int, str)
UserId = NewType("UserId", int)


class Colour(enum.Enum):
    RED = "red"
    DEEP = object()
    PAIR = (1, "a")


@dataclasses.dataclass
class Box(Generic[T]):
    content: T
    more: list[T]


@dataclasses.dataclass
class Counter:
    start: int
    step: int = 1
    unit: ClassVar[str] = "pieces"
    seed: dataclasses.InitVar[int] = 0
    total: int = dataclasses.field(init=False, default=0)


class Options(typing.TypedDict, total=False):
    name: typing.Required[str]
    size: int


@pytest.mark.parametrize(
    ("hint", "meaning"),
    [
        (Annotated[int, "metres"], int),
        (UserId, int),
        (NewType("Outer", UserId), int),
        (T, Any),
        (Bounded, int),
        (Either, int | str),
        (None, type(None)),
        (typing.Final[int], int),
        (typing.LiteralString, str),
    ],
)
def test_wrappers_are_taken_off(hint: Any, meaning: Any) -> None:
    assert hints.bare(hint) == meaning


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "int"),
        (None, "None"),
        (Any, "Any"),
        (list[int], "list[int]"),
        (typing.List[int], "list[int]"),  # noqa: UP006 (old spelling, still in use)
        (dict[str, list[Counter | None]], "dict[str, list[Counter | None]]"),
        (typing.Optional[int], "int | None"),  # noqa: UP045
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[()], "tuple[()]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Annotated[int, "metres"], "int"),
        (Box[int], "Box[int]"),
        (typing.Callable[[int], str], "Callable[[int], str]"),
        ("Unseen", "Unseen"),
        (UserId, "UserId"),
    ],
)
def test_text_is_what_people_write(hint: Any, text: str) -> None:
    assert hints.text(hint) == text


def test_fields_of_a_dataclass_are_those_of_its_init() -> None:
    found = {field.name: field for field in hints.fields(Counter)}
    assert list(found) == ["start", "step", "seed"]
    assert [field.required for field in found.values()] == [True, False, False]
    assert [field.sent for field in found.values()] == [True, True, False]


def test_fields_of_a_generic_dataclass_have_the_given_types() -> None:
    assert [field.hint for field in hints.fields(Box, (int,))] == [int, list[int]]


def test_required_is_seen_although_hints_are_text() -> None:
    """Under `from __future__ import annotations` Python itself gets this wrong."""
    assert {field.name: field.required for field in hints.fields(Options)} == {
        "name": True,
        "size": False,
    }


def test_function_hints_see_classes_made_beside_the_function() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    def method(local: Local) -> Local:
        return Local(local.x)

    assert hints.function_hints(method) == {"local": Local, "return": Local}


def test_function_hints_look_behind_decorators_partials_and_callable_objects() -> None:
    def method(count: int) -> str:
        return str(count)

    @functools.wraps(method)
    def decorated(*args: Any) -> Any:
        return method(*args)

    class Callee:
        def __call__(self, count: int) -> str:
            return str(count)

    for function in (decorated, functools.partial(method, 1), Callee(), Callee().__call__):
        assert hints.function_hints(function) == {"count": int, "return": str}


def test_a_name_that_cannot_be_looked_up_says_where_and_what_to_do() -> None:
    def method(x: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"method\(\).*'Missing' is not defined.*TYPE_CHECKING"):
        hints.function_hints(method)


def test_a_field_that_cannot_be_looked_up_says_where() -> None:
    @dataclasses.dataclass
    class Broken:
        x: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"Broken.*'Missing' is not defined"):
        hints.fields(Broken)


def test_enum_members_travel_by_value_where_it_can_travel() -> None:
    assert [hints.enum_wire_value(member) for member in Colour] == ["red", "DEEP", (1, "a")]
