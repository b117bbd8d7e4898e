"""nginx before several guests, as `docs/how-to/scale-out.md` says it: that page's very configuration."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

import hvrpc.grpc
from hvrpc.testing import Fabric, Guest

from ..certificates import Certificates
from ..cli.processes import serve
from ..sockets.background import WAIT
from ..sockets.places import MISSING, short_folder
from . import nginx

PAGE = "docs/how-to/scale-out.md"
SERVICE = "/scale.Out"
KEPT = "grpcio's C core keeps threads and descriptors for the whole process"

pytestmark = [
    pytest.mark.skipif("unix" in MISSING, reason=MISSING.get("unix", "")),
    pytest.mark.skipif(nginx.find() is None, reason=nginx.MISSING),
    pytest.mark.may_leave(KEPT),
]


class Service(grpc.GenericRpcHandler):
    """What both guests offer. Its answers say which of them it was."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def service(self, handler_call_details: Any) -> Any:
        kinds: dict[str, Any] = {
            f"{SERVICE}/Who": grpc.unary_unary_rpc_method_handler(self.who),
            f"{SERVICE}/Echo": grpc.stream_stream_rpc_method_handler(self.echo),
            f"{SERVICE}/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
        }
        return kinds.get(handler_call_details.method)

    def who(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("said", request[:10].decode()),))
        return self._name

    def echo(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from requests

    def fail(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        raise AssertionError


def serve_as(name: str) -> None:
    """A guest."""
    server = hvrpc.grpc.server(futures.ThreadPoolExecutor(4), [Service(name)])
    server.add_insecure_port("hvsock://any/50051")
    server.start()
    server.wait_for_termination()


class Front:
    """What callers reach, and the guests behind it."""

    def __init__(self, channel: grpc.Channel, guests: dict[str, Guest]) -> None:
        self.channel = channel
        self.guests = guests

    def who(self, request: bytes = b"x") -> str:
        method: Any = self.channel.unary_unary(f"{SERVICE}/Who")
        answer: bytes = method(request, timeout=WAIT)
        return answer.decode()

    def who_or_what(self) -> str:
        """Who has answered, or how it failed."""
        try:
            return self.who()
        except grpc.RpcError as error:
            return str(error.code().name)


@pytest.fixture(scope="module")
def front(certificates: Certificates) -> Iterator[Front]:
    with short_folder() as folder, Fabric() as fabric:
        guests = {
            name: fabric.guest(name, target=serve_as, args=(name,)) for name in ("one", "two")
        }
        port = nginx.free_port()
        tunnels = nginx.with_places(
            nginx.block_of(PAGE, "toml"), {"/run/hvrpc": folder, "uid:0": f"uid:{os.geteuid()}"}
        )
        (folder / "tunnels.toml").write_text(tunnels, encoding="utf-8")
        configuration = nginx.with_places(
            nginx.block_of(PAGE, "nginx"),
            {
                "/run/hvrpc": folder,
                "/etc/hvrpc": certificates.folder,
                "listen 8443": f"listen 127.0.0.1:{port}",
            },
        )
        credentials = grpc.ssl_channel_credentials((certificates.folder / "ca.pem").read_bytes())
        with serve("--config", folder / "tunnels.toml", folder=folder, command="tunnel") as tunnel:
            tunnel.wait_for("joining ")
            with (
                nginx.running(configuration, folder),
                grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel,
            ):
                yield Front(channel, guests)


def test_calls_of_one_connection_are_spread_over_the_guests(front: Front) -> None:
    answers = Counter(front.who() for _ in range(40))
    assert answers.keys() == {"one", "two"}


def test_all_that_belongs_to_a_call_passes(front: Front) -> None:
    method: Any = front.channel.unary_unary(f"{SERVICE}/Who")
    _, call = method.with_call(b"x" * 2_000_000, timeout=WAIT)
    assert call.code() is grpc.StatusCode.OK
    _, call = method.with_call(b"trailing", timeout=WAIT)
    assert ("said", "trailing") in call.trailing_metadata()
    echo: Any = front.channel.stream_stream(f"{SERVICE}/Echo")
    pieces = [bytes([n]) * 100_000 for n in range(20)]
    assert list(echo(iter(pieces), timeout=WAIT)) == pieces
    fail: Any = front.channel.unary_unary(f"{SERVICE}/Fail")
    with pytest.raises(grpc.RpcError) as caught:
        fail(b"", timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "not today"


def test_a_guest_that_dies_costs_a_few_calls_and_is_used_again_when_it_is_back(
    front: Front,
) -> None:
    assert front.who() in front.guests
    front.guests["one"].kill()
    until = time.monotonic() + WAIT
    answers = [front.who_or_what()]
    while answers[-10:] != ["two"] * 10:  # the other one has taken over
        assert time.monotonic() < until
        answers.append(front.who_or_what())
    assert set(answers) <= {"one", "two", "UNAVAILABLE"}
    front.guests["one"].restart()
    while "one" not in answers[-10:]:
        assert time.monotonic() < until
        answers.append(front.who_or_what())
