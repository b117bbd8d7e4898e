"""The asyncio channel, with the methods of :class:`grpc.aio.Channel`.

    async with hvrpc.grpc.aio.insecure_channel("hvsock://My VM/50051") as channel:
        await GreeterStub(channel).SayHello(HelloRequest(name="x"), timeout=1)

A call is begun where it is made, without a task of its own: tasks are for calls that have to wait for a
connection.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc import aio

from ... import __version__
from ...addresses import Address
from ...errors import DeadlineExceeded, HvrpcError, OpenFailed, Outcome, SessionClosed
from ...http2 import Fields
from ...session.aio import Connection, Session
from ...session.opening import FIRST_WAIT, LONGEST_WAIT, Policy
from ...session.state import Heartbeat
from ...sockets import DEFAULT_TIMEOUT, Stream
from .. import metadata, timeouts
from ..call_credentials import CallCredentials, where_to
from ..calling import ClientCore
from ..core import settings_for
from ..credentials import INSECURE, of_channel
from ..messages import CLIENT, check_sent
from ..options import ChannelOptions
from ..outcome import CANCELLED, DEADLINE_EXCEEDED, unopened, why_not
from ..service_config import ServiceConfig
from ..status import StatusError
from ..wire import Ending, request_fields
from . import interceptors as intercepting
from .calls import (
    Call,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
    call_later,
)
from .deadlines import Deadlines
from .rpc import Rpc, StreamRpc, UnaryRpc, as_bytes

State = grpc.ChannelConnectivity

USER_AGENT: Final = f"hvrpc/{__version__}"
"""Bytes that HTTP/2 offers for headers at least: those of the protocol itself have to fit."""
GROWTH: Final = 1.6
"""By how much the wait before the next attempt to connect grows, as with grpcio."""

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None
Requests = AsyncIterable[Any] | Iterable[Any] | None


class Channel(aio.Channel):
    """Calls methods at an address. Made by :func:`hvrpc.grpc.aio.insecure_channel`.

    It belongs to the loop on which it is first used.
    """

    def __init__(
        self,
        target: Address | str,
        options: Sequence[tuple[str, Any]] | None = None,
        compression: grpc.Compression | None = None,
        interceptors: Sequence[aio.ClientInterceptor] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        where = Address.parse(target)
        self.address = str(where)
        self.options = ChannelOptions.of(options)
        self.compression = self.options.compression if compression is None else compression
        self.config, self._wrong_config = _read_config(self.options, self.address)
        self.throttle = self.config.throttle
        self.guard = (
            INSECURE
            if credentials is None
            else of_channel(credentials, where, self.options.target_name)
        )
        self.deadlines = Deadlines()
        self.waiting: set[Rpc] = set()
        """Calls that are on no connection yet."""
        self.closed = False
        self.used = False
        """Whether calls were made since somebody last looked."""
        self._interceptors = intercepting.sorted_by_kind(interceptors)
        self._state = State.IDLE
        self._watchers: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failed = ""
        """What went wrong with the last attempt to connect, for calls that wait for a better one."""
        self._opening: asyncio.Task[Connection[ClientCore]] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._authority = self.options.authority or "localhost"
        self._user_agent = " ".join(
            filter(None, (self.options.user_agent, USER_AGENT, self.options.user_agent_after))
        )
        self.session: Session[ClientCore] = Session(
            where,
            self._make_core,
            policy=Policy.of(False, lambda _: self._changed(State.TRANSIENT_FAILURE)),
            security=self.guard.security,
            connect_timeout=self.options.connect_timeout or DEFAULT_TIMEOUT,
            dead_after=self.options.dead_after or Heartbeat.DEAD_AFTER,
            watch_idle=self.options.keepalive_when_idle,
        )

    def _make_core(self, stream: Stream) -> ClientCore:
        # The loop holds the connection, and with it the core, which therefore does not hold this.
        channel: weakref.ref[Channel] = weakref.ref(self)
        loop = asyncio.get_running_loop()
        core = ClientCore(
            settings_for(self.options.most_metadata),
            address=self.address,
            pings_anyway=self.options.keepalive_time is not None,
            on_end=lambda core: _idle(channel, core),
            on_goaway=lambda core: loop.call_soon(_draining, channel, core),
        )
        core.peer = stream.peer
        return core

    # --- Connections -----------------------------------------------------------------------------

    async def connected(self, *, wait_for_ready: bool) -> Connection[ClientCore]:
        """A connection that is up. Opens one if there is none; once, or until there is one.

        Calls that come while it is being opened share the attempt, and its failure.
        """
        pauses = self._pauses()
        while True:
            self._check_open()
            connection = self.session.ready()
            if connection is not None:
                return connection
            try:
                return await asyncio.shield(self._open())
            except OpenFailed as failure:
                self._failed = why_not(failure)
                if not wait_for_ready:
                    raise
            await asyncio.sleep(next(pauses))

    def late(self) -> DeadlineExceeded | None:
        """The failure of a call whose time was over before there was a connection; None if it is only slow."""
        return unopened(self.address, self._failed) if self._failed else None

    def _pauses(self) -> Iterator[float]:
        """Seconds between attempts to connect."""
        pause = self.options.first_backoff or FIRST_WAIT
        while True:
            yield pause
            pause = min(pause * GROWTH, self.options.most_backoff or LONGEST_WAIT)

    def _open(self) -> asyncio.Task[Connection[ClientCore]]:
        opening = self._opening
        if opening is None or opening.done():
            loop = asyncio.get_running_loop()
            self.check_loop(loop)
            self._changed(State.CONNECTING)
            opening = loop.create_task(self._connect())
            opening.add_done_callback(_look_at)
            self._opening = opening
        return opening

    async def _connect(self) -> Connection[ClientCore]:
        connection = await self.session.connection(None)
        self._failed = ""
        channel: weakref.ref[Channel] = weakref.ref(self)
        core = connection.core
        # It may have ended, or be about to, just after it had begun: nobody was told, then.
        if connection.ended:
            self._changed(State.IDLE)
        elif core.draining:
            _draining(channel, core)
        else:
            self._changed(State.READY)
            idle = self.options.idle_timeout
            if idle is not None:
                asyncio.get_running_loop().call_later(idle, _close_idle, channel, core, idle)
        return connection

    def _check_open(self) -> None:
        if self.closed:
            raise SessionClosed(
                "the channel is closed", address=self.address, outcome=Outcome.NOT_SENT
            )

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        if state is self._state or self._state is State.SHUTDOWN:
            return
        self._state = state
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection; `try_to_connect` has one opened if there is none."""
        if try_to_connect and not self.closed and self.session.ready() is None:
            connecting = self._connecting
            if connecting is None or connecting.done():
                loop = asyncio.get_running_loop()
                self.check_loop(loop)
                self._connecting = loop.create_task(self._keep_connecting())
        return self._state

    async def _keep_connecting(self) -> None:
        """Until there is a connection, or the channel is closed."""
        pauses = self._pauses()
        while not self.closed:
            try:
                await self.connected(wait_for_ready=True)
                return
            except HvrpcError:  # one that calls do not wait for: the other side refuses, say
                await asyncio.sleep(next(pauses))

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another than this."""
        while self._state is last_observed_state:
            if self.closed:
                raise aio.UsageError("Channel is closed.")
            loop = asyncio.get_running_loop()
            self.check_loop(loop)
            watcher: asyncio.Future[None] = loop.create_future()
            self._watchers.add(watcher)
            try:
                await watcher
            finally:
                self._watchers.discard(watcher)

    async def channel_ready(self) -> None:
        """Wait until there is a connection, however long that takes."""
        state = self.get_state(try_to_connect=True)
        while state is not State.READY:
            await self.wait_for_state_change(state)
            state = self.get_state(try_to_connect=True)

    # --- The end -------------------------------------------------------------------------------

    async def close(self, grace: float | None = None) -> None:
        """Let calls go on for `grace` seconds, end those that are left as cancelled, and close.

        Called again meanwhile, with less grace say, it ends sooner.
        """
        if self._state is State.SHUTDOWN:
            return
        if self._loop is not None and self._loop.is_closed():  # and all that was on it
            self.closed = True
            self._changed(State.SHUTDOWN)
            return
        self.check_loop(asyncio.get_running_loop())
        self.closed = True
        calls = self._calls()
        if grace and calls:
            waits = [asyncio.ensure_future(call.until_over()) for call in calls]
            try:
                await asyncio.wait(waits, timeout=grace)
            finally:
                for wait in waits:
                    wait.cancel()
        beginning = [call.task for call in self.waiting if call.task is not None]
        for call in self._calls():
            call.cancel(CANCELLED)
        if self._connecting is not None:
            self._connecting.cancel()
        await self.session.close(0)
        opening = [task for task in (self._opening, self._connecting) if task is not None]
        if beginning or opening:
            await asyncio.wait([*beginning, *opening])
        self.deadlines.close()
        self._changed(State.SHUTDOWN)

    def _calls(self) -> list[Rpc]:
        """Those that are not over."""
        found: list[Any] = list(self.waiting)
        for connection in self.session.connections():
            found += connection.core.calls()
        return [call for call in found if not call.over]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        """Nobody can make calls on it any more."""
        try:
            current, loop = self.session.current, self._loop
        except AttributeError:  # half made
            return
        if self._state is not State.SHUTDOWN and current is not None and loop is not None:
            call_later(loop, _close, current)

    def __repr__(self) -> str:
        return f"<gRPC channel to {self.address}, {'closed' if self.closed else 'open'}>"

    # --- Methods ---------------------------------------------------------------------------------

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary:
        """A method with one request and one response."""
        return UnaryUnary(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream:
        """A method with one request and a stream of responses."""
        return UnaryStream(self, method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamUnary:
        """A method with a stream of requests and one response."""
        return StreamUnary(self, method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamStream:
        """A method with a stream of requests and one of responses."""
        return StreamStream(self, method, request_serializer, response_deserializer)

    def fields_of(self, path: str, compression: grpc.Compression) -> Fields:
        """What opens the calls of a method."""
        return request_fields(path, self._authority, self._user_agent, compression)

    def check_usable(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise unless calls can be made on this loop."""
        if self.closed:
            raise aio.UsageError("Channel is closed.")
        if loop is not self._loop:
            self.check_loop(loop)

    def check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise unless this is the channel's own loop, which the first one becomes."""
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop:
            raise RuntimeError(
                f"the channel to {self.address} belongs to another event loop:"
                " make one for each, on which it is closed as well"
            )


