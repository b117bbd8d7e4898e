"""SETTINGS: values on the wire, legal ranges, and what each changes."""

from __future__ import annotations

import pytest
from hyperframe import frame as wire

from hvrpc.http2 import ErrorCode, RemoteProtocolError, Role, Settings
from hvrpc.http2.settings import pack_settings, parse_settings

from .peers import Pair, Peer, parse, sent

INITIAL_WINDOW_SIZE = 4


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        (2, 2, ErrorCode.PROTOCOL_ERROR),
        (4, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (5, 16_383, ErrorCode.PROTOCOL_ERROR),
        (5, 2**24, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_illegal_values_end_the_connection_with_the_code_of_the_rfc(
    setting: int, value: int, code: ErrorCode
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_settings(pack_settings({setting: value}), client=False)
    assert caught.value.code is code


def test_a_server_may_not_switch_on_pushes() -> None:
    with pytest.raises(RemoteProtocolError):
        parse_settings(pack_settings({2: 1}), client=True)
    assert parse_settings(pack_settings({2: 1}), client=False) == {2: 1}


def test_a_payload_that_is_no_multiple_of_six_is_a_frame_size_error() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_settings(b"1234567", client=False)
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


def test_the_last_value_wins_and_unknown_settings_are_ignored() -> None:
    payload = pack_settings({3: 1}) + pack_settings({3: 2}) + pack_settings({0xFE03: 2**32 - 1})
    assert parse_settings(payload, client=False) == {3: 2, 0xFE03: 2**32 - 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"stream_window": 0},
        {"stream_window": 2**31},
        {"connection_window": 65_534},
        {"max_frame_size": 16_383},
        {"most_stream_window": 100},
    ],
)
def test_settings_of_ours_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        Settings(**wrong)


@pytest.mark.parametrize("role", list(Role))
def test_each_side_offers_what_concerns_it(role: Role) -> None:
    peer = Peer(role, Settings(max_concurrent_streams=5, header_table_size=100), greet=False)
    hello, window = parse(sent(peer.connection))
    assert isinstance(hello, wire.SettingsFrame)
    assert hello.settings[1] == 100
    if role is Role.CLIENT:
        assert hello.settings[2] == 0
        assert 3 not in hello.settings
    else:
        assert hello.settings[3] == 5
        assert 2 not in hello.settings
    assert isinstance(window, wire.WindowUpdateFrame)
    assert window.window_increment == Settings().connection_window - 65_535


def test_settings_are_acknowledged_and_told() -> None:
    peer = Peer(Role.CLIENT, greet=False)
    peer.received()
    (event,) = peer.send(peer.settings({3: 7}))
    assert event[2:] == ({3: 7}, True)
    assert peer.connection.is_validated
    (ack,) = peer.received()
    assert isinstance(ack, wire.SettingsFrame)
    assert "ACK" in ack.flags
    (event,) = peer.send(peer.settings({5: 20_000}))
    assert event[3] is False


def test_a_smaller_table_of_the_peer_is_announced_before_the_next_block() -> None:
    pair = Pair()
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b"x", b"y"))
    for size in (4096, 0, 0, 200, 4096, 10_000, 100):
        pair.server.outgoing.append(wire.SettingsFrame(0, {1: size}).serialize())
        # The server's decoder must follow what it says it allows.
        pair.server._decoder.allow_table(size)
        pair.exchange()
        for _ in range(3):
            pair.client.send_request(fields, b"")
            _, events = pair.exchange()
            assert events[0][2].fields == fields


def test_a_new_initial_window_changes_open_streams_even_below_zero() -> None:
    peer = Peer(Role.CLIENT)
    connection = peer.connection
    stream_id = connection.open_stream(
        ((b":method", b"POST"), (b":scheme", b"h"), (b":path", b"/"))
    )
    connection.send_data(stream_id, bytes(60_000))
    peer.received()
    peer.send(peer.settings({INITIAL_WINDOW_SIZE: 10_000}))
    connection.send_data(stream_id, b"x")
    assert connection.queued(stream_id) == 1
    peer.received()
    peer.send(peer.window(stream_id, 50_000))
    assert connection.queued(stream_id) == 1, "the window is exactly 0 now"
    peer.send(peer.settings({INITIAL_WINDOW_SIZE: 10_001}))
    assert connection.queued(stream_id) == 0


def test_an_initial_window_that_overflows_a_stream_is_a_flow_control_error() -> None:
    peer = Peer(Role.SERVER)
    peer.request(1)
    peer.send(peer.window(1, 2**31 - 1 - 65_535))
    with pytest.raises(RemoteProtocolError) as caught:
        peer.send(peer.settings({INITIAL_WINDOW_SIZE: 65_536}))
    assert caught.value.code is ErrorCode.FLOW_CONTROL_ERROR
