"""One call under way, apart from the object that users hold.

What the core tells it becomes results of futures. It is made again on another connection when it has
certainly not been carried out, or when the service config asks for that: all its waiters notice of this is
that it takes longer.

The object that users hold knows this and is not known here: when nobody holds it any more, the call
is given up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import grpc

from ...errors import CallError, HvrpcError, Outcome
from ...http2 import Fields
from ...session.aio import Connection
from ...session.core import Call
from ...session.repeating import doubtful, may_have_run, untaken
from .. import timeouts
from ..calling import CREDIT, ClientCall, ClientCore, StreamCall
from ..messages import MOST_JOINED, compress, pack, pieces
from ..outcome import CANCELLED, DEADLINE_EXCEEDED, ending_of_failure
from ..service_config import PUSHBACK, Retrying
from ..status import StatusError
from ..wire import PLAIN, Ending

if TYPE_CHECKING:
    from .channel import Method

logger = logging.getLogger("hvrpc.grpc")

MUCH: Final = 256 * 1024
"""Bytes of one call that may wait to be sent before its sender has to wait."""
MANY: Final = 64
"""Messages that are queued in one turn of the loop before others get theirs."""
SEVERAL: Final = 16
"""Who wait for a call, before it is looked whether they wait still."""
MOST_KEPT: Final = 256 * 1024
"""Bytes of requests that are kept to be sent again; a call that has sent more is not made again."""

# What belongs to one attempt: defaults of the class are what the next one begins with.
_OF_AN_ATTEMPT: Final = (
    "assembler",
    "decided",
    "done",
    "ended",
    "failure",
    "first",
    "headers",
    "item",
    "key",
    "reset",
    "room",
    "sending",
    "trailers",
    "waits_to_open",
)


class Rpc(ClientCall):
    """A call with one response: nobody looks at it before its end."""

    over = False
    """It has ended for good."""
    given_up = False
    """This side has ended it."""
    cancelled_here = False
    """And that by the user's wish."""
    begun = False
    """It has been on a connection, and may have been carried out unless something says that it was not."""
    in_doubt = False
    """It was made again after it may have been carried out."""
    connection: Connection[ClientCore] | None = None
    deadline: float | None = None
    extra: Fields = ()
    request: bytes | None = None
    """The only one; None when requests stream."""
    keeps: list[bytes] | None = None
    """Streamed requests that could be sent again."""
    half_closed = False
    """No more requests follow those that are being sent."""
    vouching: Callable[[], Awaitable[Fields]] | None = None
    """Gives what call credentials add to the metadata, when that takes a while."""

    _kept = 0
    _delayed = 0
    """How many wait for a connection with a request to send."""
    task: asyncio.Task[None] | None = None
    """What waits for a connection, or until it is time to try again."""
    _callbacks: list[Callable[[], object]] | None = None
    _retrying: Retrying | None = None
    _repetitions = 0

    def __init__(self, method: Method, loop: asyncio.AbstractEventLoop) -> None:
        self.most = method.most_received
        self.method = method
        self.fields = method.fields
        self.compression = method.compression
        self.wait_for_ready = method.wait_for_ready
        self.loop = loop
        self.waiters: list[asyncio.Future[None]] = []

    # --- Beginning -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Send it now if there is a connection, or else when there is one."""
        channel = self.method.channel
        channel.used = True
        connection = channel.session.ready()
        if connection is not None and not connection.crowded and self.vouching is None:
            self._put_on(connection, self.extra)
        else:
            self._spawn(self._begin_later(0.0))

    def _spawn(self, coroutine: Any) -> None:
        channel = self.method.channel
        channel.waiting.add(self)
        self.task = self.loop.create_task(coroutine)
        self.task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        if self.task is task:
            self.task = None
            self.method.channel.waiting.discard(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a call could not be begun", exc_info=error)
            self.end_by(Ending(grpc.StatusCode.INTERNAL, str(error)))

    async def _begin_later(self, wait: float) -> None:
        if wait:
            await asyncio.sleep(wait)
        channel = self.method.channel
        if (vouching := self.vouching) is not None:
            self.vouching = None
            try:
                self.extra += await vouching()
            except StatusError as error:
                self._end(Ending(error.code, error.details))
                return
        try:
            connection = await channel.connected(wait_for_ready=self.wait_for_ready)
            if connection.crowded:
                await connection.room()
        except HvrpcError as failure:
            self._fail(failure)
            return
        if self.over:
            return
        extra = self.extra
        if self.deadline is not None:  # it comes first
            left = timeouts.encode(max(self.deadline - time.monotonic(), 0.0))
            extra = ((b"grpc-timeout", left), *extra[1:])
        self._put_on(connection, extra)
        self.tell()

    def _put_on(self, connection: Connection[ClientCore], extra: Fields) -> None:
        self.begun = True
        self.connection = connection
        core = connection.core
        request = self.request
        if request is not None and len(request) <= MOST_JOINED:
            if self.compression is PLAIN:
                core.start_unary(self, self.fields, pack(request), extra)
            else:
                packed = pack(*compress(request, self.compression))
                core.start_unary(self, self.fields, packed, extra)
        else:
            core.start(self, self.fields, extra)
            if request is not None:
                core.send(self, self._pieces(request), end=True)
            else:
                for kept in self.keeps or ():
                    core.send(self, self._pieces(kept))
                self._half_close()
        connection.push()
        connection.look_out()  # it may have stopped, for want of calls

    def _pieces(self, payload: bytes) -> tuple[bytes, ...]:
        if self.compression is PLAIN:
            return pieces(payload)
        return pieces(*compress(payload, self.compression))

    # --- Sending more ----------------------------------------------------------------------------

    async def send(self, payload: bytes) -> bool:
        """Send a request. Waits while too much waits to be sent. False: the call has ended."""
        connection = self.connection
        if connection is None or self.ended:
            self._delayed += 1
            try:
                while (connection := self.connection) is None or self.ended:
                    if self.over:
                        return False
                    await self.wait()
            finally:
                self._delayed -= 1
        core = connection.core
        if self.keeps is not None:
            self._keep(payload)
        queued = core.send(self, self._pieces(payload))
        if queued < 0:
            return not self.over
        if self.half_closed:  # said while this was delayed
            self._half_close()
        connection.push()
        if queued > MUCH:
            await self._until_sent(connection)
        elif connection.crowded:
            await self._until_room(connection)
        elif len(core.outgoing) >= MANY:
            await asyncio.sleep(0)
        else:
            return True
        return not self.over

    async def _until_sent(self, connection: Connection[ClientCore]) -> None:
        """Wait until what was queued has been sent, or cannot be any more."""
        told = Call()
        told.wake = self.tell
        while self.connection is connection and connection.core.queued(self, told):
            await self.wait()

    async def _until_room(self, connection: Connection[ClientCore]) -> None:
        """Wait until the connection takes more, or it does not matter any more."""
        while self.connection is connection and connection.crowded and not self.ended:
            connection.when_room(self.tell)
            await self.wait()

    def _keep(self, payload: bytes) -> None:
        assert self.keeps is not None
        self._kept += len(payload)
        if self._kept > MOST_KEPT or self.headers is not None:
            self.keeps = None
        else:
            self.keeps.append(payload)

    def send_end(self) -> None:
        """No more requests follow."""
        self.half_closed = True
        self._half_close()

    def _half_close(self) -> None:
        """Say so, once the requests have been sent."""
        connection = self.connection
        if self.half_closed and not self._delayed and connection is not None and not self.ended:
            connection.core.send(self, (), end=True)
            connection.push()

    # --- What the core tells ---------------------------------------------------------------------

    def wake(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        # The core's lock is held: nothing of the user's may run here, nor anything of the core's.
        if self.ended and not self.over:
            again = self._again()
            if again is None:
                self._finish()
            else:
                self.loop.call_soon(again)
        else:
            self.tell()

    def tell(self) -> None:
        """There is something new for whoever waits."""
        waiters = self.waiters
        if waiters:
            self.waiters = []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """Wait for it."""
        if len(self.waiters) >= SEVERAL:  # some may have given up
            self.waiters = [waiter for waiter in self.waiters if not waiter.done()]
        waiter: asyncio.Future[None] = self.loop.create_future()
        self.waiters.append(waiter)
        return waiter

    def _finish(self) -> None:
        self.over = True
        self.keeps = None
        callbacks = self._callbacks
        if callbacks:
            self._callbacks = None
            for callback in callbacks:
                self.loop.call_soon(callback)
        self.tell()
        connection = self.connection
        if connection is not None and connection.core.draining:
            self.loop.call_soon(self.method.channel.session.retire, connection)

    # --- Making it again -------------------------------------------------------------------------

    def _again(self) -> Callable[[], object] | None:
        """How to make it again, if it has failed in a way that allows it."""
        if self.given_up or self.method.channel.closed:
            return None
        failure = self.failure
        if failure is None and self.decided is None and self.ending.code is grpc.StatusCode.OK:
            self._went_well()
            return None
        if self.request is None and self.keeps is None:
            return None
        if isinstance(failure, CallError) and failure.outcome is Outcome.NOT_SENT:
            self._repetitions += 1
            return self._repeat
        return self._retry()

    def _went_well(self) -> None:
        throttle = self.method.channel.throttle
        if throttle is not None:
            throttle.succeeded()

    def _repeat(self) -> None:
        """It has not been carried out: once more, on another connection."""
        failure = self.failure
        if self.over or failure is None:
            return
        self._reset()
        spent = untaken(failure, self._repetitions)
        if spent is not None:
            self._fail(spent)
            return
        self._spawn(self._repeat_later(failure))

    async def _repeat_later(self, failure: HvrpcError) -> None:
        session = self.method.channel.session
        try:
            again = await session.repeat(
                failure, self._repetitions, self.deadline, idempotent=False
            )
        except HvrpcError:  # the channel was closed meanwhile
            again = False
        if not again:
            self._fail(failure)
            return
        await self._begin_later(0.0)

    def _retry(self) -> Callable[[], object] | None:
        """What the service config says about it."""
        policy = self.method.retry
        if policy is None or self.headers is not None:
            return None  # a response has begun
        if self.request is None and self.keeps is None:
            return None
        if self._retrying is None:
            self._retrying = Retrying(policy, self.method.channel.throttle)
        ending = self.ending
        wait = self._retrying.ended(ending.code, _pushback(ending))
        if wait is None:
            return None
        if self.deadline is not None and time.monotonic() + wait >= self.deadline:
            return None
        return lambda: self._retry_after(wait)

    def _retry_after(self, wait: float) -> None:
        if self.over or self._retrying is None:
            return
        attempts = (b"grpc-previous-rpc-attempts", b"%d" % (self._retrying.attempts - 1))
        failure = self.failure
        if failure is None or may_have_run(failure):
            self.in_doubt = True
        kept = [field for field in self.extra if field[0] != attempts[0]]
        self.extra = (*kept, attempts)
        self._reset()
        self._spawn(self._begin_later(wait))

    def _reset(self) -> None:
        """Begin anew, with what was said about the last attempt forgotten."""
        connection = self.connection
        if connection is not None and connection.core.draining:
            # It may have been the last call there, and comes back to another.
            self.method.channel.session.retire(connection)
        state = vars(self)
        for name in _OF_AN_ATTEMPT:
            state.pop(name, None)
        self.connection = None

    # --- The end -------------------------------------------------------------------------------

    def end_by(self, ending: Ending) -> bool:
        """End it from this side. False when it had ended."""
        if self.over:
            return False
        self.given_up = True
        if self.task is not None:
            self.task.cancel()
        connection = self.connection
        if connection is not None and connection.core.end(self, ending):
            connection.push()
        else:
            self._end(ending)
        return True

    def is_due(self) -> None:
        """Its deadline has come."""
        if self.connection is None and not self.over:
            late = self.method.channel.late()
            if late is not None:
                self.failure = doubtful(late) if self.in_doubt else late
        self.end_by(DEADLINE_EXCEEDED)

    def cancel(self, ending: Ending = CANCELLED) -> bool:
        """Give it up as the user wishes."""
        if self.over:
            return False
        self.cancelled_here = True
        return self.end_by(ending)

    def _fail(self, failure: HvrpcError) -> None:
        """There is no connection for it."""
        self.failure = doubtful(failure) if self.in_doubt else failure
        self.decided = ending_of_failure(self.failure)
        again = None if self.given_up or self.method.channel.closed else self._retry()
        if again is None:
            self._end(self.decided)
        else:
            self.loop.call_soon(again)

    def _end(self, ending: Ending) -> None:
        """End it while it is on no connection."""
        if not self.over:
            self.decided = ending
            self.ended = True
            self._finish()

    def when_over(self, callback: Callable[[], object]) -> None:
        """Call something at the end, which has not come yet."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    async def until_over(self) -> Ending:
        """Wait for the end."""
        while not self.over:
            await self.wait()
        return self.ending

    async def until_opened(self) -> Any:
        """Wait for what the server sends first: its metadata."""
        self.wants_headers = True
        while self.headers is None and not self.over:
            await self.wait()
        return self.initial

    @property
    def initial(self) -> Any:
        """The metadata that came first; nothing if its headers were the end as well."""
        opening = self.opening
        return () if opening is None else opening.metadata


class UnaryRpc(Rpc):
    """A call whose only message of either side."""


class StreamRpc(StreamCall, Rpc):
    """A call whose responses are taken as they come."""

    def __init__(self, method: Method, loop: asyncio.AbstractEventLoop) -> None:
        Rpc.__init__(self, method, loop)
        self._clear()

    def _clear(self) -> None:
        self.pieces = deque()
        self.messages = deque()
        self.taken = 0

    def _reset(self) -> None:
        super()._reset()
        self._clear()

    @property
    def is_empty(self) -> bool:
        """Whether nothing that has come waits to be taken."""
        return not self.pieces and not self.messages

    async def receive(self) -> bytes | None:
        """The next message; None when there is none any more."""
        while True:
            try:
                message = self.take()
            except StatusError as error:
                self.refuse(error)
                return None
            if self.taken >= CREDIT:
                self._credit()
            if message is not None:
                return message
            if self.over:
                return None
            self.done = False
            await self.wait()

    def _credit(self) -> None:
        connection = self.connection
        if connection is not None and connection.core.consumed(self):
            connection.push()

    def refuse(self, error: StatusError) -> None:
        """What came cannot be used: that is how it ends."""
        ending = Ending(error.code, error.details)
        if not self.end_by(ending):
            self.decided = ending
        self.pieces.clear()
        self.messages.clear()


def as_bytes(message: Any) -> bytes:
    """A message that was serialized; None is an empty one, as with grpcio."""
    if type(message) is bytes:
        return message
    if message is None:
        return b""
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message)
    raise TypeError(f"a message has to be serialized to bytes, not to {type(message).__name__}")


def _pushback(ending: Ending) -> str | None:
    for name, value in ending.fields:
        if name == _PUSHBACK:
            return value.decode("latin-1")
    return None


_PUSHBACK: Final = PUSHBACK.encode()