def _read_config(options: ChannelOptions, address: str) -> tuple[ServiceConfig, Ending | None]:
    """The service config, and how every call ends if it cannot be read."""
    try:
        return ServiceConfig.of(options.service_config), None
    except StatusError as error:
        details = f"Failed to create channel to '{address}':{error.details}"
        return ServiceConfig(), Ending(error.code, details)


def _draining(channel: weakref.ref[Channel], core: ClientCore) -> None:
    """The server takes no more calls on a connection: the next one is opened when it is needed."""
    alive = channel()
    if alive is not None:
        for connection in alive.session.connections():
            if connection.core is core:
                _idle(channel, core)
                alive.session.retire(connection)


def _close_idle(channel: weakref.ref[Channel], core: ClientCore, idle: float) -> None:
    """Close a connection on which no calls were made in the meantime."""
    alive = channel()
    current = None if alive is None else alive.session.current
    if alive is None or current is None or current.core is not core or current.ended:
        return
    if alive.used or core.busy:
        alive.used = False
        asyncio.get_running_loop().call_later(idle, _close_idle, channel, core, idle)
        return
    alive._changed(State.IDLE)
    alive.session.let_go(current)


def _idle(channel: weakref.ref[Channel], core: ClientCore) -> None:
    """Tell a channel, if it is still there, that a connection, if it is its own, takes no more calls."""
    alive = channel()
    current = None if alive is None else alive.session.current
    if alive is not None and current is not None and current.core is core:
        alive._changed(State.IDLE)


