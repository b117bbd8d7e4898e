"""AF_VSOCK: which CID and port an address means, and what the system is told.

No real AF_VSOCK is opened here: a fake module takes the place of `socket`. The contract tests run on
the real one, in a guest of the rig.
"""

from __future__ import annotations

import errno
import socket
import struct
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from hvrpc import Address, Peer, UnsupportedError
from hvrpc.sockets import Options, names, structs, vsock

from .fake_socket import AF_VSOCK, FakeModule, raising

ANY = 0xFFFFFFFF
CONNECT_TIMEOUT = (AF_VSOCK, 6)
BUFFER_SIZE = (AF_VSOCK, 0)
BUFFER_MAX_SIZE = (AF_VSOCK, 2)
PARENT = UUID("a42e7cda-d03f-480c-9cc2-a4de20abb878")
LOOPBACK = UUID("e0e16197-dd56-4a10-9195-5ee7a155a838")
GUEST = "12345678-9abc-def0-1234-56789abcdef0"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeModule:
    return install(monkeypatch, FakeModule())


def install(monkeypatch: pytest.MonkeyPatch, module: FakeModule) -> FakeModule:
    """Make this a Linux whose sockets are fakes."""
    module.AF_VSOCK = AF_VSOCK
    module.AF_UNIX = 1
    descriptors = SimpleNamespace(get_blocking=lambda _: True, set_blocking=lambda *_: None)
    monkeypatch.setattr(structs, "os", descriptors)
    for user in (vsock, structs):
        monkeypatch.setattr(user, "socket", module)
    monkeypatch.setattr(names, "sys", SimpleNamespace(platform="linux"))
    return module


def address(url: str) -> Any:
    return Address.parse(url)


def connect(url: str, timeout: float = 5, options: Options | None = None) -> Peer:
    return vsock.connect(address(url), timeout, options or Options())[1]


def listen(url: str, backlog: int = 7) -> Any:
    return vsock.listen(address(url), backlog, Options())


# --- Addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "cid", "port"),
    [
        ("hvsock://parent/5000", 2, 5000),
        ("hvsock://loopback/5000", 1, 5000),
        ("hvsock://parent/00001388-facb-11e6-bd58-64006a7986d3", 2, 5000),
        ("vsock://host/5000", 2, 5000),
        ("vsock://local/5000", 1, 5000),
        ("vsock://17/4294967295", 17, 0xFFFFFFFF),
    ],
)
def test_what_is_called(fake: FakeModule, url: str, cid: int, port: int) -> None:
    peer = connect(url)
    (sock,) = fake.sockets
    assert sock.arguments == (AF_VSOCK, socket.SOCK_STREAM)
    assert sock.calls[-1] == ("connect", (cid, port))
    assert not sock.closed
    assert (peer.family, peer.cid, peer.port) == ("vsock", cid, port)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("hvsock://any/5000", (ANY, 5000)),
        ("hvsock://parent/5000", (ANY, 5000)),
        ("hvsock://loopback/5000", (1, 5000)),
        ("vsock://any/5000", (ANY, 5000)),
        ("vsock://local/5000", (1, 5000)),
        ("vsock://3/5000", (3, 5000)),
    ],
)
def test_what_is_listened_on(fake: FakeModule, url: str, name: tuple[int, int]) -> None:
    endpoint = listen(url)
    (sock,) = fake.sockets
    assert sock.calls[-2:] == [("bind", name), ("listen", 7)]
    assert endpoint.address == address(url)


@pytest.mark.parametrize(
    ("url", "problem", "remedy"),
    [
        ("hvsock://any/5000", "any is for listening only", "hvsock://parent/"),
        ("vsock://any/5000", "any is for listening only", "vsock://CID/"),
        ("hvsock://children/5000", "reaches its host only", "hvsock://parent/"),
        ("hvsock://silohost/5000", "reaches its host only", "hvsock://parent/"),
        (f"hvsock://{GUEST}/5000", "reaches its host only", "vsock://CID/"),
        ("hvsock://web/5000", "name 'web' is known on its Windows host only", "hvsock://parent/"),
        (f"hvsock://parent/{GUEST}", "Linux knows ports only", "use a port"),
        ("hvsock://parent/backup", "no service is registered as 'backup'", "give its port"),
    ],
)
def test_what_a_linux_guest_cannot_call(
    fake: FakeModule, url: str, problem: str, remedy: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        connect(url)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    assert caught.value.operation == "connect to"
    assert fake.sockets == []


@pytest.mark.parametrize("url", ["hvsock://children/5000", f"hvsock://{GUEST}/5000"])
def test_what_a_linux_guest_cannot_listen_on(fake: FakeModule, url: str) -> None:
    with pytest.raises(UnsupportedError, match="reaches its host only") as caught:
        listen(url)
    assert caught.value.operation == "listen on"
    assert fake.sockets == []


@pytest.mark.parametrize("url", ["hvsock://any/0", "vsock://any/0"])
def test_port_0_is_a_free_port_that_hyper_v_can_reach(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """The system's own choice may be above 0x7fffffff, where no Hyper-V host can connect."""
    in_use = OSError(errno.EADDRINUSE, "in use")
    fake = install(monkeypatch, FakeModule(bind=raising(in_use, in_use)))
    endpoint = listen(url)
    (sock,) = fake.sockets
    tried = [call[1] for call in sock.calls if call[0] == "bind"]
    assert len(tried) == 3
    assert all(cid == ANY and 1024 <= port <= 0x7FFFFFFF for cid, port in tried)
    assert endpoint.address.port == tried[-1][1]


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ((2, 0x80000001), Peer("vsock", vm_id=PARENT, cid=2, port=0x80000001)),
        ((1, 5000), Peer("vsock", vm_id=LOOPBACK, cid=1, port=5000)),
        ((3, 5000), Peer("vsock", vm_id=None, cid=3, port=5000)),
    ],
)
def test_who_called(fake: FakeModule, name: tuple[int, int], peer: Peer) -> None:
    found = listen("hvsock://any/5000").peer(fake.socket(), name)
    assert (found.family, found.vm_id, found.cid, found.port) == (
        peer.family,
        peer.vm_id,
        peer.cid,
        peer.port,
    )
    assert found.service.int >> 96 == name[1]


