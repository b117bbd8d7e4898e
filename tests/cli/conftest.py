"""Somebody to call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from hvrpc.cli import over_grpc
from hvrpc.cli.targets import Target

from ..grpc.contract.engines import BLOCKING, Engine
from ..sockets.places import short_folder
from .servers import Tools, grpc_server, msgpack_server


@pytest.fixture
def tools() -> Iterator[tuple[str, Tools]]:
    """The address of a msgpack-RPC server, and its service."""
    with msgpack_server() as found:
        yield found


def engines() -> list[Any]:
    """Every engine that gRPC can be carried by; grpcio itself is what proves the tests right."""
    return [
        pytest.param(
            engine,
            id=name,
            marks=[
                *([pytest.mark.skip(reason=reason)] if (reason := engine.missing()) else []),
                *([pytest.mark.may_leave(engine.keeps)] if engine.keeps else []),
            ],
        )
        for name, engine in BLOCKING.items()
    ]


@pytest.fixture(params=engines())
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine that the commands call with, and that serves."""
    chosen: Engine = request.param
    if chosen.module == "grpc":

        def open_channel(target: Target) -> grpc.Channel:
            return grpc.insecure_channel(str(target.address).replace("unix://", "unix:"))

        monkeypatch.setattr(over_grpc, "open_channel", open_channel)
    return chosen


@pytest.fixture
def shop(engine: Engine) -> Iterator[str]:
    """The address of a gRPC server that tells what it serves."""
    with short_folder() as folder, grpc_server(engine.load(), engine.at(f"{folder}/shop")):
        yield f"unix://{folder}/shop"


@pytest.fixture
def silent_shop(engine: Engine) -> Iterator[str]:
    """One without reflection and health."""
    with (
        short_folder() as folder,
        grpc_server(engine.load(), engine.at(f"{folder}/shop"), tells=False),
    ):
        yield f"unix://{folder}/shop"
