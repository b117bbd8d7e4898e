"""What the tunnel costs: grpcio's C core through it, against the same directly.

    python benchmarks/tunnel.py                 the table (a minute)
    python benchmarks/tunnel.py --quick         the same with fewer, shorter blocks
    python benchmarks/tunnel.py --tls           what TLS costs, the tunnel's and the C core's own
    python benchmarks/tunnel.py --busy          the 99th percentile beside a thread that computes

One server, in a process of its own, has two ports: a UNIX socket of the C core's own, and one of the
tunnel's, with a UNIX socket in the place of the VM socket. So both ways differ by the tunnel alone: two
relays, one in each process. Each figure comes from blocks of both ways in turn (`harness.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc
import grpc.aio

from benchmarks import harness
from benchmarks.harness import Figure
from hvrpc import Tls
from hvrpc.grpc import channel_credentials, server_credentials, tunnel

SERVICE = "bench.Tunnel"
SMALL = b"x" * 100
KiB = 1024
THREADS = 8
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

MAY_ADD = 0.40
"""Of grpcio's own latency."""
MUST_KEEP = 0.55
"""Of grpcio's own throughput."""


# --- The server, in a process of its own ----------------------------------------------------------


def _pour(request: bytes, context: Any) -> Iterator[bytes]:
    count, size = map(int, request.split())
    message = bytes(size)
    for _ in range(count):
        yield message


async def _echo_async(request: bytes, context: Any) -> bytes:
    return request


async def _pour_async(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for message in _pour(request, context):
        yield message


def _handlers(echo: Any, pour: Any) -> list[grpc.GenericRpcHandler]:
    methods: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Pour": grpc.unary_stream_rpc_method_handler(pour),
    }
    return [grpc.method_handlers_generic_handler(SERVICE, methods)]


def serve_blocking(path: str) -> None:
    server = grpc.server(
        futures.ThreadPoolExecutor(2 * THREADS),
        _handlers(lambda request, _: request, _pour),
        options=tunnel.server_options(NO_LIMIT),
    )
    server.add_insecure_port(f"unix:{path}")
    tunnel.add_port(server, f"unix://{path}.tunnel")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


async def _serve_async(path: str) -> None:
    options = tunnel.server_options(NO_LIMIT)
    server = grpc.aio.server(handlers=_handlers(_echo_async, _pour_async), options=options)
    server.add_insecure_port(f"unix:{path}")
    tunnel.aio.add_port(server, f"unix://{path}.tunnel")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


SERVERS: dict[str, Callable[[str], None]] = {
    "blocking": serve_blocking,
    "asyncio": lambda path: asyncio.run(_serve_async(path)),
}


# --- What is measured -----------------------------------------------------------------------------


class Way:
    """Blocking calls over a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self._echo: Any = channel.unary_unary(f"/{SERVICE}/Echo")
        self._pour: Any = channel.unary_stream(f"/{SERVICE}/Pour")
        for _ in range(harness.WARM_UP):
            self._echo(SMALL)

    def latencies(self, count: int) -> list[float]:
        return harness.times_of(lambda: self._echo(SMALL), count)

    def median(self, count: int) -> float:
        return statistics.median(self.latencies(count))

    def rate(self, count: int) -> float:
        """Calls per second of several threads."""
        workers = [
            threading.Thread(target=self.latencies, args=(count // THREADS,))
            for _ in range(THREADS)
        ]

        def run() -> None:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        return harness.rate_of(run, count)

    def throughput(self, count: int, size: int) -> float:
        """Megabytes per second of a server's stream."""

        def run() -> None:
            for _ in self._pour(b"%d %d" % (count, size)):
                pass

        return harness.rate_of(run, count) * size / 1e6


class AioWay:
    """The same with asyncio; the loop runs while a block does."""

    def __init__(self, runner: asyncio.Runner, make: Callable[[], grpc.aio.Channel]) -> None:
        self._runner = runner

        async def begin() -> grpc.aio.Channel:
            return make()

        channel = runner.run(begin())
        self._echo: Any = channel.unary_unary(f"/{SERVICE}/Echo")
        self._pour: Any = channel.unary_stream(f"/{SERVICE}/Pour")
        self.median(harness.WARM_UP)

    def median(self, count: int) -> float:
        async def block() -> list[float]:
            found = []
            for _ in range(count):
                before = time.perf_counter()
                await self._echo(SMALL)
                found.append(time.perf_counter() - before)
            return found

        return statistics.median(self._runner.run(block()))

    def throughput(self, count: int, size: int) -> float:
        async def block() -> None:
            async for _ in self._pour(b"%d %d" % (count, size)):
                pass

        return harness.rate_of(lambda: self._runner.run(block()), count) * size / 1e6


def latency(name: str, direct: Any, through: Any, count: int, *, of: str = "grpcio") -> Figure:
    floors, mine = harness.interleave(lambda: direct.median(count), lambda: through.median(count))
    shown = (
        f"p50 {statistics.median(mine) * 1e6:.0f} us"
        f" against {statistics.median(floors) * 1e6:.0f} us"
    )
    return Figure(name, harness.median_ratio(floors, mine), of, 1 / (1 + MAY_ADD), shown)


def throughput(
    name: str, direct: Any, through: Any, count: int, size: int, *, target: float | None = MUST_KEEP
) -> Figure:
    floors, mine = harness.interleave(
        lambda: direct.throughput(count, size), lambda: through.throughput(count, size)
    )
    shown = f"{statistics.median(mine):,.0f} MB/s against {statistics.median(floors):,.0f}"
    return Figure(name, harness.median_ratio(mine, floors), "grpcio", target, shown)


