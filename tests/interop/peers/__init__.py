"""Foreign msgpack-RPC implementations that hvrpc must get along with.

Each peer is one or two small programs beside this file, written with that library's own means:

* a **server** listens on the UNIX socket given as its argument and offers ``echo(x)``,
  ``add(a, b)``, ``fail(text)``, ``slow(seconds, x)`` and, if it takes notifications, ``note(x)``
  and ``notes()``, which gives the list of what was noted;
* a **client** connects to the UNIX socket given as its argument, goes through the steps below as
  far as its library can, prints one line of JSON for each (``{"step": "add", "result": 5}`` or
  ``{"step": "fail", "error": …}``) and exits with 0.

The table :data:`PEERS` says who can do what and how it is started.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".cache" / "interop"
"""Where `install.py` puts what comes from npm and pip, and what is built."""
GO_PATH = Path("/usr/share/gocode")
"""Where Debian keeps Go libraries."""

BUILD_SECONDS = 150.0
"""The Go compiler starts with an empty cache once, on a slow machine."""

STEPS: Mapping[str, Any] = {
    "echo": "Grüße",
    "structure": [1, "two", [True, 3.5, -4]],
    "add": 5,
    "fail": "no luck",
    "pipelined": list(range(1, 51)),
    "notes": ["noted"],
    "nested": 42,
}
"""What a client's steps give.

``echo`` and ``structure`` call ``echo``; ``add`` calls ``add(2, 3)``; ``fail`` calls
``fail("no luck")`` and prints the error it got; ``pipelined`` sends fifty calls ``add(n, 1)``
before it waits for the first reply; ``notes`` sends the notification ``note("noted")`` and calls
``notes()``; ``nested`` calls ``nested(method, params)``, and while it waits the server calls that
method back over the same connection and returns what it gave.
"""

Call = tuple[str, list[Any]]


def _by_its_name(method: str, *params: Any) -> Call:
    return method, list(params)


@dataclass(frozen=True)
class Server:
    """How to start a peer as a server, and what it can do."""

    command: Callable[[Path], list[str]]
    spell: Callable[..., Call] = _by_its_name
    """Turns ``("add", 2, 3)`` into the method and params that this server understands."""
    replies_out_of_order: bool = True
    takes_notifications: bool = True


@dataclass(frozen=True)
class Client:
    """How to start a peer as a client, and which steps it goes through."""

    command: Callable[[Path], list[str]]
    steps: frozenset[str]


@dataclass(frozen=True)
class Source:
    """Where a peer comes from: an installer and the names of the packages."""

    installer: str  # apt, pip or npm
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    name: str
    source: Source
    is_installed: Callable[[], bool]
    server: Server | None = None
    client: Client | None = None
    prepare: Callable[[], None] = field(default=lambda: None)
    """Builds what has to be built; run before the first start, quick when there is nothing to do."""

    def missing(self) -> str | None:
        """Why the peer cannot be started and what to do about it; None if it can."""
        if self.is_installed():
            return None
        return f"{self.name} is not installed: run `python -m tests.interop.install {self.name}`"


def _steps_without(*left_out: str) -> frozenset[str]:
    return frozenset(STEPS) - set(left_out)


# Neovim


def _neovim_spelling(method: str, *params: Any) -> Call:
    """Neovim has a fixed set of methods, one of which runs Lua."""
    return "nvim_exec_lua", [_NEOVIM_METHODS[method], list(params)]


_NEOVIM_METHODS = {
    "echo": "return ...",
    "add": "local a, b = ...; return a + b",
    "fail": "error(...)",
    "slow": "local seconds, x = ...; vim.wait(seconds * 1000, function() return false end); return x",
    "note": "noted = noted or {}; table.insert(noted, ...)",
    "notes": "return noted",
}


def _neovim_server(socket: Path) -> list[str]:
    return ["nvim", "--headless", "--clean", "--listen", str(socket)]


def _neovim_client(socket: Path) -> list[str]:
    return [
        *("nvim", "--headless", "--clean", "-i", "NONE"),
        *("--cmd", f"let g:peer_socket = '{socket}'"),
        *("-c", f"luafile {HERE / 'neovim_client.lua'}"),
    ]


# Go


def _go_is_installed() -> bool:
    library = GO_PATH / "src" / "github.com" / "ugorji" / "go" / "codec"
    return shutil.which("go") is not None and library.is_dir()


def _go_binary(source: str) -> Path:
    return CACHE / "go" / source.removesuffix(".go")


def _build_go() -> None:
    for source in ("ugorji_server.go", "ugorji_client.go"):
        binary, written = _go_binary(source), (HERE / source).stat().st_mtime
        if binary.is_file() and binary.stat().st_mtime > written:
            continue
        environment = {
            "GO111MODULE": "off",  # Debian's libraries lie in a GOPATH, without modules
            "GOPATH": str(GO_PATH),
            "GOCACHE": str(CACHE / "go" / "cache"),
            "PATH": "/usr/bin:/bin",
            "CGO_ENABLED": "0",
        }
        command = ["go", "build", "-o", str(binary), str(HERE / source)]
        subprocess.run(command, env=environment, check=True, timeout=BUILD_SECONDS)


def _ugorji_spelling(method: str, *params: Any) -> Call:
    """Go's net/rpc has names of two parts and one argument, here the list of all."""
    return f"Peer.{method.capitalize()}", [params[0] if len(params) == 1 else list(params)]


