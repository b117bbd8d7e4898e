"""Who can carry gRPC. A further engine is a further row of `ENGINES`."""

from __future__ import annotations

import importlib
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest

GRPCIO = "grpcio"
NATIVE = "native"
TUNNEL = "tunnel"
C_CORE = (GRPCIO, TUNNEL)
"""Those that are grpcio's own."""
HAS_UNIX = hasattr(socket, "AF_UNIX")
NEEDS_UNIX = "needs UNIX sockets, which Python has on POSIX only: run on Linux"


def unix_socket() -> socket.socket:
    """For peers that are neither engine."""
    if not HAS_UNIX:
        pytest.skip(NEEDS_UNIX)
    return socket.socket(socket.AF_UNIX)


@dataclass(frozen=True)
class Engine:
    """A module with grpcio's functions, and how it spells the path of a UNIX socket."""

    name: str
    module: str
    target: str
    """With a place for the path."""
    wants: tuple[str, ...]
    """What of the module has to exist; otherwise it is not there yet."""
    peer: str
    """A pattern of what `context.peer()` says about a caller on a UNIX socket."""
    keeps: str | None = None
    """What it leaves behind for the rest of the process; None if it cleans up."""
    nobody: str = "{}"
    """What the details of a call say that reaches nobody, with a place for the path."""

    def load(self) -> Any:
        return importlib.import_module(self.module)

    def at(self, path: object) -> str:
        """How it spells that path; where there are no UNIX sockets, an address that stands for it."""
        return self.target.format(path) if HAS_UNIX else self.place_of(path)

    def place_of(self, path: object) -> str:
        """How it calls that path in errors."""
        if HAS_UNIX:
            return str(path)
        return f"local://loopback/{uuid.uuid5(uuid.NAMESPACE_URL, str(path))}"

    def missing(self) -> str | None:
        """Why it cannot be tried; None if it can."""
        if not HAS_UNIX and self.name != NATIVE:
            return "it is tried over UNIX sockets, which Python has on POSIX only: run on Linux"
        try:
            module = self.load()
        except ImportError as error:
            return f"{self.module} cannot be imported: {error}"
        return next(
            (f"{self.module} has no {name} yet" for name in self.wants if not _has(module, name)),
            None,
        )


def _has(module: ModuleType, name: str) -> bool:
    try:
        return hasattr(module, name)
    except ImportError:  # names that are loaded when they are used
        return False


_NATIVE_PEER = r"unix:" if HAS_UNIX else r"(hvsock|local):"
_C_CORE_KEEPS = "grpcio's C core keeps threads and descriptors for the whole process"

BLOCKING: dict[str, Engine] = {
    GRPCIO: Engine(
        GRPCIO, "grpc", "unix:{}", ("insecure_channel", "server"), r"unix:", _C_CORE_KEEPS
    ),
    NATIVE: Engine(NATIVE, "hvrpc.grpc", "unix://{}", ("insecure_channel", "server"), _NATIVE_PEER),
    TUNNEL: Engine(
        TUNNEL,
        f"{__package__}.through_tunnel",
        "unix://{}",
        ("insecure_channel", "server"),
        r"unix-abstract:unix/\d+:",
        _C_CORE_KEEPS,
        nobody="HTTP proxy returned response code 503",
    ),
}

ASYNCIO: dict[str, Engine] = {
    GRPCIO: Engine(
        GRPCIO, "grpc.aio", "unix:{}", ("insecure_channel", "server"), r"unix:", _C_CORE_KEEPS
    ),
    NATIVE: Engine(
        NATIVE, "hvrpc.grpc.aio", "unix://{}", ("insecure_channel", "server"), _NATIVE_PEER
    ),
    TUNNEL: Engine(
        TUNNEL,
        f"{__package__}.aio.through_tunnel",
        "unix://{}",
        ("insecure_channel", "server"),
        r"unix-abstract:unix/\d+:",
        _C_CORE_KEEPS,
        nobody="HTTP proxy returned response code 503",
    ),
}


ON_LOOP: dict[str, Engine] = {
    "native aio": replace(BLOCKING[NATIVE], name="native aio", module=f"{__package__}.on_loop")
}
"""Our server for asyncio, which meets the same clients. Its handlers run in threads."""


def pairs(
    engines: dict[str, Engine],
    *,
    mixed: bool = True,
    wanted: Callable[[str], bool] = lambda _: True,
) -> list[Any]:
    """Parameters: who calls and who serves. Those that cannot be tried are skipped with a reason."""
    chosen = [
        (calling, serving)
        for calling in engines
        for serving in engines
        if (mixed or calling == serving)
        and (wanted(calling) or wanted(serving))
        # What carries bytes for the C core meets itself: who is at the ends is in the other pairs.
        and (calling == serving or TUNNEL not in (calling, serving))
    ]
    return [_pair(engines[calling], engines[serving]) for calling, serving in chosen]


def _pair(calling: Engine, serving: Engine) -> Any:
    marks: list[pytest.MarkDecorator] = []
    reason = calling.missing() or serving.missing()
    if reason:
        marks.append(pytest.mark.skip(reason=reason))
    keeps = calling.keeps or serving.keeps
    if keeps:
        marks.append(pytest.mark.may_leave(keeps))
    if calling.name in C_CORE:
        # Its thread that watches a channel may find it closed, and says so by dying.
        ignored = "ignore::pytest.PytestUnhandledThreadExceptionWarning"
        marks.append(pytest.mark.filterwarnings(ignored))
    name = f"{calling.name} calls {serving.name}"
    return pytest.param((calling, serving), id=name, marks=marks)


any_server = pytest.mark.parametrize("bench", [*pairs(BLOCKING), *pairs(ON_LOOP)], indirect=True)
"""For what does not depend on how a server is told to do it: it holds for ours on a loop as well."""
