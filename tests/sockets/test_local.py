"""The emulated fabric keeps Hyper-V's rules, and tells who called; over each of its carriers."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hvrpc.access import Peer
from hvrpc.addresses import (
    HV_GUID_LOOPBACK,
    HV_GUID_PARENT,
    Address,
    HvsockAddress,
    LocalAddress,
    port_of_service_id,
    template_id,
)
from hvrpc.errors import (
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    ListenError,
    TransportTimeout,
    UnsupportedError,
)
from hvrpc.sockets import Listener, Stream, connect, fabric, listen, unix
from hvrpc.sockets.carriers import CARRIER_VARIABLE, CARRIERS
from hvrpc.testing import Fabric

WEB, DB = "web", "db"
PORT = 5000
TIMEOUT = 10.0


@pytest.fixture(params=[name for name, carrier in CARRIERS.items() if carrier.refuses])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "unix" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("Python has no UNIX sockets here: run on Linux or macOS")
    monkeypatch.setenv(CARRIER_VARIABLE, name)
    return name


@pytest.fixture
def net(carrier: str, hvrpc_fabric: Fabric) -> Fabric:
    """A fabric over each carrier."""
    return hvrpc_fabric


@contextmanager
def playing(vm: str | None) -> Iterator[None]:
    """Let this process be a guest for a while, or the host."""
    with pytest.MonkeyPatch.context() as patch:
        if vm is None:
            patch.delenv(fabric.VM_VARIABLE, raising=False)
        else:
            patch.setenv(fabric.VM_VARIABLE, vm)
        yield


def exchange(stream: Stream, listener: Listener) -> Peer:
    """Accept the connection, prove that it is this one, and tell who called."""
    with stream:
        stream.sendall(b"ping")
        accepted, peer = listener.accept(TIMEOUT)
        with accepted:
            assert accepted.recv_exactly(4) == b"ping"
            accepted.sendall(b"pong")
            assert stream.recv_exactly(4) == b"pong"
            stream.shutdown_write()
            assert accepted.recv(1) == b""
    return peer


def call(address: Address | str) -> bytes:
    """What the service there says."""
    with connect(address, timeout=TIMEOUT) as stream:
        return read_all(stream)


def read_all(stream: Stream) -> bytes:
    return b"".join(iter(lambda: stream.recv(1000), b""))


# --- What guests do in these tests -------------------------------------------------------------------


def tell_who_called(address: str, calls: int = 1) -> None:
    """A guest: answer each caller with who it is, as seen from here."""
    with listen(address) as listener:
        for _ in range(calls):
            stream, peer = listener.accept(TIMEOUT)
            with stream:
                stream.sendall(json.dumps(describe(peer)).encode())


def describe(peer: Peer) -> dict[str, Any]:
    return {
        "vm_id": str(peer.vm_id),
        "vm_name": peer.vm_name,
        "is_host": peer.is_host,
        "is_loopback": peer.is_loopback,
        "port": peer.port,
        "pid": peer.pid,
        "uid": peer.uid,
    }


def call_host(port: int) -> None:
    """A guest: call the host and wait until it hangs up."""
    with connect(f"local://parent/{port}") as stream:
        stream.sendall(json.dumps(describe(stream.peer)).encode())
        stream.shutdown_write()
        stream.recv(1)


def call_itself() -> None:
    """A guest: be both ends."""
    with listen("local://loopback/1") as listener:
        stream = connect("local://loopback/1")
        print(json.dumps(describe(exchange(stream, listener))))


def call_and_vanish(port: int) -> None:
    """A guest: call the host, say something and die at once."""
    stream = connect(f"local://parent/{port}")
    stream.sendall(b"farewell")
    os._exit(0)


def listen_for_ever(address: str) -> None:
    """A guest: say hello to everybody."""
    with listen(address) as listener:
        for stream, _ in listener:
            with stream:
                stream.sendall(b"hello from the guest")


def only_live() -> None:
    """A guest that runs and offers nothing."""
    from hvrpc.testing import ready

    ready()
    threading.Event().wait()


# --- Who may listen on what ---------------------------------------------------------------------------

LISTEN_ROWS = [
    # who listens, on what, may it
    (None, "any", True),
    (None, "children", True),
    (None, "loopback", True),
    (None, WEB, True),
    (None, "11111111-2222-3333-4444-555555555555", True),
    (None, "parent", False),
    (None, "broadcast", False),
    (None, "silohost", False),
    (WEB, "any", True),
    (WEB, "parent", True),
    (WEB, "loopback", True),
    (WEB, "children", True),
    (WEB, WEB, False),
    (WEB, DB, False),
    (WEB, "11111111-2222-3333-4444-555555555555", False),
    (WEB, "broadcast", False),
    (WEB, "silohost", False),
]


@pytest.mark.parametrize(("who", "vm", "may"), LISTEN_ROWS)
def test_listening(net: Fabric, who: str | None, vm: str, may: bool) -> None:
    address = f"local://{vm}/{PORT}"
    with playing(who):
        if may:
            with listen(address) as listener:
                assert str(listener.address) == address
            return
        with pytest.raises(ListenError) as caught:
            listen(address)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert caught.value.address == address
    assert caught.value.remedy


# --- Who reaches whom -----------------------------------------------------------------------------------

CONNECT_ROWS = [
    # who listens, on what; who calls, what; does it arrive
    (None, "any", None, "loopback", True),
    (None, "any", WEB, "parent", True),
    (None, "children", WEB, "parent", True),
    (None, "children", None, "loopback", False),
    (None, "loopback", None, "loopback", True),
    (None, "loopback", WEB, "parent", False),
    (None, WEB, WEB, "parent", True),
    (None, WEB, DB, "parent", False),
    (None, WEB, None, "loopback", False),
    (WEB, "any", None, WEB, True),
    (WEB, "any", WEB, "loopback", True),
    (WEB, "any", None, DB, False),
    (WEB, "any", DB, "loopback", False),
    (WEB, "parent", None, WEB, True),
    (WEB, "parent", WEB, "loopback", False),
    (WEB, "loopback", WEB, "loopback", True),
    (WEB, "loopback", None, WEB, False),
    (WEB, "children", None, WEB, False),
    (WEB, "children", WEB, "loopback", False),
]


@pytest.mark.parametrize(("listens", "on", "calls", "what", "arrives"), CONNECT_ROWS)
def test_connecting(
    net: Fabric, listens: str | None, on: str, calls: str | None, what: str, arrives: bool
) -> None:
    with playing(listens):
        listener = listen(f"local://{on}/{PORT}")
    with listener, playing(calls):
        if arrives:
            exchange(connect(f"local://{what}/{PORT}"), listener)
        else:
            with pytest.raises(ConnectError) as caught:
                connect(f"local://{what}/{PORT}")
            assert f"local://{what}/{PORT}" in str(caught.value)
            assert caught.value.remedy


IMPOSSIBLE_ROWS = [
    # who calls, what, what comes of it
    (None, "any", errno.EADDRNOTAVAIL, "for listening only"),
    (None, "children", errno.EADDRNOTAVAIL, "for listening only"),
    (None, "broadcast", errno.EADDRNOTAVAIL, "no use"),
    (None, "silohost", errno.EADDRNOTAVAIL, "not emulated"),
    (None, "parent", errno.EADDRNOTAVAIL, "no parent"),
    (None, WEB, errno.EADDRNOTAVAIL, "not running"),
    (None, "11111111-2222-3333-4444-555555555555", errno.EADDRNOTAVAIL, "not running"),
    (None, "loopback", errno.ECONNREFUSED, "nobody listens"),
    (WEB, "any", errno.EADDRNOTAVAIL, "for listening only"),
    (WEB, "children", errno.EADDRNOTAVAIL, "for listening only"),
    (WEB, "silohost", errno.EADDRNOTAVAIL, "not emulated"),
    (WEB, "parent", errno.ECONNREFUSED, "nobody listens"),
    (WEB, "loopback", errno.ECONNREFUSED, "nobody listens"),
    (WEB, DB, errno.ENETUNREACH, "reaches its host and itself only"),
    (WEB, WEB, errno.ENETUNREACH, "reaches its host and itself only"),
]


@pytest.mark.parametrize(("who", "vm", "code", "cause"), IMPOSSIBLE_ROWS)
def test_calling_in_vain(net: Fabric, who: str | None, vm: str, code: int, cause: str) -> None:
    with playing(who), pytest.raises(ConnectError, match=cause) as caught:
        connect(f"local://{vm}/{PORT}")
    assert caught.value.errno == code
    assert isinstance(caught.value, ConnectRefused) == (code == errno.ECONNREFUSED)
    assert caught.value.remedy


def test_a_guest_that_runs_without_a_service_refuses(net: Fabric) -> None:
    guest = net.guest(WEB, only_live)
    with pytest.raises(ConnectRefused):
        connect(f"local://{WEB}/{PORT}")
    guest.kill()
    with pytest.raises(ConnectError, match="not running") as caught:
        connect(f"local://{WEB}/{PORT}")
    assert not isinstance(caught.value, ConnectRefused)


def test_the_most_specific_listener_gets_the_call(net: Fabric) -> None:
    kinds = ("any", "children", WEB)
    listeners = [listen(f"local://{kind}/{PORT}") for kind in kinds]
    with playing(WEB):
        for listener in reversed(listeners):
            exchange(connect(f"local://parent/{PORT}"), listener)
            listener.close()
        with pytest.raises(ConnectRefused):
            connect(f"local://parent/{PORT}")


# --- Who called --------------------------------------------------------------------------------------------


def test_a_guest_learns_that_its_host_calls(net: Fabric) -> None:
    guest = net.guest(WEB, tell_who_called, (f"local://any/{PORT}",))
    seen = json.loads(call(f"local://{WEB}/{PORT}"))
    assert seen["vm_id"] == str(HV_GUID_PARENT)
    assert seen["is_host"]
    assert seen["pid"] == os.getpid()
    assert seen["uid"] == (os.geteuid() if os.name == "posix" else None)
    guest.wait()


def test_the_host_learns_which_guest_calls(net: Fabric) -> None:
    with listen(f"local://any/{PORT}") as listener:
        for name in (WEB, DB):
            guest = net.guest(name, call_host, (PORT,), ready="started")
            stream, peer = listener.accept(TIMEOUT)
            with stream:
                assert (peer.family, peer.vm_id, peer.vm_name) == ("local", guest.vm_id, name)
                assert not peer.is_host
                assert not peer.is_loopback
                assert peer.pid == guest.pid
                assert peer.port is not None
                assert peer.service == template_id(peer.port)
                called = json.loads(read_all(stream))
            assert called["vm_id"] == str(HV_GUID_PARENT)
            assert called["port"] == PORT
            assert called["pid"] == os.getpid()
            guest.wait()


def test_a_guest_learns_that_it_calls_itself(net: Fabric) -> None:
    guest = net.guest(WEB, call_itself)
    guest.wait()
    seen = json.loads(guest.output)
    assert seen["vm_id"] == str(HV_GUID_LOOPBACK)
    assert (seen["vm_name"], seen["is_loopback"], seen["pid"]) == (WEB, True, guest.pid)


def test_the_caller_learns_whom_it_has_reached(net: Fabric) -> None:
    guest = net.guest(WEB, listen_for_ever, (f"local://any/{PORT}",))
    with connect(f"local://{WEB}/{PORT}") as stream:
        peer = stream.peer
    assert (peer.vm_id, peer.vm_name) == (guest.vm_id, WEB)
    assert (peer.service, peer.port) == (template_id(PORT), PORT)
    assert peer.pid == guest.pid


def test_every_connection_has_a_port_of_its_own(net: Fabric) -> None:
    with listen("local://loopback/0") as listener:
        ports = {exchange(connect(listener.address), listener).port for _ in range(20)}
    assert len(ports) == 20


def test_the_caller_is_known_although_it_is_dead(net: Fabric) -> None:
    with listen(f"local://any/{PORT}") as listener:
        guest = net.guest(WEB, call_and_vanish, (PORT,), ready="started")
        guest.wait()
        stream, peer = listener.accept(TIMEOUT)
        with stream:
            assert (peer.vm_id, peer.vm_name) == (guest.vm_id, WEB)
            assert stream.recv_exactly(8) == b"farewell"
            assert stream.recv(1) == b""


def test_a_listener_admits_by_vm(net: Fabric) -> None:
    with listen(f"local://any/{PORT}", allow=DB) as listener:
        with playing(WEB):
            refused = connect(f"local://parent/{PORT}")
        with playing(DB):
            exchange(connect(f"local://parent/{PORT}"), listener)
        with refused:
            assert refused.recv(1) == b""


# --- Strangers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["unix"], indirect=True)
@pytest.mark.parametrize("name", [None, "stranger", "000000000000.00000001", "..00000001"])
def test_a_unix_socket_that_does_not_say_where_it_is_from_is_cut_off(
    net: Fabric, tmp_path: Path, name: str | None
) -> None:
    with listen(f"local://any/{PORT}") as listener:
        (place,) = Path(fabric.folder_of(net.name), "sockets").iterdir()
        with socket.socket(socket.AF_UNIX) as stranger:
            if name is not None:
                stranger.bind(str(tmp_path / name))
            assert_cut_off(stranger, str(place), listener)


@pytest.mark.parametrize("carrier", ["unix"], indirect=True)
def test_a_unix_socket_of_another_user_is_cut_off(
    net: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen(f"local://any/{PORT}") as listener, connect(f"local://loopback/{PORT}") as stream:
        monkeypatch.setattr(unix, "credentials", lambda sock: (1, os.geteuid() + 1))
        with pytest.raises(TransportTimeout):
            listener.accept(0.1)
        assert stream.recv(1) == b""


@pytest.mark.parametrize("carrier", ["tcp"], indirect=True)
@pytest.mark.parametrize("forged", [None, b"", b"{}\n00", b'{"vm":"host"}\n' + b"0" * 64])
def test_a_tcp_port_that_nobody_has_announced_is_cut_off(net: Fabric, forged: bytes | None) -> None:
    with listen(f"local://any/{PORT}") as listener:
        folder = Path(fabric.folder_of(net.name))
        (entry,) = (folder / "endpoints").iterdir()
        place: str = json.loads(entry.read_bytes())["place"]
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            if forged is not None:
                port = stranger.getsockname()[1]
                (folder / "callers" / f"{place}.{port}").write_bytes(forged)
            assert_cut_off(stranger, ("127.0.0.1", int(place.rpartition(".")[2])), listener)


def assert_cut_off(stranger: socket.socket, place: Any, listener: Listener) -> None:
    """Nobody is accepted, the stranger sees the end, and the next caller is served."""
    stranger.settimeout(TIMEOUT)
    stranger.connect(place)
    exchange(connect(f"local://loopback/{PORT}"), listener)
    assert stranger.recv(1) == b""


# --- Addresses -----------------------------------------------------------------------------------------------


def test_the_same_place_twice_is_in_use(net: Fabric) -> None:
    with listen(f"local://any/{PORT}"):
        with pytest.raises(ListenError, match="already") as caught:
            listen(f"local://any/{PORT}")
        assert caught.value.errno == errno.EADDRINUSE
    with listen(f"local://any/{PORT}"):
        pass


def test_a_place_of_another_process_is_in_use_until_it_dies(net: Fabric) -> None:
    guest = net.guest(WEB, listen_for_ever, (f"local://any/{PORT}",))
    with playing(WEB), pytest.raises(ListenError, match="already"):
        listen(f"local://any/{PORT}")
    assert call(f"local://{WEB}/{PORT}") == b"hello from the guest"
    guest.kill()
    with playing(WEB), listen(f"local://any/{PORT}") as listener, playing(None):
        exchange(connect(f"local://{WEB}/{PORT}"), listener)


def test_different_vms_have_the_same_ports(net: Fabric) -> None:
    with playing(WEB):
        one = listen(f"local://any/{PORT}")
    with playing(DB):
        other = listen(f"local://any/{PORT}")
    with one, other:
        exchange(connect(f"local://{DB}/{PORT}"), other)
        exchange(connect(f"local://{WEB}/{PORT}"), one)


def test_port_0_is_any_free_port(net: Fabric) -> None:
    with listen("local://any/0") as one, listen("local://any/0") as other:
        assert isinstance(one.address, LocalAddress)
        assert one.address.port
        assert one.address != other.address
        exchange(connect(f"local://loopback/{one.address.port}"), one)


def test_hvsock_addresses_use_the_fabric_too(net: Fabric) -> None:
    with listen("hvsock://any/0") as listener:
        assert isinstance(listener.address, HvsockAddress)
        port = listener.address.port
        exchange(connect(f"hvsock://loopback/{port}"), listener)
        exchange(connect(f"local://loopback/{port}"), listener)


def test_a_service_is_found_by_its_name_or_its_id(net: Fabric) -> None:
    with listen("local://any/My%20Service") as listener:
        assert isinstance(listener.address, LocalAddress)
        service = fabric.service_id("My Service")
        assert port_of_service_id(service) is None
        exchange(connect("local://loopback/My%20Service"), listener)
        exchange(connect(f"local://loopback/{service}"), listener)


def test_a_vm_is_found_by_its_name_or_its_id(net: Fabric) -> None:
    with playing("Büro 1"):
        listener = listen(f"local://any/{PORT}")
    with listener:
        exchange(connect(f"local://B%C3%BCro%201/{PORT}"), listener)
        exchange(connect(f"local://{net.vm_id('Büro 1')}/{PORT}"), listener)


def test_fabrics_do_not_see_each_other(net: Fabric) -> None:
    with listen(f"local://any/{PORT}"), Fabric():
        with pytest.raises(ConnectRefused):
            connect(f"local://loopback/{PORT}")
        with listen(f"local://any/{PORT}") as listener:
            exchange(connect(f"local://loopback/{PORT}"), listener)


@pytest.fixture
def short_path() -> Iterator[str]:
    """A folder whose name leaves room for the names of UNIX sockets, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def test_without_any_setting_two_processes_reach_each_other(
    carrier: str, short_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", short_path)
    for variable in (fabric.FABRIC_VARIABLE, fabric.VM_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    code = "import hvrpc; hvrpc.sockets.connect('local://loopback/5000').sendall(b'ping')"
    with listen("local://loopback/5000") as listener:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT)
        stream, peer = listener.accept(TIMEOUT)
        with stream:
            assert peer.is_loopback
            assert stream.recv(4) == b"ping"


@pytest.mark.parametrize("carrier", ["unix"], indirect=True)
def test_a_folder_with_too_long_a_name_is_explained(
    carrier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with pytest.raises(UnsupportedError, match=r"listen on local://.*XDG_RUNTIME_DIR"):
        listen("local://loopback/0")


def test_an_unknown_carrier_is_explained(
    hvrpc_fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CARRIER_VARIABLE, "pigeon")
    with pytest.raises(UnsupportedError, match="pigeon"):
        listen("local://loopback/0")


# --- Life and death ---------------------------------------------------------------------------------------------


def test_a_caller_waits_while_the_queue_is_full(net: Fabric) -> None:
    with listen(f"local://any/{PORT}", backlog=1) as listener:
        waiting = fill_queue()
        done = threading.Event()

        def call_patiently() -> None:
            connect(f"local://loopback/{PORT}", timeout=TIMEOUT).abort()
            done.set()

        thread = threading.Thread(target=call_patiently)
        thread.start()
        while not done.is_set():  # those in the queue come first, then the one that waits
            try:
                listener.accept(0.05)[0].abort()
            except TransportTimeout:
                pass
        thread.join()
        for stream in waiting:
            stream.abort()


def fill_queue() -> list[Stream]:
    """Call until nobody can be called any more."""
    waiting: list[Stream] = []
    try:
        while True:
            waiting.append(connect(f"local://loopback/{PORT}", timeout=0.2))
    except ConnectTimeout:
        return waiting


def test_a_killed_guest_ends_its_connections_and_can_come_back(net: Fabric) -> None:
    guest = net.guest(WEB, listen_for_ever, (f"local://any/{PORT}",))
    with listen("local://children/1") as listener, connect(f"local://{WEB}/{PORT}") as stream:
        assert stream.recv_exactly(20) == b"hello from the guest"
        guest.kill()
        assert stream.recv(1) == b""
        with pytest.raises(ConnectError, match="not running"):
            connect(f"local://{WEB}/{PORT}")
        guest.restart()
        assert call(f"local://{WEB}/{PORT}") == b"hello from the guest"
        assert not listener.closed


def test_a_closed_listener_leaves_nothing(net: Fabric) -> None:
    with listen(f"local://any/{PORT}") as listener:
        exchange(connect(f"local://loopback/{PORT}"), listener)
    folder = Path(fabric.folder_of(net.name))
    assert [path for path in folder.glob("*/*") if not path.is_dir()] == []
