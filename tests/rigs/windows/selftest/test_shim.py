"""The AF_HYPERV shim, as CPython's own `socket` module sees it."""

# mypy understands that what follows the skip below is for Windows only; pyright does not.
# pyright: reportAttributeAccessIssue=false

import asyncio
import os
import select
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

HOW_TO_RUN = "needs Windows with the shim: python3 tests/rigs/windows/run.py"

if sys.platform != "win32":
    pytest.skip(HOW_TO_RUN, allow_module_level=True)

if not os.environ.get("HVSHIM_MACHINE"):
    pytest.skip(HOW_TO_RUN, allow_module_level=True)

SERVICES = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices"
ECHO_SERVER = Path(__file__).with_name("echo_server.py")
ECHO_CLIENT = Path(__file__).with_name("echo_client.py")
HOST_IS_HERE = os.environ.get("HVSHIM_PARTITION", "host") == "host"


def new_socket() -> socket.socket:
    return socket.socket(socket.AF_HYPERV, socket.SOCK_STREAM, socket.HV_PROTOCOL_RAW)


class Listening:
    """A socket that listens on a service id of its own."""

    def __init__(self, vm: str = socket.HV_GUID_WILDCARD) -> None:
        self.service = str(uuid.uuid4())
        self.socket = new_socket()
        self.socket.bind((vm, self.service))
        self.socket.listen()

    def connect(self) -> tuple[socket.socket, socket.socket, tuple[str, str]]:
        client = new_socket()
        client.connect((socket.HV_GUID_LOOPBACK, self.service))
        server, peer = self.socket.accept()
        return client, server, peer


@pytest.fixture
def listening() -> Iterator[Listening]:
    created = Listening()
    with created.socket:
        yield created


def error_of_connect(vm: str, service: str) -> int | None:
    with new_socket() as client, pytest.raises(OSError, match="WinError") as caught:
        client.connect((vm, service))
    return caught.value.winerror


