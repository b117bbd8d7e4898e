"""How fast our gRPC engine is: ratios to grpcio over the same kind of UNIX socket.

    python benchmarks/grpc_engine.py            the table (two minutes)
    python benchmarks/grpc_engine.py --quick    the same with fewer, shorter blocks (half a minute)
    python benchmarks/grpc_engine.py --only unary,memory

Client and server are two processes. Each figure comes from blocks of both engines in turn (see
`harness.py`). Beside the ratio of times stands that of processor time, client and server together:
a machine that others use, too, blurs it least. `--pin` keeps everything on one CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import resource
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc
import hpack

import hvrpc.grpc
import hvrpc.grpc.aio
from benchmarks import harness
from benchmarks.harness import Figure

SERVICE = "bench.Bench"
SMALL = b"x" * 100
LARGE = bytes(1024 * 1024)
THREADS = 8
IN_FLIGHT = 32
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
METADATA = (("request-id", "0123456789abcdef"), ("tenant", "somebody"), ("token-bin", b"\0" * 16))
CONNECTIONS = 1000
USAGE = struct.Struct("dd")


# --- Servers, each in a process of its own ------------------------------------------------------


def usage() -> bytes:
    """Processor time of this process, and the memory that it uses, in megabytes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return USAGE.pack(used.ru_utime + used.ru_stime, pages * resource.getpagesize() / 1e6)


def _pour(request: bytes, context: Any) -> Iterator[bytes]:
    count, size = struct.unpack("II", request)
    message = b"x" * size
    for _ in range(count):
        yield message


def _sink(requests: Iterator[bytes], context: Any) -> bytes:
    return str(sum(map(len, requests))).encode()


async def _echo_async(request: bytes, context: Any) -> bytes:
    return request


async def _pour_async(request: bytes, context: Any) -> AsyncIterator[bytes]:
    count, size = struct.unpack("II", request)
    message = b"x" * size
    for _ in range(count):
        yield message


async def _sink_async(requests: AsyncIterator[bytes], context: Any) -> bytes:
    total = 0
    async for request in requests:
        total += len(request)
    return str(total).encode()


