"""Values turned into what msgpack can pack.

Two ways, for two situations. :func:`writer` compiles a type hint once, for the results of a method:
what is sent follows the hint, so that a subclass of the hinted dataclass does not grow fields on
the wire that the other end refuses. :func:`default` needs no hint; the Packer asks it about every
value it cannot pack itself, and it answers one level at a time.

Writers convert and do not police: a method hinted ``-> int`` that returns a str sends a str. The
forms are those listed in :mod:`hvrpc.msgpack.readers`.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import datetime
import decimal
import enum
import pathlib
import typing
import uuid
from collections.abc import Callable, Container, Hashable, Iterator, Mapping
from typing import Any

import msgpack

from hvrpc.msgpack import hints
from hvrpc.msgpack.readers import ARRAYS, MAPS
from hvrpc.msgpack.values import BadValue, key_step, refuse, shown

Writer = Callable[[Any], Any]

# What the Packer packs by itself, subclasses included.
NATIVE = (
    *(type(None), bool, int, float, str, bytes, bytearray, memoryview, list, tuple, dict),
    *(msgpack.ExtType, msgpack.Timestamp),
)

# What msgpack can carry: int64 and uint64 together.
SMALLEST_INT = -(2**63)
LARGEST_INT = 2**64 - 1

# The Packer gives up beyond this depth, which also ends its walk around a list inside itself.
DEEPEST = 511


def writer(
    hint: Any, registered: Container[Any] = (), names: Mapping[str, Any] | None = None
) -> Writer | None:
    """The function that makes values of this hint fit to pack; None if they are sent as they are.

    ``registered`` are classes that an extension type packs; they are left alone. ``names`` are
    those that a hint may use in quotes, such as a module's globals. The function raises :class:`~hvrpc.msgpack.values.BadValue` for a value it cannot convert. Values it leaves
    alone may still need :func:`default` in the Packer.
    """
    return _Compiler(registered, names or {}).writer(hint)


def default(value: Any) -> Any:
    """The hook for ``msgpack.Packer(default=…)``: the wire form of a value msgpack cannot pack.

    Raises TypeError for a value without one; :func:`explain` tells where in the message it was.
    """
    form = _form(type(value))
    if form is None:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(
            f"{name} has no form in msgpack; make it a dataclass or register an extension type"
        )
    return form(value)


def plain_default(value: Any) -> Any:
    """Like :func:`default`, for peers that know no extension types: a datetime goes as ISO text."""
    if isinstance(value, datetime.datetime):
        return _aware(value).isoformat()
    return default(value)


def explain(value: Any, path: str, default: Callable[[Any], Any] = default) -> BadValue | None:
    """After packing failed: which part of the value cannot be packed. None if all of it can.

    ``path`` names the whole (``params``, ``result``).
    """
    for step, part, depth in _parts(value, default, path):
        bad = part if isinstance(part, BadValue) else _scalar_fault(part)
        if bad is None and depth > DEEPEST:
            bad = BadValue(f"at most {DEEPEST} levels of nesting", "more, or a value inside itself")
        if bad is not None:
            return bad.under(step)
    return None


def _parts(value: Any, default: Callable[[Any], Any], path: str) -> Iterator[tuple[str, Any, int]]:
    """The value and all its parts, each with its path and depth; a BadValue for those without form.

    Nothing below the deepest level is looked into.
    """
    todo = [(path, value, 0)]
    while todo:
        path, value, depth = todo.pop()
        if not isinstance(value, NATIVE):
            try:
                value = default(value)
            except BadValue as bad:
                value = bad
            except Exception as error:  # the user's own code may have been asked
                reason = f"{type(error).__name__}: {error}"
                value = BadValue("something msgpack can carry", shown(value), (reason,))
            else:
                todo.append((path, value, depth + 1))
                continue
        yield path, value, depth
        if depth > DEEPEST or isinstance(value, BadValue | msgpack.ExtType):
            continue
        # In reverse, for the last one appended is looked at first.
        if isinstance(value, dict):
            steps = [(path + key_step(key), key, item) for key, item in value.items()]
            todo += [(step, item, depth + 1) for step, _, item in reversed(steps)]
            todo += [(step, key, depth + 1) for step, key, _ in reversed(steps)]
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
            todo += [(f"{path}[{index}]", item, depth + 1) for index, item in reversed(items)]


def _scalar_fault(value: Any) -> BadValue | None:
    if isinstance(value, int) and not SMALLEST_INT <= value <= LARGEST_INT:
        return refuse("an int from -2**63 to 2**64-1", value)
    if isinstance(value, str):
        try:
            value.encode(errors="surrogateescape")  # as received from old peers; can go back
        except UnicodeEncodeError:
            return refuse("text that can be written as UTF-8", value)
    return None


class _Compiler:
    """One compilation. Remembers the records it is inside of, for a record may contain itself."""

    def __init__(self, registered: Container[Any], names: Mapping[str, Any]) -> None:
        self._registered = registered
        self._open: dict[Hashable, list[Writer | None]] = {}
        self._owners: list[Any] = []  # what `Self` means, innermost last
        self._names = names  # for hints that refer to others by name

    def writer(self, hint: Any) -> Writer | None:
        hint = hints.bare(hint)
        if hint is typing.Self and self._owners:
            hint = self._owners[-1]
        is_alias, meaning = hints.alias_value(hint, self._names)
        if is_alias:
            return self._named(hint, lambda: self.writer(meaning))
        if hints.is_union(hint):
            return self._union(hint)
        origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
        if not isinstance(origin, type) or origin in self._registered:
            return None
        return self._class(hint, origin, arguments)

    def _class(self, hint: Any, origin: type, arguments: tuple[Any, ...]) -> Writer | None:
        if hints.is_dataclass(origin):
            return self._named(hint, lambda: self._dataclass(hint, origin, arguments))
        if hints.is_typed_dict(origin):
            return self._named(hint, lambda: self._typed_dict(hint, origin, arguments))
        if hints.is_named_tuple(origin):
            fields = hints.fields(origin, arguments)
            return _fixed_array(hint, [self.writer(field.hint) for field in fields])
        if origin is tuple:
            return self._tuple(hint, arguments)
        if origin in MAPS:
            key, item = arguments or (Any, Any)
            return _map(hint, self.writer(key), self.writer(item))
        if origin in ARRAYS:
            item_writer = self.writer(arguments[0]) if arguments else None
            return _array(hint, item_writer, is_native=origin is list)
        return _single(hint, origin)

    def _named(self, key: Hashable, make: Callable[[], Writer | None]) -> Writer | None:
        """A writer that may contain itself: inside, it is referred to by where it will be."""
        place = self._open.get(key)
        if place is not None:
            return _write_later(place)
        self._open[key] = place = []
        try:
            place.append(make())
        finally:
            del self._open[key]
        return place[0]

    def _dataclass(self, hint: Any, origin: type, arguments: tuple[Any, ...]) -> Writer:
        fields = [field for field in hints.fields(origin, arguments) if field.sent]
        return _attributes(hint, origin, self._field_writers(origin, fields))

    def _typed_dict(self, hint: Any, origin: type, arguments: tuple[Any, ...]) -> Writer | None:
        writers = self._field_writers(origin, hints.fields(origin, arguments))
        needed = {name: write for name, write in writers.items() if write is not None}
        return _entries(hint, needed) if needed else None

    def _field_writers(self, owner: Any, fields: list[hints.Field]) -> dict[str, Writer | None]:
        with self._inside(owner, hints.class_names(owner)):
            return {field.name: self.writer(field.hint) for field in fields}

    @contextlib.contextmanager
    def _inside(self, owner: Any, names: Mapping[str, Any]) -> Iterator[None]:
        """While the fields of a record are compiled: what `Self` and names in quotes mean."""
        before = self._names
        self._names = names
        self._owners.append(owner)
        try:
            yield
        finally:
            self._owners.pop()
            self._names = before

    def _tuple(self, hint: Any, arguments: tuple[Any, ...]) -> Writer | None:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _array(hint, self.writer(arguments[0]), is_native=True)
        return _fixed_array(hint, [self.writer(argument) for argument in arguments])

    def _union(self, union: Any) -> Writer | None:
        """By the class of the value. A value of none of the classes is left to the Packer."""
        choices: list[tuple[type, Writer]] = []
        for member in hints.union_members(union):
            write = self.writer(member)
            cls = typing.get_origin(member) or member
            # A TypedDict is a dict like any other when the program runs.
            if write is not None and isinstance(cls, type) and not hints.is_typed_dict(cls):
                choices.append((cls, write))
        choices.sort(key=lambda choice: len(choice[0].__mro__), reverse=True)
        return _choice(choices) if choices else None


def _write_later(place: list[Writer | None]) -> Writer:
    def write(value: Any) -> Any:
        write_inner = place[0]
        return value if write_inner is None else write_inner(value)

    return write


def _choice(choices: list[tuple[type, Writer]]) -> Writer:
    """Subclasses stand before their bases."""

    def write(value: Any) -> Any:
        for cls, write_member in choices:
            if isinstance(value, cls):
                return write_member(value)
        return value

    return write


def _attributes(hint: Any, cls: type, writers: dict[str, Writer | None]) -> Writer:
    text, pairs = hints.text(hint), list(writers.items())

    def write(value: Any) -> Any:
        if not isinstance(value, cls):
            raise refuse(text, value)
        made = {}
        name = ""
        try:
            for name, write_field in pairs:
                item = getattr(value, name)
                made[name] = item if write_field is None else write_field(item)
        except BadValue as bad:
            bad.under(f".{name}")
            raise
        return made

    return write


def _entries(hint: Any, writers: dict[str, Writer]) -> Writer:
    text = hints.text(hint)

    def write(value: Any) -> Any:
        if not isinstance(value, dict):
            raise refuse(text, value)
        made = dict(value)
        for name in writers.keys() & made.keys():
            try:
                made[name] = writers[name](made[name])
            except BadValue as bad:
                bad.under(f".{name}")
                raise
        return made

    return write


def _map(hint: Any, write_key: Writer | None, write_item: Writer | None) -> Writer | None:
    if write_key is None and write_item is None:
        return None
    text = hints.text(hint)

    def write(value: Any) -> Any:
        if not isinstance(value, collections.abc.Mapping):
            raise refuse(text, value)
        made = {}
        for key, item in value.items():
            try:
                wire_key = key if write_key is None else write_key(key)
                made[wire_key] = item if write_item is None else write_item(item)
            except BadValue as bad:
                bad.under(key_step(key))
                raise
        return made

    return write


# They are iterable, but nobody means them when a hint says Iterable.
_NO_ARRAYS = (str, bytes, bytearray, memoryview, collections.abc.Mapping)


def _array(hint: Any, write_item: Writer | None, is_native: bool) -> Writer | None:
    if write_item is None and is_native:
        return None
    text = hints.text(hint)

    def write(value: Any) -> Any:
        if isinstance(value, _NO_ARRAYS) or not isinstance(value, collections.abc.Iterable):
            raise refuse(text, value)
        if write_item is None:
            return list(value)
        made: list[Any] = []
        try:
            for item in value:
                made.append(write_item(item))  # noqa: PERF401 (its length is the index in the error)
        except BadValue as bad:
            bad.under(f"[{len(made)}]")
            raise
        return made

    return write


def _fixed_array(hint: Any, writers: list[Writer | None]) -> Writer | None:
    if not any(writers):
        return None
    text = hints.text(hint)

    def write(value: Any) -> Any:
        if not isinstance(value, tuple | list) or len(value) != len(writers):
            raise refuse(text, value)
        made: list[Any] = []
        try:
            for item, write_item in zip(value, writers, strict=True):
                made.append(item if write_item is None else write_item(item))
        except BadValue as bad:
            bad.under(f"[{len(made)}]")
            raise
        return made

    return write


def _single(hint: Any, cls: type) -> Writer | None:
    """A class that has a form of its own; values of other classes are left to `default`."""
    form = _form(cls)
    # A timestamp is an extension type, and whether the peer knows it is the Packer's business.
    if form is None or form is _timestamp:
        return None
    text = hints.text(hint)

    def write(value: Any) -> Any:
        if not isinstance(value, cls):
            raise refuse(text, value)
        return form(value)

    return write


def _aware(moment: datetime.datetime) -> datetime.datetime:
    if moment.tzinfo is None:
        raise refuse("datetime with time zone, such as datetime.now(UTC)", moment)
    return moment


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _timestamp(moment: datetime.datetime) -> msgpack.Timestamp:
    # In integers: seconds as float would lose microseconds.
    since = _aware(moment) - _EPOCH
    return msgpack.Timestamp(since.days * 86_400 + since.seconds, since.microseconds * 1000)


# The wire form of values, by class. Subclasses have the form of the nearest class listed.
_FORMS: dict[type, Writer] = {
    enum.Enum: hints.enum_wire_value,
    uuid.UUID: str,
    decimal.Decimal: str,
    pathlib.PurePath: str,
    datetime.datetime: _timestamp,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: datetime.timedelta.total_seconds,
    set: list,
    frozenset: list,
    collections.deque: list,
    range: list,
}

# The same for classes that only promise to behave like one of these.
_BEHAVIOURS: dict[type, Writer] = {
    collections.abc.Mapping: dict,
    collections.abc.Set: list,
    collections.abc.Sequence: list,
    collections.abc.ValuesView: list,
}

_known_forms: dict[type, Writer | None] = {}


def _form(cls: type) -> Writer | None:
    """What makes the wire form of the class's values; None if it has none or needs none."""
    try:
        return _known_forms[cls]
    except KeyError:
        _known_forms[cls] = form = _find_form(cls)
        return form


def _find_form(cls: type) -> Writer | None:
    if issubclass(cls, enum.Enum):
        return hints.enum_wire_value
    if issubclass(cls, NATIVE):
        return None
    if dataclasses.is_dataclass(cls):
        return _form_of_dataclass(cls)
    for base in cls.__mro__:
        if base in _FORMS:
            return _FORMS[base]
    for behaviour, form in _BEHAVIOURS.items():
        if issubclass(cls, behaviour):
            return form
    return None


def _form_of_dataclass(cls: type) -> Writer:
    names = [field.name for field in dataclasses.fields(cls) if field.init]

    def form(value: Any) -> dict[str, Any]:
        return {name: getattr(value, name) for name in names}

    return form
