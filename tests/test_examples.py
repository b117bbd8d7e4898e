"""The examples run as they are."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from hvrpc.testing import Fabric

EXAMPLES = Path(__file__).parents[1] / "examples"
TIMEOUT = 30


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example on the fabric of the test, as its host."""
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_bytes(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", EXAMPLES / "bytes/guest.py")
    for vm in ("web", str(guest.vm_id)):
        host = run("bytes/host.py", vm)
        assert (host.stdout, host.stderr) == ("hello from the host\n", "")
    guest.stop()
    assert guest.output.startswith("listening on hvsock://any/5000\ncalled by local:")


def test_bytes_over_another_port(hvrpc_fabric: Fabric) -> None:
    hvrpc_fabric.guest("web", EXAMPLES / "bytes/guest.py", ["6000"])
    assert run("bytes/host.py", "web", "6000").returncode == 0
    assert "ConnectRefused" in run("bytes/host.py", "web").stderr


def test_bytes_without_a_guest_says_what_to_do(hvrpc_fabric: Fabric) -> None:
    host = run("bytes/host.py", "web")
    assert host.returncode == 1
    assert "VM web is not running" in host.stderr
    assert "start it" in host.stderr
    assert "Traceback" not in host.stderr
    assert "usage:" in run("bytes/host.py").stderr


@pytest.mark.parametrize("client", ["client.py", "aio_client.py"])
@pytest.mark.parametrize("server", ["server.py", "aio_server.py"])
def test_msgpack(hvrpc_fabric: Fabric, server: str, client: str) -> None:
    guest = hvrpc_fabric.guest("web", EXAMPLES / "msgpack" / server, ["hvsock://any/5001"])
    host = run(f"msgpack/{client}", "hvsock://web/5001")
    assert host.stderr == ""
    said = [
        f"64 checksums, the last one: {hashlib.sha256(bytes([63])).hexdigest()[:16]}\n",
        "ticks: 0 1 2 3 4\n",
        "  installed git, 2 of 2\n",
        "packages: 2\n",
        "refused: malware is not wanted [refused]\n",
        "too late: ",
    ]
    assert [line for line in said if line not in host.stdout] == []
    guest.stop()
    assert guest.output == "serving on hvsock://any/5001\nthe host says hello\n"


@pytest.mark.parametrize("kind", ["", "aio_"])
def test_msgpack_with_the_addresses_it_has(hvrpc_fabric: Fabric, kind: str) -> None:
    """Both are processes of the same VM."""
    server = hvrpc_fabric.guest("web", EXAMPLES / "msgpack" / f"{kind}server.py")
    client = hvrpc_fabric.guest("web", EXAMPLES / "msgpack" / f"{kind}client.py", ready="started")
    client.wait(TIMEOUT)
    assert client.output.startswith("local://loopback/5001 runs ")
    server.stop()


@pytest.mark.parametrize("protocol", ["grpc", "msgpack"])
@pytest.mark.parametrize("client", ["client.py", "aio_client.py"])
@pytest.mark.parametrize("server", ["server.py", "aio_server.py"])
def test_greeter(hvrpc_fabric: Fabric, server: str, client: str, protocol: str) -> None:
    script = EXAMPLES / "greeter" / server
    guest = hvrpc_fabric.guest("web", script, ["hvsock://any/50051", protocol])
    host = run(f"greeter/{client}", "hvsock://web/50051", protocol)
    assert host.stderr == ""
    assert host.stdout.splitlines() == [
        "Hello, host!",
        "Hello, again!",
        "Hello, you! Bonjour, you! Hallo, you! Ciao, you!",
        "Hello, A, B, C!",
        "chat: Hello, Dora!",
        "chat: Hello, Emil!",
        "Hello, now! OK Hello, later!",
        "refused: whom shall I greet? [INVALID_ARGUMENT]",
    ]
    guest.stop()
    assert guest.output == "serving on hvsock://any/50051\n"
