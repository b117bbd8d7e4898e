"""The receiving half: preface, streams and their states, control frames, and each class of error."""

from __future__ import annotations

import pytest
from hyperframe import frame as wire

from hvrpc.http2 import (
    DATA_RECEIVED,
    GOAWAY_RECEIVED,
    HEADERS_RECEIVED,
    PING_RECEIVED,
    PONG_RECEIVED,
    SETTINGS_RECEIVED,
    SETTINGS_TAKEN,
    STREAM_RESET,
    TRAILERS_RECEIVED,
    Connection,
    ConnectionEnding,
    ErrorCode,
    LocalProtocolError,
    RemoteProtocolError,
    Role,
    Settings,
    StreamClosed,
)
from hvrpc.http2.frames import PREFACE

from .peers import REQUEST, RESPONSE, TRAILERS, Pair, Peer, joined, kinds, parse, sent

PROTOCOL_ERROR = ErrorCode.PROTOCOL_ERROR
STREAM_CLOSED = ErrorCode.STREAM_CLOSED
FRAME_SIZE_ERROR = ErrorCode.FRAME_SIZE_ERROR
FLOW_CONTROL_ERROR = ErrorCode.FLOW_CONTROL_ERROR


def fails(peer: Peer, code: ErrorCode, *frames: wire.Frame | bytes) -> str:
    """The frames end the connection with this code, and a GOAWAY says so; the reason."""
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(*frames)
    assert caught.value.code is code
    *_, goaway = peer.received()
    assert isinstance(goaway, wire.GoAwayFrame)
    assert goaway.error_code == code
    assert goaway.additional_data == caught.value.reason.encode()
    assert peer.connection.has_ended
    return caught.value.reason


def feed_bytewise(connection: Connection, data: bytes) -> None:
    for at in range(len(data)):
        connection.feed(data[at : at + 1])


def resets(peer: Peer, code: ErrorCode, *frames: wire.Frame | bytes) -> None:
    """The frames end one stream with this code; the connection goes on."""
    peer.received()
    peer.send(*frames)
    codes = [each.error_code for each in peer.received() if isinstance(each, wire.RstStreamFrame)]
    assert codes == [code]
    assert not peer.connection.has_ended


# -- beginning ------------------------------------------------------------------------------------


def test_both_sides_begin_as_the_rfc_says() -> None:
    pair = Pair()
    assert pair.client.is_validated
    assert pair.server.is_validated
    client = Connection(Role.CLIENT)
    assert bytes(client.outgoing[0]).startswith(PREFACE)


def test_settings_and_their_acknowledgement_are_told() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    server.feed(sent(client))
    client.feed(sent(server))
    assert kinds(client.take_events()) == [SETTINGS_RECEIVED, SETTINGS_TAKEN]
    assert kinds(server.take_events()) == [SETTINGS_RECEIVED]
    server.feed(sent(client))
    assert kinds(server.take_events()) == [SETTINGS_TAKEN]


@pytest.mark.parametrize("wrong", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", b"Q"])
def test_a_server_refuses_other_protocols_at_the_first_wrong_byte(wrong: bytes) -> None:
    fails(Peer(greet=False), PROTOCOL_ERROR, wrong)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    "first",
    [
        wire.PingFrame(0, b"12345678"),
        wire.SettingsFrame(0, flags=["ACK"]),
        wire.WindowUpdateFrame(0, 1),
    ],
)
def test_settings_must_come_first(role: Role, first: wire.Frame) -> None:
    peer = Peer(role, greet=False)
    preface = PREFACE if role is Role.SERVER else b""
    fails(peer, PROTOCOL_ERROR, preface, first)


# -- calls ----------------------------------------------------------------------------------------


def test_a_unary_call_in_both_roles() -> None:
    pair = Pair()
    stream_id = pair.client.send_request(REQUEST, b"question", ((b"extra", b"1"),))
    _, events = pair.exchange()
    assert kinds(events) == [HEADERS_RECEIVED, DATA_RECEIVED]
    assert events[0][2].fields == (*REQUEST, (b"extra", b"1"))
    assert events[1] == (DATA_RECEIVED, stream_id, b"question", True)
    pair.server.send_response(stream_id, RESPONSE, b"answer", TRAILERS, ((b"more", b"2"),))
    events, _ = pair.exchange()
    assert kinds(events) == [HEADERS_RECEIVED, DATA_RECEIVED, TRAILERS_RECEIVED]
    assert events[0][2].fields == RESPONSE
    assert events[1][2:] == (b"answer", False)
    assert events[2][2].fields == (*TRAILERS, (b"more", b"2"))
    assert pair.client.open_streams == pair.server.open_streams == 0


