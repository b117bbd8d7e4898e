"""TLS under typed clients: said alike for both protocols."""

from __future__ import annotations

from concurrent import futures
from contextlib import ExitStack
from typing import Literal

import grpc
import pytest

import hvrpc.grpc
import hvrpc.msgpack

from ..certificates import Certificates
from .echo import WAIT, Echo, Told
from .gen.echo_hvrpc import EchoClient


@pytest.mark.parametrize("protocol", ["grpc", "msgpack"])
def test_tls(certificates: Certificates, protocol: Literal["grpc", "msgpack"]) -> None:
    with ExitStack() as stack:
        address = serve(stack, protocol, certificates)
        tls = certificates.tls("host")
        with EchoClient.connect(address, protocol=protocol, tls=tls) as client:
            assert client.say(text="x", timeout=WAIT).text == "x"
            assert [note.text for note in client.chat([], timeout=WAIT)] == []
        with (
            EchoClient.connect(address, protocol=protocol, retry=False) as plain,
            pytest.raises(grpc.RpcError),
        ):
            plain.say(text="x", timeout=WAIT)


def serve(stack: ExitStack, protocol: str, certificates: Certificates) -> str:
    tls = certificates.tls("host")
    if protocol == "msgpack":
        server = stack.enter_context(hvrpc.msgpack.Server())
        server.add(Echo(Told()))
        return str(server.listen("local://loopback/0", tls=tls))
    pool = stack.enter_context(futures.ThreadPoolExecutor(4))
    over_grpc = hvrpc.grpc.server(pool)
    over_grpc.add(Echo(Told()))
    credentials = hvrpc.grpc.server_credentials(tls=tls)
    port = over_grpc.add_secure_port("local://loopback/0", credentials)
    over_grpc.start()
    stack.callback(lambda: over_grpc.stop(0).wait())
    return f"local://loopback/{port}"
