"""Foreign implementations of msgpack-RPC, and of gRPC, that hvrpc must get along with.

Each peer of msgpack-RPC is one or two small programs beside this file, written with that library's own means:

* a **server** listens on the UNIX socket given as its argument and offers ``echo(x)``,
  ``add(a, b)``, ``fail(text)``, ``slow(seconds, x)`` and, if it takes notifications, ``note(x)``
  and ``notes()``, which gives the list of what was noted;
* a **client** connects to the UNIX socket given as its argument, goes through the steps below as
  far as its library can, prints one line of JSON for each (``{"step": "add", "result": 5}`` or
  ``{"step": "fail", "error": …}``) and exits with 0.

The table :data:`PEERS` says who can do what and how it is started. It is what the tests expect, and
what `docs/reference/interop.md` says (written by `page.py`).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
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


class Ext(Enum):
    """What becomes of an extension type that the peer knows nothing about."""

    KEPT = "as they were"
    NIL = "nil"
    TEXT = "text"
    FATAL = "its process dies"


class Whole(Enum):
    """What becomes of a float without a fraction, such as 2.0."""

    FLOAT = "as they were"
    INTEGER = "integers"


@dataclass(frozen=True)
class Values:
    """How values come back from a server's ``echo`` that not every library tells apart."""

    bytes_as: type[bytes | str] = bytes
    integers: tuple[int, int] = (-(2**63), 2**64 - 1)
    """The smallest and the largest of those that come back as they were."""
    whole_floats: Whole = Whole.FLOAT
    ext: Ext = Ext.KEPT


@dataclass(frozen=True)
class Server:
    """How to start a peer as a server, and what it can do."""

    command: Callable[[Path], list[str]]
    spell: Callable[..., Call] = _by_its_name
    """Turns ``("add", 2, 3)`` into the method and params that this server understands."""
    takes_hello: bool = True
    """Whether hvrpc's hello does no harm. Otherwise it has to be called with ``hello=False``."""
    replies_out_of_order: bool = True
    takes_notifications: bool = True
    error_code: int | str | None = None
    """The code of the error when a method fails."""
    values: Values = Values()
    mind: str = ""
    """What its callers should know, for the page of the documentation."""


@dataclass(frozen=True)
class Client:
    """How to start a peer as a client, and which steps it goes through."""

    command: Callable[[Path], list[str]]
    steps: frozenset[str]
    mind: str = ""
    """What the server it calls should know, for the page of the documentation."""


