"""How close msgpack-RPC is to a bare socket.

    python benchmarks/msgpack_rpc.py              the table, pinned to one CPU (about a minute)
    python benchmarks/msgpack_rpc.py --free       the same, not pinned
    python benchmarks/msgpack_rpc.py --memory     a million calls, and ten thousand idle connections

Client and server are two processes on one UNIX socket. See `harness.py` for how ratios are made and
`floors.py` for what they are ratios of.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import floors, harness
from benchmarks.harness import Figure
from hvrpc import msgpack

TEXT = "x" * 32
SMALL = b"x" * 32
LARGE = b"x" * (1024 * 1024)
DEPTH = 64
PIPELINES = 200
THREADS = 8


class Echo:
    """The service that is measured."""

    def echo(self, value: Any) -> Any:
        return value


# --- Servers, each in a process of its own ------------------------------------------------------


def serve_threads(path: str) -> None:
    msgpack.serve(f"unix://{path}", Echo(), ready=_say_ready)


def serve_aio(path: str) -> None:
    asyncio.run(msgpack.aio.serve(f"unix://{path}", Echo(), ready=_say_ready))


def serve_uvloop(path: str) -> None:
    import uvloop

    uvloop.run(msgpack.aio.serve(f"unix://{path}", Echo(), ready=_say_ready))


def _say_ready(_: object) -> None:
    print("ready", flush=True)


SERVERS: dict[str, Callable[[str], None]] = {
    "raw": floors.serve_raw,
    "rawmp": floors.serve_rawmp,
    "threads": serve_threads,
    "aio": serve_aio,
    "uvloop": serve_uvloop,
}


# --- What is measured ---------------------------------------------------------------------------


class Blocking:
    """The blocking client, shared by as many threads as wanted."""

    def __init__(self, path: str) -> None:
        self._client = msgpack.connect(f"unix://{path}")

    def echo(self, value: Any) -> Any:
        return self._client.call("echo", value)

    def pipeline(self, value: Any, depth: int) -> None:
        batch = self._client.batch()
        for _ in range(depth):
            batch.call("echo", value)
        batch.results()

    def threads(self, value: Any, count: int) -> None:
        each = count // THREADS
        workers = [
            threading.Thread(target=lambda: [self.echo(value) for _ in range(each)])
            for _ in range(THREADS)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def _pipeline_often(client: floors.RawMsgpack | Blocking) -> None:
    for _ in range(PIPELINES):
        client.pipeline(TEXT, DEPTH)


class Loop:
    """The asyncio client on a loop that runs while a block does."""

    def __init__(self, path: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._client = runner.run(self._connect(path))

    async def _connect(self, path: str) -> Any:
        return await msgpack.aio.connect(f"unix://{path}")

    def times(self, value: Any, count: int) -> list[float]:
        async def block() -> list[float]:
            call, clock, found = self._client.call, time.perf_counter, []
            for _ in range(count):
                before = clock()
                await call("echo", value)
                found.append(clock() - before)
            return found

        return self._runner.run(block())

    def batches(self, value: Any, count: int) -> None:
        async def block() -> None:
            for _ in range(count // DEPTH):
                batch = self._client.batch()
                for _ in range(DEPTH):
                    batch.call("echo", value)
                await batch.results()

        self._runner.run(block())

    def concurrent(self, value: Any, count: int) -> None:
        async def worker() -> None:
            call = self._client.call
            for _ in range(count // DEPTH):
                await call("echo", value)

        async def block() -> None:
            await asyncio.gather(*(worker() for _ in range(DEPTH)))

        self._runner.run(block())


def p50(times: list[float]) -> float:
    return statistics.median(times)


def compare(
    name: str,
    floor_name: str,
    target: float | None,
    floor: Callable[[], float],
    contestant: Callable[[], float],
    show: Callable[[float, float], str],
    *,
    more_is_better: bool,
) -> Figure:
    floors_, contestants = harness.interleave(floor, contestant)
    if more_is_better:
        ratio = harness.median_ratio(contestants, floors_)
    else:
        ratio = harness.median_ratio(floors_, contestants)
    shown = show(statistics.median(contestants), statistics.median(floors_))
    return Figure(name, ratio, floor_name, target, shown)


def microseconds(mine: float, floor: float) -> str:
    return f"p50 {mine * 1e6:.1f} us against {floor * 1e6:.1f} us"


def per_second(mine: float, floor: float) -> str:
    return f"{mine:,.0f} calls/s against {floor:,.0f}"


def megabytes(mine: float, floor: float) -> str:
    return f"{mine:,.0f} MB/s against {floor:,.0f}"


def measure(only: str) -> list[Figure]:
    has_uvloop = _has_uvloop()
    names = ["raw", "rawmp", "threads", "aio"] + (["uvloop"] if has_uvloop else [])
    figures: list[Figure] = []
    with harness.servers(__file__, names) as at:
        raw, rawmp = floors.Raw(at["raw"]), floors.RawMsgpack(at["rawmp"])
        for _ in range(harness.WARM_UP):
            raw.echo(SMALL)
            rawmp.echo(TEXT)

        def raw_seq() -> float:
            return p50(harness.times_of(lambda: raw.echo(SMALL), 1500))

        def rawmp_pipelined() -> float:
            return harness.rate_of(lambda: _pipeline_often(rawmp), PIPELINES * DEPTH)

        def raw_large() -> float:
            return len(LARGE) / 1e6 / p50(harness.times_of(lambda: raw.echo_large(LARGE), 40))

        if only in ("all", "blocking"):
            figures += _blocking(at, raw_seq, rawmp, rawmp_pipelined, raw_large)
        if only in ("all", "aio"):
            with asyncio.Runner() as runner:
                figures += _asyncio(
                    "asyncio", Loop(at["aio"], runner), 0.45, raw_seq, rawmp_pipelined
                )
            if has_uvloop:
                import uvloop

                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    figures += _asyncio(
                        "uvloop", Loop(at["uvloop"], runner), 0.68, raw_seq, rawmp_pipelined
                    )
    return figures


def _blocking(
    at: dict[str, str],
    raw_seq: Callable[[], float],
    rawmp: floors.RawMsgpack,
    rawmp_pipelined: Callable[[], float],
    raw_large: Callable[[], float],
) -> list[Figure]:
    client = Blocking(at["threads"])
    for _ in range(harness.WARM_UP):
        client.echo(TEXT)

    def seq() -> float:
        return p50(harness.times_of(lambda: client.echo(TEXT), 1500))

    def rawmp_seq() -> float:
        return p50(harness.times_of(lambda: rawmp.echo(TEXT), 1500))

    def pipelined() -> float:
        return harness.rate_of(lambda: _pipeline_often(client), PIPELINES * DEPTH)

    def single() -> float:
        return harness.rate_of(lambda: [client.echo(TEXT) for _ in range(4000)], 4000)

    def shared() -> float:
        return harness.rate_of(lambda: client.threads(TEXT, 4000), 4000)

    def large() -> float:
        return len(LARGE) / 1e6 / p50(harness.times_of(lambda: client.echo(LARGE), 40))

    return [
        compare(
            "raw + msgpack, one caller",
            "raw",
            None,
            raw_seq,
            rawmp_seq,
            microseconds,
            more_is_better=False,
        ),
        compare(
            "blocking, one caller", "raw", 0.75, raw_seq, seq, microseconds, more_is_better=False
        ),
        compare(
            "blocking, 64 by batch",
            "raw + msgpack",
            0.42,
            rawmp_pipelined,
            pipelined,
            per_second,
            more_is_better=True,
        ),
        compare(
            "blocking, 8 threads, one connection",
            "own single caller",
            0.55,
            single,
            shared,
            per_second,
            more_is_better=True,
        ),
        compare(
            "blocking, 1 MiB bytes", "raw", 0.75, raw_large, large, megabytes, more_is_better=True
        ),
    ]


def _asyncio(
    name: str,
    client: Loop,
    target: float,
    raw_seq: Callable[[], float],
    rawmp_pipelined: Callable[[], float],
) -> list[Figure]:
    client.times(TEXT, harness.WARM_UP)

    def seq() -> float:
        return p50(client.times(TEXT, 1500))

    def concurrent() -> float:
        return harness.rate_of(lambda: client.concurrent(TEXT, 6400), 6400)

    def batches() -> float:
        return harness.rate_of(lambda: client.batches(TEXT, 6400), 6400)

    return [
        compare(
            f"{name}, one at a time",
            "raw",
            target,
            raw_seq,
            seq,
            microseconds,
            more_is_better=False,
        ),
        compare(
            f"{name}, 64 in flight",
            "raw + msgpack",
            0.25,
            rawmp_pipelined,
            concurrent,
            per_second,
            more_is_better=True,
        ),
        compare(
            f"{name}, 64 by batch",
            "raw + msgpack",
            None,
            rawmp_pipelined,
            batches,
            per_second,
            more_is_better=True,
        ),
    ]


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


# --- Memory -------------------------------------------------------------------------------------


def measure_memory(calls: int, connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, wanted), hard), hard))
    with harness.servers(__file__, ["threads", "aio"]) as at:
        pids = _server_pids()
        client = Blocking(at["threads"])
        client.pipeline(TEXT, DEPTH)
        before = _resident(os.getpid()), _resident(pids["threads"])
        for _ in range(calls // DEPTH):
            client.pipeline(TEXT, DEPTH)
        after = _resident(os.getpid()), _resident(pids["threads"])
        print(
            f"{calls:,} calls on one connection: client {before[0]:.1f} -> {after[0]:.1f} MB,"
            f" server {before[1]:.1f} -> {after[1]:.1f} MB"
        )
        empty = _resident(pids["aio"])
        held = []
        for _ in range(connections):
            sock = floors.dial(at["aio"])
            sock.sendall(b"\x94\x00\x01\xa4echo\x91\xa1x")
            held.append(sock)
        for sock in held:
            sock.recv(64)
        full = _resident(pids["aio"])
        print(
            f"{connections:,} idle connections on the asyncio server, one call made on each:"
            f" {empty:.1f} -> {full:.1f} MB ({(full - empty) * 1024 / connections:.1f} KiB each)"
        )
        for sock in held:
            sock.close()


def _server_pids() -> dict[str, int]:
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    pids = {}
    for line in found.splitlines():
        words = line.split()
        if "--serve" in words:
            pids[words[words.index("--serve") + 1]] = int(words[0])
    return pids


def _resident(pid: int) -> float:
    """Megabytes of memory that a process really uses."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--free", action="store_true", help="do not pin to one CPU")
    parser.add_argument("--only", choices=("all", "blocking", "aio"), default="all")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=10_000)
    arguments = parser.parse_args()
    if arguments.serve:
        name, path = arguments.serve
        SERVERS[name](path)
        return
    harness.pin(None if arguments.free else max(os.sched_getaffinity(0)))
    if arguments.memory:
        measure_memory(arguments.calls, arguments.connections)
        return
    print(f"Python {sys.version.split()[0]}, {'free' if arguments.free else 'pinned to one CPU'}")
    with tempfile.TemporaryDirectory():
        print(harness.table(measure(arguments.only)))


if __name__ == "__main__":
    main()
