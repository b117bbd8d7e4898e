"""Descriptors in, records out. Raises :class:`CodegenError` for what has no form in Python."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodOptions,
    SourceCodeInfo,
)

from . import names
from .errors import CodegenError, Problem
from .records import Field, File, Method, Request, Service, Type

_SERVICE: Final = FileDescriptorProto.SERVICE_FIELD_NUMBER
_METHOD: Final = 2  # ServiceDescriptorProto.method

_PROTO: Final = FieldDescriptorProto
_SCALARS: Final = {
    **dict.fromkeys((_PROTO.TYPE_DOUBLE, _PROTO.TYPE_FLOAT), "float"),
    **dict.fromkeys(
        (
            _PROTO.TYPE_INT32,
            _PROTO.TYPE_INT64,
            _PROTO.TYPE_UINT32,
            _PROTO.TYPE_UINT64,
            _PROTO.TYPE_SINT32,
            _PROTO.TYPE_SINT64,
            _PROTO.TYPE_FIXED32,
            _PROTO.TYPE_FIXED64,
            _PROTO.TYPE_SFIXED32,
            _PROTO.TYPE_SFIXED64,
        ),
        "int",
    ),
    _PROTO.TYPE_BOOL: "bool",
    _PROTO.TYPE_STRING: "str",
    _PROTO.TYPE_BYTES: "bytes",
}

CLASSES: Final = ("Client", "AsyncClient", "Servicer", "AsyncServicer", "Descriptor")
"""What follows a service's name in what is generated for it."""


class _Known(NamedTuple):
    type: Type
    message: DescriptorProto | None
    """None: an enum."""


