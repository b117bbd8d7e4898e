"""What the HTTP/2 core costs for one unary call, in memory: no sockets, no gRPC, one thread.

A client core and a server core are joined by passing their bytes on. One call is headers and
100 bytes there, headers, 100 bytes and trailers back, with the headers that gRPC sends. The same
work is done by the `h2` library, for comparison, interleaved with ours so that a busy machine
disturbs both.

    python benchmarks/http2_core.py                # takes about five seconds
    python benchmarks/http2_core.py --seconds 1 --profile
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events

from hvrpc.http2 import (
    DATA_RECEIVED,
    HEADERS_RECEIVED,
    TRAILERS_RECEIVED,
    Connection,
    Fields,
    Role,
)

REQUEST: Fields = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/helloworld.Greeter/SayHello"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"hvrpc/1.0"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
)
RESPONSE: Fields = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
)
TRAILERS: Fields = ((b"grpc-status", b"0"),)
MESSAGE = b"\0" + (100).to_bytes(4, "big") + b"m" * 100
BULK = b"b" * (1024 * 1024)


class Pair:
    """Our client and server, joined."""

    def __init__(self) -> None:
        self.client = Connection(Role.CLIENT)
        self.server = Connection(Role.SERVER)
        self.calls = 0
        for _ in range(2):
            self.server.feed(drain(self.client))
            self.client.feed(drain(self.server))
        self.client.take_events()
        self.server.take_events()

    def unary(self, extra: Fields = ()) -> None:
        client, server = self.client, self.server
        client.send_request(REQUEST, MESSAGE, extra)
        server.feed(drain(client))
        for kind, stream_id, value, ends in server.take_events():
            if kind == DATA_RECEIVED:
                server.consumed(stream_id, len(value))
                if ends:
                    server.send_response(stream_id, RESPONSE, value, TRAILERS)
        client.feed(drain(server))
        for kind, stream_id, value, _ends in client.take_events():
            if kind == DATA_RECEIVED:
                client.consumed(stream_id, len(value))
            elif kind == TRAILERS_RECEIVED:
                self.calls += 1

    def deadline(self) -> None:
        """Every call has headers of its own: the worst case for the caches."""
        number = str(self.calls).encode()
        self.unary(((b"grpc-timeout", number + b"m"), (b"x-request-id", b"r" + number)))

    def stream(self) -> None:
        """A hundred small messages of a server's stream."""
        client, server = self.client, self.server
        client.send_request(REQUEST, MESSAGE)
        server.feed(drain(client))
        for kind, stream_id, value, _ends in server.take_events():
            if kind == HEADERS_RECEIVED:
                server.send_headers(stream_id, RESPONSE)
            elif kind == DATA_RECEIVED:
                for _ in range(100):
                    server.send_data(stream_id, value)
                server.send_trailers(stream_id, TRAILERS)
        client.feed(drain(server))
        for kind, stream_id, value, _ends in client.take_events():
            if kind == DATA_RECEIVED:
                client.consumed(stream_id, len(value))
                self.calls += 1

    def bulk(self) -> None:
        """A message of 1 MiB to the server."""
        client, server = self.client, self.server
        stream_id = client.open_stream(REQUEST)
        client.send_data(stream_id, BULK, True)
        done = False
        while not done:
            for buffer in take(client):
                server.feed(buffer)
            client.pump()
            for kind, event_stream, value, ends in server.take_events():
                if kind == DATA_RECEIVED:
                    server.consumed(event_stream, len(value))
                    if ends:
                        server.send_response(event_stream, RESPONSE, MESSAGE, TRAILERS)
                        done = True
            client.feed(drain(server))
        client.take_events()
        self.calls += 1


def take(connection: Connection) -> list[bytes | bytearray | memoryview]:
    buffers = list(connection.outgoing)
    connection.outgoing.clear()
    return buffers


def drain(connection: Connection) -> bytes:
    """What a driver would send by one system call."""
    outgoing = connection.outgoing
    if len(outgoing) == 1:
        data = outgoing.popleft()
        return data if type(data) is bytes else bytes(data)
    data = b"".join(outgoing)
    outgoing.clear()
    return data


class H2Pair:
    """The same with the h2 library."""

    def __init__(self) -> None:
        self.client = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.server = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self.calls = 0
        self.client.initiate_connection()
        self.server.initiate_connection()
        for _ in range(2):
            self.server.receive_data(self.client.data_to_send())
            self.client.receive_data(self.server.data_to_send())

    def unary(self) -> None:
        client, server = self.client, self.server
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, list(REQUEST))
        client.send_data(stream_id, MESSAGE, end_stream=True)
        body = b""
        for event in server.receive_data(client.data_to_send()):
            if isinstance(event, h2.events.DataReceived):
                body += event.data or b""
                server.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                server.send_headers(stream_id, list(RESPONSE))
                server.send_data(stream_id, body)
                server.send_headers(stream_id, list(TRAILERS), end_stream=True)
        for event in client.receive_data(server.data_to_send()):
            if isinstance(event, h2.events.DataReceived):
                client.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                self.calls += 1


def timed(work: Callable[[], None], seconds: float) -> float:
    """µs for one round of `work`, over about `seconds`."""
    rounds = 0
    begin = time.perf_counter()
    end = begin + seconds
    while (now := time.perf_counter()) < end:
        for _ in range(10):
            work()
        rounds += 10
    return (now - begin) / rounds * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=5.0, help="for all measurements together")
    parser.add_argument("--profile", action="store_true", help="profile unary calls instead")
    arguments = parser.parse_args()
    ours = Pair()
    if arguments.profile:
        profiler = cProfile.Profile()
        profiler.runcall(timed, ours.unary, arguments.seconds)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(20)
        return
    theirs = H2Pair()
    works: dict[str, Callable[[], None]] = {
        "unary call": ours.unary,
        "unary call, h2": theirs.unary,
        "unary call, two headers of its own": ours.deadline,
        "server stream of 100": ours.stream,
        "1 MiB message": ours.bulk,
    }
    repeats = 5
    results: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            results[name].append(timed(work, arguments.seconds / repeats / len(works)))
    for name, values in results.items():
        print(f"{name:36} {statistics.median(values):9.1f} µs   best {min(values):9.1f} µs")
    ratios = [b / a for a, b in zip(results["unary call"], results["unary call, h2"], strict=True)]
    print(f"{'h2 takes as long as':36} {statistics.median(ratios):9.1f} of ours")
    megabytes = len(BULK) / statistics.median(results["1 MiB message"])
    print(f"{'1 MiB messages':36} {megabytes:9.0f} MB/s")


if __name__ == "__main__":
    main()
