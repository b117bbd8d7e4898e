"""One connection, any number of threads, nobody in between.

Its parts, each with what guards it:

* `leading.py`: **who waits, reads.** One thread at a time has the *lead*; the others sleep, and three rules
  keep them from sleeping too long.
* `sending.py`: **sending never waits.** What the socket does not take at once stays queued.
* `serving.py`: **user code may block.** The thread that runs what the peer asks for puts the lead down
  meanwhile, and another one takes over when that lasts.
* here: calls, receiving, and the end, which need all of them.

**Nothing blocks while it holds a lock.** Whoever needs something sent waits for room *and* reads meanwhile. Two
peers that send each other 64 MiB at the same time therefore both get through.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from _thread import get_ident
from collections.abc import Callable
from typing import Any, Final, Generic

from ...errors import ConnectionLost, HvrpcError, ProtocolError
from ...sockets import Stream, causes
from ..core import Call, CoreT
from ..state import Event, Heartbeat, Lifecycle, Verdict
from .io import CHUNK, FOREVER, SEND_NOW, SLICE
from .leading import Lead
from .lobby import lobby
from .sending import Sender
from .serving import ServingLane
from .tls_io import io_of

logger = logging.getLogger("hvrpc.session")

ABOUT_TO: Final = 1.0
"""Seconds in which a thread that is about to do something will have done it."""
RESTED_DRAIN: Final = 0.1
"""Seconds that closing waits for the other side when nothing was under way."""


class Connection(Generic[CoreT]):
    """A core on a stream, shared by threads.

    `call`, `wait`, `push`, `flush`, `refresh`, `serve`, `drain`, `close` and `end` are for anybody, on any thread,
    at any time. The lane reads as callers do: for it alone are `io`, `recv`, `heartbeat`, `ending`, and
    `set_tick`, `receive`, `silence`, `give_up_lead`, `broken` and `interrupted`. Only the thread that leads receives.

    `call`, `wait` and `_lead_until` reach into the parts where a method of theirs would do: a caller would
    notice one function more for each call.
    """

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
        self.retired = False
        self.heartbeat = heartbeat
        self._watchful = watchful
        self._on_end = on_end
        self.io = io_of(stream)
        self.recv = self.io.recv
        self.lead = Lead()
        self.sender = Sender(core, self.io, heartbeat, end=self.end, interrupted=self.interrupted)
        self.push = self.sender.push
        """Send what is queued, without waiting. The sender's own method: another one around it would cost."""
        self.lane = ServingLane(self, parks=serves and not watchful and lobby.is_open)
        self.ending = threading.Lock()
        """Guards `ended`, and who reads on the lane: an idle one must not enter the lobby when the end has come."""
        self._disposed = False
        self._over = threading.Event()
        self._tick = FOREVER
        """Seconds after which a receive ends without a byte."""
        if self.lane.parks:
            self.set_tick(lobby.idle_for)
        elif heartbeat is not None:
            self.set_tick(heartbeat.interval)

    def set_tick(self, seconds: float) -> None:
        """Let receives end without a byte after so many seconds."""
        self._tick = seconds
        self.io.set_tick(seconds)

    def serve(self) -> None:
        """Read, and run what the peer asks for, until the connection ends, or has been idle for a while."""
        self.lane.serve()

    # --- Room to send -------------------------------------------------------------------------------

    def flush(self, deadline: float | None = None, until: Callable[[], bool] | None = None) -> bool:
        """Send all that is queued, reading meanwhile if nobody else does.

        False if time ran out, or if `until` says that it does not matter any more.
        """
        while not self.push() and not self.ended:
            if self.sender.blocked and not self._make_room(deadline):
                return False
            if until is not None and until():
                return False
        self.work_done()
        return True

    def work_done(self) -> None:
        """Some work has ended elsewhere, as a coroutine's does: who waits for that may go on."""
        self.lane.handler_done.set()

    def _make_room(self, deadline: float | None) -> bool:
        """Wait until the socket takes more. Reads what arrives, so that the peer can go on too."""
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            return False
        seconds = SLICE if deadline is None else min(SLICE, deadline - now)
        readable = False
        try:
            leads = self.lead.lock.acquire(False)
        except BaseException as error:
            # As in `call`: it may have struck between taking the lead and knowing that.
            self.interrupted(error)
            raise
        if leads:
            try:
                readable, writable = self.io.wait(readable=True, writable=True, seconds=seconds)
                if readable and not writable:
                    self.receive()
            except BaseException as error:
                self.interrupted(error)
                raise
            finally:
                self.lead.lock.release()  # here, as in `refresh`
                self._lead_given_up()
        else:
            _, writable = self.io.wait(readable=False, writable=True, seconds=seconds)
        if not (readable or writable):
            self._look_after_peer(now)
        return True

    def _look_after_peer(self, now: float) -> None:
        """Something waits to be sent: end the connection if its peer has been silent for too long,
        or has taken nothing for longer still."""
        self.sender.give_up_if_stalled(now)
        if not self.ended and self.heartbeat is not None and (self._watchful or self.core.waiting):
            self._ask_for_life(now, 0.0)

    def _ask_for_life(self, now: float, silent_for: float) -> float:
        """The peer is silent: ask it, or give it up. Returns seconds until the next look."""
        heartbeat = self.heartbeat
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
        core = self.core
        sender = self.sender
        queue = sender.queue
        writer = sender.writer
        lead = self.lead
        lock = lead.lock
        if self.ended:
            core.check(call)
        try:
            follows = type(item) is not bytes or queue or sender.blocked or not lock.acquire(False)
        except BaseException as error:
            # It may have struck between taking the lead and knowing that.
            self.interrupted(error)
            raise
        if follows:
            queue.append(item)
            call.item = item
            sender.push()
            return self.wait(call, deadline, left)
        try:
            if writer.acquire(False):
                try:
                    call.item = item  # from now on it may have been sent
                    sent = sender.send(item, SEND_NOW)
                    if sent != len(item):
                        sender.keep_rest(item, sent)
                except OSError:
                    # It comes again in a moment, and is dealt with there.
                    queue.appendleft(item)
                finally:
                    writer.release()
            else:
                queue.append(item)
                call.item = item
            if queue or sender.rest is not None:
                sender.push()
            elif (left is None or left >= self._tick) and core.target is None:
                # Nearly always the next thing that comes is the answer.
                try:
                    data = self.recv(CHUNK)
                except OSError:
                    data = b""  # silence, or the end: that is told again in a moment
                if data:
                    heartbeat = self.heartbeat
                    if heartbeat is not None:
                        heartbeat._heard = True
                    if core.answers(data, call):
                        return True
                    self._digest(data)
            if not (sender.blocked or call.done or self._lead_until(call, deadline, left)):
                return False
        except BaseException as error:
            # It may have struck between the queue and the kernel: half a message may be missing.
            self.interrupted(error)
            raise
        finally:
            lock.release()
            if lead.followers:
                lead.promote()
            if self.ended:
                self._dispose()
        # Not done yet when there is no room to send, or when another thread is just ending it.
        return call.done or self.wait(call, deadline, left)

    def wait(self, call: Call, deadline: float | None, left: float | None = None) -> bool:
        """Wait until a call is done; False when the deadline came first.

        `left` is how far off the deadline is, for those who know: one look at the clock less.
        """
        following = False
        sender = self.sender
        lead = self.lead
        lock = lead.lock
        lane = self.lane
        if lane.serving and lane.runner == get_ident():
            # A handler that waits for more of its own call reads on by itself: nobody has to take over.
            lane.handled = lane.serving = lane.handled + 1
        try:
            while not call.done:
                if sender.blocked:
                    # One step at a time: what keeps the line busy need not be this call.
                    if not sender.push() and not self._make_room(deadline):
                        return False
                elif lock.acquire(False):
                    try:
                        if not self._lead_until(call, deadline, left):
                            return False
                    finally:
                        lock.release()
                        if lead.followers:
                            lead.promote()
                        if self.ended:
                            self._dispose()
                else:
                    following = True
                    if not lead.follow(call, deadline):
                        return False
                    following = False
                left = None
        except BaseException as error:
            if not following:  # sleeping does no harm, sending and reading half-way does
                self.interrupted(error)
            raise
        return True

    def _lead_until(self, call: Call, deadline: float | None, left: float | None) -> bool:
        """Read for everybody until one's own call is done. The lead is held."""
        core = self.core
        answers = core.answers
        recv = self.recv
        sender = self.sender
        queue = sender.queue
        backlog = self.lane.backlog
        heartbeat = self.heartbeat
        tick = self._tick
        if deadline is not None:
            if left is None:
                left = deadline - time.monotonic()
            if left < tick:
                tick = max(left, 0.001)
                self.set_tick(tick)
        if heartbeat is not None and tick > heartbeat.interval:
            self.set_tick(heartbeat.interval)  # a server's, which has not called before
        while True:
            if core.target is not None or sender.blocked:
                self.receive(deadline)
            else:
                try:
                    data = recv(CHUNK)
                except BlockingIOError:
                    if not self.silence(deadline):
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
                    self.broken(error)
                    return True
                if backlog:
                    self.lane.tell()
                if queue:
                    sender.push()
            if call.done:
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def give_up_lead(self) -> None:
        """Read no more: another one may, or nobody has to."""
        self.lead.lock.release()
        self._lead_given_up()

    def _lead_given_up(self) -> None:
        if self.lead.followers:
            self.lead.promote()
        if self.ended:
            self._dispose()

    # --- Receiving: the lead is held -------------------------------------------------------------

    def receive(self, deadline: float | None = None) -> None:
        """Receive wherever the core wants it, waiting at most one tick: once, or until a large value is
        complete."""
        if self.sender.blocked and not self._wait_for_either():
            return
        if self.core.target is None:
            data = self._receive_by(self.recv, CHUNK)
            if data:
                self._digest(data)
            return
        began = False

        def receive(room: memoryview) -> int | None:
            nonlocal began
            if began and (
                self.sender.blocked or (deadline is not None and time.monotonic() >= deadline)
            ):
                return None
            began = True
            size: int | None = self._receive_by(self.io.recv_into, room)
            return size

        self.core.fill(receive)
        if self.core.target is None:
            self._digest()

    def _receive_by(self, receive: Callable[[Any], Any], what: Any) -> Any:
        """Receive by one of the socket's methods. None, and nothing if it has ended: nothing came."""
        try:
            found = receive(what)
        except BlockingIOError:
            self.silence(None)
            return None
        except OSError as error:
            self.end(error)
            return None
        if not found:
            self.end(None)
        elif self.heartbeat is not None:
            self.heartbeat._heard = True
        return found

    def _wait_for_either(self) -> bool:
        """Something waits to be sent: wait for room, and for bytes if more may be taken in."""
        more = not self.lane.is_overfull()
        readable, writable = self.io.wait(
            readable=more, writable=True, seconds=min(self._tick, SLICE)
        )
        if writable:
            self.push()
        elif not readable:
            self._look_after_peer(time.monotonic())
        return readable and more and not self.ended

    def _digest(self, data: bytes | None = None) -> None:
        """Let the core work through what arrived. Work for user code is left to a serving thread."""
        try:
            self.core.digest(data, self.lane.backlog)
        except ProtocolError as error:
            self.broken(error)
            return
        if self.lane.backlog:
            self.lane.tell()
        if self.sender.queue:
            self.push()

    def silence(self, deadline: float | None) -> bool:
        """A receive ended without a byte. False when the deadline has come."""
        now = time.monotonic()
        # Never longer than a heartbeat: whoever waits next relies on it.
        tick = FOREVER if self.heartbeat is None else self.heartbeat.interval
        if self.heartbeat is not None and (self._watchful or self.core.waiting):
            tick = self._ask_for_life(now, self._tick)
            if self.ended:
                return True  # and with it every call has
        if deadline is not None:
            if now >= deadline:
                return False
            tick = min(tick, deadline - now)
        self.set_tick(max(tick, 0.001))
        return True

    def refresh(self) -> None:
        """Take in what arrived while nobody was reading: a goodbye, or the end."""
        try:
            leads = self.lead.lock.acquire(False)
        except BaseException as error:
            # As in `call`: it may have struck between taking the lead and knowing that.
            self.interrupted(error)
            raise
        if not leads:
            return
        try:
            while not self.ended and self.io.wait(readable=True, writable=False, seconds=0)[0]:
                self.receive()
                if self.sender.blocked:
                    return  # whoever waits for an answer sees to it
        except BaseException as error:
            self.interrupted(error)
            raise
        finally:
            self.lead.lock.release()  # here, for an interrupt may strike at the beginning of a function
            self._lead_given_up()

    # --- The end -------------------------------------------------------------------------------

    def drain(self, deadline: float) -> bool:
        """Say goodbye, finish what was taken, say the last word, and end.

        False when something was left unfinished at the deadline.
        """
        self.lane.stopping = True
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
            if self.sender.has_sent_all():
                return

    def _wait_until_idle(self, deadline: float) -> bool:
        while self.core.busy and not self.ended:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.lane.handler_done.clear()
            if not self.core.busy:
                break
            if self.lead.lock.acquire(False):
                self._read_for(min(left, SLICE))
            else:
                self.lane.handler_done.wait(min(left, SLICE))
        return True

    def _read_for(self, seconds: float) -> None:
        """Nobody waits for what is under way, a batch say: read for it. The lead is given up."""
        try:
            if self.io.wait(readable=True, writable=False, seconds=seconds)[0]:
                self.receive()
        finally:
            self.give_up_lead()

    def end(self, cause: OSError | HvrpcError | None) -> None:
        """The connection is over. Every call on it ends now; may be called by anybody, twice."""
        with self.ending:
            if self.ended:
                return
            self.ended = True
            self.lane.leave_lobby()
        # First nothing more gets out, then it is told what was not sent: the other way round, a
        # call could be sent by another thread after its owner was told that it was not.
        self.io.shut_down(socket.SHUT_WR if cause is None else socket.SHUT_RDWR)
        orderly = cause is None and not self.core.waiting
        self.life.happened(Event.FINISHED if orderly else Event.GONE)
        self.core.fail(None if orderly else self._explain(cause))
        self.lane.handler_done.set()
        self.lane.tell()
        if self._on_end is not None:
            self._on_end(self)
        self._dispose()

    def close(self, drain: float | None = None) -> None:
        """End it, waiting a bounded time for the other side to end too."""
        longest = self.stream.options.drain
        self.end(None)
        if not self._over.wait(longest if drain is None else min(drain, longest)):
            # This wakes the thread that reads, which disposes of it.
            self.io.shut_down(socket.SHUT_RDWR)
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
        if not self.lead.lock.acquire(False):
            return  # the leader will come here when it leaves
        try:
            # Sending never waits, so whoever has the lock is about to give it back; unless an
            # interrupt struck between taking it and being able to.
            ours = self.sender.writer.acquire(timeout=ABOUT_TO)
            if not self._disposed:
                self._disposed = True
                self.stream.close()
                self.io.close()
                self._over.set()
            if ours:
                self.sender.writer.release()
        finally:
            self.lead.lock.release()

    def broken(self, error: ProtocolError) -> None:
        """The peer sent nonsense: tell the log, answer what can be answered, and end."""
        logger.warning("%s: %s: closing the connection", self.stream.peer, error.problem)
        self.push()
        self.end(error)

    def interrupted(self, error: BaseException) -> None:
        """Something struck in the midst of sending or reading: a part of a message may be lost, so end."""
        if self.ended:
            return
        lost = ConnectionLost(
            f"the thread that read the connection was interrupted by {type(error).__name__}",
            address=str(self.stream.address),
        )
        lost.__cause__ = error
        self.end(lost)
