"""What a service is, as data: its methods, their kinds and types, and what may be done twice."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

RequestT_co = TypeVar("RequestT_co", bound=Message, covariant=True)
ResponseT_co = TypeVar("ResponseT_co", bound=Message, covariant=True)


class Kind(enum.Enum):
    """How many messages go which way. The value is how grpcio calls it."""

    UNARY_UNARY = "unary_unary"
    UNARY_STREAM = "unary_stream"
    STREAM_UNARY = "stream_unary"
    STREAM_STREAM = "stream_stream"

    @property
    def streams_requests(self) -> bool:
        """Whether the client sends any number of messages."""
        return self in (Kind.STREAM_UNARY, Kind.STREAM_STREAM)

    @property
    def streams_responses(self) -> bool:
        """Whether the server sends any number of messages."""
        return self in (Kind.UNARY_STREAM, Kind.STREAM_STREAM)


class Idempotency(enum.Enum):
    """What the `.proto` says of carrying a method out twice (`option idempotency_level`)."""

    UNKNOWN = "nothing is said"
    NO_SIDE_EFFECTS = "it changes nothing"
    IDEMPOTENT = "twice is as good as once"


@dataclass(frozen=True)
class MethodDescriptor(Generic[RequestT_co, ResponseT_co]):
    """One method of a service."""

    name: str
    """As the `.proto` has it: `SayHello`."""
    python_name: str
    """As clients and servicers have it: `say_hello`."""
    kind: Kind
    request: type[RequestT_co]
    response: type[ResponseT_co]
    idempotency: Idempotency = Idempotency.UNKNOWN
    deprecated: bool = False

    @property
    def is_idempotent(self) -> bool:
        """Whether it is repeated when a connection was lost, even if it may have been carried out."""
        return self.idempotency is not Idempotency.UNKNOWN


class ServiceDescriptor:
    """A service and its methods."""

    def __init__(
        self,
        name: str,
        *methods: MethodDescriptor[Message, Message],
        deprecated: bool = False,
    ) -> None:
        self.name = name
        """With its package: `helloworld.Greeter`."""
        self.methods = methods
        self.deprecated = deprecated

    def __getitem__(self, name: str) -> MethodDescriptor[Message, Message]:
        """A method by either of its names. Raises KeyError."""
        for method in self.methods:
            if name in (method.name, method.python_name):
                return method
        raise KeyError(name)

    def __iter__(self) -> Iterator[MethodDescriptor[Message, Message]]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)

    def path(self, method: MethodDescriptor[Message, Message]) -> str:
        """How gRPC calls a method: `/helloworld.Greeter/SayHello`."""
        return f"/{self.name}/{method.name}"

    def __repr__(self) -> str:
        return f"<service {self.name}: {', '.join(method.name for method in self.methods)}>"
