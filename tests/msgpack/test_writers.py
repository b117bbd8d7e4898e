"""Values become what msgpack can pack, by hint or without one; what cannot is named with its place."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import typing
import uuid
from typing import Any, NamedTuple

import msgpack
import pytest

from hvrpc.msgpack.readers import reader
from hvrpc.msgpack.values import BadValue
from hvrpc.msgpack.writers import default, explain, plain_default, writer

UTC = datetime.UTC
NOON = datetime.datetime(2024, 2, 3, 12, 0, 0, 123456, tzinfo=UTC)
SOME_UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Address:
    street: str
    zip: int


@dataclasses.dataclass
class LongAddress(Address):
    country: str = "nowhere"


@dataclasses.dataclass
class Person:
    name: str
    address: Address
    colours: set[Colour] = dataclasses.field(default_factory=set)
    friends: list[typing.Self] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Scaled:
    value: int
    factor: dataclasses.InitVar[int] = 1
    result: int = dataclasses.field(init=False, default=0)


class Point(NamedTuple):
    x: uuid.UUID
    y: int


class Options(typing.TypedDict):
    name: str
    colour: typing.NotRequired[Colour]


class Unknown:
    def __repr__(self) -> str:
        return "<Unknown>"


FORMS: list[tuple[Any, Any, Any]] = [
    (Colour, Colour.RED, "red"),
    (Level, Level.LOW, 1),
    (Access, Access.READ | Access.WRITE, 3),
    (uuid.UUID, SOME_UUID, str(SOME_UUID)),
    (decimal.Decimal, decimal.Decimal("1.10"), "1.10"),
    (pathlib.Path, pathlib.Path("/tmp/x"), str(pathlib.Path("/tmp/x"))),
    (datetime.date, datetime.date(2024, 2, 3), "2024-02-03"),
    (datetime.time, datetime.time(4, 5), "04:05:00"),
    (datetime.timedelta, datetime.timedelta(seconds=1, microseconds=5), 1.000005),
    (set[int], {1}, [1]),
    (frozenset[uuid.UUID], frozenset({SOME_UUID}), [str(SOME_UUID)]),
    (collections.deque[int], collections.deque([1, 2]), [1, 2]),
    (collections.abc.Sequence[int], range(3), [0, 1, 2]),
    (list[Colour], [Colour.RED], ["red"]),
    (tuple[Colour, ...], (Colour.RED,), ["red"]),
    (tuple[int, Colour], (1, Colour.RED), [1, "red"]),
    (dict[uuid.UUID, Colour], {SOME_UUID: Colour.RED}, {str(SOME_UUID): "red"}),
    (collections.abc.Mapping[str, Colour], types.MappingProxyType({"a": Colour.RED}), {"a": "red"}),
    (Address, Address("a", 1), {"street": "a", "zip": 1}),
    (Scaled, Scaled(3), {"value": 3}),
    (Point, Point(SOME_UUID, 1), [str(SOME_UUID), 1]),
    (Options, {"name": "a", "colour": Colour.RED}, {"name": "a", "colour": "red"}),
    (Colour | None, Colour.RED, "red"),
    (Colour | None, None, None),
    (Address | Colour | int, 7, 7),
    (
        Person,
        Person("a", Address("b", 1), {Colour.RED}, [Person("c", Address("d", 2))]),
        {
            "name": "a",
            "address": {"street": "b", "zip": 1},
            "colours": ["red"],
            "friends": [
                {
                    "name": "c",
                    "address": {"street": "d", "zip": 2},
                    "colours": [],
                    "friends": [],
                }
            ],
        },
    ),
]


@pytest.mark.parametrize(("hint", "value", "wire"), FORMS)
def test_a_hint_makes_the_wire_form(hint: Any, value: Any, wire: Any) -> None:
    write = writer(hint)
    assert write is not None
    assert write(value) == wire


@pytest.mark.parametrize(("hint", "value", "wire"), FORMS)
def test_the_hook_makes_the_same_form_without_a_hint(hint: Any, value: Any, wire: Any) -> None:
    packed = msgpack.packb(value, default=default)
    assert msgpack.unpackb(packed, strict_map_key=False) == wire


@pytest.mark.parametrize(("hint", "value", "wire"), FORMS)
def test_readers_understand_what_writers_send(hint: Any, value: Any, wire: Any) -> None:
    read = reader(hint)
    assert read is not None
    back = read(msgpack.unpackb(msgpack.packb(wire)))
    assert back == (list(value) if isinstance(value, range) else value)


@pytest.mark.parametrize(
    "hint",
    [
        None,
        int,
        str,
        bytes,
        Any,
        list[int],
        tuple[int, str],
        dict[str, int],
        Unknown,
        int | None,
        datetime.datetime,
        Options | None,
        list["Any"],
    ],
)
def test_what_the_packer_does_alone_costs_nothing(hint: Any) -> None:
    assert writer(hint, names=globals()) is None


def test_a_subclass_is_sent_with_the_fields_of_the_hint() -> None:
    write = writer(Address)
    assert write is not None
    assert write(LongAddress("a", 1)) == {"street": "a", "zip": 1}


def test_a_union_sends_each_value_by_its_nearest_class() -> None:
    write = writer(Address | LongAddress)
    assert write is not None
    assert write(LongAddress("a", 1)) == {"street": "a", "zip": 1, "country": "nowhere"}
    assert write(Address("a", 1)) == {"street": "a", "zip": 1}


def test_registered_classes_are_left_to_their_extension_type() -> None:
    address = Address("a", 1)
    write = writer(Person, registered={Address})
    assert write is not None
    assert write(Person("b", address))["address"] is address


def test_a_generator_is_written_where_items_were_promised() -> None:
    write = writer(collections.abc.Iterable[int])
    assert write is not None
    assert write(number for number in (1, 2)) == [1, 2]


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (Address, "x", "expected Address, got str 'x'"),
        (list[Address], [Address("a", 1), None], "[1]: expected Address, got None"),
        (list[Address], "text", "expected list[Address], got str 'text'"),
        (set[int], 5, "expected set[int], got int 5"),
        (dict[str, Colour], {"a b": 1}, "['a b']: expected Colour, got int 1"),
        (dict[str, Colour], [], "expected dict[str, Colour], got list []"),
        (Options, {"name": "a", "colour": 1}, "colour: expected Colour, got int 1"),
        (tuple[int, Colour], (1, 2), "[1]: expected Colour, got int 2"),
        (tuple[int, Colour], (1,), "expected tuple[int, Colour], got tuple (1,)"),
        (Person, Person("a", None), "address: expected Address, got None"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_is_not_what_was_hinted_is_refused(
    hint: Any, value: Any, message: str
) -> None:
    write = writer(hint)
    assert write is not None
    with pytest.raises(BadValue) as caught:
        write(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "moment",
    [NOON, datetime.datetime(1901, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC), NOON.astimezone()],
)
def test_a_datetime_keeps_its_moment_to_the_microsecond(moment: datetime.datetime) -> None:
    packed = msgpack.packb(moment, default=default)
    assert msgpack.unpackb(packed, timestamp=3) == moment


def test_a_datetime_without_time_zone_is_refused() -> None:
    naive = NOON.replace(tzinfo=None)
    for hook in (default, plain_default):
        with pytest.raises(BadValue, match="expected datetime with time zone"):
            hook(naive)


def test_the_plain_hook_sends_no_extension_types() -> None:
    packed = msgpack.packb([NOON, {Colour.RED}], default=plain_default)
    assert msgpack.unpackb(packed) == [NOON.isoformat(), ["red"]]


def test_the_hook_names_the_type_it_cannot_send_and_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"Unknown has no form.*register an extension"):
        default(Unknown())


def _loop() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [1, {"a": [Unknown()]}],
            "params[1].a[0]: expected something msgpack can carry, got <Unknown>",
        ),
        ([2**64], f"params[0]: expected an int from -2**63 to 2**64-1, got int {2**64}"),
        ([-(2**63) - 1], "params[0]: expected an int from -2**63 to 2**64-1"),
        ([{2**70: 1}], f"params[0][{2**70}]: expected an int from"),
        ([Address("a", 2**64)], "params[0].zip: expected an int from"),
        (["\ud800"], "params[0]: expected text that can be written as UTF-8"),
        ([iter(())], "params[0]: expected something msgpack can carry"),
        ([Address], "params[0]: expected something msgpack can carry"),
        ([NOON.replace(tzinfo=None)], "params[0]: expected datetime with time zone"),
        (_loop(), "expected at most 511 levels of nesting"),
    ],
)
def test_explain_finds_the_part_that_cannot_be_packed(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        msgpack.packb(value, default=default)
    bad = explain(value, "params")
    assert bad is not None
    assert message in str(bad)


def test_explain_reports_the_first_fault() -> None:
    bad = explain([1, {"a": 2**64, "b": 2**64}, 2**64], "result")
    assert bad is not None
    assert bad.path == "result[1].a"


def test_explain_lets_bytes_pass_that_an_old_peer_sent_as_text() -> None:
    value = b"\xff".decode(errors="surrogateescape")
    msgpack.packb(value, unicode_errors="surrogateescape")
    assert explain([value], "params") is None


def test_explain_finds_nothing_wrong_with_what_can_be_packed() -> None:
    value = [None, True, -(2**63), 2**64 - 1, 1.5, "a", b"a", {"a": [1]}, Address("a", 1), NOON]
    msgpack.packb(value, default=default)
    assert explain(value, "params") is None
