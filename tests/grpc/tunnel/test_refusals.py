"""What a channel is told in words, seen from the other end of the line."""

from __future__ import annotations

from hvrpc import AccessDenied
from hvrpc.grpc.tunnel.refusals import refuse_calls
from hvrpc.grpc.wire import request_fields
from hvrpc.http2 import GOAWAY_RECEIVED, HEADERS_RECEIVED, Connection, Event, Role

from ...relay.test_joint import stream_pair
from ...sockets.background import Background

NOT_YOU = AccessDenied("hvsock://web/1", peer="local:other", problem="is there", remedy="100 %")


class Channel:
    """The other end, by our own HTTP/2."""

    def __init__(self) -> None:
        self.stream, ours = stream_pair()
        self.http = Connection(Role.CLIENT)
        self.refusing = Background(lambda: refuse_calls(ours, NOT_YOU))

    def flush(self) -> None:
        self.stream.sendall(b"".join(self.http.outgoing))
        self.http.outgoing.clear()

    def events_to_the_end(self) -> list[Event]:
        events: list[Event] = []
        while data := self.stream.recv(65536):
            self.http.feed(data)
            events += self.http.take_events()
            if self.http.outgoing:
                self.flush()
        self.stream.close()
        self.refusing.result()
        return events


def test_a_call_ends_with_the_reason() -> None:
    channel = Channel()
    channel.http.send_request(request_fields("/a/B", "web", "x"), b"")
    channel.flush()
    (headers,) = [
        value for kind, _, value, _ in channel.events_to_the_end() if kind == HEADERS_RECEIVED
    ]
    fields = dict(headers.fields)
    assert fields[b"grpc-status"] == b"7"
    assert fields[b"grpc-message"] == b"hvsock://web/1: local:other is there; 100 %25"


def test_when_it_leaves_it_says_which_calls_were_answered() -> None:
    """So that a call which crosses the end is sent again, and not lost."""
    channel = Channel()
    channel.flush()
    ends = [number for kind, number, _, _ in channel.events_to_the_end() if kind == GOAWAY_RECEIVED]
    assert ends[-1] == 0
    assert len(ends) == 2


def test_who_does_not_speak_http2_is_left() -> None:
    channel = Channel()
    channel.stream.sendall(b"GET / HTTP/1.1\r\n\r\n" * 3)
    while channel.stream.recv(65536):
        pass
    channel.stream.close()
    channel.refusing.result()
