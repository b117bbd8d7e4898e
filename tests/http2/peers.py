"""Peers for the tests of the HTTP/2 core.

* `Peer`: a peer driven by hand, whose frames and header blocks are made by the `hyperframe` and
  `hpack` libraries, so that nothing of ours tests itself. It may do what no honest peer does.
* `Pair`: a client and a server of ours, joined in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import hpack
from hyperframe import frame as wire
from hyperframe.frame import Frame

from hvrpc.http2 import DATA_RECEIVED, Connection, Event, Fields, Limits, Role, Settings
from hvrpc.http2.frames import PREFACE

REQUEST: Fields = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/pkg.Service/Method"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
RESPONSE: Fields = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS: Fields = ((b"grpc-status", b"0"),)


def sent(connection: Connection) -> bytes:
    """Take what a driver would send now, queued data included."""
    out = bytearray()
    while connection.outgoing:
        while connection.outgoing:
            out += connection.outgoing.popleft()
        connection.pump()
    return bytes(out)


def parse(data: bytes) -> list[Frame]:
    """Frames of another implementation's making."""
    data = data.removeprefix(PREFACE)
    frames = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        frames.append(frame)
        data = data[9 + length :]
    return frames


def joined(events: Iterable[Event]) -> list[Event]:
    """Events with neighbouring pieces of data put together, so that splits do not matter."""
    out: list[Event] = []
    for event in events:
        if event[0] == DATA_RECEIVED and out and out[-1][:2] == event[:2] and not out[-1][3]:
            event = (*event[:2], out.pop()[2] + event[2], event[3])
        out.append(event)
    return out


def kinds(events: Iterable[Event]) -> list[int]:
    return [kind for kind, _id, _value, _flag in events]


class Peer:
    """The other end of one connection of ours."""

    def __init__(
        self,
        role: Role = Role.SERVER,
        settings: Settings | None = None,
        limits: Limits | None = None,
        *,
        greet: bool = True,
    ) -> None:
        """`role` is ours: the peer has the other one. `greet` exchanges preface and SETTINGS."""
        self.connection = Connection(role, settings, limits)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        if role is Role.SERVER and greet:
            self.connection.feed(PREFACE)
        if greet:
            self.send(wire.SettingsFrame(0), wire.SettingsFrame(0, flags=["ACK"]))
            self.received()
            self.connection.take_events()

    def send(self, *frames: Frame | bytes) -> list[Event]:
        """Send frames in one piece; what our side made of them."""
        data = b"".join(each if isinstance(each, bytes) else each.serialize() for each in frames)
        self.connection.feed(data)
        return self.connection.take_events()

    def received(self) -> list[Frame]:
        """What our side has sent since the last call."""
        return parse(sent(self.connection))

    def headers(
        self,
        stream_id: int,
        fields: Sequence[tuple[bytes, bytes]] = REQUEST,
        *,
        end: bool = False,
    ) -> Frame:
        flags = ["END_HEADERS", *(["END_STREAM"] if end else [])]
        return wire.HeadersFrame(stream_id, self.encoder.encode(fields), flags=flags)

    @staticmethod
    def data(stream_id: int, data: bytes = b"", *, end: bool = False) -> Frame:
        return wire.DataFrame(stream_id, data, flags=["END_STREAM"] if end else [])

    @staticmethod
    def reset(stream_id: int, code: int = 8) -> Frame:
        return wire.RstStreamFrame(stream_id, code)

    @staticmethod
    def settings(values: dict[int, int]) -> Frame:
        return wire.SettingsFrame(0, settings=values)

    @staticmethod
    def window(stream_id: int, increment: int) -> Frame:
        return wire.WindowUpdateFrame(stream_id, window_increment=increment)

    def request(self, stream_id: int, body: bytes = b"", *, end: bool = False) -> list[Event]:
        """Open a stream on our server."""
        frames = [self.headers(stream_id, end=end and not body)]
        if body:
            frames.append(self.data(stream_id, body, end=end))
        return self.send(*frames)


class Pair:
    """A client and a server of ours; `exchange` carries bytes until both are silent."""

    def __init__(
        self,
        client_settings: Settings | None = None,
        server_settings: Settings | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.client = Connection(Role.CLIENT, client_settings, limits)
        self.server = Connection(Role.SERVER, server_settings, limits)
        self.exchange()

    def exchange(self) -> tuple[list[Event], list[Event]]:
        """What the client and what the server were told meanwhile."""
        while self.client.outgoing or self.server.outgoing:
            if data := sent(self.client):
                self.server.feed(data)
            if data := sent(self.server):
                self.client.feed(data)
        return self.client.take_events(), self.server.take_events()
