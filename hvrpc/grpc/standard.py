"""The services that gRPC itself defines, added to a server by one argument: health and reflection.

The services are grpcio's own (`grpcio-health-checking`, `grpcio-reflection`); here is only who tells
them what there is to tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

ALL: Final = ""
"""The name that health gives to the server as a whole."""


class Serves(Protocol):
    """What is needed of a server, whichever it is."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any], /) -> None:
        """Add handlers."""
        ...


def add_health(server: Serves) -> health.HealthServicer:
    """Have a server tell how it is."""
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)  # type: ignore[arg-type]
    return servicer


def announce(servicer: health.HealthServicer, services: Iterable[str]) -> None:
    """It serves."""
    for service in (ALL, *services):
        servicer.set(service, health_pb2.HealthCheckResponse.SERVING)


def add_async_health(server: Serves) -> health.aio.HealthServicer:
    """The same for a server on a loop."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)  # type: ignore[arg-type]
    return servicer


async def announce_async(servicer: health.aio.HealthServicer, services: Iterable[str]) -> None:
    """It serves."""
    for service in (ALL, *services):
        await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)


def add_reflection(server: Serves, wanted: bool | Iterable[str], services: Iterable[str]) -> None:
    """Have a server describe services: those that are named, or all that it has."""
    names = services if wanted is True else wanted
    assert not isinstance(names, bool)
    described = sorted({*names, reflection.SERVICE_NAME})
    reflection.enable_server_reflection(described, server)  # type: ignore[arg-type]
