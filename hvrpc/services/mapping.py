"""Messages as maps of natural Python values, and back: what travels over msgpack-RPC.

    message                 map of field names
    string, bytes, bool     str, bytes, bool
    int32 … uint64          int
    float, double           float; an int is taken too
    enum                    the name of its value; a number is taken too
    repeated, map           list, map
    Timestamp               datetime with a time zone (to strangers: ISO 8601 text)
    Duration                seconds, as float
    Struct, Value, ListValue    map, value, list
    Int32Value and its like the value
    FieldMask               list of paths
    Any                     map with the type under "@type"

Fields that have no presence are always there; optional ones, messages and members of a oneof only when
they are set. Nil is the same as not to be there. Each descriptor is compiled once into a table of
writers and readers.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from ..msgpack.values import BadValue, key_step, refuse, shown

Write = Callable[[Any], Any]
Read = Callable[[Any], Any]

_TYPE: Final = "@type"
_URL: Final = "type.googleapis.com/"
DEEPEST: Final = 100
"""Levels that messages may nest, as protobuf's own parsers have it."""


def to_map(message: Message) -> Any:
    """What is sent for a message. Raises TypeError for anything else."""
    try:
        descriptor = message.DESCRIPTOR
    except AttributeError:
        raise TypeError(f"expected a message, got {shown(message)}") from None
    return _codec(descriptor).write(message)


def from_map(kind: type[Message], value: Any, *, strict: bool = True) -> Message:
    """The message that a value stands for.

    `strict` refuses fields that the message does not have: right for what people write, not for what a
    newer peer answers. Raises :class:`hvrpc.msgpack.values.BadValue`, which says where and why.
    """
    return _codec(kind.DESCRIPTOR).message(kind, value, strict)


