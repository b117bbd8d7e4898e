"""The sending half: states, flow control, fairness, and buffers that stay few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hyperframe import frame as wire

from hvrpc.http2 import (
    DATA_RECEIVED,
    HEADERS_RECEIVED,
    STREAM_WRITABLE,
    TRAILERS_RECEIVED,
    Connection,
    ConnectionEnding,
    ErrorCode,
    Fields,
    LocalProtocolError,
    Role,
    Settings,
    StreamClosed,
    TooManyStreams,
)
from hvrpc.http2.frames import DATA, HEADERS, RST_STREAM

from .peers import REQUEST, RESPONSE, TRAILERS, Pair, Peer, joined, kinds, parse, sent

MAX_CONCURRENT_STREAMS = 3
INITIAL_WINDOW_SIZE = 4
MAX_FRAME_SIZE = 5


def data_frames(peer: Peer) -> list[tuple[int, int]]:
    """(stream, length) of the DATA that our side has sent."""
    return [
        (frame.stream_id, len(frame.data))
        for frame in peer.received()
        if isinstance(frame, wire.DataFrame)
    ]


# -- opening streams -------------------------------------------------------------------------------


def test_before_settings_a_client_opens_a_hundred_streams() -> None:
    client = Connection(Role.CLIENT)
    assert client.may_open == 100
    for _ in range(100):
        client.open_stream(REQUEST)
    with pytest.raises(TooManyStreams, match="100"):
        client.open_stream(REQUEST)


def test_the_peers_limit_is_respected_and_a_place_becomes_free() -> None:
    peer = Peer(Role.CLIENT)
    peer.send(peer.settings({MAX_CONCURRENT_STREAMS: 2}))
    ids = [peer.connection.send_request(REQUEST, b"") for _ in range(2)]
    assert peer.received()
    with pytest.raises(TooManyStreams):
        peer.connection.send_request(REQUEST, b"")
    assert peer.received() == []
    peer.send(peer.headers(ids[0], (*RESPONSE, *TRAILERS), end=True))
    assert peer.connection.may_open == 1
    assert peer.connection.send_request(REQUEST, b"") == ids[1] + 2


def test_after_settings_without_a_limit_there_is_none() -> None:
    peer = Peer(Role.CLIENT)
    for _ in range(500):
        peer.connection.send_request(REQUEST, b"")
    assert peer.connection.may_open > 1_000_000


def test_a_server_opens_no_streams() -> None:
    with pytest.raises(LocalProtocolError, match="server"):
        Connection(Role.SERVER).open_stream(REQUEST)


def test_used_up_stream_numbers_ask_for_another_connection() -> None:
    client = Connection(Role.CLIENT)
    client._highest = 2**31 - 3
    assert client.open_stream(REQUEST) == 2**31 - 1
    assert client.may_open == -1
    with pytest.raises(ConnectionEnding):
        client.send_request(REQUEST, b"")


# -- states ----------------------------------------------------------------------------------------


def test_what_is_sent_in_a_wrong_state_is_refused_and_changes_nothing() -> None:
    peer = Peer()
    connection = peer.connection
    peer.request(1)
    with pytest.raises(LocalProtocolError, match="headers come before"):
        connection.send_data(1, b"x")
    connection.send_headers(1, RESPONSE)
    with pytest.raises(LocalProtocolError, match="once"):
        connection.send_headers(1, RESPONSE)
    connection.send_trailers(1, TRAILERS)
    peer.received()
    wrong_calls: list[Callable[[], None]] = [
        lambda: connection.send_headers(1, RESPONSE),
        lambda: connection.send_data(1, b"x"),
        lambda: connection.send_trailers(1, TRAILERS),
        lambda: connection.send_response(1, RESPONSE, b"", TRAILERS),
        lambda: connection.send_data(99, b"x"),
    ]
    for wrong in wrong_calls:
        with pytest.raises(StreamClosed):
            wrong()
    assert peer.received() == []


def test_after_the_end_is_queued_nothing_may_follow() -> None:
    peer = Peer(Role.CLIENT)
    stream_id = peer.connection.open_stream(REQUEST)
    peer.connection.send_data(stream_id, bytes(100_000), True)
    with pytest.raises(StreamClosed):
        peer.connection.send_data(stream_id, b"x")
    with pytest.raises(StreamClosed):
        peer.connection.send_trailers(stream_id, TRAILERS)


BAD: Fields = ((b"Bad", b"x"),)


@pytest.mark.parametrize("extra", [False, True])
def test_trailers_that_cannot_be_sent_are_refused_at_once_and_leave_the_rest_intact(
    extra: bool,
) -> None:
    """Also while data is queued before them, and within `send_response`."""
    pair = Pair()
    bad: tuple[Any, Any] = (TRAILERS, (("text", b"x"),)) if extra else (BAD, ())
    error = TypeError if extra else LocalProtocolError
    small, large = (pair.client.send_request(REQUEST, b"") for _ in range(2))
    pair.exchange()
    with pytest.raises(error):
        pair.server.send_response(small, RESPONSE, b"lost", *bad)
    pair.server.send_headers(large, RESPONSE)
    pair.server.send_data(large, bytes(3_000_000))
    assert pair.server.queued(large) > 0
    with pytest.raises(error):
        pair.server.send_trailers(large, *bad)
    for stream_id in (small, large):
        pair.server.send_trailers(stream_id, TRAILERS)
    events, _ = pair.exchange()
    assert kinds(events).count(HEADERS_RECEIVED) == 2
    pair.client.consumed(large, sum(len(each[2]) for each in events if each[0] == DATA_RECEIVED))
    events += pair.exchange()[0]
    trailers = [each[2].fields for each in events if each[0] == TRAILERS_RECEIVED]
    assert trailers == [TRAILERS, TRAILERS]


def test_empty_data_that_ends_nothing_is_not_sent() -> None:
    peer = Peer(Role.CLIENT)
    stream_id = peer.connection.open_stream(REQUEST)
    peer.received()
    peer.connection.send_data(stream_id, b"")
    assert peer.received() == []


def test_large_headers_become_continuations() -> None:
    pair = Pair(server_settings=Settings(max_header_list_size=2**20))
    large = (*REQUEST, (b"large", b"x" * 50_000))
    stream_id = pair.client.send_request(large, b"message")
    _, events = pair.exchange()
    assert events[0][2].fields == large
    assert events[1][2] == b"message"
    pair.server.send_response(stream_id, RESPONSE, b"answer", (*TRAILERS, (b"l", b"y" * 40_000)))
    events, _ = pair.exchange()
    # Beyond what the client offered to take; the server need not know.
    assert events[-1][2][0] == ErrorCode.ENHANCE_YOUR_CALM


# -- flow control ----------------------------------------------------------------------------------


def test_no_window_is_ever_exceeded() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    peer.send(peer.settings({INITIAL_WINDOW_SIZE: 40_000}))
    first, second = (connection.open_stream(REQUEST) for _ in range(2))
    connection.send_data(first, bytes(50_000))
    connection.send_data(second, bytes(50_000))
    assert sum(size for _, size in data_frames(peer)) == 65_535
    assert connection.queued(first) == 10_000
    assert connection.queued(second) == 50_000 - 25_535
    assert connection.queued_bytes == connection.queued(first) + connection.queued(second)
    peer.send(peer.window(first, 1_000_000))
    assert data_frames(peer) == []
    peer.send(peer.window(0, 7))
    assert sum(size for _, size in data_frames(peer)) == 7


def test_queued_data_goes_out_with_window_updates_and_the_owner_is_told() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    stream_id = connection.open_stream(REQUEST)
    connection.send_data(stream_id, b"x" * 70_000)
    connection.send_data(stream_id, b"y" * 10)
    peer.received()
    assert peer.send(peer.window(0, 10_000)) == []
    events = peer.send(peer.window(stream_id, 10_000))
    assert events == [(STREAM_WRITABLE, stream_id, None, False)]
    data = b"".join(each.data for each in peer.received() if isinstance(each, wire.DataFrame))
    assert data == b"x" * 4465 + b"y" * 10
    assert connection.queued(stream_id) == connection.queued_bytes == 0


@pytest.mark.parametrize("trailers", [True, False])
def test_the_end_waits_for_queued_data(trailers: bool) -> None:
    pair = Pair(client_settings=Settings(stream_window=1000, most_stream_window=1000))
    stream_id = pair.client.send_request(REQUEST, b"")
    pair.exchange()
    server = pair.server
    server.send_headers(stream_id, RESPONSE)
    server.send_data(stream_id, bytes(2500), not trailers)
    if trailers:
        server.send_trailers(stream_id, TRAILERS)
    got = b""
    while pair.client.open_streams:
        for kind, _, value, _flag in pair.exchange()[0]:
            if kind == DATA_RECEIVED:
                assert len(got) + len(value) <= 2500
                assert len(value) <= 1000
                got += value
                pair.client.consumed(stream_id, len(value))
    assert len(got) == 2500
    assert server.open_streams == 0


def test_a_large_response_goes_the_slow_way_and_arrives_the_same() -> None:
    pair = Pair()
    message = bytes(range(256)) * 4096
    stream_id = pair.client.send_request(REQUEST, message)
    got = {pair.client: b"", pair.server: b""}
    done = False
    while not done:
        for connection, events in zip((pair.client, pair.server), pair.exchange(), strict=True):
            for kind, _, value, ends in joined(events):
                if kind == DATA_RECEIVED:
                    got[connection] += value
                    connection.consumed(stream_id, len(value))
                    if ends:
                        pair.server.send_response(stream_id, RESPONSE, message, TRAILERS)
                done = done or kind == TRAILERS_RECEIVED
    assert got[pair.client] == got[pair.server] == message


def test_streams_with_queued_data_take_turns() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    ids = [connection.open_stream(REQUEST) for _ in range(4)]
    connection.send_data(ids[0], bytes(65_535))
    for stream_id in ids[1:]:
        connection.send_data(stream_id, bytes(60_000))
    peer.received()
    peer.send(peer.window(0, 16_384 * 6))
    assert [stream_id for stream_id, _ in data_frames(peer)] == ids[1:] * 2


def test_a_stream_whose_own_window_is_closed_keeps_nobody_waiting() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    peer.send(peer.settings({INITIAL_WINDOW_SIZE: 10}))
    blocked, free = (connection.open_stream(REQUEST) for _ in range(2))
    connection.send_data(blocked, bytes(1000))
    peer.send(peer.window(free, 1000))
    peer.received()
    connection.send_data(free, bytes(1000))
    assert data_frames(peer) == [(free, 1000)]
    peer.send(peer.window(blocked, 500))
    assert data_frames(peer) == [(blocked, 500)]


def test_outgoing_holds_few_buffers_however_much_is_sent_and_copies_none() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    peer.send(
        peer.window(0, 2**30),
        peer.settings({INITIAL_WINDOW_SIZE: 2**30, MAX_FRAME_SIZE: 100_000}),
    )
    stream_id = connection.open_stream(REQUEST)
    peer.received()
    message = bytes(50_000_000)
    connection.send_data(stream_id, message, True)
    total = 0
    while connection.outgoing:
        assert len(connection.outgoing) <= 34
        for buffer in connection.outgoing:
            if isinstance(buffer, memoryview):
                assert buffer.obj is message
                total += len(buffer)
        connection.outgoing.clear()
        connection.pump()
    assert total == len(message)


def test_a_small_call_overtakes_a_large_one() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    peer.send(peer.window(0, 2**30), peer.settings({INITIAL_WINDOW_SIZE: 2**30}))
    large = connection.send_request(REQUEST, bytes(10_000_000))
    small = connection.send_request(REQUEST, b"small")
    order = [stream_id for stream_id, _ in data_frames(peer)]
    assert order.index(small) < 40
    assert order[-1] == large


def test_frames_are_as_large_as_the_peer_takes_and_no_larger() -> None:
    for offered, used in ((16_384, 16_384), (50_000, 50_000), (2**24 - 1, 128 * 1024)):
        peer = Peer(Role.CLIENT)
        peer.send(
            peer.window(0, 2**30),
            peer.settings({INITIAL_WINDOW_SIZE: 2**30, MAX_FRAME_SIZE: offered}),
        )
        peer.connection.send_request(REQUEST, bytes(1_000_000))
        assert max(size for _, size in data_frames(peer)) == used


def test_small_pieces_that_waited_share_a_frame() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    stream_id = connection.open_stream(REQUEST)
    connection.send_data(stream_id, bytes(65_535 + 1))
    for _ in range(500):
        connection.send_data(stream_id, b"0123456789")
    peer.received()
    peer.send(peer.window(0, 10_000), peer.window(stream_id, 10_000))
    assert data_frames(peer) == [(stream_id, 5001)]


def test_a_reset_drops_what_is_queued() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    ids = [connection.open_stream(REQUEST) for _ in range(3)]
    for stream_id in ids:
        connection.send_data(stream_id, bytes(60_000))
    connection.reset_stream(ids[1])
    assert connection.queued_bytes == connection.queued(ids[0]) + connection.queued(ids[2]) > 0
    peer.send(peer.reset(ids[2]))
    assert connection.queued_bytes == connection.queued(ids[0])
    peer.received()
    peer.send(peer.window(0, 1_000_000))
    assert {stream_id for stream_id, _ in data_frames(peer)} <= {ids[0]}


def test_stop_receiving_comes_after_everything_queued() -> None:
    peer = Peer()
    connection = peer.connection
    peer.request(1)
    connection.send_headers(1, RESPONSE)
    connection.send_data(1, bytes(70_000))
    connection.send_trailers(1, TRAILERS)
    connection.stop_receiving(1)
    assert not any(isinstance(each, wire.RstStreamFrame) for each in peer.received())
    peer.send(peer.window(0, 100_000), peer.window(1, 100_000))
    *_, trailers, reset = peer.received()
    assert isinstance(trailers, wire.HeadersFrame)
    assert isinstance(reset, wire.RstStreamFrame)
    assert reset.error_code == ErrorCode.NO_ERROR
    assert connection.open_streams == 0


def test_stop_receiving_when_all_was_sent() -> None:
    peer = Peer()
    peer.request(1)
    peer.connection.send_trailers(1, (*RESPONSE, *TRAILERS))
    peer.connection.stop_receiving(1)
    peer.connection.stop_receiving(1)
    assert [each.type for each in peer.received()] == [HEADERS, RST_STREAM]


# -- consumption -----------------------------------------------------------------------------------


def updates(peer: Peer) -> list[tuple[int, int]]:
    return [
        (frame.stream_id, frame.window_increment)
        for frame in peer.received()
        if isinstance(frame, wire.WindowUpdateFrame)
    ]


def test_window_updates_are_batched() -> None:
    peer = Peer(settings=Settings(stream_window=100_000, connection_window=200_000))
    peer.request(1)
    count = 0
    for _ in range(1000):
        peer.send(peer.data(1, bytes(1000)))
        peer.connection.consumed(1, 1000)
        count += len(updates(peer))
    assert 2 <= count <= 10


def test_a_consumer_that_stops_holds_at_most_the_window_and_it_does_not_grow() -> None:
    peer = Peer(settings=Settings(stream_window=100_000))
    peer.request(1)
    peer.send(*(peer.data(1, bytes(10_000)) for _ in range(10)))
    for _ in range(4):
        peer.connection.consumed(1, 10_000)
    assert updates(peer) == []
    peer.connection.consumed(1, 10_000)
    assert updates(peer) == [(1, 50_000)], "as much as was consumed, and no more"


def test_a_window_grows_for_a_quick_consumer_up_to_its_limit() -> None:
    offered = Settings(
        stream_window=100_000, most_stream_window=300_000, connection_window=1024 * 1024
    )
    peer = Peer(settings=offered)
    peer.request(1)
    for _ in range(200):
        peer.send(peer.data(1, bytes(10_000)))
        peer.connection.consumed(1, 10_000)
        peer.received()
    assert peer.connection._streams[1].target == 300_000
    assert peer.connection._window.target > offered.connection_window


def test_a_closed_stream_gives_back_what_was_not_consumed() -> None:
    peer = Peer(settings=Settings(connection_window=65_535, stream_window=65_535))
    for number in range(50):
        stream_id = 2 * number + 1
        peer.request(stream_id, bytes(10_000), end=True)
        peer.connection.send_trailers(stream_id, (*RESPONSE, *TRAILERS))
        peer.connection.consumed(stream_id, 10_000)
        peer.received()
    window = peer.connection._window
    assert window.received == window.consumed == 500_000


def test_more_consumed_than_received_is_an_error_of_ours() -> None:
    peer = Peer()
    peer.request(1, b"12345")
    with pytest.raises(LocalProtocolError, match="more consumed"):
        peer.connection.consumed(1, 6)
    peer.connection.consumed(1, 5)
    peer.connection.consumed(99, 5)


def test_a_stream_that_has_ended_is_granted_nothing_more() -> None:
    peer = Peer(settings=Settings(stream_window=65_535))
    peer.request(1, bytes(16_384))
    peer.send(*(peer.data(1, bytes(16_384)) for _ in range(2)), peer.data(1, b"", end=True))
    peer.connection.consumed(1, 3 * 16_384)
    assert updates(peer) == []


def test_an_offered_window_below_the_default_holds_once_it_was_acknowledged() -> None:
    offered = Settings(stream_window=1000, most_stream_window=1000)
    peer = Peer(settings=offered, greet=False)
    connection = peer.connection
    connection.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    peer.send(peer.settings({}))
    peer.request(1, bytes(10_000))
    peer.send(wire.SettingsFrame(0, flags=["ACK"]))
    peer.received()
    connection.consumed(1, 10_000)
    # 65,535 were granted until the acknowledgement; 1000 beyond what was consumed are now.
    assert updates(peer) == [(1, 10_000)]
    assert kinds(peer.send(peer.data(1, bytes(1000)))) == [DATA_RECEIVED]
    peer.send(peer.data(1, b"x"))
    assert connection.open_streams == 0


# -- one buffer per call ---------------------------------------------------------------------------


def test_a_small_call_is_one_buffer_in_each_direction() -> None:
    pair = Pair()
    stream_id = pair.client.send_request(REQUEST, b"x")
    assert len(pair.client.outgoing) == 1
    assert [each.type for each in parse(bytes(pair.client.outgoing[0]))] == [HEADERS, DATA]
    pair.server.feed(sent(pair.client))
    pair.server.send_response(stream_id, RESPONSE, b"y", TRAILERS)
    assert len(pair.server.outgoing) == 1
