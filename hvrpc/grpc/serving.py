"""The serving side of gRPC on one connection, without I/O.

A call becomes work as soon as its handler can make use of it: when the only message of its request is
complete, or at once when requests stream, or when it is not known which of the two it is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import grpc

from ..errors import HvrpcError
from ..http2 import (
    DATA_RECEIVED,
    HEADERS_RECEIVED,
    STREAM_RESET,
    TRAILERS_RECEIVED,
    ErrorCode,
    Fields,
    Limits,
    Role,
    Settings,
    StreamClosed,
)
from ..http2.sending import Buffer
from ..session.core import Call
from .calling import SMALL, Told, _tell
from .core import GrpcCore
from .messages import SERVER, Assembler, Message, unpack_only
from .status import StatusError
from .wire import CONTENT_TYPE, OK, RESPONSE, Request, request_of, status_fields

_CANCELLING: Final[Fields] = ((b"grpc-message", b"Cancelling all calls"),)
UNSUPPORTED_MEDIA: Final[Fields] = ((b":status", b"415"),)


class Service(Protocol):
    """What a server does with calls. Both servers, blocking and asyncio, are one."""

    most_received: int
    """Bytes that a message may have."""

    def takes_one(self, path: str) -> bool:
        """Whether it is known that the requests of this method are one message each."""
        ...

    def run(self, call: ServerCall) -> Any:
        """Carry a call out. An awaitable that is returned has to be awaited."""


class ServerCall(Call):
    """One call, as the serving side knows it.

    As a `Call` that one can wait for it is `done` when there is something to look at: a piece of the
    request, its end, or that the caller has given up.
    """

    first: bytes | None = None
    assembler: Assembler | None = None
    request_ended = False
    cancelled = False
    """The caller has gone, or has given up."""
    headers_sent = False
    answered = False
    """The status was sent."""
    room: Call | None = None
    taken = 0
    reading = True
    """Whether requests are taken in still."""
    on_cancelled: Callable[[], object] | None = None
    detached = False
    """Whether it goes on although its handler has returned."""
    is_over = False
    """Whether one that was detached has ended."""
    task: Any = None

    def __init__(self, core: ServerCore, key: int, request: Request, one: bool) -> None:
        self.core = core
        self.key = key
        self.request = request
        self.one = one
        """Whether it was given to the handler with its whole request."""
        self.deadline = None if request.timeout is None else time.monotonic() + request.timeout
        self.pieces: deque[bytes] = deque()
        self.messages: deque[Message] = deque()

    def run(self) -> Any:
        """Carry it out."""
        return self.core.service.run(self)

    def look(self) -> None:
        """There is something new."""
        self.done = True
        if self.wake is not None:
            self.wake()

    def give_up(self) -> None:
        """Nobody wants its answer: whoever waits on its behalf need not."""
        self.cancelled = True
        room = self.room
        if room is not None:
            _tell(room)
        self.look()

    @property
    def is_late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    # --- Its requests --------------------------------------------------------------------------

    def take(self) -> bytes | None:
        """The next message that has come, None when there is none. Raises :class:`StatusError`."""
        most = self.core.service.most_received
        first = self.first
        if first is not None:
            self.first = None
            message = unpack_only(first, most)
            if message is not None:
                return message
            self.assemble(first)
        pieces = self.pieces
        messages = self.messages
        while not messages:
            if not pieces:
                return None
            piece = pieces.popleft()
            self.taken += len(piece)
            if self.assembler is None or not self.assembler.missing:
                message = unpack_only(piece, most)
                if message is not None:
                    return message
            self.assemble(piece)
        following = messages.popleft()
        return following if isinstance(following, bytes) else following.unpack()

    def assemble(self, piece: bytes) -> None:
        """Add a piece to what has come. Raises :class:`StatusError` for what cannot be accepted."""
        assembler = self.assembler
        if assembler is None:
            assembler = self.assembler = Assembler(
                SERVER, self.core.service.most_received, self.request.encoding
            )
        try:
            assembler.feed(piece)
        finally:
            self.messages.extend(assembler.take())

    @property
    def is_complete(self) -> bool:
        """Whether no further message will come."""
        return self.request_ended and not self.pieces and self.first is None


class ServerCore(GrpcCore):
    """The calls of one connection."""

    def __init__(
        self,
        service: Service,
        settings: Settings | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(Role.SERVER, settings, limits)
        self.service = service
        self.get_connection: Callable[[], Any]
        """What the driver makes of this core; set by the server."""
        self._calls: dict[int, ServerCall] = {}
        self._running: set[ServerCall] = set()
        self.refuses = False
        """Whether no further call is taken, not even one that was sent before its caller was told."""
        self.count = 0
        """How many calls there have been."""
        self.on_end: Callable[[], object] | None = None

    @property
    def connection(self) -> Any:
        """What the driver has made of this."""
        return self.get_connection()

    # --- What comes --------------------------------------------------------------------------------

    def handle(self, events: list[Any], work: deque[Any]) -> None:
        calls = self._calls
        for kind, stream_id, value, flag in events:
            if kind == HEADERS_RECEIVED:
                if self.refuses:
                    self.http.reset_stream(stream_id, ErrorCode.REFUSED_STREAM)
                    continue
                request = request_of(value)
                if not request.content_type.startswith(CONTENT_TYPE):
                    self.http.send_trailers(stream_id, UNSUPPORTED_MEDIA)
                    self.http.stop_receiving(stream_id)
                    continue
                one = self.service.takes_one(request.path)
                call = calls[stream_id] = ServerCall(self, stream_id, request, one)
                self._running.add(call)
                self.count += 1
                call.request_ended = flag
                if flag or not one:
                    work.append(call)
                continue
            call = calls.get(stream_id)  # type: ignore[assignment]
            if call is None:
                continue
            if kind == DATA_RECEIVED:
                if flag:
                    call.request_ended = True
                if not call.one:
                    if call.reading:
                        call.pieces.append(value)
                    call.look()
                elif flag and call.first is None and call.assembler is None and len(value) <= SMALL:
                    call.first = value
                    work.append(call)
                else:
                    self._collect(call, value, work)
            elif kind == TRAILERS_RECEIVED:
                call.request_ended = True
                if call.one:
                    work.append(call)
                else:
                    call.look()
            elif kind == STREAM_RESET:
                del calls[stream_id]
                self._cancel(call, work)

    def has_room(self, stream_id: int) -> None:
        call = self._calls.get(stream_id)
        if call is not None and call.room is not None:
            room, call.room = call.room, None
            _tell(room)

    def _collect(self, call: ServerCall, piece: bytes, work: deque[Any]) -> None:
        """A request that is not small, or comes in pieces: let the caller send on."""
        first, call.first = call.first, None
        try:
            for each in (piece,) if first is None else (first, piece):
                if not call.messages:
                    call.assemble(each)
            while len(call.messages) > 1:  # what follows the one message is nothing to hold
                call.messages.pop()
        except StatusError as error:
            call.error = error
            call.one = False  # it is given to the handler as it is
            work.append(call)
            return
        self.http.consumed(call.key, len(piece))
        if call.request_ended:
            work.append(call)

    def _cancel(self, call: ServerCall, work: deque[Any] | None) -> None:
        call.give_up()
        if call.one and not call.request_ended:
            self._running.discard(call)  # it has never begun
        elif call.on_cancelled is not None:
            if work is not None:
                work.append(Told(call.on_cancelled))
            else:
                call.on_cancelled()

    # --- Answers -------------------------------------------------------------------------------

    def answer(
        self, call: ServerCall, message: Buffer, trailers: Fields = OK, extra: Fields = ()
    ) -> None:
        """Queue a whole response. Nothing happens if the caller has gone."""
        call.answered = True
        key = call.key
        with self.lock:
            if self._calls.pop(key, None) is None:
                return
            try:
                self.http.send_response(key, RESPONSE, message, trailers, extra)
            except StreamClosed:
                return
            if not call.request_ended:
                self.http.stop_receiving(key)

    def send_headers(self, call: ServerCall, fields: Fields, extra: Fields = ()) -> None:
        """Queue what opens a response."""
        call.headers_sent = True
        with self.lock:
            if call.key in self._calls:
                try:
                    self.http.send_headers(call.key, fields, extra)
                except StreamClosed:
                    pass

    def send(self, call: ServerCall, parts: Iterable[Buffer]) -> int:
        """Queue a message. Returns how many bytes of the call wait here; -1: nobody wants it."""
        with self.lock:
            if call.key not in self._calls:
                return -1
            http = self.http
            try:
                for part in parts:
                    http.send_data(call.key, part)
            except StreamClosed:
                return -1
            return http.queued(call.key)

    def queued(self, call: ServerCall, waiter: Call) -> bool:
        """Whether bytes of the call wait here. Then the waiter is done when they have gone."""
        with self.lock:
            if call.key not in self._calls or not self.http.queued(call.key):
                return False
            call.room = waiter
            return True

    def end(self, call: ServerCall, code: grpc.StatusCode, extra: Fields = ()) -> None:
        """Queue the status."""
        call.answered = True
        with self.lock:
            if self._calls.pop(call.key, None) is None:
                return
            room, call.room = call.room, None
            if room is not None:  # it was ended by another thread than the one that sends
                _tell(room)
            fields = status_fields(code, alone=not call.headers_sent)
            try:
                self.http.send_trailers(call.key, fields, extra)
            except StreamClosed:
                return
            if not call.request_ended:
                self.http.stop_receiving(call.key)

    def reset(self, call: ServerCall, code: int = ErrorCode.CANCEL) -> None:
        """End a call without a status."""
        call.answered = True
        with self.lock:
            if self._calls.pop(call.key, None) is not None:
                self.http.reset_stream(call.key, code)

    def cancel_all(self) -> None:
        """End all calls without a status, as their callers could: the time is up."""
        with self.lock:
            calls = list(self._calls.values())
            self._calls.clear()
            for call in calls:
                self.http.reset_stream(call.key, ErrorCode.CANCEL)
        for call in calls:
            self._cancel(call, None)

    def consumed(self, call: ServerCall) -> bool:
        """Tell the caller what was taken. True when there is something to send."""
        taken, call.taken = call.taken, 0
        with self.lock:
            if call.key in self._calls:
                self.http.consumed(call.key, taken)
            return bool(self.outgoing)

    def stop_reading(self, call: ServerCall) -> None:
        """The handler takes no more requests: hold none."""
        call.reading = False
        call.pieces.clear()

    def ended(self, call: ServerCall) -> None:
        """The handler has ended."""
        self._running.discard(call)

    def running(self) -> list[ServerCall]:
        """Calls that have not ended."""
        return list(self._running)

    # --- The life of the connection ------------------------------------------------------------

    def farewell(self) -> None:
        # Whoever waits still is told so, rather than left with a connection that has ended.
        with self.lock:
            for key, call in self._calls.items():
                fields = status_fields(grpc.StatusCode.UNAVAILABLE, alone=not call.headers_sent)
                try:
                    self.http.send_trailers(key, fields, _CANCELLING)
                except StreamClosed:
                    pass
            self.http.close()

    @property
    def waiting(self) -> bool:
        return False

    @property
    def busy(self) -> bool:
        # An answer that its caller takes slowly is under way still.
        return bool(self._running) or self.http.queued_bytes > 0

    def fail(self, error: HvrpcError | None) -> None:
        with self.lock:
            self.http.lost()
            calls = list(self._calls.values())
            self._calls.clear()
        for call in calls:
            self._cancel(call, None)
        if self.on_end is not None:
            self.on_end()