@dataclass(frozen=True)
class Source:
    """Where a peer comes from: an installer and the names of the packages."""

    installer: str  # apt, pip or npm
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    name: str
    what: str
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
        what="Neovim, an editor (C)",
        source=Source("apt", ("neovim",)),
        is_installed=lambda: shutil.which("nvim") is not None,
        server=Server(
            _neovim_server,
            _neovim_spelling,
            error_code=0,
            values=Values(
                bytes_as=str,
                integers=(-(2**53), 2**53),
                whole_floats=Whole.INTEGER,
                ext=Ext.NIL,
            ),
            mind="Here through Lua, which has no other numbers than floats; the API itself has "
            "int64. Map keys have to be text. See [Neovim](#neovim)",
        ),
        # rpcrequest() waits, so there is no pipelining from a script.
        client=Client(
            _neovim_client,
            _steps_without("pipelined"),
            mind="`sockconnect('pipe', path, {'rpc': 1})`, `rpcrequest`, `rpcnotify`",
        ),
    ),
    Peer(
        name="ugorji",
        what="`net/rpc` with `codec.MsgpackSpecRpc` (Go)",
        source=Source("apt", ("golang-go", "golang-github-ugorji-go-codec-dev")),
        is_installed=_go_is_installed,
        prepare=_build_go,
        # A notification ends the connection.
        server=Server(
            lambda socket: [str(_go_binary("ugorji_server.go")), str(socket)],
            _ugorji_spelling,
            takes_notifications=False,
            values=Values(bytes_as=str),
            mind="A notification ends the connection, and so does a map key that is not text. "
            "Names have two parts (`Peer.Echo`), methods one parameter. `RawToString` is set, "
            "or text would come back as bytes",
        ),
        client=Client(
            lambda socket: [str(_go_binary("ugorji_client.go")), str(socket)],
            _steps_without("notes", "nested"),
            mind="`MsgpackSpecRpcMultiArgs` for more than one parameter",
        ),
    ),
    Peer(
        name="lua-mpack",
        what="libmpack's session (C, Lua)",
        source=Source("apt", ("lua5.1", "lua-mpack", "lua-socket")),
        is_installed=_lua_is_installed,
        server=Server(
            _lua("lua_mpack_server.lua"),
            replies_out_of_order=False,
            values=Values(
                bytes_as=str,
                integers=(-(2**53), 2**53),
                whole_floats=Whole.INTEGER,
                ext=Ext.TEXT,
            ),
            mind="Leaves sockets to its user; the one tried here carries out one call after the "
            "other. An empty map comes back as an empty array. Version 1.0.7 sends -129 as 127, "
            "and -32769 as 32767",
        ),
        client=Client(_lua("lua_mpack_client.lua"), frozenset(STEPS)),
    ),
    Peer(
        name="pynvim",
        what="Neovim's client library (Python)",
        source=Source("pip", ("pynvim==0.6.0",)),
        is_installed=_pip_installed("pynvim", "pynvim"),
        client=Client(
            _python("pynvim", "pynvim_client.py"),
            _steps_without("pipelined"),
            mind="Introduces itself by the notification `nvim_set_client_info`, its name as "
            "binary; it is ignored unless it is offered",
        ),
    ),
    Peer(
        name="aio-msgpack-rpc",
        what="aio-msgpack-rpc (Python)",
        source=Source("pip", ("aio-msgpack-rpc==0.2.0",)),
        is_installed=_pip_installed("aio-msgpack-rpc", "aio_msgpack_rpc"),
        server=Server(
            _python("aio-msgpack-rpc", "aio_msgpack_rpc_server.py"),
            mind="After a map key that is not text it never answers again on that connection, "
            "nor closes it",
        ),
        client=Client(
            _python("aio-msgpack-rpc", "aio_msgpack_rpc_client.py"), _steps_without("nested")
        ),
    ),
    Peer(
        name="txmsgpackrpc",
        what="txmsgpackrpc (Python, Twisted)",
        source=Source("pip", ("txmsgpackrpc==1.2",)),
        is_installed=_pip_installed("txmsgpackrpc", "txmsgpackrpc"),
        server=Server(
            _python("txmsgpackrpc", "txmsgpackrpc_server.py"),
            values=Values(bytes_as=str),
            mind="The text of an error is a traceback",
        ),
        client=Client(_python("txmsgpackrpc", "txmsgpackrpc_client.py"), _steps_without("nested")),
    ),
    Peer(
        name="msgpack5rpc",
        what="msgpack5rpc (JavaScript)",
        source=Source("npm", ("msgpack5rpc@1.1.0",)),
        is_installed=_npm_installed("msgpack5rpc"),
        server=Server(
            _node("msgpack5rpc_server.js"),
            values=Values(
                integers=(-(2**53) + 1, 2**53 - 1), whole_floats=Whole.INTEGER, ext=Ext.FATAL
            ),
            mind="Map keys come back as text",
        ),
        client=Client(_node("msgpack5rpc_client.js"), frozenset(STEPS)),
    ),
    Peer(
        name="msgpack-rpc-lite",
        what="msgpack-rpc-lite (JavaScript)",
        source=Source("npm", ("msgpack-rpc-lite@1.0.2",)),
        is_installed=_npm_installed("msgpack-rpc-lite"),
        server=Server(
            _node("msgpack_rpc_lite_server.js"),
            values=Values(integers=(-(2**31), 2**31 - 1), whole_floats=Whole.INTEGER),
            mind="Larger integers come back as floats, ids too. Map keys come back as text",
        ),
        client=Client(_node("msgpack_rpc_lite_client.js"), _steps_without("nested")),
    ),
)

GRPC_PROTO = HERE.parent / "grpc" / "testing.proto"


def _grpc_js(script: str) -> Callable[[Path], list[str]]:
    command = _node(script)
    return lambda socket: [*command(socket), str(GRPC_PROTO)]


GRPC_PEERS: tuple[Peer, ...] = (
    Peer(
        name="grpc-js",
        what="@grpc/grpc-js (JavaScript)",
        source=Source("npm", ("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1")),
        is_installed=_npm_installed("@grpc/grpc-js"),
        server=Server(_grpc_js("grpc_js_server.js")),
        client=Client(_grpc_js("grpc_js_client.js"), frozenset()),
    ),
)
"""Those that speak gRPC: they go through the cases of `tests/interop/grpc`."""

SERVERS = {peer.name: peer for peer in PEERS if peer.server is not None}
CLIENTS = {peer.name: peer for peer in PEERS if peer.client is not None}
