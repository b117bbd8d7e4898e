"""The blocking channel, with the methods of :class:`grpc.Channel`.

    with hvrpc.grpc.insecure_channel("hvsock://My VM/50051") as channel:
        GreeterStub(channel).SayHello(HelloRequest(name="x"), timeout=1)

A blocking call with one request and one response, which nearly all are, is made here, on the caller's
thread and by it alone. All other calls are objects that live on: `rpc.py`.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import grpc

from .. import __version__
from ..access import Peer
from ..addresses import Address
from ..errors import Attempt, DeadlineExceeded, HvrpcError, OpenFailed
from ..http2 import Fields
from ..session.opening import FIRST_WAIT, LONGEST_WAIT, Policy
from ..session.repeating import may_have_run, untaken
from ..session.state import Heartbeat
from ..session.threads import Connection, Session
from ..session.threads.rounds import rounds
from ..sockets import DEFAULT_TIMEOUT, Stream
from . import metadata, timeouts
from .call_credentials import Pending
from .calling import ClientCall, ClientCore
from .connectivity import Connectivity, State
from .core import settings_for
from .credentials import INSECURE, of_channel
from .messages import CLIENT, check_sent, compress, pack
from .options import ChannelOptions
from .outcome import (
    CANCELLED,
    CHANNEL_CLOSED,
    DEADLINE_EXCEEDED,
    NO_RESPONSE,
    CallInfo,
    RpcError,
    ending_of_failure,
    failed,
    unopened,
    why_not,
)
from .rpc import StreamResponse, UnaryResponse
from .service_config import PUSHBACK, Retrying, ServiceConfig
from .status import StatusError
from .wire import PLAIN, Ending, request_fields

USER_AGENT: Final = f"hvrpc/{__version__}"
GIVEN_UP_WITHIN: Final = 0.05
"""Seconds after which one who waits to make a call again sees that another thread has cancelled it."""
PREVIOUS_ATTEMPTS: Final = b"grpc-previous-rpc-attempts"

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None


class Channel(grpc.Channel):
    """Calls methods at an address. Made by :func:`hvrpc.grpc.insecure_channel`."""

    def __init__(
        self,
        target: Address | str,
        options: Sequence[tuple[str, Any]] | None = None,
        compression: grpc.Compression | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        where = Address.parse(target)
        self.address = str(where)
        self.options = ChannelOptions.of(options)
        self.compression = self.options.compression if compression is None else compression
        self.config = ServiceConfig()
        self.misconfigured: StatusError | None = None
        """What every call ends with because of a service config that cannot be read."""
        try:
            self.config = ServiceConfig.of(self.options.service_config)
        except StatusError as error:
            self.misconfigured = error
        self.is_plain = (
            not self.config.methods and self.config.throttle is None and self.misconfigured is None
        )
        """Whether no service config has anything to say."""
        self.guard = (
            INSECURE
            if credentials is None
            else of_channel(credentials, where, self.options.target_name)
        )
        self._connecting: threading.Thread | None = None
        self._failed = ""
        """What went wrong with the last attempt to connect, for calls that wait for a better one."""
        self._rests = 0
        """Visits in a row that found no connection."""
        self._authority = self.options.authority or "localhost"
        self._user_agent = " ".join(
            filter(None, (self.options.user_agent, USER_AGENT, self.options.user_agent_after))
        )
        self._link = link = Link(self)
        self.connectivity = link.connectivity
        self.closing = link.closing
        self.session: Session[ClientCore] = Session(
            where,
            link.make_core,
            policy=Policy.of(False, link.attempt_failed),
            security=self.guard.security,
            connect_timeout=self.options.connect_timeout or DEFAULT_TIMEOUT,
            dead_after=self.options.dead_after or Heartbeat.DEAD_AFTER,
            watch_idle=self.options.keepalive_when_idle,
        )
        # A stub keeps its channel; when nobody keeps either, the connection is closed. Not here: garbage
        # may be collected while a lock is held that closing needs.
        weakref.finalize(self, rounds.leave, partial(link.shut, self.session)).atexit = False

    def visit(self) -> None:
        """Take in what has come while no call waited; see `hvrpc/session/threads/rounds.py`."""
        session = self.session
        connections = session.connections()
        idle = self.options.idle_timeout
        for connection in connections:
            core = connection.core
            if core.forsaken:
                core.end_forsaken(CANCELLED)
            connection.push()  # what the socket did not take when it was queued, too
            connection.refresh()
            if connection.ended:
                continue
            if core.draining:
                session.retire(connection)
            elif (
                idle is not None and not core.busy and time.monotonic() - connection.used_at >= idle
            ):
                self.connectivity.changed(State.IDLE)
                session.let_go(connection)
        self._rests = 0 if connections else self._rests + 1
        if self._rests > 1:  # one that has just proved itself is among them the second time
            rounds.discard(self)

    # --- Connections -----------------------------------------------------------------------------

    def connection(
        self, deadline: float | None, now: float, wait_for_ready: bool
    ) -> Connection[ClientCore]:
        """A connection that is up. Opens one if there is none; once, or until the deadline."""
        if self.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        current = self.session.current
        if current is None or current.ended:
            self.connectivity.changed(State.CONNECTING)
            self._failed = ""
        pause = self.options.first_backoff or FIRST_WAIT
        while True:
            try:
                return self.session.connection(deadline, now)
            except OpenFailed as failure:
                self._failed = why_not(failure)
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise self.late() from failure
                if not wait_for_ready or not failure.attempts:
                    raise
                left = pause if deadline is None else min(pause, deadline - now)
                if self.closing.wait(left):
                    raise
                pause = min(pause * 1.6, self.options.most_backoff or LONGEST_WAIT)
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise self.late() from failure

    def late(self) -> DeadlineExceeded:
        """The failure of a call whose time was over before there was a connection."""
        return unopened(self.address, self._failed)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.closing.is_set()

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        current = self.session.current
        return current is not None and not current.ended and not current.core.draining

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end, or was there last; None before there was a connection."""
        return self._link.peer

    def attend(self, connection: Connection[ClientCore]) -> None:
        """Read on a connection although nobody waits, from now on: somebody wants to be told."""
        core = connection.core
        with core.lock:
            if core.attended:
                return
            core.attended = True
        self.session.serve(connection)

    # --- grpc.Channel ----------------------------------------------------------------------------

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], Any],
        try_to_connect: bool | None = None,
    ) -> None:
        """Have the state of the connection told, now and whenever it changes."""
        self.connectivity.subscribe(callback)
        if try_to_connect and not self.is_up:
            self._connect_in_background()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], Any]) -> None:
        """Have it told no more."""
        self.connectivity.unsubscribe(callback)

    def _connect_in_background(self) -> None:
        if self._connecting is None or not self._connecting.is_alive():
            self._connecting = threading.Thread(
                target=self._keep_connecting, name="hvrpc-connect", daemon=True
            )
            self._connecting.start()

    def _keep_connecting(self) -> None:
        """Until there is a connection, or nobody wants one."""
        try:
            self.connection(None, time.monotonic(), wait_for_ready=True)
        except (HvrpcError, ValueError):
            pass

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

    def close(self) -> None:
        """End the calls under way as cancelled, and close. Calls made later raise ValueError."""
        rounds.discard(self)
        self._link.shut(self.session)

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
        return f"<gRPC channel to {self.address}, {'closed' if self.closed else 'open'}>"

    # --- For the methods below -----------------------------------------------------------------

    def fields_of(self, path: str, compression: grpc.Compression) -> Fields:
        """What opens the calls of a method."""
        return request_fields(path, self._authority, self._user_agent, compression)


