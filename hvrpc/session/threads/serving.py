"""How a thread of the connection's own reads, and carries out what the peer asks for.

It runs a handler itself, with the lead put down, so user code may block. Should a handler take longer
than a moment (`watch.PATIENCE`) while there is more to read, another thread takes over the reading (as Go's
scheduler does for blocking system calls), and the first one ends when its handler does. A connection on
which nothing comes gives its thread up, and waits in the lobby.

So one lane has several threads in the course of time, and some of them at once. Only one of those *reads*:
it is known by an object that it made or was given, `me`, and finds out by `reader is me` that another one
has taken over.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import LockType, allocate_lock, get_ident
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ...errors import ProtocolError
from ..core import MANY_ANSWERS, Call, ends_large
from .io import CHUNK, SLICE
from .leading import wake
from .lobby import lobby
from .watch import watch

if TYPE_CHECKING:
    from .connection import Connection

logger = logging.getLogger("hvrpc.session")

REASSURE: Final = 0.25
"""Seconds between signs of life to a peer whose questions we do not read for the moment."""
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


class ServingLane:
    """Where the handlers of one connection run: what the core, the watch and the lobby know of it.

    The loop of `_serve_as` is to the peer's calls what `Connection.call` is to ours, and every step of it
    counts. So it receives, sends and puts the lead down by itself, with the parts of the connection; all
    else that it wants of the connection it asks it for.

    Once there is a reader, it changes under the connection's `ending`. `serving`, `handled` and `runner` are
    for the watch: whoever runs a handler writes them without a lock, and the watch when it hands over. `tell`,
    `is_overfull` and `handler_done` are for anybody; everything with an underscore belongs to the thread that
    reads.
    """

    __slots__ = (
        "_connection",
        "_nonsense",
        "_overflow",
        "_reassured",
        "_turn",
        "backlog",
        "handled",
        "handler_done",
        "parks",
        "reader",
        "runner",
        "serving",
        "stopping",
    )

    def __init__(self, connection: Connection[Any], *, parks: bool) -> None:
        self._connection = connection
        self.parks = parks
        """Whether it gives up its thread while it is idle."""
        self.backlog: deque[Any] = deque()
        """What was received, by whomever, and is to be carried out."""
        self.serving = 0
        """The number of the handler that the reading thread runs; 0 while it runs none."""
        self.handled = 0
        self.reader: object = None
        """Who reads what the peer asks for, and runs it."""
        self.runner = 0
        """The thread that does."""
        self.stopping = False
        """Whether somebody waits for the last handler to end."""
        self.handler_done = threading.Event()
        self._turn: LockType | None = None
        """Wakes the serving thread while it waits for the lead, or for work that is passed on."""
        self._overflow = False
        """Whether nothing more is run until the peer has taken some answers."""
        self._nonsense: ProtocolError | None = None
        self._reassured = 0.0

    # --- For those who read as well --------------------------------------------------------------

    def tell(self) -> None:
        """There is work in the backlog, or the end has come. May be called by anybody."""
        turn = self._turn
        if turn is not None:
            wake(turn)

    def is_overfull(self) -> bool:
        """Whether so many answers wait to be sent that reading on would only add to them.

        Calls of our own do not count: reading adds none, and if both sides stopped reading because
        of what they ask, neither would ever go on.
        """
        if not self._connection.sender.queue:
            return len(self.backlog) > MAX_QUEUED_ITEMS
        messages, size = self._connection.core.queued_answers()
        if messages > MAX_QUEUED_ITEMS or len(self.backlog) > MAX_QUEUED_ITEMS:
            return True
        # Whoever serves nothing answers nothing that is large.
        return self.reader is not None and size > MAX_QUEUED

    # --- The thread that reads -------------------------------------------------------------------

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
        connection = self._connection
        core = connection.core
        only_one = core.only_one
        serve_simple = core.serve_simple
        self.runner = get_ident()
        lead = connection.lead
        lock = lead.lock
        followers = lead.followers
        recv = connection.recv
        heartbeat = connection.heartbeat
        sender = connection.sender
        queue = sender.queue
        backlog = self.backlog
        leading = True
        try:
            while not connection.ended:
                if self._overflow:
                    self._wait_for_room()
                elif backlog:
                    lock.release()
                    leading = False
                    if followers:
                        lead.promote()
                    while backlog:
                        if watch.asleep:
                            watch.wake()
                        work = serve_simple(backlog, self, me)
                        if work is not None:
                            self.handled = self.serving = self.handled + 1
                            core.serve(work)
                        if self.stopping:
                            self.handler_done.set()
                        if self.reader is not me:
                            connection.flush()
                            self.handler_done.set()
                            return
                        # Answers that pile up, or are large, go out before more of them are made.
                        if backlog and (len(queue) >= MANY_ANSWERS or ends_large(queue)):
                            sender.push()
                            if sender.blocked and self.is_overfull():
                                break
                    if lock.acquire(False):
                        leading = True
                        if self.reader is not me:
                            connection.give_up_lead()
                            leading = False
                            connection.flush()  # the successor may be receiving, and not look for long
                            return
                    elif self._return_to_lead(me):
                        leading = True
                    else:
                        return
                    self.serving = 0
                    core.throttled = False  # digest() will say so if it still is
                    if queue:
                        sender.push()
                    if sender.blocked and self.is_overfull():
                        self._overflow = True
                elif self._nonsense is not None:
                    connection.broken(self._nonsense)
                else:
                    data: bytes | None = None
                    if core.throttled:
                        self._wait_for_handler()
                        if not core.has_more:
                            continue
                    elif not core.has_more:
                        if queue:
                            sender.push()
                        if core.target is not None or sender.blocked:
                            connection.receive()
                            continue
                        try:
                            data = recv(CHUNK)
                        except BlockingIOError:
                            if self._park():
                                return
                            connection.silence(None)
                            continue
                        except OSError as error:
                            connection.end(error)
                            continue
                        if not data:
                            connection.end(None)
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
            connection.interrupted(error)
            raise
        finally:
            if leading:
                connection.give_up_lead()

    def _return_to_lead(self, me: object) -> bool:
        """Somebody else leads: a successor, or a caller for as long as its call takes. A caller
        passes on what the peer asks for; that is run here until the lead is vacant.

        False when there is a successor, or nothing to lead any more.
        """
        connection = self._connection
        connection.flush()
        self.handler_done.set()
        while True:
            with connection.ending:
                if self.reader is not me or connection.ended:
                    return False
                self.serving = 0
            if connection.lead.lock.acquire(False):
                return True
            try:
                work = self.backlog.popleft()
            except IndexError:
                self._await_turn()
                continue
            self.handled = self.serving = self.handled + 1
            if watch.asleep:
                watch.wake()
            connection.core.serve(work)
            connection.flush()
            self.handler_done.set()

    def _await_turn(self) -> None:
        """Sleep until the lead is vacant, or work is passed on."""
        connection = self._connection
        lead = connection.lead
        turn = allocate_lock()
        turn.acquire()
        place = Call()
        lead.followers[place] = turn
        self._turn = turn
        try:
            # As followers do: on the list first, then a look, and only then to sleep.
            if not self.backlog and lead.lock.locked() and not connection.ended:
                turn.acquire()
        finally:
            self._turn = None
            lead.followers.pop(place, None)
            lead.pass_on()

    def _wait_for_handler(self) -> None:
        """As many handlers run as may: read on when one of them has finished."""
        connection = self._connection
        if not connection.ended and not self.handler_done.wait(THROTTLED):
            self._look_ahead()
            now = time.monotonic()
            if now - self._reassured > REASSURE:
                self._reassured = now
                connection.core.reassure()
                connection.push()
        self.handler_done.clear()
        connection.core.throttled = False  # digest() will say so if it still is

    def _look_ahead(self) -> None:
        """None of the handlers ends: what cancels one may be what comes next."""
        connection = self._connection
        core = connection.core
        queue = connection.sender.queue
        try:
            core.look_ahead(None, self.backlog)
            while core.may_look_ahead and self._is_readable():
                if queue and not connection.sender.push():
                    return  # the peer does not read: nothing that would be answered is taken in
                data = connection.recv(CHUNK)
                if not data:
                    connection.end(None)
                    return
                if connection.heartbeat is not None:
                    connection.heartbeat.heard()
                core.look_ahead(data, self.backlog)
        except BlockingIOError:
            pass  # it was nothing that is read
        except OSError as error:
            connection.end(error)
            return
        except ProtocolError as error:
            self._nonsense = error  # what came before it is carried out first
        if queue:
            connection.sender.push()

    def _is_readable(self) -> bool:
        return self._connection.io.wait(readable=True, writable=False, seconds=0)[0]

    def _wait_for_room(self) -> None:
        """So many answers wait to be sent that no more are made until the peer has taken some."""
        connection = self._connection
        sender = connection.sender
        while self._overflow and not connection.ended:
            if connection.io.wait(readable=False, writable=True, seconds=SLICE)[1]:
                sender.push()
            else:
                sender.give_up_if_stalled(time.monotonic())
            self._overflow = sender.blocked and self.is_overfull()

    # --- Other threads, and none -----------------------------------------------------------------

    def hand_over(self, *, anyway: bool) -> None:
        """Let another thread read on, if there is something to read. Called by the watch."""
        connection = self._connection
        more = anyway or self.backlog or connection.core.has_more
        if not more:
            try:
                more = connection.io.wait(readable=True, writable=False, seconds=0)[0]
            except (OSError, ValueError):
                return  # closed meanwhile
        if not more or connection.ended:
            return
        leading = connection.lead.lock.acquire(False)
        if not leading and not self.backlog:
            return  # a caller reads, and has nothing to pass on
        successor = object()
        with connection.ending:
            # Whoever comes back from a handler now finds a successor.
            self.reader = successor
            self.runner = 0
            self.serving = 0
        self._start_reading(successor, leading)

    def _start_reading(self, me: object, leading: bool) -> None:
        connection = self._connection
        thread = threading.Thread(
            target=self._serve_on, args=(me, leading), name="hvrpc-connection", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads to be had
            logger.warning("%s: no thread to read on: %s", connection.stream.peer, error)
            connection.end(ConnectionAbortedError("no thread to read on"))
            if leading:
                connection.give_up_lead()

    def _park(self) -> bool:
        """Nothing has come for a while, and nothing is under way: wait for more in the lobby, without a
        thread. The lead is held, and given up by the caller."""
        connection = self._connection
        core = connection.core
        sender = connection.sender
        if (
            not self.parks
            or core.busy
            or core.has_more
            or connection.lead.followers
            or sender.queue
        ):
            return False
        with connection.ending:
            if connection.ended or self.stopping or sender.rest is not None:
                return False
            self.reader = PARKED
            connection.set_tick(lobby.idle_for)
            lobby.enter(connection.stream.socket.fileno(), self)
        watch.discard(self)
        return True

    def leave_lobby(self) -> None:
        """The end has come, if it is parked. The connection's `ending` is held."""
        if self.reader is PARKED:
            lobby.leave(self._connection.stream.socket.fileno(), self)

    def resume(self) -> None:
        """Something has come while it was parked: read on, on a thread of its own."""
        me = object()
        with self._connection.ending:
            if self._connection.ended or self.reader is not PARKED:
                return
            self.reader = me
        watch.add(self)
        self._start_reading(me, leading=False)
