"""Every limit ends one connection with its code, and honest use never reaches it."""

from __future__ import annotations

from collections.abc import Callable

import hpack
import pytest
from hyperframe import frame as wire

from hvrpc.http2 import (
    DATA_RECEIVED,
    HEADERS_RECEIVED,
    STREAM_RESET,
    ErrorCode,
    Limits,
    RemoteProtocolError,
    Role,
    Settings,
)
from hvrpc.http2.limits import WORK_OF_A_PONG, Allowance

from .peers import REQUEST, RESPONSE, TRAILERS, Pair, Peer, kinds, sent

SMALL = Limits(
    header_block_bytes=2000,
    continuation_frames=4,
    control_frame_bytes=100,
    resets=10,
    pings=10,
    settings=10,
    empty_data=10,
    window_updates=10,
    ignored_frames=10,
    unsent_replies=1000,
)
CALM = ErrorCode.ENHANCE_YOUR_CALM


def rapid_reset(peer: Peer, number: int) -> None:
    peer.send(peer.headers(2 * number + 3, end=True), peer.reset(2 * number + 3))


def rapid_reset_with_data(peer: Peer, number: int) -> None:
    stream_id = 2 * number + 3
    peer.send(peer.headers(stream_id), peer.data(stream_id, b"x"), peer.reset(stream_id))


def provoked_reset(peer: Peer, number: int) -> None:
    stream_id = 2 * number + 3
    peer.send(peer.headers(stream_id, end=True), peer.window(stream_id, 2**31 - 1))


def malformed_request(peer: Peer, number: int) -> None:
    peer.send(peer.headers(2 * number + 3, REQUEST[1:], end=True))


def refused_stream(peer: Peer, number: int) -> None:
    peer.send(peer.headers(2 * number + 3))


def ping(peer: Peer, number: int) -> None:
    peer.send(wire.PingFrame(0, b"%8d" % number))


def settings(peer: Peer, number: int) -> None:
    peer.send(peer.settings({4: 65_535 + number}))


def empty_data(peer: Peer, _number: int) -> None:
    peer.send(peer.data(1))


def only_padding(peer: Peer, _number: int) -> None:
    peer.send(wire.DataFrame(1, b"", pad_length=200, flags=["PADDED"]))


def window_update(peer: Peer, _number: int) -> None:
    peer.send(peer.window(1, 1))


def priority(peer: Peer, _number: int) -> None:
    peer.send(wire.PriorityFrame(1, depends_on=0, stream_weight=1))


def unknown_frame(peer: Peer, _number: int) -> None:
    peer.send(b"\0\0\1\x42\0\0\0\0\1x")


def unsolicited_ack(peer: Peer, _number: int) -> None:
    peer.send(wire.PingFrame(0, b"nobody a", flags=["ACK"]))


def goaway(peer: Peer, _number: int) -> None:
    peer.send(wire.GoAwayFrame(0, last_stream_id=2**31 - 1))


def late_reset(peer: Peer, _number: int) -> None:
    if peer.connection.open_streams:
        peer.connection.reset_stream(1)
    peer.send(peer.reset(1))


def late_data(peer: Peer, _number: int) -> None:
    if peer.connection.open_streams:
        peer.connection.reset_stream(1)
    peer.send(peer.data(1))


