"""What generated code costs: typed calls against bare stubs, generating, and importing.

    python benchmarks/codegen.py               # a minute

A typed client and a bare stub call one server over one channel in turn, block by block; the median of
the ratios of neighbouring blocks is told. Once more with a channel that does nothing, which shows the
time that a typed call adds, alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc

import hvrpc.grpc
import hvrpc.msgpack
from benchmarks import harness
from benchmarks.gen import benchmark_pb2_grpc
from benchmarks.gen.benchmark_hvrpc import BenchmarkClient, BenchmarkServicer
from benchmarks.gen.benchmark_pb2 import Request, Response
from hvrpc import services
from hvrpc_codegen import runner

CALLS = 400
SERVICES = 300
PAYLOAD = b"p" * 100


class Benchmark(BenchmarkServicer):
    def unary(self, request: Request, context: services.Context) -> Response:
        return Response(payload=request.payload)

    def download(self, request: Request, context: services.Context) -> Any:
        for _ in range(request.count):
            yield Response(payload=request.payload)

    def upload(self, requests: Any, context: services.Context) -> Response:
        return Response(received=sum(len(request.payload) for request in requests))

    def ping_pong(self, requests: Any, context: services.Context) -> Any:
        for request in requests:
            yield Response(payload=request.payload)


def typed_against_bare(channel: Any, blocks: int) -> tuple[float, float]:
    """How long a typed call takes, as a ratio of a bare one: with a message, with keywords."""
    typed, bare = BenchmarkClient(channel), benchmark_pb2_grpc.BenchmarkStub(channel)  # type: ignore[no-untyped-call]
    request = Request(payload=PAYLOAD, size=1)

    def bare_call() -> object:
        return bare.Unary(request)

    def typed_call() -> object:
        return typed.unary(request)

    def bare_with_keywords() -> object:
        return bare.Unary(Request(payload=PAYLOAD, size=1))

    def with_keywords() -> object:
        return typed.unary(payload=PAYLOAD, size=1)

    harness.times_of(bare_call, harness.WARM_UP)
    harness.times_of(typed_call, harness.WARM_UP)
    return ratio(typed_call, bare_call, blocks), ratio(with_keywords, bare_with_keywords, blocks)


def ratio(contestant: Callable[[], object], floor: Callable[[], object], blocks: int) -> float:
    def median(call: Callable[[], object]) -> float:
        return statistics.median(harness.times_of(call, CALLS))

    floors, contestants = harness.interleave(
        lambda: median(floor), lambda: median(contestant), blocks
    )
    return harness.median_ratio(contestants, floors)


class NoChannel:
    """A channel whose calls do nothing."""

    def unary_unary(self, path: str, **serializers: Any) -> Callable[..., object]:
        def call(
            request: object,
            timeout: object = None,
            metadata: object = None,
            credentials: object = None,
            wait_for_ready: object = None,
            compression: object = None,
        ) -> None:
            return None

        call.with_call = call.future = call  # type: ignore[attr-defined]
        return call

    unary_stream = stream_unary = stream_stream = unary_unary


def microseconds_added(blocks: int) -> float:
    """What a typed call adds to a call that does nothing."""
    channel: Any = NoChannel()
    typed, bare = BenchmarkClient(channel), benchmark_pb2_grpc.BenchmarkStub(channel)  # type: ignore[no-untyped-call]
    request = Request()

    def seconds(call: Callable[..., object]) -> float:
        started = time.perf_counter()
        for _ in range(20_000):
            call(request)
        return (time.perf_counter() - started) / 20_000

    floors, contestants = harness.interleave(
        lambda: seconds(bare.Unary), lambda: seconds(typed.unary), blocks
    )
    return statistics.median(b - a for a, b in zip(floors, contestants, strict=True)) * 1e6


def calls(blocks: int) -> None:
    with tempfile.TemporaryDirectory(prefix="hvrpc-bench-") as folder:
        for name, module in (("native", hvrpc.grpc), ("grpcio", grpc)):
            path = f"{folder}/{name}"
            target = f"unix://{path}" if name == "native" else f"unix:{path}"
            with futures.ThreadPoolExecutor(4) as pool:
                server: Any = module.server(pool)
                Benchmark().add_to(server)
                server.add_insecure_port(target)
                server.start()
                channel: Any = module.insecure_channel(target)
                message, keywords = typed_against_bare(channel, blocks)
                print(f"{name}: typed call / bare stub   {message:.3f} with a message,", end="")
                print(f" {keywords:.3f} with keywords (goal: 1.05)")
                channel.close()
                server.stop(0).wait()
        compare_protocols(folder, blocks)
    print(f"a typed call adds {microseconds_added(blocks):.2f} microseconds")


def compare_protocols(folder: str, blocks: int) -> None:
    """The same service over msgpack-RPC."""
    with hvrpc.msgpack.Server() as server, futures.ThreadPoolExecutor(4) as pool:
        server.add(Benchmark())
        address = server.listen(f"unix://{folder}/msgpack")
        over_grpc = hvrpc.grpc.server(pool)
        over_grpc.add(Benchmark())
        over_grpc.add_insecure_port(f"unix://{folder}/grpc")
        over_grpc.start()
        with (
            BenchmarkClient.connect(address, protocol="msgpack") as by_msgpack,
            BenchmarkClient.connect(f"unix://{folder}/grpc") as by_grpc,
        ):
            request = Request(payload=PAYLOAD)
            found = ratio(lambda: by_msgpack.unary(request), lambda: by_grpc.unary(request), blocks)
            print(f"the same call over msgpack-RPC / over gRPC   {found:.2f}")
        over_grpc.stop(0).wait()


PROTO = """syntax = "proto3";
package many.v{number};
// Number {number}.
service Service{number} {{
  // One.
  rpc One(Request) returns (Response);
  rpc Two(Request) returns (stream Response);
  rpc Three(stream Request) returns (Response);
  rpc Four(stream Request) returns (stream Response);
}}
message Request {{ string text = 1; repeated Request inner = 2; map<string, int64> tally = 3; }}
message Response {{ string text = 1; }}
"""


def generating() -> None:
    """How long many services take, each in a file of its own, in the process of a user."""
    with tempfile.TemporaryDirectory(prefix="hvrpc-bench-") as folder:
        protos = Path(folder, "protos")
        protos.mkdir()
        for number in range(SERVICES):
            (protos / f"service{number}.proto").write_text(PROTO.format(number=number))
        command = [sys.executable, "-m", "hvrpc_codegen", "--out", f"{folder}/gen"]
        command += ["-I", str(protos)]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - started
        print(
            f"{SERVICES} services are generated in {took:.2f} s (goal: 5), with protoc's own modules"
        )
        # Again, without starting Python and without protoc's part.
        started = time.perf_counter()
        runner.generate(runner.Job((protos,), Path(folder, "gen"), (protos,)))
        print(f"    in a process that runs already: {time.perf_counter() - started:.2f} s")


def importing(blocks: int) -> None:
    """What importing the generated module costs in a new process, in processor time."""
    root = Path(__file__).resolve().parents[1]

    def seconds(module: str, *before: str) -> float:
        code = (
            f"import time, importlib; [importlib.import_module(name) for name in {before}];"
            f"t = time.process_time(); importlib.import_module('{module}');"
            "print(time.process_time() - t)"
        )
        command = [sys.executable, "-c", code]
        return float(subprocess.check_output(command, cwd=root, text=True))

    gen = "benchmarks.gen.benchmark"
    stubs, typed = harness.interleave(
        lambda: seconds(f"{gen}_pb2_grpc"), lambda: seconds(f"{gen}_hvrpc"), blocks
    )
    ratio = harness.median_ratio(typed, stubs)
    print(
        f"importing *_hvrpc / *_pb2_grpc   {ratio:.2f}"
        f" ({statistics.median(typed) * 1000:.0f} ms, {statistics.median(stubs) * 1000:.0f} ms)"
    )
    before = (f"{gen}_pb2", "hvrpc.services")
    stubs, typed = harness.interleave(
        lambda: seconds(f"{gen}_pb2_grpc", *before),
        lambda: seconds(f"{gen}_hvrpc", *before),
        blocks,
    )
    print(
        f"    where grpc and hvrpc are there already: {statistics.median(typed) * 1000:.1f} ms,"
        f" {statistics.median(stubs) * 1000:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", type=int, default=harness.BLOCKS)
    parser.add_argument("--pin", type=int, default=None, metavar="CPU")
    given = parser.parse_args()
    harness.pin(given.pin)
    calls(given.blocks)
    generating()
    importing(given.blocks)


if __name__ == "__main__":
    main()