async def _bounce_async(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def _usage_async(request: bytes, context: Any) -> bytes:
    return usage()


class PassOn(grpc.ServerInterceptor):
    """Looks at a call, and does nothing about it."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if handler_call_details.method.endswith("/Forbidden"):
            return None
        return continuation(handler_call_details)


def _handlers(*, asynchronous: bool = False) -> tuple[Any]:
    functions: dict[str, tuple[Callable[..., Any], Any, Any]] = {
        "Echo": (grpc.unary_unary_rpc_method_handler, lambda request, _: request, _echo_async),
        "Pour": (grpc.unary_stream_rpc_method_handler, _pour, _pour_async),
        "Sink": (grpc.stream_unary_rpc_method_handler, _sink, _sink_async),
        "Bounce": (
            grpc.stream_stream_rpc_method_handler,
            lambda requests, _: requests,
            _bounce_async,
        ),
        "Usage": (grpc.unary_unary_rpc_method_handler, lambda request, _: usage(), _usage_async),
    }
    methods = {
        name: make(later if asynchronous else now) for name, (make, now, later) in functions.items()
    }
    return (grpc.method_handlers_generic_handler(SERVICE, methods),)


def _serve(engine: Any, where: str, **settings: Any) -> None:
    pool = futures.ThreadPoolExecutor(2 * THREADS)
    server = engine.server(pool, _handlers(), options=NO_LIMIT, **settings)
    server.add_insecure_port(where)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


async def _serve_async(engine: Any, where: str) -> None:
    server = engine.server(handlers=_handlers(asynchronous=True), options=NO_LIMIT)
    server.add_insecure_port(where)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


def _serve_uvloop(path: str) -> None:
    import uvloop

    uvloop.run(_serve_async(hvrpc.grpc.aio, f"unix://{path}"))


SERVERS: dict[str, Callable[[str], None]] = {
    "grpcio": lambda path: _serve(grpc, f"unix:{path}"),
    "native": lambda path: _serve(hvrpc.grpc, f"unix://{path}"),
    "grpcio intercepted": lambda path: _serve(grpc, f"unix:{path}", interceptors=(PassOn(),)),
    "native intercepted": lambda path: _serve(
        hvrpc.grpc, f"unix://{path}", interceptors=(PassOn(),)
    ),
    "grpc.aio": lambda path: asyncio.run(_serve_async(grpc.aio, f"unix:{path}")),
    "native aio": lambda path: asyncio.run(_serve_async(hvrpc.grpc.aio, f"unix://{path}")),
    "native uvloop": _serve_uvloop,
}

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Otherwise channels of grpcio to one target share a connection, also one after the other."""


def _channel(engine: str, path: str) -> Any:
    """A channel to a server of that engine."""
    if engine == "grpcio":
        return grpc.insecure_channel(f"unix:{path}", options=[*NO_LIMIT, *OWN_CONNECTION])
    return hvrpc.grpc.insecure_channel(f"unix://{path}", options=NO_LIMIT)


# --- What one block is --------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """What a block has shown."""

    rate: float
    """Of whatever is counted, per second."""
    processor: float
    """Seconds of processor time for each, client and server together."""
    p99: float = 0.0


class Meter:
    """Counts the processor time of this process and of a server."""

    def __init__(self, channel: Any) -> None:
        self._usage = channel.unary_unary(f"/{SERVICE}/Usage")

    def server(self) -> tuple[float, float]:
        seconds, megabytes = USAGE.unpack(self._usage(b""))
        return seconds, megabytes

    def block(self, run: Callable[[], object], count: float) -> Sample:
        before = self.server()[0] + time.process_time()
        begin = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - begin
        used = self.server()[0] + time.process_time() - before
        p99 = _p99(result) if isinstance(result, list) else 0.0
        return Sample(count / seconds, used / count, p99)


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    blocks: int
    share: float
    """Of the calls of a full block."""
    connections: int

    def __call__(self, count: int) -> int:
        return max(THREADS, int(count * self.share))


FULL = Size(blocks=7, share=1.0, connections=CONNECTIONS)
QUICK = Size(blocks=3, share=0.4, connections=CONNECTIONS)


def compare(
    name: str,
    goal: float | None,
    unit: str,
    floor: Callable[[], Sample],
    contestant: Callable[[], Sample],
    size: Size,
    of: str = "grpcio",
) -> Figure:
    """A figure of blocks in turn."""
    floor()
    contestant()  # the first of each warms up
    pairs = [(floor(), contestant()) for _ in range(size.blocks)]
    ratio = statistics.median(mine.rate / theirs.rate for theirs, mine in pairs)
    cheaper = statistics.median(theirs.processor / mine.processor for theirs, mine in pairs)
    theirs, mine = (
        statistics.median(sample.rate for sample in side) for side in zip(*pairs, strict=True)
    )
    shown = f"{mine:,.0f} {unit} against {theirs:,.0f}"
    return Figure(name, ratio, of, goal, shown, processor=cheaper)


# --- Blocking calls -----------------------------------------------------------------------------


class Blocking:
    """Callers in threads."""

    def __init__(self, engine: str, path: str) -> None:
        self.channel = _channel(engine, path)
        self.meter = Meter(self.channel)
        self._echo = self.channel.unary_unary(f"/{SERVICE}/Echo")
        self._pour = self.channel.unary_stream(f"/{SERVICE}/Pour")
        self._sink = self.channel.stream_unary(f"/{SERVICE}/Sink")
        self._bounce = self.channel.stream_stream(f"/{SERVICE}/Bounce")

    def unary(self, count: int) -> Sample:
        return self.meter.block(lambda: harness.times_of(lambda: self._echo(SMALL), count), count)

    def with_features(self, count: int) -> Sample:
        channel: Any = grpc.intercept_channel(self.channel, _Telling())
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        return self.meter.block(
            lambda: harness.times_of(lambda: echo(SMALL, timeout=30, metadata=METADATA), count),
            count,
        )

    def threads(self, count: int) -> Sample:
        def worker() -> None:
            for _ in range(count // THREADS):
                self._echo(SMALL)

        def run() -> None:
            workers = [threading.Thread(target=worker) for _ in range(THREADS)]
            for each in workers:
                each.start()
            for each in workers:
                each.join()

        return self.meter.block(run, count)

    def server_stream(self, count: int) -> Sample:
        request = struct.pack("II", count, len(SMALL))
        return self.meter.block(lambda: _count(self._pour(request), count), count)

    def client_stream(self, count: int) -> Sample:
        return self.meter.block(lambda: self._sink(SMALL for _ in range(count)), count)

    def ping_pong(self, count: int) -> Sample:
        def run() -> None:
            requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            requests.put(SMALL)
            responses = self._bounce(iter(requests.get, None))
            for _ in range(count):
                next(responses)
                requests.put(SMALL)
            requests.put(None)
            _count(responses, 1)

        return self.meter.block(run, count)

    def upload(self, count: int) -> Sample:
        """Megabytes, as requests of a stream."""
        return self.meter.block(lambda: self._sink(LARGE for _ in range(count)), count * 1.048576)

    def download(self, count: int) -> Sample:
        request = struct.pack("II", count, len(LARGE))
        return self.meter.block(lambda: _count(self._pour(request), count), count * 1.048576)

    def large_unary(self, count: int) -> Sample:
        """There and back: each call carries twice the megabyte."""
        return self.meter.block(
            lambda: [self._echo(LARGE) for _ in range(count)] and None, 2 * count * 1.048576
        )


def _count(responses: Any, wanted: int) -> None:
    got = sum(1 for _ in responses)
    assert got == wanted, (got, wanted)


class _Telling(grpc.UnaryUnaryClientInterceptor):
    """Adds something to every call."""

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        metadata = (*(client_call_details.metadata or ()), ("added", "by the interceptor"))
        return continuation(client_call_details._replace(metadata=metadata), request)


def opening(engine: str, path: str) -> float:
    """Seconds from no channel at all to the first answer."""
    before = time.perf_counter()
    with _channel(engine, path) as channel:
        channel.unary_unary(f"/{SERVICE}/Echo")(SMALL)
        return time.perf_counter() - before


# --- asyncio ------------------------------------------------------------------------------------


class Loop:
    """Callers on a loop that runs while a block does."""

    def __init__(self, engine: Any, target: str, meter: Meter, runner: asyncio.Runner) -> None:
        self.meter = meter
        self._runner = runner
        self._channel = runner.run(self._open(engine, target))

    async def _open(self, engine: Any, target: str) -> Any:
        return engine.insecure_channel(target, options=NO_LIMIT)

    def unary(self, count: int) -> Sample:
        echo = self._channel.unary_unary(f"/{SERVICE}/Echo")

        async def caller() -> None:
            for _ in range(count // IN_FLIGHT):
                await echo(SMALL)

        async def run() -> None:
            await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))

        return self.meter.block(lambda: self._runner.run(run()), count)

    def server_stream(self, count: int) -> Sample:
        pour = self._channel.unary_stream(f"/{SERVICE}/Pour")

        async def run() -> None:
            got = 0
            async for _ in pour(struct.pack("II", count, len(SMALL))):
                got += 1
            assert got == count

        return self.meter.block(lambda: self._runner.run(run()), count)

    def ping_pong(self, count: int) -> Sample:
        bounce = self._channel.stream_stream(f"/{SERVICE}/Bounce")

        async def run() -> None:
            call = bounce()
            for _ in range(count):
                await call.write(SMALL)
                await call.read()
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK

        return self.meter.block(lambda: self._runner.run(run()), count)

    def close(self) -> None:
        self._runner.run(self._channel.close())


# --- The figures --------------------------------------------------------------------------------


def measure_unary(at: dict[str, str], size: Size) -> Iterator[Figure]:
    theirs, ours = Blocking("grpcio", at["grpcio"]), Blocking("native", at["native"])
    many, few = size(4000), size(600)
    samples: list[tuple[Sample, Sample]] = []

    def their_block() -> Sample:
        samples.append((theirs.unary(few), ours.unary(many)))
        return samples[-1][0]

    yield compare(
        "blocking, one caller, 100 B", 8, "calls/s", their_block, lambda: samples[-1][1], size
    )
    yield replace(compare_p99(samples[1:]), name="  its p99: how much shorter", target=1.0)
    yield compare(
        "blocking, 8 threads on one channel",
        5,
        "calls/s",
        lambda: theirs.threads(few),
        lambda: ours.threads(many),
        size,
    )


def compare_p99(samples: list[tuple[Sample, Sample]]) -> Figure:
    ratio = statistics.median(theirs.p99 / mine.p99 for theirs, mine in samples)
    theirs, mine = (
        statistics.median(s.p99 for s in side) * 1e6 for side in zip(*samples, strict=True)
    )
    return Figure("p99", ratio, "grpcio", None, f"{mine:,.0f} us against {theirs:,.0f}")


def measure_features(at: dict[str, str], size: Size) -> Iterator[Figure]:
    """Deadline, metadata, an interceptor on each side."""
    theirs = Blocking("grpcio", at["grpcio intercepted"])
    ours = Blocking("native", at["native intercepted"])
    plain = Blocking("native", at["native"])
    many, few = size(4000), size(600)
    yield compare(
        "with deadline, metadata, interceptors",
        2 / 3,
        "calls/s",
        lambda: plain.unary(many),
        lambda: ours.with_features(many),
        size,
        of="native without",
    )
    yield compare(
        "  the same",
        None,
        "calls/s",
        lambda: theirs.with_features(few),
        lambda: ours.with_features(many),
        size,
    )


def measure_streams(at: dict[str, str], size: Size) -> Iterator[Figure]:
    theirs, ours = Blocking("grpcio", at["grpcio"]), Blocking("native", at["native"])
    for name, goal, block, few, many in (
        ("server stream, 100 B", 5.0, "server_stream", 3000, 20_000),
        ("client stream, 100 B", None, "client_stream", 3000, 20_000),
        ("bidi ping-pong, 100 B", 3.0, "ping_pong", 800, 3000),
    ):
        yield compare(
            name,
            goal,
            "messages/s",
            lambda block=block, few=few: getattr(theirs, block)(size(few)),  # type: ignore[misc]
            lambda block=block, many=many: getattr(ours, block)(size(many)),  # type: ignore[misc]
            size,
        )


def measure_large(at: dict[str, str], size: Size) -> Iterator[Figure]:
    theirs, ours = Blocking("grpcio", at["grpcio"]), Blocking("native", at["native"])
    for name, block, count in (
        ("1 MiB requests of a stream", "upload", 100),
        ("1 MiB responses of a stream", "download", 100),
        ("1 MiB echo", "large_unary", 40),
    ):
        yield compare(
            name,
            1.0,
            "MB/s",
            lambda block=block, count=count: getattr(theirs, block)(size(count)),  # type: ignore[misc]
            lambda block=block, count=count: getattr(ours, block)(size(count)),  # type: ignore[misc]
            size,
        )


def measure_asyncio(at: dict[str, str], size: Size) -> Iterator[Figure]:
    with asyncio.Runner() as runner, ExitStack() as stack:
        theirs = Loop(
            grpc.aio, f"unix:{at['grpc.aio']}", Meter(_channel("grpcio", at["grpc.aio"])), runner
        )
        stack.callback(theirs.close)
        ours = _our_loop(at["native aio"], runner)
        stack.callback(ours.close)
        yield from _asyncio_figures("asyncio", theirs, ours, size)
        if "native uvloop" in at:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as fast:
                on_uvloop = _our_loop(at["native uvloop"], fast)
                yield from _asyncio_figures("uvloop", theirs, on_uvloop, size, goals=False)
                on_uvloop.close()


def _our_loop(path: str, runner: asyncio.Runner) -> Loop:
    return Loop(hvrpc.grpc.aio, f"unix://{path}", Meter(_channel("native", path)), runner)


def _asyncio_figures(
    name: str, theirs: Loop, ours: Loop, size: Size, *, goals: bool = True
) -> Iterator[Figure]:
    yield compare(
        f"{name}, {IN_FLIGHT} in flight, 100 B",
        5 if goals else None,
        "calls/s",
        lambda: theirs.unary(size(960)),
        lambda: ours.unary(size(6400)),
        size,
        of="grpc.aio",
    )
    yield compare(
        f"{name}, server stream, 100 B",
        5 if goals else None,
        "messages/s",
        lambda: theirs.server_stream(size(3000)),
        lambda: ours.server_stream(size(20_000)),
        size,
        of="grpc.aio",
    )
    yield compare(
        f"{name}, bidi ping-pong, 100 B",
        3 if goals else None,
        "messages/s",
        lambda: theirs.ping_pong(size(800)),
        lambda: ours.ping_pong(size(3000)),
        size,
        of="grpc.aio",
    )


def measure_opening(at: dict[str, str], size: Size) -> Iterator[Figure]:
    """One of each in turn, since a channel that was closed is busy with that for a while."""
    for engine in ("grpcio", "native"):
        opening(engine, at[engine])
    pairs = [
        (opening("grpcio", at["grpcio"]), opening("native", at["native"]))
        for _ in range(size(60) * size.blocks)
    ]
    theirs, ours = (statistics.median(side) * 1e6 for side in zip(*pairs, strict=True))
    ratio = statistics.median(there / here for there, here in pairs)
    shown = f"{ours:,.0f} us against {theirs:,.0f}"
    yield Figure("connection set-up to first answer", ratio, "grpcio", 1.0, shown)


def measure_memory(at: dict[str, str], size: Size) -> Iterator[Figure]:
    """Connections that have made a call each, and rest."""
    for theirs, ours, name in (
        ("grpcio", "native", "blocking server"),
        ("grpc.aio", "native aio", "asyncio server"),
    ):
        grown = {
            engine: _memory_of(
                size.connections, at[engine], "grpcio" if engine == theirs else "native"
            )
            for engine in (theirs, ours)
        }
        per = {
            engine: 1000 * megabytes / size.connections for engine, (_, megabytes) in grown.items()
        }
        total = {engine: full for engine, (full, _) in grown.items()}
        yield Figure(
            f"memory, {size.connections} idle connections, {name}",
            total[theirs] / total[ours],
            theirs,
            1.0,
            f"{total[ours]:.0f} MB ({per[ours]:.0f} KB each) against"
            f" {total[theirs]:.0f} ({per[theirs]:.0f} each)",
        )


def _memory_of(connections: int, path: str, engine: str) -> tuple[float, float]:
    """Megabytes of a server with so many connections, and what they have added."""
    with _channel(engine, path) as channel:
        meter = Meter(channel)
        before = meter.server()[1]
        held = [_idle_connection(path) for _ in range(connections - 1)]  # and the meter's
        full = meter.server()[1]
        for sock in held:
            sock.close()
    return full, full - before


def _idle_connection(path: str) -> socket.socket:
    """A caller of neither engine that has had its answer."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", f"/{SERVICE}/Echo"),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    message = b"\0" + struct.pack(">I", len(SMALL)) + SMALL
    sock.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(4, 0, 0, b"")
        + _frame(4, 1, 0, b"")
        + _frame(1, 4, 1, hpack.Encoder().encode(fields))
        + _frame(0, 1, 1, message)
    )
    received = b""
    while SMALL not in received:
        received += sock.recv(65536)
    return sock


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


MEASURES: dict[str, tuple[Callable[[dict[str, str], Size], Iterator[Figure]], tuple[str, ...]]] = {
    "unary": (measure_unary, ("grpcio", "native")),
    "features": (measure_features, ("native", "grpcio intercepted", "native intercepted")),
    "streams": (measure_streams, ("grpcio", "native")),
    "large": (measure_large, ("grpcio", "native")),
    "asyncio": (measure_asyncio, ("grpc.aio", "native aio", "native uvloop")),
    "opening": (measure_opening, ("grpcio", "native")),
    "memory": (measure_memory, ("grpcio", "native", "grpc.aio", "native aio")),
}
"""Each with the servers it needs; they are started afresh for it."""


def measure(only: list[str], size: Size) -> Iterator[Figure]:
    missing = set() if _has_uvloop() else {"native uvloop"}
    for name in only:
        run, needed = MEASURES[name]
        with harness.servers(__file__, [each for each in needed if each not in missing]) as at:
            yield from run(at, size)


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2 * CONNECTIONS + 200, hard)), hard))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks")
    parser.add_argument("--pin", action="store_true", help="keep everything on one CPU")
    parser.add_argument(
        "--only", metavar="NAMES", default=",".join(MEASURES), help="of: %(default)s"
    )
    arguments = parser.parse_args()
    _allow_many_files()
    if arguments.serve:
        name, path = arguments.serve
        SERVERS[name](path)
        return
    only = arguments.only.split(",")
    if unknown := set(only) - set(MEASURES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    harness.pin(max(os.sched_getaffinity(0)) if arguments.pin else None)
    where = "pinned to one CPU" if arguments.pin else f"{len(os.sched_getaffinity(0))} CPUs"
    print(f"Python {sys.version.split()[0]}, grpcio {grpc.__version__}, {where}")
    figures = []
    for figure in measure(only, QUICK if arguments.quick else FULL):
        figures.append(figure)
        print(f"  {figure.name}: {figure.ratio:.2f}", file=sys.stderr, flush=True)
    print(harness.table(figures))


if __name__ == "__main__":
    main()