def run_guest(script: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a script in another process that plays a guest."""
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_loopback_carries_bytes_both_ways_and_ends(listening: Listening) -> None:
    client, server, peer = listening.connect()
    with client, server:
        assert peer[0] == socket.HV_GUID_LOOPBACK.lower()
        assert server.family == socket.AF_HYPERV
        client.sendall(b"question")
        assert server.recv(100) == b"question"
        server.sendall(b"answer")
        server.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"answer"
        assert client.recv(100) == b""


def test_names_of_a_loopback_connection(listening: Listening) -> None:
    client, server, peer = listening.connect()
    with client, server:
        children = socket.HV_GUID_CHILDREN.lower()
        assert client.getpeername() == (socket.HV_GUID_LOOPBACK.lower(), listening.service)
        assert server.getsockname() == (children, listening.service)
        assert client.getsockname() == (children, peer[1])
        assert server.getpeername() == peer


def test_a_service_is_bound_once_until_it_is_closed(listening: Listening) -> None:
    with new_socket() as second, pytest.raises(OSError, match="WinError 10048"):
        second.bind((socket.HV_GUID_WILDCARD, listening.service))
    listening.socket.close()
    with new_socket() as third:
        third.bind((socket.HV_GUID_WILDCARD, listening.service))


def test_nobody_listens() -> None:
    assert error_of_connect(socket.HV_GUID_LOOPBACK, str(uuid.uuid4())) == 10061


@pytest.mark.parametrize("vm", [socket.HV_GUID_WILDCARD, socket.HV_GUID_CHILDREN])
def test_wildcards_cannot_be_connected_to(vm: str, listening: Listening) -> None:
    assert error_of_connect(vm, listening.service) == 10049


def test_a_vm_that_does_not_run(listening: Listening) -> None:
    assert error_of_connect(str(uuid.uuid4()), listening.service) == 10049


@pytest.mark.parametrize(
    ("kind", "protocol", "error"),
    [(socket.SOCK_DGRAM, 1, 10044), (socket.SOCK_STREAM, 0, 10041), (socket.SOCK_STREAM, 6, 10041)],
)
def test_only_raw_streams_exist(kind: int, protocol: int, error: int) -> None:
    with pytest.raises(OSError, match=f"WinError {error}"):
        socket.socket(socket.AF_HYPERV, kind, protocol)


def test_options(listening: Listening) -> None:
    level, timeout = socket.HV_PROTOCOL_RAW, socket.HVSOCKET_CONNECT_TIMEOUT
    with new_socket() as client:
        client.setsockopt(level, timeout, 5000)
        assert client.getsockopt(level, timeout) == 5000
        with pytest.raises(OSError, match="WinError 10022"):
            client.setsockopt(level, timeout, socket.HVSOCKET_CONNECT_TIMEOUT_MAX + 1)
        with pytest.raises(OSError, match="WinError 10042"):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def test_timeouts_and_select(listening: Listening) -> None:
    listening.socket.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listening.socket.accept()
    with new_socket() as client:
        client.setblocking(False)
        assert client.connect_ex((socket.HV_GUID_LOOPBACK, listening.service)) in (0, 10035)
        assert select.select([listening.socket], [], [], 10)[0]
        server, _ = listening.socket.accept()
        with server:
            assert select.select([], [client], [], 10)[1]


def test_closing_ends_accept(listening: Listening) -> None:
    outcome: list[int | None] = []
    waiting = threading.Event()

    def accept() -> None:
        waiting.set()
        try:
            listening.socket.accept()
        except OSError as error:
            outcome.append(error.winerror)

    thread = threading.Thread(target=accept)
    thread.start()
    assert waiting.wait(10)
    listening.socket.close()
    thread.join(10)
    # Interrupted (10004) or aborted (995) while waiting, or too late to wait at all (10038).
    assert outcome
    assert outcome[0] in (10004, 995, 10038)


def test_a_duplicate_is_the_same_connection(listening: Listening) -> None:
    client, server, _ = listening.connect()
    with server:
        name = client.getsockname()
        with client.dup() as duplicate:
            client.close()
            assert duplicate.family == socket.AF_HYPERV
            assert duplicate.getsockname() == name
            duplicate.sendall(b"still here")
            assert server.recv(100) == b"still here"


@pytest.mark.parametrize("loop", ["SelectorEventLoop", "ProactorEventLoop"])
def test_asyncio_adopts_connected_sockets(loop: str, listening: Listening) -> None:
    block = b"x" * 300_000

    async def main() -> None:
        client, server, _ = listening.connect()
        theirs, ours = [await asyncio.open_connection(sock=s) for s in (client, server)]
        ours[1].write(block)
        await ours[1].drain()
        assert await theirs[0].readexactly(len(block)) == block
        for _, writer in (theirs, ours):
            writer.close()
            await writer.wait_closed()

    with asyncio.Runner(loop_factory=getattr(asyncio, loop)) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_proactor_cannot_connect(listening: Listening) -> None:
    """CPython's proactor loop knows only the internet families, whatever its message says."""

    async def main() -> None:
        with new_socket() as client:
            client.setblocking(False)
            address = (socket.HV_GUID_LOOPBACK, listening.service)
            await asyncio.get_running_loop().sock_connect(client, address)

    with (
        asyncio.Runner(loop_factory=asyncio.ProactorEventLoop) as runner,
        pytest.raises(ValueError, match=r"AF_INET|length 2 or 4"),
    ):
        runner.run(main())


def test_a_guest_calls_the_host(listening: Listening) -> None:
    guest = str(uuid.uuid4())
    with run_guest(
        ECHO_CLIENT, socket.HV_GUID_PARENT, listening.service, HVSHIM_PARTITION=guest
    ) as process:
        listening.socket.settimeout(30)
        server, peer = listening.socket.accept()
        with server:
            assert peer[0] == guest
            while data := server.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            output, _ = process.communicate(timeout=30)
    assert output.split() == ["echoed", "1000000"]
    assert process.returncode == 0


def test_the_host_calls_a_guest() -> None:
    guest, service = str(uuid.uuid4()), str(uuid.uuid4())
    with run_guest(ECHO_SERVER, socket.HV_GUID_PARENT, service, HVSHIM_PARTITION=guest) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "listening"
        assert error_of_connect(guest, str(uuid.uuid4())) == 10061
        with new_socket() as client:
            client.connect((guest, service))
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
        output, _ = process.communicate(timeout=30)
    assert output.split() == ["caller", socket.HV_GUID_PARENT.lower()]


def test_a_service_is_free_when_its_process_was_killed() -> None:
    guest, service = str(uuid.uuid4()), str(uuid.uuid4())
    for _attempt in range(2):
        with run_guest(
            ECHO_SERVER, socket.HV_GUID_PARENT, service, HVSHIM_PARTITION=guest
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "listening"
            process.kill()
    assert error_of_connect(guest, service) == 10049


@pytest.mark.parametrize("registered", [False, True])
def test_registration_when_it_is_required(registered: bool, listening: Listening) -> None:
    import winreg

    key = rf"{SERVICES}\{listening.service}"
    if registered:
        winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, key).Close()
    try:
        with run_guest(
            ECHO_CLIENT,
            *(socket.HV_GUID_PARENT, listening.service),
            HVSHIM_PARTITION=str(uuid.uuid4()),
            HVSHIM_REQUIRE_REGISTRATION="1",
        ) as process:
            if registered:
                listening.socket.settimeout(30)
                listening.socket.accept()[0].close()
                process.kill()
            else:
                assert process.wait(30) == 10061
    finally:
        if registered:
            winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, key)


def test_without_the_shim_there_is_no_hyper_v() -> None:
    environment = {**os.environ, "HVSHIM_MACHINE": ""}
    code = (
        "import socket, sys\n"
        "try: socket.socket(socket.AF_HYPERV, socket.SOCK_STREAM, socket.HV_PROTOCOL_RAW)\n"
        "except OSError as error: sys.exit(error.winerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 10047
