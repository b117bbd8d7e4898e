"""Credentials on our own engine, blocking and asyncio: who is refused, and what both sides are told."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.experimental
import pytest

import hvrpc.grpc
import hvrpc.grpc.aio
from hvrpc import AccessDenied, CredentialsError, Tls
from hvrpc.grpc import channel_credentials, server_credentials

from ..certificates import Certificates
from ..session.sides import LoopThread
from ..sockets.background import WAIT

TOKEN = grpc.access_token_call_credentials("secret")
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
HERE = "local://loopback/0"


def told(context: Any) -> bytes:
    """What a handler knows of its caller."""
    known = {
        "metadata": {key: value for key, value in context.invocation_metadata() if key != "te"},
        "auth": {
            key: [value.decode() for value in values]
            for key, values in context.auth_context().items()
        },
        "identity_key": context.peer_identity_key(),
        "identities": [each.decode() for each in context.peer_identities() or ()],
    }
    return json.dumps(known).encode()


class Tell(grpc.GenericRpcHandler):
    """Tells it, by methods of all four kinds."""

    def service(self, handler_call_details: Any) -> Any:
        kind = handler_call_details.method.rpartition("/")[2]
        behaviour = self._stream if kind.endswith("stream") else self._unary
        return getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)

    def _unary(self, request: Any, context: Any) -> bytes:
        self._take(request)
        return told(context)

    def _stream(self, request: Any, context: Any) -> Any:
        self._take(request)
        yield told(context)

    def _take(self, request: Any) -> None:
        if not isinstance(request, bytes):
            assert list(request) == [b"request"]


class AsyncTell(Tell):
    async def _unary(self, request: Any, context: Any) -> bytes:  # type: ignore[override]
        await self._take(request)
        return told(context)

    async def _stream(self, request: Any, context: Any) -> Any:
        await self._take(request)
        yield told(context)

    async def _take(self, request: Any) -> None:  # type: ignore[override]
        if not isinstance(request, bytes):
            assert [each async for each in request] == [b"request"]


class Engine(ABC):
    """A server and channels, which end with the test."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    @abstractmethod
    def serve(self, credentials: Any = None, at: str = HERE) -> str:
        """Where it listens; insecurely, without credentials."""

    @abstractmethod
    def call(
        self,
        address: str,
        credentials: Any = None,
        *,
        kind: str = "unary_unary",
        with_call: Any = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> Any:
        """What a handler has told. Raises RpcError."""


class Blocking(Engine):
    def serve(self, credentials: Any = None, at: str = HERE) -> str:
        pool = self.stack.enter_context(futures.ThreadPoolExecutor(4))
        server = hvrpc.grpc.server(pool, [Tell()])
        if credentials is None:
            server.add_insecure_port(at)
        else:
            assert server.add_secure_port(at, credentials) > 0
        server.start()
        self.stack.callback(lambda: server.stop(0).wait(WAIT))
        return str(server.addresses[0])

    def call(
        self,
        address: str,
        credentials: Any = None,
        *,
        kind: str = "unary_unary",
        with_call: Any = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> Any:
        with (
            hvrpc.grpc.insecure_channel(address, options)
            if credentials is None
            else hvrpc.grpc.secure_channel(address, credentials, options)
        ) as channel:
            method: Any = getattr(channel, kind)(f"/pkg.Service/{kind}")
            request = iter([b"request"]) if kind.startswith("stream") else b"request"
            answer = method(request, timeout=WAIT, credentials=with_call)
            return json.loads(next(answer) if kind.endswith("stream") else answer)


class Asyncio(Engine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = LoopThread(asyncio.new_event_loop)
        self.stack.callback(self.loop.stop)

    def serve(self, credentials: Any = None, at: str = HERE) -> str:
        async def begin() -> Any:
            server = hvrpc.grpc.aio.server(handlers=[AsyncTell()])
            if credentials is None:
                server.add_insecure_port(at)
            else:
                assert server.add_secure_port(at, credentials) > 0
            await server.start()
            return server

        server = self.loop.run(begin())
        self.stack.callback(lambda: self.loop.run(server.stop(0)))
        return str(server.addresses[0])

    def call(
        self,
        address: str,
        credentials: Any = None,
        *,
        kind: str = "unary_unary",
        with_call: Any = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> Any:
        async def call() -> Any:
            async with (
                hvrpc.grpc.aio.insecure_channel(address, options)
                if credentials is None
                else hvrpc.grpc.aio.secure_channel(address, credentials, options)
            ) as channel:
                method: Any = getattr(channel, kind)(f"/pkg.Service/{kind}")
                request = iter([b"request"]) if kind.startswith("stream") else b"request"
                answer = method(request, timeout=WAIT, credentials=with_call)
                if kind.endswith("stream"):
                    return await anext(aiter(answer))
                return await answer

        return json.loads(self.loop.run(call()))


@pytest.fixture(params=[Blocking, Asyncio])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = request.param()
    with made.stack:
        yield made


# --- What both sides are told ----------------------------------------------------------------------


def test_with_tls_names_of_the_certificate_are_told(
    engine: Engine, certificates: Certificates
) -> None:
    tls = certificates.tls("host")
    address = engine.serve(server_credentials(tls=tls))
    known = engine.call(address, channel_credentials(tls=tls))
    auth = known["auth"]
    assert auth["transport_security_type"] == ["ssl"]
    assert auth["security_level"] == ["TSI_PRIVACY_AND_INTEGRITY"]
    assert auth["x509_common_name"] == ["host"]
    assert auth["x509_subject_alternative_name"] == ["host", "loopback", "127.0.0.1"]
    assert auth["x509_pem_cert"] == [(certificates.folder / "host.pem").read_text()]
    assert "vm_id" in auth
    assert auth["family"] == ["local"]
    assert known["identity_key"] == "x509_subject_alternative_name"
    assert known["identities"] == ["host", "loopback", "127.0.0.1"]


def test_without_certificates_of_clients_the_vm_is_who_calls(
    engine: Engine, certificates: Certificates
) -> None:
    address = engine.serve(server_credentials(tls=certificates.tls("host", ca=None)))
    known = engine.call(address, channel_credentials(tls=certificates.tls(None)))
    assert known["auth"]["transport_security_type"] == ["ssl"]
    assert "x509_common_name" not in known["auth"]
    assert known["identity_key"] == "vm_id"


def test_without_tls_the_hypervisor_vouches(engine: Engine) -> None:
    known = engine.call(engine.serve(server_credentials()), channel_credentials())
    assert known["auth"]["transport_security_type"] == ["local"]
    assert known["auth"]["security_level"] == ["TSI_PRIVACY_AND_INTEGRITY"]
    assert known["identities"] == known["auth"]["vm_id"]


def test_an_insecure_port_claims_nothing(engine: Engine) -> None:
    auth = engine.call(engine.serve())["auth"]
    assert auth["transport_security_type"] == ["insecure"]
    assert auth["security_level"] == ["TSI_SECURITY_NONE"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_calls_go_through_tls(
    engine: Engine, certificates: Certificates, kind: str
) -> None:
    tls = certificates.tls("host")
    address = engine.serve(server_credentials(tls=tls))
    known = engine.call(address, channel_credentials(tls=tls), kind=kind)
    assert known["auth"]["x509_common_name"] == ["host"]


# --- Who is refused, and what is said about it -------------------------------------------------------


def refused(engine: Engine, address: str, credentials: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        engine.call(address, credentials)
    return caught.value


def details_of(error: grpc.RpcError, code: grpc.StatusCode) -> str:
    shown: Any = error
    assert shown.code() is code, shown
    return str(shown.details())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_server_refuses_a_vm(engine: Engine, certificates: Certificates, tls: bool) -> None:
    """At once, however long the caller would wait, and with what to look at."""
    given = certificates.tls("host") if tls else None
    address = engine.serve(server_credentials(allow=["children", "uid:1"], tls=given))
    error = refused(engine, address, channel_credentials(tls=given))
    details = details_of(error, grpc.StatusCode.UNAVAILABLE)
    assert "its allow=" in details
    assert "log" in details


def test_server_admits_whom_it_lets_in(engine: Engine) -> None:
    rules: list[Any] = ["loopback", lambda peer: peer.vm_name == "nobody"]
    address = engine.serve(server_credentials(allow=rules))
    assert engine.call(address, channel_credentials())["auth"]["family"] == ["local"]


def test_client_refuses_another_peer(engine: Engine) -> None:
    address = engine.serve()
    error = refused(engine, address, channel_credentials(expect_peer=["web", "parent"]))
    details = details_of(error, grpc.StatusCode.PERMISSION_DENIED)
    assert "where web, parent is expected" in details
    assert "expect_peer=" in details
    assert isinstance(error.__cause__, AccessDenied)


def test_client_accepts_the_peer_it_expects(engine: Engine) -> None:
    assert engine.call(engine.serve(), channel_credentials(expect_peer="loopback"))


REFUSALS: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("no certificate", {}, {"who": None}, "PERMISSION_DENIED", "wants a certificate of this side"),
    (
        "certificate of another CA",
        {},
        {"who": "stranger"},
        "PERMISSION_DENIED",
        "does not accept the certificate of this side",
    ),
    (
        "certificate whose time is up",
        {},
        {"who": "old"},
        "PERMISSION_DENIED",
        "does not accept the certificate of this side",
    ),
    (
        "server of another CA",
        {"who": "stranger"},
        {},
        "PERMISSION_DENIED",
        "its CA has to be in Tls(ca=…)",
    ),
    (
        "server whose time is up",
        {"who": "old"},
        {},
        "PERMISSION_DENIED",
        "certificate has expired",
    ),
    (
        "server that is another",
        {"who": "web"},
        {},
        "PERMISSION_DENIED",
        "has to have a certificate for 'loopback', and has one for web",
    ),
    (
        "client that is another",
        {"names": "db"},
        {},
        "UNAVAILABLE",
        "it has closed before its first word",
    ),
]


@pytest.mark.parametrize(
    ("server", "client", "code", "details"),
    [pytest.param(*row[1:], id=row[0]) for row in REFUSALS],
)
def test_tls_refuses(
    engine: Engine,
    certificates: Certificates,
    server: dict[str, Any],
    client: dict[str, Any],
    code: str,
    details: str,
) -> None:
    """Either side learns what to change."""
    address = engine.serve(server_credentials(tls=certificates.tls(**{"who": "host", **server})))
    theirs = channel_credentials(tls=certificates.tls(**{"who": "host", **client}))
    assert details in details_of(refused(engine, address, theirs), grpc.StatusCode[code])


def test_tls_on_the_client_only(engine: Engine, certificates: Certificates) -> None:
    error = refused(engine, engine.serve(), channel_credentials(tls=certificates.tls("host")))
    details = details_of(error, grpc.StatusCode.UNAVAILABLE)
    assert "tls=" in details


def test_tls_on_the_server_only(engine: Engine, certificates: Certificates) -> None:
    address = engine.serve(server_credentials(tls=certificates.tls("host")))
    details = details_of(refused(engine, address, None), grpc.StatusCode.UNAVAILABLE)
    assert "want TLS (tls=)" in details


def test_grpcios_server_credentials_are_refused_with_what_to_use(engine: Engine) -> None:
    with pytest.raises(CredentialsError, match=r"use hvrpc\.grpc\.server_credentials"):
        engine.serve(grpc.local_server_credentials())


# --- Call credentials --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["channel", "call"])
def test_tokens_arrive(engine: Engine, kind: str, where: str) -> None:
    address = engine.serve(server_credentials())
    if where == "channel":
        known = engine.call(address, channel_credentials(call_credentials=TOKEN), kind=kind)
    else:
        known = engine.call(address, channel_credentials(), kind=kind, with_call=TOKEN)
    assert known["metadata"]["authorization"] == "Bearer secret"


def plugin(answer: Any) -> grpc.CallCredentials:
    class Plugin(grpc.AuthMetadataPlugin):
        def __call__(self, context: Any, callback: Any) -> None:
            answer(context, callback)

    return grpc.metadata_call_credentials(Plugin())


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugin_that_answers_from_a_thread_of_its_own(engine: Engine, kind: str) -> None:
    threads: list[threading.Thread] = []

    def answer(context: Any, done: Any) -> None:
        found = (("x-service", context.service_url), ("x-method", context.method_name))
        threads.append(threading.Thread(target=done, args=(found, None)))
        threads[0].start()

    address = engine.serve(server_credentials())
    credentials = channel_credentials(call_credentials=plugin(answer))
    known = engine.call(address, credentials, kind=kind)
    threads[0].join()
    assert known["metadata"]["x-service"] == "https://localhost/pkg.Service"
    assert known["metadata"]["x-method"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugin_that_fails_ends_the_call(engine: Engine, kind: str) -> None:
    def answer(_: Any, done: Any) -> None:
        done((), ValueError("no token today"))

    address = engine.serve(server_credentials())
    credentials = channel_credentials(call_credentials=plugin(answer))
    with pytest.raises(grpc.RpcError) as caught:
        engine.call(address, credentials, kind=kind)
    details = details_of(caught.value, grpc.StatusCode.UNAVAILABLE)
    assert details == "Getting metadata from plugin failed with error: no token today"


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_goes_over_an_insecure_channel(engine: Engine, kind: str) -> None:
    """With grpcio's words."""
    address = engine.serve()
    for credentials, with_call in (
        (None, TOKEN),
        (
            grpc.composite_channel_credentials(
                _insecure(),
                TOKEN,
            ),
            None,
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            engine.call(address, credentials, kind=kind, with_call=with_call)
        details = details_of(caught.value, grpc.StatusCode.UNAUTHENTICATED)
        assert "does not have a sufficient security level" in details


def _insecure() -> grpc.ChannelCredentials:
    experimental: Any = grpc.experimental
    made: grpc.ChannelCredentials = experimental.insecure_channel_credentials()
    return made


# --- With grpcio at the other end ----------------------------------------------------------------------


def pem(certificates: Certificates, name: str) -> bytes:
    return (certificates.folder / f"{name}.pem").read_bytes()


def theirs_for_tls(certificates: Certificates) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        pem(certificates, "ca"), pem(certificates, "host-key"), pem(certificates, "host")
    )


def test_grpcios_credentials_for_tls_work_here(engine: Engine, certificates: Certificates) -> None:
    """Moving over changes the import and the target."""
    address = engine.serve(server_credentials(tls=certificates.tls("host")))
    known = engine.call(
        address,
        grpc.composite_channel_credentials(theirs_for_tls(certificates), TOKEN),
        options=[("grpc.ssl_target_name_override", "host")],
    )
    assert known["auth"]["x509_common_name"] == ["host"]
    assert known["metadata"]["authorization"] == "Bearer secret"


@pytest.mark.may_leave("grpcio keeps threads and descriptors for the whole process")
def test_a_client_of_grpcios_over_tls(engine: Engine, certificates: Certificates) -> None:
    address = engine.serve(server_credentials(tls=certificates.tls("host")), "tcp://127.0.0.1:0")
    with grpc.secure_channel(
        address.removeprefix("tcp://"), theirs_for_tls(certificates)
    ) as channel:
        method: Any = channel.unary_unary("/pkg.Service/unary_unary")
        known = json.loads(method(b"request", timeout=WAIT, wait_for_ready=True))
    assert known["auth"]["x509_common_name"] == ["host"]


@pytest.mark.may_leave("grpcio keeps threads and descriptors for the whole process")
def test_a_server_of_grpcios_over_tls(engine: Engine, certificates: Certificates) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2), [Tell()])
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(pem(certificates, "host-key"), pem(certificates, "host"))],
            pem(certificates, "ca"),
            require_client_auth=True,
        ),
    )
    server.start()
    try:
        known = engine.call(
            f"tcp://127.0.0.1:{port}", channel_credentials(tls=certificates.tls("host"))
        )
        assert known["auth"]["x509_common_name"] == ["host"]
    finally:
        server.stop(0).wait()


def test_a_context_of_ones_own(engine: Engine, certificates: Certificates) -> None:
    """Its settings are left alone: here, TLS 1.2 and names as OpenSSL checks them."""
    context = ssl.create_default_context(cafile=str(certificates.folder / "ca.pem"))
    server = Tls(context=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    assert server.context is not None
    server.context.load_cert_chain(
        certificates.folder / "host.pem", certificates.folder / "host-key.pem"
    )
    server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    address = engine.serve(server_credentials(tls=server))
    assert engine.call(address, channel_credentials(tls=context))
    named = channel_credentials(tls=Tls(context=context, names="db"))
    details = details_of(refused(engine, address, named), grpc.StatusCode.PERMISSION_DENIED)
    assert "Hostname mismatch" in details
