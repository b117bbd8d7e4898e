"""Imports point down: the picture of docs/explanation/architecture.md, held to.

A module imports from lower layers and from its own package, never from a layer above or beside it.
What is called sans-IO touches no socket, thread, loop or clock.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hvrpc

PACKAGE = Path(hvrpc.__file__).parent

LAYERS = (
    # Lowest first. What stands in one line does not know of each other.
    ("errors",),
    ("rpc_errors", "stopping"),
    ("addresses",),
    ("access",),
    ("authority", "tls"),
    ("security",),
    ("windows",),
    ("sockets",),
    ("session", "relay"),
    ("msgpack.values",),
    ("http2", "msgpack.wire"),
    ("msgpack", "grpc"),
    ("services",),
    ("testing",),
    ("cli",),
)
ONE_LAYER = {
    # How values are written and checked takes several files, which know each other.
    f"msgpack.{name}": "msgpack.values"
    for name in ("extensions", "hints", "limits", "readers", "signatures", "writers")
}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

PROTOCOLS = ("http2", "msgpack.wire")
KNOWN_TO_PROTOCOLS = {"errors", "msgpack.values"}
"""All of hvrpc that a protocol's core may know: it does not care what carries its bytes."""

SANS_IO = (
    *PROTOCOLS,
    "msgpack.values",
    *ONE_LAYER,
    "session.core",
    "session.state",
    *(f"grpc.{name}" for name in ("status", "timeouts", "metadata", "messages", "options")),
    "grpc.service_config",
)
"""Modules that decide, and leave acting to others."""
IO_MODULES = {
    "_thread",
    "asyncio",
    "concurrent",
    "multiprocessing",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}


def modules() -> list[str]:
    """Every module of hvrpc by its name without "hvrpc.": `sockets.local`, `errors`."""
    files = PACKAGE.rglob("*.py")
    names = {".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in files}
    # The top exports what users need, from any layer; `__main__` is a name for the command line.
    return sorted(names - {"__init__", "__main__"})


def layer_of(module: str) -> str | None:
    """The innermost layer that a module is in."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    layers = (ONE_LAYER.get(name, name) for name in names)
    return next((layer for layer in layers if layer in RANK), None)


def is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def imports_of(module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, also for type checkers only."""
    file = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    package = ["hvrpc", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def imported_layers(module: str) -> Iterator[tuple[int, str]]:
    for line, name in imports_of(module):
        if name.startswith("hvrpc."):
            layer = layer_of(name.removeprefix("hvrpc."))
            if layer is not None:
                yield line, layer


@pytest.mark.parametrize("module", modules())
def test_every_module_belongs_to_a_layer(module: str) -> None:
    assert layer_of(module), f"give {module} a place in LAYERS, and in the picture of the docs"


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    own = layer_of(module)
    assert own is not None
    wrong = [
        f"line {line}: {own} imports {layer}"
        for line, layer in imported_layers(module)
        if layer != own and RANK[layer] >= RANK[own]
    ]
    assert not wrong


@pytest.mark.parametrize("module", [name for name in modules() if is_in(name, SANS_IO)])
def test_sans_io_modules_touch_no_socket_thread_loop_or_clock(module: str) -> None:
    io = [
        f"line {line}: {name}"
        for line, name in imports_of(module)
        if name.partition(".")[0] in IO_MODULES
    ]
    assert not io


@pytest.mark.parametrize("module", [name for name in modules() if is_in(name, PROTOCOLS)])
def test_protocol_cores_know_nothing_of_what_carries_them(module: str) -> None:
    known = KNOWN_TO_PROTOCOLS | {layer_of(module)}
    wrong = [
        f"line {line}: {layer}" for line, layer in imported_layers(module) if layer not in known
    ]
    assert not wrong


def test_only_the_sockets_package_names_a_family_module() -> None:
    families = {"hyperv", "vsock", "hybrid", "local", "unix", "tcp"}
    wrong = [
        f"{module}, line {line}: {name}"
        for module in modules()
        if layer_of(module) not in ("sockets", "testing")
        for line, name in imports_of(module)
        if name.startswith("hvrpc.sockets.") and name.split(".")[2] in families
    ]
    assert not wrong


def test_the_picture_in_the_documentation_shows_these_layers() -> None:
    page = Path(__file__).parents[1] / "docs" / "explanation" / "architecture.md"
    picture = page.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    assert RANK.keys() <= set(picture.split())
