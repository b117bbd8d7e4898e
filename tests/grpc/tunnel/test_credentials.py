"""Credentials of ours in the tunnel: who may be there, and whether it is encrypted."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from hvrpc import CredentialsError, Peer
from hvrpc.grpc import tunnel
from hvrpc.grpc.credentials import channel_credentials, server_credentials
from hvrpc.grpc.tunnel.places import DEFAULT

from ...certificates import Certificates
from ...sockets.background import WAIT, wait_until
from .calls import METHOD, Calls
from .test_tunnel import local_credentials

TOKEN = grpc.access_token_call_credentials("secret")


@pytest.fixture
def platforms_own(carrier: str) -> None:
    """Ours are made for the way that this platform has."""
    if carrier != DEFAULT:
        pytest.skip(f"ours are for {DEFAULT} here")


@pytest.fixture
def seen() -> list[tuple[Peer | None, Any]]:
    return []


@pytest.fixture
def note(seen: list[tuple[Peer | None, Any]]) -> Any:
    """A handler that notes who has called, and with which token."""

    def note(request: bytes, context: Any) -> bytes:
        token = dict(context.invocation_metadata()).get("authorization")
        seen.append((tunnel.peer_of(context), token))
        return request

    return note


@pytest.mark.usefixtures("platforms_own")
class TestOurs:
    def test_who_is_expected_is_called(self, calls: Calls) -> None:
        credentials = channel_credentials(expect_peer="loopback")
        port = calls.serve(credentials=server_credentials(allow="loopback"))
        assert calls.call(calls.channel(port.address, credentials)) == b"x"

    def test_somebody_else_is_not_sent_a_byte_and_the_caller_is_told_why(
        self, calls: Calls
    ) -> None:
        port = calls.serve()
        channel = calls.channel(port.address, channel_credentials(expect_peer="parent"))
        for error in [calls.error(channel) for _ in range(3)]:
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "where parent is expected" in error.details()
            assert "expect_peer" in error.details(), "it says what to change"
            assert str(tunnel.last_error(port.address)) == error.details()
        assert port.counters.to_target == 0

    def test_a_refusal_is_looked_at_again_after_a_while(
        self, calls: Calls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hvrpc.grpc.tunnel.refusals.REFUSE_FOR", 0.02)
        right: list[Any] = []
        port = calls.serve()
        channel = calls.channel(
            port.address, channel_credentials(expect_peer=lambda peer: bool(right))
        )
        for _ in range(20):  # no call is lost between two looks
            assert calls.error(channel).code() is grpc.StatusCode.PERMISSION_DENIED
        right.append(True)

        def gets_through() -> bool:
            try:
                return calls.call(channel) == b"x"
            except grpc.RpcError:
                return False

        wait_until(gets_through, "it is looked at again")

    def test_calls_of_every_kind_are_refused_in_words(self) -> None:
        with Calls("sync") as calls:
            address = calls.serve().address
            channel = calls.channel(address, channel_credentials(expect_peer="parent"))
            for call in (
                lambda: channel.unary_unary(METHOD)(bytes(3_000_000), timeout=WAIT),
                lambda: list(channel.unary_stream(METHOD)(b"", timeout=WAIT)),
                lambda: channel.stream_unary(METHOD)(iter([b"x"] * 100), timeout=WAIT),
                lambda: list(channel.stream_stream(METHOD)(iter([b"x"] * 100), timeout=WAIT)),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    def test_who_may_not_call_is_cut_off(self, calls: Calls) -> None:
        port = calls.serve(credentials=server_credentials(allow="parent"))
        error = calls.error(calls.channel(port.address, channel_credentials()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert port.counters.refused > 0
        assert port.counters.accepted == 0

    def test_tokens_go_with_calls(self, calls: Calls, note: Any, seen: list[Any]) -> None:
        port = calls.serve(note)
        for credentials in (
            channel_credentials(call_credentials=TOKEN),
            grpc.composite_channel_credentials(channel_credentials(), TOKEN),
        ):
            calls.call(calls.channel(port.address, credentials))
        assert [token for _, token in seen] == ["Bearer secret"] * 2

    def test_tls_on_both_sides_tells_whom_the_certificates_name(
        self, calls: Calls, certificates: Certificates, note: Any, seen: list[Any]
    ) -> None:
        port = calls.serve(note, credentials=server_credentials(tls=certificates.tls("host")))
        credentials = channel_credentials(
            expect_peer="loopback",
            tls=certificates.tls("web", names="host"),
            call_credentials=TOKEN,
        )
        channel = calls.channel(port.address, credentials)
        large = bytes(1_000_000)
        assert calls.call(channel, large) == large
        ((peer, token),) = seen
        assert peer.certificate.names == ("web",)
        assert token == "Bearer secret"

    def test_a_server_whom_the_client_does_not_believe(
        self, calls: Calls, certificates: Certificates
    ) -> None:
        port = calls.serve(credentials=server_credentials(tls=certificates.tls("stranger")))
        credentials = channel_credentials(tls=certificates.tls("web", names="host"))
        error = calls.error(calls.channel(port.address, credentials))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert str(tunnel.last_error(port.address)) == error.details()

    def test_a_client_whom_the_server_does_not_believe(
        self, calls: Calls, certificates: Certificates
    ) -> None:
        port = calls.serve(credentials=server_credentials(tls=certificates.tls("host")))
        credentials = channel_credentials(tls=certificates.tls("stranger", names="host"))
        error = calls.error(calls.channel(port.address, credentials))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_of_grpcios_own_goes_from_end_to_end(calls: Calls, certificates: Certificates) -> None:
    def read(name: str) -> bytes:
        return (certificates.folder / name).read_bytes()

    pair = (read("host-key.pem"), read("host.pem"))
    names = []

    def answer(request: bytes, context: Any) -> bytes:
        names.append(context.auth_context()["x509_subject_alternative_name"])
        return request

    port = calls.serve(
        answer, credentials=grpc.ssl_server_credentials([pair], read("ca.pem"), True)
    )
    credentials = grpc.ssl_channel_credentials(read("ca.pem"), read("web-key.pem"), read("web.pem"))
    options = [("grpc.ssl_target_name_override", "host")]
    assert calls.call(calls.channel(port.address, credentials, options)) == b"x"
    assert names == [[b"web"]]


def test_no_token_goes_where_others_could_read_it(carrier: str) -> None:
    """To the C core the way looks local, wherever it leads."""
    tokens = grpc.composite_channel_credentials(local_credentials(carrier), TOKEN)
    with pytest.raises(CredentialsError, match="other machines could read them"):
        tunnel.secure_channel("tcp://192.0.2.1:1", tokens)
    ssl = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(), TOKEN)
    tunnel.secure_channel("tcp://192.0.2.1:1", ssl).close()
    tunnel.secure_channel("hvsock://web/1", tokens).close()


def test_rules_are_given_once(calls: Calls) -> None:
    with pytest.raises(TypeError, match="once"):
        calls.add_port(
            calls.server(), credentials=server_credentials(allow="parent"), allow="parent"
        )


def test_channels_with_the_same_credentials_share_what_is_kept_of_them() -> None:
    """What the door keeps, it keeps for ever: it must not grow with every channel."""
    credentials = channel_credentials(expect_peer="web")
    made = {tunnel.parameters("hvsock://web/1", credentials).options[1] for _ in range(3)}
    assert len(made) == 1