def test_an_answer_of_trailers_only() -> None:
    pair = Pair()
    stream_id = pair.client.send_request(REQUEST, b"")
    pair.exchange()
    pair.server.send_trailers(stream_id, (*RESPONSE, *TRAILERS))
    events, _ = pair.exchange()
    assert kinds(events) == [HEADERS_RECEIVED]
    assert events[0][3] is True
    assert pair.client.open_streams == pair.server.open_streams == 0


def test_both_directions_stream_independently() -> None:
    pair = Pair()
    client, server = pair.client, pair.server
    stream_id = client.open_stream(REQUEST)
    pair.exchange()
    server.send_headers(stream_id, RESPONSE)
    for number in range(3):
        client.send_data(stream_id, b"c%d" % number)
        server.send_data(stream_id, b"s%d" % number)
        to_client, to_server = pair.exchange()
        assert to_client[-1] == (DATA_RECEIVED, stream_id, b"s%d" % number, False)
        assert to_server[-1] == (DATA_RECEIVED, stream_id, b"c%d" % number, False)
    client.send_data(stream_id, b"", True)
    assert pair.exchange()[1] == [(DATA_RECEIVED, stream_id, b"", True)]
    server.send_data(stream_id, b"after the half-close")
    server.send_trailers(stream_id, TRAILERS)
    assert kinds(pair.exchange()[0]) == [DATA_RECEIVED, TRAILERS_RECEIVED]
    assert client.open_streams == server.open_streams == 0


def test_a_request_may_end_by_trailers_too() -> None:
    peer = Peer()
    events = [*peer.request(1), *peer.send(peer.headers(1, [(b"x", b"y")], end=True))]
    assert kinds(events) == [HEADERS_RECEIVED, TRAILERS_RECEIVED]


def test_interim_responses_are_skipped() -> None:
    peer = Peer(Role.CLIENT)
    stream_id = peer.connection.send_request(REQUEST, b"")
    frames = [peer.headers(stream_id, fields) for fields in ([(b":status", b"103")], RESPONSE)]
    (event,) = peer.send(*frames)
    assert event[2].fields == RESPONSE
    resets(peer, PROTOCOL_ERROR, peer.headers(stream_id, [(b":status", b"100")], end=True))


def test_padding_priority_and_continuations_are_taken_off() -> None:
    peer = Peer()
    block = peer.encoder.encode(REQUEST)
    events = peer.send(
        wire.HeadersFrame(1, block[:10], pad_length=7, flags=["PADDED", "PRIORITY"]),
        wire.ContinuationFrame(1, b""),
        wire.ContinuationFrame(1, block[10:], flags=["END_HEADERS"]),
        wire.DataFrame(1, b"data", pad_length=255, flags=["PADDED"]),
        wire.DataFrame(1, b"", pad_length=3, flags=["PADDED", "END_STREAM"]),
    )
    assert [event[2] for event in events[1:]] == [b"data", b""]
    assert events[0][2].fields == REQUEST
    assert events[-1][3] is True


def test_padding_is_acknowledged_without_the_owner() -> None:
    peer = Peer(settings=Settings(stream_window=65_535, connection_window=65_535))
    peer.request(1)
    for _ in range(2000):
        peer.send(wire.DataFrame(1, b"", pad_length=255, flags=["PADDED"]), peer.data(1, b"x"))
        peer.connection.consumed(1, 1)
        peer.received()
    assert not peer.connection.has_ended


def test_unknown_frames_and_flags_are_ignored() -> None:
    peer = Peer()
    assert peer.send(b"\0\x4e\x20\xaa\xff\0\0\0\1" + bytes(20_000)) == []
    assert kinds(peer.request(1)) == [HEADERS_RECEIVED]
    assert peer.send(b"\0\0\1\0\xf6\0\0\0\1x") == [(DATA_RECEIVED, 1, b"x", False)]


