"""Messages as maps, and back."""

from __future__ import annotations

import datetime
import math
import random
from typing import Any

import pytest
from google.protobuf import (
    any_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.message import Message

from hvrpc.msgpack.values import BadValue
from hvrpc.services.mapping import DEEPEST, from_map, to_map

from .gen.echo_pb2 import Note

UTC = datetime.UTC


def there_and_back(message: Message) -> Message:
    return from_map(type(message), to_map(message))


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (empty_pb2.Empty(), {}),
        (wrappers_pb2.Int64Value(value=-5), -5),
        (wrappers_pb2.BytesValue(value=b"x"), b"x"),
        (wrappers_pb2.BoolValue(), False),
        (
            timestamp_pb2.Timestamp(seconds=1, nanos=5000),
            datetime.datetime(1970, 1, 1, 0, 0, 1, 5, UTC),
        ),
        (timestamp_pb2.Timestamp(seconds=-62135596800), datetime.datetime(1, 1, 1, tzinfo=UTC)),
        (duration_pb2.Duration(seconds=-1, nanos=-500_000_000), -1.5),
        (duration_pb2.Duration(seconds=3), 3.0),
        (field_mask_pb2.FieldMask(paths=["a.b", "c"]), ["a.b", "c"]),
        (struct_pb2.Value(null_value=struct_pb2.NULL_VALUE), None),
        (struct_pb2.Value(number_value=1), 1.0),
        (struct_pb2.Value(string_value="x"), "x"),
    ],
)
def test_well_known_types(message: Message, value: object) -> None:
    assert to_map(message) == value
    assert from_map(type(message), value) == message


def test_structs() -> None:
    value: Any = {"a": [1.0, None, {"b": True}], "c": "x", "d": {}, "e": []}
    message = struct_pb2.Struct()
    message.update(value)
    assert to_map(message) == value
    assert there_and_back(message) == message
    numbers = struct_pb2.ListValue()
    numbers.extend([1, 2])
    assert to_map(numbers) == [1.0, 2.0]
    assert there_and_back(numbers) == numbers


def test_any() -> None:
    inside = Note(text="x", data=b"y")
    message = any_pb2.Any()
    message.Pack(inside)
    value: Any = to_map(message)
    assert value["@type"] == "type.googleapis.com/hvrpc.echo.v1.Note"
    assert (value["text"], value["data"]) == ("x", b"y")
    unpacked = Note()
    back = from_map(any_pb2.Any, value)
    assert isinstance(back, any_pb2.Any)
    assert back.Unpack(unpacked)
    assert unpacked == inside
    message.Pack(duration_pb2.Duration(seconds=2))
    assert to_map(message) == {
        "@type": "type.googleapis.com/google.protobuf.Duration",
        "value": 2.0,
    }
    assert there_and_back(message) == message
    assert to_map(any_pb2.Any()) == {}
    assert from_map(any_pb2.Any, {}) == any_pb2.Any()


def test_an_any_that_nobody_here_knows() -> None:
    message = any_pb2.Any(type_url="type.googleapis.com/un.Known", value=b"raw")
    assert to_map(message) == {"@type": "type.googleapis.com/un.Known", "value": b"raw"}
    assert there_and_back(message) == message
    with pytest.raises(BadValue, match="a type that is known here, or 'value' in bytes"):
        from_map(any_pb2.Any, {"@type": "un.Known", "text": "x"})


def test_nil_is_the_same_as_not_to_be_there() -> None:
    assert from_map(Note, {"text": None, "at": None, "parts": None}) == Note()


def test_what_a_newer_peer_answers_is_passed_over() -> None:
    assert from_map(Note, {"text": "x", "new": 1}, strict=False) == Note(text="x")
    with pytest.raises(BadValue, match="new: expected nothing"):
        from_map(Note, {"text": "x", "new": 1})


def test_numbers_of_enums_that_are_not_known() -> None:
    assert to_map(Note(colour=77))["colour"] == 77  # type: ignore[arg-type]
    assert from_map(Note, {"colour": 77}) == Note(colour=77)  # type: ignore[arg-type]
    closed = type_pb2.Type(syntax=type_pb2.SYNTAX_PROTO3)
    assert to_map(closed)["syntax"] == "SYNTAX_PROTO3"


def test_floats() -> None:
    assert from_map(wrappers_pb2.FloatValue, 1) == wrappers_pb2.FloatValue(value=1)
    assert math.isnan(to_map(from_map(wrappers_pb2.DoubleValue, math.nan)))
    assert from_map(wrappers_pb2.FloatValue, math.inf) == wrappers_pb2.FloatValue(value=math.inf)
    with pytest.raises(BadValue, match="float of 32 bits"):
        from_map(wrappers_pb2.FloatValue, 1e39)
    with pytest.raises(BadValue, match="expected float"):
        from_map(wrappers_pb2.DoubleValue, 10**400)


@pytest.mark.parametrize("value", [True, 1.0, "1", 2**31, -(2**31) - 1])
def test_what_is_no_int32(value: object) -> None:
    with pytest.raises(BadValue, match="expected int"):
        from_map(wrappers_pb2.Int32Value, value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 4e11, "1", True, None])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(BadValue, match="seconds, as int or float"):
        from_map(duration_pb2.Duration, value)


def test_times_as_text() -> None:
    moment = from_map(timestamp_pb2.Timestamp, "1970-01-01T01:00:01+01:00")
    assert moment == timestamp_pb2.Timestamp(seconds=1)
    for wrong in ("1970-01-01T01:00:01", "yesterday", datetime.datetime(1970, 1, 1)):  # noqa: DTZ001
        with pytest.raises(BadValue, match="datetime with time zone"):
            from_map(timestamp_pb2.Timestamp, wrong)


def test_nesting_has_an_end() -> None:
    value: dict[str, Any] = {}
    for _ in range(DEEPEST + 1):
        value = {"parts": [value]}
    with pytest.raises(BadValue, match=f"at most {DEEPEST} messages inside each other"):
        from_map(Note, value)
    deep: Any = 1
    for _ in range(DEEPEST * 2):
        deep = [deep]
    with pytest.raises(BadValue, match="at most"):
        from_map(struct_pb2.Value, deep)


def random_note(chance: random.Random, depth: int = 0) -> Note:
    note = Note()
    if chance.random() < 0.5:
        note.text = chance.choice(["", "x", "ü" * 20])
    if chance.random() < 0.5:
        note.count = chance.choice([0, -1, 2**63 - 1])
    if chance.random() < 0.5:
        note.data = chance.randbytes(chance.randrange(5))
    if chance.random() < 0.5:
        note.weight = chance.choice([0.0, -0.0, 1e300, 0.1])
    if chance.random() < 0.5:
        note.comment = chance.choice(["", "c"])
    if chance.random() < 0.5:
        note.at.FromMicroseconds(chance.randrange(-(10**15), 10**15))
    if chance.random() < 0.5:
        note.lasting.FromMilliseconds(chance.randrange(-(10**9), 10**9))
    if chance.random() < 0.5:
        note.tally[chance.choice("abc")] = chance.randrange(100)
    if chance.random() < 0.3:
        note.room = chance.randrange(3)
    elif chance.random() < 0.3:
        note.person = ""
    if depth < 3:
        note.parts.extend(random_note(chance, depth + 1) for _ in range(chance.randrange(3)))
    return note


def test_any_message_comes_back_as_it_was() -> None:
    chance = random.Random(1)
    for _ in range(200):
        note = random_note(chance)
        assert there_and_back(note) == note, json_format.MessageToJson(note)
