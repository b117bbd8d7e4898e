"""What runs in the demo's virtual machine: one agent, over gRPC and over msgpack-RPC."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from typing import Any

import hvrpc.grpc
import hvrpc.msgpack
from hvrpc.testing import ready

from . import agent_pb2, agent_pb2_grpc

GRPC_PORT = 50051
MSGPACK_PORT = 5001
PACE = 0.015
"""Seconds for a percent of the pretended installation."""


class Agent(agent_pb2_grpc.AgentServicer):
    """The typed service: its methods and messages come from `agent.proto`."""

    def Describe(self, request: Any, context: Any) -> agent_pb2.Facts:  # noqa: N802 the .proto's name
        return agent_pb2.Facts(
            vm=os.environ.get("HVRPC_FABRIC_VM", ""),
            system=platform.system(),
            python=platform.python_version(),
            process=os.getpid(),
        )

    def Install(self, request: Any, context: Any) -> Iterator[agent_pb2.Progress]:  # noqa: N802
        pause = threading.Event()
        for percent in range(1, 101):
            pause.wait(PACE)
            at = (percent - 1) * len(request.packages) // 100
            yield agent_pb2.Progress(package=request.packages[at], percent=percent)


class Tools:
    """The quick service: nothing is generated, and the type hints are checked."""

    def add(self, a: int, b: int) -> int:
        return a + b


def main() -> None:
    """Serve both, until the VM is switched off."""
    grpc_server = hvrpc.grpc.server()
    agent_pb2_grpc.add_AgentServicer_to_server(Agent(), grpc_server)
    grpc_server.add_insecure_port(f"hvsock://any/{GRPC_PORT}")
    msgpack_server = hvrpc.msgpack.Server(Tools())
    msgpack_server.listen(f"hvsock://any/{MSGPACK_PORT}")
    with msgpack_server:
        grpc_server.start()
        ready()
        grpc_server.wait_for_termination()