def _close(connection: Connection[ClientCore]) -> None:
    """Close a connection that nobody has any more, whether the other side does the same or not."""
    _closing.add(task := asyncio.get_running_loop().create_task(connection.close()))
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()


def _look_at(task: asyncio.Task[Any]) -> None:
    """Nobody may be left who waits for it; its failure is no news then."""
    if not task.cancelled():
        task.exception()


# --- Methods of the other side --------------------------------------------------------------------


class Method:
    """One method of the other side. What its four kinds have in common."""

    kind = ""

    def __init__(
        self,
        channel: Channel,
        path: str | bytes,
        serialize: Serializer,
        deserialize: Deserializer,
    ) -> None:
        self.channel = channel
        self.path = path.decode() if isinstance(path, bytes) else path
        self.serialize = serialize
        self.deserialize = deserialize
        self.compression = channel.compression
        self.fields = channel.fields_of(self.path, channel.compression)
        config = channel.config.method(self.path)
        self.wait_for_ready = bool(config.wait_for_ready)
        self.most_received = min(channel.options.most_received, config.most_received)
        self._most_sent = min(channel.options.most_sent, config.most_sent)
        self._timeout = config.timeout
        self.retry = config.retry if channel.options.retries else None
        self._interceptors = channel._interceptors[self.kind]
        self._calls = channel.guard.calls or None

    def payload(self, request: Any) -> bytes:
        """A request as bytes. Raises :class:`StatusError` if it cannot be sent."""
        serialize = self.serialize
        if serialize is not None:
            try:
                request = serialize(request)
            except Exception as error:
                raise StatusError(
                    grpc.StatusCode.INTERNAL, "Exception serializing request!"
                ) from error
        payload = as_bytes(request)
        if len(payload) > self._most_sent:
            check_sent(len(payload), self._most_sent, CLIENT)
        return payload

    def settle(
        self,
        rpc: Rpc,
        timeout: float | None,
        given: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Ending | None:
        """Note what was asked for besides the usual. What is returned ends the call at once."""
        channel = self.channel
        if self._timeout is not None:
            timeout = self._timeout if timeout is None else min(timeout, self._timeout)
        if timeout is not None:
            rpc.deadline = time.monotonic() + timeout
            if timeout <= 0:
                # Or a quick server might still be quicker than the loop's own look at the clock.
                return DEADLINE_EXCEEDED
            channel.deadlines.add(rpc, timeout, rpc.loop)
            rpc.extra = ((b"grpc-timeout", timeouts.encode(timeout)),)
        if wait_for_ready is not None:
            rpc.wait_for_ready = wait_for_ready
        if compression is not None and compression is not self.compression:
            rpc.compression = grpc.Compression(compression)
            rpc.fields = channel.fields_of(self.path, rpc.compression)
        if given:
            try:
                rpc.extra += metadata.to_fields(given)
            except StatusError as error:
                return Ending(error.code, error.details)
        if credentials is not None or self._calls is not None:
            try:
                self._vouch(rpc, channel.guard.with_(credentials))
            except StatusError as error:
                return Ending(error.code, error.details)
        return channel._wrong_config

    def _vouch(self, rpc: Rpc, calls: CallCredentials) -> None:
        """Add what call credentials have to add; what takes a while is left to the call."""
        where = where_to(self.channel._authority, self.path)
        if calls.answer_at_once:
            rpc.extra += calls.begin(*where).fields(None)
        else:
            rpc.vouching = partial(calls.fields_async, *where)

    def start(self, call: Call, rpc: Rpc, request: Any, problem: Ending | None) -> None:
        """Begin a call with one request."""
        if problem is None:
            try:
                rpc.request = self.payload(request)
            except StatusError as error:
                problem = Ending(error.code, error.details)
                call._cause = error.__cause__
        if problem is None:
            rpc.begin()
        else:
            rpc.end_by(problem)

    def renamed(self, path: str) -> Any:
        """Another method of the same kind and with the same messages."""
        return type(self)(self.channel, path, self.serialize, self.deserialize)

    def __repr__(self) -> str:
        return f"<method {self.path} at {self.channel.address}>"


class UnaryUnary(Method, aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A method with one request and one response."""

    kind = intercepting.UNARY_UNARY

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Call it. The response is what awaiting the call gives."""
        if self._interceptors:
            return intercepting.UnaryUnaryCall(
                self, request, timeout, metadata, credentials, wait_for_ready, compression
            )
        return self.call(request, timeout, metadata, credentials, wait_for_ready, compression)

    def call(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> UnaryUnaryCall:
        """The call itself, past the interceptors."""
        loop = asyncio.get_running_loop()
        self.channel.check_usable(loop)
        rpc = UnaryRpc(self, loop)
        call = UnaryUnaryCall(self, rpc)
        problem = self.settle(rpc, timeout, metadata, credentials, wait_for_ready, compression)
        self.start(call, rpc, request, problem)
        return call


class UnaryStream(Method, aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """A method with one request and a stream of responses."""

    kind = intercepting.UNARY_STREAM

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Call it, and iterate over the responses as they come."""
        if self._interceptors:
            return intercepting.UnaryStreamCall(
                self, request, timeout, metadata, credentials, wait_for_ready, compression
            )
        return self.call(request, timeout, metadata, credentials, wait_for_ready, compression)

    def call(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> UnaryStreamCall:
        """The call itself, past the interceptors."""
        loop = asyncio.get_running_loop()
        self.channel.check_usable(loop)
        rpc = StreamRpc(self, loop)
        call = UnaryStreamCall(self, rpc)
        problem = self.settle(rpc, timeout, metadata, credentials, wait_for_ready, compression)
        self.start(call, rpc, request, problem)
        return call


class StreamUnary(Method, aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A method with a stream of requests and one response."""

    kind = intercepting.STREAM_UNARY

    def __call__(
        self,
        request_iterator: Requests = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Call it, with an iterator of requests, or `write` them to the call."""
        if self._interceptors:
            return intercepting.StreamUnaryCall(
                self, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
            )
        return self.call(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

    def call(
        self,
        requests: Requests,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> StreamUnaryCall:
        """The call itself, past the interceptors."""
        loop = asyncio.get_running_loop()
        self.channel.check_usable(loop)
        rpc = UnaryRpc(self, loop)
        call = StreamUnaryCall(self, rpc)
        problem = self.settle(rpc, timeout, metadata, credentials, wait_for_ready, compression)
        call._begin(requests, problem)
        return call


class StreamStream(Method, aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """A method with a stream of requests and one of responses."""

    kind = intercepting.STREAM_STREAM

    def __call__(
        self,
        request_iterator: Requests = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Call it, with an iterator of requests or by `write`; responses come as with the others."""
        if self._interceptors:
            return intercepting.StreamStreamCall(
                self, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
            )
        return self.call(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

    def call(
        self,
        requests: Requests,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> StreamStreamCall:
        """The call itself, past the interceptors."""
        loop = asyncio.get_running_loop()
        self.channel.check_usable(loop)
        rpc = StreamRpc(self, loop)
        call = StreamStreamCall(self, rpc)
        problem = self.settle(rpc, timeout, metadata, credentials, wait_for_ready, compression)
        call._begin(requests, problem)
        return call