class Link:
    """What a channel's connections know of it: not the channel itself, or it could not be collected
    while it is connected."""

    def __init__(self, channel: Channel) -> None:
        self.connectivity = Connectivity()
        self.closing = threading.Event()
        self.peer: Peer | None = None
        self._channel = weakref.ref(channel)
        self._address = channel.address
        self._settings = settings_for(channel.options.most_metadata)
        self._pings_anyway = channel.options.keepalive_time is not None

    def make_core(self, stream: Stream) -> ClientCore:
        """The core of a fresh connection."""
        core = ClientCore(
            self._settings,
            address=self._address,
            pings_anyway=self._pings_anyway,
            on_ready=self._ready,
            on_goaway=self._leaving,
            on_end=self._leaving,
        )
        core.peer = stream.peer
        return core

    def attempt_failed(self, attempt: Attempt) -> None:
        """No connection could be opened."""
        self.connectivity.changed(State.TRANSIENT_FAILURE)

    def _ready(self, core: ClientCore) -> None:
        self.peer = core.peer
        self.connectivity.changed(State.READY)
        channel = self._channel()
        if channel is not None:
            channel._rests = 0
            rounds.add(channel)

    def _leaving(self, core: ClientCore) -> None:
        """A connection takes no more calls."""
        channel = self._channel()
        current = None if channel is None else channel.session.current
        if current is not None and current.core is core:
            self.connectivity.changed(State.IDLE)

    def shut(self, session: Session[ClientCore]) -> None:
        """End the calls under way as cancelled, and close. The second time does nothing."""
        if self.closing.is_set():
            return
        self.closing.set()
        for connection in session.connections():
            connection.core.end_all(CHANNEL_CLOSED)
            connection.push()
        session.close(0)
        self.connectivity.changed(State.SHUTDOWN)


