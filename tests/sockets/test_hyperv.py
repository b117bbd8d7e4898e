"""AF_HYPERV: what Windows is told, and what users are told where there is none.

A fake module takes the place of `socket`, so most of this runs everywhere. What needs the real one
is at the end, beside the contract tests.
"""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from hvrpc import Address, ConnectError, ListenError, Peer, UnsupportedError, sockets
from hvrpc.sockets import Options, connect, hyperv, listen, unix
from hvrpc.sockets.families import HYPERV

from .background import WAIT
from .fake_socket import FakeModule, FakeSocket, raising
from .places import HOW_TO_RUN_WINDOWS, QUICK

RAW = 1
WINDOWS_NUMBERS = {"SOL_SOCKET": 0xFFFF, "SO_SNDBUF": 0x1001, "SO_RCVBUF": 0x1002}
SEND_BUFFER, RECEIVE_BUFFER = (0xFFFF, 0x1001), (0xFFFF, 0x1002)
CONNECT_TIMEOUT, CONTAINER_PASSTHRU, CONNECTED_SUSPEND, HIGH_VTL = 1, 2, 4, 8
VM = "12345678-9abc-def0-1234-56789abcdef0"
SERVICE = "999e53d4-3d5c-4c3e-8779-bed06ec056e1"
PARENT = "a42e7cda-d03f-480c-9cc2-a4de20abb878"
LOOPBACK = "e0e16197-dd56-4a10-9195-5ee7a155a838"
WILDCARD = "00000000-0000-0000-0000-000000000000"
PORT_5000 = "00001388-facb-11e6-bd58-64006a7986d3"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeModule:
    return install(monkeypatch, FakeModule())


def install(monkeypatch: pytest.MonkeyPatch, module: FakeModule) -> FakeModule:
    module.AF_HYPERV = 34
    for name, number in WINDOWS_NUMBERS.items():
        setattr(module, name, number)
    for user in (hyperv, unix):
        monkeypatch.setattr(user, "socket", module)
    return module


def address(url: str) -> Any:
    return Address.parse(url)


def call(url: str, timeout: float = 5, options: Options | None = None) -> Peer:
    return hyperv.connect(address(url), timeout, options or Options())[1]


def offer(url: str, options: Options | None = None) -> Any:
    return hyperv.listen(address(url), 7, options or Options())


def options_of_hyperv(sock: FakeSocket) -> dict[int, int]:
    return {number: value for (level, number), value in sock.options().items() if level == RAW}


# --- Connecting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("hvsock://parent/5000", (PARENT, PORT_5000)),
        ("hvsock://loopback/5000", (LOOPBACK, PORT_5000)),
        (f"hvsock://{{{VM.upper()}}}/{{{SERVICE.upper()}}}", (VM, SERVICE)),
    ],
)
def test_what_is_called(fake: FakeModule, url: str, name: tuple[str, str]) -> None:
    """CPython wants two texts in a tuple, without braces; the protocol must not be 0."""
    peer = call(url)
    (sock,) = fake.sockets
    assert sock.arguments == (34, socket.SOCK_STREAM, RAW)
    assert sock.calls[-1] == ("connect", name)
    assert all(type(part) is str for part in sock.calls[-1][1])
    assert (peer.family, str(peer.vm_id), str(peer.service)) == ("hyperv", *name)
    assert peer.port == (5000 if name[1] == PORT_5000 else None)


def test_the_programs_default_timeout_does_not_count(fake: FakeModule) -> None:
    call("hvsock://parent/5000")
    assert fake.sockets[0].calls[0] == ("settimeout", None)


def test_everything_is_set_before_connecting(fake: FakeModule) -> None:
    call("hvsock://parent/5000", options=Options(send_buffer=1000, receive_buffer=2000))
    (sock,) = fake.sockets
    assert sock.names()[-1] == "connect"
    assert sock.options()[SEND_BUFFER] == 1000
    assert sock.options()[RECEIVE_BUFFER] == 2000
    assert options_of_hyperv(sock) == {CONNECT_TIMEOUT: 5000, CONNECTED_SUSPEND: 1}


