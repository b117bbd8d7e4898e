"""Several relays, described in a TOML file.

    [[tunnel]]
    listen = "unix:///run/web.sock"
    target = "hvsock://web/50051"
    allow = ["uid:1000"]

    [tunnel.target_tls]
    ca = "ca.pem"

A mistake is reported with the file, the tunnel and the key it is in, and what would be right.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from .. import sockets
from ..access import Access
from ..addresses import Address
from ..errors import AddressError, HvrpcError
from ..security import Security
from ..sockets import MAX_TIMEOUT, Options
from ..tls import Tls
from .joint import LINGER
from .relay import MAX_CONNECTIONS, Relay

TABLE: Final = "tunnel"
MAX_FILE: Final = 1024 * 1024
"""Bytes: thousands of tunnels, and not a disk image that was named by mistake."""


class RouteError(HvrpcError, ValueError):
    """A description of tunnels is wrong."""

    def __init__(self, where: str, problem: str, example: str = "") -> None:
        super().__init__(where, problem, example)
        self.where = where
        self.problem = problem
        self.example = example

    def __str__(self) -> str:
        right = f" (right: {self.example})" if self.example else ""
        return f"{self.where}: {self.problem}{right}"


@dataclass(frozen=True, slots=True)
class Route:
    """One relay: where it listens, and what happens to those who call."""

    listen: Address
    target: Address
    name: str = ""
    """For the log; without it the address it listens on."""
    allow: tuple[str | int, ...] | None = None
    """Who may call: :mod:`hvrpc.access`. None: everybody who can reach the address."""
    tls: Tls | None = None
    """For callers. Its paths are as they are found from the folder of the file."""
    expect: tuple[str | int, ...] | None = None
    """Who has to be at the target."""
    target_tls: Tls | None = None
    max_connections: int = MAX_CONNECTIONS
    connect_timeout: float = sockets.DEFAULT_TIMEOUT
    linger: float = LINGER
    remote_tcp_without_tls: bool = False

    def open(self) -> Relay:
        """A relay that listens already. Next: `start()`.

        Raises :class:`hvrpc.ListenError`, and :class:`hvrpc.CredentialsError` for files that cannot be
        used.
        """
        security, target_security = self.securities()
        return Relay.between(
            self.listen,
            self.target,
            name=self.name,
            security=security,
            target_security=target_security,
            max_connections=self.max_connections,
            connect_timeout=self.connect_timeout,
            linger=self.linger,
            options=Options(remote_tcp_without_tls=self.remote_tcp_without_tls),
        )

    def securities(self) -> tuple[Security, Security]:
        """What is asked of callers, and of the target.

        Raises :class:`hvrpc.CredentialsError` for files that cannot be used.
        """
        return (
            Security.of_server(self.allow, self.tls),
            Security.of_client(self.expect, self.target_tls),
        )

    def __str__(self) -> str:
        return f"{self.name or 'tunnel'}: {self.listen} -> {self.target}"


def read_routes(path: str | Path) -> list[Route]:
    """The tunnels of a file.

    Raises :class:`RouteError` for what is wrong in it, and OSError when it cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise RouteError(str(path), f"it is larger than {MAX_FILE:,} bytes", "a small TOML file")
    try:
        found = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise RouteError(str(path), f"it is not UTF-8: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise RouteError(str(path), f"it is not TOML: {error}") from error
    return routes_of(found, str(path))


def routes_of(found: dict[str, Any], where: str) -> list[Route]:
    """The tunnels that a parsed file describes."""
    if unknown := found.keys() - {TABLE}:
        raise RouteError(where, f"unknown: {', '.join(sorted(unknown))}", f"[[{TABLE}]]")
    tables = found.get(TABLE)
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise RouteError(where, "it describes no tunnel", f"[[{TABLE}]]")
    folder = Path(where).parent
    routes = [_route_of(table, f"{where}, tunnel {n}", folder) for n, table in enumerate(tables, 1)]
    seen: dict[Address, int] = {}
    for n, route in enumerate(routes, 1):
        if route.listen in seen:
            problem = f"tunnel {seen[route.listen]} listens on {route.listen} already"
            raise RouteError(f"{where}, tunnel {n}", problem)
        if getattr(route.listen, "port", None) != 0:  # which stands for a port of its own
            seen[route.listen] = n
    return routes


def _route_of(table: dict[str, Any], where: str, folder: Path) -> Route:
    if unknown := table.keys() - _READERS.keys():
        known = ", ".join(_READERS)
        raise RouteError(where, f"unknown: {', '.join(sorted(unknown))}; there are {known}")
    for key in ("listen", "target"):
        if key not in table:
            raise RouteError(where, f"{key} is missing", _EXAMPLES[key])
    values: dict[str, Any] = {}
    for key, value in table.items():
        try:
            values[key] = _READERS[key](value)
        except AddressError as error:
            raise RouteError(f"{where}, {key}", str(error)) from error
        except (TypeError, ValueError) as error:
            raise RouteError(f"{where}, {key}", str(error), _EXAMPLES[key]) from error
    for key in ("tls", "target_tls"):
        if key in values:
            values[key] = _with_paths(values[key], folder)
    return Route(**values)


def _with_paths(tls: Tls, folder: Path) -> Tls:
    """Files beside the file that names them. A path that is absolute stays what it is."""
    files = {key: getattr(tls, key) for key in ("ca", "certificate", "key")}
    return replace(tls, **{key: folder / file for key, file in files.items() if file is not None})


# --- What the keys hold -------------------------------------------------------------------------


def _address(value: object) -> Address:
    if not isinstance(value, str):
        raise TypeError(f"it is an address in quotes, not {value!r}")
    return Address.parse(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"it is a text, not {value!r}")
    return value


def _rules(value: object) -> tuple[str | int, ...]:
    given = value if isinstance(value, list) else [value]
    rules = [r for r in given if isinstance(r, str | int) and not isinstance(r, bool)]
    if len(rules) != len(given):
        raise TypeError(f"it is a list of rules, not {value!r}")
    Access(rules)  # raises for one that is none
    return tuple(rules)


_TLS_KEYS: Final = {"ca", "certificate", "key", "names"}


def _tls(value: object) -> Tls:
    if not isinstance(value, dict):
        raise TypeError(f"it is a table, not {value!r}")
    if unknown := value.keys() - _TLS_KEYS:
        known = ", ".join(sorted(_TLS_KEYS))
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {known}")
    for key, given in value.items():
        texts = given if key == "names" and isinstance(given, list) else [given]
        if not all(isinstance(text, str) and text for text in texts):
            raise TypeError(f"{key} is a text, not {given!r}")
    return Tls(**value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"it is a number above 0, not {value!r}")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT:
        return float(value)
    raise ValueError(f"it is a number of seconds above 0, at most a day, not {value!r}")


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"it is true or false, not {value!r}")
    return value


_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "listen": _address,
    "target": _address,
    "name": _text,
    "allow": _rules,
    "tls": _tls,
    "expect": _rules,
    "target_tls": _tls,
    "max_connections": _count,
    "connect_timeout": _seconds,
    "linger": _seconds,
    "remote_tcp_without_tls": _yes_or_no,
}
_EXAMPLES: Final = {
    "listen": 'listen = "tcp://127.0.0.1:8080"',
    "target": 'target = "hvsock://web/50051"',
    "name": 'name = "web"',
    "allow": 'allow = ["parent", "cid:3", "uid:1000"]',
    "tls": 'tls = { certificate = "host.pem", key = "host-key.pem" }',
    "expect": 'expect = "web"',
    "target_tls": 'target_tls = { ca = "ca.pem" }',
    "max_connections": "max_connections = 100",
    "connect_timeout": "connect_timeout = 5",
    "linger": "linger = 30",
    "remote_tcp_without_tls": "remote_tcp_without_tls = true",
}
assert set(_READERS) == {field.name for field in fields(Route)} == set(_EXAMPLES)