class _Codec:
    """How the messages of one type are written and read."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor

    @functools.cached_property
    def fields(self) -> dict[str, _Field]:
        """By name. Made late, since messages may contain themselves."""
        return {field.name: _Field(field) for field in self.descriptor.fields}

    @functools.cached_property
    def always(self) -> list[tuple[str, Write | None]]:
        return [
            (name, field.write)
            for name, field in self.fields.items()
            if not field.descriptor.has_presence
        ]

    @functools.cached_property
    def if_set(self) -> list[tuple[str, Write | None]]:
        return [
            (name, field.write)
            for name, field in self.fields.items()
            if field.descriptor.has_presence
        ]

    def write(self, message: Any) -> Any:
        """The map for a message."""
        written = {
            name: getattr(message, name) if write is None else write(getattr(message, name))
            for name, write in self.always
        }
        for name, write in self.if_set:
            if message.HasField(name):
                value = getattr(message, name)
                written[name] = value if write is None else write(value)
        if self.descriptor.is_extendable:
            for extension, value in message.ListFields():
                if extension.is_extension:
                    field = _extension(extension)
                    plain = value if field.write is None else field.write(value)
                    written[f"[{extension.full_name}]"] = plain
        return written

    def message(self, kind: type[Message], value: Any, strict: bool, depth: int = 0) -> Message:
        """A new message of what was received."""
        message = kind()
        self.read(message, value, strict, depth)
        return message

    def read(self, message: Message, value: Any, strict: bool, depth: int) -> None:
        """Fill a message with what was received."""
        if depth > DEEPEST:
            raise BadValue(f"at most {DEEPEST} messages inside each other", "more")
        if not isinstance(value, Mapping):
            raise refuse(f"a map of the fields of {self.descriptor.full_name}", value)
        set_before: dict[str, str] = {}
        for name, content in value.items():
            field = self.fields.get(name) or self._by_another_name(name)
            if field is None:
                if strict:
                    known = ", ".join(self.fields) or "no fields"
                    expected = f"nothing ({self.descriptor.full_name} has {known})"
                    raise refuse(expected, content).under(key_step(name))
                continue
            if content is None and not field.takes_nil:
                continue
            oneof = field.descriptor.containing_oneof
            if oneof is not None:
                other = set_before.setdefault(oneof.name, name)
                if other != name:
                    expected = f"one of {oneof.name}, which are alternatives"
                    raise BadValue(expected, f"{other} as well").under(key_step(name))
            try:
                field.set(message, content, strict, depth)
            except BadValue as bad:
                raise bad.under(key_step(name)) from None

    def _by_another_name(self, name: Any) -> _Field | None:
        if not isinstance(name, str):
            return None
        if name.startswith("[") and self.descriptor.is_extendable:
            pool = self.descriptor.file.pool
            try:
                extension = pool.FindExtensionByName(name[1:-1])
            except KeyError:
                return None
            return _extension(extension) if extension.containing_type is self.descriptor else None
        return None


@functools.cache
def _codec(descriptor: Descriptor) -> _Codec:
    special = _WELL_KNOWN.get(descriptor.full_name)
    return _Codec(descriptor) if special is None else special(descriptor)


class _Field:
    """How one field is written and read."""

    def __init__(self, descriptor: FieldDescriptor) -> None:
        self.descriptor = descriptor
        self.takes_nil = _is(descriptor, "google.protobuf.Value") or _is_null(descriptor)
        self.is_map = _is_map(descriptor)
        self._key: Read | None = None
        self._item: Any = descriptor
        if self.is_map and descriptor.message_type is not None:
            key, self._item = descriptor.message_type.fields
            self._key = _scalar_reader(key)
        self._codec = _codec(self._item.message_type) if self._item.message_type else None
        self._read = None if self._codec else _scalar_reader(self._item)
        self.write = self._writer()

    def _writer(self) -> Write | None:
        """None: the value goes as it is."""
        single = self._single_writer()
        if self.is_map:
            if single is None:
                return dict
            return lambda values: {key: single(value) for key, value in values.items()}
        if is_repeated(self.descriptor):
            if single is None:
                return list
            return lambda values: [single(value) for value in values]
        return single

    def _single_writer(self) -> Write | None:
        if self._codec is not None:
            return self._codec.write
        if self._item.enum_type is not None:
            if _is_null(self._item):
                return lambda number: None
            names = {number: each.name for number, each in _numbers(self._item.enum_type).items()}
            return lambda number: names.get(number, number)
        return None

    def set(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        """Put what was received into a message."""
        name = self.descriptor.name
        is_extension = self.descriptor.is_extension
        target = message.Extensions if is_extension else message
        if self.is_map:
            self._set_map(getattr(message, name), value, strict, depth)
        elif is_repeated(self.descriptor):
            into = target[self.descriptor] if is_extension else getattr(message, name)
            self._set_list(into, value, strict, depth)
        elif self._codec is not None:
            inner = target[self.descriptor] if is_extension else getattr(message, name)
            inner.SetInParent()
            self._codec.read(inner, value, strict, depth + 1)
        elif is_extension:
            target[self.descriptor] = self._scalar(value)
        else:
            setattr(message, name, self._scalar(value))

    def _scalar(self, value: Any) -> Any:
        assert self._read is not None
        return self._read(value)

    def _set_list(self, into: Any, value: Any, strict: bool, depth: int) -> None:
        if not isinstance(value, list | tuple):
            raise refuse("a list", value)
        for position, each in enumerate(value):
            try:
                if self._codec is None:
                    into.append(self._scalar(each))
                else:
                    self._codec.read(into.add(), each, strict, depth + 1)
            except BadValue as bad:
                raise bad.under(f"[{position}]") from None

    def _set_map(self, into: Any, value: Any, strict: bool, depth: int) -> None:
        if not isinstance(value, Mapping):
            raise refuse("a map", value)
        assert self._key is not None
        for key, each in value.items():
            try:
                name = self._key(key)
            except BadValue as bad:
                raise BadValue(f"a key that is {bad.expected}", bad.got) from None
            try:
                if self._codec is None:
                    into[name] = self._scalar(each)
                else:
                    self._codec.read(into[name], each, strict, depth + 1)
            except BadValue as bad:
                raise bad.under(key_step(key)) from None


@functools.cache
def _extension(descriptor: FieldDescriptor) -> _Field:
    return _Field(descriptor)


# --- Scalars ------------------------------------------------------------------------------------


def _integers(name: str, bits: int, *, signed: bool) -> Read:
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def read(value: Any) -> int:
        if type(value) is not int:
            raise refuse("int", value)
        if not least <= value <= most:
            raise refuse(f"int from {least} to {most} ({name})", value)
        return value

    return read


def _exactly(kind: type) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise refuse(kind.__name__, value)
        return value

    return read


def _float(value: Any) -> float:
    if type(value) not in (float, int):
        raise refuse("float", value)
    try:
        return float(value)
    except OverflowError:
        raise refuse("float", value) from None


def _float32(value: Any) -> float:
    number = _float(value)
    if math.isfinite(number) and abs(number) > _LARGEST_FLOAT32:
        raise refuse("float of 32 bits", value)
    return number


_LARGEST_FLOAT32: Final = (2 - 2**-24) * 2.0**127
"""Beyond this it would be rounded to infinity."""

_PROTO: Final = FieldDescriptor
_SCALARS: Final[dict[int, Read]] = {
    _PROTO.TYPE_DOUBLE: _float,
    _PROTO.TYPE_FLOAT: _float32,
    _PROTO.TYPE_BOOL: _exactly(bool),
    _PROTO.TYPE_STRING: _exactly(str),
    _PROTO.TYPE_BYTES: _exactly(bytes),
    **{
        kind: _integers(name, bits, signed=signed)
        for name, bits, signed, kinds in (
            ("int32", 32, True, (_PROTO.TYPE_INT32, _PROTO.TYPE_SINT32, _PROTO.TYPE_SFIXED32)),
            ("int64", 64, True, (_PROTO.TYPE_INT64, _PROTO.TYPE_SINT64, _PROTO.TYPE_SFIXED64)),
            ("uint32", 32, False, (_PROTO.TYPE_UINT32, _PROTO.TYPE_FIXED32)),
            ("uint64", 64, False, (_PROTO.TYPE_UINT64, _PROTO.TYPE_FIXED64)),
        )
        for kind in kinds
    },
}


def _scalar_reader(field: Any) -> Read:
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    return _SCALARS[field.type]


def _enum_reader(enum: EnumDescriptor) -> Read:
    if enum.full_name == "google.protobuf.NullValue":
        return lambda value: 0
    names = {each.name: each.number for each in enum.values}
    known = _numbers(enum)
    check = _integers("enum", 32, signed=True)

    def read(value: Any) -> int:
        number = names.get(value) if isinstance(value, str) else None
        if number is None and type(value) is int:
            number = check(value)
            if enum.is_closed and number not in known:
                number = None
        if number is None:
            raise refuse(f"one of {', '.join(names)}", value)
        return number

    return read


def _numbers(enum: EnumDescriptor) -> dict[int, Any]:
    """The first name of each number, as protobuf has it."""
    found: dict[int, Any] = {}
    for each in enum.values:
        found.setdefault(each.number, each)
    return found


def _is(field: FieldDescriptor, name: str) -> bool:
    kind = field.message_type
    return kind is not None and not is_repeated(field) and kind.full_name == name


def _is_null(field: FieldDescriptor) -> bool:
    return field.enum_type is not None and field.enum_type.full_name == "google.protobuf.NullValue"


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether a field is a list or a map. Protobuf has the property since 6.31, and warns of the other
    way since then."""
    repeated: int = FieldDescriptor.LABEL_REPEATED
    if hasattr(field, "is_repeated"):
        return field.is_repeated
    label: int = getattr(field, "label")  # noqa: B009 (type checkers know the new way only)
    return label == repeated


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