class Method:
    """One method of the other side. What its four kinds have in common."""

    def __init__(
        self, channel: Channel, path: str | bytes, serialize: Serializer, deserialize: Deserializer
    ) -> None:
        self.channel = channel
        self.path = path.decode() if isinstance(path, bytes) else path
        self.serialize = serialize
        self.deserialize = deserialize
        self.config = channel.config.method(self.path)
        self.most_sent = min(channel.options.most_sent, self.config.most_sent)
        self.most_received = min(channel.options.most_received, self.config.most_received)
        self._fields = channel.fields_of(self.path, channel.compression)
        self._connection = channel.session.connection
        self._calls = channel.guard.calls or None
        self._is_plain = channel.is_plain

    def retrying(self) -> Retrying | None:
        """Who decides whether a call is made again that has failed; None: nobody asks for that."""
        policy = self.config.retry if self.channel.options.retries else None
        throttle = self.channel.config.throttle
        return None if policy is None and throttle is None else Retrying(policy, throttle)

    def configured(
        self, timeout: float | None, wait_for_ready: bool | None
    ) -> tuple[float | None, bool | None]:
        """What the service config makes of these. Raises :class:`RpcError` if it cannot be read."""
        broken = self.channel.misconfigured
        if broken is not None:
            raise RpcError((), Ending(broken.code, broken.details), broken) from None
        config = self.config
        if config.timeout is not None:
            timeout = config.timeout if timeout is None else min(timeout, config.timeout)
        return timeout, config.wait_for_ready if wait_for_ready is None else wait_for_ready

    def fields(self, compression: grpc.Compression | None) -> tuple[Fields, grpc.Compression]:
        """What opens a call, and how its messages are compressed."""
        if compression is None or compression is self.channel.compression:
            return self._fields, self.channel.compression
        chosen = grpc.Compression(compression)
        return self.channel.fields_of(self.path, chosen), chosen

    def payload(self, request: Any) -> bytes:
        """A request as bytes. Raises :class:`RpcError`, as grpcio does."""
        try:
            payload: bytes = request if self.serialize is None else self.serialize(request)
        except Exception as error:
            raise RpcError(
                (), Ending(grpc.StatusCode.INTERNAL, "Exception serializing request!"), error
            ) from error
        return payload

    def check_size(self, payload: bytes) -> None:
        """Raises :class:`RpcError` for a request that is larger than the channel may send."""
        try:
            check_sent(len(payload), self.most_sent, CLIENT)
        except StatusError as error:
            raise RpcError((), Ending(error.code, error.details), error) from None

    def extra(self, timeout: float | None, given: Any) -> Fields:
        """What differs from call to call. Raises :class:`RpcError` for metadata that cannot be sent."""
        extra: Fields = () if timeout is None else ((b"grpc-timeout", timeouts.encode(timeout)),)
        if given:
            try:
                extra += metadata.to_fields(given)
            except StatusError as error:
                raise RpcError((), Ending(error.code, error.details), error) from None
        return extra

    def vouch(self, credentials: grpc.CallCredentials | None) -> Pending | None:
        """What the channel's call credentials, and the call's own, add to its metadata, or will.

        Raises :class:`StatusError` where others could read it.
        """
        if credentials is None and self._calls is None:
            return None
        channel = self.channel
        return channel.guard.ask(credentials, channel._authority, self.path)

    def again(
        self,
        call: ClientCall,
        retrying: Retrying,
        deadline: float | None,
        is_given_up: Callable[[], bool] | None = None,
    ) -> Again | None:
        """Whether a call that has ended is made again, by the retry policy. Waits before it is, and looks
        now and then whether another thread has given it up."""
        ending = call.ending
        committed = call.headers is not None or call.decided in (DEADLINE_EXCEEDED, CANCELLED)
        if committed and ending.code is not grpc.StatusCode.OK:
            return None
        pushback = next((value for key, value in ending.metadata if key == PUSHBACK), None)
        wait = retrying.ended(ending.code, pushback)
        if wait is None:
            return None
        now = time.monotonic()
        if deadline is not None and now + wait >= deadline:
            return None
        until = now + wait
        step = wait if is_given_up is None else GIVEN_UP_WITHIN
        while (rest := until - time.monotonic()) > 0:
            if self.channel.closing.wait(min(rest, step)):
                return None
            if is_given_up is not None and is_given_up():
                return None
        left = None if deadline is None else max(deadline - now - wait, 0.001)
        return Again(left, ((PREVIOUS_ATTEMPTS, str(retrying.attempts - 1).encode()),))

    def again_without(
        self,
        failure: HvrpcError,
        retrying: Retrying | None,
        deadline: float | None,
        is_given_up: Callable[[], bool] | None = None,
    ) -> Again | None:
        """The same for a call that got no connection."""
        if retrying is None:
            return None
        call = ClientCall(self.most_received)
        call.decided = ending_of_failure(failure)
        return self.again(call, retrying, deadline, is_given_up)

    def __repr__(self) -> str:
        return f"<method {self.path} at {self.channel.address}>"


