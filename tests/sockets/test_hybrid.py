"""Hybrid vsock: the handshake with the device, and which paths belong to which port."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvrpc import ConnectError, ConnectRefused, ConnectTimeout, ListenError
from hvrpc.addresses import HybridAddress
from hvrpc.sockets import Options, Stream, connect, listen

from .background import WAIT, Background
from .hybrid_device import HybridDevice
from .places import MISSING, QUICK, short_folder

pytestmark = pytest.mark.skipif("hybrid" in MISSING, reason=MISSING.get("hybrid", ""))


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@contextmanager
def device(folder: Path, act: Callable[[socket.socket], object]) -> Iterator[str]:
    """A device that does with its one caller what the test wants. Gives the URL of port 52."""

    def serve() -> None:
        caller, _ = listener.accept()
        with caller:
            act(caller)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/v.sock")
        listener.listen()
        listener.settimeout(WAIT)
        serving = Background(serve)
        yield f"hybrid://{folder}/v.sock?port=52"
        serving.result()


def wait_for_the_end(caller: socket.socket) -> None:
    caller.settimeout(WAIT)
    while caller.recv(4096):
        pass


def call(url: str, timeout: float = WAIT) -> Stream:
    return connect(url, timeout=timeout, options=QUICK)


# --- Connecting ----------------------------------------------------------------------------------


def test_what_is_written_to_the_device(folder: Path) -> None:
    seen = []

    def act(caller: socket.socket) -> None:
        seen.append(caller.recv(100))
        caller.sendall(b"OK 1073741824\n")
        wait_for_the_end(caller)

    with device(folder, act) as url, call(url) as stream:
        assert stream.timeout is None
        assert stream.peer.family == "hybrid"
        assert stream.peer.port == 52
        assert str(stream.peer) == f"hybrid:{folder}/v.sock?port=52"
    assert seen == [b"CONNECT 52\n"]


@pytest.mark.parametrize("answer", [b"OK 1\n", b"OK 4294967295\n", b"OK 1073741824\r\n"])
def test_right_answers(folder: Path, answer: bytes) -> None:
    def act(caller: socket.socket) -> None:
        caller.sendall(answer)
        wait_for_the_end(caller)

    with device(folder, act) as url, call(url):
        pass


def test_an_answer_in_single_bytes(folder: Path) -> None:
    def act(caller: socket.socket) -> None:
        caller.recv(100)
        for byte in b"OK 1073741824\nhello":
            caller.send(bytes([byte]))
        wait_for_the_end(caller)

    with device(folder, act) as url, call(url) as stream:
        assert stream.recv_exactly(5) == b"hello"


def test_what_the_service_sends_at_once_is_not_taken_for_the_answer(folder: Path) -> None:
    """A service may speak first, and its bytes may arrive together with the device's."""

    def act(caller: socket.socket) -> None:
        caller.sendall(b"OK 5\nOK 6\nhello\n")
        wait_for_the_end(caller)

    with device(folder, act) as url, call(url) as stream:
        assert stream.recv_exactly(11) == b"OK 6\nhello\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"\n",
        b"OK\n",
        b"OK \n",
        b"OK x\n",
        b"OK -1\n",
        b"OK 1 2\n",
        b"ok 1\n",
        b"ERROR 1\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"OK 1\0\n",
    ],
)
def test_wrong_answers(folder: Path, answer: bytes) -> None:
    def act(caller: socket.socket) -> None:
        caller.sendall(answer)
        wait_for_the_end(caller)

    with device(folder, act) as url, pytest.raises(ConnectError) as caught:
        call(url)
    assert not isinstance(caught.value, (ConnectRefused, ConnectTimeout))
    assert repr(answer) in caught.value.cause
    assert "vsock device" in caught.value.remedy


