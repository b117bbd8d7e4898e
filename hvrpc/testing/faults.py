"""A line that can be broken: it listens on one address and passes everything on to another.

    with Link("hvsock://web/5000") as link:
        stream = hvrpc.sockets.connect(link.address)
        link.stall()             nothing arrives, nothing fails: a paused VM
        link.resume()
        link.cut_after(10)       ten more bytes reach the target, then both sides see the end
        link.cut()               now
        link.refuse()            nobody listens any more

One thread does all the passing on and owns all state, and never blocks. What a test asks for is done
by that thread too, between two steps of its own: when `stall()` or `cut()` returns, it is a fact.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, TypeVar

from ..addresses import Address
from ..errors import HvrpcError
from ..sockets import DEFAULT_TIMEOUT, Listener, Stream, connect, listen

Direction: TypeAlias = Literal["to_target", "to_caller"]

READ_SIZE: Final = 64 * 1024
HELD_LIMIT: Final = 256 * 1024
"""Bytes that are held in one direction while they wait; with more, the sender has to wait."""
SLICES_PER_SECOND: Final = 50
"""A slow line passes on this often what has become due, rather than all of it once a second."""
ANSWER_TIMEOUT: Final = 10.0
"""Seconds for the thread to do what it was asked: it does so at once, unless it has died."""
DRAIN_LIMIT: Final = 16
"""Reads that throw away what a side had sent when it is cut: unread bytes would turn the end into
a reset, and a reset may destroy what has just arrived on the other side."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What has passed through a link."""

    connections: int = 0
    """Connections that reached the target."""
    open: int = 0
    """How many of them are there now."""
    failed: int = 0
    """Callers that were cut off because the target could not be reached."""
    to_target: int = 0
    """Bytes."""
    to_caller: int = 0
    """Bytes."""


