"""What runs in the demo's virtual machine: one agent, over gRPC and over msgpack-RPC."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator

import hvrpc.grpc
import hvrpc.msgpack
from hvrpc.services import Context
from hvrpc.testing import ready

from .gen.demo_hvrpc import AgentServicer
from .gen.demo_pb2 import DescribeRequest, Facts, InstallRequest, Progress

GRPC_PORT = 50051
MSGPACK_PORT = 5001
PACE = 0.015
"""Seconds for a percent of the pretended installation."""


class Agent(AgentServicer):
    """The typed service: its methods and messages come from `demo.proto`."""

    def describe(self, request: DescribeRequest, context: Context, /) -> Facts:
        return Facts(
            vm=os.environ.get("HVRPC_FABRIC_VM", ""),
            system=platform.system(),
            python=platform.python_version(),
            process=os.getpid(),
        )

    def install(self, request: InstallRequest, context: Context, /) -> Iterator[Progress]:
        pause = threading.Event()
        for percent in range(1, 101):
            pause.wait(PACE)
            at = (percent - 1) * len(request.packages) // 100
            yield Progress(package=request.packages[at], percent=percent)


class Tools:
    """The quick service: nothing is generated, and the type hints are checked."""

    def add(self, a: int, b: int) -> int:
        return a + b


def main() -> None:
    """Serve both, until the VM is switched off."""
    grpc_server = hvrpc.grpc.server()
    grpc_server.add(Agent())
    grpc_server.add_insecure_port(f"hvsock://any/{GRPC_PORT}")
    msgpack_server = hvrpc.msgpack.Server(Tools())
    msgpack_server.listen(f"hvsock://any/{MSGPACK_PORT}")
    with msgpack_server:
        grpc_server.start()
        ready()
        grpc_server.wait_for_termination()