def test_the_reserved_bit_of_stream_ids_is_ignored() -> None:
    peer = Peer()
    headers = bytearray(peer.headers(1).serialize())
    data = bytearray(peer.data(1, b"x", end=True).serialize())
    headers[5] |= 0x80
    data[5] |= 0x80
    assert kinds(peer.send(bytes(headers), bytes(data))) == [HEADERS_RECEIVED, DATA_RECEIVED]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_may_be_fed_and_reused(kind: type) -> None:
    peer = Peer()
    raw = bytearray(peer.headers(1).serialize() + peer.data(1, b"abc").serialize())
    peer.connection.feed(kind(raw))
    raw[:] = bytes(len(raw))
    assert peer.connection.take_events()[1][2] == b"abc"


def test_a_large_frame_is_handed_on_as_it_arrives() -> None:
    peer = Peer()
    peer.request(1)
    frame = peer.data(1, bytes(200_000), end=True).serialize()
    sizes = []
    for at in range(0, len(frame), 50_000):
        events = peer.send(frame[at : at + 50_000])
        sizes += [(len(event[2]), event[3]) for event in events]
    assert sizes == [(49_991, False), (50_000, False), (50_000, False), (50_000, False), (9, True)]


def test_the_rest_of_a_frame_is_dropped_when_its_stream_is_reset_meanwhile() -> None:
    peer = Peer()
    peer.request(1)
    frame = peer.data(1, bytes(1000)).serialize()
    assert kinds(peer.send(frame[:500])) == [DATA_RECEIVED]
    peer.connection.reset_stream(1)
    assert peer.send(frame[500:]) == []
    assert kinds(peer.request(3)) == [HEADERS_RECEIVED]


# -- wrong frames: the connection ends -------------------------------------------------------------

