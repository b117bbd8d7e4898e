"""The examples run as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_demo() -> None:
    demo = run("demo.py")
    assert demo.returncode == 0, demo.stderr
    assert "switched on again" in demo.stdout