class Schema:
    """All files of a run, for looking up types."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self.files = {file.name: file for file in files}
        self._types = {
            f".{known.type.full_name}": known
            for file in self.files.values()
            for known in _types_of(file)
        }

    def message(self, name: str) -> _Known:
        return self._types[name]

    def read(self, name: str) -> File:
        """The records of one file."""
        return _Reader(self, self.files[name]).file()


def _types_of(file: FileDescriptorProto) -> Iterator[_Known]:
    prefix = f"{file.package}." if file.package else ""
    yield from _nested(file.name, prefix, "", file.message_type, file.enum_type)


def _nested(
    file: str,
    prefix: str,
    outer: str,
    messages: Iterable[DescriptorProto],
    enums: Iterable[EnumDescriptorProto],
) -> Iterator[_Known]:
    for enum in enums:
        name = f"{outer}{enum.name}"
        yield _Known(Type(f"{prefix}{name}", name, file), None)
    for message in messages:
        name = f"{outer}{message.name}"
        yield _Known(Type(f"{prefix}{name}", name, file), message)
        yield from _nested(file, prefix, f"{name}.", message.nested_type, message.enum_type)


class _Reader:
    def __init__(self, schema: Schema, file: FileDescriptorProto) -> None:
        self._schema = schema
        self._file = file
        self._places: Mapping[tuple[int, ...], SourceCodeInfo.Location] = {
            tuple(location.path): location for location in file.source_code_info.location
        }
        self._problems: list[Problem] = []

    def file(self) -> File:
        services = tuple(self._service(number) for number in range(len(self._file.service)))
        self._find_clashes(services)
        if self._problems:
            raise CodegenError(*self._problems)
        requests: dict[str, Request] = {}
        for service in services:
            for method in service.methods:
                if not method.streams_requests:
                    requests.setdefault(method.request.full_name, self._request(method.request))
        return File(self._file.name, services, tuple(requests.values()))

    def _service(self, number: int) -> Service:
        service = self._file.service[number]
        prefix = f"{self._file.package}." if self._file.package else ""
        return Service(
            name=service.name,
            full_name=f"{prefix}{service.name}",
            methods=tuple(self._method(number, each) for each in range(len(service.method))),
            deprecated=service.options.deprecated,
            comment=self._comment(_SERVICE, number),
        )

    def _method(self, service: int, number: int) -> Method:
        method = self._file.service[service].method[number]
        place = (_SERVICE, service, _METHOD, number)
        level = method.options.idempotency_level
        return Method(
            name=method.name,
            python_name=names.method_name(method.name),
            alias=names.alias_of(method.name),
            request=self._message(method.input_type, place),
            response=self._message(method.output_type, place),
            streams_requests=method.client_streaming,
            streams_responses=method.server_streaming,
            idempotency=MethodOptions.IdempotencyLevel.Name(level),
            deprecated=method.options.deprecated,
            comment=self._comment(*place),
        )

    def _message(self, name: str, place: tuple[int, ...]) -> Type:
        type_ = self._schema.message(name).type
        for part in type_.name.split("."):
            if keyword.iskeyword(part):
                self._complain(
                    place,
                    f"the message {type_.full_name} cannot be named in Python, where {part!r} is"
                    " a keyword",
                    "rename it, or wrap it in a message of another name",
                )
        module = names.module_of(type_.file)
        if not names.is_importable(module):
            self._complain(
                place,
                f"{type_.full_name} would be in the module {module}, which Python cannot import",
                f"rename {type_.file}: its path becomes the module's name",
            )
        return type_

    def _request(self, type_: Type) -> Request:
        message = self._schema.message(f".{type_.full_name}").message
        assert message is not None
        fields = [field for each in message.field if (field := self._field(each)) is not None]
        verbatim = {field.name for field in fields}
        # `from` and `from_` in one message: the keyword is that of the latter.
        given = tuple(
            field
            for field in fields
            if field.keyword == field.name or field.keyword not in verbatim
        )
        hidden = tuple(each.name for each in message.field if each.name in names.OPTIONS)
        return Request(type_, given, hidden)

    def _field(self, field: FieldDescriptorProto) -> Field | None:
        name = field.name
        if field.type == _PROTO.TYPE_GROUP:
            name = name.lower()
        keyword_ = names.keyword_name(name)
        if keyword_ is None:
            return None
        repeated = field.label == _PROTO.LABEL_REPEATED
        if field.type in _SCALARS:
            return Field(name, keyword_, _SCALARS[field.type], is_repeated=repeated)
        known = self._schema.message(field.type_name)
        if known.message is None:
            return Field(name, keyword_, known.type, is_enum=True, is_repeated=repeated)
        if known.message.options.map_entry:
            key, value = known.message.field
            inner = self._field(value)
            assert inner is not None
            return Field(
                name, keyword_, inner.single, is_enum=inner.is_enum, key=_SCALARS[key.type]
            )
        return Field(name, keyword_, known.type, is_repeated=repeated)

    # --- Comments and places ---------------------------------------------------------------------

    def _comment(self, *path: int) -> str:
        """What stands above it in the file, or else behind it on its line."""
        place = self._places.get(path)
        if place is None:
            return ""
        text = place.leading_comments or place.trailing_comments
        lines = [line.removeprefix(" ").rstrip() for line in text.splitlines()]
        return "\n".join(lines).strip()

    def _complain(self, path: tuple[int, ...], what: str, how: str) -> None:
        place = self._places.get(path)
        line, column = (place.span[0] + 1, place.span[1] + 1) if place else (None, None)
        self._problems.append(Problem(self._file.name, what, how, line, column))

    # --- Clashes ---------------------------------------------------------------------------------

    def _find_clashes(self, services: tuple[Service, ...]) -> None:
        classes: dict[str, str] = {}
        for number, service in enumerate(services):
            for suffix in CLASSES:
                name = f"{service.name}{suffix}"
                other = classes.setdefault(name, service.name)
                if other != service.name:
                    self._complain(
                        (_SERVICE, number),
                        f"the services {other} and {service.name} would both have a class {name}",
                        "rename one of them, or put it into a file of its own",
                    )
            self._find_clashing_methods(number, service)

    def _find_clashing_methods(self, number: int, service: Service) -> None:
        attributes: dict[str, str] = {}
        for each, method in enumerate(service.methods):
            for name in filter(None, (method.python_name, method.alias)):
                other = attributes.setdefault(name, method.name)
                if other != method.name:
                    self._complain(
                        (_SERVICE, number, _METHOD, each),
                        f"{service.name}.{other} and {service.name}.{method.name} would both be"
                        f" called {name} in Python",
                        "rename one of them",
                    )
