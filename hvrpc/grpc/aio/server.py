"""The asyncio server, with the methods of :class:`grpc.aio.Server`.

server = hvrpc.grpc.aio.server()
add_GreeterServicer_to_server(Greeter(), server)
server.add_insecure_port("hvsock://any/50051")
await server.start()
await server.wait_for_termination()
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, Self

import grpc
from grpc import aio

from ...access import Access, Rule
from ...addresses import Address
from ...session.aio import Connection
from ...session.aio import Server as Acceptor
from ...session.state import Heartbeat
from ...sockets import Stream
from ...stopping import GRACE, serve_until_told_async
from ...tls import Tls
from .. import standard
from ..credentials import Level, of_server
from ..handlers import LEFT_OUT, Handlers, SupportsAddTo, details_of, is_left_out, logger
from ..messages import MOST_JOINED, pack
from ..options import ServerOptions
from ..server import listening, settings_of
from ..serving import ServerCall, ServerCore
from ..status import StatusError, encode_message
from ..wire import Request
from .ages import ConnectionLimits
from .context import Context, status_code
from .deadlines import Deadlines
from .handlers import (
    Behaviour,
    BlockingContext,
    BlockingRequests,
    Requests,
    blocking_responses,
    in_thread,
)
from .rpc import as_bytes

LIMIT_EXCEEDED = "Concurrent RPC limit exceeded!"
CANCELLED = "the handler was cancelled"


class Server(aio.Server):
    """Serves gRPC on addresses of hvrpc. Made by :func:`hvrpc.grpc.aio.server`.

    It belongs to the loop on which it is started.
    """

    def __init__(
        self,
        migration_thread_pool: futures.Executor | None = None,
        handlers: Sequence[grpc.GenericRpcHandler] | None = None,
        interceptors: Sequence[aio.ServerInterceptor] | None = None,
        options: Sequence[tuple[str, Any]] | None = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: grpc.Compression | None = None,
        *,
        health: bool = False,
        reflection: bool | Iterable[str] = False,
    ) -> None:
        self._options = chosen = ServerOptions.of(options)
        self._handlers = Handlers(handlers)
        self._interceptors = _checked(interceptors)
        self._behaviours: dict[str, Behaviour] = {}
        """Of methods that are known, as they are called for."""
        self._pool = migration_thread_pool
        self._compression = chosen.compression if compression is None else compression
        self._most_sent = chosen.most_sent
        self.most_received = chosen.most_received
        if maximum_concurrent_rpcs is not None and maximum_concurrent_rpcs <= 0:
            raise ValueError("maximum_concurrent_rpcs should be a positive integer")
        self._most = maximum_concurrent_rpcs
        self._running = 0
        self._deadlines = Deadlines()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._settings = settings_of(chosen)
        self._acceptor: Acceptor[ServerCore] = Acceptor(
            self._make_core,
            dead_after=chosen.dead_after or Heartbeat.DEAD_AFTER,
            watch_idle=chosen.keepalive_time is not None,
        )
        self._levels: dict[Address, Level] = {}
        """Of the secure ports."""
        self._reflection = reflection
        self._health = standard.add_async_health(self) if health else None
        """What tells how this server is, if it shall."""

    def _make_core(
        self, stream: Stream, connection: Callable[[], Connection[ServerCore]]
    ) -> ServerCore:
        core = ServerCore(self, self._settings)
        core.peer = stream.peer
        core.level = self._levels.get(stream.address, Level.INSECURE)
        core.get_connection = connection
        ConnectionLimits.watch(self._options, core)
        return core

    # --- What users call -------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Add handlers that are asked for each method in turn."""
        self._handlers.add_generic(generic_rpc_handlers)
        self._behaviours.clear()

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Add the methods of a service."""
        self._handlers.add_registered(service_name, method_handlers)
        self._behaviours.clear()

    def add(self, servicer: SupportsAddTo[Self]) -> None:
        """Add a servicer that `hvrpc codegen` has made the base of."""
        servicer.add_to(self)

    def add_insecure_port(self, address: Address | str) -> int:
        """Listen on an address, and return its port: 1 where there is none, as in grpcio.

        Raises :class:`hvrpc.AddressError` or :class:`hvrpc.ListenError`.
        """
        where = self._acceptor.listen(address)
        return getattr(where, "port", None) or 1

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

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return self._acceptor.addresses

    async def start(self) -> None:
        """Begin to serve, and return at once."""
        if self._stopping is not None:
            raise aio.UsageError("Server not in ready state")
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        services = self._handlers.services
        if self._health is not None:
            await standard.announce_async(self._health, services)
        if self._reflection:
            standard.add_reflection(self, self._reflection, services)
        await self._acceptor.start()

    async def stop(self, grace: float | None) -> None:
        """Take no more calls, give those under way `grace` seconds, and end. Returns when all is over.

        Called again with less grace, it ends sooner.
        """
        if self._stopping is None:
            loop = asyncio.get_running_loop()
            self._stopping = loop.create_task(self._stop(grace or 0.0))
            self._stopping.add_done_callback(lambda _: self._stopped.set())
            await asyncio.shield(self._stopping)
            return
        if not self._stopping.done():
            await asyncio.wait([self._stopping], timeout=grace or 0.0)
            self._acceptor.hurry()
        await asyncio.shield(self._stopping)

    async def _stop(self, grace: float) -> None:
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await self._acceptor.close(grace)
        self._deadlines.close()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Wait until it has stopped. True: the time was up first."""
        try:
            async with asyncio.timeout(timeout):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False

    def __del__(self) -> None:
        """Nobody can stop it any more."""
        loop = self.__dict__.get("_loop")
        if loop is not None and self._stopping is None and not loop.is_closed():
            loop.call_soon_threadsafe(_close, self._acceptor)

    # --- What the cores call -----------------------------------------------------------------------

    def takes_one(self, path: str) -> bool:
        """Whether the requests of this method are one message each, as far as is known."""
        return self._handlers.takes_one(path)

    def run(self, call: ServerCall) -> Awaitable[None] | None:
        """Carry a call out."""
        if self._most is not None:
            if self._running >= self._most:
                _end(call, grpc.StatusCode.RESOURCE_EXHAUSTED, LIMIT_EXCEEDED)
                call.core.ended(call)
                return None
            self._running += 1
        return self._carry_out(call)

    # --- One call --------------------------------------------------------------------------------

    async def _carry_out(self, call: ServerCall) -> None:
        task = asyncio.current_task()
        assert self._loop is not None
        assert task is not None
        try:
            if call.cancelled:
                return
            call.on_cancelled = task.cancel
            if call.request.timeout is not None:
                self._deadlines.add(_Late(call, task), call.request.timeout, self._loop)
            behaviour = self._behaviours.get(call.request.path)
            if behaviour is None or self._interceptors:
                behaviour = await self._find(call)
            if behaviour is not None:
                await self._behave(call, behaviour)
        except BaseException as error:  # whatever it is, the caller waits for an answer
            if not (call.answered or call.cancelled):
                _end(call, *_ending_of(error))
            raise
        finally:
            if self._most is not None:
                self._running -= 1
            call.core.ended(call)

    async def _find(self, call: ServerCall) -> Behaviour | None:
        """How the handler is to be run; None when the call was answered because there is none."""
        path = call.request.path
        try:
            handler = await self._ask(call.request)
        except Exception as error:
            logger.exception("Exception servicing handler: %s", error)
            _end(call, *_ending_of(error))
            return None
        if handler is None:
            _end(call, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return None
        behaviour = Behaviour(handler)
        if self._handlers.known.get(path) is handler:
            self._behaviours[path] = behaviour
        return behaviour

    async def _ask(self, request: Request) -> Any:
        """Find the handler, through the interceptors."""

        async def proceed(interceptors: tuple[Any, ...], details: Any) -> Any:
            if not interceptors:
                return self._handlers.find(details)

            async def others(details: Any) -> Any:
                return await proceed(interceptors[1:], details)

            return await interceptors[0].intercept_service(others, details)

        if not self._interceptors:
            return self._handlers.known.get(request.path) or self._handlers.find(
                details_of(request)
            )
        return await proceed(self._interceptors, details_of(request))

    async def _behave(self, call: ServerCall, behaviour: Behaviour) -> None:
        assert self._loop is not None
        context = Context(
            call,
            self._loop,
            behaviour.deserialize,
            behaviour.serialize,
            self._most_sent,
            self._compression,
        )
        requests_stream, responses_stream = behaviour.streams
        try:
            problem = call.request.problem
            if problem is not None:  # which all such calls share
                raise StatusError(problem.code, problem.details)
            if call.error is not None:
                raise call.error
            if requests_stream:
                request: Any = BlockingRequests(context) if behaviour.blocks else Requests(context)
            else:
                message = call.take() if call.one else await _only(context)
                if message is None:
                    context.check_complete()
                    what = f'"{call.request.path}" requires exactly one request message.'
                    _end(call, grpc.StatusCode.UNIMPLEMENTED, what)
                    return
                deserialize = behaviour.deserialize
                request = message if deserialize is None else deserialize(message)
            if responses_stream:
                await self._respond_often(behaviour, request, context)
            else:
                await self._respond_once(behaviour, request, context)
        except StatusError as error:
            context.end(error.code, error.details)
        except aio.AbortError:
            if context.aborted is None:
                context.end(grpc.StatusCode.UNKNOWN, "aborted by an error of another call")
        except asyncio.CancelledError:
            if not call.answered and not call.cancelled:
                context.end(grpc.StatusCode.CANCELLED, CANCELLED)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        except Exception as error:
            _failed(context, error)
        finally:
            if requests_stream:
                call.core.stop_reading(call)
            if context.callbacks is not None:
                context.run_callbacks()

    async def _respond_once(self, behaviour: Behaviour, request: Any, context: Context) -> None:
        if behaviour.blocks:
            response = await self._in_thread(behaviour.function, request, context)
        else:
            response = await behaviour.function(request, context)
        call = context.call
        if context.aborted is not None:
            logger.error("Abort error unexpectedly suppressed: %s", call.request.path)
            return
        if not context.ends_well:
            context.end(status_code(context.code_), context.details_)
            return
        serialize = behaviour.serialize
        payload = as_bytes(response if serialize is None else serialize(response))
        if context.plain and len(payload) <= MOST_JOINED and len(payload) <= self._most_sent:
            call.core.answer(call, pack(payload))
            return
        await context.send(payload)
        context.end(grpc.StatusCode.OK, context.details_)

    async def _in_thread(self, function: Any, request: Any, context: Context) -> Any:
        blocking = BlockingContext(context)
        try:
            return await in_thread(self._pool, function, request, blocking)
        finally:
            blocking.run_callbacks()

    async def _respond_often(self, behaviour: Behaviour, request: Any, context: Context) -> None:
        function = behaviour.function
        if behaviour.blocks:
            blocking = BlockingContext(context)
            try:
                responses = blocking_responses(self._pool, function, request, blocking)
                await self._send_all(responses, context)
            finally:
                blocking.run_callbacks()
        elif behaviour.generates:
            await self._send_all(function(request, context), context)
        else:
            await function(request, context)
        if context.aborted is not None:
            return
        code = grpc.StatusCode.OK if context.code_ is None else status_code(context.code_)
        context.end(code, context.details_)

    async def _send_all(self, responses: Any, context: Context) -> None:
        """Send what a generator yields; it is closed in any case."""
        try:
            async for response in responses:
                await context.write(response)
        finally:
            await responses.aclose()


async def _only(context: Context) -> bytes | None:
    """The one message of a request whose end may not have come yet."""
    return await context.receive()


class _Late:
    """A call that must end by its caller's deadline."""

    __slots__ = ("_call", "_task")

    def __init__(self, call: ServerCall, task: asyncio.Task[Any]) -> None:
        self._call = call
        self._task = task

    @property
    def over(self) -> bool:
        return self._task.done()

    @property
    def deadline(self) -> float | None:
        return self._call.deadline

    def is_due(self) -> None:
        call = self._call
        if not call.answered:
            _end(call, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            call.core.connection.push()
        call.give_up()
        self._task.cancel()


def _failed(context: Context, error: Exception) -> None:
    """A handler has raised."""
    call = context.call
    name = call.request.path
    if call.answered or call.cancelled:
        logger.debug("%s raised after the call had ended", name, exc_info=error)
        return
    if is_left_out(error, context.code_):
        logger.warning(LEFT_OUT, name)
    else:
        logger.error(
            "Unexpected [%s] raised by servicer method [%s]",
            type(error).__name__,
            name,
            exc_info=error,
        )
    code, details = _ending_of(error)
    context.end(code if context.ends_well else status_code(context.code_), details)


def _ending_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """How a call ends whose handler, or interceptor, has raised this."""
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED, CANCELLED
    try:
        details = f"Unexpected {type(error)}: {error}"
    except Exception:
        details = f"Unexpected {type(error)}"
    return grpc.StatusCode.UNKNOWN, details


def _end(call: ServerCall, code: grpc.StatusCode, details: str) -> None:
    """End a call with a status that its handler knows nothing of."""
    call.core.end(call, code, ((b"grpc-message", encode_message(details)),))


def _checked(interceptors: Sequence[Any] | None) -> tuple[Any, ...]:
    """The interceptors, if that is what they are."""
    chosen = tuple(interceptors or ())
    wrong = [one for one in chosen if not isinstance(one, aio.ServerInterceptor)]
    if wrong:
        raise ValueError(
            f"Interceptor must be ServerInterceptor, the following are invalid: {wrong}"
        )
    return chosen


def _close(acceptor: Acceptor[ServerCore]) -> None:
    _closing.add(task := asyncio.get_running_loop().create_task(acceptor.close(0)))
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[bool]] = set()


# --- A server as a program -----------------------------------------------------------------------


async def serve(
    address: Address | str,
    service: Any,
    *,
    ready: Callable[[Address], object] | None = None,
    grace: float = GRACE,
    allow: Access | Rule | Iterable[Rule] | None = None,
    tls: Tls | ssl.SSLContext | None = None,
    **settings: Any,
) -> None:
    """Serve until cancelled, or told to stop by SIGTERM. See :func:`hvrpc.grpc.serve`."""
    server = Server(**settings)
    where = listening(server, address, service, allow, tls)

    async def begin() -> None:
        await server.start()
        if ready is not None:
            ready(where)

    await serve_until_told_async(begin, lambda: server.stop(grace))
