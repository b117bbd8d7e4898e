"""Options suit VM sockets, and the user's come first."""

from __future__ import annotations

import pytest

from hvrpc import Address
from hvrpc.grpc import tunnel
from hvrpc.grpc.tunnel.settings import authority_of, channel_options, connect_seconds

WEB = Address.parse("hvsock://web/50051")


def first(options: list[tuple[str, object]], name: str) -> object:
    """What the C core goes by."""
    return next(value for key, value in options if key == name)


def test_the_users_options_win() -> None:
    given = [("grpc.keepalive_time_ms", 1), ("grpc.default_authority", "mine"), ("other", "x")]
    options = channel_options(WEB, given)
    for name, value in given:
        assert first(options, name) == value
    assert first(options, "grpc.http2.ping_timeout_ms") == 10_000
    assert first(tunnel.server_options([("grpc.so_reuseport", 1)]), "grpc.so_reuseport") == 1


def test_dialling_takes_as_long_as_the_c_core_waits() -> None:
    assert connect_seconds(channel_options(WEB, None)) == 5.0
    assert connect_seconds(channel_options(WEB, [("grpc.min_reconnect_backoff_ms", 700)])) == 0.7


@pytest.mark.parametrize(
    ("address", "authority"),
    [
        ("hvsock://web/50051", "web"),
        ("hvsock://My VM (new)/50051", "my-vm-new"),
        ("hvsock://Büro/1", "b-ro"),
        ("hvsock://日本/1", "localhost"),
        ("hvsock://parent/1", "parent"),
        (
            "hvsock://2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11/1",
            "2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11",
        ),
        ("vsock://3/50051", "cid-3"),
        ("hybrid:///run/v.sock?port=1", "localhost"),
        ("unix:///run/x", "localhost"),
        ("tcp://[::1]:80", "[::1]:80"),
    ],
)
def test_the_authority_is_a_host(address: str, authority: str) -> None:
    assert authority_of(Address.parse(address)) == authority
