"""The published cases of interoperability, between our engine, grpcio and grpc-js.

Blocking and asyncio, in both directions, over a UNIX socket. grpcio with itself comes along as the
proof that the cases are right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ...grpc.contract import engines
from ...grpc.contract.engines import GRPCIO, NATIVE, Engine
from ...msgpack.drivers import ASYNCIO, Loop
from ...sockets.background import WAIT
from ..peers import GRPC_PEERS
from ..processes import run_client, server_of, socket_folder
from . import aio_cases, cases
from .generated import generated
from .service import aio_servicer, servicer

pytestmark = [
    pytest.mark.may_leave("grpcio's C core keeps threads and descriptors for the whole process"),
    pytest.mark.timeout(120),
]

GRPC_JS = GRPC_PEERS[0]


# --- Servers --------------------------------------------------------------------------------------


@contextmanager
def blocking_server(engine: Engine) -> Iterator[Path]:
    with socket_folder() as folder, futures.ThreadPoolExecutor(16) as pool:
        path = folder / "service"
        server = engine.load().server(pool, options=(("grpc.max_receive_message_length", -1),))
        generated().grpc.add_TestServiceServicer_to_server(servicer(), server)
        assert server.add_insecure_port(engine.at(path))
        server.start()
        try:
            yield path
        finally:
            server.stop(None).wait(WAIT)


@contextmanager
def asyncio_server(engine: Engine) -> Iterator[Path]:
    async def start(path: Path) -> Any:
        server = engine.load().server()
        generated().grpc.add_TestServiceServicer_to_server(aio_servicer(), server)
        assert server.add_insecure_port(engine.at(path))
        await server.start()
        return server

    with socket_folder() as folder, Loop(ASYNCIO) as loop:
        path = folder / "service"
        server = loop.run(start(path))
        try:
            yield path
        finally:
            loop.run(server.stop(None))


@contextmanager
def grpc_js_server() -> Iterator[Path]:
    with server_of(GRPC_JS) as path:
        yield path


SERVERS: dict[str, tuple[Callable[[], Any], Callable[[], str | None]]] = {
    GRPCIO: (lambda: blocking_server(engines.BLOCKING[GRPCIO]), lambda: None),
    NATIVE: (
        lambda: blocking_server(engines.BLOCKING[NATIVE]),
        engines.BLOCKING[NATIVE].missing,
    ),
    "grpcio aio": (lambda: asyncio_server(engines.ASYNCIO[GRPCIO]), lambda: None),
    "native aio": (
        lambda: asyncio_server(engines.ASYNCIO[NATIVE]),
        engines.ASYNCIO[NATIVE].missing,
    ),
    "grpc-js": (grpc_js_server, GRPC_JS.missing),
}
OURS = (NATIVE, "native aio")


@pytest.fixture(scope="module")
def serving(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A server that all cases share."""
    start, missing = SERVERS[request.param]
    if reason := missing():
        pytest.skip(reason)
    with start() as path:
        yield path


# --- Callers --------------------------------------------------------------------------------------


PAIRS = [
    pytest.param(serving, calling, id=f"{calling} calls {serving}")
    for serving in SERVERS
    for calling in (GRPCIO, NATIVE)
    # Others with others prove the cases, and grpcio with itself is enough of a proof.
    if calling == NATIVE or serving in (*OURS, GRPCIO)
]
between = pytest.mark.parametrize(
    ("serving", "calling"), PAIRS, indirect=["serving"], scope="module"
)


def name_of(case: Callable[..., Any]) -> str:
    return case.__name__


@pytest.mark.parametrize("case", cases.CASES, ids=name_of)
@between
def test_blocking_callers(
    serving: Path, calling: str, case: Callable[[cases.Channels], None]
) -> None:
    engine = engines.BLOCKING[calling]
    with ExitStack() as stack:

        def channels() -> Any:
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel = engine.load().insecure_channel(engine.at(serving), options=options)
            return stack.enter_context(channel)

        case(channels)


@pytest.mark.parametrize("case", aio_cases.CASES, ids=name_of)
@between
def test_asyncio_callers(
    serving: Path, calling: str, case: Callable[[Any], Awaitable[None]]
) -> None:
    engine = engines.ASYNCIO[calling]

    async def run() -> None:
        async with (
            asyncio.timeout(WAIT),
            engine.load().insecure_channel(engine.at(serving)) as channel,
        ):
            await case(channel)

    asyncio.run(run())


@pytest.mark.parametrize("name", [GRPCIO, *OURS])
def test_grpc_js_calls(name: str) -> None:
    """It goes through all its cases in one process, and tells how each has ended."""
    start, missing = SERVERS[name]
    if reason := missing() or GRPC_JS.missing():
        pytest.skip(reason)
    with start() as path:
        told = run_client(GRPC_JS, path)
    known = {name_of(case) for case in cases.CASES}
    assert set(told) == known
    failed = {case: result for case, result in told.items() if result != "passed"}
    assert not failed, "\n".join(f"{case}: {result}" for case, result in failed.items())
