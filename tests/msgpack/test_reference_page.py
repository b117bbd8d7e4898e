"""`docs/reference/msgpack-rpc.md` leaves nothing out: every public name, setting and default is there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hvrpc.msgpack
from hvrpc.msgpack import aio
from hvrpc.msgpack.limits import DEFAULT
from hvrpc.session.state import Heartbeat
from hvrpc.session.threads.server import MAX_CONNECTIONS
from hvrpc.sockets import DEFAULT as DEFAULT_OPTIONS

TEXT = (Path(__file__).parents[2] / "docs/reference/msgpack-rpc.md").read_text(encoding="utf-8")

PUBLIC: list[tuple[str, type]] = [
    (name, thing)
    for name, thing in vars(hvrpc.msgpack).items()
    if name in hvrpc.msgpack.__all__ and inspect.isclass(thing)
]

SHOWN = {DEFAULT: "Limits()", DEFAULT_OPTIONS: "Options()", MAX_CONNECTIONS: "1000"}
"""How a default is written on the page, where `repr` would be of no use."""


def defaults(function: Callable[..., Any]) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()
    return {
        each.name: each.default
        for each in parameters
        if each.kind is each.KEYWORD_ONLY and each.default is not each.empty
    }


def row_of(name: str, section: str) -> str:
    body = TEXT.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in body.splitlines() if line.startswith(f"| `{name}`")]
    assert rows, f"{name} is missing"
    return rows[0]


@pytest.mark.parametrize("name", hvrpc.msgpack.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert f"`{name}" in TEXT or f".{name}(" in TEXT


@pytest.mark.parametrize(("name", "default"), defaults(hvrpc.msgpack.connect).items())
def test_every_setting_of_connect_with_its_default(name: str, default: object) -> None:
    shown = SHOWN.get(default) or repr(default)
    assert f"| `{shown}` |" in row_of(name, "`connect(")


@pytest.mark.parametrize(("name", "default"), defaults(hvrpc.msgpack.Server.__init__).items())
def test_every_setting_of_a_server_with_its_default(name: str, default: object) -> None:
    shown = SHOWN.get(default) or repr(default)
    assert f"| `{shown}` |" in row_of(name, "`Server(") or f"| {shown};" in row_of(name, "`Server(")


@pytest.mark.parametrize("kind", [kind for _, kind in PUBLIC], ids=lambda kind: kind.__name__)
def test_every_public_method_is_there(kind: type) -> None:
    names = [name for name in vars(kind) if not name.startswith("_")]
    # What connections call, and what a mapping has anyway.
    internal = {"of", "describe", "table", "default", "ext_hook"}
    missing = [name for name in names if name not in internal and name not in TEXT]
    assert not missing


def test_asyncio_takes_the_same_settings() -> None:
    """So that one table serves both."""
    assert defaults(aio.Client.__init__) == defaults(hvrpc.msgpack.connect)
    of_aio, of_threads = defaults(aio.Server.__init__), defaults(hvrpc.msgpack.Server.__init__)
    of_threads["max_connections"] = of_aio["max_connections"]
    assert of_aio == of_threads
    assert of_aio["dead_after"] == Heartbeat.DEAD_AFTER
