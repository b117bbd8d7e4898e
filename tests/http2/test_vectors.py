"""Bytes recorded between a grpcio client and a grpcio server (1.85.1), digested by ours.

Seven calls: three small ones with metadata, one of 3000 bytes, a server stream of three messages,
one aborted with NOT_FOUND, one of an unknown method. Both directions are replayed: the client's
bytes into our server, the server's into our client. (The relay that recorded them hid the setting
by which two gRPC C cores agree on binary metadata without base64, since we do not offer it.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvrpc.http2 import (
    DATA_RECEIVED,
    HEADERS_RECEIVED,
    TRAILERS_RECEIVED,
    Connection,
    Role,
    Settings,
)

from .peers import REQUEST, joined, sent

FOLDER = Path(__file__).parent / "vectors"
SENT_BY_CLIENT = bytes.fromhex((FOLDER / "grpcio_client.hex").read_text())
SENT_BY_SERVER = bytes.fromhex((FOLDER / "grpcio_server.hex").read_text())


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


CALLS = [
    (b"/t.T/Echo", [message(b"hello 0")]),
    (b"/t.T/Echo", [message(b"hello 1")]),
    (b"/t.T/Echo", [message(b"hello 2")]),
    (b"/t.T/Echo", [message(b"z" * 3000)]),
    (b"/t.T/Many", [message(b"m")]),
    (b"/t.T/Fail", [message(b"x")]),
    (b"/t.T/Nope", [message(b"x")]),
]
ANSWERS = [
    *CALLS[:4],
    (b"", [message(b"m%d" % number) for number in range(3)]),
    (b"", []),
    (b"", []),
]
STATUS = [b"0", b"0", b"0", b"0", b"0", b"5", b"12"]


def server_events(pieces: Iterator[bytes]) -> list[tuple[object, ...]]:
    """What our server tells, in comparable form."""
    server = Connection(Role.SERVER)
    return digest(server, pieces)


def client_events(pieces: Iterator[bytes]) -> list[tuple[object, ...]]:
    client = Connection(Role.CLIENT, Settings())
    for _ in CALLS:
        client.send_request(REQUEST, b"x")
    sent(client)
    return digest(client, pieces)


def digest(connection: Connection, pieces: Iterator[bytes]) -> list[tuple[object, ...]]:
    events = []
    for piece in pieces:
        connection.feed(piece)
        events += connection.take_events()
        sent(connection)
    return [
        (kind, stream_id, getattr(value, "fields", value), flag)
        for kind, stream_id, value, flag in joined(events)
    ]


def test_our_server_reads_what_grpcio_sends() -> None:
    events = server_events(iter([SENT_BY_CLIENT]))
    requests = [dict(each[2]) for each in events if each[0] == HEADERS_RECEIVED]  # type: ignore[call-overload]
    bodies = [each[2:] for each in events if each[0] == DATA_RECEIVED]
    assert [each[b":path"] for each in requests] == [path for path, _ in CALLS]
    assert all(each[b"content-type"] == b"application/grpc" for each in requests)
    assert requests[0][b"x-meta"] == b"v"
    assert requests[0][b"x-bin"] == b"AAH/"
    assert bodies == [(b"".join(messages), True) for _, messages in CALLS]


def test_our_client_reads_what_grpcio_answers() -> None:
    events = client_events(iter([SENT_BY_SERVER]))
    for number in range(len(CALLS)):
        mine = [each for each in events if each[1] == 2 * number + 1]
        data = b"".join(each[2] for each in mine if each[0] == DATA_RECEIVED)  # type: ignore[misc]
        assert data == b"".join(ANSWERS[number][1])
        last = mine[-1]
        assert last[0] == (TRAILERS_RECEIVED if data else HEADERS_RECEIVED)
        assert last[3] is True
        assert dict(last[2])[b"grpc-status"] == STATUS[number]  # type: ignore[call-overload]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97])
def test_any_size_of_pieces_gives_the_same(size: int) -> None:
    for data, events in ((SENT_BY_CLIENT, server_events), (SENT_BY_SERVER, client_events)):
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        assert events(pieces) == events(iter([data]))


def test_every_split_into_two_gives_the_same() -> None:
    for data, events in ((SENT_BY_CLIENT, server_events), (SENT_BY_SERVER, client_events)):
        whole = events(iter([data]))
        # The message of 3000 equal bytes is one long frame: one place in it is like the other.
        long = data.index(b"z" * 100)
        for at in [*range(1, long + 20), *range(long + 2980, len(data))]:
            assert events(iter([data[:at], data[at:]])) == whole, f"split at {at}"
