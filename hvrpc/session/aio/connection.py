"""One connection on an event loop.

The socket was connected, or accepted, in blocking calls; the loop adopts it. What makes it fast:

* bytes are received into a buffer of our own (`BufferedProtocol`): asyncio's plain protocol maps and
  unmaps a quarter of a megabyte for each small message;
* the first message of a loop's turn is written at once, what follows in the same turn is joined;
* calls with the same timeout have no timer of their own: one look at intervals finds the late ones.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, cast

from ...errors import ConnectionLost, HvrpcError, ProtocolError
from ...sockets import Stream, causes
from ..core import JOIN, MANY_ANSWERS, Call, CoreT, ends_large, joined
from ..state import Event, Heartbeat, Lifecycle, Verdict
from .tls import TlsProtocol

logger = logging.getLogger("hvrpc.session")

CHUNK: Final = 64 * 1024
"""Bytes received at once."""
RESTED_DRAIN: Final = 0.1
"""Seconds that closing waits for the other side when nothing was under way."""
SLICE: Final = 0.01
"""Seconds between looks, when closing, for what is not sent yet."""
ONE: Final = 512
"""Bytes that are looked at as one message first, for they are one as a rule."""
LOOK: Final = 0.25
"""Seconds between looks for calls that are late and peers that are silent."""
MAX_QUEUED: Final = 16 * 1024 * 1024
"""Bytes that wait to be sent before we stop reading what would add to them."""
MAX_QUEUED_ITEMS: Final = 4096
"""The same as a number of messages, which can be counted at once."""
STALLED_AFTER: Final = 30.0
"""Seconds without progress after which a peer that does not read is given up."""


class _Lane:
    """Where handlers run: in the loop, which nobody takes over while one takes long."""

    reader: object = None
    handled = 0
    serving = 0


_LANE: Final = _Lane()


class FutureCall(Call):
    """A call that a coroutine waits for."""

    limit: float | None = None
    """Seconds after which it is late, roughly; None when it has a timer of its own, or none."""
    looks = -1
    """Looks after which it is late; -1 before the first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[None] = asyncio.Future(loop=loop)

    def wake(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        future = self.future
        if not future.done():
            future.set_result(None)


def settle(future: asyncio.Future[None]) -> None:
    """Wake whoever waits for it. It may have been told already, or be cancelled."""
    if not future.done():
        future.set_result(None)


class Connection(asyncio.BufferedProtocol, Generic[CoreT]):
    """A core on a stream, driven by a loop."""

    def __init__(
        self,
        stream: Stream,
        core: CoreT,
        *,
        heartbeat: Heartbeat | None = None,
        watchful: bool = False,
        on_end: Callable[[Connection[CoreT]], object] | None = None,
    ) -> None:
        self.stream = stream
        self.core = core
        self.life = Lifecycle()
        self.life.happened(Event.OPENED)
        self.ended = False
        self._heartbeat = heartbeat
        self._watchful = watchful
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer, self._view = _receive_buffer(self._loop)
        self._todo: deque[Any] = deque()
        self._nonsense: ProtocolError | None = None
        self._filling = False
        self._corked = False
        self.crowded = False
        """Whether a caller should wait for `room` before it adds to the queue."""
        self._progress = 0.0
        self._unsent_then = 0
        self._not_reading = False
        self._room: set[Callable[[], object]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._look_every = LOOK if heartbeat is None else min(LOOK, heartbeat.dead_after / 12)
        self._rough = 8 * self._look_every
        """Seconds of a limit that is roughly kept by looks."""
        self._over = self._loop.create_future()
        self._idle: asyncio.Future[None] | None = None
        self._drain_by = 0.0
        core.run_coroutine = self.run

    @classmethod
    async def adopt(cls, stream: Stream, core: CoreT, **settings: Any) -> Connection[CoreT]:
        """Put a connected stream on the running loop."""
        connection = cls(stream, core, **settings)
        await connection.put_on_loop()
        return connection

    async def put_on_loop(self) -> None:
        """Hand the socket over to the loop, which calls us from now on."""
        sock = self.stream.detach()
        sock.setblocking(False)
        protocol = self if self.stream.tls is None else TlsProtocol(self.stream, self)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except BaseException:
            sock.close()
            raise

    # --- What the loop calls -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.ended:  # before it had begun, when nothing could be closed
            self._transport.abort()
        elif self._watchful:
            self.look_out()

    def get_buffer(self, sizehint: int) -> memoryview:
        target = self.core.target
        if target is not None:
            self._filling = True
            return target
        self._filling = False
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        core = self.core
        todo = self._todo
        if self._heartbeat is not None:
            self._heartbeat._heard = True
        if self._filling:
            core.filled(nbytes)
            self._digest(None)
        elif nbytes > ONE or todo or not core.only_one(self._buffer[:nbytes], todo):
            self._digest(self._view[:nbytes])
        else:
            if todo:
                work = core.serve_simple(todo, _LANE, None)
                if work is not None:
                    todo.append(work)
                    self._digest(None)
                    return
            if core.outgoing:
                self._flush()
                if self.crowded and self._overfull():
                    self._stop_reading()

    def eof_received(self) -> bool:
        self.end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc if isinstance(exc, OSError) else None)
        if not self._over.done():
            self._over.set_result(None)

    def pause_writing(self) -> None:
        self.crowded = not self.ended
        self._progress = self._loop.time()
        self.look_out()

    def resume_writing(self) -> None:
        self.crowded = False
        self._flush()
        if not self.crowded:
            self._read_on()
            self._tell_of_room()

    # --- Receiving -----------------------------------------------------------------------------

    def _digest(self, data: memoryview | None) -> None:
        core = self.core
        todo = self._todo
        queue = core.outgoing
        full = False
        while not full:
            if self._nonsense is None and (data is not None or not todo):
                try:
                    core.digest(data, todo)
                except ProtocolError as error:
                    self._nonsense = error  # what came before it is carried out first
                data = None
            if not todo:
                break
            while todo and not full:
                work = core.serve_simple(todo, _LANE, None)
                if work is not None:
                    awaitable = core.serve_async(work)
                    if awaitable is not None:
                        self._begin(work, awaitable)
                # Answers that pile up, or are large, go out before more of them are made.
                if len(queue) >= MANY_ANSWERS or ends_large(queue):
                    self._flush()
                    full = self.crowded and self._overfull()
            if not core.has_more:
                break
        if queue:
            self._flush()
        if self._nonsense is not None and not todo:
            self._broken(self._nonsense)
        elif (self.crowded and self._overfull()) or (core.throttled and not self._look_ahead()):
            self._stop_reading()

    def _look_ahead(self) -> bool:
        """As many handlers run as may: what cancels one may be what comes next. False: no more may come."""
        core = self.core
        try:
            core.look_ahead(None, self._todo)
        except ProtocolError as error:
            self._broken(error)
            return False
        if core.outgoing:
            self._flush()
        return core.may_look_ahead

    def _begin(self, work: Any, awaitable: Awaitable[None]) -> None:
        """Run a coroutine as a task; a quick one is over at once where Python can do that."""
        task: asyncio.Task[None]
        coroutine = cast(Any, awaitable)
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=self._loop, eager_start=True)
            if task.done():
                return
        else:
            task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        self.core.begun(work, task)
        task.add_done_callback(self._task_done)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task that ends with the connection, at the latest."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s: a task failed", self.stream.peer, exc_info=task.exception())
        if not self.ended:
            self.push()
            self._read_on()
        if self._idle is not None and not self.core.busy:
            settle(self._idle)

    def _stop_reading(self) -> None:
        if not self._not_reading and self._transport is not None:
            self._not_reading = True
            self._transport.pause_reading()
            self.look_out()

    def _read_on(self) -> None:
        """Reading may go on, if it was stopped and there is room now."""
        if not (self._not_reading or self.core.throttled) or self.ended:
            return
        if not (self.crowded and self._overfull()):
            if self._not_reading and self._transport is not None:
                self._transport.resume_reading()
            self._not_reading = False
            if self._todo or self.core.has_more:
                self._digest(None)

    def _overfull(self) -> bool:
        """Whether so many answers wait to be sent that reading on would only add to them.

        Calls of our own do not count: reading adds none, and if both sides stopped reading because
        of what they ask, neither would ever go on.
        """
        messages, size = self.core.queued_answers()
        return messages > MAX_QUEUED_ITEMS or size > MAX_QUEUED

    # --- Sending -------------------------------------------------------------------------------

    def push(self) -> None:
        """Send what the core has queued: at once, or together with what follows in this turn."""
        if not self._corked:
            self._corked = True
            self._loop.call_soon(self._uncork)
            self._flush()
        elif ends_large(self.core.outgoing):
            self._flush()  # at once, so that the next caller learns whether there is room for more
        if self._not_reading and self.core.waiting:
            self._loop.call_soon(self._read_on)  # for the answer comes the same way

    def _uncork(self) -> None:
        self._corked = False
        if self.core.outgoing:
            self._flush()

    def _flush(self) -> None:
        queue = self.core.outgoing
        transport = self._transport
        if transport is None or self.ended:
            return
        core = self.core
        while (queue or (core.unsent and core.refill())) and not self.crowded:
            item = queue.popleft()
            if type(item) is tuple:
                for part in item:
                    transport.write(part)
            elif queue:
                transport.write(joined(item, queue)[1])
            else:
                transport.write(item)
                if not core.unsent:
                    return

    async def room(self) -> None:
        """Wait until the other side takes what was sent to it."""
        while self.crowded:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self.when_room(partial(settle, waiter))
            await waiter

    def when_room(self, tell: Callable[[], object]) -> None:
        """Have something called when it is worth looking again whether it is `crowded`."""
        self._room.add(tell)

    def _tell_of_room(self) -> None:
        room, self._room = self._room, set()
        for tell in room:
            tell()

    # --- Waiting for an answer -------------------------------------------------------------------

    def make_call(self) -> FutureCall:
        """A call that :meth:`wait` can wait for."""
        return FutureCall(self._loop)

    async def wait(self, call: FutureCall, limit: float | None, *, exact: bool) -> bool:
        """Wait until a call is done; False when `limit` seconds passed first.

        An exact limit has a timer; others are noticed at the next look.
        """
        if call.done:
            return True
        handle: asyncio.TimerHandle | None = None
        if limit is not None and (exact or not self.look_after(call, limit)):
            handle = self._loop.call_later(limit, settle, call.future)
        if self._timer is None:
            self.look_out()
        try:
            await call.future
        finally:
            if handle is not None:
                handle.cancel()
        return call.done

    def begin(self, item: Any, call: FutureCall, limit: float | None, *, alone: bool) -> bool:
        """Send what a call says, and :meth:`look_after` it: `push` and that in one, for the usual case.

        Who is alone, with nothing else under way, does not wait for others to join.
        """
        core = self.core
        queue = core.outgoing
        call.item = item
        transport = self._transport
        if (
            alone
            and type(item) is bytes
            and not (queue or self.crowded or self.ended)
            and transport is not None
        ):
            transport.write(item)
        else:
            queue.append(item)
            if self.ended:
                core.check(call)
            if not self._corked:
                self._corked = True
                self._loop.call_soon(self._uncork)
                self._flush()
            elif type(item) is tuple or len(item) >= JOIN:
                self._flush()
        if self._not_reading:
            self._loop.call_soon(self._read_on)  # for the answer comes the same way
        return self.look_after(call, limit)

    def look_after(self, call: FutureCall, limit: float | None) -> bool:
        """Have a call end when `limit` seconds have passed, roughly; False if that is too rough."""
        if self._timer is None:
            self.look_out()
        if limit is not None:
            if limit < self._rough:
                return False
            call.limit = limit
        return True

    def look_out(self) -> None:
        """Begin to look, at intervals, for calls that are late and for a peer that is silent."""
        if self._timer is None and not self.ended:
            self._timer = self._loop.call_later(self._look_every, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.ended:
            return
        for call in list(self.core.calls()):
            if isinstance(call, FutureCall) and call.limit is not None:
                if call.looks < 0:
                    # Not counting this one, and the one that ends it: late by two looks at most.
                    call.looks = int(call.limit / self._look_every)
                elif call.looks > 0:
                    call.looks -= 1
                else:
                    settle(call.future)
        now = self._loop.time()
        if self.crowded and self._stalled(now):
            self.end(TimeoutError(f"the peer has read nothing for {STALLED_AFTER:g} s"))
            return
        if self._heartbeat is not None and (self._watchful or self.core.waiting):
            verdict = self._heartbeat.due(now)
            if verdict is Verdict.PING:
                if self.core.ping():
                    self.push()
                else:
                    self._heartbeat.heard()  # a stranger: it cannot be asked
            elif verdict is Verdict.DEAD:
                seconds = self._heartbeat.dead_after
                self.end(TimeoutError(f"the peer gave no sign of life for {seconds:g} s"))
                return
        if self._not_reading and self.core.throttled:
            self.core.reassure()
            self.push()
        if self._watchful or self.crowded or self._not_reading or self.core.waiting:
            self.look_out()

    def _stalled(self, now: float) -> bool:
        """Whether the peer has taken nothing for too long of what waits to be sent."""
        waits = self._unsent()
        if waits != self._unsent_then:
            self._unsent_then = waits
            self._progress = now
        return now - self._progress > STALLED_AFTER

    def _unsent(self) -> int:
        """Bytes that the loop has taken from us and the system has not taken from the loop."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    # --- The end -------------------------------------------------------------------------------

    async def drain(self, grace: float) -> bool:
        """Say goodbye, finish what was taken, say the last word, and end.

        False when something was left unfinished after `grace` seconds.
        """
        deadline = self._drain_by = self._loop.time() + grace
        rested = not self.core.busy
        self.core.goodbye()
        self._flush()
        finished = await self._wait_until_idle()
        self.core.farewell()
        self._flush()
        await self._wait_until_sent(max(deadline, self._loop.time() + 0.1))
        # A peer that waits for nothing may not read: it would not notice for the whole time.
        await self.close(RESTED_DRAIN if rested else None)
        return finished

    def hurry(self) -> None:
        """Give no more grace to what `drain` waits for."""
        self._drain_by = self._loop.time()
        if self._idle is not None:
            settle(self._idle)

    async def _wait_until_idle(self) -> bool:
        while self.core.busy and not self.ended:
            left = self._drain_by - self._loop.time()
            if left <= 0:
                return False
            self._idle = self._loop.create_future()
            # Calls of ours end without telling; a task of the peer's tells.
            await asyncio.wait([self._idle], timeout=min(left, 0.05))
        return True

    async def _wait_until_sent(self, deadline: float) -> None:
        while (self.core.outgoing or self._unsent()) and not self.ended:
            if self._loop.time() >= deadline:
                return
            await asyncio.sleep(SLICE)

    async def close(self, drain: float | None = None) -> None:
        """End it, waiting a bounded time for the other side to end too."""
        longest = self.stream.options.drain
        transport = self._transport
        self.end(None)
        if transport is not None and not self._over.done():
            await asyncio.wait(
                [self._over], timeout=longest if drain is None else min(drain, longest)
            )
            transport.abort()
            await asyncio.wait([self._over], timeout=longest)
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=longest)

    def end(self, cause: OSError | HvrpcError | None) -> None:
        """The connection is over. Every call on it ends now; may be called twice."""
        if self.ended:
            return
        self.ended = True
        self.crowded = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        orderly = cause is None and not self.core.waiting
        self.life.happened(Event.FINISHED if orderly else Event.GONE)
        self.core.fail(None if orderly else self._explain(cause))
        transport = self._transport
        if transport is not None:
            if cause is not None:
                transport.abort()
            elif transport.can_write_eof() and not transport.is_closing():
                try:
                    transport.write_eof()
                except OSError:  # the other side has reset it since it was heard last
                    transport.abort()
            else:
                transport.close()
        self._tell_of_room()
        if self._idle is not None:
            settle(self._idle)
        if self._on_end is not None:
            self._on_end(self)

    def _explain(self, cause: OSError | HvrpcError | None) -> HvrpcError:
        if isinstance(cause, HvrpcError):
            return cause
        if cause is None:
            problem = "the connection ended before the answer came"
        elif isinstance(cause, TimeoutError):
            problem = str(cause)
        else:
            problem = causes.meaning_of(cause, causes.RECEIVE, self.stream.family).cause
        lost = ConnectionLost(problem, address=str(self.stream.address))
        lost.__cause__ = cause
        return lost

    def _broken(self, error: ProtocolError) -> None:
        logger.warning("%s: %s: closing the connection", self.stream.peer, error.problem)
        self._flush()
        self.end(error)


_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[bytearray, memoryview]] = (
    weakref.WeakKeyDictionary()
)


def _receive_buffer(loop: asyncio.AbstractEventLoop) -> tuple[bytearray, memoryview]:
    """One buffer for all connections of a loop, so that ten thousand idle ones need no gigabyte.

    Between `get_buffer` and `buffer_updated` nothing else runs, except on Windows' proactor loop:
    there a receive that waits holds its buffer, so every connection has its own.
    """
    if sys.platform == "win32":
        return _new_buffer()
    found = _buffers.get(loop)
    if found is None:
        found = _buffers[loop] = _new_buffer()
    return found


def _new_buffer() -> tuple[bytearray, memoryview]:
    buffer = bytearray(CHUNK)
    return buffer, memoryview(buffer)
