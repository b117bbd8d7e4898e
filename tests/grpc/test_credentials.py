"""Credentials of channels and servers: real ones of grpcio's, from which ours read all they need."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.experimental
import pytest

from hvrpc import Address, CredentialsError, Peer, Tls
from hvrpc.grpc.credentials import (
    LOCAL,
    ChannelSecurity,
    Level,
    channel_credentials,
    of_channel,
    of_server,
    server_credentials,
)

from ..certificates import Certificates
from ..sockets.places import short_folder

HERE = Address.parse("local://loopback/5000")
TOKEN = grpc.access_token_call_credentials("secret")


def tokens_of(found: ChannelSecurity) -> list[Any]:
    return [value for _, value in found.calls.begin("https://x/y", "z").fields(None)]


# --- Ours in grpcio ------------------------------------------------------------------------------


@contextmanager
def grpcio_server(folder: Path) -> Iterator[str]:
    """A server of grpcio's, with our credentials, that tells what it knows of its caller."""

    class Tell(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            metadata = dict(handler_call_details.invocation_metadata)

            def tell(_: Any, context: Any) -> bytes:
                kind = context.auth_context()["transport_security_type"][0].decode()
                return f"{kind} {metadata.get('authorization')}".encode()

            return grpc.unary_unary_rpc_method_handler(tell)

    server = grpc.server(futures.ThreadPoolExecutor(2), [Tell()])
    where = "127.0.0.1:0" if sys.platform == "win32" else f"unix:{folder}/grpcio.sock"
    port = server.add_secure_port(where, server_credentials(allow="any"))
    server.start()
    try:
        yield f"127.0.0.1:{port}" if sys.platform == "win32" else where
    finally:
        server.stop(0).wait()


@pytest.mark.may_leave("grpcio keeps threads and descriptors for the whole process")
@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (channel_credentials, b"local None"),
        (lambda: channel_credentials(call_credentials=TOKEN), b"local Bearer secret"),
        (
            lambda: channel_credentials(call_credentials=[TOKEN, TOKEN]),
            b"local Bearer secret",
        ),
        (
            lambda: grpc.composite_channel_credentials(channel_credentials(), TOKEN),
            b"local Bearer secret",
        ),
    ],
)
def test_grpcio_takes_ours(make: Any, answer: bytes) -> None:
    """As credentials for what stays on this machine: the tunnel needs that."""
    with (
        short_folder() as folder,
        grpcio_server(folder) as target,
        grpc.secure_channel(target, make()) as channel,
    ):
        tell: Any = channel.unary_unary("/pkg.Service/Tell")
        assert tell(b"", timeout=20, wait_for_ready=True) == answer


# --- What is read from them ------------------------------------------------------------------------


def test_ours_are_read_back() -> None:
    found = of_channel(channel_credentials(expect_peer="web"), HERE)
    assert str(found.security.peers) == "web"
    assert found.level is Level.LOCAL
    assert not found.calls


def test_ours_are_found_in_a_composite_of_a_composite() -> None:
    ours = channel_credentials(expect_peer="web", call_credentials=TOKEN)
    other = grpc.access_token_call_credentials("second")
    both = grpc.composite_channel_credentials(
        grpc.composite_channel_credentials(ours, other), TOKEN
    )
    found = of_channel(both, HERE)
    assert str(found.security.peers) == "web"
    assert tokens_of(found) == [b"Bearer secret", b"Bearer second", b"Bearer secret"]


def test_local_ones_of_grpcio_are_ours_without_rules() -> None:
    for kind in grpc.LocalConnectionType:
        found = of_channel(grpc.local_channel_credentials(kind), HERE)
        assert found.security.peers is None
        assert found.level is Level.LOCAL
        composite = grpc.composite_channel_credentials(grpc.local_channel_credentials(kind), TOKEN)
        assert tokens_of(of_channel(composite, HERE)) == [b"Bearer secret"]


def test_those_for_tls_are_read_back(certificates: Certificates) -> None:
    read = {path.name: path.read_bytes() for path in certificates.folder.iterdir()}
    theirs = grpc.ssl_channel_credentials(read["ca.pem"], read["web-key.pem"], read["web.pem"])
    found = of_channel(theirs, HERE, "web")
    assert found.level is Level.SSL
    end = found.security.tls
    assert end is not None
    assert [each["subject"] for each in end.context.get_ca_certs()]
    assert end.context.verify_mode is ssl.CERT_REQUIRED


def test_a_key_of_another_certificate_is_refused(certificates: Certificates) -> None:
    read = {path.name: path.read_bytes() for path in certificates.folder.iterdir()}
    theirs = grpc.ssl_channel_credentials(read["ca.pem"], read["web-key.pem"], read["host.pem"])
    with pytest.raises(CredentialsError, match="KEY_VALUES_MISMATCH"):
        of_channel(theirs, HERE)


def test_insecure_ones_stay_insecure() -> None:
    insecure: Any = cast(Any, grpc.experimental).insecure_channel_credentials()
    assert of_channel(insecure, HERE).level is Level.INSECURE
    composite = grpc.composite_channel_credentials(insecure, TOKEN)
    assert of_channel(composite, HERE).level is Level.INSECURE


def test_others_of_grpcio_are_refused_with_what_to_use_instead() -> None:
    with pytest.raises(CredentialsError, match=r"use hvrpc\.grpc\.channel_credentials"):
        of_channel(grpc.ChannelCredentials(object()), HERE)
    with pytest.raises(CredentialsError, match=r"use hvrpc\.grpc\.server_credentials"):
        of_server(grpc.local_server_credentials(LOCAL))
    with pytest.raises(TypeError, match=r"not None"):
        of_channel(None, HERE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not 'x'"):
        of_server("x")  # type: ignore[arg-type]


def test_ours_of_a_server_are_read_back(certificates: Certificates) -> None:
    tls = certificates.tls("host")
    found = of_server(server_credentials(allow=["children", lambda peer: peer.uid == 1], tls=tls))
    assert found.peers is not None
    assert found.peers.admits(Peer("unix", uid=1))
    assert not found.peers.admits(Peer("unix", uid=2))
    assert found.tls is not None
    assert found.tls.context.verify_mode is ssl.CERT_REQUIRED


def test_files_are_looked_at_when_credentials_are_made(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"there is no such file; correct the path"):
        channel_credentials(tls=Tls(ca=tmp_path / "none.pem"))
    with pytest.raises(CredentialsError, match=r"certificate=.*missing"):
        server_credentials(tls=Tls())


# --- The level of security -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("hvsock://web/5000", Level.LOCAL),
        ("vsock://3/5000", Level.LOCAL),
        ("hybrid:///run/v.sock?port=1", Level.LOCAL),
        ("local://web/5000", Level.LOCAL),
        ("unix:///run/x.sock", Level.LOCAL),
        ("tcp://127.0.0.1:1", Level.LOCAL),
        ("tcp://[::1]:1", Level.LOCAL),
        ("tcp://example.org:1", Level.INSECURE),
        ("tcp://10.0.0.1:1", Level.INSECURE),
    ],
)
def test_level_is_stated_honestly(url: str, level: Level, certificates: Certificates) -> None:
    """Nothing that leaves the machine is called local, whatever credentials say."""
    address = Address.parse(url)
    assert of_channel(channel_credentials(), address).level is level
    encrypted = channel_credentials(tls=certificates.tls(None))
    assert of_channel(encrypted, address).level is Level.SSL
