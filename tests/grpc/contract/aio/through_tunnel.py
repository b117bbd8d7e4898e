"""grpcio's C core for asyncio through the tunnel, as a module with grpcio's functions."""

from __future__ import annotations

from typing import Any

import grpc.aio

from hvrpc.grpc.tunnel.aio import add_port, insecure_channel

__all__ = ["insecure_channel", "server"]


def server(*arguments: Any, **settings: Any) -> Any:
    """A `grpc.aio.server` whose ports are the tunnel's."""
    made: Any = grpc.aio.server(*arguments, **settings)

    def add_insecure_port(address: str) -> int:
        return 1 if add_port(made, address) else 0

    made.add_insecure_port = add_insecure_port
    return made
