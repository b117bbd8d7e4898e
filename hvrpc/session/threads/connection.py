"""One connection, any number of threads, nobody in between.

**Who waits, reads.** There is no reader thread: the thread that waits for an answer reads the socket
itself and finishes other threads' calls on the way (it *leads*); the rest sleep and are woken when
they are done, or when the lead falls vacant. A hand-over between threads costs about as much as the
whole call, so a lone caller pays for none.

Three rules keep this right; each was broken once, somewhere, and showed as a stall:

* a follower puts itself on the list *first*, then looks whether it is done, then tries to lead, and
  sleeps only then;
* a leader that leaves gives up the lead *first*, then wakes one follower;
* a follower that wakes up and is done already passes the wake-up on, if nobody leads.

**Nothing blocks while it holds a lock.** Sending never waits: what the socket does not take at once
stays queued, and whoever needs it sent waits for room *and* reads meanwhile. Two peers that send each
other 64 MiB at the same time therefore both get through.

**User code may block.** A connection's thread runs a handler itself, with the lead put down. Should the
handler take longer than a moment (`watch.PATIENCE`) while there is more to read, another thread takes over the reading
(as Go's scheduler does for blocking system calls), and the first one ends when its handler does.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from _thread import LockType, allocate_lock, get_ident
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic

from ...errors import ConnectionLost, HvrpcError, ProtocolError
from ...sockets import Stream, causes
from ..core import MANY_ANSWERS, Call, CoreT, ends_large, joined
from ..state import Event, Heartbeat, Lifecycle, Verdict
from .io import FOREVER, SEND_NOW
from .lobby import lobby
from .tls_io import io_of
from .watch import watch

logger = logging.getLogger("hvrpc.session")

CHUNK: Final = 64 * 1024
"""Bytes received at once. From 128 KiB on the C library maps and unmaps memory for each receive,
which costs more than the receive."""
SLICE: Final = 0.02
"""Seconds after which somebody who waits for room to send looks whether nobody reads any more."""
STALLED_AFTER: Final = 30.0
"""Seconds without progress after which a peer that does not read is given up."""
REASSURE: Final = 0.25
"""Seconds between signs of life to a peer whose questions we do not read for the moment."""
ABOUT_TO: Final = 1.0
"""Seconds in which a thread that is about to do something will have done it."""
THROTTLED: Final = 0.05
"""Seconds after which a connection that runs as many handlers as it may looks whether one has ended,
should it not have been told."""
MAX_QUEUED: Final = 16 * 1024 * 1024
"""Bytes that wait to be sent before we stop reading what would add to them: a peer that asks and
never reads the answers cannot grow our memory."""
MAX_QUEUED_ITEMS: Final = 4096
"""The same as a number of messages, which can be counted at once."""
PARKED: Final = object()
"""Who reads an idle connection: nobody, until something comes (`lobby.py`)."""
RESTED_DRAIN: Final = 0.1
"""Seconds that closing waits for the other side when nothing was under way."""


class Connection(Generic[CoreT]):
    """A core on a stream, shared by threads."""

    def __init__(
        self,
        stream: Stream,
        core: CoreT,
        *,
        heartbeat: Heartbeat | None = None,
        watchful: bool = False,
        serves: bool = False,
        on_end: Callable[[Connection[CoreT]], object] | None = None,
    ) -> None:
        self.stream = stream
        self.core = core
        self.life = Lifecycle()
        self.life.happened(Event.OPENED)
        self.ended = False
        self.used_at = 0.0
        """When the last call began: what has rested for a while is looked at before it is used."""
        self.stopping = False
        self.retired = False
        self.serving = 0
        """The number of the handler that the reading thread runs; 0 while it runs none."""
        self.handled = 0
        self.reader: object = None
        """Who reads what the peer asks for, and runs it."""
        self._runner = 0
        """The thread that does."""
        self._heartbeat = heartbeat
        self._watchful = watchful
        self._on_end = on_end
        self._io = io_of(stream)
        self._recv = self._io.recv
        self._send = self._io.send
        self._queue = core.outgoing
        self._lead = allocate_lock()
        self._writer = allocate_lock()
        self._state = threading.Lock()
        self._waiters: dict[Call, LockType] = {}
        self._rest: memoryview | None = None
        self._blocked = False
        self._progress = 0.0
        self._reassured = 0.0
        self._turn: LockType | None = None
        """Wakes the serving thread while it waits for the lead, or for work that is passed on."""
        self._overflow = False
        """Whether nothing more is run until the peer has taken some answers."""
        self._backlog: deque[Any] = deque()
        self._nonsense: ProtocolError | None = None
        self._handler_done = threading.Event()
        self._disposed = False
        self._over = threading.Event()
        self._tick = FOREVER
        """Seconds after which a receive ends without a byte."""
        self._parks = serves and not watchful and lobby.is_open
        """Whether it gives up its thread while it is idle."""
        if self._parks:
            self._set_tick(lobby.idle_for)
        elif heartbeat is not None:
            self._set_tick(heartbeat.interval)

    def _set_tick(self, seconds: float) -> None:
        self._tick = seconds
        self._io.set_tick(seconds)

    # --- Sending -------------------------------------------------------------------------------

    def push(self) -> bool:
        """Send what the core has queued, as far as the socket takes it at once.

        Never waits. False when something is left that nobody is sending.
        """
        queue = self._queue
        unsent = self.core.unsent
        try:
            while self._writer.acquire(False):
                try:
                    if len(queue) == 1 and not self._blocked and type(queue[0]) is bytes:
                        # Nearly always: one small message, and room for it.
                        item = queue.popleft()
                        try:
                            sent = self._send(item, SEND_NOW)
                        except OSError:
                            # It comes again in a moment, and is dealt with there.
                            queue.appendleft(item)
                            sent = -1
                        if sent == len(item):
                            done = True
                        else:
                            if sent >= 0:
                                self._rest = memoryview(item)[sent:]
                            done = self._send_queued()
                    else:
                        done = self._send_queued()
                except IndexError:  # another thread has withdrawn the only one just now
                    done = True
                finally:
                    self._writer.release()
                # Somebody may have queued more between our last look and the release, and have
                # seen that we were sending.
                if not done or not (queue or (unsent and self.core.refill())):
                    return done
        except OSError as error:
            self.end(error)
        except BaseException as error:
            # It may have struck between the queue and the kernel: half a message may be missing.
            self._interrupted(error)
            raise
        return True

    def _send_queued(self) -> bool:
        queue = self._queue
        send = self._send
        items: list[Any] = []
        try:
            while True:
                rest = self._rest
                if rest is not None:
                    sent = send(rest, SEND_NOW)
                    self._progress = time.monotonic()
                    if self._heartbeat is not None:
                        self._heartbeat._heard = True  # somebody takes what we send
                    if sent < len(rest):
                        self._rest = rest[sent:]
                        self._blocked = True
                        return False
                    self._rest = None
                if not queue:
                    self._blocked = False
                    return True
                item = queue.popleft()
                items = [item]
                if type(item) is tuple:
                    head, *bodies = item
                    data = head
                    for body in reversed(bodies):
                        queue.appendleft(memoryview(body))
                else:
                    if queue:
                        items, data = joined(item, queue)
                    else:
                        data = item
                sent = send(data, SEND_NOW)
                items = []
                if sent != len(data):
                    self._rest = memoryview(data)[sent:]
        except BlockingIOError:
            self._put_back(items)
            if not self._blocked:
                self._progress = time.monotonic()
                self._blocked = True
            return False
        except OSError:
            self._put_back(items)
            raise

    def _put_back(self, items: list[Any]) -> None:
        """What was not sent goes back to the head of the queue, where it counts as not sent."""
        queue = self.core.outgoing
        for item in reversed(items):
            if type(item) is tuple:
                for _ in item[1:]:
                    queue.popleft()
            queue.appendleft(item)

    def flush(self, deadline: float | None = None, until: Callable[[], bool] | None = None) -> bool:
        """Send all that is queued, reading meanwhile if nobody else does.

        False if time ran out, or if `until` says that it does not matter any more.
        """
        while not self.push() and not self.ended:
            if self._blocked and not self._make_room(deadline):
                return False
            if until is not None and until():
                return False
        self.work_done()
        return True

    def work_done(self) -> None:
        """Some work has ended elsewhere, as a coroutine's does: who waits for that may go on."""
        self._handler_done.set()

    def _make_room(self, deadline: float | None) -> bool:
        """Wait until the socket takes more. Reads what arrives, so that the peer can go on too."""
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            return False
        seconds = SLICE if deadline is None else min(SLICE, deadline - now)
        readable = False
        if self._lead.acquire(False):
            try:
                readable, writable = self._io.wait(readable=True, writable=True, seconds=seconds)
                if readable and not writable:
                    self._receive()
            finally:
                self._give_up_lead()
        else:
            _, writable = self._io.wait(readable=False, writable=True, seconds=seconds)
        if not (readable or writable):
            self._is_stalled(now)
        return True

    def _is_stalled(self, now: float) -> bool:
        """Something waits to be sent: end the connection if its peer has been silent for too long,
        or has taken nothing for longer still."""
        if now - self._progress > STALLED_AFTER:
            self.end(TimeoutError(f"the peer has read nothing for {STALLED_AFTER:g} s"))
        elif self._heartbeat is not None and (self._watchful or self.core.waiting):
            self._ask_for_life(now, 0.0)
        return self.ended

    def _ask_for_life(self, now: float, silent_for: float) -> float:
        """The peer is silent: ask it, or give it up. Returns seconds until the next look."""
        heartbeat = self._heartbeat
        if heartbeat is None:
            return FOREVER
        verdict = heartbeat.due(now, silent_for)
        if verdict is Verdict.PING:
            if self.core.ping():
                self.push()
                verdict = heartbeat.due(now)
            else:
                heartbeat.heard()  # a stranger: it cannot be asked
        if verdict is Verdict.DEAD:
            self.end(TimeoutError(f"the peer gave no sign of life for {heartbeat.dead_after:g} s"))
        return heartbeat.interval if isinstance(verdict, Verdict) else verdict.seconds

    # --- Waiting for an answer -------------------------------------------------------------------

    def call(self, item: Any, call: Call, deadline: float | None, left: float | None) -> bool:
        """Send what a call says, and wait until it is done; False when the deadline came first.

        A lone caller with a small message, which is the usual case, takes the lead and sends at
        once; everybody else queues, pushes and waits.
        """
        queue = self._queue
        lead = self._lead
        if self.ended:
            self.core.check(call)
        try:
            follows = type(item) is not bytes or queue or self._blocked or not lead.acquire(False)
        except BaseException as error:
            # It may have struck between taking the lead and knowing that.
            self._interrupted(error)
            raise
        if follows:
            queue.append(item)
            call.item = item
            self.push()
            return self.wait(call, deadline, left)
        try:
            if self._writer.acquire(False):
                try:
                    call.item = item  # from now on it may have been sent
                    sent = self._send(item, SEND_NOW)
                    if sent != len(item):
                        # Whoever sends next, another thread perhaps, begins with the rest.
                        self._rest = memoryview(item)[sent:]
                        self._progress = time.monotonic()
                        self._blocked = True
                except OSError:
                    # It comes again in a moment, and is dealt with there.
                    queue.appendleft(item)
                finally:
                    self._writer.release()
            else:
                queue.append(item)
                call.item = item
            if queue or self._rest is not None:
                self.push()
            elif (left is None or left >= self._tick) and self.core.target is None:
                # Nearly always the next thing that comes is the answer.
                try:
                    data = self._recv(CHUNK)
                except OSError:
                    data = b""  # silence, or the end: that is told again in a moment
                if data:
                    if self._heartbeat is not None:
                        self._heartbeat._heard = True
                    if self.core.answers(data, call):
                        return True
                    self._digest(data)
            if not (self._blocked or call.done or self._lead_until(call, deadline, left)):
                return False
        except BaseException as error:
            # It may have struck between the queue and the kernel: half a message may be missing.
            self._interrupted(error)
            raise
        finally:
            lead.release()
            if self._waiters:
                self._promote()
            if self.ended:
                self._dispose()
        # Not done yet when there is no room to send, or when another thread is just ending it.
        return call.done or self.wait(call, deadline, left)

    def wait(self, call: Call, deadline: float | None, left: float | None = None) -> bool:
        """Wait until a call is done; False when the deadline came first.

        `left` is how far off the deadline is, for those who know: one look at the clock less.
        """
        following = False
        lead = self._lead
        if self.serving and self._runner == get_ident():
            # A handler that waits for more of its own call reads on by itself: nobody has to take over.
            self.handled = self.serving = self.handled + 1
        try:
            while not call.done:
                if self._blocked:
                    # One step at a time: what keeps the line busy need not be this call.
                    if not self.push() and not self._make_room(deadline):
                        return False
                elif lead.acquire(False):
                    try:
                        if not self._lead_until(call, deadline, left):
                            return False
                    finally:
                        lead.release()
                        if self._waiters:
                            self._promote()
                        if self.ended:
                            self._dispose()
                else:
                    following = True
                    if not self._follow(call, deadline):
                        return False
                    following = False
                left = None
        except BaseException as error:
            if not following:  # sleeping does no harm, sending and reading half-way does
                self._interrupted(error)
            raise
        return True

    def _lead_until(self, call: Call, deadline: float | None, left: float | None) -> bool:
        """Read for everybody until one's own call is done. The lead is held."""
        core = self.core
        answers = core.answers
        recv = self._recv
        queue = self._queue
        backlog = self._backlog
        heartbeat = self._heartbeat
        if deadline is not None:
            if left is None:
                left = deadline - time.monotonic()
            if left < self._tick:
                self._set_tick(max(left, 0.001))
        if heartbeat is not None and self._tick > heartbeat.interval:
            self._set_tick(heartbeat.interval)  # a server's, which has not called before
        while True:
            if core.target is not None or self._blocked:
                self._receive(deadline)
            else:
                try:
                    data = recv(CHUNK)
                except BlockingIOError:
                    if not self._silence(deadline):
                        return False
                    if call.done:
                        return True
                    continue
                except OSError as error:
                    self.end(error)
                    return True
                if not data:
                    self.end(None)
                    return True
                if heartbeat is not None:
                    heartbeat._heard = True
                if answers(data, call):
                    return True
                try:
                    core.digest(data, backlog)
                except ProtocolError as error:
                    self._broken(error)
                    return True
                if backlog:
                    self._tell_server()
                if queue:
                    self.push()
            if call.done:
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def _follow(self, call: Call, deadline: float | None) -> bool:
        """Sleep while another thread reads. Returns when done, when leading is possible, or late."""
        asleep = allocate_lock()
        asleep.acquire()
        call.wake = _Alarm(asleep)
        self._waiters[call] = asleep
        try:
            while not call.done:
                if not self._lead.locked():
                    return True
                left = FOREVER if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                asleep.acquire(True, min(left, FOREVER))
            return True
        finally:
            self._waiters.pop(call, None)
            # Whether done, late or interrupted: the wake-up may have been meant as "lead now".
            if self._waiters and not self._lead.locked():
                self._promote()

    def _give_up_lead(self) -> None:
        self._lead.release()
        if self._waiters:
            self._promote()
        if self.ended:
            self._dispose()

    def _promote(self) -> None:
        """Wake one follower: it will find the lead vacant."""
        while self._waiters:
            try:
                asleep = next(iter(self._waiters.values()))
            except (RuntimeError, StopIteration):
                continue  # the list changed under us
            _release(asleep)
            return

    # --- Receiving: the lead is held -------------------------------------------------------------

    def _receive(self, deadline: float | None = None) -> None:
        """Receive wherever the core wants it, waiting at most one tick: once, or until a large value is
        complete."""
        if self._blocked and not self._wait_for_either():
            return
        if self.core.target is None:
            data = self._receive_by(self._recv, CHUNK)
            if data:
                self._digest(data)
            return
        began = False

        def receive(room: memoryview) -> int | None:
            nonlocal began
            if began and (self._blocked or (deadline is not None and time.monotonic() >= deadline)):
                return None
            began = True
            size: int | None = self._receive_by(self._io.recv_into, room)
            return size

        self.core.fill(receive)
        if self.core.target is None:
            self._digest()

    def _receive_by(self, receive: Callable[[Any], Any], what: Any) -> Any:
        """Receive by one of the socket's methods. None, and nothing if it has ended: nothing came."""
        try:
            found = receive(what)
        except BlockingIOError:
            self._silence(None)
            return None
        except OSError as error:
            self.end(error)
            return None
        if not found:
            self.end(None)
        elif self._heartbeat is not None:
            self._heartbeat._heard = True
        return found

    def _wait_for_either(self) -> bool:
        """Something waits to be sent: wait for room, and for bytes if more may be taken in."""
        more = not self._overfull()
        readable, writable = self._io.wait(
            readable=more, writable=True, seconds=min(self._tick, SLICE)
        )
        if writable:
            self.push()
        elif not readable:
            self._is_stalled(time.monotonic())
        return readable and more and not self.ended

    def _overfull(self) -> bool:
        """Whether so many answers wait to be sent that reading on would only add to them.

        Calls of our own do not count: reading adds none, and if both sides stopped reading because
        of what they ask, neither would ever go on.
        """
        if not self._queue:
            return len(self._backlog) > MAX_QUEUED_ITEMS
        messages, size = self.core.queued_answers()
        if messages > MAX_QUEUED_ITEMS or len(self._backlog) > MAX_QUEUED_ITEMS:
            return True
        # Whoever serves nothing answers nothing that is large.
        return self.reader is not None and size > MAX_QUEUED

    def _digest(self, data: bytes | None = None) -> None:
        """Let the core work through what arrived. Work for user code is left to a serving thread."""
        try:
            self.core.digest(data, self._backlog)
        except ProtocolError as error:
            self._broken(error)
            return
        if self._backlog:
            self._tell_server()
        if self._queue:
            self.push()

    def _tell_server(self) -> None:
        """There is work for the thread that serves this connection."""
        turn = self._turn
        if turn is not None:
            _release(turn)

    def _silence(self, deadline: float | None) -> bool:
        """A receive ended without a byte. False when the deadline has come."""
        now = time.monotonic()
        # Never longer than a heartbeat: whoever waits next relies on it.
        tick = FOREVER if self._heartbeat is None else self._heartbeat.interval
        if self._heartbeat is not None and (self._watchful or self.core.waiting):
            tick = self._ask_for_life(now, self._tick)
            if self.ended:
                return True  # and with it every call has
        if deadline is not None:
            if now >= deadline:
                return False
            tick = min(tick, deadline - now)
        self._set_tick(max(tick, 0.001))
        return True

    def refresh(self) -> None:
        """Take in what arrived while nobody was reading: a goodbye, or the end."""
        if not self._lead.acquire(False):
            return
        try:
            while not self.ended and self._io.wait(readable=True, writable=False, seconds=0)[0]:
                self._receive()
                if self._blocked:
                    return  # whoever waits for an answer sees to it
        except BaseException as error:
            self._interrupted(error)
            raise
        finally:
            self._give_up_lead()

    # --- Serving: a thread of the connection's own ---------------------------------------------

    def serve(self) -> None:
        """Read, and run what the peer asks for, until the connection ends."""
        self.reader = me = object()
        watch.add(self)
        self._serve_on(me, leading=False)

    def _serve_on(self, me: object, leading: bool) -> None:
        """The same for a thread that takes over. It may have been given the lead."""
        try:
            if leading or self._return_to_lead(me):
                self._serve_as(me)
        finally:
            if self.reader is me:
                watch.discard(self)

    def _serve_as(self, me: object) -> None:
        """Read, and run what arrives with the lead put down meanwhile.

        The lead is held at the top of each turn, and given up in the end, unless somebody else reads
        by then.
        """
        core = self.core
        only_one = core.only_one
        serve_simple = core.serve_simple
        self._runner = get_ident()
        lead = self._lead
        recv = self._recv
        heartbeat = self._heartbeat
        queue = self._queue
        backlog = self._backlog
        leading = True
        try:
            while not self.ended:
                if self._overflow:
                    self._wait_for_room()
                elif backlog:
                    lead.release()
                    leading = False
                    if self._waiters:
                        self._promote()
                    while backlog:
                        if watch.asleep:
                            watch.wake()
                        work = serve_simple(backlog, self, me)
                        if work is not None:
                            self.handled = self.serving = self.handled + 1
                            core.serve(work)
                        if self.stopping:
                            self._handler_done.set()
                        if self.reader is not me:
                            self.flush()
                            self._handler_done.set()
                            return
                        # Answers that pile up, or are large, go out before more of them are made.
                        if backlog and (len(queue) >= MANY_ANSWERS or ends_large(queue)):
                            self.push()
                            if self._blocked and self._overfull():
                                break
                    if lead.acquire(False):
                        leading = True
                        if self.reader is not me:
                            self._give_up_lead()
                            leading = False
                            self.flush()  # the successor may be receiving, and not look for long
                            return
                    elif self._return_to_lead(me):
                        leading = True
                    else:
                        return
                    self.serving = 0
                    core.throttled = False  # digest() will say so if it still is
                    if queue:
                        self.push()
                    if self._blocked and self._overfull():
                        self._overflow = True
                elif self._nonsense is not None:
                    self._broken(self._nonsense)
                else:
                    data: bytes | None = None
                    if core.throttled:
                        self._wait_for_handler()
                        if not core.has_more:
                            continue
                    elif not core.has_more:
                        if queue:
                            self.push()
                        if core.target is not None or self._blocked:
                            self._receive()
                            continue
                        try:
                            data = recv(CHUNK)
                        except BlockingIOError:
                            if self._park():
                                return
                            self._silence(None)
                            continue
                        except OSError as error:
                            self.end(error)
                            continue
                        if not data:
                            self.end(None)
                            continue
                        if heartbeat is not None:
                            heartbeat._heard = True
                        # Nearly always: one small request.
                        if only_one(data, backlog):
                            continue
                    try:
                        core.digest(data, backlog)
                    except ProtocolError as error:
                        self._nonsense = error  # what came before it is carried out first
        except BaseException as error:
            self._interrupted(error)
            raise
        finally:
            if leading:
                self._give_up_lead()

    def _park(self) -> bool:
        """Nothing has come for a while, and nothing is under way: wait for more in the lobby, without a
        thread. The lead is held, and given up by the caller."""
        core = self.core
        if not self._parks or core.busy or core.has_more or self._waiters or self._queue:
            return False
        with self._state:
            if self.ended or self.stopping or self._rest is not None:
                return False
            self.reader = PARKED
            self._set_tick(lobby.idle_for)
            lobby.enter(self.stream.socket.fileno(), self)
        watch.discard(self)
        return True

    def resume(self) -> None:
        """Something has come while it was parked: read on, on a thread of its own."""
        me = object()
        with self._state:
            if self.ended or self.reader is not PARKED:
                return
            self.reader = me
        watch.add(self)
        self._start_reading(me, leading=False)

    def _return_to_lead(self, me: object) -> bool:
        """Somebody else leads: a successor, or a caller for as long as its call takes. A caller
        passes on what the peer asks for; that is run here until the lead is vacant.

        False when there is a successor, or nothing to lead any more.
        """
        self.flush()
        self._handler_done.set()
        while True:
            with self._state:
                if self.reader is not me or self.ended:
                    return False
                self.serving = 0
            if self._lead.acquire(False):
                return True
            try:
                work = self._backlog.popleft()
            except IndexError:
                self._await_turn()
                continue
            self.handled = self.serving = self.handled + 1
            if watch.asleep:
                watch.wake()
            self.core.serve(work)
            self.flush()
            self._handler_done.set()

    def _await_turn(self) -> None:
        """Sleep until the lead is vacant, or work is passed on."""
        turn = allocate_lock()
        turn.acquire()
        place = Call()
        self._waiters[place] = turn
        self._turn = turn
        try:
            # As followers do: on the list first, then a look, and only then to sleep.
            if not self._backlog and self._lead.locked() and not self.ended:
                turn.acquire()
        finally:
            self._turn = None
            self._waiters.pop(place, None)
            if self._waiters and not self._lead.locked():
                self._promote()

    def _wait_for_handler(self) -> None:
        """As many handlers run as may: read on when one of them has finished."""
        if not self.ended and not self._handler_done.wait(THROTTLED):
            now = time.monotonic()
            if now - self._reassured > REASSURE:
                self._reassured = now
                self.core.reassure()
                self.push()
        self._handler_done.clear()
        self.core.throttled = False  # digest() will say so if it still is

    def _wait_for_room(self) -> None:
        """So many answers wait to be sent that no more are made until the peer has taken some."""
        while self._overflow and not self.ended:
            if self._io.wait(readable=False, writable=True, seconds=SLICE)[1]:
                self.push()
            elif time.monotonic() - self._progress > STALLED_AFTER:
                self.end(TimeoutError(f"the peer has read nothing for {STALLED_AFTER:g} s"))
            self._overflow = self._blocked and self._overfull()

    def hand_over(self, *, anyway: bool) -> None:
        """Let another thread read on, if there is something to read. Called by the watch."""
        more = anyway or self._backlog or self.core.has_more
        if not more:
            try:
                more = self._io.wait(readable=True, writable=False, seconds=0)[0]
            except (OSError, ValueError):
                return  # closed meanwhile
        if not more or self.ended:
            return
        leading = self._lead.acquire(False)
        if not leading and not self._backlog:
            return  # a caller reads, and has nothing to pass on
        successor = object()
        with self._state:
            # Whoever comes back from a handler now finds a successor.
            self.reader = successor
            self._runner = 0
            self.serving = 0
        self._start_reading(successor, leading)

    def _start_reading(self, me: object, leading: bool) -> None:
        thread = threading.Thread(
            target=self._serve_on, args=(me, leading), name="hvrpc-connection", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads to be had
            logger.warning("%s: no thread to read on: %s", self.stream.peer, error)
            self.end(ConnectionAbortedError("no thread to read on"))
            if leading:
                self._give_up_lead()

    # --- The end -------------------------------------------------------------------------------

    def drain(self, deadline: float) -> bool:
        """Say goodbye, finish what was taken, say the last word, and end.

        False when something was left unfinished at the deadline.
        """
        self.stopping = True
        rested = not self.core.busy
        self.core.goodbye()
        self.flush(deadline)
        finished = self._wait_until_idle(deadline)
        self.core.farewell()
        self._flush_last(max(deadline, time.monotonic() + 0.1))
        # A peer that waits for nothing does not read: it would not notice for the whole time.
        self.close(RESTED_DRAIN if rested else None)
        return finished

    def _flush_last(self, deadline: float) -> None:
        """Like `flush`, and wait for what another thread is just about to send, too."""
        while self.flush(deadline) and not self.ended:
            with self._writer:
                if not self._queue and self._rest is None:
                    return

    def _wait_until_idle(self, deadline: float) -> bool:
        while self.core.busy and not self.ended:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._handler_done.clear()
            if not self.core.busy:
                break
            if self._lead.acquire(False):
                self._read_for(min(left, SLICE))
            else:
                self._handler_done.wait(min(left, SLICE))
        return True

    def _read_for(self, seconds: float) -> None:
        """Nobody waits for what is under way, a batch say: read for it. The lead is given up."""
        try:
            if self._io.wait(readable=True, writable=False, seconds=seconds)[0]:
                self._receive()
        finally:
            self._give_up_lead()

    def end(self, cause: OSError | HvrpcError | None) -> None:
        """The connection is over. Every call on it ends now; may be called by anybody, twice."""
        with self._state:
            if self.ended:
                return
            self.ended = True
            if self.reader is PARKED:
                lobby.leave(self.stream.socket.fileno(), self)
        # First nothing more gets out, then it is told what was not sent: the other way round, a
        # call could be sent by another thread after its owner was told that it was not.
        self._io.shut_down(socket.SHUT_WR if cause is None else socket.SHUT_RDWR)
        orderly = cause is None and not self.core.waiting
        self.life.happened(Event.FINISHED if orderly else Event.GONE)
        self.core.fail(None if orderly else self._explain(cause))
        self._handler_done.set()
        turn = self._turn
        if turn is not None:
            _release(turn)
        if self._on_end is not None:
            self._on_end(self)
        self._dispose()

    def close(self, drain: float | None = None) -> None:
        """End it, waiting a bounded time for the other side to end too."""
        longest = self.stream.options.drain
        self.end(None)
        if not self._over.wait(longest if drain is None else min(drain, longest)):
            self._io.shut_down(
                socket.SHUT_RDWR
            )  # wakes the thread that reads, which disposes of it
            self._over.wait(longest)

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

    def _dispose(self) -> None:
        """Close the socket, once nobody is in a system call on it.

        A descriptor that is closed under a thread about to receive may be another file by then.
        """
        if not self._lead.acquire(False):
            return  # the leader will come here when it leaves
        try:
            # Sending never waits, so whoever has the lock is about to give it back; unless an
            # interrupt struck between taking it and being able to.
            ours = self._writer.acquire(timeout=ABOUT_TO)
            if not self._disposed:
                self._disposed = True
                self.stream.close()
                self._io.close()
                self._over.set()
            if ours:
                self._writer.release()
        finally:
            self._lead.release()

    def _broken(self, error: ProtocolError) -> None:
        """The peer sent nonsense: tell the log, answer what can be answered, and end."""
        logger.warning("%s: %s: closing the connection", self.stream.peer, error.problem)
        self.push()
        self.end(error)

    def _interrupted(self, error: BaseException) -> None:
        if self.ended:
            return
        lost = ConnectionLost(
            f"the thread that read the connection was interrupted by {type(error).__name__}",
            address=str(self.stream.address),
        )
        lost.__cause__ = error
        self.end(lost)


class _Alarm:
    """Wakes a follower."""

    __slots__ = ("_asleep",)

    def __init__(self, asleep: LockType) -> None:
        self._asleep = asleep

    def __call__(self) -> None:
        _release(self._asleep)


def _release(asleep: LockType) -> None:
    try:
        asleep.release()
    except RuntimeError:
        pass  # awake already
