"""The calling side of gRPC on one connection, without I/O.

A call ends in one of four ways, and `ClientCall.ending` makes one of them all: by the server's trailers,
by a reset of its stream, by a failure of the connection, or by this side's own wish. What has certainly
not been carried out is a `failure` with the outcome "not sent", so that the session repeats it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc

from ..errors import ConnectionLost, HvrpcError, Outcome
from ..http2 import (
    DATA_RECEIVED,
    GOAWAY_RECEIVED,
    HEADERS_RECEIVED,
    SETTINGS_RECEIVED,
    STREAM_RESET,
    TRAILERS_RECEIVED,
    ConnectionEnding,
    ErrorCode,
    Fields,
    Headers,
    Limits,
    Role,
    Settings,
    StreamClosed,
    TooManyStreams,
)
from ..http2.sending import Buffer
from ..session.core import Call
from . import status
from .core import GrpcCore
from .messages import CLIENT, Assembler, Message, unpack_only
from .status import StatusError
from .wire import PLAIN, Ending, Opening, ending_of, opening_of

SMALL: Final = 16 * 1024
"""A response of up to this size is kept as it came; of a larger one the peer is told at once what was
received, or its window would be used up before the message is complete."""
TOO_MANY: Final = 2
"""Messages that are no unary response, however many follow."""
CREDIT: Final = 32 * 1024
"""Bytes of a stream that are consumed before the peer is told."""


class ClientCall(Call):
    """One call, as the calling side knows it.

    `done` means "there is something to look at": the end always is, and for a response that streams
    each piece of it too.
    """

    headers: Headers | None = None
    trailers: Headers | None = None
    reset: tuple[int, str] | None = None
    decided: Ending | None = None
    """How this side has ended it."""
    ended = False
    sending = False
    """Whether this side has more to send."""
    streams = False
    """Whether messages are looked at as they come."""
    wants_headers = False
    """Whether the headers are looked at before the end."""
    waits_to_open: tuple[Any, ...] | None = None
    """What to send when the peer allows one more stream."""
    room: Call | None = None
    """Somebody waits until what was queued has been sent."""
    watched: Callable[[], object] | None = None
    """Somebody wants to be told of the end, on a thread where the user's code may run."""
    onlookers: tuple[Call, ...] = ()
    """Who waits for the headers or the end beside the one who takes the messages."""

    first: bytes | None = None
    assembler: Assembler | None = None

    def __init__(self, most: int) -> None:
        self.most = most
        """Bytes that a message may have."""

    # --- What the core tells, with its lock held --------------------------------------------------

    def look(self) -> None:
        """There is something new."""
        self.done = True
        if self.wake is not None:
            self.wake()
        for onlooker in self.onlookers:
            _tell(onlooker)

    def finish(self) -> None:
        """It is over."""
        self.ended = True
        if self.room is not None:
            self.room.fail(_OVER)
        self.look()

    def fail(self, failure: HvrpcError) -> None:
        if not self.ended:
            self.failure = failure
            self.finish()

    # --- How it ended -----------------------------------------------------------------------------

    @property
    def opening(self) -> Opening | None:
        """What the server said first; None when nothing came, or when it was the end as well."""
        return None if self.headers is None else opening_of(self.headers)

    @property
    def ending(self) -> Ending:
        """How it ended, once it has."""
        if self.decided is not None:
            return self.decided
        if self.trailers is not None:
            return ending_of(self.trailers)
        if self.failure is not None:
            return Ending(grpc.StatusCode.UNAVAILABLE, str(self.failure))
        if self.reset is not None:
            return Ending(*status.code_of_reset(self.reset[0]))
        return Ending(grpc.StatusCode.UNKNOWN, status.NO_TRAILERS)

    def message(self) -> bytes | None:
        """The only message of a response that is complete. None: there was none, or several.

        Raises :class:`StatusError` when it cannot be accepted.
        """
        first = self.first
        if first is not None:
            message = unpack_only(first, self.most)
            if message is not None:
                return message
        messages = self._assembled().take()
        if len(messages) != 1:
            return None
        only = messages[0]
        return only if isinstance(only, bytes) else only.unpack()

    def _assembled(self) -> Assembler:
        assembler = self.assembler
        if assembler is None:
            opening = self.opening
            encoding = PLAIN if opening is None else opening.encoding
            assembler = self.assembler = Assembler(CLIENT, self.most, encoding)
        first, self.first = self.first, None
        if first is not None:
            assembler.feed(first)
        return assembler