@pytest.mark.parametrize(
    ("timeout", "milliseconds"),
    [(0.25, 250), (30, 30_000), (0.0001, 1), (300, 300_000), (300.1, 300_000), (86_400, 300_000)],
)
def test_the_connect_timeout_is_always_set_within_what_windows_takes(
    fake: FakeModule, timeout: float, milliseconds: int
) -> None:
    call("hvsock://parent/5000", timeout)
    assert options_of_hyperv(fake.sockets[0])[CONNECT_TIMEOUT] == milliseconds


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(connected_suspend=False), {}),
        (Options(container_passthrough=True), {CONTAINER_PASSTHRU: 1, CONNECTED_SUSPEND: 1}),
        (Options(high_vtl=True), {HIGH_VTL: 1, CONNECTED_SUSPEND: 1}),
    ],
)
def test_options_of_hyper_v(fake: FakeModule, options: Options, expected: dict[int, int]) -> None:
    call("hvsock://parent/5000", options=options)
    assert options_of_hyperv(fake.sockets[0]) == {CONNECT_TIMEOUT: 5000, **expected}


@pytest.mark.parametrize("vm", ["any", "children"])
def test_names_for_listening_cannot_be_called(fake: FakeModule, vm: str) -> None:
    with pytest.raises(ConnectError, match=f"{vm} is for listening only") as caught:
        call(f"hvsock://{vm}/5000")
    assert caught.value.errno == 10049
    assert "connect to one VM" in caught.value.remedy
    assert fake.sockets == []


@pytest.mark.parametrize("method", ["setsockopt", "connect"])
def test_a_socket_that_cannot_connect_is_closed(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fake = install(monkeypatch, FakeModule(**{method: raising(OSError(10061, "refused"))}))
    with pytest.raises(OSError, match="refused"):
        call("hvsock://parent/5000")
    assert fake.sockets[0].closed


# --- Listening -----------------------------------------------------------------------------------


def test_what_is_listened_on(fake: FakeModule) -> None:
    endpoint = offer("hvsock://any/5000")
    (sock,) = fake.sockets
    assert sock.arguments == (34, socket.SOCK_STREAM, RAW)
    assert sock.calls[-2:] == [("bind", (WILDCARD, PORT_5000)), ("listen", 7)]
    assert options_of_hyperv(sock) == {CONNECTED_SUSPEND: 1}
    assert endpoint.address == address("hvsock://any/5000")


def test_buffers_are_large_by_default_and_set_before_listening(fake: FakeModule) -> None:
    offer("hvsock://any/5000")
    (sock,) = fake.sockets
    assert sock.options()[SEND_BUFFER] == 256 * 1024
    assert sock.options()[RECEIVE_BUFFER] == 256 * 1024
    names = sock.names()
    assert max(n for n, name in enumerate(names) if name == "setsockopt") < names.index("bind")


def test_accepted_sockets_do_not_inherit_and_are_set_up_again(fake: FakeModule) -> None:
    endpoint = offer("hvsock://any/5000")
    accepted: Any = fake.socket()
    endpoint.prepare(accepted, Options(send_buffer=1000))
    assert options_of_hyperv(accepted) == {CONNECTED_SUSPEND: 1}
    assert accepted.options()[SEND_BUFFER] == 1000


def test_who_called(fake: FakeModule) -> None:
    endpoint = offer("hvsock://any/5000")
    peer = endpoint.peer(fake.socket(), (VM, PORT_5000))
    assert peer == Peer("hyperv", vm_id=UUID(VM), service=UUID(PORT_5000), port=5000)
    assert endpoint.peer(fake.socket(), (LOOPBACK, SERVICE)).is_loopback
    assert endpoint.peer(fake.socket(), (PARENT, SERVICE)).is_host


def test_port_0_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use = OSError(10048, "in use")
    fake = install(monkeypatch, FakeModule(bind=raising(in_use, in_use)))
    endpoint = offer("hvsock://any/0")
    tried = [call[1] for call in fake.sockets[0].calls if call[0] == "bind"]
    assert len(tried) == 3
    assert {vm for vm, _ in tried} == {WILDCARD}
    assert str(endpoint.address.service) == tried[-1][1]
    assert 0x40000000 <= endpoint.address.port <= 0x7FFFFFFF


def test_the_search_for_a_free_port_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, FakeModule(bind=raising(*[OSError(10048, "in use")] * 1000)))
    with pytest.raises(OSError, match="in use"):
        offer("hvsock://any/0")
    assert fake.sockets[0].names().count("bind") == 100
    assert fake.sockets[0].closed


