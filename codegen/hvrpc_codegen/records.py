"""What the writer has to know of a `.proto`, as plain records: no descriptor goes further than this."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Type:
    """A message or an enum, and where Python finds it."""

    full_name: str
    """`helloworld.HelloRequest`"""
    name: str
    """Its name inside its module: `HelloRequest`, `Outer.Inner`."""
    file: str
    """The `.proto` that defines it."""


@dataclass(frozen=True)
class Field:
    """A field that can be given as keyword of a call."""

    name: str
    keyword: str
    single: str | Type
    """Python's name of a scalar, or the type of a message or an enum."""
    is_enum: bool = False
    is_repeated: bool = False
    key: str | None = None
    """Of a map: Python's name of its keys."""


@dataclass(frozen=True)
class Request:
    """A message that calls take, with its fields."""

    type: Type
    fields: tuple[Field, ...]
    hidden: tuple[str, ...] = ()
    """Fields that cannot be keywords."""


@dataclass(frozen=True)
class Method:
    """One method of a service."""

    name: str
    python_name: str
    alias: str | None
    request: Type
    response: Type
    streams_requests: bool
    streams_responses: bool
    idempotency: str
    """As descriptor.proto names it: `IDEMPOTENCY_UNKNOWN`, `NO_SIDE_EFFECTS`, `IDEMPOTENT`."""
    deprecated: bool
    comment: str


@dataclass(frozen=True)
class Service:
    """One service."""

    name: str
    full_name: str
    methods: tuple[Method, ...]
    deprecated: bool
    comment: str


@dataclass(frozen=True)
class File:
    """One `.proto` that has services."""

    name: str
    services: tuple[Service, ...]
    requests: tuple[Request, ...]
    """Of methods that take a single message, each once, in their order."""
