"""What people type, made into protobuf messages. No I/O but the files that they name."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from .proto_text import is_repeated
from .schema import request_class
from .words import Word, Words, messages_in

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

    from .schema import Schema


def requests(schema: Schema, method: MethodDescriptor, words: Words) -> Iterator[Message]:
    """The messages to send: one of all `NAME=VALUE`, or one for each JSON value that is given."""
    if words.named:
        if words.positional:
            raise click.UsageError(
                f"give the message as JSON or as NAME=VALUE, not both: {words.positional[0].text}"
            )
        yield _message(schema, method, fields(method.input_type, words.named))
    elif not words.positional and not method.client_streaming:
        yield request_class(method)()
    for word in words.positional:
        for value in _values(word):
            yield _message(schema, method, value)


def _values(word: Word) -> Iterator[Any]:
    if word.text.startswith("@"):
        yield from messages_in(word.text[1:])
    else:
        yield word.value()


def _message(schema: Schema, method: MethodDescriptor, value: Any) -> Message:
    wanted = method.input_type.full_name
    try:
        return json_format.ParseDict(value, request_class(method)(), descriptor_pool=schema.pool)
    except json_format.ParseError as error:
        if isinstance(value, str):
            raise click.UsageError(_no_json(value)) from error
        raise click.UsageError(f"this is no {wanted}: {error}") from error
    except (AttributeError, TypeError) as error:  # a value that is no object at all
        raise click.UsageError(f"this is no {wanted}: {value!r}") from error


def _no_json(text: str) -> str:
    """What is wrong with a word that was to be a message, and that is mere text."""
    if not text.startswith(("{", "[")):
        return f"this is neither NAME=VALUE nor JSON: {text}"
    try:
        json.loads(text)
    except ValueError as error:
        return f"this is not JSON ({error}), or the shell has taken its quotes: {text}"
    return f"this is no message: {text}"


def fields(message: Descriptor, named: list[tuple[str, Word]]) -> dict[str, Any]:
    """`user.name=web tag=a tag=b` as the JSON that protobuf understands."""
    result: dict[str, Any] = {}
    for name, word in named:
        _put(message, result, name.split("."), word, name)
    return result


def _put(
    message: Descriptor, into: dict[str, Any], path: list[str], word: Word, whole: str
) -> None:
    name, *rest = path
    field = message.fields_by_name.get(name) or message.fields_by_camelcase_name.get(name)
    if field is None:
        known = ", ".join(message.fields_by_name) or "none"
        raise click.UsageError(f"{message.full_name} has no field {name}; it has: {known}")
    if not rest:
        _set(field, into, name, word)
    elif field.message_type is None:
        raise click.UsageError(f"{whole}: {name} is no message, and has no fields")
    elif field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        into.setdefault(name, {})[".".join(rest)] = _value(entry, word)
    elif is_repeated(field):
        raise click.UsageError(f"{whole}: {name} is a list; write it as JSON: {name}='[{{…}}]'")
    else:
        _put(field.message_type, into.setdefault(name, {}), rest, word, whole)


def _set(field: FieldDescriptor, into: dict[str, Any], name: str, word: Word) -> None:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if not is_repeated(field) or is_map:
        if name in into:
            raise click.UsageError(f"{name} is given twice, and is no list")
        into[name] = _value(field, word)
        return
    value = word.value() if word.text.startswith("[") else _value(field, word)
    into.setdefault(name, []).extend(value if isinstance(value, list) else [value])


def _value(field: FieldDescriptor, word: Word) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return word.value("str")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(word.value("bytes")).decode("ascii")
    return word.value()
