"""Run on an environment that holds the wheel of hvrpc and nothing else: is it whole?

    python3 run.py smoke

Not a test module: pytest must not be needed, since users do not have it.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import hvrpc

INSTALLERS = {"pip", "setuptools"}
"""What a fresh virtual environment may hold."""


def check_import() -> None:
    where = Path(hvrpc.__file__).parent
    assert "site-packages" in where.parts, f"{where} is not the installed package"
    assert (where / "py.typed").exists(), "type checkers would ignore the package"
    assert metadata.version("hvrpc") == hvrpc.__version__
    import hvrpc_codegen  # noqa: F401


def check_dependencies() -> None:
    """A guest that needs no extra installs the base dependencies, and nothing more."""
    required = metadata.requires("hvrpc") or []
    base = {name_of(need) for need in required if "extra ==" not in need}
    wanted = {"hvrpc", *base}
    found = {name_of(distribution.metadata["Name"]) for distribution in metadata.distributions()}
    missing, unexpected = wanted - found, found - wanted - INSTALLERS
    assert not missing, f"not installed: {missing}"
    assert not unexpected, f"a base install pulls more than it should: {unexpected}"


def name_of(requirement: str) -> str:
    """The normal form of a distribution's name (PEP 503)."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def check_round_trip() -> None:
    with hvrpc.sockets.listen("local://loopback/0") as listener:
        echo = threading.Thread(target=answer_once, args=[listener])
        echo.start()
        with hvrpc.sockets.connect(listener.address, timeout=10) as stream:
            stream.sendall(b"from the wheel")
            assert stream.recv_exactly(14) == b"FROM THE WHEEL"
        echo.join()


def answer_once(listener: hvrpc.sockets.Listener) -> None:
    stream, _peer = listener.accept(timeout=10)
    with stream:
        stream.sendall(stream.recv_exactly(14).upper())


def check_command() -> None:
    """Without the extra `cli`, the command says in one line what to install."""
    for command in (
        [sys.executable, "-I", "-m", "hvrpc"],
        [str(Path(sys.executable).parent / "hvrpc")],
    ):
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 69, done
        assert done.stderr.count("\n") == 1, done.stderr
        assert 'pip install "hvrpc[cli]"' in done.stderr, done.stderr


def check_grpc() -> None:
    """Without the extra `grpc`, importing what needs it says what to install."""
    for module in ("hvrpc.grpc", "hvrpc.services"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            told = str(error)
        else:
            raise AssertionError("there is a grpcio in an environment that holds nothing else")
        assert "pip install 'hvrpc[grpc]'" in told, told


if __name__ == "__main__":
    check_import()
    check_dependencies()
    check_round_trip()
    check_command()
    check_grpc()
    print(
        f"hvrpc {hvrpc.__version__}: import, dependencies, a round trip and the command are right"
    )