class StreamCall(ClientCall):
    """A call whose messages are taken as they come."""

    streams = True

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.pieces: deque[bytes] = deque()
        self.messages: deque[Message] = deque()
        self.taken = 0
        """Bytes that the peer has not been told of yet."""

    def take(self) -> bytes | None:
        """The next message that has come; None when there is none. Raises :class:`StatusError`."""
        assembler = self.assembler
        pieces = self.pieces
        messages = self.messages
        while not messages:
            if not pieces:
                return None
            piece = pieces.popleft()
            self.taken += len(piece)
            if assembler is None or not assembler.missing:
                message = unpack_only(piece, self.most)
                if message is not None:
                    return message
            if assembler is None:
                assembler = self._assembled()
            try:
                assembler.feed(piece)
            finally:
                messages.extend(assembler.take())
        following = messages.popleft()
        return following if isinstance(following, bytes) else following.unpack()


_OVER: Final = ConnectionLost("the call has ended")


class ClientCore(GrpcCore):
    """The calls of one connection."""

    def __init__(
        self,
        settings: Settings | None = None,
        limits: Limits | None = None,
        *,
        address: str = "",
        pings_anyway: bool = False,
        on_ready: Callable[[ClientCore], object] | None = None,
        on_goaway: Callable[[ClientCore], object] | None = None,
        on_end: Callable[[ClientCore], object] | None = None,
    ) -> None:
        super().__init__(Role.CLIENT, settings, limits)
        self.address = address
        self._pings_anyway = pings_anyway
        self._on_ready = on_ready
        self._on_goaway = on_goaway
        self._on_end = on_end
        self._hello: Call | None = None
        self._calls: dict[int, ClientCall] = {}
        self._queued: deque[ClientCall] = deque()
        self._untold: list[Callable[[], object]] = []
        """Whoever wants to be told of a call that was never begun."""
        self.forsaken: deque[ClientCall] = deque()
        """Calls that nobody has kept. They are put here by the garbage collector, which may run while this
        very thread holds the lock, and given up by whoever comes by (`end_forsaken`)."""
        self.attended = False
        """Whether a thread reads although nobody waits."""

    # --- Calls ---------------------------------------------------------------------------------

    def start_unary(
        self, call: ClientCall, fields: Fields, message: Buffer, extra: Fields = ()
    ) -> None:
        """Queue a call with its only message.

        A call that cannot be begun on this connection any more fails as "not sent".
        """
        with self.lock:
            try:
                key = self.http.send_request(fields, message, extra)
            except TooManyStreams:
                call.waits_to_open = (fields, extra, [(message, True)])
                self._queued.append(call)
                return
            except ConnectionEnding:
                self.draining = True
                call.fail(self._not_taken())
                return
            call.key = key
            self._calls[key] = call

    def start(self, call: ClientCall, fields: Fields, extra: Fields = ()) -> None:
        """Queue the beginning of a call whose messages follow; not of one that was given up already."""
        with self.lock:
            if call.ended:
                return
            call.sending = True
            try:
                key = self.http.open_stream(fields, extra)
            except TooManyStreams:
                call.waits_to_open = (fields, extra, [])
                self._queued.append(call)
                return
            except ConnectionEnding:
                self.draining = True
                call.fail(self._not_taken())
                return
            call.key = key
            self._calls[key] = call

    def send(self, call: ClientCall, parts: Iterable[Buffer], *, end: bool = False) -> int:
        """Queue a message, or with `end` and nothing else the end of the requests.

        Returns how many bytes of the call wait here: a sender that respects its peer waits when that
        is much (`room`). -1: the call takes no more.
        """
        with self.lock:
            if call.ended or not call.sending:
                return -1
            if end:
                call.sending = False
            if call.waits_to_open is not None:
                unsent = call.waits_to_open[2]
                for part in parts:
                    unsent.append((part, False))
                if end:
                    unsent.append((b"", True))
                return sum(len(part) for part, _ in unsent)
            http = self.http
            try:
                for part in parts:
                    http.send_data(call.key, part)
                if end:
                    http.send_data(call.key, b"", True)
            except StreamClosed:
                return -1
            return http.queued(call.key)

    def queued(self, call: ClientCall, waiter: Call) -> bool:
        """Whether bytes of the call wait here. Then the waiter is done when they have gone."""
        with self.lock:
            if call.ended or not (call.waits_to_open or self.http.queued(call.key)):
                return False
            call.room = waiter
            return True

    def consumed(self, call: StreamCall) -> bool:
        """Tell the peer what was taken. True when there is something to send."""
        taken, call.taken = call.taken, 0
        with self.lock:
            if call.ended:
                return False
            self.http.consumed(call.key, taken)
            return bool(self.outgoing)

    def end(self, call: ClientCall, ending: Ending, code: int = ErrorCode.CANCEL) -> bool:
        """Give a call up. False when it had ended before."""
        with self.lock:
            if call.ended:
                if self._calls.get(call.key) is call:
                    self._drop(call, code)  # it was given up while it was begun
                return False
            call.decided = ending
            self._drop(call, code)
            untold, self._untold = self._untold, []
        for tell in untold:
            tell()
        return True

    def end_forsaken(self, ending: Ending) -> None:
        """Give up the calls that nobody has kept."""
        while self.forsaken:
            self.end(self.forsaken.popleft(), ending)

    def end_all(self, ending: Ending) -> None:
        """Give all calls up."""
        for call in [*self._calls.values(), *self._queued]:
            if self.end(call, ending) and call.watched is not None:
                call.watched()

    def _drop(self, call: ClientCall, code: int = ErrorCode.CANCEL) -> None:
        if call.waits_to_open is not None:
            call.waits_to_open = None
            self._queued.remove(call)
        else:
            self._calls.pop(call.key, None)
            self.http.reset_stream(call.key, code)
            if self._queued:
                self._open_queued()
        call.finish()

    def _open_queued(self) -> None:
        http = self.http
        queued = self._queued
        while queued and http.may_open:
            call = queued.popleft()
            if http.may_open < 0:
                self.draining = True
                call.waits_to_open = None
                call.fail(self._not_taken())
                if call.watched is not None:
                    self._untold.append(call.watched)
                continue
            assert call.waits_to_open is not None
            fields, extra, unsent = call.waits_to_open
            call.waits_to_open = None
            call.key = http.open_stream(fields, extra)
            self._calls[call.key] = call
            for data, end in unsent:
                http.send_data(call.key, data, end)
            room = call.room
            if room is not None and not http.queued(call.key):
                call.room = None
                _tell(room)

    def _not_taken(self) -> ConnectionLost:
        return ConnectionLost(
            "the connection takes no more calls", address=self.address, outcome=Outcome.NOT_SENT
        )

    # --- What comes --------------------------------------------------------------------------------

    def handle(self, events: list[Any], work: deque[Any]) -> None:
        calls = self._calls
        for kind, stream_id, value, flag in events:
            call = calls.get(stream_id)
            if call is None or kind == GOAWAY_RECEIVED:  # which names the last call that is taken
                if stream_id == 0 or kind == GOAWAY_RECEIVED:
                    self._on_connection(kind, value)
            elif kind == DATA_RECEIVED:
                if call.streams:
                    call.pieces.append(value)  # type: ignore[attr-defined]
                    if not call.done:
                        call.look()
                elif call.first is None and call.assembler is None and len(value) <= SMALL:
                    call.first = value
                else:
                    self._collect(call, value)
                if flag:
                    # DATA may not end a response of gRPC's, but it does end the stream.
                    self._finish(call, stream_id, work)
            elif kind == HEADERS_RECEIVED:
                opening = opening_of(value)
                problem = opening.problem
                if flag:
                    call.decided = opening.ending if problem is None else problem
                    self._finish(call, stream_id, work)
                    continue
                call.headers = value
                if problem is not None:
                    call.decided = problem
                    self._drop(call)
                    self._tell_watchers(call, work)
                elif call.streams or call.wants_headers:
                    call.look()
            elif kind == TRAILERS_RECEIVED:
                call.trailers = value
                self._finish(call, stream_id, work)
            elif kind == STREAM_RESET:
                self._on_reset(call, value, by_peer=flag)
                self._finish(call, stream_id, work)
        if self._queued:
            self._open_queued()
        if self._untold:
            work.extend(map(Told, self._untold))
            self._untold = []

    def has_room(self, stream_id: int) -> None:
        call = self._calls.get(stream_id)
        if call is not None and call.room is not None:
            room, call.room = call.room, None
            _tell(room)

    def _finish(self, call: ClientCall, stream_id: int, work: deque[Any]) -> None:
        if self._calls.pop(stream_id, None) is None:
            return
        if call.sending:
            # The server needs no more of it.
            call.sending = False
            self.http.reset_stream(stream_id, ErrorCode.NO_ERROR)
        call.finish()
        self._tell_watchers(call, work)

    def _tell_watchers(self, call: ClientCall, work: deque[Any]) -> None:
        if call.watched is not None:
            work.append(Told(call.watched))

    def _on_reset(self, call: ClientCall, value: tuple[int, str], *, by_peer: bool) -> None:
        code, reason = value
        if by_peer and code == ErrorCode.REFUSED_STREAM and call.headers is None:
            call.failure = ConnectionLost(
                f"the server did not take the call: {reason}",
                address=self.address,
                outcome=Outcome.NOT_SENT,
            )
        elif by_peer and code == ErrorCode.NO_ERROR and call.trailers is not None:
            pass
        else:
            call.reset = (code, reason)

    def _collect(self, call: ClientCall, piece: bytes) -> None:
        """More of a response that is not small: put it together, and let the peer send on."""
        try:
            assembler = call._assembled()
            if assembler.count < TOO_MANY:  # or a server could have us hold any number
                assembler.feed(piece)
        except StatusError as error:
            call.decided = Ending(error.code, error.details)
            self._drop(call)
            return
        self.http.consumed(call.key, len(piece))

    def _on_connection(self, kind: int, value: Any) -> None:
        if kind == SETTINGS_RECEIVED:
            hello, self._hello = self._hello, None
            if hello is not None:
                _tell(hello)
        elif kind == GOAWAY_RECEIVED:
            self.draining = True
            if self._on_goaway is not None:
                self._on_goaway(self)

    # --- The life of the connection ------------------------------------------------------------

    def open(self, first: Call) -> bool:
        self._hello = first
        return True

    def opened(self, first: Call) -> None:
        if self._on_ready is not None:
            self._on_ready(self)

    @property
    def waiting(self) -> bool:
        return bool(self._calls) or bool(self._queued) or self._hello is not None

    @property
    def busy(self) -> bool:
        return self.waiting

    def calls(self) -> Iterable[Call]:
        return [*self._calls.values(), *self._queued]

    def queued_answers(self) -> tuple[int, int]:
        # Answers of a client are acknowledgements, which HTTP/2 bounds (`Limits.unsent_replies`).
        return 0, 0

    def ping(self) -> bool:
        if not (self._pings_anyway or self.http.peer.pings_welcome):
            return False
        return super().ping()

    def fail(self, error: HvrpcError | None) -> None:
        with self.lock:
            self.http.lost()
            unprocessed = self.http.unprocessed()
            calls = list(self._calls.items())
            queued = list(self._queued)
            self._calls.clear()
            self._queued.clear()
            hello, self._hello = self._hello, None
            for key, call in calls:
                sent = key not in unprocessed
                call.fail(self._lost(error, sent=sent))
            for call in queued:
                call.waits_to_open = None
                call.fail(self._lost(error, sent=False))
        if hello is not None:
            hello.fail(self._lost(error, sent=False))
        for call in (*dict(calls).values(), *queued):
            if call.watched is not None:
                call.watched()
        if self._on_end is not None:
            self._on_end(self)

    def _lost(self, error: HvrpcError | None, *, sent: bool) -> ConnectionLost:
        problem = getattr(error, "problem", None) or (
            "the connection was closed" if error is None else str(error)
        )
        lost = ConnectionLost(
            problem,
            address=self.address,
            outcome=Outcome.MAY_HAVE_RUN if sent else Outcome.NOT_SENT,
        )
        lost.__cause__ = error
        return lost


class Told:
    """Somebody is told of something, on a thread where the user's code may run."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def run(self) -> None:
        self._function()


def _tell(waiter: Call) -> None:
    waiter.done = True
    if waiter.wake is not None:
        waiter.wake()