# --- Well-known types ---------------------------------------------------------------------------


class _Special(_Codec):
    """A message that travels as something else than a map of its fields."""

    def write(self, message: Any) -> Any:
        raise NotImplementedError

    def read(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        if depth > DEEPEST:
            raise BadValue(f"at most {DEEPEST} messages inside each other", "more")
        self.put(message, value, strict, depth)

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        raise NotImplementedError


_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class _Timestamp(_Special):
    def write(self, message: Any) -> Any:
        try:
            return _EPOCH + datetime.timedelta(
                seconds=message.seconds, microseconds=message.nanos // 1000
            )
        except OverflowError:
            raise refuse("a Timestamp of the years 1 to 9999", message.seconds) from None

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        if isinstance(value, str):
            try:
                value = datetime.datetime.fromisoformat(value)
            except ValueError:
                pass
        if not isinstance(value, datetime.datetime) or value.tzinfo is None:
            raise refuse("datetime with time zone, or ISO 8601 text with one", value)
        past = value - _EPOCH
        message.seconds = past.days * 86400 + past.seconds
        message.nanos = past.microseconds * 1000


class _Duration(_Special):
    def write(self, message: Any) -> float:
        seconds: float = message.seconds + message.nanos / 1e9
        return seconds

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        if type(value) not in (int, float) or not abs(value) <= _LONGEST:
            raise refuse("seconds, as int or float", value)
        # Both parts have the same sign: a duration is counted from zero outwards.
        nanos = round(math.fmod(value, 1) * 1_000_000_000)
        seconds = math.trunc(value)
        if abs(nanos) == 1_000_000_000:
            seconds, nanos = seconds + (1 if nanos > 0 else -1), 0
        message.seconds, message.nanos = seconds, nanos


_LONGEST: Final = 315_576_000_000
"""Seconds: ten thousand years, as duration.proto has it."""


class _Wrapper(_Special):
    def __init__(self, descriptor: Descriptor) -> None:
        super().__init__(descriptor)
        self._read = _scalar_reader(descriptor.fields[0])

    def write(self, message: Any) -> Any:
        return message.value

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        message.value = self._read(value)


class _FieldMask(_Special):
    def write(self, message: Any) -> list[str]:
        return list(message.paths)

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        if not isinstance(value, list | tuple) or not all(type(each) is str for each in value):
            raise refuse("a list of paths", value)
        message.paths[:] = value


class _Struct(_Special):
    def write(self, message: Any) -> dict[str, Any]:
        return {key: _written_value(each) for key, each in message.fields.items()}

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        if not isinstance(value, Mapping):
            raise refuse("a map", value)
        message.fields.clear()
        for key, each in value.items():
            if type(key) is not str:
                raise refuse("a key that is str", key)
            try:
                _put_value(message.fields[key], each, depth + 1)
            except BadValue as bad:
                raise bad.under(key_step(key)) from None


class _ListValue(_Special):
    def write(self, message: Any) -> list[Any]:
        return [_written_value(each) for each in message.values]

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        if not isinstance(value, list | tuple):
            raise refuse("a list", value)
        for position, each in enumerate(value):
            try:
                _put_value(message.values.add(), each, depth + 1)
            except BadValue as bad:
                raise bad.under(f"[{position}]") from None


class _Value(_Special):
    def write(self, message: Any) -> Any:
        return _written_value(message)

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        _put_value(message, value, depth)


def _written_value(message: Any) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    content = getattr(message, kind)
    if kind in ("struct_value", "list_value"):
        return _codec(content.DESCRIPTOR).write(content)
    return content


def _put_value(message: Any, value: Any, depth: int) -> None:
    if value is None:
        message.null_value = 0
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int | float):
        message.number_value = _float(value)
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, Mapping | list | tuple):
        inner = message.struct_value if isinstance(value, Mapping) else message.list_value
        inner.SetInParent()
        _codec(inner.DESCRIPTOR).read(inner, value, True, depth + 1)
    else:
        raise refuse("nil, bool, number, str, list or map", value)


