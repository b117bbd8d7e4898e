"""Flow control over long random conversations: nothing lost, no window exceeded, sums add up.

A hypothesis state machine drives a client and a server of ours, joined by pipes in which bytes may
wait, and compares them with a simple account of what was sent on each stream.
"""

from __future__ import annotations

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hvrpc.http2 import (
    DATA_RECEIVED,
    HEADERS_RECEIVED,
    STREAM_RESET,
    TRAILERS_RECEIVED,
    Connection,
    Role,
    Settings,
)

from .peers import REQUEST, RESPONSE, TRAILERS


class Side:
    """One end, what it was told, and the bytes on their way to it."""

    def __init__(self, role: Role, settings: Settings) -> None:
        self.connection = Connection(role, settings)
        self.pipe = bytearray()
        self.sent: dict[int, bytes] = {}
        self.got: dict[int, bytes] = {}
        self.unread: dict[int, int] = {}
        self.ended: set[int] = set()
        self.seen: set[int] = set()
        self.reset: set[int] = set()
        self.written = 0


class Conversation(RuleBasedStateMachine):
    @initialize(
        window=st.integers(100, 100_000),
        connection_window=st.integers(65_535, 150_000),
        frame=st.integers(16_384, 40_000),
    )
    def begin(self, window: int, connection_window: int, frame: int) -> None:
        offered = Settings(
            stream_window=window,
            most_stream_window=window * 2,
            connection_window=connection_window,
            most_connection_window=connection_window * 2,
            max_frame_size=frame,
            max_concurrent_streams=8,
        )
        self.client = Side(Role.CLIENT, offered)
        self.server = Side(Role.SERVER, offered)
        self.sides = (self.client, self.server)
        self.offered = offered
        self.counter = 0

    def choose(self, side: Side, number: int) -> int | None:
        ids = sorted(side.connection._streams)
        return ids[number % len(ids)] if ids else None

    @rule()
    def open(self) -> None:
        # Before the server's SETTINGS came the client does not know its limit, and would be refused.
        connection = self.client.connection
        if connection.may_open > 0 and connection.open_streams < 8:
            stream_id = self.client.connection.open_stream(REQUEST)
            self.client.sent[stream_id] = b""

    @rule(
        server=st.booleans(),
        number=st.integers(0, 7),
        size=st.one_of(st.integers(0, 300), st.integers(0, 120_000)),
        ends=st.sampled_from((False, False, False, True)),
    )
    def send(self, server: bool, number: int, size: int, ends: bool) -> None:
        side = self.sides[server]
        stream_id = self.choose(side, number)
        if stream_id is None:
            return
        connection = side.connection
        stream = connection._streams[stream_id]
        if stream.local == 0:
            connection.send_headers(stream_id, RESPONSE)
            side.sent[stream_id] = b""
        if stream.local != 1:
            return
        self.counter += 1
        data = self.counter.to_bytes(4, "big") * (size // 4 + 1)
        side.sent[stream_id] += data
        if ends and server:
            connection.send_data(stream_id, data)
            connection.send_trailers(stream_id, TRAILERS)
        else:
            connection.send_data(stream_id, data, ends)

    @rule(server=st.booleans(), buffers=st.integers(1, 50))
    def write(self, server: bool, buffers: int) -> None:
        """Some of `outgoing` goes into the pipe to the other side."""
        side, other = self.sides[server], self.sides[not server]
        for _ in range(buffers):
            if not side.connection.outgoing:
                break
            other.pipe += side.connection.outgoing.popleft()
        if not side.connection.outgoing:
            side.connection.pump()

    @rule(server=st.booleans(), size=st.one_of(st.integers(1, 40), st.integers(1, 200_000)))
    def read(self, server: bool, size: int) -> None:
        side = self.sides[server]
        data = bytes(side.pipe[:size])
        del side.pipe[:size]
        side.connection.feed(data)
        self.take(side)

    def take(self, side: Side) -> None:
        for kind, stream_id, value, ends in side.connection.take_events():
            if kind == HEADERS_RECEIVED:
                side.seen.add(stream_id)
            elif kind == DATA_RECEIVED:
                assert stream_id not in side.ended
                side.got[stream_id] = side.got.get(stream_id, b"") + value
                side.unread[stream_id] = side.unread.get(stream_id, 0) + len(value)
            elif kind == STREAM_RESET:
                side.reset.add(stream_id)
                assert value[0] == 8, value
            if ends and kind in (HEADERS_RECEIVED, DATA_RECEIVED, TRAILERS_RECEIVED):
                side.ended.add(stream_id)

    @rule(server=st.booleans(), number=st.integers(0, 7), part=st.sampled_from((1, 1, 2, 5)))
    def consume(self, server: bool, number: int, part: int) -> None:
        side = self.sides[server]
        stream_id = self.choose(side, number)
        if stream_id is not None and side.unread.get(stream_id):
            size = -(-side.unread[stream_id] // part)
            side.unread[stream_id] -= size
            side.connection.consumed(stream_id, size)

    @rule(server=st.booleans(), number=st.integers(0, 7))
    def reset(self, server: bool, number: int) -> None:
        side = self.sides[server]
        stream_id = self.choose(side, number)
        if stream_id is not None:
            side.connection.reset_stream(stream_id)
            side.reset.add(stream_id)

    @invariant()
    def sums_add_up(self) -> None:
        if not hasattr(self, "sides"):
            return
        for side in self.sides:
            connection = side.connection
            window = connection._window
            assert 0 <= window.consumed <= window.received <= window.granted
            assert window.granted - window.consumed <= window.target + window.lends
            assert connection._send_window >= 0
            streams = connection._streams.values()
            unread = sum(stream.received - stream.consumed for stream in streams)
            assert window.received - window.consumed == unread
            queued = [stream.pending.size for stream in streams if stream.pending is not None]
            assert connection.queued_bytes == sum(queued)
            for stream in streams:
                if stream.pending is not None:
                    sizes = sum(len(chunk) for chunk in stream.pending.chunks)
                    assert stream.pending.size == sizes

    @invariant()
    def what_arrives_is_what_was_sent(self) -> None:
        if not hasattr(self, "sides"):
            return
        for side, other in ((self.client, self.server), (self.server, self.client)):
            for stream_id, data in other.got.items():
                assert side.sent[stream_id].startswith(data)
                whole = stream_id in other.ended
                assert not whole or side.sent[stream_id] == data

    @precondition(lambda self: hasattr(self, "sides"))
    @rule()
    def settle(self) -> None:
        """With quick consumers everything that was sent arrives: no window is stuck."""
        for _ in range(2000):
            for server in (False, True):
                self.write(server, 1000)
                side = self.sides[not server]
                self.read(not server, len(side.pipe))
                for stream_id, size in side.unread.items():
                    side.connection.consumed(stream_id, size)
                    side.unread[stream_id] = 0
            if not any(side.connection.outgoing or side.pipe for side in self.sides):
                break
        else:
            raise AssertionError("the conversation does not come to rest")
        for side, other in ((self.client, self.server), (self.server, self.client)):
            assert side.connection.queued_bytes == 0
            for stream_id, data in side.sent.items():
                if stream_id not in self.client.reset | self.server.reset:
                    assert other.got.get(stream_id, b"") == data


TestConversation = Conversation.TestCase
TestConversation.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=40, deadline=None
)
