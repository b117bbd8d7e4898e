"""Random and damaged bytes: only `RemoteProtocolError` may leave `feed`, and memory stays bounded.

Bounded in time: a few hundred examples. Set HYPOTHESIS_PROFILE or raise `max_examples` for more.
"""

from __future__ import annotations

import random

from hyperframe import frame as wire
from hypothesis import given, settings
from hypothesis import strategies as st

from hvrpc.http2 import Connection, Http2Error, LocalProtocolError, RemoteProtocolError, Role
from hvrpc.http2.frames import PREFACE

from .peers import REQUEST, RESPONSE, TRAILERS, Peer, parse, sent
from .test_vectors import SENT_BY_CLIENT, SENT_BY_SERVER


def prepared(role: Role) -> Connection:
    connection = Connection(role)
    if role is Role.CLIENT:
        for _ in range(7):
            connection.send_request(REQUEST, b"x")
    sent(connection)
    return connection


def survive(connection: Connection, data: bytes, step: int) -> None:
    """Feed it all; whatever happens, our own output stays well formed."""
    try:
        for at in range(0, len(data), step):
            connection.feed(data[at : at + step])
            assert len(connection._partial) <= 64 * 1024 + 9
            for kind, stream_id, value, _flag in connection.take_events():
                if kind == 0:
                    connection.consumed(stream_id, len(value))
    except RemoteProtocolError:
        pass
    frames_sent = parse(sent(connection))
    if connection.has_ended:
        assert isinstance(frames_sent[-1], wire.GoAwayFrame)
        assert frames_sent[-1].error_code != 0


frames = st.builds(
    lambda kind, flags, stream_id, payload: (
        len(payload).to_bytes(3, "big")
        + bytes((kind, flags))
        + stream_id.to_bytes(4, "big")
        + payload
    ),
    st.one_of(st.integers(0, 10), st.integers(0, 255)),
    st.one_of(st.sampled_from((0, 1, 4, 5, 8, 0x20, 0x2D)), st.integers(0, 255)),
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            (b"\x83\x86\x84", bytes(4), bytes(8), b"\0\0\0\1", b"\x88", b"\x82\x86\x84")
        ),
    ),
)


@given(st.lists(frames, max_size=20), st.sampled_from(list(Role)), st.integers(1, 100))
@settings(max_examples=250, deadline=None)
def test_random_frames(chunks: list[bytes], role: Role, step: int) -> None:
    connection = prepared(role)
    greeting = wire.SettingsFrame(0).serialize() + wire.SettingsFrame(0, flags=["ACK"]).serialize()
    connection.feed((PREFACE if role is Role.SERVER else b"") + greeting)
    survive(connection, b"".join(chunks), step)


@given(st.binary(max_size=200), st.sampled_from(list(Role)), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_random_bytes(data: bytes, role: Role, step: int) -> None:
    survive(prepared(role), data, step)
    connection = prepared(Role.SERVER)
    connection.feed(PREFACE)
    survive(connection, data, step)


def test_damaged_conversations() -> None:
    """Recorded bytes with some of them changed, left out or doubled."""
    chance = random.Random(4)
    for round_ in range(400):
        client = bool(round_ % 2)
        data = bytearray(SENT_BY_SERVER if client else SENT_BY_CLIENT)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    data[at] ^= 1 << chance.randrange(8)
                case 2:
                    del data[at : at + chance.randrange(20)]
                case _:
                    data[at:at] = data[at : at + chance.randrange(20)]
        survive(
            prepared(Role.CLIENT if client else Role.SERVER),
            bytes(data),
            chance.choice((13, 100, 5000)),
        )


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_owners_that_call_anything_at_any_time_get_local_errors_only(data: st.DataObject) -> None:
    role = data.draw(st.sampled_from(list(Role)))
    peer = Peer(role)
    connection = peer.connection
    ids = st.integers(0, 9)
    small = st.binary(max_size=10)
    calls = {
        "open": lambda: connection.open_stream(REQUEST),
        "request": lambda: connection.send_request(REQUEST, data.draw(small)),
        "headers": lambda: connection.send_headers(data.draw(ids), RESPONSE),
        "data": lambda: connection.send_data(
            data.draw(ids), bytes(data.draw(st.integers(0, 70_000))), data.draw(st.booleans())
        ),
        "trailers": lambda: connection.send_trailers(data.draw(ids), TRAILERS),
        "response": lambda: connection.send_response(data.draw(ids), RESPONSE, b"m", TRAILERS),
        "reset": lambda: connection.reset_stream(data.draw(ids)),
        "stop": lambda: connection.stop_receiving(data.draw(ids)),
        "consumed": lambda: connection.consumed(data.draw(ids), data.draw(st.integers(0, 100))),
        "drain": connection.drain,
        "ping": lambda: connection.ping(b"12345678"),
        "pump": connection.pump,
        "arrives": lambda: connection.feed(data.draw(frames)),
        "close": connection.close,
        "lost": connection.lost,
    }
    for _ in range(data.draw(st.integers(0, 25))):
        name = data.draw(st.sampled_from(list(calls)))
        try:
            calls[name]()
        except LocalProtocolError:
            assert name != "arrives"
        except Http2Error:
            assert name == "arrives"
        connection.unprocessed()
        assert connection.queued_bytes >= 0
    parse(sent(connection))
