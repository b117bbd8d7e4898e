"""The blocking server, with the methods of :class:`grpc.Server`.

    server = hvrpc.grpc.server(futures.ThreadPoolExecutor(10))
    add_GreeterServicer_to_server(Greeter(), server)
    server.add_insecure_port("hvsock://any/50051")
    server.start()
    server.wait_for_termination()

A handler runs on the thread that has read its request. Should it take longer than a moment, another
thread reads on meanwhile (`hvrpc/session/threads`), so handlers may block, and may call back.
"""

from __future__ import annotations

import contextvars
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, Final, Self

import grpc

from ..access import Access, Rule
from ..addresses import Address
from ..http2 import Fields, Settings
from ..session.core import Call
from ..session.state import Heartbeat
from ..session.threads import Connection, at_most
from ..session.threads import Server as Acceptor
from ..sockets import Stream
from ..stopping import GRACE, serve_until_told
from ..tls import Tls
from . import metadata, standard, status
from .alarms import alarms
from .calling import CREDIT
from .context import Context
from .core import settings_for
from .credentials import Level, of_server, server_credentials
from .handlers import (
    LEFT_OUT,
    Handlers,
    SupportsAddTo,
    add_all,
    check_interceptors,
    details_of,
    intercepted,
    is_left_out,
    logger,
)
from .messages import MOST_JOINED, SERVER, check_sent, compress, pack, pieces
from .options import ServerOptions
from .serving import ServerCall, ServerCore
from .status import StatusError
from .wire import PLAIN
from .workers import Occupancy, PoolClosed, workers_of

MUCH: Final = 256 * 1024
"""Bytes of one response that may wait to be sent before its handler has to wait."""
GRACE_WITHOUT_END: Final = 86_400.0
"""Seconds that calls get to end on a connection that is too old, when nobody has said how many."""