def test_an_answer_that_does_not_end(folder: Path) -> None:
    sent = []

    def act(caller: socket.socket) -> None:
        caller.sendall(b"x" * 100_000)
        wait_for_the_end(caller)
        sent.append(True)

    with (
        device(folder, lambda caller: swallow_reset(act, caller)) as url,
        pytest.raises(ConnectError, match="instead of OK and a port") as caught,
    ):
        call(url)
    assert len(str(caught.value)) < 500


def swallow_reset(act: Callable[[socket.socket], object], caller: socket.socket) -> None:
    """Our side gives up with bytes unread, which the system reports to the device."""
    try:
        act(caller)
    except (BrokenPipeError, ConnectionResetError):
        pass


@pytest.mark.parametrize("answer", [b"", b"OK", b"OK 5"])
def test_a_device_that_closes_has_nobody_on_that_port(folder: Path, answer: bytes) -> None:
    def act(caller: socket.socket) -> None:
        caller.recv(100)
        caller.sendall(answer)

    with (
        device(folder, act) as url,
        pytest.raises(ConnectRefused, match="nobody listens on this port in the guest") as caught,
    ):
        call(url)
    assert "start the server in the guest" in caught.value.remedy


def test_a_device_that_cuts_before_it_has_read(folder: Path) -> None:
    with device(folder, lambda caller: None) as url, pytest.raises(ConnectRefused):
        call(url)


@pytest.mark.parametrize("answer", [b"", b"OK 5"])
def test_a_device_that_is_silent(folder: Path, answer: bytes) -> None:
    def act(caller: socket.socket) -> None:
        caller.sendall(answer)
        wait_for_the_end(caller)

    with device(folder, act) as url, pytest.raises(ConnectTimeout, match="nobody answered"):
        call(url, timeout=0.05)


def test_a_device_that_answers_too_slowly_does_not_prolong_the_timeout(folder: Path) -> None:
    """Each byte comes in time, the line does not."""

    def act(caller: socket.socket) -> None:
        for byte in b"OK " + b"1" * 25:
            caller.settimeout(0.02)
            try:
                if not caller.recv(100):
                    return
            except TimeoutError:
                caller.sendall(bytes([byte]))
        wait_for_the_end(caller)

    with (
        device(folder, lambda caller: swallow_reset(act, caller)) as url,
        pytest.raises(ConnectTimeout),
    ):
        call(url, timeout=0.1)


def test_no_device(folder: Path) -> None:
    with pytest.raises(ConnectRefused, match="correct the path"):
        call(f"hybrid://{folder}/v.sock?port=52")


# --- Listening -----------------------------------------------------------------------------------


def test_listening_means_the_path_with_the_port(folder: Path) -> None:
    url = f"hybrid://{folder}/v.sock?port=52"
    with listen(url) as listener, socket.socket(socket.AF_UNIX) as hypervisor:
        hypervisor.connect(f"{folder}/v.sock_52")
        server, peer = listener.accept(timeout=WAIT)
        assert (peer.family, peer.host, peer.port) == ("hybrid", f"{folder}/v.sock", 52)
        assert peer.pid == os.getpid()
        server.abort()
    assert os.listdir(folder) == []


def test_port_0_is_a_free_port_that_hyper_v_could_have_too(folder: Path) -> None:
    with listen(f"hybrid://{folder}/v.sock?port=0") as listener:
        address = listener.address
        assert isinstance(address, HybridAddress)
        assert 0x40000000 <= address.port <= 0x7FFFFFFF
        assert os.listdir(folder) == [f"v.sock_{address.port}"]


def test_the_port_counts_for_the_length_of_the_path(folder: Path) -> None:
    path = f"{folder}/{'x' * (107 - len(str(folder)) - 1)}"
    with pytest.raises(ListenError, match="longer than"):
        listen(f"hybrid://{path}?port=5")


def test_the_devices_double_refuses_ports_that_nobody_has(folder: Path) -> None:
    with HybridDevice(f"{folder}/v.sock"), pytest.raises(ConnectRefused):
        connect(f"hybrid://{folder}/v.sock?port=52", options=Options(drain=0))
