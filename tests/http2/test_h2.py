"""Against the `h2` library, an independent implementation, in both roles."""

from __future__ import annotations

from collections.abc import Callable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvrpc.http2 import (
    DATA_RECEIVED,
    GOAWAY_RECEIVED,
    HEADERS_RECEIVED,
    PONG_RECEIVED,
    STREAM_RESET,
    TRAILERS_RECEIVED,
    Connection,
    ErrorCode,
    Event,
    Role,
    Settings,
)

from .peers import REQUEST, RESPONSE, TRAILERS, joined, kinds, sent

H2Events = list[h2.events.Event]


class Mixed:
    """A connection of ours and one of h2, joined; `step` bytes at a time."""

    def __init__(self, role: Role, offered: Settings | None = None, step: int = 1 << 20) -> None:
        self.ours = Connection(role, offered)
        self.theirs = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=role is Role.SERVER, header_encoding=None)
        )
        self.step = step
        self.theirs.initiate_connection()
        self.exchange()

    def exchange(self) -> tuple[list[Event], H2Events]:
        """Carry bytes until both are silent; h2 acknowledges data at once."""
        ours: list[Event] = []
        theirs: H2Events = []
        while True:
            to_them, to_us = sent(self.ours), self.theirs.data_to_send()
            if not to_them and not to_us:
                return joined(ours), theirs
            for at in range(0, len(to_us), self.step):
                self.ours.feed(to_us[at : at + self.step])
                ours += self.ours.take_events()
            for at in range(0, len(to_them), self.step):
                events = self.theirs.receive_data(to_them[at : at + self.step])
                theirs += events
                for event in events:
                    if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                        self.theirs.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )

    def send(self, stream_id: int, data: bytes, end: bool = False) -> list[Event]:
        """h2 sends as its windows allow, ours consumes; all events of ours."""
        ours: list[Event] = []
        while data:
            room = min(
                self.theirs.local_flow_control_window(stream_id),
                self.theirs.max_outbound_frame_size,
            )
            assert room > 0, "h2 may not send, though everything was consumed"
            self.theirs.send_data(stream_id, data[:room])
            data = data[room:]
            for event in self.exchange()[0]:
                ours.append(event)
                if event[0] == DATA_RECEIVED:
                    self.ours.consumed(stream_id, len(event[2]))
            ours += self.exchange()[0]
        if end:
            self.theirs.end_stream(stream_id)
        return joined(ours + self.exchange()[0])


def body(events: H2Events) -> bytes:
    return b"".join(
        event.data or b"" for event in events if isinstance(event, h2.events.DataReceived)
    )


STEPS = [1, 7, 1 << 20]


@pytest.mark.parametrize("step", STEPS)
def test_unary_calls_to_an_h2_server(step: int) -> None:
    mixed = Mixed(Role.CLIENT, step=step)
    for number in range(5):
        message = b"message %d" % number
        stream_id = mixed.ours.send_request(REQUEST, message, ((b"n", b"%d" % number),))
        _, events = mixed.exchange()
        (request,) = (each for each in events if isinstance(each, h2.events.RequestReceived))
        assert [tuple(each) for each in request.headers or ()] == [*REQUEST, (b"n", b"%d" % number)]
        assert body(events) == message
        mixed.theirs.send_headers(stream_id, RESPONSE)
        mixed.theirs.send_data(stream_id, message[::-1])
        mixed.theirs.send_headers(stream_id, TRAILERS, end_stream=True)
        ours, _ = mixed.exchange()
        assert kinds(ours) == [HEADERS_RECEIVED, DATA_RECEIVED, TRAILERS_RECEIVED]
        assert ours[0][2].fields == RESPONSE
        assert ours[1][2] == message[::-1]
        assert ours[2][2].fields == TRAILERS
    assert mixed.ours.open_streams == 0