class Server(grpc.Server):
    """Serves gRPC on addresses of hvrpc. Made by :func:`hvrpc.grpc.server`."""

    def __init__(
        self,
        thread_pool: futures.Executor | None = None,
        handlers: Sequence[grpc.GenericRpcHandler] | None = None,
        interceptors: Sequence[grpc.ServerInterceptor] | None = None,
        options: Sequence[tuple[str, Any]] | None = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: grpc.Compression | None = None,
        *,
        health: bool = False,
        reflection: bool | Iterable[str] = False,
    ) -> None:
        self._options = ServerOptions.of(options)
        self._handlers = Handlers(handlers)
        self._interceptors = check_interceptors(interceptors, "grpc.ServerInterceptor")
        self._find = intercepted(self._interceptors, self._handlers.find)
        self._compression = self._options.compression if compression is None else compression
        self._workers = workers_of(thread_pool)
        self._occupancy = Occupancy(maximum_concurrent_rpcs)
        self._started = False
        self._stopping: threading.Thread | None = None
        self._stopped = threading.Event()
        self._stop_lock = threading.Lock()
        self.most_received = self._options.most_received
        self._most_sent = self._options.most_sent
        self._settings = settings_of(self._options)
        self._acceptor: Acceptor[ServerCore] = Acceptor(
            self._make_core,
            dead_after=self._options.dead_after or Heartbeat.DEAD_AFTER,
            watch_idle=self._options.keepalive_time is not None,
        )
        self._levels: dict[Address, Level] = {}
        """Of the secure ports."""
        self._cores: set[ServerCore] = set()
        self._reflection = reflection
        self._health = standard.add_health(self) if health else None
        """What tells how this server is, if it shall."""

    def _make_core(
        self, stream: Stream, connection: Callable[[], Connection[ServerCore]]
    ) -> ServerCore:
        core = ServerCore(self, self._settings)
        core.peer = stream.peer
        core.level = self._levels.get(stream.address, Level.INSECURE)
        core.get_connection = connection
        limits = ConnectionLimits(self._options, core)
        limits.begin()

        def over() -> None:
            limits.forget()
            self._cores.discard(core)

        core.on_end = over
        self._cores.add(core)
        return core

    # --- What users call -------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Add handlers that are asked for each method in turn."""
        self._handlers.add_generic(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Add the methods of a service."""
        self._handlers.add_registered(service_name, method_handlers)

    def add(self, servicer: SupportsAddTo[Self]) -> None:
        """Add a servicer that `hvrpc codegen` has made the base of."""
        servicer.add_to(self)

    def add_insecure_port(self, address: Address | str) -> int:
        """Listen on an address, and return its port: 1 where there is none, as in grpcio.

        Who may call is for the credentials to say: see `add_secure_port`. Raises
        :class:`hvrpc.AddressError` or :class:`hvrpc.ListenError`.
        """
        return self._listen(address)

    def add_secure_port(
        self, address: Address | str, server_credentials: grpc.ServerCredentials
    ) -> int:
        """Listen on an address for callers that :func:`hvrpc.grpc.server_credentials` admit.

        Raises :class:`hvrpc.CredentialsError` for those of grpcio, and what `add_insecure_port` raises.
        """
        security = of_server(server_credentials)
        where = self._acceptor.listen(address, security=security)
        self._levels[where] = Level.of(where, security)
        return getattr(where, "port", None) or 1

    def _listen(self, address: Address | str) -> int:
        where = self._acceptor.listen(address)
        return getattr(where, "port", None) or 1

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return self._acceptor.addresses

    def start(self) -> None:
        """Begin to serve, and return at once. Raises ValueError the second time."""
        if self._stopping is not None or self._started:
            raise ValueError("Cannot start already-started server!")
        self._started = True
        services = self._handlers.services
        if self._health is not None:
            standard.announce(self._health, services)
        if self._reflection:
            standard.add_reflection(self, self._reflection, services)
        self._acceptor.start()

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until it has stopped. True: the time was up first."""
        return not self._stopped.wait(None if timeout is None else at_most(timeout))

    def stop(self, grace: float | None) -> threading.Event:
        """Take no more calls, give those under way `grace` seconds, and end.

        Returns at once; the event is set when all is over. A second call with less grace shortens it.
        """
        seconds = grace or 0.0
        with self._stop_lock:
            if self._stopping is None:
                self._acceptor.stop_listening()
                for core in list(self._cores):
                    core.refuses = True
                self._stopping = threading.Thread(
                    target=self._stop, args=(seconds,), name="hvrpc-stop", daemon=True
                )
                self._stopping.start()
            elif not self._stopped.is_set():
                alarms.at(time.monotonic() + seconds, self._cancel_all)
        return self._stopped

    def _cancel_all(self) -> None:
        for core in list(self._cores):
            core.cancel_all()
            core.connection.push()

    def _stop(self, grace: float) -> None:
        if self._health is not None:
            self._health.enter_graceful_shutdown()
        self._acceptor.close(grace)
        self._stopped.set()
        alarms.forget(self._cancel_all)

    # --- What the cores call -----------------------------------------------------------------------

    def takes_one(self, path: str) -> bool:
        """Whether the requests of this method are one message each, as far as is known."""
        return self._handlers.takes_one(path)

    def run(self, call: ServerCall) -> None:
        """Carry a call out, or let it wait for its turn."""
        if not self._occupancy.enter():
            _end(call, grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
            call.core.ended(call)
            return
        try:
            self._workers.run(self._carry_out, call)
        except PoolClosed as error:
            _end(call, grpc.StatusCode.UNAVAILABLE, str(error))
            self._ended(call)

    # --- One call --------------------------------------------------------------------------------

    def _carry_out(self, call: ServerCall) -> None:
        try:
            if not call.cancelled:
                contextvars.Context().run(self._handle, call)
        except Exception:
            logger.exception("%s failed in a way that it should not", call.request.path)
            _end(call, grpc.StatusCode.INTERNAL, "the server failed; its log says how")
        except BaseException as error:
            # sys.exit() in a handler: it ends its call, not the thread that reads for all others.
            details = f"Exception calling application: {type(error).__name__}: {error}"
            logger.error("%s: %s", call.request.path, details, exc_info=error)
            _end(call, grpc.StatusCode.UNKNOWN, details)
        finally:
            if not call.detached:
                self._ended(call)

    def _ended(self, call: ServerCall) -> None:
        self._occupancy.leave()
        call.core.ended(call)

    def _handle(self, call: ServerCall) -> None:
        handler = self._find_handler(call)
        if handler is None:
            return
        context = Context(call, self._compression)
        try:
            if handler.request_streaming:
                request: Any = Requests(call, context, handler.request_deserializer)
            else:
                request = self._only_request(call, context, handler.request_deserializer)
                if request is None:
                    return
            if handler.response_streaming:
                behaviour = (
                    handler.stream_stream if handler.request_streaming else handler.unary_stream
                )
                self._stream(call, context, behaviour, request, handler.response_serializer)
            else:
                behaviour = (
                    handler.stream_unary if handler.request_streaming else handler.unary_unary
                )
                self._unary(call, context, behaviour, request, handler.response_serializer)
        finally:
            if not call.detached:
                if handler.request_streaming:
                    call.core.stop_reading(call)
                _finish(call, context)

    def _find_handler(self, call: ServerCall) -> Any:
        """The handler; None when the call was answered because there is none."""
        request = call.request
        try:
            handler = (
                self._handlers.known.get(request.path) if not self._interceptors else None
            ) or self._find(details_of(request))
        except Exception as error:
            logger.exception("Exception servicing handler: %s", error)
            _end(call, grpc.StatusCode.UNKNOWN, "Error in service handler!")
            return None
        if handler is None:
            _end(call, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return handler

    def _only_request(self, call: ServerCall, context: Context, deserialize: Any) -> Any:
        """The request of a method that takes one; None when the call was answered otherwise."""
        try:
            if call.error is not None:
                raise call.error
            problem = call.request.problem
            if problem is not None:  # which all such calls share
                raise StatusError(problem.code, problem.details)
            message = call.take()
            if message is None and not call.request_ended:
                message = Requests(call, context, None)._wait()
        except StatusError as error:
            _end(call, error.code, error.details)
            return None
        except grpc.RpcError:
            return None
        if message is None:
            what = f'"{call.request.path}" requires exactly one request message.'
            _end(call, grpc.StatusCode.UNIMPLEMENTED, what)
            return None
        if deserialize is None:
            return message
        try:
            return deserialize(message)
        except Exception:
            logger.exception("Exception deserializing message!")
            _end(call, grpc.StatusCode.INTERNAL, "Exception deserializing request!")
            return None

    def _unary(
        self, call: ServerCall, context: Context, behaviour: Any, request: Any, serialize: Any
    ) -> None:
        try:
            response = behaviour(request, context)
        except Exception as error:
            _failed(call, context, error, "calling application")
            return
        payload = self._serialized(call, context, response, serialize)
        if payload is None:
            return
        if context._plain and len(payload) <= MOST_JOINED:
            call.core.answer(call, pack(payload))
            return
        self._send(call, context, payload, last=True)
        _end_with(call, context)

    def _stream(
        self, call: ServerCall, context: Context, behaviour: Any, request: Any, serialize: Any
    ) -> None:
        if getattr(behaviour, "experimental_non_blocking", False):
            self._stream_by_callback(call, context, behaviour, request, serialize)
            return
        try:
            responses = behaviour(request, context)
        except Exception as error:
            _failed(call, context, error, "calling application")
            return
        while True:
            try:
                response = next(responses)
            except StopIteration:
                break
            except Exception as error:
                _failed(call, context, error, "iterating responses")
                return
            payload = self._serialized(call, context, response, serialize)
            if payload is None:
                return
            if not self._send(call, context, payload):
                _close(responses)
                return
        _end_with(call, context)

    def _stream_by_callback(
        self, call: ServerCall, context: Context, behaviour: Any, request: Any, serialize: Any
    ) -> None:
        """A handler that returns at once and sends responses later, from wherever it likes: grpcio's own
        health service watches so, without keeping a thread."""

        def send(response: Any) -> None:
            if not context.is_active():
                return
            if response is None:
                _end_with(call, context)
            else:
                payload = self._serialized(call, context, response, serialize)
                if payload is not None:
                    self._send(call, context, payload)
            call.core.connection.push()
            if call.answered:
                over()

        def over() -> None:
            with call.core.lock:
                if call.is_over:
                    return  # the caller has given up just when the handler was done
                call.is_over = True
            _finish(call, context)
            self._ended(call)

        call.detached = True
        call.on_cancelled = over
        if call.cancelled:  # before it could be told
            over()
            return
        try:
            behaviour(request, context, send)
        except BaseException as error:
            _failed(call, context, error, "calling application")
            over()

    def _serialized(
        self, call: ServerCall, context: Context, response: Any, serialize: Any
    ) -> bytes | None:
        payload: bytes | None
        try:
            payload = response if serialize is None else serialize(response)
        except Exception:
            logger.exception("Exception serializing message!")
            payload = None
        if payload is None:
            _end_with(call, context, grpc.StatusCode.INTERNAL, "Failed to serialize response!")
        elif len(payload) > self._most_sent:
            try:
                check_sent(len(payload), self._most_sent, SERVER)
            except StatusError as error:
                _end_with(call, context, error.code, error.details)
            return None
        return payload

    def _send(
        self, call: ServerCall, context: Context, payload: bytes, *, last: bool = False
    ) -> bool:
        """Send a message, waiting while too much waits to be sent. False: nobody wants it."""
        core = call.core
        connection = core.connection
        if not call.headers_sent:
            context._send_headers()
        compressed = False
        if context._compression is not PLAIN and context._compress_next:
            payload, compressed = compress(payload, context._compression)
        context._compress_next = True
        queued = core.send(call, pieces(payload, compressed))
        if queued < 0 or call.is_late:
            return False
        if last:
            return True
        if not connection.push():
            connection.flush(call.deadline, lambda: call.cancelled)
        if queued > MUCH:
            room = Call()
            if core.queued(call, room):
                connection.wait(room, call.deadline)
        return not call.cancelled


def settings_of(options: ServerOptions) -> Settings:
    """What HTTP/2 offers for these options."""
    if options.most_streams is None:
        return settings_for(options.most_metadata)
    return settings_for(options.most_metadata, max_concurrent_streams=options.most_streams)


class ConnectionLimits:
    """How long a connection may live, and how long without a call."""

    def __init__(self, options: ServerOptions, core: ServerCore) -> None:
        self._age = options.connection_age
        self._idle = options.connection_idle
        self._grace = options.connection_age_grace
        self._core = core
        self._calls = -1

    def begin(self) -> None:
        """From now on."""
        now = time.monotonic()
        if self._age is not None:
            # So that all clients that came at once do not come back at once.
            alarms.at(now + self._age * random.uniform(0.9, 1.1), self._retire)
        if self._idle is not None:
            alarms.at(now + self._idle, self._look)

    def forget(self) -> None:
        """The connection has ended."""
        if self._age is not None or self._idle is not None:
            alarms.forget(self._retire)
            alarms.forget(self._look)

    def _look(self) -> None:
        core = self._core
        if not core.busy and self._calls == core.count:
            self._retire()
            return
        self._calls = core.count
        alarms.at(time.monotonic() + (self._idle or 0.0), self._look)

    def _retire(self) -> None:
        grace = GRACE_WITHOUT_END if self._grace is None else self._grace
        threading.Thread(
            target=self._core.connection.drain,
            args=(time.monotonic() + grace,),
            name="hvrpc-retire",
            daemon=True,
        ).start()


class Requests(Iterator[Any]):
    """The requests of a call, as they come."""

    def __init__(self, call: ServerCall, context: Context, deserialize: Any) -> None:
        self._call = call
        self._context = context
        self._deserialize = deserialize

    def __iter__(self) -> Requests:
        return self

    def __next__(self) -> Any:
        try:
            message = self._wait()
        except StatusError as error:
            return self._refuse(error.code, error.details)
        if message is None:
            raise StopIteration
        if self._deserialize is None:
            return message
        try:
            return self._deserialize(message)
        except Exception:
            logger.exception("Exception deserializing message!")
        return self._refuse(grpc.StatusCode.INTERNAL, "Exception deserializing request!")

    def _refuse(self, code: grpc.StatusCode, details: str) -> Any:
        """What came cannot be used: that is how the call ends, whatever the handler does."""
        _end_with(self._call, self._context, code, details)
        self._call.core.connection.push()
        raise grpc.RpcError

    def _wait(self) -> bytes | None:
        """The next message; None after the last. Raises RpcError when the caller has gone."""
        call = self._call
        core = call.core
        connection = core.connection
        while True:
            message = call.take()
            # Also of a message that is not complete, or the caller could not go on with it.
            if call.taken >= CREDIT and core.consumed(call):
                connection.push()
            if message is not None:
                return message
            if call.cancelled:
                raise grpc.RpcError
            if call.answered:
                return None
            if call.request_ended:
                # The end was seen; what came before it may have been seen too late.
                if call.pieces:
                    continue
                return None
            call.done = False
            if call.pieces or call.request_ended or call.cancelled:
                continue
            if core.outgoing:
                connection.push()
            if not connection.wait(call, call.deadline):
                raise grpc.RpcError


def _finish(call: ServerCall, context: Context) -> None:
    """The handler has ended: tell who wanted to be told."""
    context._finished = True
    call.on_cancelled = None
    if context._callbacks is not None:
        context._run_callbacks()


def _failed(call: ServerCall, context: Context, error: BaseException, doing: str) -> None:
    """A handler has raised: answer, unless it was the end of the call that it raised for."""
    if context._aborted:
        _end_with(call, context, grpc.StatusCode.UNKNOWN, "RPC Aborted")
        return
    if isinstance(error, StatusError):  # metadata that cannot be sent
        context._code = None
        _end_with(call, context, error.code, error.details)
        return
    if call.cancelled or call.answered:
        if not isinstance(error, grpc.RpcError):
            logger.debug("%s raised after the call had ended", call.request.path, exc_info=error)
        return
    if isinstance(error, grpc.RpcError) and call.is_late:
        _end_with(call, context, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return
    try:
        details = f"Exception {doing}: {error}"
    except Exception:
        details = "Calling application raised unprintable Exception!"
    if is_left_out(error, context._code):
        logger.warning(LEFT_OUT, call.request.path)
    else:
        logger.error(details, exc_info=error)
    _end_with(call, context, grpc.StatusCode.UNKNOWN, details)


def _end(call: ServerCall, code: grpc.StatusCode, details: str) -> None:
    """End a call with a status, before its handler was run."""
    call.core.end(call, code, ((b"grpc-message", status.encode_message(details)),))


def _end_with(
    call: ServerCall,
    context: Context,
    otherwise: grpc.StatusCode = grpc.StatusCode.OK,
    why: str = "",
) -> None:
    """End a call with what its handler has set, or else with this."""
    if call.answered:
        return
    code = context._code
    if code is None or (code is grpc.StatusCode.OK and otherwise is not code):
        code = otherwise
    elif not isinstance(code, grpc.StatusCode):
        code = grpc.StatusCode.UNKNOWN
    details = why if context._details is None else context._details
    trailing: Fields = ()
    try:
        trailing = metadata.to_fields(context._trailing)
    except StatusError as error:
        code, details = error.code, error.details
    except (TypeError, ValueError) as error:
        logger.exception("%s: trailing metadata cannot be sent", call.request.path)
        code, details = grpc.StatusCode.UNKNOWN, f"Exception calling application: {error}"
    extra: Fields = ((b"grpc-message", status.encode_message(details)),) if details else ()
    call.core.end(call, code, extra + trailing)


def _close(responses: Any) -> None:
    """Nobody wants the rest of a generator: let it clean up."""
    close = getattr(responses, "close", None)
    if close is not None:
        try:
            close()
        except Exception:
            logger.exception("a handler failed while it was closed")


# --- A server as a program -----------------------------------------------------------------------


def serve(
    address: Address | str,
    service: Any,
    *,
    ready: Callable[[Address], object] | None = None,
    grace: float = GRACE,
    allow: Access | Rule | Iterable[Rule] | None = None,
    tls: Tls | ssl.SSLContext | None = None,
    **settings: Any,
) -> None:
    """Serve until told to stop, by Ctrl-C or SIGTERM.

    `service` is a servicer that `hvrpc codegen` has made the base of, or a function that adds others to
    the server it is given (`lambda server: add_GreeterServicer_to_server(Greeter(), server)`), or a list
    of these. `ready` is called with the address once callers can connect; `grace` is how long calls
    under way may take in the end; `allow` says who may call, and `tls` encrypts
    (:func:`hvrpc.grpc.server_credentials`). Other settings are those of :func:`hvrpc.grpc.server`. Raises
    :class:`hvrpc.AddressError`, :class:`hvrpc.UnsupportedError` or :class:`hvrpc.ListenError` when it
    cannot listen.
    """
    server = Server(**settings)
    where = listening(server, address, service, allow, tls)

    def begin() -> None:
        server.start()
        if ready is not None:
            ready(where)

    serve_until_told(begin, lambda: server.stop(grace).wait())


def listening(
    server: Any,
    address: Address | str,
    service: Any,
    allow: Access | Rule | Iterable[Rule] | None,
    tls: Tls | ssl.SSLContext | None,
) -> Address:
    """Where a server listens that has got what `serve` was given. Shared by both servers."""
    add_all(server, service)
    if allow is None and tls is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, server_credentials(allow=allow, tls=tls))
    where: Address = server.addresses[-1]
    return where
