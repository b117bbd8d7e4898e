"""One HTTP/2 connection without I/O: bytes in, events out; calls in, bytes out.

    connection = Connection(Role.CLIENT)            # `outgoing` holds the preface already
    stream_id = connection.send_request(fields, message)
    ... send connection.outgoing ...
    connection.feed(received_bytes)                 # any piece of the stream of bytes
    for kind, stream_id, value, flag in connection.take_events(): ...

It owns no socket, thread or clock, so the blocking and the asyncio driver share it. The half that
sends is in `sending.py`; this file holds the half that receives. RFC 9113 is HTTP/2; its section
numbers stand in the comments.

How bytes are digested. `feed` walks over the frames by index, with two frames taken out of the
general course for speed: DATA that is complete and plain is handled in the loop, HEADERS that fit
one frame by one call. All else goes through a table of handlers. Between two calls of `feed` there
may be left over: the start of a frame (`_partial`; it is short, because only small frames are
waited for), a frame whose payload is handed on or skipped as it comes (`_arriving`), and a header
block whose CONTINUATIONs are missing (`_block`).

How errors end. `_fail_stream` resets one stream and goes on. A `RemoteProtocolError` raised
anywhere below `feed` ends the connection: the GOAWAY is queued, then the error leaves `feed`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from . import frames
from .errors import ConnectionEnding, ErrorCode, LocalProtocolError, RemoteProtocolError, code_name
from .events import (
    DATA_RECEIVED,
    GOAWAY_RECEIVED,
    HEADERS_RECEIVED,
    PING_RECEIVED,
    PONG_RECEIVED,
    SETTINGS_RECEIVED,
    SETTINGS_TAKEN,
    STREAM_RESET,
    TRAILERS_RECEIVED,
    Event,
)
from .frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_LENGTH,
    HEADERS,
    MOST_STREAM_ID,
    PADDED,
    PREFACE,
    PRIORITISED,
    SETTINGS,
    unpack_header,
)
from .headers import HeaderDecoder, Headers, MalformedHeaders
from .limits import WORK_OF_A_PONG, Allowance, Limits
from .sending import MOST_DATA_FRAME, RESET_BY_PEER, Buffer, SendingHalf
from .settings import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_TABLE_SIZE,
    DEFAULT_WINDOW,
    INITIAL_WINDOW_SIZE,
    MOST_WINDOW,
    Settings,
    parse_settings,
)
from .streams import CLOSED, NOTHING, OPEN, Stream

# The PING between the two GOAWAYs of `drain`. Its answer proves that the peer has seen the first.
_DRAIN_PING: Final = b"drained?"

# A reason in a GOAWAY is for people; it need not be long.
_MOST_DEBUG: Final = 256

# Flags of HEADERS that need no more than to be decoded, whether they end the stream or not.
_WHOLE_BLOCK: Final = END_HEADERS | END_STREAM

# Frames whose payload has one legal length. (PRIORITY has one too, see `_on_priority`.)
_EXACT_LENGTH: Final = {frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}

# Frames that speak of the connection and must be on stream 0.
_CONNECTION_FRAMES: Final = frozenset((frames.SETTINGS, frames.PING, frames.GOAWAY))


class Role(enum.Enum):
    """Who we are on the connection."""

    CLIENT = "client"
    SERVER = "server"


class _Arriving:
    """A frame whose payload is handed on, or skipped, piece by piece as it arrives."""

    __slots__ = ("body", "end_stream", "padding", "stream_id")

    def __init__(self, stream_id: int, body: int, padding: int, end_stream: bool) -> None:
        self.stream_id = stream_id  # 0: nobody wants it
        self.body = body
        self.padding = padding
        self.end_stream = end_stream


class _Block:
    """A header block that lacks its end: only CONTINUATIONs of its stream may follow (6.10)."""

    __slots__ = ("continuations", "end_stream", "octets", "stream_id")

    def __init__(self, stream_id: int, octets: bytes, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.octets = bytearray(octets)
        self.end_stream = end_stream
        self.continuations = 0


class Connection(SendingHalf):
    """One connection, in either role."""

    def __init__(
        self, role: Role, settings: Settings | None = None, limits: Limits | None = None
    ) -> None:
        client = role is Role.CLIENT
        super().__init__(client=client, settings=settings or Settings(), limits=limits or Limits())
        self.role = role
        #: True once the peer's SETTINGS came: it does speak HTTP/2.
        self.is_validated = False
        #: The first GOAWAY of the peer came, or we sent ours: no new streams.
        self.is_draining = False

        self._is_unfinished = not client  # one of the next three; the hot path asks for no more
        self._partial = b""
        self._preface_left = b"" if client else PREFACE
        self._arriving: _Arriving | None = None
        self._block: _Block | None = None
        # The hot path asks one thing: is anything but an ordinary frame expected?
        self._is_expecting = True
        self._pump_wanted = False
        self._decoder = HeaderDecoder(
            client=client,
            most_list=self.settings.max_header_list_size,
            excess=self.limits.header_list_excess,
        )
        if self.settings.header_table_size > DEFAULT_TABLE_SIZE:
            self._decoder.allow_table(self.settings.header_table_size)
        self._settings_unanswered = True
        self._pings_unanswered: list[bytes] = []
        self._unsent_replies = 0
        # Streams above this are ignored, since our GOAWAY named it (server).
        self._last_id = MOST_STREAM_ID
        self._drain_sent = False
        self._dropped_by_goaway: set[int] = set()

        limits = self.limits
        self._resets_left = Allowance(limits.resets, "streams reset or refused")
        self._pings_left = Allowance(limits.pings, "PINGs")
        self._settings_left = Allowance(limits.settings, "SETTINGS")
        self._empty_left = Allowance(limits.empty_data, "DATA frames without content")
        self._updates_left = Allowance(limits.window_updates, "WINDOW_UPDATEs")

        self._introduce()

    def _introduce(self) -> None:
        """Queue what each side sends first (3.4): preface, SETTINGS, the connection's window."""
        hello = frames.settings_frame(self.settings.wire(client=self.is_client))
        if self.is_client:
            hello = PREFACE + hello
        increment = self.settings.connection_window - DEFAULT_WINDOW
        if increment:
            hello += frames.window_frame(0, increment)
        self._window.granted += increment
        self._window.target += increment
        self.outgoing.append(hello)

    # -- what the owner calls -----------------------------------------------------------------

    def take_events(self) -> list[Event]:
        """All events since the last call."""
        events = self.events
        self.events = []
        return events

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life: PONG_RECEIVED brings the same eight bytes."""
        if len(payload) != 8:
            raise LocalProtocolError("a PING carries eight bytes")
        if self.has_ended:
            raise ConnectionEnding("the connection has ended")
        self._pings_unanswered.append(payload)
        self.outgoing.append(frames.ping_frame(payload))

    def drain(self) -> None:
        """Take no more streams, and finish those there are (graceful shutdown, 6.8).

        A server announces it first by a GOAWAY that excludes nothing, so that requests under way
        are not lost; the second, with the last stream that will be processed, follows when the
        peer has answered a PING, or at the second call of `drain`, if it does not. `is_drained`
        tells when all is done; then `close`.
        """
        if self.has_ended:
            return
        self.is_draining = True
        self._most_streams = -1
        if self.is_client:
            if not self._drain_sent:
                self._drain_sent = True
                self.outgoing.append(frames.goaway_frame(0, ErrorCode.NO_ERROR))
        elif not self._drain_sent:
            self._drain_sent = True
            self.outgoing.append(frames.goaway_frame(MOST_STREAM_ID, ErrorCode.NO_ERROR))
            self.outgoing.append(frames.ping_frame(_DRAIN_PING))
        else:
            self._finish_drain()

    @property
    def is_drained(self) -> bool:
        """Whether `drain` is complete: no stream is left, and none can come any more."""
        settled = self.is_client or self._last_id != MOST_STREAM_ID
        return self._drain_sent and settled and not self._streams

    def close(self, code: int = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End the connection now: GOAWAY is queued, open streams are forgotten."""
        if self.has_ended:
            return
        last_id = 0 if self.is_client else min(self._highest, self._last_id)
        self.outgoing.append(
            frames.goaway_frame(last_id, code, reason.encode("utf-8", "replace")[:_MOST_DEBUG])
        )
        self._end()

    def lost(self) -> None:
        """The transport is gone: nothing more comes or goes. `unprocessed` can be asked."""
        self._end()

    def unprocessed(self) -> set[int]:
        """Streams of ours which the peer has provably not processed, so that their calls may be
        repeated on another connection (clients).

        Those that the peer's GOAWAY excluded (each also had its STREAM_RESET), and, once the
        connection has ended, those whose headers still lie in `outgoing`: for these the owner must
        have taken away what it gave to the transport, even in part.
        """
        excluded = set(self._dropped_by_goaway)
        if self.has_ended:
            excluded.update(_opened_in(self.outgoing))
        return excluded

    # -- receiving: the loop ------------------------------------------------------------------

    def feed(self, data: Buffer) -> None:
        """Digest received bytes; what they mean is in `events` afterwards.

        Raises `RemoteProtocolError` when the peer broke the protocol: send what is in `outgoing`
        (the GOAWAY tells the peer why), and close. After the end, bytes are ignored.
        """
        if self.has_ended:
            return
        if type(data) is not bytes:
            data = bytes(data)
        try:
            self._digest(data)
        except RemoteProtocolError as error:
            self.close(error.code, error.reason)
            raise

    def _digest(self, data: bytes) -> None:
        at = 0
        if self._is_unfinished:
            data, at = self._resume(data)
        end = len(data)
        streams = self._streams
        window = self._window
        events = self.events
        most_length = self.settings.max_frame_size
        while end - at >= HEADER_LENGTH:
            word, flags, stream_id = unpack_header(data, at)
            start = at + HEADER_LENGTH
            length = word >> 8
            stop = start + length
            kind = word & 0xFF
            if self._is_expecting:
                self._check_expected(kind, flags, stream_id & MOST_STREAM_ID)
            if length > most_length:
                raise RemoteProtocolError(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"{frames.frame_name(kind)} of {length} bytes, {most_length} are allowed",
                )
            if kind == DATA and stop <= end and flags <= END_STREAM:
                stream = streams.get(stream_id)
                if (
                    stream is not None
                    and length
                    and stream.remote == OPEN
                    and stream.body_left is None
                    and stream.received + length <= stream.granted
                    and window.received + length <= window.granted
                ):
                    stream.received += length
                    window.received += length
                    self._data_frames += 1
                    at = stop
                    if flags:
                        events.append((DATA_RECEIVED, stream_id, data[start:stop], True))
                        stream.remote = CLOSED
                        if stream.local == CLOSED:
                            self._complete(stream)
                    else:
                        events.append((DATA_RECEIVED, stream_id, data[start:stop], False))
                    continue
            if (
                kind == HEADERS
                and flags | END_STREAM == _WHOLE_BLOCK
                and stop <= end
                and length <= DEFAULT_FRAME_SIZE  # longer ones must pass `_check_size`
            ):
                self._on_block(stream_id & MOST_STREAM_ID, data[start:stop], flags & END_STREAM)
                at = stop
                continue
            reached = self._on_frame(kind, flags, stream_id & MOST_STREAM_ID, data, start, length)
            if reached < 0:
                break
            at = reached
        if at < end:
            self._partial = data[at:]
            self._is_unfinished = True
        if (window.granted - window.received) * 2 <= window.target and window.is_due():
            self._renew_connection()
        if self._pump_wanted:
            self._pump_wanted = False
            self.pump()

    def _resume(self, data: bytes) -> tuple[bytes, int]:
        """Go on with what the last call of `feed` left; what to read now, and from where."""
        self._is_unfinished = False
        if self._preface_left:
            return data, self._take_preface(data)
        if self._partial:
            data = self._partial + data
            self._partial = b""
        if self._arriving is not None:
            return data, self._continue_arriving(self._arriving, data, 0)
        return data, 0

    def _on_frame(
        self, kind: int, flags: int, stream_id: int, data: bytes, start: int, length: int
    ) -> int:
        """Handle any frame, and tell where the next begins; -1: more bytes are needed first."""
        if kind == DATA:
            if flags & PADDED and length and start == len(data):
                return -1
            return self._on_data(flags, stream_id, data, start, length)
        handler = _HANDLERS.get(kind)
        if handler is None:
            self._ignored_left.spend(self._work)
            self._arriving = _Arriving(0, length, 0, False)
            return self._continue_arriving(self._arriving, data, start)
        self._check_size(kind, length)
        if (kind in _CONNECTION_FRAMES) == (stream_id != 0) and kind != frames.WINDOW_UPDATE:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, f"{frames.frame_name(kind)} on stream {stream_id}"
            )
        stop = start + length
        if stop > len(data):
            return -1
        handler(self, flags, stream_id, data[start:stop])
        return stop

    def _check_size(self, kind: int, length: int) -> None:
        """Refuse a frame that is not handed on in pieces before any of it is waited for."""
        exact = _EXACT_LENGTH.get(kind, length)
        if length != exact:
            raise RemoteProtocolError(
                ErrorCode.FRAME_SIZE_ERROR,
                f"{frames.frame_name(kind)} of {length} bytes instead of {exact}",
            )
        is_block = kind in (HEADERS, CONTINUATION)
        most = self.limits.header_block_bytes if is_block else self.limits.control_frame_bytes
        if length > most:
            raise RemoteProtocolError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"{frames.frame_name(kind)} of {length} bytes, at most {most} are taken",
            )

    # -- receiving: what is expected ----------------------------------------------------------

    def _take_preface(self, data: bytes) -> int:
        """Compare with the client's preface (3.4) as far as bytes have come; where it stops."""
        expected = self._preface_left
        got = data[: len(expected)]
        if not expected.startswith(got):
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, "the peer does not begin with the preface of HTTP/2"
            )
        self._preface_left = expected[len(got) :]
        self._is_unfinished = bool(self._preface_left)
        return len(got)

    def _check_expected(self, kind: int, flags: int, stream_id: int) -> None:
        """Before the first SETTINGS, and within a header block, one kind of frame may come."""
        block = self._block
        if block is not None:
            if kind != CONTINUATION or stream_id != block.stream_id:
                raise RemoteProtocolError(
                    ErrorCode.PROTOCOL_ERROR,
                    f"{frames.frame_name(kind)} on stream {stream_id} "
                    f"within the header block of stream {block.stream_id}",
                )
        elif kind != SETTINGS or flags & ACK:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, f"{frames.frame_name(kind)} came before SETTINGS"
            )

    # -- receiving: DATA ----------------------------------------------------------------------

    def _on_data(self, flags: int, stream_id: int, data: bytes, start: int, length: int) -> int:
        """DATA that is padded, incomplete, empty, late or wrong."""
        if stream_id == 0:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        window = self._window
        window.received += length
        if window.received > window.granted:
            raise RemoteProtocolError(
                ErrorCode.FLOW_CONTROL_ERROR, "DATA exceeds the window of the connection"
            )
        overhead = padding = 0
        if flags & PADDED:
            padding = data[start] if length else 0
            overhead = padding + 1
            if overhead > length:
                raise RemoteProtocolError(
                    ErrorCode.PROTOCOL_ERROR, "DATA with more padding than payload"
                )
            start += 1
        body = length - overhead
        end_stream = bool(flags & END_STREAM)
        wanted = self._accept_data(stream_id, length, body, end_stream)
        if wanted and overhead:
            self.consumed(stream_id, overhead)
        if wanted and body == 0:
            if end_stream:
                self._deliver(stream_id, b"", True)
            else:
                self._empty_left.spend(self._work)
        self._arriving = _Arriving(stream_id if wanted else 0, body, padding, end_stream)
        return self._continue_arriving(self._arriving, data, start)

    def _accept_data(self, stream_id: int, length: int, body: int, end_stream: bool) -> bool:
        """Account for a DATA frame on its stream; False: its payload is to be skipped."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._credit(length)
            if 0 < length <= self._resets.get(stream_id, 0):
                self._resets[stream_id] -= length
            else:
                self._on_late_frame(DATA, stream_id)
            return False
        problem = None
        stream.received += length
        if stream.remote == CLOSED:
            problem = ErrorCode.STREAM_CLOSED, "DATA after the end of the stream"
        elif stream.remote == NOTHING:
            problem = ErrorCode.PROTOCOL_ERROR, "DATA before the headers"
        elif stream.received > stream.granted:
            problem = ErrorCode.FLOW_CONTROL_ERROR, "DATA exceeds the window of the stream"
        elif stream.body_left is not None:
            stream.body_left -= body
            if stream.body_left < 0 or (end_stream and stream.body_left):
                problem = ErrorCode.PROTOCOL_ERROR, "DATA does not add up to content-length"
        if problem is not None:
            self._fail_stream(stream, *problem)
            return False
        if body:
            self._data_frames += 1
        return True

    def _continue_arriving(self, arriving: _Arriving, data: bytes, at: int) -> int:
        """Hand on, or skip, what has come of a payload; where that stops."""
        size = min(arriving.body, len(data) - at)
        if size:
            arriving.body -= size
            if arriving.stream_id:
                ends = arriving.end_stream and not arriving.body
                self._deliver(arriving.stream_id, data[at : at + size], ends)
            at += size
        if not arriving.body:
            skipped = min(arriving.padding, len(data) - at)
            arriving.padding -= skipped
            at += skipped
            if not arriving.padding:
                self._arriving = None
                return at
        self._is_unfinished = True
        return at

    def _deliver(self, stream_id: int, piece: bytes, ends: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:  # was reset while the frame was arriving
            return
        self.events.append((DATA_RECEIVED, stream_id, piece, ends))
        if ends:
            self._end_remote(stream)

    # -- receiving: header blocks -------------------------------------------------------------

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """HEADERS with padding, priority, or more to follow."""
        end = len(payload)
        start = 0
        if flags & PADDED:
            start += 1
            end -= payload[0] if payload else 1
        if flags & PRIORITISED:
            start += 5
        if start > end:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, "HEADERS with more padding than payload"
            )
        fragment = payload[start:end]
        if flags & END_HEADERS:
            self._on_block(stream_id, fragment, flags & END_STREAM)
        else:
            self._block = _Block(stream_id, fragment, bool(flags & END_STREAM))
            self._is_expecting = True

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, f"CONTINUATION on stream {stream_id} continues nothing"
            )
        block.continuations += 1
        limits = self.limits
        if (
            block.continuations > limits.continuation_frames
            or len(block.octets) + len(payload) > limits.header_block_bytes
        ):
            raise RemoteProtocolError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a header block of more than {limits.header_block_bytes} bytes "
                f"or {limits.continuation_frames} CONTINUATIONs",
            )
        block.octets += payload
        if flags & END_HEADERS:
            self._block = None
            self._is_expecting = False
            self._on_block(stream_id, bytes(block.octets), block.end_stream)

    def _on_block(self, stream_id: int, block: bytes, end_stream: int) -> None:
        """A complete header block: it opens a message, or ends one.

        Blocks that are known from before, in streams that are as they should be, are done with
        here; the rest is for the methods below.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            self._on_new_stream(stream_id, block, end_stream)
        elif stream.remote == OPEN:
            headers = self._decoder.trailers.get(block)
            if headers is None or not end_stream or stream.body_left is not None:
                self._on_trailers(stream, block, end_stream)
                return
            self.events.append((TRAILERS_RECEIVED, stream_id, headers, True))
            stream.remote = CLOSED
            if stream.local == CLOSED:
                self._complete(stream)
        elif stream.remote == NOTHING:
            headers = self._decoder.initial.get(block)
            if headers is None or end_stream or not headers.is_ordinary:
                self._on_response(stream, block, end_stream)
                return
            stream.remote = OPEN
            self.events.append((HEADERS_RECEIVED, stream_id, headers, False))
        else:
            self._decoder.decode_unwanted(block)
            self._fail_stream(
                stream, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream"
            )

    def _on_new_stream(self, stream_id: int, block: bytes, end_stream: int) -> None:
        decoder = self._decoder
        if self.is_client or stream_id <= self._highest or not stream_id & 1:
            decoder.decode_unwanted(block)
            self._on_late_frame(HEADERS, stream_id)
            return
        self._highest = stream_id
        if stream_id > self._last_id:
            decoder.decode_unwanted(block)
            self._ignored_left.spend(self._work)
            return
        if len(self._streams) >= self.settings.max_concurrent_streams:
            decoder.decode_unwanted(block)
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM)
            return
        headers = decoder.initial.get(block)
        if headers is None:
            try:
                headers = decoder.decode_initial(block)
            except MalformedHeaders as error:
                self._refuse(stream_id, error.code)
                return
        stream = self._streams[stream_id] = Stream(
            stream_id,
            self._new_stream_window,
            self.peer.initial_window_size,
            NOTHING,
            CLOSED if end_stream else OPEN,
        )
        if headers.is_ordinary or self._expect_body(stream, headers, end_stream):
            self.events.append((HEADERS_RECEIVED, stream_id, headers, end_stream == END_STREAM))

    def _on_response(self, stream: Stream, block: bytes, end_stream: int) -> None:
        """A header list that opens a response, or an interim one before it."""
        try:
            headers = self._decoder.decode_initial(block)
        except MalformedHeaders as error:
            self._fail_stream(stream, error.code, error.reason)
            return
        if headers.is_interim:
            # Nothing that gRPC could use, and not the end (8.1).
            if end_stream:
                self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR, "a 1xx response ended it")
            self._ignored_left.spend(self._work)
            return
        stream.remote = OPEN
        if headers.is_ordinary or self._expect_body(stream, headers, end_stream):
            self.events.append((HEADERS_RECEIVED, stream.id, headers, end_stream == END_STREAM))
            if end_stream:
                self._end_remote(stream)

    def _on_trailers(self, stream: Stream, block: bytes, end_stream: int) -> None:
        """A header list that ends a message."""
        try:
            headers = self._decoder.decode_trailers(block)
        except MalformedHeaders as error:
            self._fail_stream(stream, error.code, error.reason)
            return
        if not end_stream:
            self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR, "trailers that do not end it")
        elif stream.body_left:
            self._fail_stream(
                stream, ErrorCode.PROTOCOL_ERROR, "DATA does not add up to content-length"
            )
        else:
            self.events.append((TRAILERS_RECEIVED, stream.id, headers, True))
            self._end_remote(stream)

    def _expect_body(self, stream: Stream, headers: Headers, end_stream: int) -> bool:
        """Note the announced length of the body; False: it contradicts the end already (8.1.1)."""
        stream.body_left = headers.content_length
        if end_stream and stream.body_left:
            self._fail_stream(
                stream, ErrorCode.PROTOCOL_ERROR, "content-length announces a body, none follows"
            )
            return False
        return True

    # -- receiving: the other frames ----------------------------------------------------------

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Priorities are obsolete (5.3): only the length is checked."""
        stream = self._streams.get(stream_id)
        if len(payload) != 5 and stream is not None:
            self._fail_stream(stream, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong length")
            return
        self._ignored_left.spend(self._work)

    def _on_reset(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._check_not_idle(frames.RST_STREAM, stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:  # crossed the end of the stream
            self._ignored_left.spend(self._work)
            return
        (code,) = frames.unpack_number(payload)
        self._remember_reset(stream_id, RESET_BY_PEER)
        self._forget(stream)
        self.events.append(
            (STREAM_RESET, stream_id, (code, f"the peer reset it: {code_name(code)}"), True)
        )
        if not self.is_client:
            self._resets_left.spend(self._streams_completed)

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if flags & ACK:
            self._on_settings_ack(payload)
            return
        if self.is_validated:  # the first is no nuisance
            self._settings_left.spend(self._work)
        values = parse_settings(payload, client=self.is_client)
        is_first = not self.is_validated
        self.is_validated = True
        self._is_expecting = False
        old_window = self.peer.initial_window_size
        if is_first:
            # What their first SETTINGS do not limit is not limited.
            self.peer.max_concurrent_streams = frames.MOST_STREAM_ID
        self.peer.apply(values)
        if INITIAL_WINDOW_SIZE in values:
            self._shift_windows(self.peer.initial_window_size - old_window)
        self._encoder.resize(self.peer.header_table_size)
        self._most_data_frame = min(self.peer.max_frame_size, MOST_DATA_FRAME)
        if self._most_streams >= 0:
            self._most_streams = self.peer.max_concurrent_streams
        self._reply(frames.frame(SETTINGS, ACK, 0))
        self.events.append((SETTINGS_RECEIVED, 0, values, is_first))

    def _on_settings_ack(self, payload: bytes) -> None:
        if payload:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS ACK with a payload")
        if not self._settings_unanswered:
            self._ignored_left.spend(self._work)
            return
        self._settings_unanswered = False
        self._decoder.allow_table(self.settings.header_table_size)
        # Until now the peer could count on the protocol's default (6.9.2).
        excess = self._new_stream_window - self.settings.stream_window
        if excess:
            self._new_stream_window -= excess
            for stream in self._streams.values():
                stream.granted -= excess
                stream.target = self.settings.stream_window
        self.events.append((SETTINGS_TAKEN, 0, None, False))

    def _shift_windows(self, difference: int) -> None:
        """A new initial window changes all windows of streams, perhaps below zero (6.9.2)."""
        for stream in self._streams.values():
            stream.send_window += difference
            if stream.send_window > MOST_WINDOW:
                raise RemoteProtocolError(
                    ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS make a window larger than 2^31-1"
                )
            if stream.pending is not None:
                self._make_ready(stream, stream.pending)
        self._pump_wanted = True

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if not flags & ACK:
            self._pings_left.spend(self._work)
            self._reply(frames.ping_frame(payload, ack=True))
            self.events.append((PING_RECEIVED, 0, payload, False))
        elif payload in self._pings_unanswered:
            self._pings_unanswered.remove(payload)
            self._streams_completed += WORK_OF_A_PONG
            self.events.append((PONG_RECEIVED, 0, payload, False))
        elif payload == _DRAIN_PING and self._drain_sent:
            self._finish_drain()
        else:
            self._ignored_left.spend(self._work)

    def _on_goaway(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        if len(payload) < 8:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
        self._ignored_left.spend(self._work)
        last_id, code = frames.unpack_two_numbers(payload)
        last_id &= MOST_STREAM_ID
        self.is_draining = True
        self._most_streams = -1
        self.events.append((GOAWAY_RECEIVED, last_id, (code, payload[8:]), False))
        if self.is_client:
            for stream in [each for each in self._streams.values() if each.id > last_id]:
                self._dropped_by_goaway.add(stream.id)
                self._remember_reset(stream.id, stream.granted - stream.received)
                self._forget(stream)
                reason = f"the peer goes away without it: {code_name(code)}"
                self.events.append(
                    (STREAM_RESET, stream.id, (ErrorCode.REFUSED_STREAM, reason), True)
                )

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._updates_left.spend(self._work)
        increment = frames.unpack_number(payload)[0] & MOST_WINDOW
        if stream_id == 0:
            self._send_window += increment
            if not increment or self._send_window > MOST_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise RemoteProtocolError(code, f"WINDOW_UPDATE of {increment} for the connection")
            self._pump_wanted = True
            return
        self._check_not_idle(frames.WINDOW_UPDATE, stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:  # crossed the end of the stream
            return
        stream.send_window += increment
        if not increment or stream.send_window > MOST_WINDOW:
            code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            self._fail_stream(stream, code, f"WINDOW_UPDATE of {increment}")
        elif stream.pending is not None:
            self._make_ready(stream, stream.pending)
            self._pump_wanted = True

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """Clients may not push, and we forbid it to servers (6.6)."""
        raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE was not allowed")

    # -- helpers ------------------------------------------------------------------------------

    @property
    def _work(self) -> int:
        """Useful work so far, see `limits.py`."""
        return self._streams_completed + self._data_frames

    def _end_remote(self, stream: Stream) -> None:
        stream.remote = CLOSED
        if stream.local == CLOSED:
            self._complete(stream)

    def _fail_stream(self, stream: Stream, code: ErrorCode, reason: str) -> None:
        """A stream error (5.4.2): reset it, tell the owner, go on."""
        self._forget(stream)
        self._refuse(stream.id, code, max(0, stream.granted - stream.received))
        self.events.append((STREAM_RESET, stream.id, (code, reason), False))

    def _refuse(self, stream_id: int, code: ErrorCode, still_granted: int | None = None) -> None:
        """Reset a stream because of what the peer did; it counts like a reset by the peer."""
        window = self._new_stream_window if still_granted is None else still_granted
        self._remember_reset(stream_id, window)
        self._reply(frames.reset_frame(stream_id, code))
        self._resets_left.spend(self._streams_completed)

    def _reply(self, reply: bytes) -> None:
        """Queue an answer that the peer provoked. It must read them, or they pile up here."""
        self._unsent_replies = min(self._unsent_replies, len(self.outgoing)) + 1
        if self._unsent_replies > self.limits.unsent_replies:
            raise RemoteProtocolError(
                ErrorCode.ENHANCE_YOUR_CALM, "the peer asks and does not read the answers"
            )
        self.outgoing.append(reply)

    def _is_idle(self, stream_id: int) -> bool:
        """Never opened. Even numbers would be pushed streams: there are none."""
        return stream_id > self._highest or not stream_id & 1

    def _check_not_idle(self, kind: int, stream_id: int) -> None:
        if self._is_idle(stream_id):
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR,
                f"{frames.frame_name(kind)} on stream {stream_id}, which nobody opened",
            )

    def _on_late_frame(self, kind: int, stream_id: int) -> None:
        """DATA or HEADERS on a stream that is not open: an accident, or an error (5.1)."""
        self._check_not_idle(kind, stream_id)
        if self._resets.get(stream_id) == RESET_BY_PEER:
            self._refuse(stream_id, ErrorCode.STREAM_CLOSED, 0)
            return
        crossed = (
            stream_id in self._resets
            or stream_id <= self._resets_forgotten
            or stream_id > self._last_id
        )
        if not crossed:
            raise RemoteProtocolError(
                ErrorCode.STREAM_CLOSED,
                f"{frames.frame_name(kind)} on stream {stream_id}, which has ended",
            )
        self._ignored_left.spend(self._work)

    def _finish_drain(self) -> None:
        """The second GOAWAY: what the peer has opened by now is all that will be processed."""
        if self._last_id == MOST_STREAM_ID:
            self._last_id = self._highest
            self.outgoing.append(frames.goaway_frame(self._last_id, ErrorCode.NO_ERROR))

    def _end(self) -> None:
        self.has_ended = True
        self.is_draining = True
        self._most_streams = -1
        self._streams.clear()
        self.ready.clear()
        self.queued_bytes = 0
        self._partial = b""
        self._arriving = None
        self._block = None


def _opened_in(outgoing: Iterable[Buffer]) -> Iterator[int]:
    """The streams whose HEADERS lie in `outgoing`: whole frames, or (memoryviews) bare payload."""
    for buffer in outgoing:
        if type(buffer) is not bytes:
            continue
        at = len(PREFACE) if buffer.startswith(PREFACE) else 0
        while len(buffer) - at >= HEADER_LENGTH:
            word, _flags, stream_id = unpack_header(buffer, at)
            if word & 0xFF == HEADERS:
                yield stream_id
            at += HEADER_LENGTH + (word >> 8)


_HANDLERS: Final[dict[int, Callable[[Connection, int, int, bytes], None]]] = {
    frames.HEADERS: Connection._on_headers,
    frames.PRIORITY: Connection._on_priority,
    frames.RST_STREAM: Connection._on_reset,
    frames.SETTINGS: Connection._on_settings,
    frames.PUSH_PROMISE: Connection._on_push_promise,
    frames.PING: Connection._on_ping,
    frames.GOAWAY: Connection._on_goaway,
    frames.WINDOW_UPDATE: Connection._on_window_update,
    frames.CONTINUATION: Connection._on_continuation,
}