# Lua


def _lua_is_installed() -> bool:
    if shutil.which("lua5.1") is None:
        return False
    found = subprocess.run(
        ["lua5.1", "-e", "require 'mpack'; require 'socket.unix'"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    return found.returncode == 0


def _lua(script: str) -> Callable[[Path], list[str]]:
    return lambda socket: ["lua5.1", str(HERE / script), str(socket)]


# Python


def environment_of(package: str) -> Path:
    """One environment for each: some need a codec of ten years ago under the name of today's."""
    return CACHE / f"venv-{package}"


def _python_of(package: str) -> Path:
    return environment_of(package) / "bin" / "python"


def _pip_installed(package: str, module: str) -> Callable[[], bool]:
    def is_installed() -> bool:
        libraries = (environment_of(package) / "lib").glob(f"python3.*/site-packages/{module}")
        return _python_of(package).exists() and any(libraries)

    return is_installed


def _python(package: str, script: str) -> Callable[[Path], list[str]]:
    return lambda socket: [str(_python_of(package)), str(HERE / script), str(socket)]


# Node

NODE_MODULES = CACHE / "npm" / "node_modules"


def _npm_installed(package: str) -> Callable[[], bool]:
    return lambda: shutil.which("node") is not None and (NODE_MODULES / package).is_dir()


def _node(script: str) -> Callable[[Path], list[str]]:
    # The programs lie outside the folder of node_modules, so they are told where it is.
    return lambda socket: ["node", str(HERE / script), str(socket), str(NODE_MODULES)]


PEERS: tuple[Peer, ...] = (
    Peer(
        name="neovim",
        source=Source("apt", ("neovim",)),
        is_installed=lambda: shutil.which("nvim") is not None,
        server=Server(_neovim_server, _neovim_spelling),
        # rpcrequest() waits, so there is no pipelining from a script.
        client=Client(_neovim_client, _steps_without("pipelined")),
    ),
    Peer(
        name="ugorji",
        source=Source("apt", ("golang-go", "golang-github-ugorji-go-codec-dev")),
        is_installed=_go_is_installed,
        prepare=_build_go,
        # A notification ends the connection.
        server=Server(
            lambda socket: [str(_go_binary("ugorji_server.go")), str(socket)],
            _ugorji_spelling,
            takes_notifications=False,
        ),
        client=Client(
            lambda socket: [str(_go_binary("ugorji_client.go")), str(socket)],
            _steps_without("notes", "nested"),
        ),
    ),
    Peer(
        name="lua-mpack",
        source=Source("apt", ("lua5.1", "lua-mpack", "lua-socket")),
        is_installed=_lua_is_installed,
        server=Server(_lua("lua_mpack_server.lua"), replies_out_of_order=False),
        client=Client(_lua("lua_mpack_client.lua"), frozenset(STEPS)),
    ),
    Peer(
        name="pynvim",
        source=Source("pip", ("pynvim==0.6.0",)),
        is_installed=_pip_installed("pynvim", "pynvim"),
        client=Client(_python("pynvim", "pynvim_client.py"), _steps_without("pipelined")),
    ),
    Peer(
        name="aio-msgpack-rpc",
        source=Source("pip", ("aio-msgpack-rpc==0.2.0",)),
        is_installed=_pip_installed("aio-msgpack-rpc", "aio_msgpack_rpc"),
        server=Server(_python("aio-msgpack-rpc", "aio_msgpack_rpc_server.py")),
        client=Client(
            _python("aio-msgpack-rpc", "aio_msgpack_rpc_client.py"), _steps_without("nested")
        ),
    ),
    Peer(
        name="txmsgpackrpc",
        source=Source("pip", ("txmsgpackrpc==1.2",)),
        is_installed=_pip_installed("txmsgpackrpc", "txmsgpackrpc"),
        server=Server(_python("txmsgpackrpc", "txmsgpackrpc_server.py")),
        client=Client(_python("txmsgpackrpc", "txmsgpackrpc_client.py"), _steps_without("nested")),
    ),
    Peer(
        name="msgpack5rpc",
        source=Source("npm", ("msgpack5rpc@1.1.0",)),
        is_installed=_npm_installed("msgpack5rpc"),
        server=Server(_node("msgpack5rpc_server.js")),
        client=Client(_node("msgpack5rpc_client.js"), frozenset(STEPS)),
    ),
    Peer(
        name="msgpack-rpc-lite",
        source=Source("npm", ("msgpack-rpc-lite@1.0.2",)),
        is_installed=_npm_installed("msgpack-rpc-lite"),
        server=Server(_node("msgpack_rpc_lite_server.js")),
        client=Client(_node("msgpack_rpc_lite_client.js"), _steps_without("nested")),
    ),
)

SERVERS = {peer.name: peer for peer in PEERS if peer.server is not None}
CLIENTS = {peer.name: peer for peer in PEERS if peer.client is not None}