# --- Options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "seconds", "microseconds"),
    [
        (5, 5, 0),
        (0.25, 0, 250_000),
        (1.5, 1, 500_000),
        (0.9999999, 1, 0),
        (1.9999999, 2, 0),
        (0.0000001, 0, 1),  # never zero: that would be the system's own 2 s
        (86400, 86400, 0),
    ],
)
def test_the_connect_timeout_is_a_timeval(
    fake: FakeModule, timeout: float, seconds: int, microseconds: int
) -> None:
    connect("vsock://host/5000", timeout)
    (sock,) = fake.sockets
    value = sock.options()[CONNECT_TIMEOUT]
    assert value == struct.pack("@ll", seconds, microseconds)
    assert len(value) == 2 * struct.calcsize("@l")


def test_the_programs_default_timeout_does_not_count(fake: FakeModule) -> None:
    connect("vsock://host/5000")
    assert fake.sockets[0].calls[0] == ("settimeout", None)


def test_setting_options_leaves_the_descriptor_to_the_socket(fake: FakeModule) -> None:
    """A second socket object would close it when it is collected, unless it is detached."""
    connect("vsock://host/5000")
    assert fake.aliases
    assert all(alias.fileno() == -1 and not alias.closed for alias in fake.aliases)
    assert fake.sockets[0].fileno() >= 0


def test_everything_is_set_before_connecting(fake: FakeModule) -> None:
    connect("hvsock://parent/5000", options=Options(send_buffer=1000, receive_buffer=2000))
    (sock,) = fake.sockets
    assert sock.names()[-1] == "connect"
    assert sock.options() == {
        (socket.SOL_SOCKET, socket.SO_SNDBUF): 1000,
        (socket.SOL_SOCKET, socket.SO_RCVBUF): 2000,
        BUFFER_MAX_SIZE: struct.pack("@Q", 2000),
        BUFFER_SIZE: struct.pack("@Q", 2000),
        CONNECT_TIMEOUT: struct.pack("@ll", 5, 0),
    }


def test_buffers_are_large_by_default_and_set_before_listening(fake: FakeModule) -> None:
    """Hyper-V gives 24 KiB unless told otherwise; its rings hold 256 KiB at most."""
    listen("hvsock://any/5000")
    (sock,) = fake.sockets
    assert sock.options()[socket.SOL_SOCKET, socket.SO_SNDBUF] == 256 * 1024
    assert sock.options()[socket.SOL_SOCKET, socket.SO_RCVBUF] == 256 * 1024
    numbers = [call[2] for call in sock.calls if call[:2] == ("setsockopt", AF_VSOCK)]
    assert numbers == [BUFFER_MAX_SIZE[1], BUFFER_SIZE[1]], "the limit first, or it would bind"
    names = sock.names()
    assert max(n for n, name in enumerate(names) if name == "setsockopt") < names.index("bind")


# --- Failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["setsockopt", "connect"])
def test_a_socket_that_cannot_connect_is_closed(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fake = install(monkeypatch, FakeModule(**{method: raising(OSError(errno.ENODEV, "no device"))}))
    with pytest.raises(OSError, match="no device"):
        connect("hvsock://parent/5000")
    assert fake.sockets[0].closed


@pytest.mark.parametrize("method", ["setsockopt", "bind", "listen"])
def test_a_socket_that_cannot_listen_is_closed(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fake = install(monkeypatch, FakeModule(**{method: raising(OSError(errno.EACCES, "denied"))}))
    with pytest.raises(OSError, match="denied"):
        listen("hvsock://any/80")
    assert fake.sockets[0].closed


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsock, "sys", SimpleNamespace(platform="darwin"))
    assert vsock.unavailable() == ("AF_VSOCK exists on Linux only", "use hvsock:// on Windows")
    monkeypatch.setattr(vsock, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(vsock, "socket", SimpleNamespace())
    missing = vsock.unavailable()
    assert missing is not None
    assert "built without AF_VSOCK" in missing[0]