class Link:
    """A relay to a target, with faults on demand. Use it in a `with` statement, or close it.

    `at` is where it listens: by default a free place on the fabric that this process itself, and
    nobody else, can reach. For guests it is `hvsock://any/0`; any address will do.
    """

    def __init__(
        self,
        target: Address | str,
        at: Address | str = "local://loopback/0",
        *,
        connect_timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self.target: Final = Address.parse(target)
        self._connect_timeout = connect_timeout
        listener = listen(at)
        self.address: Final = listener.address
        """Where to connect instead of the target."""
        self._relay = _Relay()
        self._door = _Door(listener, self._bring)

    # --- Faults ---

    def cut(self) -> None:
        """End all connections now. What had not arrived is lost. New connections work.

        A connection is one when it has reached the target: `wait_until(lambda now: now.open == 1)`.
        """
        self._relay.do(self._relay.cut_all)

    def cut_after(self, count: int, direction: Direction = "to_target") -> None:
        """Let so many more bytes pass in that direction, then :meth:`cut`. Without a connection
        this waits for one."""
        if count < 0:
            raise ValueError(f"a number of bytes is 0 or more, not {count}")
        self._relay.do(lambda: self._relay.set_allowance(direction, count))

    def stall(self) -> None:
        """Let nothing pass, and nothing fail, until :meth:`resume`. Buffers fill up."""
        self._relay.do(lambda: self._relay.set_stalled(True))

    def resume(self) -> None:
        """End a stall. Nothing was lost."""
        self._relay.do(lambda: self._relay.set_stalled(False))

    def slow(
        self,
        *,
        bytes_per_second: float | None = None,
        chunk: int | None = None,
        latency: float = 0.0,
    ) -> None:
        """Be a slow line from now on: so many bytes per second in each direction, at most `chunk`
        bytes at once, each `latency` seconds late. Without arguments it is a fast line again."""
        pace = _Pace(bytes_per_second, chunk, latency)
        self._relay.do(lambda: self._relay.set_pace(pace))

    def one_byte_at_a_time(self) -> None:
        """Send each byte by itself from now on. A reader that is slower may still find several."""
        self.slow(chunk=1)

    def refuse(self) -> None:
        """Stop listening: who connects is refused. Connections that exist go on."""
        self._door.close(self._connect_timeout)

    def admit(self) -> None:
        """End a refusal: listen again, on the same address."""
        if self._door.closed:
            self._door = _Door(listen(self.address), self._bring)

    # --- What has happened ---

    @property
    def statistics(self) -> Statistics:
        """What has passed so far."""
        return self._relay.statistics

    def wait_until(
        self, condition: Callable[[Statistics], bool], timeout: float = ANSWER_TIMEOUT
    ) -> Statistics:
        """Wait until the statistics are as they should be, for example `lambda s: s.to_target > 9`.

        Raises TimeoutError if they never are.
        """
        return self._relay.wait_until(condition, timeout)

    # --- Its end ---

    def close(self) -> None:
        """End everything: refuse callers, cut connections, end the threads."""
        self.refuse()
        self._relay.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _bring(self, caller: Stream) -> None:
        """Connect a caller to the target."""
        try:
            target = connect(self.target, timeout=self._connect_timeout)
        except HvrpcError:
            caller.abort()
            self._relay.count_failure()
            return
        self._relay.add(_Line(caller.detach(), target.detach()))


class _Door:
    """The thread that waits for callers."""

    def __init__(self, listener: Listener, bring: Callable[[Stream], None]) -> None:
        self._listener = listener
        self._bring = bring
        name = f"link {listener.address}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for caller, _ in self._listener:
            self._bring(caller)

    @property
    def closed(self) -> bool:
        return self._listener.closed

    def close(self, patience: float) -> None:
        """Let nobody in any more; wait for somebody who is just being brought to the target."""
        self._listener.close()
        self._thread.join(patience + 1)


# --- Passing on ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast a line is."""

    bytes_per_second: float | None = None
    chunk: int | None = None
    latency: float = 0.0

    @property
    def most_at_once(self) -> int:
        limits = [READ_SIZE]
        if self.chunk is not None:
            limits.append(self.chunk)
        if self.bytes_per_second is not None:
            limits.append(int(self.bytes_per_second / SLICES_PER_SECOND))
        return max(1, min(limits))


class _Half:
    """One direction of a connection: what was read from one side and waits for the other."""

    def __init__(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        self.direction: Direction = direction
        self.source = source
        self.sink = sink
        self.waiting: deque[tuple[float, bytes]] = deque()
        """With the time from which on each may be sent."""
        self.held = 0
        self.not_before = 0.0
        """When a slow line may send again."""
        self.source_ended = False
        self.sink_ended = False

    def can_read(self) -> bool:
        return not self.source_ended and self.held < HELD_LIMIT

    def due(self) -> float | None:
        """From when on something can be sent; None: there is nothing."""
        return max(self.waiting[0][0], self.not_before) if self.waiting else None

    def read(self, latency: float) -> None:
        try:
            data = self.source.recv(READ_SIZE)
        except BlockingIOError:
            return
        if data:
            self.waiting.append((time.monotonic() + latency, data))
            self.held += len(data)
        else:
            self.source_ended = True

    def send(self, most: int, bytes_per_second: float | None) -> int:
        when, data = self.waiting.popleft()
        sent = 0
        try:
            sent = self.sink.send(data[:most])
        except BlockingIOError:
            pass
        if sent < len(data):
            self.waiting.appendleft((when, data[sent:]))
        self.held -= sent
        if bytes_per_second:
            self.not_before = max(time.monotonic(), self.not_before) + sent / bytes_per_second
        return sent

    def take_rest(self, latency: float) -> None:
        """The source is gone: nothing follows what it had sent before that."""
        try:
            for _ in range(DRAIN_LIMIT):
                before = self.held
                self.read(latency)
                if self.held == before:
                    break
        except OSError:
            pass  # it left nothing
        self.source_ended = True

    def give_up(self) -> None:
        """The sink is gone: nobody is left to pass anything on to."""
        self.waiting.clear()
        self.held = 0
        self.source_ended = self.sink_ended = True

    def pass_on_end(self) -> None:
        """When one side has said that nothing more follows, tell the other, after everything."""
        if self.source_ended and not self.waiting and not self.sink_ended:
            self.sink_ended = True
            self.sink.shutdown(socket.SHUT_WR)


class _Line:
    """A connection through the link."""

    def __init__(self, caller: socket.socket, target: socket.socket) -> None:
        self.sockets = (caller, target)
        for sock in self.sockets:
            sock.setblocking(False)
        self.halves = (_Half("to_target", caller, target), _Half("to_caller", target, caller))

    @property
    def is_over(self) -> bool:
        return all(half.sink_ended for half in self.halves)

    def lose(self, side: socket.socket, latency: float) -> None:
        """One side is gone. The other still gets what that had sent, and the end after it."""
        for half in self.halves:
            if half.sink is side:
                half.give_up()
            else:
                half.take_rest(latency)

    def close(self) -> None:
        for sock in self.sockets:
            try:
                # Not SHUT_RDWR: under Linux a TCP peer that waits for us to read would wait on then,
                # neither let go on by the draining nor reset by the closing.
                sock.shutdown(socket.SHUT_WR)
                for _ in range(DRAIN_LIMIT):
                    if not sock.recv(READ_SIZE):
                        break
            except OSError:
                pass  # ended already, or nothing to read
            sock.close()


class _Relay:
    """The thread that passes bytes on. Except where it says otherwise, all is done by that thread."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._stalled = False
        self._pace = _Pace()
        self._allowance: dict[Direction, int] = {}
        self._running = True
        self._changed = threading.Condition()
        self._statistics = Statistics()
        self._orders: deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._waker, self._sleeper = socket.socketpair()
        self._sleeper.setblocking(False)
        self._selector.register(self._sleeper, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="link relay", daemon=True)
        self._thread.start()

    # --- For other threads ---

    def do(self, action: Callable[[], T]) -> T:
        """Let the relay's thread do something, and wait until it is done."""
        done: Future[T] = Future()

        def order() -> None:
            try:
                done.set_result(action())
            except BaseException as error:
                done.set_exception(error)

        with self._changed:
            if not self._running:
                raise RuntimeError("the link is closed")
            self._orders.append(order)
            self._waker.send(b"!")
        return done.result(ANSWER_TIMEOUT)

    def add(self, line: _Line) -> None:
        """Begin to pass on; a line that comes after the end is closed."""
        try:
            self.do(lambda: self._begin(line))
        except RuntimeError:
            line.close()

    def count_failure(self) -> None:
        with self._changed:
            self._statistics = replace(self._statistics, failed=self._statistics.failed + 1)
            self._changed.notify_all()

    @property
    def statistics(self) -> Statistics:
        with self._changed:
            return self._statistics

    def wait_until(self, condition: Callable[[Statistics], bool], timeout: float) -> Statistics:
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self._statistics), timeout):
                raise TimeoutError(f"still {self._statistics} after {timeout:g} s")
            return self._statistics

    def close(self) -> None:
        with self._changed:
            if not self._running:
                return
            self._running = False
            self._waker.send(b"!")
        self._thread.join(ANSWER_TIMEOUT)

    # --- Orders ---

    def _begin(self, line: _Line) -> None:
        self._lines.append(line)
        self._count(connections=1, open=1)
        self._cut_if_nothing_may_pass()

    def cut_all(self) -> None:
        self._allowance.clear()
        for line in list(self._lines):
            self._end(line)

    def set_allowance(self, direction: Direction, count: int) -> None:
        self._allowance[direction] = count
        self._cut_if_nothing_may_pass()

    def _cut_if_nothing_may_pass(self) -> None:
        if self._lines and 0 in self._allowance.values():
            self.cut_all()

    def set_stalled(self, stalled: bool) -> None:
        self._stalled = stalled

    def set_pace(self, pace: _Pace) -> None:
        self._pace = pace

    # --- The loop ---

    def _run(self) -> None:
        try:
            while self._running:
                ready = self._wait()
                while self._orders:
                    self._orders.popleft()()
                if not self._stalled:
                    for line in list(self._lines):
                        self._serve(line, ready)
        finally:
            self._finish()

    def _wait(self) -> dict[socket.socket, int]:
        """Sleep until something can be done: what is possible on which socket."""
        wanted, due = self._wishes()
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self._sleeper and key.fileobj not in wanted:
                self._selector.unregister(key.fileobj)
        for sock, events in wanted.items():
            if sock in self._selector.get_map():
                self._selector.modify(sock, events)
            else:
                self._selector.register(sock, events)
        timeout = None if due is None else max(0.0, due - time.monotonic())
        ready = {key.fileobj: events for key, events in self._selector.select(timeout)}
        if ready.pop(self._sleeper, 0):
            self._sleeper.recv(1024)
        return {sock: events for sock, events in ready.items() if isinstance(sock, socket.socket)}

    def _wishes(self) -> tuple[dict[socket.socket, int], float | None]:
        """The sockets to wait for, and when to look again without any."""
        wanted: dict[socket.socket, int] = {}
        next_due: float | None = None
        if self._stalled:
            return wanted, next_due
        now = time.monotonic()
        for half in (half for line in self._lines for half in line.halves):
            if half.can_read():
                wanted[half.source] = wanted.get(half.source, 0) | selectors.EVENT_READ
            due = half.due()
            if due is None:
                continue
            if due <= now:
                wanted[half.sink] = wanted.get(half.sink, 0) | selectors.EVENT_WRITE
            else:
                next_due = due if next_due is None else min(due, next_due)
        return wanted, next_due

    def _serve(self, line: _Line, ready: dict[socket.socket, int]) -> None:
        for half in line.halves:
            side = half.sink
            try:
                if ready.get(half.sink, 0) & selectors.EVENT_WRITE and not self._send(half):
                    return
                side = half.source
                if ready.get(half.source, 0) & selectors.EVENT_READ and half.can_read():
                    half.read(self._pace.latency)
                side = half.sink
                half.pass_on_end()
            except OSError:
                line.lose(side, self._pace.latency)
        if line.is_over:
            self._end(line)

    def _send(self, half: _Half) -> bool:
        """Pass some bytes on; False when they were the last ones allowed."""
        due = half.due()
        if due is None or due > time.monotonic():
            return True
        left = self._allowance.get(half.direction)
        most = self._pace.most_at_once
        sent = half.send(most if left is None else min(most, left), self._pace.bytes_per_second)
        self._count(**{half.direction: sent})
        if left is None:
            return True
        self._allowance[half.direction] = left - sent
        self._cut_if_nothing_may_pass()
        return left > sent

    def _end(self, line: _Line) -> None:
        if line in self._lines:
            self._lines.remove(line)
            for sock in line.sockets:
                if sock in self._selector.get_map():
                    self._selector.unregister(sock)
            line.close()
            self._count(open=-1)

    def _count(self, **more: int) -> None:
        with self._changed:
            now = {name: getattr(self._statistics, name) + count for name, count in more.items()}
            self._statistics = replace(self._statistics, **now)
            self._changed.notify_all()

    def _finish(self) -> None:
        with self._changed:
            self._running = False
        while self._orders:
            self._orders.popleft()()
        self.cut_all()
        self._selector.close()
        self._sleeper.close()
        self._waker.close()
