"""Values from the wire turned into what a type hint asks for.

:func:`reader` compiles a hint once into a function from the decoded value (what msgpack gives:
list or tuple, dict, str, bytes, int, float, bool, None, a timestamp) to the wanted one. It is
strict: ``"1"`` is no int, ``True`` is no int, str and bytes never stand in for each other.

How a hint travels:

===========================  =====================================================================
None, bool, int, str         as they are
float                        float; an int is accepted
bytes, bytearray, memoryview binary
datetime                     timestamp extension; ISO text with a time zone is accepted
date, time                   ISO text
timedelta                    seconds, int or float
UUID                         text; 16 bytes are accepted
Decimal, Path                text
Enum, Flag                   the member's value; the member's name is accepted
Literal                      the value
list, set, tuple, deque, …   array
NamedTuple                   array
dict, Mapping                map
dataclass, TypedDict         map of field names; unknown and missing fields are errors
X | Y                        the first member, in the order written, that takes the value
another class                a value that an extension type made (see ``extensions``)
===========================  =====================================================================
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
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import msgpack

from hvrpc.msgpack import hints
from hvrpc.msgpack.values import BadValue, key_step, refuse, shown

Reader = Callable[[Any], Any]

NO_TYPES: frozenset[type] = frozenset()

# The types of what a decoder gives. Anything else was made by an extension type.
WIRE_TYPES = frozenset(
    {type(None), bool, int, float, str, bytes, bytearray, memoryview, list, tuple, dict}
    | {datetime.datetime, msgpack.Timestamp, msgpack.ExtType}
)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """A compiled hint.

    The two sets let containers, unions and signatures decide by type alone, without calling
    ``read``: values of an ``unchanged`` type are right as they are; ``read`` may make something of
    values of a ``converted`` type; all other wire types are refused.
    """

    text: str
    read: Reader | None  # None: every value is right as it is
    unchanged: frozenset[type] = NO_TYPES
    converted: frozenset[type] = NO_TYPES
    takes_others: bool = False  # may take what an extension type made
    fields: frozenset[str] | None = None  # of a record that travels as a map

    def takes(self, wire_type: type) -> bool:
        return wire_type in self.unchanged or wire_type in self.converted

    def take(self, value: Any) -> Any:
        """What the hint makes of the value."""
        if self.read is None or type(value) in self.unchanged:
            return value
        return self.read(value)


def reader(hint: Any, names: Mapping[str, Any] | None = None) -> Reader | None:
    """The function that reads values of this hint; None if every value is right as it is.

    ``names`` are those that a hint may use in quotes, such as a module's globals. The function
    raises :class:`~hvrpc.msgpack.values.BadValue`. Raises TypeError for a hint that cannot be
    checked.
    """
    return rule(hint, names).read


def rule(hint: Any, names: Mapping[str, Any] | None = None) -> Rule:
    """The compiled hint, with what is known about it (see :class:`Rule`)."""
    compiler = _Compiler(names or {})
    compiled = compiler.rule(hint)
    if compiler.recursive and compiled.read is not None:
        return dataclasses.replace(compiled, read=_bounded(compiled.read, compiled.text))
    return compiled


def _bounded(read: Reader, text: str) -> Reader:
    """Recursive hints recurse as deep as the value; a hostile value is deep."""

    def read_bounded(value: Any) -> Any:
        try:
            return read(value)
        except RecursionError:
            raise BadValue(text, "a value nested too deeply") from None

    return read_bounded


_ANY = Rule("any value", None, unchanged=WIRE_TYPES, takes_others=True)


# Classes whose values never come over a wire; isinstance would promise what nobody can keep.
_NEVER_SENT = frozenset({collections.abc.Callable, type})


class _Compiler:
    """One compilation. Remembers the records it is inside of, for a record may contain itself."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self.recursive = False
        self._open: dict[Hashable, list[Rule]] = {}
        self._owners: list[Any] = []  # what `Self` means, innermost last
        self._names = names  # for hints that refer to others by name

    def rule(self, hint: Any) -> Rule:
        hint = hints.bare(hint)
        if hint is typing.Self and self._owners:
            hint = self._owners[-1]
        is_alias, meaning = hints.alias_value(hint, self._names)
        if is_alias:
            return self._named(hint, hints.text(hint), lambda: self.rule(meaning))
        if _is_plain(hint) and hint in hints.UNCHECKED:
            return _ANY
        if hints.is_union(hint):
            return _union(hints.text(hint), self._members(hint))
        return self._generic(hint, typing.get_origin(hint) or hint, typing.get_args(hint))

    def _generic(self, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Rule:
        text = hints.text(hint)
        if origin is typing.Literal:
            return _literal(text, arguments)
        if origin in _SCALARS:
            return _SCALARS[origin]
        if origin in ARRAYS:
            return _array(text, ARRAYS[origin], self._item(arguments))
        if origin is tuple:
            return self._tuple(text, hint, arguments)
        if origin in MAPS:
            key, item = arguments or (Any, Any)
            return _map(text, MAPS[origin], self.rule(key), self.rule(item))
        if hints.is_typed_dict(origin) or hints.is_dataclass(origin):
            return self._named(hint, text, lambda: self._record(text, origin, arguments))
        if hints.is_named_tuple(origin):
            return self._named(hint, text, lambda: self._named_tuple(text, origin, arguments))
        if isinstance(origin, type) and origin not in _NEVER_SENT:
            return _class(text, origin)
        raise TypeError(
            f"values of the type hint {text} cannot be checked; use Any to take them as they come"
        )

    def _named(self, key: Hashable, text: str, make: Callable[[], Rule]) -> Rule:
        """A rule that may contain itself: inside, it is referred to by where it will be."""
        place = self._open.get(key)
        if place is not None:
            self.recursive = True
            return Rule(text, _read_later(place), converted=WIRE_TYPES, takes_others=True)
        self._open[key] = place = []
        try:
            place.append(make())
        finally:
            del self._open[key]
        return place[0]

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

    def _item(self, arguments: tuple[Any, ...]) -> Rule:
        return self.rule(arguments[0]) if arguments else self.rule(Any)

    def _members(self, union: Any) -> list[Rule]:
        members = hints.union_members(union)
        _check_told_apart(members)
        # An int must not become a float when the union has int, wherever it stands.
        exact = int in members
        return [
            _EXACT_FLOAT if member is float and exact else self.rule(member) for member in members
        ]

    def _tuple(self, text: str, hint: Any, arguments: tuple[Any, ...]) -> Rule:
        if not hasattr(hint, "__args__"):
            return _array(text, tuple, self.rule(Any))
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _array(text, tuple, self.rule(arguments[0]))
        items = [self.rule(argument) for argument in arguments]
        return _fixed_array(text, tuple, items, [str(i) for i in range(len(items))], len(items))

    def _named_tuple(self, text: str, origin: Any, arguments: tuple[Any, ...]) -> Rule:
        fields = hints.fields(origin, arguments)
        items = [self.rule(field.hint) for field in fields]
        fewest = sum(field.required for field in fields)
        names = [field.name for field in fields]
        return _fixed_array(text, lambda values: origin(*values), items, names, fewest)

    def _record(self, text: str, origin: Any, arguments: tuple[Any, ...]) -> Rule:
        owner = origin[arguments] if arguments else origin
        fields = hints.fields(origin, arguments)
        with self._inside(owner, hints.class_names(origin)):
            rules = {field.name: self.rule(field.hint) for field in fields}
        required = {field.name for field in fields if field.required}
        if hints.is_typed_dict(origin):
            return _record(text, None, rules, required)
        return _record(text, origin, rules, required)


def _read_later(place: list[Rule]) -> Reader:
    def read(value: Any) -> Any:
        read_inner = place[0].read
        return value if read_inner is None else read_inner(value)

    return read


def _is_plain(hint: Any) -> bool:
    """Whether the hint may be looked up in a set: Annotated and Literal may hold a list."""
    return isinstance(hint, type) or hint is Any


def _scalar(text: str, unchanged: set[type], forms: dict[type, Reader] | None = None) -> Rule:
    """``forms`` has the wire types that are accepted besides, and what makes the value of them."""
    conversions = forms or {}

    def read(value: Any) -> Any:
        wire_type = type(value)
        if wire_type in unchanged:
            return value
        convert = conversions.get(wire_type)
        if convert is None:
            raise refuse(text, value)
        try:
            return convert(value)
        except (ValueError, ArithmeticError, NotImplementedError) as error:
            raise refuse(text, value) from error

    return Rule(text, read, frozenset(unchanged), frozenset(conversions))


def _aware_from_text(value: str) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment


def _seconds(value: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=value)


_SCALARS: dict[Any, Rule] = {
    type(None): _scalar("None", {type(None)}),
    bool: _scalar("bool", {bool}),
    int: _scalar("int", {int}),
    float: _scalar("float", {float}, {int: float}),
    str: _scalar("str", {str}),
    bytes: _scalar("bytes", {bytes}, {bytearray: bytes, memoryview: bytes}),
    bytearray: _scalar("bytes", {bytearray}, {bytes: bytearray, memoryview: bytearray}),
    memoryview: _scalar("bytes", {memoryview}, {bytes: memoryview, bytearray: memoryview}),
    datetime.datetime: _scalar(
        "datetime with time zone",
        {datetime.datetime},
        {msgpack.Timestamp: msgpack.Timestamp.to_datetime, str: _aware_from_text},
    ),
    datetime.date: _scalar("date as ISO text", set(), {str: datetime.date.fromisoformat}),
    datetime.time: _scalar("time as ISO text", set(), {str: datetime.time.fromisoformat}),
    datetime.timedelta: _scalar("seconds", set(), {int: _seconds, float: _seconds}),
    uuid.UUID: _scalar("UUID", set(), {str: uuid.UUID, bytes: lambda raw: uuid.UUID(bytes=raw)}),
    decimal.Decimal: _scalar("Decimal as text", set(), {str: decimal.Decimal}),
}
_EXACT_FLOAT = _scalar("float", {float})


def _literal(text: str, values: tuple[Any, ...]) -> Rule:
    # By type as well, for 1 == True == 1.0.
    table: dict[Any, Any] = {}
    for value in values:
        wire = value.value if isinstance(value, enum.Enum) else value
        table[type(wire), wire] = value

    def read(value: Any) -> Any:
        try:
            return table[type(value), value]
        except (KeyError, TypeError):  # TypeError: not hashable
            raise refuse(text, value) from None

    return Rule(text, read, converted=frozenset(wire_type for wire_type, _ in table))


def _enum(text: str, cls: type[enum.Enum]) -> Rule:
    """By value; by name if no member has that value."""
    by_name = dict(cls.__members__)
    by_value = {
        _frozen(member.value): member
        for member in by_name.values()
        if hints.enum_wire_value(member) is member.value
    }
    is_flag = issubclass(cls, enum.Flag)
    has_own_rule = "_missing_" in vars(cls)

    def read(value: Any) -> Any:
        try:
            member = by_value.get(_frozen(value))
        except TypeError:  # not hashable
            raise refuse(expected, value) from None
        if member is None and type(value) is str:
            member = by_name.get(value)
        if member is None:
            member = other_member(value)
        if member is None:
            raise refuse(expected, value)
        return member

    def other_member(value: Any) -> enum.Enum | None:
        """Combined flags, and what the class's own ``_missing_`` makes of the value."""
        try:
            if is_flag:
                combined = cls(value) if type(value) is int else None
                # What becomes of bits that no member has differs between versions of Python.
                return combined if getattr(combined, "value", None) == value else None
            made = cls._missing_(value) if has_own_rule else None
        except ValueError:
            return None
        return made if isinstance(made, cls) else None

    expected = f"{text} ({_some(hints.enum_wire_value(member) for member in by_name.values())})"
    value_types = {type(hints.enum_wire_value(member)) for member in by_name.values()}
    converted = WIRE_TYPES if has_own_rule else frozenset({int, str, list, tuple} | value_types)
    return Rule(text, read, converted=converted)


_SHOWN_MEMBERS = 8


def _frozen(value: Any) -> tuple[Any, ...]:
    """A key that tells 1 from True and 1.0, and takes a list for the tuple it was."""
    if type(value) is list or type(value) is tuple:
        return (tuple, *map(_frozen, value))
    return (type(value), value)


def _some(values: Iterable[Any]) -> str:
    known = list(values)
    rest = ["…"] if len(known) > _SHOWN_MEMBERS else []
    return ", ".join([repr(value) for value in known[:_SHOWN_MEMBERS]] + rest)


# Hints for arrays and maps, each with what makes the value of it.
ARRAYS: dict[Any, Callable[[Iterable[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.deque: collections.deque,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Container: list,
    collections.abc.Reversible: list,
    collections.abc.Iterator: iter,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}

MAPS: dict[Any, Callable[[dict[Any, Any]], Any]] = {
    dict: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
}

_ARRAY_TYPES: frozenset[type] = frozenset({list, tuple})


def _array(text: str, build: Callable[[Iterable[Any]], Any], item: Rule) -> Rule:
    all_fit = _all_fit(item)

    def read(value: Any) -> Any:
        if type(value) not in _ARRAY_TYPES:
            raise refuse(text, value)
        items = value
        # One call in C settles the common case, a list of ints or of strings.
        if not all_fit(value):
            items = _read_items(value, item)
        if type(items) is build:
            return items
        try:
            return build(items)
        except TypeError as error:  # a set of lists
            raise refuse(f"{text} of hashable items", value) from error

    is_free = item.read is None and (build is list or build is tuple)
    same: frozenset[type] = frozenset({build}) if is_free else NO_TYPES  # type: ignore[arg-type]
    return Rule(text, read, same, _ARRAY_TYPES)


def _read_items(values: Iterable[Any], item: Rule) -> list[Any]:
    items: list[Any] = []
    try:
        for value in values:
            items.append(item.take(value))  # noqa: PERF401 (its length is the index in the error)
    except BadValue as bad:
        bad.under(f"[{len(items)}]")
        raise
    return items


def _fixed_array(
    text: str,
    build: Callable[[list[Any]], Any],
    items: list[Rule],
    names: list[str],
    fewest: int,
) -> Rule:
    """An array where each place has its own hint; those from ``fewest`` on may be missing."""
    most = len(items)
    count = str(most) if fewest == most else f"{fewest} to {most}"
    expected = f"{text}, an array of {count}"
    steps = [f"[{name}]" if name.isdigit() else f".{name}" for name in names]

    def read(value: Any) -> Any:
        if type(value) not in _ARRAY_TYPES or not fewest <= len(value) <= most:
            raise refuse(expected, value)
        made: list[Any] = []
        try:
            for part, item in zip(value, items, strict=False):
                made.append(item.take(part))
        except BadValue as bad:
            bad.under(steps[len(made)])
            raise
        return build(made)

    return Rule(text, read, converted=_ARRAY_TYPES)


def _map(text: str, build: Callable[[dict[Any, Any]], Any], key: Rule, item: Rule) -> Rule:
    keys_fit, items_fit = _all_fit(key), _all_fit(item)

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise refuse(text, value)
        if not (keys_fit(value) and items_fit(value.values())):
            value = _read_entries(value, key, item)
        return value if build is dict else build(value)

    is_free = key.read is None and item.read is None and build is dict
    return Rule(text, read, frozenset({dict}) if is_free else NO_TYPES, frozenset({dict}))


def _all_fit(rule: Rule) -> Callable[[Iterable[Any]], bool]:
    """Whether all values are right as they are, asked in C."""
    if rule.read is None:
        return lambda values: True
    unchanged = rule.unchanged
    return lambda values: unchanged.issuperset(map(type, values))


def _read_entries(entries: dict[Any, Any], key_rule: Rule, item_rule: Rule) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for wire_key, wire_item in entries.items():
        try:
            key = key_rule.take(wire_key)
        except BadValue as bad:
            bad.expected = f"a key that is {bad.expected}"
            bad.under(key_step(wire_key))
            raise
        try:
            made[key] = item_rule.take(wire_item)
        except BadValue as bad:
            bad.under(key_step(wire_key))
            raise
    if len(made) != len(entries):
        raise refuse("a map of different keys", entries)
    return made


def _record(text: str, cls: type | None, rules: dict[str, Rule], required: set[str]) -> Rule:
    """A map of field names, made into ``cls`` or left a dict (TypedDict)."""
    rows = [(name, rule.unchanged, rule.read) for name, rule in rules.items()]

    def read(value: Any) -> Any:
        if type(value) is not dict:
            if cls is not None and isinstance(value, cls):  # made by an extension type
                return value
            raise refuse(text, value)
        found = {}
        name = ""
        try:
            # As `Rule.take` does, but a record has many fields, and the call would cost more.
            for name, unchanged, read_field in rows:
                if name in value:
                    item = value[name]
                    if type(item) not in unchanged and read_field is not None:
                        item = read_field(item)
                    found[name] = item
        except BadValue as bad:
            bad.under(f".{name}")
            raise
        if len(found) != len(value):
            raise fault(value)
        if len(found) != len(rows) and not required <= found.keys():
            raise fault(value)
        return found if cls is None else make(cls, found, value)

    def fault(value: dict[Any, Any]) -> BadValue:
        for key in value:
            if key not in rules:
                expected = f"nothing ({text} has only {', '.join(rules) or 'no fields'})"
                return refuse(expected, value[key]).under(key_step(key))
        name = next(name for name in rules if name in required and name not in value)
        return BadValue(rules[name].text, "nothing").under(f".{name}")

    def make(cls: type, found: dict[str, Any], value: Any) -> Any:
        try:
            return cls(**found)
        except BadValue:
            raise
        except ValueError as error:  # the class's own checks, in __post_init__
            raise BadValue(f"a valid {text}", shown(value), (str(error),)) from error

    return Rule(
        text,
        read,
        converted=frozenset({dict}),
        takes_others=cls is not None,
        fields=frozenset(rules),
    )


def _class(text: str, cls: type) -> Rule:
    """Enums and paths, which are whole families; and what an extension type made."""
    if issubclass(cls, enum.Enum):
        return _enum(text, cls)
    if issubclass(cls, pathlib.PurePath):
        return _scalar(f"{text} as text", set(), {str: cls})
    if getattr(cls, "_is_protocol", False) and not getattr(cls, "_is_runtime_protocol", False):
        raise TypeError(
            f"the protocol {text} cannot be checked at run time; "
            f"decorate it with typing.runtime_checkable, or use Any"
        )

    def read(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        raise refuse(text, value)

    fitting = frozenset(wire_type for wire_type in WIRE_TYPES if issubclass(wire_type, cls))
    return Rule(text, read, fitting, takes_others=True)


def _union(text: str, members: list[Rule]) -> Rule:
    """The first member that takes the value. Members are sorted out by wire type beforehand."""
    if any(member.read is None for member in members):
        return _ANY
    by_type = {
        wire_type: [member for member in members if member.takes(wire_type)]
        for wire_type in WIRE_TYPES
    }
    others = [member for member in members if member.takes_others]
    unchanged = frozenset(
        wire_type
        for wire_type, candidates in by_type.items()
        if candidates and wire_type in candidates[0].unchanged
    )

    def read(value: Any) -> Any:
        if type(value) in unchanged:
            return value
        candidates = by_type.get(type(value), others)
        if type(value) is dict and len(candidates) > 1:
            candidates = _by_fields(candidates, value)
        failures = []
        for candidate in candidates:
            try:
                return candidate.read(value)  # type: ignore[misc]
            except BadValue as bad:
                failures.append((candidate, bad))
        raise _union_failure(text, value, failures)

    converted = frozenset(wire_type for wire_type in by_type if by_type[wire_type])
    return Rule(text, read, unchanged, converted, takes_others=bool(others))


def _by_fields(candidates: list[Rule], value: dict[Any, Any]) -> list[Rule]:
    """Records with exactly the value's fields first: all of a record's fields are sent."""
    keys = value.keys()
    return sorted(candidates, key=lambda candidate: candidate.fields != keys)


def _union_failure(text: str, value: Any, failures: list[tuple[Rule, BadValue]]) -> BadValue:
    if len(failures) == 1 and failures[0][1].path:
        return failures[0][1]  # only one member was meant; it knows better what is wrong
    reasons = tuple(f"{candidate.text}: {bad}" for candidate, bad in failures if bad.path)
    return BadValue(text, shown(value), reasons)


def _check_told_apart(members: list[Any]) -> None:
    """Two records with the same fields of the same types would silently pass for each other."""
    seen: dict[Any, Any] = {}
    for member in members:
        origin = typing.get_origin(member) or member
        if not (hints.is_dataclass(origin) or hints.is_typed_dict(origin)):
            continue
        fields = hints.fields(origin, typing.get_args(member))
        shape = frozenset((field.name, hints.text(field.hint)) for field in fields)
        if shape in seen:
            raise TypeError(
                f"{hints.text(seen[shape])} and {hints.text(member)} cannot be told apart in a "
                f"union: both are maps of the same fields. Give each a field with a Literal of its "
                f'own, such as kind: Literal["{hints.text(member).lower()}"]'
            )
        seen[shape] = member