FLOODS: list[Callable[[Peer, int], None]] = [
    rapid_reset,
    rapid_reset_with_data,
    provoked_reset,
    malformed_request,
    refused_stream,
    ping,
    settings,
    empty_data,
    only_padding,
    window_update,
    priority,
    unknown_frame,
    unsolicited_ack,
    goaway,
    late_reset,
    late_data,
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
def test_a_flood_ends_its_connection(flood: Callable[[Peer, int], None]) -> None:
    few_streams = flood is refused_stream
    peer = Peer(settings=Settings(max_concurrent_streams=1 if few_streams else 100), limits=SMALL)
    peer.request(1)
    peer.received()
    for number in range(10):
        flood(peer, number)
        sent(peer.connection)
    with pytest.raises(RemoteProtocolError) as caught:
        flood(peer, 10)
    assert caught.value.code is CALM
    *_, last = peer.received()
    assert isinstance(last, wire.GoAwayFrame)
    assert last.error_code == CALM
    assert peer.connection.has_ended


@pytest.mark.parametrize("nuisance", [ping, settings, window_update, priority])
def test_useful_work_earns_patience(nuisance: Callable[[Peer, int], None]) -> None:
    peer = Peer(limits=SMALL)
    peer.request(1)
    for number in range(100):
        peer.send(peer.data(1, b"x"))
        nuisance(peer, number)
        sent(peer.connection)
    assert not peer.connection.has_ended


def test_completed_calls_earn_patience_with_cancelled_ones() -> None:
    peer = Peer(limits=SMALL)
    for number in range(0, 200, 2):
        rapid_reset(peer, number)
        peer.request(2 * number + 5, b"x", end=True)
        peer.connection.send_response(2 * number + 5, RESPONSE, b"y", TRAILERS)
        sent(peer.connection)
    assert not peer.connection.has_ended


def test_answered_pings_of_ours_stand_for_time_that_passed() -> None:
    peer = Peer(limits=SMALL)
    for number in range(100):
        if number % 10 == 0:
            peer.connection.ping(b"are you?")
            peer.send(wire.PingFrame(0, b"are you?", flags=["ACK"]))
        ping(peer, number)
        rapid_reset(peer, number)
        sent(peer.connection)
    assert not peer.connection.has_ended


def test_what_crosses_our_own_cancellations_is_no_flood() -> None:
    """A cancelled stream of small messages: its window may be full of them."""
    peer = Peer(Role.CLIENT, Settings(stream_window=65_535), SMALL)
    stream_id = 0
    for _ in range(20):
        stream_id = peer.connection.open_stream(REQUEST)
        peer.connection.reset_stream(stream_id)
        peer.send(peer.headers(stream_id, RESPONSE))
        peer.send(*(peer.data(stream_id, bytes(100)) for _ in range(655)))
        peer.send(peer.headers(stream_id, TRAILERS, end=True), peer.reset(stream_id))
        peer.received()
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(*(peer.data(stream_id, bytes(100)) for _ in range(20)))
    assert caught.value.code is CALM


def test_an_allowance_never_exceeds_its_size() -> None:
    allowance = Allowance(5, "things")
    allowance.spend(1_000_000 + WORK_OF_A_PONG)
    for _ in range(4):
        allowance.spend(1_000_100)
    with pytest.raises(RemoteProtocolError, match="more than 5 things"):
        allowance.spend(1_000_100)


def test_a_server_that_resets_our_streams_does_us_no_harm() -> None:
    peer = Peer(Role.CLIENT, limits=SMALL)
    for _ in range(50):
        stream_id = peer.connection.send_request(REQUEST, b"x")
        assert kinds(peer.send(peer.reset(stream_id, 7))) == [STREAM_RESET]
    assert not peer.connection.has_ended


def test_a_peer_that_does_not_read_our_answers_is_ended() -> None:
    peer = Peer(limits=Limits(unsent_replies=20))
    for number in range(20):
        ping(peer, number)
    with pytest.raises(RemoteProtocolError, match="does not read") as caught:
        ping(peer, 20)
    assert caught.value.code is CALM


@pytest.mark.parametrize(
    ("count", "size"), [(5, 1), (3, 800)], ids=["too many continuations", "too many bytes"]
)
def test_a_continuation_flood_ends_the_connection(count: int, size: int) -> None:
    peer = Peer(limits=SMALL)
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(
            wire.HeadersFrame(1, b"x"),
            *(wire.ContinuationFrame(1, b"x" * size) for _ in range(count)),
        )
    assert caught.value.code is CALM


@pytest.mark.parametrize(
    "head",
    [
        b"\0\x07\xd1\x01\x04\0\0\0\1",  # HEADERS of 2001 bytes
        b"\0\0\x65\x07\0\0\0\0\0",  # GOAWAY of 101
        b"\0\0\x66\x04\0\0\0\0\0",  # SETTINGS of 102
    ],
)
def test_a_frame_that_is_too_long_is_refused_before_it_has_arrived(head: bytes) -> None:
    peer = Peer(limits=SMALL)
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(head)
    assert caught.value.code is CALM


@pytest.mark.parametrize("more", [1, 100_000])
def test_a_header_block_that_is_too_long_is_refused_also_when_it_came_at_once(more: int) -> None:
    peer = Peer()
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(wire.HeadersFrame(1, b"x" * (64 * 1024 + more), flags=["END_HEADERS"]))
    assert caught.value.code is CALM


def test_a_frame_beyond_our_settings_is_a_frame_size_error_before_it_has_arrived() -> None:
    peer = Peer(settings=Settings(max_frame_size=16_384))
    peer.request(1)
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(b"\0\x40\x01\0\0\0\0\0\1")
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


def test_a_header_list_beyond_our_settings_refuses_its_stream_and_goes_on() -> None:
    peer = Peer(settings=Settings(max_header_list_size=2000))
    fields = (*REQUEST, (b"x", b"y" * 2000))
    assert peer.send(peer.headers(1, fields, end=True)) == []
    (reset,) = peer.received()
    assert isinstance(reset, wire.RstStreamFrame)
    assert reset.error_code == CALM
    assert kinds(peer.request(3)) == [HEADERS_RECEIVED]


def test_a_response_list_beyond_our_settings_is_told_to_the_caller() -> None:
    peer = Peer(Role.CLIENT, Settings(max_header_list_size=2000))
    stream_id = peer.connection.send_request(REQUEST, b"")
    (event,) = peer.send(peer.headers(stream_id, (*RESPONSE, (b"x", b"y" * 2000))))
    kind, event_stream, (code, reason), by_peer = event
    assert (kind, event_stream, code, by_peer) == (STREAM_RESET, stream_id, CALM, False)
    assert "2000 are allowed" in reason


def test_an_hpack_bomb_ends_the_connection() -> None:
    peer = Peer(limits=Limits(header_list_excess=1))
    bomb = hpack.Encoder()
    blocks = [bomb.encode([(b"x", b"y" * 3900)]), bomb.encode([(b"x", b"y" * 3900)]) * 100]
    flags = ["END_HEADERS"]
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(
            *(wire.HeadersFrame(2 * at + 1, each, flags=flags) for at, each in enumerate(blocks))
        )
    assert caught.value.code is CALM


@pytest.mark.parametrize("whole", [True, False])
def test_data_beyond_the_window_of_the_stream_resets_it(whole: bool) -> None:
    peer = Peer(settings=Settings(stream_window=65_535))
    peer.request(1)
    frames = [peer.data(1, bytes(16_384)) for _ in range(4)]
    data = b"".join(each.serialize() for each in frames)
    events = peer.send(data) if whole else peer.send(data[:-5]) + peer.send(data[-5:])
    assert events[-1][:2] == (STREAM_RESET, 1)
    assert events[-1][2][0] == ErrorCode.FLOW_CONTROL_ERROR
    assert kinds(events[:-1]) == [DATA_RECEIVED] * 3
    assert kinds(peer.request(3)) == [HEADERS_RECEIVED]


def test_data_beyond_the_window_of_the_connection_ends_it() -> None:
    peer = Peer(settings=Settings(connection_window=65_535, stream_window=100_000))
    peer.request(1)
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(*(peer.data(1, bytes(16_384)) for _ in range(4)))
    assert caught.value.code is ErrorCode.FLOW_CONTROL_ERROR


def test_many_streams_of_a_slow_consumer_are_bounded() -> None:
    """By what may lie unread, and the window of the connection."""
    settings = Settings(connection_window=100_000, stream_window=65_535, most_unread=200_000)
    peer = Peer(settings=settings)
    for number in range(30):
        events = peer.request(2 * number + 1, bytes(10_000))
        assert kinds(events) == [HEADERS_RECEIVED, DATA_RECEIVED]
    with pytest.raises(RemoteProtocolError) as caught:
        peer.request(61, b"x")
    assert caught.value.code is ErrorCode.FLOW_CONTROL_ERROR


def test_a_client_is_not_held_up_by_streams_that_it_does_not_read() -> None:
    pair = Pair(client_settings=Settings(connection_window=100_000, stream_window=65_535))
    for number in range(30):
        stream_id = pair.client.send_request(REQUEST, b"")
        pair.exchange()
        pair.server.send_headers(stream_id, RESPONSE)
        pair.server.send_data(stream_id, bytes(65_535))
        pair.exchange()
        assert not pair.server.queued_bytes, f"stream {number} waits"


def test_honest_use_of_a_thousand_calls_and_cancellations_is_no_flood() -> None:
    pair = Pair()
    for number in range(1000):
        stream_id = pair.client.send_request(REQUEST, b"x")
        if number % 2:
            pair.client.reset_stream(stream_id)
        for kind, each, _value, _flag in pair.exchange()[1]:
            if kind == DATA_RECEIVED and not number % 2:
                pair.server.send_response(each, RESPONSE, b"y", TRAILERS)
        pair.exchange()
    assert not pair.server.has_ended
