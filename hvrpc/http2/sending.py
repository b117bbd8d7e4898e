"""The sending half of a connection: calls become bytes in `outgoing`.

The owner calls a method, then sends everything in `outgoing`, in order. Small things are put there
at once, as one buffer per call: `send_request` and `send_response` write all frames of a small
unary call by a single `join`. What does not fit the peer's flow-control windows, or is large,
waits in its stream (`Pending`), and `pump` moves it on, one frame of each stream in turn.

`pump` stops when `outgoing` holds a few dozen buffers. So a message of a gigabyte neither fills
`outgoing` nor keeps other streams waiting, and the owner's loop is:

    while connection.outgoing:
        ... send everything in it ...
        connection.pump()

None of this is thread-safe: the owner holds one lock (or one event loop) around all calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from . import frames
from .errors import (
    ConnectionEnding,
    ErrorCode,
    LocalProtocolError,
    StreamClosed,
    TooManyStreams,
)
from .events import STREAM_WRITABLE, Event
from .fields import Field, Fields
from .frames import END_HEADERS, END_STREAM, HEADERS, MOST_STREAM_ID, pack_header
from .headers import HeaderEncoder
from .limits import Allowance, Limits
from .settings import DEFAULT_FRAME_SIZE, DEFAULT_WINDOW, MOST_WINDOW, PeerSettings, Settings
from .streams import CLOSED, ENDING, NOTHING, OPEN, Pending, Stream
from .windows import ConnectionWindow

Buffer: TypeAlias = bytes | bytearray | memoryview

# Up to here copying is cheaper than one more buffer to send. Every peer takes frames of this size.
_SMALL: Final = DEFAULT_FRAME_SIZE

# Larger frames save little, and each keeps the other streams waiting while it is sent.
MOST_DATA_FRAME: Final = 128 * 1024

# `pump` stops here: enough for one large `sendmsg`, little enough that PING answers and small
# calls get their turn soon.
_MOST_BUFFERS: Final = 32

# In the memory of resets: the peer said itself that no more would come.
RESET_BY_PEER: Final = -1

_HEAD_END: Final = END_HEADERS | END_STREAM


class SendingHalf:
    """What a connection sends, and the state that this needs. See `Connection`."""

    def __init__(self, *, client: bool, settings: Settings, limits: Limits) -> None:
        self.is_client = client
        self.settings = settings
        self.limits = limits
        #: What must be sent, in order. The owner takes it away as it is sent.
        self.outgoing: deque[Buffer] = deque()
        #: What happened. The owner takes it (`take_events`).
        self.events: list[Event] = []
        #: Called with the stream's id instead of STREAM_WRITABLE, if it is set: that may happen whenever
        #: something is sent, and the events may not be looked at before something is received.
        self.on_writable: Callable[[int], object] | None = None
        #: What the peer has offered.
        self.peer = PeerSettings()
        #: True after a connection error, `close`, or `lost`: nothing is taken or given any more.
        self.has_ended = False
        #: Bytes of all streams that wait for flow control.
        self.queued_bytes = 0

        self._streams: dict[int, Stream] = {}
        self._encoder = HeaderEncoder()
        self._send_window = DEFAULT_WINDOW
        self._most_data_frame = DEFAULT_FRAME_SIZE
        #: Streams that have something queued which `pump` could perhaps move on.
        self.ready: deque[Stream] = deque()
        # Streams that may be open at a time; -1: none may be opened any more.
        self._most_streams = self.peer.max_concurrent_streams if client else -1
        # The highest id that was used, by us (client) or by the peer (server).
        self._highest = -1 if client else 0
        self._new_stream_window = max(settings.stream_window, DEFAULT_WINDOW)
        # A client opens its streams itself; how many a server has to do with is its clients' affair.
        lends = MOST_WINDOW if client else settings.most_unread
        self._window = ConnectionWindow(DEFAULT_WINDOW, lends)
        # Streams that were reset, oldest first: how much DATA may still arrive that was sent before
        # our RST_STREAM got there, or RESET_BY_PEER.
        self._resets: dict[int, int] = {}
        self._resets_forgotten = 0
        self._ignored_left = Allowance(limits.ignored_frames, "frames without use")
        # Useful work, which gives back the allowances of `limits.py`.
        self._streams_completed: int = 0
        self._data_frames: int = 0

    # -- streams ------------------------------------------------------------------------------

    @property
    def open_streams(self) -> int:
        """How many streams are open, or half-closed."""
        return len(self._streams)

    @property
    def may_open(self) -> int:
        """How many streams a client may open now. 0: wait until one ends, or SETTINGS come;
        -1: never again on this connection."""
        if self._most_streams < 0 or self._highest + 2 > MOST_STREAM_ID:
            return -1
        return max(0, self._most_streams - len(self._streams))

    def open_stream(
        self, fields: Fields, extra: Iterable[Field] = (), end_stream: bool = False
    ) -> int:
        """Open a stream by its request headers, and return its id (clients only).

        `fields` should be the same for all calls of a method: they are encoded once. `extra` is
        for what differs; it is sent unindexed, and not checked for characters.
        Raises `TooManyStreams` or `ConnectionEnding`; then nothing was sent.
        """
        if len(self._streams) >= self._most_streams or self._highest + 2 > MOST_STREAM_ID:
            self._refuse_to_open()
        block = self._encoder.encode(fields, extra)
        stream_id = self._highest = self._highest + 2
        self._streams[stream_id] = Stream(
            stream_id,
            self._new_stream_window,
            self.peer.initial_window_size,
            CLOSED if end_stream else OPEN,
            NOTHING,
        )
        self.outgoing.append(self._header_frames(stream_id, block, end_stream))
        return stream_id

    def send_request(self, fields: Fields, message: Buffer, extra: Iterable[Field] = ()) -> int:
        """Open a stream, send its only message and end it: a whole unary request."""
        size = len(message)
        peer_window = self.peer.initial_window_size
        if (
            size > _SMALL
            or size > peer_window
            or size > self._send_window
            or len(self._streams) >= self._most_streams
            or self._highest + 2 > MOST_STREAM_ID
        ):
            stream_id = self.open_stream(fields, extra)
            self.send_data(stream_id, message, True)
            return stream_id
        block = self._encoder.blocks.get(fields)
        if block is None or extra:
            block = self._encoder.encode(fields, extra)
        stream_id = self._highest = self._highest + 2
        self._streams[stream_id] = Stream(
            stream_id, self._new_stream_window, peer_window - size, CLOSED, NOTHING
        )
        self._send_window -= size
        self._data_frames += 1
        length = len(block)
        if length <= _SMALL:
            head = pack_header(length << 8 | HEADERS, END_HEADERS, stream_id)
            self.outgoing.append(
                b"".join((head, block, pack_header(size << 8, END_STREAM, stream_id), message))
            )
        else:
            self.outgoing.append(self._header_frames(stream_id, block, False))
            self.outgoing.append(pack_header(size << 8, END_STREAM, stream_id) + message)
        return stream_id

    def send_response(
        self,
        stream_id: int,
        fields: Fields,
        message: Buffer,
        trailers: Fields,
        extra_trailers: Iterable[Field] = (),
    ) -> None:
        """Send headers, the only message and the trailers: a whole unary response."""
        stream = self._streams.get(stream_id)
        size = len(message)
        if (
            stream is None
            or stream.local != NOTHING
            or size > _SMALL
            or size > stream.send_window
            or size > self._send_window
        ):
            self.send_headers(stream_id, fields)
            self.send_data(stream_id, message)
            self.send_trailers(stream_id, trailers, extra_trailers)
            return
        encoder = self._encoder
        head = encoder.blocks.get(fields)
        if head is None:
            head = encoder.encode(fields)
        tail = encoder.blocks.get(trailers)
        if tail is None or extra_trailers:
            try:
                tail = encoder.encode(trailers, extra_trailers)
            except Exception:
                # The head is encoded: it must be sent, or the tables of both sides differ.
                self.outgoing.append(self._header_frames(stream_id, head, False))
                stream.local = OPEN
                raise
        self._send_window -= size
        self._data_frames += 1
        length, tail_length = len(head), len(tail)
        if length <= _SMALL and tail_length <= _SMALL:
            self.outgoing.append(
                b"".join(
                    (
                        pack_header(length << 8 | HEADERS, END_HEADERS, stream_id),
                        head,
                        pack_header(size << 8, 0, stream_id),
                        message,
                        pack_header(tail_length << 8 | HEADERS, _HEAD_END, stream_id),
                        tail,
                    )
                )
            )
        else:
            self.outgoing.append(self._header_frames(stream_id, head, False))
            self.outgoing.append(pack_header(size << 8, 0, stream_id) + message)
            self.outgoing.append(self._header_frames(stream_id, tail, True))
        stream.local = CLOSED
        if stream.remote == CLOSED:
            self._complete(stream)

    def send_headers(self, stream_id: int, fields: Fields, extra: Iterable[Field] = ()) -> None:
        """Send the headers that open a response (servers only)."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local == CLOSED:
            raise StreamClosed(stream_id)
        if stream.local != NOTHING:
            raise LocalProtocolError(f"stream {stream_id}: headers are sent once")
        block = self._encoder.encode(fields, extra)
        stream.local = OPEN
        self.outgoing.append(self._header_frames(stream_id, block, False))

    def send_data(self, stream_id: int, data: Buffer, end_stream: bool = False) -> None:
        """Send data; what the windows do not take yet stays queued (see `queued`).

        `data` must not be changed afterwards: large data is not copied. For a large message, send
        its prefix by a call of its own rather than joining the two.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.local != OPEN:
            raise self._cannot_send(stream_id, stream)
        size = len(data)
        if (
            size <= _SMALL
            and stream.pending is None
            and size <= stream.send_window
            and size <= self._send_window
        ):
            if not (size or end_stream):
                return
            stream.send_window -= size
            self._send_window -= size
            self._data_frames += 1
            self.outgoing.append(pack_header(size << 8, end_stream, stream_id) + data)
            if end_stream:
                stream.local = CLOSED
                if stream.remote == CLOSED:
                    self._complete(stream)
            return
        pending = stream.pending
        if pending is None:
            pending = stream.pending = Pending()
        if size:
            pending.chunks.append(memoryview(data))
            pending.size += size
            self.queued_bytes += size
        if end_stream:
            pending.end_stream = True
            stream.local = ENDING
        self._make_ready(stream, pending)
        self.pump()

    def send_trailers(self, stream_id: int, fields: Fields, extra: Iterable[Field] = ()) -> None:
        """End the stream by trailers, after all that is queued. As the first and only headers of a
        response they are what gRPC calls Trailers-Only."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local not in (NOTHING, OPEN):
            raise StreamClosed(stream_id)
        if stream.pending is not None:
            # Encoded when it is their turn: blocks must be sent in the order of encoding.
            extra = tuple(extra)
            self._encoder.check(fields, extra)
            stream.pending.trailers = fields, extra
            stream.local = ENDING
            return
        self._send_trailers(stream, fields, extra)

    def reset_stream(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """Give the stream up at once: what is queued is dropped, what still arrives is ignored.

        Does nothing if the stream has ended already.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        self.outgoing.append(frames.reset_frame(stream_id, code))
        self._remember_reset(stream_id, stream.granted - stream.received)
        self._forget(stream)
        # What crosses our own wish to stop is no nuisance: headers, trailers, RST_STREAM.
        self._ignored_left.earn(3)

    def stop_receiving(self, stream_id: int) -> None:
        """Tell the peer that the rest of its message is not wanted, after our side has ended.

        A server that has answered before the request was complete resets the stream with NO_ERROR
        (RFC 9113, section 8.1), but not before everything queued, trailers included, has gone.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.pending is not None:
            stream.pending.stop_receiving = True
        else:
            self.reset_stream(stream_id, ErrorCode.NO_ERROR)

    # -- flow control -------------------------------------------------------------------------

    def queued(self, stream_id: int) -> int:
        """How many bytes of the stream wait here; 0 also when the stream is gone.

        A sender that makes more than it wants to hold waits for STREAM_WRITABLE.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.pending is None:
            return 0
        return stream.pending.size

    def pump(self) -> bool:
        """Move queued data to `outgoing`, as far as the windows allow and while that is short.

        To be called when `outgoing` has been sent. True: there is more that could go now.
        """
        ready = self.ready
        outgoing = self.outgoing
        while ready and len(outgoing) < _MOST_BUFFERS:
            stream = ready.popleft()
            pending = stream.pending
            if pending is None:  # was reset
                continue
            room = min(stream.send_window, self._send_window, self._most_data_frame)
            if room <= 0 and pending.size:
                if stream.send_window > 0:  # it is the connection's window
                    ready.appendleft(stream)
                    return False
                pending.is_ready = False
                continue
            self._send_pending(stream, pending, room)
            if stream.pending is not None:
                ready.append(stream)
        return bool(ready)

    def consumed(self, stream_id: int, size: int) -> None:
        """Acknowledge that data of `DATA_RECEIVED` events needs no memory any more.

        The peer may then send as much again. To be called for every byte; also for those of
        messages which are not complete yet, if they are larger than a window. What a closed
        stream has left over is acknowledged by its closing.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.consumed += size
        if stream.consumed > stream.received:
            stream.consumed -= size
            raise LocalProtocolError(f"stream {stream_id}: more consumed than received")
        if (
            (stream.granted - stream.consumed) * 2 <= stream.target  # is_due()
            and stream.remote != CLOSED
        ):
            increment = stream.renew(self.settings.most_stream_window)
            if increment:
                self.outgoing.append(frames.window_frame(stream_id, increment))
        window = self._window
        window.consumed += size
        if (window.granted - window.consumed) * 2 <= window.target:
            self._renew_connection()

    def _credit(self, size: int) -> None:
        """Grant the connection anew what nobody will consume."""
        self._window.consumed += size
        if self._window.is_due():
            self._renew_connection()

    def _renew_connection(self) -> None:
        increment = self._window.renew(self.settings.most_connection_window)
        self.outgoing.append(frames.window_frame(0, increment))

    def _make_ready(self, stream: Stream, pending: Pending) -> None:
        if not pending.is_ready and (stream.send_window > 0 or not pending.size):
            pending.is_ready = True
            self.ready.append(stream)

    def _send_pending(self, stream: Stream, pending: Pending, room: int) -> None:
        """Send one frame of what is queued, and what follows when that was all."""
        pieces = pending.take(room)
        size = sum([len(piece) for piece in pieces])
        is_done = not pending.chunks
        ends = is_done and pending.end_stream
        if size or ends:
            stream.send_window -= size
            self._send_window -= size
            self.queued_bytes -= size
            self._data_frames += 1
            header = pack_header(size << 8, ends, stream.id)
            if size <= _SMALL or len(pieces) > 4:
                self.outgoing.append(b"".join((header, *pieces)))
            else:
                self.outgoing.append(header)
                self.outgoing.extend(pieces)
        if is_done:
            self._after_pending(stream, pending, ends)

    def _after_pending(self, stream: Stream, pending: Pending, ends: bool) -> None:
        stream.pending = None
        if pending.trailers is not None:
            self._send_trailers(stream, *pending.trailers)
        elif ends:
            self._end_local(stream)
        elif self.on_writable is not None:
            self.on_writable(stream.id)
        else:
            self.events.append((STREAM_WRITABLE, stream.id, None, False))
        if pending.stop_receiving:
            self.reset_stream(stream.id, ErrorCode.NO_ERROR)

    # -- helpers ------------------------------------------------------------------------------

    def _header_frames(self, stream_id: int, block: bytes, end_stream: bool) -> bytes:
        length = len(block)
        if length > _SMALL:
            return frames.header_frames(stream_id, block, end_stream, self.peer.max_frame_size)
        flags = _HEAD_END if end_stream else END_HEADERS
        return pack_header(length << 8 | HEADERS, flags, stream_id) + block

    def _send_trailers(self, stream: Stream, fields: Fields, extra: Iterable[Field]) -> None:
        block = self._encoder.encode(fields, extra)
        self.outgoing.append(self._header_frames(stream.id, block, True))
        self._end_local(stream)

    def _end_local(self, stream: Stream) -> None:
        stream.local = CLOSED
        if stream.remote == CLOSED:
            self._complete(stream)

    def _complete(self, stream: Stream) -> None:
        """Both sides ended the stream in the regular way."""
        self._streams_completed += 1
        del self._streams[stream.id]
        unread = stream.received - stream.consumed
        if unread:
            window = self._window
            window.consumed += unread
            if (window.granted - window.consumed) * 2 <= window.target:
                self._renew_connection()

    def _forget(self, stream: Stream) -> None:
        """The stream is over, before both sides had ended it."""
        del self._streams[stream.id]
        if stream.pending is not None:
            self.queued_bytes -= stream.pending.size
            stream.pending = None
        self._credit(stream.received - stream.consumed)

    def _remember_reset(self, stream_id: int, still_granted: int) -> None:
        self._resets[stream_id] = still_granted
        if len(self._resets) > self.limits.remembered_resets:
            oldest = next(iter(self._resets))
            del self._resets[oldest]
            self._resets_forgotten = max(self._resets_forgotten, oldest)

    def _refuse_to_open(self) -> None:
        if not self.is_client:
            raise LocalProtocolError("a server opens no streams")
        if self.may_open < 0:
            raise ConnectionEnding("the connection takes no new streams: open another one")
        raise TooManyStreams(self._most_streams)

    def _cannot_send(self, stream_id: int, stream: Stream | None) -> LocalProtocolError:
        if stream is not None and stream.local == NOTHING:
            return LocalProtocolError(f"stream {stream_id}: headers come before data")
        return StreamClosed(stream_id)