class Again(NamedTuple):
    """What the next attempt of a call has that the first had not."""

    left: float | None
    """Seconds until its deadline."""
    fields: Fields


class UnaryUnary(Method, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A method with one request and one response."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Call it and wait for the response. Raises :class:`grpc.RpcError`."""
        return self._call(request, timeout, metadata, credentials, wait_for_ready, compression)[0]

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, grpc.Call]:
        """The same, and also returns how the call went."""
        response, call = self._call(
            request, timeout, metadata, credentials, wait_for_ready, compression
        )
        opening = call.opening
        return response, CallInfo(() if opening is None else opening.metadata, call.ending)

    def _call(
        self,
        request: Any,
        timeout: float | None,
        given: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> tuple[Any, ClientCall]:
        payload = self.payload(request)
        channel = self.channel
        retrying: Retrying | None = None
        if not self._is_plain:
            timeout, wait_for_ready = self.configured(timeout, wait_for_ready)
            retrying = self.retrying()
        if len(payload) > self.most_sent:
            self.check_size(payload)
        fields = self._fields
        extra: Fields = ()
        if compression is not None or channel.compression is not PLAIN:
            fields, compression = self.fields(compression)
        now = time.monotonic()
        deadline: float | None = None
        vouched: Fields = ()
        if timeout is not None or given:
            extra = self.extra(timeout, given)
            if timeout is not None:
                if timeout <= 0:
                    raise RpcError((), DEADLINE_EXCEEDED)
                deadline = now + timeout
        if credentials is not None or self._calls is not None:
            vouched = self._vouched(credentials, deadline)
            extra += vouched
        repetition = untaken_before = 0
        in_doubt = False
        while True:
            call = ClientCall(self.most_received)
            try:
                if wait_for_ready or not channel.is_up:
                    connection = channel.connection(deadline, now, bool(wait_for_ready))
                else:
                    connection = self._connection(deadline, now)
            except HvrpcError as failure:
                again = self.again_without(failure, retrying, deadline)
                if again is not None:
                    extra = self.extra(again.left, given) + vouched + again.fields
                    repetition += 1
                    now = time.monotonic()
                    continue
                error = failed(failure, in_doubt=in_doubt)
                raise error from error.__cause__
            core = connection.core
            if compression is not None and compression is not PLAIN:
                message, compressed = compress(payload, compression)
                core.start_unary(call, fields, pack(message, compressed), extra)
            else:
                core.start_unary(call, fields, pack(payload), extra)
            try:
                connection.push()
                if not connection.wait(call, deadline, timeout if not repetition else None):
                    core.end(call, DEADLINE_EXCEEDED)
                    connection.push()
            except BaseException:
                core.end(call, CANCELLED)
                connection.push()
                raise
            if core.draining:
                channel.session.retire(connection)
            if retrying is not None:
                again = self.again(call, retrying, deadline)
                if again is not None:
                    in_doubt = in_doubt or call.failure is None or may_have_run(call.failure)
                    extra = self.extra(again.left, given) + vouched + again.fields
                    repetition += 1
                    now = time.monotonic()
                    continue
            lost = call.failure
            if lost is None:
                return self._response(call), call
            repetition += 1
            untaken_before += 1
            spent = untaken(lost, untaken_before)
            if (
                spent is not None
                or may_have_run(lost)
                or not channel.session.repeat(lost, repetition, deadline, idempotent=False)
            ):
                error = failed(spent or lost, in_doubt=in_doubt)
                raise error from error.__cause__
            now = time.monotonic()

    def _vouched(self, credentials: grpc.CallCredentials | None, deadline: float | None) -> Fields:
        try:
            pending = self.vouch(credentials)
            return () if pending is None else pending.fields(deadline)
        except StatusError as error:
            raise RpcError((), Ending(error.code, error.details), error) from error

    def _response(self, call: ClientCall) -> Any:
        """What a call that has ended has brought. Raises :class:`RpcError`."""
        ending = call.ending
        if ending.code is not grpc.StatusCode.OK:
            raise _error(call, ending)
        try:
            message = call.message()
        except StatusError as error:
            raise _error(call, Ending(error.code, error.details)) from error
        if message is None:
            raise _error(call, NO_RESPONSE)
        if self.deserialize is None:
            return message
        try:
            return self.deserialize(message)
        except Exception as error:
            raise _error(
                call, Ending(grpc.StatusCode.INTERNAL, "Exception deserializing response!")
            ) from error

    def future(  # type: ignore[override]
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryResponse:
        """Call it, and return at once what will have the response."""
        return UnaryResponse(
            self, self.payload(request), timeout, metadata, credentials, wait_for_ready, compression
        )


class UnaryStream(Method, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """A method with one request and a stream of responses."""

    def __call__(  # type: ignore[override]
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamResponse:
        """Call it, and iterate over the responses as they come."""
        return StreamResponse(
            self, self.payload(request), timeout, metadata, credentials, wait_for_ready, compression
        )


class StreamUnary(Method, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A method with a stream of requests and one response."""

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """Call it and wait for the response. Raises :class:`grpc.RpcError`."""
        return self.with_call(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )[0]

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, grpc.Call]:
        """The same, and also returns how the call went."""
        rpc = UnaryResponse(
            self,
            request_iterator,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
            compression,
            waits=True,
        )
        try:
            return rpc.result(), rpc
        except BaseException:
            rpc.cancel()
            raise

    def future(  # type: ignore[override]
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryResponse:
        """Call it, and return at once what will have the response."""
        return UnaryResponse(
            self, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )


class StreamStream(Method, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """A method with a stream of requests and one of responses."""

    def __call__(  # type: ignore[override]
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamResponse:
        """Call it, and iterate over the responses as they come."""
        return StreamResponse(
            self, request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )


def _error(call: ClientCall, ending: Ending) -> RpcError:
    opening = call.opening
    return RpcError(() if opening is None else opening.metadata, ending)
