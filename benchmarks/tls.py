"""What TLS costs: ratios of the same service without it, and of grpcio with its own.

    python benchmarks/tls.py              the table, pinned to one CPU (about a minute)
    python benchmarks/tls.py --free       the same, not pinned

Needs `pip install 'hvrpc[all]'`. See `harness.py` for how ratios are made.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc

import hvrpc.grpc
from benchmarks import harness
from benchmarks.harness import Figure
from hvrpc import Tls, msgpack
from hvrpc.authority import Authority

FOLDER = "HVRPC_BENCH_CERTIFICATES"
SMALL = b"x" * 100
LARGE = b"x" * (1024 * 1024)
CALLS = 1500
LARGE_CALLS = 15
OPENINGS = 40


def tls() -> Tls:
    folder = Path(os.environ[FOLDER])
    return Tls(
        ca=folder / "ca.pem",
        certificate=folder / "host.pem",
        key=folder / "host-key.pem",
        names="host",
    )


class Echo(grpc.GenericRpcHandler):
    """The service that is measured, for both protocols."""

    def echo(self, value: Any) -> Any:
        return value

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)


class Tools:
    def echo(self, value: Any) -> Any:
        return value


# --- Servers, each in a process of its own ------------------------------------------------------


def serve_msgpack(path: str, given: Tls | None) -> None:
    msgpack.serve(f"unix://{path}", Tools(), ready=_say_ready, tls=given)


def serve_aio(path: str, given: Tls | None) -> None:
    asyncio.run(msgpack.aio.serve(f"unix://{path}", Tools(), ready=_say_ready, tls=given))


def serve_grpc(path: str, given: Tls | None) -> None:
    server = hvrpc.grpc.server(futures.ThreadPoolExecutor(4), [Echo()])
    server.add_secure_port(f"unix://{path}", hvrpc.grpc.server_credentials(tls=given))
    server.start()
    _say_ready(path)
    server.wait_for_termination()


def serve_grpcio(path: str, given: Tls | None) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4), [Echo()])
    folder = Path(os.environ[FOLDER])
    key, chain, ca = (
        (folder / name).read_bytes() for name in ("host-key.pem", "host.pem", "ca.pem")
    )
    server.add_secure_port(
        f"unix:{path}", grpc.ssl_server_credentials([(key, chain)], ca, require_client_auth=True)
    )
    server.start()
    _say_ready(path)
    server.wait_for_termination()


def _say_ready(_: object) -> None:
    print("ready", flush=True)


SERVERS: dict[str, tuple[Callable[[str, Tls | None], None], bool]] = {
    "msgpack": (serve_msgpack, False),
    "msgpack+tls": (serve_msgpack, True),
    "aio": (serve_aio, False),
    "aio+tls": (serve_aio, True),
    "grpc": (serve_grpc, False),
    "grpc+tls": (serve_grpc, True),
    "grpcio+tls": (serve_grpcio, True),
}


# --- What is measured ---------------------------------------------------------------------------


def ratio(
    name: str, contestant: Callable[[], float], floor: Callable[[], float], of: str
) -> Figure:
    floors, contestants = harness.interleave(floor, contestant)
    shown = f"{statistics.median(contestants):,.0f}/s against {statistics.median(floors):,.0f}/s"
    return Figure(name, harness.median_ratio(contestants, floors), of, None, shown)


def rate(call: Callable[[], object], count: int) -> Callable[[], float]:
    def run() -> None:
        for _ in range(count):
            call()

    return lambda: harness.rate_of(run, count)


def measure(at: dict[str, str]) -> list[Figure]:
    figures: list[Figure] = []
    given = tls()
    with ExitStack() as stack:
        plain = stack.enter_context(msgpack.connect(f"unix://{at['msgpack']}"))
        secure = stack.enter_context(msgpack.connect(f"unix://{at['msgpack+tls']}", tls=given))
        for name, value, count in (
            ("msgpack-RPC, blocking, 100 B", SMALL, CALLS),
            ("msgpack-RPC, blocking, 1 MiB echo", LARGE, LARGE_CALLS),
        ):
            figures.append(
                ratio(
                    name,
                    rate(lambda value=value: secure.call("echo", value), count),  # type: ignore[misc]
                    rate(lambda value=value: plain.call("echo", value), count),  # type: ignore[misc]
                    "without TLS",
                )
            )
        figures += on_a_loop(at, given)
        credentials = hvrpc.grpc.channel_credentials(tls=given)
        channels: dict[str, Any] = {
            "grpc": hvrpc.grpc.insecure_channel(f"unix://{at['grpc']}"),
            "grpc+tls": hvrpc.grpc.secure_channel(f"unix://{at['grpc+tls']}", credentials),
            "grpcio+tls": grpcio_channel(at["grpcio+tls"]),
        }
        calls: dict[str, Callable[[bytes], object]] = {}
        for name, channel in channels.items():
            stack.callback(channel.close)
            calls[name] = channel.unary_unary("/bench.Echo/Echo")
            calls[name](SMALL)
        for floor, of in (("grpc", "without TLS"), ("grpcio+tls", "grpcio with TLS")):
            figures.append(
                ratio(
                    "gRPC, blocking, 100 B",
                    rate(lambda: calls["grpc+tls"](SMALL), CALLS),
                    rate(lambda floor=floor: calls[floor](SMALL), CALLS),  # type: ignore[misc]
                    of,
                )
            )
    figures.append(
        ratio(
            "connection set-up to first answer",
            rate(lambda: open_once(at["msgpack+tls"], given), OPENINGS),
            rate(lambda: open_once(at["msgpack"], None), OPENINGS),
            "without TLS",
        )
    )
    return figures


def on_a_loop(at: dict[str, str], given: Tls) -> list[Figure]:
    with asyncio.Runner() as runner:

        async def connect(path: str, tls: Tls | None) -> Any:
            return await msgpack.aio.connect(f"unix://{path}", tls=tls)

        plain, secure = (
            runner.run(connect(at["aio"], None)),
            runner.run(connect(at["aio+tls"], given)),
        )

        def many(client: Any) -> Callable[[], float]:
            async def run() -> None:
                for _ in range(CALLS // 30):
                    await asyncio.gather(*(client.call("echo", SMALL) for _ in range(30)))

            return lambda: harness.rate_of(lambda: runner.run(run()), CALLS)

        figure = ratio(
            "msgpack-RPC, asyncio, 30 in flight", many(secure), many(plain), "without TLS"
        )
        for client in (plain, secure):
            runner.run(client.close())
    return [figure]


def grpcio_channel(path: str) -> grpc.Channel:
    folder = Path(os.environ[FOLDER])
    ca, key, chain = (
        (folder / name).read_bytes() for name in ("ca.pem", "host-key.pem", "host.pem")
    )
    return grpc.secure_channel(
        f"unix:{path}",
        grpc.ssl_channel_credentials(ca, key, chain),
        [("grpc.ssl_target_name_override", "host")],
    )


def open_once(path: str, given: Tls | None) -> None:
    msgpack.connect(f"unix://{path}", tls=given).close(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--free", action="store_true", help="do not pin to one CPU")
    given = parser.parse_args()
    if given.serve:
        name, path = given.serve
        serve, secure = SERVERS[name]
        serve(path, tls() if secure else None)
        return
    if not given.free:
        harness.pin(0)
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.new()
        authority.write(Path(folder))
        authority.issue("host", ["host"]).write(Path(folder))
        os.environ[FOLDER] = folder
        before = time.perf_counter()
        with harness.servers(__file__, list(SERVERS)) as at:
            print(harness.table(measure(at)))
        print(f"in {time.perf_counter() - before:.0f} s")


if __name__ == "__main__":
    main()