class _Any(_Special):
    def write(self, message: Any) -> dict[str, Any]:
        if not message.type_url:
            return {}
        kind = _type_of(message.type_url)
        if kind is None:  # nobody here knows it: as it came
            return {_TYPE: message.type_url, "value": message.value}
        inner = kind.FromString(message.value)
        written = to_map(inner)
        if isinstance(_codec(inner.DESCRIPTOR), _Special):
            return {_TYPE: message.type_url, "value": written}
        return {_TYPE: message.type_url, **written}

    def put(self, message: Any, value: Any, strict: bool, depth: int) -> None:
        if not isinstance(value, Mapping):
            raise refuse(f"a map with {_TYPE!r}", value)
        if not value:
            return
        url = value.get(_TYPE)
        if type(url) is not str:
            raise refuse("the type of what is inside", url).under(key_step(_TYPE))
        content = {name: each for name, each in value.items() if name != _TYPE}
        kind = _type_of(url)
        if kind is None:
            if set(content) != {"value"} or type(content["value"]) is not bytes:
                raise refuse("a type that is known here, or 'value' in bytes", url).under(
                    key_step(_TYPE)
                )
            message.type_url, message.value = url, content["value"]
            return
        codec = _codec(kind.DESCRIPTOR)
        if isinstance(codec, _Special):
            if set(content) != {"value"}:
                raise BadValue(
                    "'value', beside the type", ", ".join(map(str, content)) or "nothing"
                )
            inner = codec.message(kind, content["value"], strict, depth + 1)
        else:
            inner = codec.message(kind, content, strict, depth + 1)
        message.type_url = url if "/" in url else f"{_URL}{url}"
        message.value = inner.SerializeToString(deterministic=True)


def _type_of(url: str) -> type[Message] | None:
    try:
        found = descriptor_pool.Default().FindMessageTypeByName(url.rpartition("/")[2])
    except KeyError:
        return None
    kind: type[Message] = message_factory.GetMessageClass(found)
    return kind


_WELL_KNOWN: Final[dict[str, type[_Special]]] = {
    "google.protobuf.Timestamp": _Timestamp,
    "google.protobuf.Duration": _Duration,
    "google.protobuf.FieldMask": _FieldMask,
    "google.protobuf.Struct": _Struct,
    "google.protobuf.ListValue": _ListValue,
    "google.protobuf.Value": _Value,
    "google.protobuf.Any": _Any,
    **{
        f"google.protobuf.{name}Value": _Wrapper
        for name in (
            "Double",
            "Float",
            "Int32",
            "Int64",
            "UInt32",
            "UInt64",
            "Bool",
            "String",
            "Bytes",
        )
    },
}