def test_the_search_for_a_free_port_ends_at_any_other_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = install(monkeypatch, FakeModule(bind=raising(OSError(10013, "denied"))))
    with pytest.raises(OSError, match="denied"):
        offer("hvsock://any/0")
    assert fake.sockets[0].names().count("bind") == 1
    assert fake.sockets[0].closed


# --- Old and missing -----------------------------------------------------------------------------


def no_such_option(level: int, number: int, value: int) -> None:
    if (level, number) == (RAW, CONNECTED_SUSPEND):
        raise OSError(10042, "no such option")


def test_windows_that_cannot_keep_connections_over_a_pause_is_good_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = install(monkeypatch, FakeModule(setsockopt=no_such_option))
    call("hvsock://parent/5000")
    assert fake.sockets[0].names()[-1] == "connect"


def on_windows(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
    monkeypatch.setattr(hyperv, "sys", SimpleNamespace(platform="win32", version_info=version))
    monkeypatch.setattr(sockets, "family_of", lambda address: HYPERV)


@pytest.mark.parametrize("use", [connect, listen])
def test_python_before_3_12_on_windows(monkeypatch: pytest.MonkeyPatch, use: Any) -> None:
    fake = install(monkeypatch, FakeModule())
    del fake.AF_HYPERV
    on_windows(monkeypatch, (3, 11, 9))
    with pytest.raises(UnsupportedError) as caught:
        use("hvsock://parent/5000")
    assert "Python 3.11.9 has no Hyper-V sockets" in str(caught.value)
    assert "install Python 3.12 or later" in caught.value.remedy
    assert fake.sockets == []


@pytest.mark.parametrize("use", [connect, listen])
def test_windows_without_hyper_v(monkeypatch: pytest.MonkeyPatch, use: Any) -> None:
    """Error 10047, which comes when the socket is made."""
    module = install(monkeypatch, FakeModule())
    monkeypatch.setattr(
        module, "socket", raising(OSError(10047, "address family not supported")), raising=False
    )
    on_windows(monkeypatch, (3, 12, 0))
    with pytest.raises(UnsupportedError, match="Windows has no Hyper-V sockets here") as caught:
        use("hvsock://parent/5000")
    assert caught.value.address == "hvsock://parent/5000"
    assert "turn on" in caught.value.remedy
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("use", "kind"), [(connect, ConnectError), (listen, ListenError)], ids=["connect", "listen"]
)
def test_windows_that_does_not_allow_it(
    monkeypatch: pytest.MonkeyPatch, use: Any, kind: type[Exception]
) -> None:
    denied = raising(OSError(10013, "denied"))
    install(monkeypatch, FakeModule(connect=denied, bind=denied))
    on_windows(monkeypatch, (3, 12, 0))
    with pytest.raises(kind, match="Hyper-V Administrators"):
        use("hvsock://parent/5000")


@pytest.mark.skipif(hasattr(socket, "AF_HYPERV"), reason="this Python has them: run on Linux")
def test_elsewhere() -> None:
    assert hyperv.unavailable() == (
        "Hyper-V sockets of this kind exist on Windows only",
        "use vsock:// on Linux",
    )


# --- The real one --------------------------------------------------------------------------------

on_real_windows = pytest.mark.skipif(not hasattr(socket, "AF_HYPERV"), reason=HOW_TO_RUN_WINDOWS)


@on_real_windows
def test_our_constants_are_those_of_python() -> None:
    for name in (
        "HV_PROTOCOL_RAW",
        "HVSOCKET_CONNECT_TIMEOUT",
        "HVSOCKET_CONNECT_TIMEOUT_MAX",
        "HVSOCKET_CONNECTED_SUSPEND",
    ):
        assert getattr(hyperv, name) == getattr(socket, name)


@on_real_windows
def test_a_caller_on_the_same_machine_is_seen_as_loopback() -> None:
    try:
        listener = listen("hvsock://any/0", options=QUICK)
    except UnsupportedError as error:
        pytest.skip(f"{HOW_TO_RUN_WINDOWS} ({error})")
    with listener:
        url = str(listener.address).replace("any", "loopback")
        with connect(url, options=QUICK) as client:
            server, peer = listener.accept(timeout=WAIT)
            assert peer.is_loopback
            assert client.peer.is_loopback
            server.abort()
            client.abort()
