"""Descriptors as the .proto text that people know them by. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from google.protobuf.descriptor import (
        Descriptor,
        EnumDescriptor,
        MethodDescriptor,
        ServiceDescriptor,
    )

TYPES: Final = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in vars(FieldDescriptor)
    if name.startswith("TYPE_")
}


def service_text(service: ServiceDescriptor) -> str:
    lines = [f"  {method_text(each)}" for each in service.methods]
    return "\n".join([f"service {service.full_name} {{", *lines, "}"])


def method_text(method: MethodDescriptor) -> str:
    takes = ("stream " if method.client_streaming else "") + method.input_type.full_name
    gives = ("stream " if method.server_streaming else "") + method.output_type.full_name
    return f"rpc {method.name}({takes}) returns ({gives});"


def message_text(message: Descriptor) -> str:
    return "\n".join([f"message {message.full_name} {{", *_indented(_body(message)), "}"])


def enum_text(enum: EnumDescriptor) -> str:
    return "\n".join(_enum(enum, enum.full_name))


def _body(message: Descriptor) -> Iterator[str]:
    told: set[str] = set()
    for field in message.fields:
        oneof = _real_oneof(field)
        if oneof is None:
            yield f"{_field(field)};"
        elif oneof.name not in told:
            told.add(oneof.name)
            yield f"oneof {oneof.name} {{"
            yield from (f"  {_field(each)};" for each in oneof.fields)
            yield "}"
    for enum in message.enum_types:
        yield from _enum(enum, enum.name)
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield f"message {nested.name} {{"
            yield from _indented(_body(nested))
            yield "}"


def _enum(enum: EnumDescriptor, name: str) -> Iterator[str]:
    yield f"enum {name} {{"
    yield from (f"  {value.name} = {value.number};" for value in enum.values)
    yield "}"


def _real_oneof(field: FieldDescriptor) -> Any:
    """The oneof that the author wrote: `optional` fields have one that only protoc knows of."""
    oneof = field.containing_oneof
    if oneof is None or (len(oneof.fields) == 1 and oneof.name == f"_{field.name}"):
        return None
    return oneof


def _field(field: FieldDescriptor) -> str:
    number = f" = {field.number}"
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key, value = (_type(entry.fields_by_name[name]) for name in ("key", "value"))
        return f"map<{key}, {value}> {field.name}{number}"
    label = "repeated " if is_repeated(field) else ""
    if not label and field.containing_oneof is not None and _real_oneof(field) is None:
        label = "optional "
    return f"{label}{_type(field)} {field.name}{number}"


def is_repeated(field: FieldDescriptor) -> bool:
    """Older releases of protobuf know a label, newer ones a property only."""
    known: Any = field
    if hasattr(known, "is_repeated"):
        return bool(known.is_repeated)
    return bool(known.label == known.LABEL_REPEATED)


def _type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.full_name)
    if field.enum_type is not None:
        return str(field.enum_type.full_name)
    return TYPES[field.type]


def _indented(lines: Iterator[str]) -> list[str]:
    return [f"  {line}" for line in lines]
