"""Where the contract of `Stream` and `Listener` is tested: one place for each family.

A place knows how to listen and how to connect to what listens there. Families that this machine
does not have are skipped with a reason that says how to run them.
"""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hvrpc import Address, ConnectError, ConnectRefused, ConnectTimeout, UnsupportedError
from hvrpc.addresses import HvsockAddress
from hvrpc.sockets import Listener, Options, Stream, connect, listen

from ..rigs import guard
from .hybrid_device import HybridDevice

HOW_TO_RUN_WINDOWS = (
    "needs Hyper-V sockets: run on Windows with Python 3.12 or later, or on Linux with the rig:"
    " python3 tests/rigs/windows/run.py"
)
needs_unix = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"),
    reason="its peers talk over UNIX sockets, which Python has on POSIX only: run on Linux",
)
QUICK = Options(drain=0.05)
"""For tests in which the other side does not close by itself, and that are not about this."""


@dataclass
class Place(ABC):
    """A family, and where on this machine to try it."""

    family: str
    has_ports: bool = True
    nobody_is: type[ConnectError] = ConnectRefused
    """The error of a call that nobody takes."""

    @abstractmethod
    def fresh_url(self) -> str:
        """Where to listen; with port 0 in the families that have ports."""

    @abstractmethod
    def url_of_nobody(self) -> str:
        """What a caller uses and nobody listens on."""

    def url_for_callers(self, listener: Listener) -> str:
        return str(listener.address)

    def listen(
        self, url: str | None = None, *, backlog: int = 128, options: Options = QUICK
    ) -> Listener:
        return listen(url or self.fresh_url(), backlog=backlog, options=options)

    def connect(
        self, listener: Listener, *, timeout: float = 10, options: Options = QUICK
    ) -> Stream:
        return connect(self.url_for_callers(listener), timeout=timeout, options=options)

    @contextmanager
    def pair(
        self, client: Options = QUICK, server: Options = QUICK
    ) -> Iterator[tuple[Stream, Stream]]:
        """A connection: the side that called, and the side that was called."""
        with ExitStack() as stack:
            listener = stack.enter_context(self.listen(options=server))
            calling = self.connect(listener, options=client)
            stack.callback(calling.abort)
            called, _ = listener.accept(timeout=10)
            stack.callback(called.abort)
            yield calling, called


@dataclass
class UnixPlace(Place):
    folder: Path = Path()
    has_ports: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def fresh_url(self) -> str:
        return f"unix://{self.folder}/{next(self._numbers)}.sock"

    def url_of_nobody(self) -> str:
        return self.fresh_url()


@dataclass
class TcpPlace(Place):
    def fresh_url(self) -> str:
        return "tcp://127.0.0.1:0"

    def url_of_nobody(self) -> str:
        with self.listen() as listener:
            return str(listener.address)


@dataclass
class HybridPlace(Place):
    folder: Path = Path()

    def fresh_url(self) -> str:
        return f"hybrid://{self.folder}/v.sock?port=0"

    def url_of_nobody(self) -> str:
        return f"hybrid://{self.folder}/v.sock?port=1"


@dataclass
class LocalPlace(Place):
    def fresh_url(self) -> str:
        return "local://loopback/0"

    def url_of_nobody(self) -> str:
        return "local://loopback/1"


@dataclass
class HyperVPlace(Place):
    nobody_is: type[ConnectError] = ConnectError  # a refusal by Windows, silence by others

    def fresh_url(self) -> str:
        return "hvsock://any/0"

    def url_of_nobody(self) -> str:
        with self.listen() as listener:
            return self.url_for_callers(listener)

    def url_for_callers(self, listener: Listener) -> str:
        address = listener.address
        assert isinstance(address, HvsockAddress)
        return str(Address.parse(f"hvsock://loopback/{address.port}"))


@dataclass
class VsockPlace(Place):
    def fresh_url(self) -> str:
        return "vsock://any/0"

    def url_of_nobody(self) -> str:
        return "vsock://local/1"

    def url_for_callers(self, listener: Listener) -> str:
        return str(listener.address).replace("any", "local")


# --- The table -----------------------------------------------------------------------------------


@contextmanager
def short_folder() -> Iterator[Path]:
    """A short path: those of UNIX sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hv-") as folder:
        yield Path(folder)


@contextmanager
def _unix() -> Iterator[Place]:
    with short_folder() as folder:
        yield UnixPlace("unix", folder=folder)


@contextmanager
def _tcp() -> Iterator[Place]:
    yield TcpPlace("tcp")


@contextmanager
def _hybrid() -> Iterator[Place]:
    with short_folder() as folder, HybridDevice(f"{folder}/v.sock"):
        yield HybridPlace("hybrid", folder=folder)


@contextmanager
def _local(carrier: str, nobody_is: type[ConnectError] = ConnectRefused) -> Iterator[Place]:
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        patch.setenv("HVRPC_FABRIC", f"contract-{os.getpid()}")
        patch.setenv("HVRPC_FABRIC_TRANSPORT", carrier)
        patch.delenv("HVRPC_FABRIC_VM", raising=False)
        yield LocalPlace("local", nobody_is=nobody_is)


@contextmanager
def _hyperv() -> Iterator[Place]:
    place = HyperVPlace("hyperv")
    try:
        place.listen().close()
    except UnsupportedError as error:
        pytest.skip(f"{HOW_TO_RUN_WINDOWS} ({error})")
    yield place


@contextmanager
def _vsock() -> Iterator[Place]:
    assert guard.inside_rig_guest()
    yield VsockPlace("vsock")


PLACES: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "unix": _unix,
    "tcp": _tcp,
    "hybrid": _hybrid,
    "local over UNIX": lambda: _local("unix"),
    "local over TCP": lambda: _local("tcp"),
    "local like hv_sock": lambda: _local("hv_sock", ConnectTimeout),
    "hyperv": _hyperv,
    "vsock": _vsock,
}


def _missing() -> Iterator[tuple[str, str]]:
    if not hasattr(socket, "AF_UNIX"):
        for name in ("unix", "hybrid", "local over UNIX", "local like hv_sock"):
            yield name, "needs UNIX sockets, which Python has on POSIX only: run on Linux"
    if not hasattr(socket, "AF_HYPERV"):
        yield "hyperv", HOW_TO_RUN_WINDOWS
    if not guard.inside_rig_guest():
        yield "vsock", guard.HOW_TO_RUN


MISSING: dict[str, str] = dict(_missing())
"""Families that cannot be tried here, and how they can. Found without opening a socket."""
