"""A file of tunnels says what it means, or what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvrpc import Address, CredentialsError, Tls
from hvrpc.relay import Route, RouteError, read_routes

GOOD = """
[[tunnel]]
name = "web"
listen = "unix:///run/web.sock"
target = "hvsock://web/50051"
allow = ["parent", 3, "uid:1000"]
max_connections = 7
connect_timeout = 2
linger = 0.5
remote_tcp_without_tls = true
expect = "web"
tls = { certificate = "host.pem", key = "/keys/host.pem" }

[tunnel.target_tls]
ca = "ca.pem"
names = ["web", "other"]

[[tunnel]]
listen = "hvsock://any/50052"
target = "tcp://127.0.0.1:8080"
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "tunnels.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_describes_several(tmp_path: Path) -> None:
    web, other = read_routes(write(tmp_path, GOOD))
    assert web == Route(
        Address.parse("unix:///run/web.sock"),
        Address.parse("hvsock://web/50051"),
        name="web",
        allow=("parent", 3, "uid:1000"),
        max_connections=7,
        connect_timeout=2.0,
        linger=0.5,
        remote_tcp_without_tls=True,
        expect=("web",),
        tls=Tls(certificate=tmp_path / "host.pem", key=tmp_path / "/keys/host.pem"),
        target_tls=Tls(ca=tmp_path / "ca.pem", names=("web", "other")),
    )
    assert other == Route(
        Address.parse("hvsock://any/50052"), Address.parse("tcp://127.0.0.1:8080")
    )
    assert str(web) == "web: unix:///run/web.sock -> hvsock://web/50051"


ONE = '[[tunnel]]\nlisten = "tcp://127.0.0.1:0"\ntarget = "hvsock://web/1"\n'


def test_port_0_may_be_listened_on_often(tmp_path: Path) -> None:
    assert len(read_routes(write(tmp_path, ONE + ONE))) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"describes no tunnel \(right: \[\[tunnel\]\]\)"),
        ("[tunnel]\n", "describes no tunnel"),
        ("tunnel = 3\n", "describes no tunnel"),
        ("tunnel = [3]\n", "describes no tunnel"),
        (ONE + "[[tunel]]\n", "unknown: tunel"),
        ("[[tunnel]]\nlisten =\n", r"it is not TOML: .*line 2"),
        (b"\xff", "not UTF-8"),
        (" " * 1024 * 1024 + "\n", "larger than"),
        (ONE + "ports = 3\n", "tunnel 1: unknown: ports; there are listen, target, name"),
        ('[[tunnel]]\nlisten = "tcp://127.0.0.1:0"\n', "tunnel 1: target is missing"),
        (ONE.replace("hvsock://web/1", "web"), "tunnel 1, target: bad address 'web'"),
        (ONE.replace('"hvsock://web/1"', "3"), "tunnel 1, target: it is an address in quotes"),
        (ONE + "max_connections = 0\n", "max_connections: it is a number above 0, not 0"),
        (ONE + "max_connections = true\n", "max_connections: it is a number above 0"),
        (ONE + "connect_timeout = -1\n", "connect_timeout: it is a number of seconds above 0"),
        (ONE + "linger = nan\n", "linger: it is a number of seconds"),
        (ONE + "linger = true\n", "linger: it is a number of seconds"),
        (ONE + 'allow = ["cid:x"]\n', "allow: 'cid:x' is no rule"),
        (ONE + "allow = [1.5]\n", "allow: it is a list of rules"),
        (ONE + "tls = 3\n", "tls: it is a table, not 3"),
        (ONE + "[tunnel.tls]\npath = 'x'\n", "tls: unknown: path; there are ca, certificate"),
        (ONE + "[tunnel.tls]\nca = 3\n", "tls: ca is a text, not 3"),
        (ONE + "[tunnel.target_tls]\nnames = [3]\n", "target_tls: names is a text"),
        (ONE + "expect = true\n", "expect: it is a list of rules"),
        (ONE + "name = 3\n", "name: it is a text"),
        (ONE + "remote_tcp_without_tls = 1\n", "it is true or false"),
        (GOOD + GOOD, "tunnel 3: tunnel 1 listens on unix:///run/web.sock already"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RouteError, match=complaint) as caught:
        read_routes(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_routes(tmp_path / "nothing.toml")


def test_a_route_opens_a_relay(tmp_path: Path) -> None:
    (route,) = read_routes(write(tmp_path, ONE))
    with route.open() as relay:
        assert str(relay.address).startswith("tcp://127.0.0.1:")
        assert relay.name == str(relay.address)


def test_files_that_cannot_be_used_are_told_when_it_is_opened(tmp_path: Path) -> None:
    (route,) = read_routes(write(tmp_path, ONE + '[tunnel.target_tls]\nca = "missing.pem"\n'))
    with pytest.raises(CredentialsError, match=r"missing\.pem"):
        route.open()
