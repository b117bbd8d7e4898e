"""What generated clients derive from.

A client is a channel and a table of methods. The channel may be any of gRPC's: hvrpc's own, grpcio's
C core, one with interceptors, or the one that carries calls over msgpack-RPC.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

import grpc

from .descriptors import Kind, MethodDescriptor, ServiceDescriptor
from .methods import Method

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    import tenacity
    from google.protobuf.message import Message

    from ..access import Access, Rule
    from ..addresses import Address
    from ..tls import Tls

Protocol = Literal["grpc", "msgpack"]
Options = Sequence[tuple[str, object]]

PROTOCOLS: Final = ("grpc", "msgpack")


def methods_of(client: object, descriptor: ServiceDescriptor, channel: Any) -> dict[str, Method]:
    """A client's methods, each under its names, ready to be called on this channel."""
    bound: dict[str, Method] = {}
    of_class: dict[int, Method] = {}
    for method in descriptor:
        declared = inspect.getattr_static(client, method.python_name)
        of_class[id(declared)] = bound[method.python_name] = declared.bound(
            method, _callee(channel, descriptor, method)
        )
    for cls in type(client).__mro__:
        for name, declared in vars(cls).items():  # the proto's own names are aliases
            if id(declared) in of_class:
                bound.setdefault(name, of_class[id(declared)])
    return bound


def _callee(
    channel: Any, descriptor: ServiceDescriptor, method: MethodDescriptor[Message, Message]
) -> Any:
    """What official stubs get from a channel."""
    make = getattr(channel, method.kind.value)
    return make(
        descriptor.path(method),
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
        _registered_method=True,
    )


class Client:
    """A blocking client. Make it with :meth:`connect`, or of a channel you have.

    Any number of threads may share it.
    """

    descriptor: ClassVar[ServiceDescriptor]

    def __init__(self, channel: grpc.Channel) -> None:
        """Call over this channel; closing the client leaves it open."""
        if not hasattr(channel, Kind.UNARY_UNARY.value):
            raise TypeError(_no_channel(type(self), channel))
        if isinstance(channel, grpc.aio.Channel):
            raise TypeError(
                f"{type(self).__name__} blocks, and {channel!r} is a channel of asyncio:"
                " take the AsyncClient of this service"
            )
        self.channel = channel
        self._is_ours = False
        vars(self).update(methods_of(self, self.descriptor, channel))

    @classmethod
    def connect(
        cls,
        target: Address | str,
        *,
        protocol: Protocol = "grpc",
        credentials: grpc.ChannelCredentials | None = None,
        expect_peer: Access | Rule | Iterable[Rule] | None = None,
        tls: Tls | ssl.SSLContext | None = None,
        retry: tenacity.BaseRetrying | bool | None = None,
        options: Options = (),
    ) -> Self:
        """A client with a channel of its own, which closing it closes.

        The connection is opened by the first call, and again when it was lost. `protocol` is what
        both sides speak: "grpc" or "msgpack". `expect_peer` says who has to be at the other end, by
        the rules of :mod:`hvrpc.access`, and `tls` (a :class:`hvrpc.Tls`) encrypts; over gRPC
        `credentials` can say both instead (`hvrpc.grpc.channel_credentials`). `retry` takes a
        tenacity policy for opening a connection, False for one attempt only. Calls of methods that
        the `.proto` marks as idempotent are repeated when a connection is lost. `options` are those
        of the channel over gRPC, where a message that comes in has 4 MiB at most unless
        `grpc.max_receive_message_length` says otherwise, here and at the server; over msgpack-RPC it
        has 128 MiB.

        Raises :class:`hvrpc.AddressError`, and ValueError for what the protocol does not have.
        """
        from . import connecting

        security = connecting.PeerSecurity(expect_peer, tls)
        client = cls(
            connecting.channel(
                cls.descriptor, target, protocol, credentials, security, retry, options
            )
        )
        client._is_ours = True
        return client

    def close(self) -> None:
        """Close the channel, if :meth:`connect` has made it. May be called twice."""
        if self._is_ours:
            self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.descriptor.name}>"


class AsyncClient:
    """An asyncio client. Make it with :meth:`connect`, or of a channel you have."""

    descriptor: ClassVar[ServiceDescriptor]

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Call over this channel; closing the client leaves it open."""
        if not hasattr(channel, Kind.UNARY_UNARY.value):
            raise TypeError(_no_channel(type(self), channel))
        if not isinstance(channel, grpc.aio.Channel):
            raise TypeError(
                f"{type(self).__name__} is for asyncio, and {channel!r} is a channel that blocks:"
                " take the Client of this service"
            )
        self.channel = channel
        self._is_ours = False
        vars(self).update(methods_of(self, self.descriptor, channel))

    @classmethod
    def connect(
        cls,
        target: Address | str,
        *,
        protocol: Protocol = "grpc",
        credentials: grpc.ChannelCredentials | None = None,
        expect_peer: Access | Rule | Iterable[Rule] | None = None,
        tls: Tls | ssl.SSLContext | None = None,
        retry: tenacity.BaseRetrying | bool | None = None,
        options: Options = (),
    ) -> Self:
        """A client with a channel of its own: `async with XAsyncClient.connect(…) as client:`.

        Not to be awaited: the connection is opened by the first call. See :meth:`Client.connect`.
        """
        from . import connecting

        security = connecting.PeerSecurity(expect_peer, tls)
        client = cls(
            connecting.aio_channel(
                cls.descriptor, target, protocol, credentials, security, retry, options
            )
        )
        client._is_ours = True
        return client

    async def close(self) -> None:
        """Close the channel, if :meth:`connect` has made it. May be called twice."""
        if self._is_ours:
            await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.descriptor.name}>"


def _no_channel(cls: type, given: object) -> str:
    return (
        f"{cls.__name__} takes a channel, and {given!r} is none:"
        f" for an address write {cls.__name__}.connect(…)"
    )