@pytest.mark.parametrize("step", STEPS)
def test_unary_calls_from_an_h2_client(step: int) -> None:
    mixed = Mixed(Role.SERVER, step=step)
    for number in range(5):
        stream_id = mixed.theirs.get_next_available_stream_id()
        mixed.theirs.send_headers(stream_id, [*REQUEST, (b"n", b"%d" % number)])
        mixed.theirs.send_data(stream_id, b"question", end_stream=True)
        ours, _ = mixed.exchange()
        assert ours[0][2].fields == (*REQUEST, (b"n", b"%d" % number))
        assert ours[1] == (DATA_RECEIVED, stream_id, b"question", True)
        mixed.ours.send_response(stream_id, RESPONSE, b"answer", TRAILERS, ((b"m", b"1"),))
        _, theirs = mixed.exchange()
        assert body(theirs) == b"answer"
        (trailers,) = (each for each in theirs if isinstance(each, h2.events.TrailersReceived))
        assert [tuple(each) for each in trailers.headers or ()] == [*TRAILERS, (b"m", b"1")]
        assert isinstance(theirs[-1], h2.events.StreamEnded)
    assert mixed.ours.open_streams == 0


@pytest.mark.parametrize("role", list(Role))
def test_large_messages_both_ways(role: Role) -> None:
    mixed = Mixed(role, Settings(stream_window=70_000, most_stream_window=300_000))
    message = bytes(range(251)) * 4000
    if role is Role.CLIENT:
        stream_id = mixed.ours.send_request(REQUEST, message)
        _, theirs = mixed.exchange()
        assert body(theirs) == message
        mixed.theirs.send_headers(stream_id, RESPONSE)
        mixed.exchange()
        events = mixed.send(stream_id, message, end=True)
    else:
        stream_id = mixed.theirs.get_next_available_stream_id()
        mixed.theirs.send_headers(stream_id, REQUEST)
        mixed.exchange()
        events = mixed.send(stream_id, message, end=True)
        mixed.ours.send_response(stream_id, RESPONSE, message, TRAILERS)
        _, theirs = mixed.exchange()
        assert body(theirs) == message
    assert b"".join(each[2] for each in events if each[0] == DATA_RECEIVED) == message
    assert mixed.ours.open_streams == 0


@given(
    st.lists(st.binary(max_size=200), max_size=10),
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 255)), max_size=6),
    st.sampled_from(list(Role)),
    st.integers(5, 5000),
)
@settings(max_examples=60, deadline=None)
def test_any_streaming_conversation(
    ours_send: list[bytes], theirs_send: list[tuple[int, int]], role: Role, step: int
) -> None:
    mixed = Mixed(role, step=step)
    if role is Role.CLIENT:
        stream_id = mixed.ours.open_stream(REQUEST)
        mixed.exchange()
        mixed.theirs.send_headers(stream_id, RESPONSE)
    else:
        stream_id = mixed.theirs.get_next_available_stream_id()
        mixed.theirs.send_headers(stream_id, REQUEST)
        mixed.exchange()
        mixed.ours.send_headers(stream_id, RESPONSE)
    mixed.exchange()
    theirs: H2Events = []
    for piece in ours_send:
        mixed.ours.send_data(stream_id, piece)
        theirs += mixed.exchange()[1]
    assert body(theirs) == b"".join(ours_send)
    for size, pad in theirs_send:
        mixed.theirs.send_data(stream_id, bytes(min(size, 16_000)), pad_length=pad)
        events = mixed.exchange()[0]
        assert sum(len(each[2]) for each in events if each[0] == DATA_RECEIVED) == min(size, 16_000)
        mixed.ours.consumed(stream_id, min(size, 16_000))
        mixed.exchange()
    mixed.ours.send_data(stream_id, b"last", True)
    mixed.theirs.end_stream(stream_id)
    ours, after = mixed.exchange()
    assert body(after) == b"last"
    assert ours[-1][3] is True
    assert mixed.ours.open_streams == 0


