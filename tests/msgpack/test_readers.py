"""Values from the wire become what the hint asks for, or are refused with the place named."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import sys
import typing
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar

import hypothesis
import msgpack
import pytest
from hypothesis import strategies as st

from hvrpc.msgpack.readers import reader
from hvrpc.msgpack.values import BadValue

T = TypeVar("T")
UserId = NewType("UserId", int)
UTC = datetime.UTC
SOME_UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"
    ALIAS = "red"  # noqa: PIE796 (the point of an alias)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Place(enum.Enum):
    HOME = (1, 2)
    AWAY = object()


class Forgiving(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Forgiving | None:
        return cls.ONE if value == "uno" else None


@dataclasses.dataclass
class Address:
    street: str
    zip: int


@dataclasses.dataclass
class Person:
    name: str
    address: Address
    tags: list[str] = dataclasses.field(default_factory=list)
    boss: Person | None = None
    age: int = dataclasses.field(default=0, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Scaled:
    value: int
    factor: dataclasses.InitVar[int] = 1
    result: int = dataclasses.field(init=False)

    def __post_init__(self, factor: int) -> None:
        if factor == 0:
            raise ValueError("factor must not be 0")
        object.__setattr__(self, "result", self.value * factor)


@dataclasses.dataclass
class Circle:
    kind: Literal["circle"]
    size: float


@dataclasses.dataclass
class Square:
    kind: Literal["square"]
    size: float


@dataclasses.dataclass
class Short:
    x: int


@dataclasses.dataclass
class Long:
    x: int
    y: int = 0


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


@dataclasses.dataclass
class Node:
    children: list[typing.Self] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Document:
    root: Json


class Point(NamedTuple):
    x: int
    y: int = 0


class Options(typing.TypedDict):
    name: str
    size: typing.NotRequired[int]


class Vector:
    """Stands for what an extension type makes."""


Json = typing.Union[None, bool, int, float, str, list["Json"], dict[str, "Json"]]  # noqa: UP007

GOOD: list[tuple[Any, Any, Any]] = [
    (None, None, None),
    (bool, True, True),
    (int, 2**64 - 1, 2**64 - 1),
    (float, 1.5, 1.5),
    (float, 1, 1.0),
    (str, "ä", "ä"),
    (bytes, b"x", b"x"),
    (bytes, bytearray(b"x"), b"x"),
    (bytearray, b"x", bytearray(b"x")),
    (memoryview, b"x", memoryview(b"x")),
    (UserId, 7, 7),
    (Annotated[int, "metres"], 7, 7),
    (Literal["a", 1], 1, 1),
    (Literal[Colour.RED], "red", Colour.RED),
    (Colour, "red", Colour.RED),
    (Colour, "BLUE", Colour.BLUE),
    (Colour, "ALIAS", Colour.RED),
    (Level, 2, Level.HIGH),
    (Access, 3, Access.READ | Access.WRITE),
    (Access, 0, Access(0)),
    (Access, "READ", Access.READ),
    (Place, [1, 2], Place.HOME),
    (Place, "AWAY", Place.AWAY),
    (Forgiving, "uno", Forgiving.ONE),
    (datetime.datetime, "2024-02-03T04:05:06Z", datetime.datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)),
    (
        datetime.datetime,
        msgpack.Timestamp(1, 500_000),
        datetime.datetime.fromtimestamp(1.0005, UTC),
    ),
    (
        datetime.datetime,
        datetime.datetime(2024, 1, 1, tzinfo=UTC),
        datetime.datetime(2024, 1, 1, tzinfo=UTC),
    ),
    (datetime.date, "2024-02-03", datetime.date(2024, 2, 3)),
    (datetime.time, "04:05", datetime.time(4, 5)),
    (datetime.timedelta, 90, datetime.timedelta(seconds=90)),
    (datetime.timedelta, 0.5, datetime.timedelta(milliseconds=500)),
    (uuid.UUID, str(SOME_UUID), SOME_UUID),
    (uuid.UUID, SOME_UUID.bytes, SOME_UUID),
    (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
    (pathlib.Path, "/tmp/x", pathlib.Path("/tmp/x")),
    (pathlib.PureWindowsPath, "C:\\x", pathlib.PureWindowsPath("C:\\x")),
    (list, (1, "a"), [1, "a"]),
    (list[int], [1, 2], [1, 2]),
    (list[int], (1, 2), [1, 2]),
    (list[uuid.UUID], [str(SOME_UUID)], [SOME_UUID]),
    (typing.List[int], [1], [1]),  # noqa: UP006
    (tuple, [1, "a"], (1, "a")),
    (typing.Tuple, [1, "a"], (1, "a")),  # noqa: UP006
    (tuple[()], [], ()),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    (set[int], [1, 2, 2], {1, 2}),
    (set[tuple[int, int]], [[1, 2]], {(1, 2)}),
    (frozenset[str], ["a"], frozenset({"a"})),
    (collections.deque[int], [1], collections.deque([1])),
    (collections.abc.Sequence[int], [1], [1]),
    (collections.abc.Iterable[Colour], ["red"], [Colour.RED]),
    (collections.abc.Set[int], [1], frozenset({1})),
    (dict, {1: "a"}, {1: "a"}),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict[uuid.UUID, Level], {str(SOME_UUID): 1}, {SOME_UUID: Level.LOW}),
    (collections.abc.Mapping[str, float], {"a": 1}, {"a": 1.0}),
    (Point, [1, 2], Point(1, 2)),
    (Point, [1], Point(1, 0)),
    (Options, {"name": "a"}, {"name": "a"}),
    (Options, {"name": "a", "size": 1}, {"name": "a", "size": 1}),
    (Address, {"street": "a", "zip": 1}, Address("a", 1)),
    (
        Person,
        {"name": "a", "address": {"street": "b", "zip": 1}, "age": 3},
        Person("a", Address("b", 1), age=3),
    ),
    (Scaled, {"value": 3, "factor": 2}, Scaled(3, 2)),
    (Box[int], {"content": 1}, Box(1)),
    (Box[list[Colour]], {"content": ["red"]}, Box([Colour.RED])),
    (Node, {"children": [{"children": []}]}, Node([Node()])),
    (Document, {"root": [1, None, {"b": ["c"]}]}, Document([1, None, {"b": ["c"]}])),
    (int | None, None, None),
    (uuid.UUID | None, str(SOME_UUID), SOME_UUID),
    (typing.Optional[int], 3, 3),  # noqa: UP045
    (int | str, "a", "a"),
    (Address | str, "a", "a"),
    (Address | str, {"street": "a", "zip": 1}, Address("a", 1)),
    (Circle | Square, {"kind": "square", "size": 1}, Square("square", 1.0)),
    (Long | Short, {"x": 1}, Short(1)),
    (Short | Long, {"x": 1, "y": 2}, Long(1, 2)),
    (list[int] | dict[str, int], {"a": 1}, {"a": 1}),
]


@pytest.mark.parametrize(("hint", "wire", "value"), GOOD)
def test_fitting_values_become_what_the_hint_says(hint: Any, wire: Any, value: Any) -> None:
    read = reader(hint)
    assert read is not None
    made = read(wire)
    assert made == value
    assert type(made) is type(value)


BAD: list[tuple[Any, Any, str]] = [
    (None, 0, "expected None, got int 0"),
    (bool, 1, "expected bool, got int 1"),
    (int, True, "expected int, got True"),
    (int, "1", "expected int, got str '1'"),
    (int, 1.0, "expected int, got float 1.0"),
    (float, True, "expected float, got True"),
    (str, b"a", "expected str, got bytes b'a'"),
    (bytes, "a", "expected bytes, got str 'a'"),
    (bytearray, [1], "expected bytes, got list [1]"),
    (Literal["a", 1], True, "expected Literal['a', 1], got True"),
    (Literal["a"], ["a"], "expected Literal['a'], got list ['a']"),
    (Colour, "green", "expected Colour ('red', 'blue', 'red'), got str 'green'"),
    (Level, True, "expected Level (1, 2), got True"),
    (Level, 1.0, "expected Level (1, 2), got float 1.0"),
    (Level, {}, "expected Level (1, 2), got dict {}"),
    (Access, 4, "expected Access (1, 2), got int 4"),
    (Access, 5, "expected Access (1, 2), got int 5"),
    (datetime.datetime, "2024-02-03", "expected datetime with time zone, got str '2024-02-03'"),
    (datetime.datetime, 0, "expected datetime with time zone, got int 0"),
    (
        datetime.datetime,
        msgpack.Timestamp(2**62, 0),
        f"expected datetime with time zone, got Timestamp(seconds={2**62}, nanoseconds=0)",
    ),
    (datetime.date, "soon", "expected date as ISO text, got str 'soon'"),
    (datetime.timedelta, float("nan"), "expected seconds, got float nan"),
    (datetime.timedelta, float("inf"), "expected seconds, got float inf"),
    (uuid.UUID, "x", "expected UUID, got str 'x'"),
    (uuid.UUID, b"short", "expected UUID, got bytes b'short'"),
    (decimal.Decimal, "1,5", "expected Decimal as text, got str '1,5'"),
    (decimal.Decimal, 1.5, "expected Decimal as text, got float 1.5"),
    (pathlib.Path, b"/", f"expected {pathlib.Path.__name__} as text, got bytes b'/'"),
    (list[int], "abc", "expected list[int], got str 'abc'"),
    (list[int], [1, "x"], "[1]: expected int, got str 'x'"),
    (list[list[int]], [[1], [2, None]], "[1][1]: expected int, got None"),
    (set[Any], [[1]], "expected set[Any] of hashable items, got list [[1]]"),
    (tuple[int, str], [1], "expected tuple[int, str], an array of 2, got list [1]"),
    (tuple[int, str], [1, 2], "[1]: expected str, got int 2"),
    (dict[str, int], {"a": "x"}, "a: expected int, got str 'x'"),
    (dict[str, int], {1: 1}, "[1]: expected a key that is str, got int 1"),
    (dict[str, int], [], "expected dict[str, int], got list []"),
    (
        dict[uuid.UUID, int],
        {str(SOME_UUID): 1, "{" + str(SOME_UUID) + "}": 2},
        "expected a map of different keys",
    ),
    (Point, ["a"], "x: expected int, got str 'a'"),
    (Point, [], "expected Point, an array of 1 to 2, got list []"),
    (Options, {}, "name: expected str, got nothing"),
    (
        Options,
        {"name": "a", "x": 1},
        "x: expected nothing (Options has only name, size), got int 1",
    ),
    (Address, {"street": "a"}, "zip: expected int, got nothing"),
    (Address, {"street": "a", "zip": "x"}, "zip: expected int, got str 'x'"),
    (
        Address,
        {"street": "a", "zip": 1, "town": "b"},
        "town: expected nothing (Address has only street, zip), got str 'b'",
    ),
    (Address, ["a", 1], "expected Address, got list ['a', 1]"),
    (
        Person,
        {"name": "a", "address": {"street": "b", "zip": None}},
        "address.zip: expected int, got None",
    ),
    (
        Person,
        {"name": "a", "address": {"street": "b", "zip": 1}, "boss": {"name": 1}},
        "boss.name: expected str, got int 1",
    ),
    (Scaled, {"value": 1, "result": 1}, "result: expected nothing"),
    (Scaled, {"value": 1, "factor": 0}, "expected a valid Scaled, got dict"),
    (Scaled, {"value": 1, "factor": 0}, "(factor must not be 0)"),
    (Box[int], {"content": "a"}, "content: expected int, got str 'a'"),
    (int | None, "x", "expected int | None, got str 'x'"),
    (Address | None, {"street": "a"}, "zip: expected int, got nothing"),
    (
        Circle | Square,
        {"kind": "oval", "size": 1},
        (
            "(Circle: kind: expected Literal['circle'], got str 'oval'; "
            "Square: kind: expected Literal['square'], got str 'oval')"
        ),
    ),
    (Document, {"root": [1, {"b": b"c"}]}, "root[1].b: expected None | bool | int | float | str"),
    (Vector, {}, "expected Vector, got dict {}"),
]


@pytest.mark.parametrize(("hint", "wire", "message"), BAD)
def test_other_values_are_refused_with_the_place(hint: Any, wire: Any, message: str) -> None:
    read = reader(hint)
    assert read is not None
    with pytest.raises(BadValue) as caught:
        read(wire)
    assert message in str(caught.value)


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from(["red", "kind", "2024-02-03", str(SOME_UUID), msgpack.ExtType(5, b"x")])
    | st.builds(msgpack.Timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(0, 999_999_999))
)
_field_names = st.sampled_from(["street", "zip", "name", "x", "y", "kind", "size", "value"])
wire_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(_scalars | _field_names, inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.parametrize("hint", dict.fromkeys(hint for hint, _, _ in GOOD))
@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(value=wire_values)
def test_whatever_comes_is_read_or_refused(hint: Any, value: Any) -> None:
    """No value a peer can send may end in any other exception."""
    read = reader(hint)
    assert read is not None
    message = ""
    try:
        read(value)
    except BadValue as bad:
        message = str(bad)
    assert len(message) < 2000


@pytest.mark.parametrize("hint", [Any, object, T, Annotated[Any, "x"], int | Any])
def test_hints_that_say_nothing_cost_nothing(hint: Any) -> None:
    assert reader(hint) is None


def test_lists_of_plain_values_are_not_copied() -> None:
    read = reader(list[int])
    assert read is not None
    numbers = [1, 2, 3]
    assert read(numbers) is numbers


def test_the_order_of_a_union_decides() -> None:
    text = str(SOME_UUID)
    first, second = reader(uuid.UUID | str), reader(str | uuid.UUID)
    assert first is not None
    assert second is not None
    assert first(text) == SOME_UUID
    assert second(text) == text


@pytest.mark.parametrize("hint", [int | float, float | int])
def test_an_int_stays_an_int_in_a_union_that_has_int(hint: Any) -> None:
    read = reader(hint)
    assert read is not None
    assert type(read(1)) is int
    assert type(read(1.0)) is float


def test_a_value_made_by_an_extension_type_is_recognised_by_its_class() -> None:
    vector = Vector()
    for hint in (Vector, Vector | None, list[Vector] | Vector):
        read = reader(hint)
        assert read is not None
        assert read(vector) is vector


def test_a_dataclass_may_be_made_by_an_extension_type() -> None:
    address = Address("a", 1)
    read = reader(Address | None)
    assert read is not None
    assert read(address) is address


def test_records_nobody_can_tell_apart_are_refused_when_compiled() -> None:
    @dataclasses.dataclass
    class Celsius:
        degrees: float

    @dataclasses.dataclass
    class Kelvin:
        degrees: float

    with pytest.raises(TypeError, match=r"Celsius and Kelvin cannot be told apart.*Literal"):
        reader(Celsius | Kelvin)


@pytest.mark.parametrize("hint", [collections.abc.Callable[[], int], type[int], typing.Never])
def test_hints_that_cannot_be_checked_are_refused_when_compiled(hint: Any) -> None:
    with pytest.raises(TypeError, match="cannot be checked"):
        reader(hint)


def test_a_protocol_is_refused_when_compiled() -> None:
    class Closable(typing.Protocol):
        def close(self) -> None: ...

    with pytest.raises(TypeError, match="runtime_checkable"):
        reader(Closable)


def test_a_value_nested_too_deeply_for_a_recursive_hint_is_refused() -> None:
    value: dict[str, Any] = {}
    for _ in range(sys.getrecursionlimit()):
        value = {"children": [value]}
    read = reader(Node)
    assert read is not None
    with pytest.raises(BadValue, match="nested too deeply"):
        read(value)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type X = …` needs Python 3.12")
def test_aliases_made_by_the_type_statement() -> None:
    namespace: dict[str, Any] = {}
    exec(
        "type Tree = int | list[Tree]\ntype Pair[T] = tuple[T, T]\n",
        namespace,
    )
    read_tree, read_pair = reader(namespace["Tree"]), reader(namespace["Pair"][int])
    assert read_tree is not None
    assert read_pair is not None
    assert read_tree([1, [2, [3]]]) == [1, [2, [3]]]
    assert read_pair([1, 2]) == (1, 2)
    with pytest.raises(BadValue, match="got str 'x'"):
        read_tree([1, ["x"]])
