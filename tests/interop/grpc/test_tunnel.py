"""grpc-js reaches a service in a VM by `hvrpc tunnel`, and its own service is reached in one.

The published cases of interoperability, with the command in the middle, and the emulated fabric in the
place of VM sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import hvrpc.grpc
from hvrpc.grpc import tunnel
from hvrpc.testing import Fabric

from ...cli.processes import ON_WINDOWS, POSIX_ONLY, serve
from ...grpc.contract.engines import GRPCIO, NATIVE
from ...sockets.background import WAIT
from ..peers import GRPC_PEERS
from ..processes import run_client, server_of, socket_folder
from . import cases
from .generated import generated
from .service import servicer

GRPC_JS = GRPC_PEERS[0]

pytestmark = [
    pytest.mark.may_leave("grpcio's C core keeps threads and descriptors for the whole process"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(ON_WINDOWS, reason=POSIX_ONLY),
    pytest.mark.skipif(GRPC_JS.missing() is not None, reason=GRPC_JS.missing() or ""),
]

HERE = "hvsock://loopback/0"
NO_LIMIT = [("grpc.max_receive_message_length", -1)]


@contextmanager
def tunnel_between(listen: str, target: object, folder: Path) -> Iterator[str]:
    """`hvrpc tunnel`, as long as the block runs. Gives where it listens."""
    with serve(listen, target, "--quiet", folder=folder, command="tunnel") as served:
        line = served.wait_for("joining ")
        yield line.removeprefix("joining ").partition(" -> ")[0]


@contextmanager
def service_of(name: str) -> Iterator[str]:
    """A service of ours in a VM. Gives its address."""
    with futures.ThreadPoolExecutor(16) as pool:
        server: Any
        if name == NATIVE:
            server = hvrpc.grpc.server(pool, options=NO_LIMIT)
            server.add_insecure_port(HERE)
            where = str(server.addresses[-1])
        else:
            server = grpc.server(pool, options=tunnel.server_options(NO_LIMIT))
            where = str(tunnel.add_port(server, HERE).address)
        generated().grpc.add_TestServiceServicer_to_server(servicer(), server)
        server.start()
        try:
            yield where
        finally:
            server.stop(None).wait(WAIT)


@pytest.mark.parametrize("name", [NATIVE, GRPCIO])
def test_grpc_js_reaches_a_service_in_a_vm(name: str) -> None:
    with (
        Fabric(),
        socket_folder() as folder,
        service_of(name) as address,
        tunnel_between(f"unix://{folder}/front", address, folder),
    ):
        told = run_client(GRPC_JS, folder / "front")
    failed = {case: result for case, result in told.items() if result != "passed"}
    assert set(told) == {case.__name__ for case in cases.CASES}
    assert not failed, "\n".join(f"{case}: {result}" for case, result in failed.items())


@pytest.fixture(scope="module")
def grpc_js_in_a_vm() -> Iterator[str]:
    """The address of a service of grpc-js, which knows nothing of VM sockets."""
    with (
        Fabric(),
        socket_folder() as folder,
        server_of(GRPC_JS) as path,
        tunnel_between(HERE, f"unix://{path}", folder) as address,
    ):
        yield address


CHANNELS: dict[str, Callable[..., Any]] = {
    NATIVE: hvrpc.grpc.insecure_channel,
    GRPCIO: tunnel.insecure_channel,
}


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("calling", CHANNELS)
def test_a_service_of_grpc_js_in_a_vm_is_reached(
    grpc_js_in_a_vm: str, calling: str, case: Callable[[Any], None]
) -> None:
    with ExitStack() as stack:

        def channels() -> Any:
            options = [("grpc.use_local_subchannel_pool", 1)]
            return stack.enter_context(CHANNELS[calling](grpc_js_in_a_vm, options))

        case(channels)