def rate(name: str, direct: Way, through: Way, count: int) -> Figure:
    floors, mine = harness.interleave(lambda: direct.rate(count), lambda: through.rate(count))
    shown = f"{statistics.median(mine):,.0f} calls/s against {statistics.median(floors):,.0f}"
    return Figure(name, harness.median_ratio(mine, floors), "grpcio", None, shown)


def measure(scale: int) -> list[Figure]:
    figures = []
    with harness.servers(__file__, ["blocking", "asyncio"]) as at, contextlib.ExitStack() as stack:
        path = at["blocking"]
        direct, through = (
            Way(stack.enter_context(channel))
            for channel in (
                grpc.insecure_channel(f"unix:{path}", NO_LIMIT),
                tunnel.insecure_channel(f"unix://{path}.tunnel", NO_LIMIT),
            )
        )
        figures += [
            latency("blocking, one caller, 100 B", direct, through, 100 * scale),
            rate("blocking, 8 threads, 100 B", direct, through, 160 * scale),
            throughput("blocking, stream of 64 KiB", direct, through, 120 * scale, 64 * KiB),
            throughput("blocking, stream of 1 MiB", direct, through, 20 * scale, 1024 * KiB),
        ]
        runner = stack.enter_context(asyncio.Runner())
        path = at["asyncio"]
        aio_direct = AioWay(runner, lambda: grpc.aio.insecure_channel(f"unix:{path}", NO_LIMIT))
        aio_through = AioWay(
            runner, lambda: tunnel.aio.insecure_channel(f"unix://{path}.tunnel", NO_LIMIT)
        )
        figures += [
            latency("asyncio, one at a time, 100 B", aio_direct, aio_through, 100 * scale),
            throughput("asyncio, stream of 64 KiB", aio_direct, aio_through, 80 * scale, 64 * KiB),
        ]
    return figures


def measure_tls(scale: int) -> list[Figure]:
    """TLS of the tunnel's and of the C core's own, against none; both need certificates."""
    from hvrpc.authority import Authority

    with tempfile.TemporaryDirectory(prefix="hvrpc-bench-") as folder:
        authority = Authority.new()
        authority.write(Path(folder))
        authority.issue("host", ["host", "localhost"]).write(Path(folder))
        ca, certificate, key = (
            Path(folder, name) for name in ("ca.pem", "host.pem", "host-key.pem")
        )
        server = grpc.server(
            futures.ThreadPoolExecutor(2 * THREADS),
            _handlers(lambda request, _: request, _pour),
            options=tunnel.server_options(NO_LIMIT),
        )
        plain, ours, theirs = (f"unix://{folder}/{name}" for name in ("plain", "ours", "theirs"))
        tunnel.add_port(server, plain)
        tunnel.add_port(server, ours, server_credentials(tls=Tls(certificate=certificate, key=key)))
        pair = (key.read_bytes(), certificate.read_bytes())
        tunnel.add_port(server, theirs, grpc.ssl_server_credentials([pair]))
        server.start()
        with (
            tunnel.insecure_channel(plain, NO_LIMIT) as first,
            tunnel.secure_channel(
                ours, channel_credentials(tls=Tls(ca=ca, names="host")), NO_LIMIT
            ) as second,
            tunnel.secure_channel(
                theirs,
                grpc.ssl_channel_credentials(ca.read_bytes()),
                [*NO_LIMIT, ("grpc.ssl_target_name_override", "host")],
            ) as third,
        ):
            bare, with_ours, with_theirs = Way(first), Way(second), Way(third)
            figures = [
                latency("TLS of the tunnel, 100 B", bare, with_ours, 50 * scale, of="no TLS"),
                latency("TLS of the C core, 100 B", bare, with_theirs, 50 * scale, of="no TLS"),
                throughput("TLS of the tunnel, 64 KiB", bare, with_ours, 60 * scale, 64 * KiB),
                throughput("TLS of the C core, 64 KiB", bare, with_theirs, 60 * scale, 64 * KiB),
            ]
        server.stop(None).wait()
    return [Figure(each.name, each.ratio, "no TLS", None, each.shown) for each in figures]


def measure_busy(scale: int) -> None:
    """How long the slowest calls take while another thread of the client computes."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    with harness.servers(__file__, ["blocking"]) as at:
        path = at["blocking"]
        with (
            grpc.insecure_channel(f"unix:{path}") as one,
            tunnel.insecure_channel(f"unix://{path}.tunnel") as other,
        ):
            ways = {"directly": Way(one), "through the tunnel": Way(other)}
            computing = threading.Thread(target=compute)
            computing.start()
            try:
                for name, way in ways.items():
                    times = sorted(way.latencies(100 * scale))
                    p99 = times[len(times) * 99 // 100]
                    print(
                        f"{name}: p50 {statistics.median(times) * 1e3:.2f} ms, p99 {p99 * 1e3:.1f} ms"
                    )
            finally:
                stop.set()
                computing.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--tls", action="store_true", help="what TLS costs, in both places")
    arguments = parser.parse_args()
    if arguments.serve:
        name, path = arguments.serve
        SERVERS[name](path)
        return
    scale = 1 if arguments.quick else 4
    if arguments.busy:
        measure_busy(scale)
        return
    print(f"Python {sys.version.split()[0]}, grpcio {grpc.__version__}")
    print(harness.table(measure_tls(scale) if arguments.tls else measure(scale)))


if __name__ == "__main__":
    main()