@pytest.mark.parametrize("role", list(Role))
def test_ping_reset_and_goaway(role: Role) -> None:
    mixed = Mixed(role)
    if role is Role.CLIENT:
        ids = [mixed.ours.open_stream(REQUEST) for _ in range(2)]
    else:
        ids = []
        for _ in range(2):
            ids.append(mixed.theirs.get_next_available_stream_id())
            mixed.theirs.send_headers(ids[-1], REQUEST)
    mixed.exchange()
    mixed.ours.ping(b"abcdefgh")
    mixed.theirs.ping(b"12345678")
    ours, theirs = mixed.exchange()
    assert PONG_RECEIVED in kinds(ours)
    assert any(isinstance(each, h2.events.PingAckReceived) for each in theirs)
    mixed.ours.reset_stream(ids[0], ErrorCode.CANCEL)
    mixed.theirs.reset_stream(ids[1], h2.errors.ErrorCodes.INTERNAL_ERROR)
    ours, theirs = mixed.exchange()
    assert [each[1:3] for each in ours if each[0] == STREAM_RESET] == [
        (ids[1], (2, "the peer reset it: INTERNAL_ERROR"))
    ]
    (reset,) = (each for each in theirs if isinstance(each, h2.events.StreamReset))
    assert (reset.stream_id, reset.error_code) == (ids[0], ErrorCode.CANCEL)
    mixed.theirs.close_connection(additional_data=b"bye")
    ours, _ = mixed.exchange()
    assert ours[-1][0] == GOAWAY_RECEIVED
    assert ours[-1][2] == (0, b"bye")


def test_our_goaway_is_understood() -> None:
    mixed = Mixed(Role.SERVER)
    mixed.ours.close(ErrorCode.ENHANCE_YOUR_CALM, "too much")
    (event,) = mixed.theirs.receive_data(sent(mixed.ours))
    assert isinstance(event, h2.events.ConnectionTerminated)
    assert event.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert event.additional_data == b"too much"


def test_settings_of_h2_are_followed_at_any_time() -> None:
    mixed = Mixed(Role.CLIENT)
    codes = h2.settings.SettingCodes
    mixed.theirs.update_settings(
        {
            codes.MAX_CONCURRENT_STREAMS: 3,
            codes.INITIAL_WINDOW_SIZE: 10,
            codes.HEADER_TABLE_SIZE: 0,
            codes.MAX_FRAME_SIZE: 100_000,
        }
    )
    mixed.exchange()
    assert mixed.ours.may_open == 3
    stream_id = mixed.ours.send_request(REQUEST, b"x" * 25)
    _, theirs = mixed.exchange()
    assert body(theirs) == b"x" * 25, "h2 opens the window again as it acknowledges"
    assert mixed.ours.queued(stream_id) == 0
    mixed.theirs.update_settings({codes.HEADER_TABLE_SIZE: 4096})
    mixed.exchange()
    for _ in range(2):
        mixed.ours.send_request(REQUEST, b"")
        _, theirs = mixed.exchange()
        (request,) = (each for each in theirs if isinstance(each, h2.events.RequestReceived))
        assert tuple(tuple(each) for each in request.headers or ()) == REQUEST


def wrong_frame(stream_id: int) -> bytes:
    return b"\0\0\4\x08\0" + stream_id.to_bytes(4, "big") + b"\0\0\0\0"


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: b"\0\0\1\6\0\0\0\0\0x", ErrorCode.FRAME_SIZE_ERROR),
        (lambda: b"\0\0\0\0\0\0\0\0\0", ErrorCode.PROTOCOL_ERROR),
        (lambda: wrong_frame(0), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_both_implementations_call_a_wrong_frame_the_same(
    role: Role, make: Callable[[], bytes], code: ErrorCode
) -> None:
    mixed = Mixed(role)
    with pytest.raises(Exception, match=code.name) as caught:
        mixed.ours.feed(make())
    assert caught.value.code is code  # type: ignore[attr-defined]
    theirs = Mixed(Role.CLIENT if role is Role.SERVER else Role.SERVER).theirs
    with pytest.raises(h2.exceptions.ProtocolError):
        theirs.receive_data(make())