CONNECTION_ERRORS: dict[str, tuple[ErrorCode, bytes]] = {
    "DATA on stream 0": (PROTOCOL_ERROR, b"\0\0\0\0\0\0\0\0\0"),
    "HEADERS on stream 0": (PROTOCOL_ERROR, b"\0\0\1\1\4\0\0\0\0\x82"),
    "HEADERS on an even stream": (PROTOCOL_ERROR, b"\0\0\1\1\4\0\0\0\2\x82"),
    "DATA on an idle stream": (PROTOCOL_ERROR, b"\0\0\0\0\0\0\0\0\5"),
    "RST_STREAM on an idle stream": (PROTOCOL_ERROR, wire.RstStreamFrame(5).serialize()),
    "WINDOW_UPDATE on an idle stream": (PROTOCOL_ERROR, wire.WindowUpdateFrame(5, 1).serialize()),
    "PRIORITY on stream 0": (PROTOCOL_ERROR, b"\0\0\5\2\0\0\0\0\0" + bytes(5)),
    "RST_STREAM on stream 0": (PROTOCOL_ERROR, b"\0\0\4\3\0\0\0\0\0" + bytes(4)),
    "CONTINUATION of nothing": (PROTOCOL_ERROR, b"\0\0\1\x09\4\0\0\0\1\x82"),
    "PUSH_PROMISE": (PROTOCOL_ERROR, b"\0\0\4\5\4\0\0\0\1\0\0\0\2"),
    "SETTINGS on a stream": (PROTOCOL_ERROR, b"\0\0\0\4\0\0\0\0\1"),
    "PING on a stream": (PROTOCOL_ERROR, b"\0\0\x08\6\0\0\0\0\1" + bytes(8)),
    "GOAWAY on a stream": (PROTOCOL_ERROR, b"\0\0\x08\7\0\0\0\0\1" + bytes(8)),
    "padding as long as DATA": (PROTOCOL_ERROR, b"\0\0\3\0\x08\0\0\0\1\3xx"),
    "padded DATA without a length": (PROTOCOL_ERROR, b"\0\0\0\0\x08\0\0\0\1"),
    "padding longer than HEADERS": (PROTOCOL_ERROR, b"\0\0\3\1\x0c\0\0\0\1\3xx"),
    "padded HEADERS without a length": (PROTOCOL_ERROR, b"\0\0\0\1\x0c\0\0\0\1"),
    "HEADERS without their priority": (PROTOCOL_ERROR, b"\0\0\4\1\x24\0\0\0\1xxxx"),
    "window update of 0": (PROTOCOL_ERROR, b"\0\0\4\x08\0\0\0\0\0\0\0\0\0"),
    "window beyond 2^31-1": (FLOW_CONTROL_ERROR, wire.WindowUpdateFrame(0, 2**31 - 1).serialize()),
    "RST_STREAM of 5 bytes": (FRAME_SIZE_ERROR, b"\0\0\5\3\0\0\0\0\1" + bytes(5)),
    "PING of 7 bytes": (FRAME_SIZE_ERROR, b"\0\0\7\6\0\0\0\0\0" + bytes(7)),
    "WINDOW_UPDATE of 3 bytes": (FRAME_SIZE_ERROR, b"\0\0\3\x08\0\0\0\0\0" + bytes(3)),
    "SETTINGS of 5 bytes": (FRAME_SIZE_ERROR, b"\0\0\5\4\0\0\0\0\0" + bytes(5)),
    "SETTINGS ACK with a payload": (FRAME_SIZE_ERROR, b"\0\0\6\4\1\0\0\0\0" + bytes(6)),
    "GOAWAY of 7 bytes": (FRAME_SIZE_ERROR, b"\0\0\7\7\0\0\0\0\0" + bytes(7)),
    "a block that is no HPACK": (ErrorCode.COMPRESSION_ERROR, b"\0\0\1\1\4\0\0\0\3\x80"),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytes"])
def test_connection_errors(name: str, split: bool) -> None:
    code, frame = CONNECTION_ERRORS[name]
    peer = Peer()
    peer.request(1)
    if not split:
        fails(peer, code, frame)
        return
    with pytest.raises(RemoteProtocolError) as caught:
        feed_bytewise(peer.connection, frame)
    assert caught.value.code is code


def test_within_a_header_block_nothing_else_may_come() -> None:
    for other in (
        wire.PingFrame(0, bytes(8)),
        wire.ContinuationFrame(3, b""),
        Peer.data(1),
        b"\0\0\0\xaa\0\0\0\0\0",
    ):
        peer = Peer()
        reason = fails(peer, PROTOCOL_ERROR, wire.HeadersFrame(1, b"\x82"), other)
        assert "within the header block of stream 1" in reason


def test_a_client_accepts_no_streams_of_the_server() -> None:
    for stream_id in (1, 2, 3):
        peer = Peer(Role.CLIENT)
        fails(peer, PROTOCOL_ERROR, peer.headers(stream_id, RESPONSE))


def test_after_an_error_nothing_is_taken_or_given() -> None:
    peer = Peer()
    peer.request(1)
    fails(peer, PROTOCOL_ERROR, b"\0\0\0\0\0\0\0\0\0")
    assert peer.request(3) == []
    assert not peer.connection.outgoing
    with pytest.raises(StreamClosed):
        peer.connection.send_headers(1, RESPONSE)
    client = Connection(Role.CLIENT)
    client.close()
    with pytest.raises(ConnectionEnding):
        client.open_stream(REQUEST)
    with pytest.raises(ConnectionEnding):
        client.ping(bytes(8))


def test_events_before_an_error_are_not_lost() -> None:
    peer = Peer()
    with pytest.raises(RemoteProtocolError):
        peer.send(peer.headers(1), peer.data(1, b"x"), b"\0\0\0\0\0\0\0\0\0")
    assert kinds(peer.connection.take_events()) == [HEADERS_RECEIVED, DATA_RECEIVED]


# -- wrong frames: the stream ends -----------------------------------------------------------------


def test_data_and_headers_after_the_end_of_a_request() -> None:
    for late in ("data", "headers"):
        peer = Peer()
        peer.request(1, end=True)
        frame = peer.data(1, b"x") if late == "data" else peer.headers(1, end=True)
        resets(peer, STREAM_CLOSED, frame)
        assert peer.connection.open_streams == 0


def test_trailers_that_do_not_end_the_stream() -> None:
    peer = Peer()
    peer.request(1)
    resets(peer, PROTOCOL_ERROR, peer.headers(1, [(b"x", b"y")]))


def test_data_before_the_headers_of_a_response() -> None:
    peer = Peer(Role.CLIENT)
    stream_id = peer.connection.send_request(REQUEST, b"")
    resets(peer, PROTOCOL_ERROR, peer.data(stream_id, b"x"))


def test_malformed_messages_reset_their_stream_only() -> None:
    peer = Peer()
    resets(peer, PROTOCOL_ERROR, peer.headers(1, [(b":method", b"POST")]))
    resets(peer, PROTOCOL_ERROR, peer.headers(3, [*REQUEST, (b"Upper", b"x")]))
    assert kinds(peer.request(5)) == [HEADERS_RECEIVED]
    client = Peer(Role.CLIENT)
    stream_id = client.connection.send_request(REQUEST, b"")
    resets(client, PROTOCOL_ERROR, client.headers(stream_id, [(b"x", b"y")]))


def test_window_errors_of_a_stream() -> None:
    peer = Peer()
    peer.request(1)
    peer.request(3)
    resets(peer, FLOW_CONTROL_ERROR, peer.window(1, 2**31 - 1))
    resets(peer, PROTOCOL_ERROR, b"\0\0\4\x08\0\0\0\0\3\0\0\0\0")


def test_priority_of_a_wrong_length() -> None:
    peer = Peer()
    peer.request(1)
    assert peer.send(b"\0\0\4\2\0\0\0\0\x09" + bytes(4)) == [], "an idle stream cannot be reset"
    resets(peer, FRAME_SIZE_ERROR, b"\0\0\4\2\0\0\0\0\1" + bytes(4))


@pytest.mark.parametrize(
    ("length", "pieces", "good"),
    [
        (b"3", [b"ab", b"c"], True),
        (b"3", [b"abcd"], False),
        (b"3", [b"ab"], False),
        (b"0", [], True),
        (b"1", [], False),
        (b"x", [b"x"], False),
    ],
)
def test_the_body_must_have_its_announced_length(
    length: bytes, pieces: list[bytes], good: bool
) -> None:
    peer = Peer()
    fields = [*REQUEST, (b"content-length", length)]
    frames = [peer.headers(1, fields, end=not pieces)]
    frames += [peer.data(1, each, end=each is pieces[-1]) for each in pieces]
    if good:
        events = peer.send(*frames)
        assert events[-1][3] is True
        assert peer.received() == []
    else:
        peer.send(*frames)
        reset, *_ = peer.received()
        assert isinstance(reset, wire.RstStreamFrame)
        assert reset.error_code == PROTOCOL_ERROR


def test_trailers_count_as_the_end_for_content_length() -> None:
    peer = Peer()
    peer.send(peer.headers(1, [*REQUEST, (b"content-length", b"3")]), peer.data(1, b"ab"))
    resets(peer, PROTOCOL_ERROR, peer.headers(1, [(b"x", b"y")], end=True))


# -- late frames -----------------------------------------------------------------------------------


def test_frames_that_crossed_our_reset_are_ignored() -> None:
    peer = Peer()
    peer.request(1)
    peer.connection.reset_stream(1)
    peer.received()
    trailers = peer.headers(1, [(b"fresh", b"field")], end=True)
    assert peer.send(peer.data(1, b"x"), peer.window(1, 5), trailers, peer.reset(1)) == []
    assert peer.received() == []
    # The block was decoded all the same: the table is in step.
    events = peer.send(peer.headers(3, [*REQUEST, (b"fresh", b"field")]))
    assert events[0][2].fields[-1] == (b"fresh", b"field")


def test_frames_after_the_peers_own_reset_are_a_stream_error() -> None:
    peer = Peer()
    peer.request(1)
    assert kinds(peer.send(peer.reset(1))) == [STREAM_RESET]
    resets(peer, STREAM_CLOSED, peer.data(1, b"x"))


def test_frames_after_both_sides_ended_are_a_connection_error() -> None:
    peer = Peer()
    peer.request(1, end=True)
    peer.connection.send_trailers(1, (*RESPONSE, *TRAILERS))
    assert peer.send(peer.window(1, 5), peer.reset(1)) == [], "these may cross the end"
    fails(peer, STREAM_CLOSED, peer.data(1, b"x"))


def test_a_skipped_stream_cannot_be_opened_later() -> None:
    peer = Peer()
    peer.request(5)
    fails(peer, STREAM_CLOSED, peer.headers(3))


def test_late_data_does_not_use_up_the_window_of_the_connection() -> None:
    peer = Peer(settings=Settings(connection_window=65_535))
    peer.request(1)
    peer.connection.reset_stream(1)
    for _ in range(100):
        peer.send(peer.data(1, bytes(16_000)))
        peer.received()
    assert not peer.connection.has_ended


def test_very_old_resets_are_forgiven() -> None:
    peer = Peer()
    for number in range(1500):
        peer.request(2 * number + 1)
        peer.connection.reset_stream(2 * number + 1)
        peer.received()
    assert len(peer.connection._resets) == 1000
    assert peer.send(peer.data(1, b"x"), peer.data(2999, b"x")) == []


# -- PING, GOAWAY, RST_STREAM ----------------------------------------------------------------------


def test_pings_are_answered_and_told() -> None:
    pair = Pair()
    pair.client.ping(b"12345678")
    to_client, to_server = pair.exchange()
    assert to_server == [(PING_RECEIVED, 0, b"12345678", False)]
    assert to_client == [(PONG_RECEIVED, 0, b"12345678", False)]
    with pytest.raises(LocalProtocolError, match="eight bytes"):
        pair.client.ping(b"short")


def test_a_reset_tells_code_and_side() -> None:
    pair = Pair()
    first, second = (pair.client.open_stream(REQUEST) for _ in range(2))
    pair.exchange()
    pair.client.reset_stream(first)
    pair.server.reset_stream(second, ErrorCode.REFUSED_STREAM)
    to_client, to_server = pair.exchange()
    assert to_server == [(STREAM_RESET, first, (8, "the peer reset it: CANCEL"), True)]
    assert to_client == [(STREAM_RESET, second, (7, "the peer reset it: REFUSED_STREAM"), True)]
    pair.client.reset_stream(first)
    assert not pair.client.outgoing, "a second reset does nothing"


def test_streams_beyond_what_was_offered_are_refused() -> None:
    peer = Peer(settings=Settings(max_concurrent_streams=2))
    for stream_id in (1, 3):
        peer.request(stream_id)
    resets(peer, ErrorCode.REFUSED_STREAM, peer.headers(5))
    peer.connection.reset_stream(1)
    assert kinds(peer.request(7)) == [HEADERS_RECEIVED]


def test_a_server_drains_in_two_steps_and_loses_no_request_under_way() -> None:
    pair = Pair()
    before = pair.client.send_request(REQUEST, b"before")
    pair.exchange()
    pair.server.drain()
    under_way = pair.client.send_request(REQUEST, b"under way")
    pair.server.feed(sent(pair.client))
    data = sent(pair.server)
    goaway = next(each for each in parse(data) if isinstance(each, wire.GoAwayFrame))
    assert goaway.last_stream_id == 2**31 - 1
    pair.client.feed(data)
    with pytest.raises(ConnectionEnding):
        pair.client.send_request(REQUEST, b"after")
    assert pair.client.may_open == -1
    pair.server.feed(sent(pair.client))  # the answer to the PING
    data = sent(pair.server)
    (goaway,) = (each for each in parse(data) if isinstance(each, wire.GoAwayFrame))
    assert goaway.last_stream_id == under_way
    pair.client.feed(data)
    assert not pair.server.is_drained
    for stream_id in (before, under_way):
        pair.server.send_response(stream_id, RESPONSE, b"", TRAILERS)
    events, _ = pair.exchange()
    assert kinds(events).count(STREAM_RESET) == 0
    assert kinds(events).count(TRAILERS_RECEIVED) == 2
    assert pair.server.is_drained
    assert pair.client.unprocessed() == set()


def test_a_drain_that_is_not_answered_is_settled_by_the_second_call() -> None:
    peer = Peer()
    peer.request(1)
    peer.connection.drain()
    peer.request(3)
    assert not peer.connection.is_drained
    peer.connection.drain()
    assert [
        each.last_stream_id for each in peer.received() if isinstance(each, wire.GoAwayFrame)
    ] == [
        2**31 - 1,
        3,
    ]
    assert peer.request(5, b"ignored") == []
    assert peer.received() == []
    peer.connection.reset_stream(1)
    peer.connection.reset_stream(3)
    assert peer.connection.is_drained


def test_a_client_drains_in_one_step() -> None:
    pair = Pair()
    stream_id = pair.client.send_request(REQUEST, b"")
    pair.client.drain()
    pair.client.drain()
    _, events = pair.exchange()
    assert kinds(events).count(GOAWAY_RECEIVED) == 1
    assert not pair.client.is_drained
    pair.server.send_response(stream_id, RESPONSE, b"", TRAILERS)
    pair.exchange()
    assert pair.client.is_drained


def test_a_goaway_refuses_what_it_leaves_out() -> None:
    peer = Peer(Role.CLIENT)
    ids = [peer.connection.send_request(REQUEST, b"") for _ in range(3)]
    events = peer.send(wire.GoAwayFrame(0, ids[0], 2, b"sorry"))
    assert events[0] == (GOAWAY_RECEIVED, ids[0], (2, b"sorry"), False)
    assert [(event[0], event[1], event[2][0]) for event in events[1:]] == [
        (STREAM_RESET, ids[1], ErrorCode.REFUSED_STREAM),
        (STREAM_RESET, ids[2], ErrorCode.REFUSED_STREAM),
    ]
    assert peer.connection.unprocessed() == set(ids[1:])
    assert peer.connection.open_streams == 1
    assert kinds(peer.send(peer.headers(ids[0], RESPONSE))) == [HEADERS_RECEIVED]


def test_what_never_left_outgoing_was_not_processed() -> None:
    peer = Peer(Role.CLIENT)
    given = peer.connection.send_request(REQUEST, b"x")
    sent(peer.connection)
    kept = [
        peer.connection.send_request(REQUEST, b"y"),
        peer.connection.send_request(REQUEST, bytes(60_000)),
        peer.connection.open_stream((*REQUEST, (b"large", b"z" * 50_000))),
    ]
    assert peer.connection.unprocessed() == set(), "while the connection lives, they may go"
    peer.connection.lost()
    assert peer.connection.unprocessed() == set(kept)
    assert given not in peer.connection.unprocessed()


def test_closing_names_the_last_stream_and_the_reason() -> None:
    peer = Peer()
    peer.request(7)
    peer.connection.close(ErrorCode.INTERNAL_ERROR, "out of order")
    peer.connection.close()
    (goaway,) = peer.received()
    assert isinstance(goaway, wire.GoAwayFrame)
    assert (goaway.last_stream_id, goaway.error_code) == (7, ErrorCode.INTERNAL_ERROR)
    assert goaway.additional_data == b"out of order"


# -- any split -------------------------------------------------------------------------------------


def conversation(peer: Peer) -> bytes:
    """Frames of all kinds, as one client could send them."""
    first = peer.headers(1)
    block = peer.encoder.encode([*REQUEST, (b"other", b"value")])
    frames: list[wire.Frame | bytes] = [
        wire.SettingsFrame(0, {4: 100_000}),
        wire.SettingsFrame(0, flags=["ACK"]),
        wire.WindowUpdateFrame(0, 1000),
        first,
        wire.DataFrame(1, b"some data", pad_length=5, flags=["PADDED"]),
        wire.DataFrame(1, b"", flags=["END_STREAM"]),
        wire.HeadersFrame(3, block[:4], pad_length=2, flags=["PADDED"]),
        wire.ContinuationFrame(3, block[4:], flags=["END_HEADERS"]),
        wire.PingFrame(0, b"12345678"),
        wire.DataFrame(3, b"more data"),
        wire.PriorityFrame(3, depends_on=1, stream_weight=5),
        b"\0\0\7\x77\0\0\0\0\3unknown",
        wire.DataFrame(3, b"", pad_length=9, flags=["PADDED"]),
        peer.headers(3, [(b"trailing", b"field")], end=True),
        peer.headers(5, end=True),
        peer.reset(5),
        wire.GoAwayFrame(0, 0, 0, b"bye"),
    ]
    serialized = (each if isinstance(each, bytes) else each.serialize() for each in frames)
    return PREFACE + b"".join(serialized)


def comparable(peer: Peer) -> tuple[list[object], bytes]:
    events: list[object] = []
    for kind, stream_id, value, flag in joined(peer.connection.take_events()):
        events.append((kind, stream_id, getattr(value, "fields", value), flag))
    return events, sent(peer.connection)


def test_the_result_is_the_same_wherever_the_bytes_are_split() -> None:
    whole = Peer(greet=False)
    data = conversation(whole)
    whole.connection.feed(data)
    expected = comparable(whole)
    assert len(expected[0]) == 11
    for at in range(1, len(data)):
        peer = Peer(greet=False)
        peer.connection.feed(data[:at])
        peer.connection.feed(data[at:])
        assert comparable(peer) == expected, f"split at {at}"
    peer = Peer(greet=False)
    feed_bytewise(peer.connection, data)
    assert comparable(peer) == expected
