"""Peers started and stopped for a test."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .peers import Peer

START_SECONDS = 20.0
"""For an interpreter to start and listen, on a machine that is busy with other tests."""
STOP_SECONDS = 10.0
CLIENT_SECONDS = 40.0
"""For all steps of a client, of which none takes long."""
PAUSE = 0.01
"""Between two looks whether a server listens; nothing tells us when it does."""


@contextmanager
def server_of(peer: Peer) -> Iterator[Path]:
    """The peer's server, as long as the block runs. Gives the path of its socket."""
    assert peer.server is not None
    peer.prepare()
    with socket_folder() as folder, tempfile.TemporaryFile() as output:
        path = folder / "peer"
        with subprocess.Popen(
            peer.server.command(path),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                _wait_until_listening(process, path, output)
                yield path
            finally:
                _stop(process)


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder with a short name: the path of a UNIX socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        yield Path(folder)


def _wait_until_listening(process: subprocess.Popen[bytes], path: Path, output: Any) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the peer ended at once:\n{_text(output)}")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(PAUSE)
            else:
                return
    raise RuntimeError(f"the peer did not listen within {START_SECONDS} s:\n{_text(output)}")


def _text(output: Any) -> str:
    output.seek(0)
    return str(output.read().decode(errors="replace"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def run_client(peer: Peer, path: Path) -> dict[str, Any]:
    """Let the peer's client go through its steps against the server at the path.

    Gives what each step printed; for ``fail`` the text of the error.
    """
    assert peer.client is not None
    peer.prepare()
    done = subprocess.run(
        peer.client.command(path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace")
        raise RuntimeError(f"{peer.name} exited with {done.returncode}:\n{output}\n{complaint}")
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {line["step"]: line["error"] if "error" in line else line["result"] for line in lines}
