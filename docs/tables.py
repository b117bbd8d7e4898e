"""Writes the tables of the documentation that are made from the code, so that they stay true.

    python3 run.py docs            write them
    python3 run.py docs --check    only tell which pages are out of date

A page says where a table goes: `<!-- table: NAME -->` … `<!-- end of table -->`.
"""

from __future__ import annotations

import ast
import errno
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Final

from hvrpc import access, addresses, errors, tls
from hvrpc.cli import manual
from hvrpc.grpc import options as grpc_options
from hvrpc.msgpack import calling, core, limits, streams
from hvrpc.session import aio, opening, threads
from hvrpc.session.threads import sending, serving
from hvrpc.sockets import causes, families, options, tls_causes

DOCS = Path(__file__).resolve().parent

WINDOWS_NAMES: Final = MappingProxyType(
    {
        64: "ERROR_NETNAME_DELETED",
        109: "ERROR_BROKEN_PIPE",
        232: "ERROR_NO_DATA",
        995: "ERROR_OPERATION_ABORTED",
        10004: "WSAEINTR",
        10013: "WSAEACCES",
        10022: "WSAEINVAL",
        10038: "WSAENOTSOCK",
        10041: "WSAEPROTOTYPE",
        10042: "WSAENOPROTOOPT",
        10047: "WSAEAFNOSUPPORT",
        10048: "WSAEADDRINUSE",
        10049: "WSAEADDRNOTAVAIL",
        10050: "WSAENETDOWN",
        10051: "WSAENETUNREACH",
        10053: "WSAECONNABORTED",
        10054: "WSAECONNRESET",
        10057: "WSAENOTCONN",
        10058: "WSAESHUTDOWN",
        10060: "WSAETIMEDOUT",
        10061: "WSAECONNREFUSED",
    }
)
"""Python itself knows these names on Windows only."""


def table(header: str, rows: Iterable[Iterable[object]]) -> str:
    titles = header.split("|")
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(content: object) -> str:
    return " ".join(str(content).split()).replace("|", "\\|")


def error_tree() -> str:
    lines = (errors.__doc__ or "").splitlines()
    tree = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    return "\n".join(["```text", *tree, "```"])


def error_classes() -> str:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.HvrpcError)
    ]
    rows = ((f"`{kind.__name__}`", _told_by(kind), _pythons_own(kind)) for kind in kinds)
    return table("class|attributes, besides those of the class above it|is also a", rows)


def _told_by(kind: type) -> str:
    """The attributes that a class sets itself."""
    names = re.findall(r"^ +self\.([a-z]\w*) = ", inspect.getsource(kind), re.MULTILINE)
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names)) or "-"


def _pythons_own(kind: type) -> str:
    own = (base for base in kind.__bases__ if base.__module__ == "builtins")
    names = [f"`{base.__name__}`" for base in own if base is not Exception]
    return ", ".join(names) or "-"


def outcomes() -> str:
    rows = ((f"`Outcome.{outcome.name}`", outcome.value) for outcome in errors.Outcome)
    return table("`error.outcome`|meaning", rows)


def windows_errors() -> str:
    rows = (
        (f"{code} {WINDOWS_NAMES[code]}", *_columns(meaning))
        for code, meaning in sorted(causes.WINDOWS.items())
    )
    return table("code|what it means here|what to do|class", rows)


def linux_errors(meanings: Mapping[int, causes.Meaning]) -> str:
    rows = ((errno.errorcode[code], *_columns(meaning)) for code, meaning in meanings.items())
    return table("errno|what it means here|what to do|class", rows)


def tls_errors() -> str:
    meanings = dict.fromkeys(each for each in tls_causes.MEANINGS.values() if each.denied)
    rows = ((f"… {meaning.problem}", meaning.remedy) for meaning in meanings)
    return table("the other side|what to do", rows)


def ends_on_windows() -> str:
    codes = (f"{code} ({WINDOWS_NAMES[code]})" for code in sorted(causes._GONE_WINDOWS))
    return f"{', '.join(codes)}."


def _columns(meaning: causes.Meaning) -> tuple[str, str, str]:
    kind = "by operation" if meaning.kind is None else f"`{meaning.kind.__name__}`"
    return meaning.cause, meaning.remedy or "-", kind


def socket_families() -> str:
    rows = (
        (f"`{family.name}`", _first_line(inspect.getmodule(family.connect)))
        for family in families.FAMILIES
    )
    return table("family|what it is", rows)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def attributes(kind: type) -> str:
    """The attributes of a dataclass, with what is written below each of them."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    rows: list[list[str]] = []
    for node in body.body:
        if isinstance(node, ast.AnnAssign):
            default = "-" if node.value is None else f"`{ast.unparse(node.value)}`"
            rows.append([f"`{ast.unparse(node.target)}`", default, ""])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and rows:
            rows[-1][2] = str(node.value.value)
        elif not isinstance(node, ast.Expr):
            break  # methods follow
    return table("name|default|meaning", rows)


def meanings_of_constants(module: ModuleType) -> dict[str, str]:
    """What is written below each constant of a module."""
    constants = ast.parse(inspect.getsource(module)).body
    return {
        ast.unparse(before.target): str(node.value.value)
        for before, node in itertools.pairwise(constants)
        if isinstance(before, ast.AnnAssign)
        and isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
    }


def msgpack_numbers() -> str:
    rows = (
        (f"{getattr(module, name):,}", meanings_of_constants(module)[name])
        for module, name in MSGPACK_NUMBERS
    )
    return table("value|meaning", rows)


MSGPACK_NUMBERS: Final[tuple[tuple[ModuleType, str], ...]] = (
    (calling, "TIMEOUT"),
    (calling, "GRACE"),
    (streams, "WINDOW"),
    (opening, "FIRST_WAIT"),
    (opening, "LONGEST_WAIT"),
    (opening, "LONGEST_OPENING"),
    (threads.session, "VALIDATE_WITHIN"),
    (sending, "STALLED_AFTER"),
    (serving, "MAX_QUEUED"),
    (serving, "MAX_QUEUED_ITEMS"),
    (threads.server, "MAX_CONNECTIONS"),
    (aio.server, "MAX_CONNECTIONS"),
    (core, "CANCEL_COMES_WITHIN"),
)


def named_vms() -> str:
    meaning = meanings_of_constants(addresses)
    names = {guid: name for name, guid in vars(addresses).items() if name.startswith("HV_GUID_")}
    rows = (
        (f"`{name}`", f"`{guid}`", meaning[names[guid]])
        for name, guid in addresses.NAMED_VMS.items()
    )
    return table("name|VM id|meaning", rows)


def grpc_rows(rows: Mapping[str, grpc_options.Row]) -> str:
    lines = ((f"`{name}`", row.meaning) for name, row in rows.items())
    return table("option|what it says", lines)


def fulfilled_grpc_options() -> str:
    return f"{', '.join(f'`{name}`' for name in grpc_options.FULFILLED)}."


TABLES: Final[dict[str, Callable[[], str]]] = {
    "error tree": error_tree,
    "error classes": error_classes,
    "outcomes": outcomes,
    "errors of Windows": windows_errors,
    "ends on Windows": ends_on_windows,
    "errors of AF_VSOCK": lambda: linux_errors(causes.LINUX_VM),
    "errors of Linux": lambda: linux_errors(causes.LINUX),
    "socket families": socket_families,
    "socket options": lambda: attributes(options.Options),
    "peer": lambda: attributes(access.Peer),
    "TLS": lambda: attributes(tls.Tls),
    "TLS errors": tls_errors,
    "named VMs": named_vms,
    "msgpack limits": lambda: attributes(limits.Limits),
    "msgpack numbers": msgpack_numbers,
    "gRPC options of both": lambda: grpc_rows(grpc_options.COMMON),
    "gRPC options of channels": lambda: grpc_rows(grpc_options.CHANNEL),
    "gRPC options of servers": lambda: grpc_rows(grpc_options.SERVER),
    "gRPC options that are fulfilled": fulfilled_grpc_options,
    "commands": manual.commands,
    "exit codes": manual.exit_codes,
}

_PLACE = re.compile(
    r"(?P<begin><!-- table: (?P<name>[^>]+?) -->\n).*?(?P<end><!-- end of table -->)", re.DOTALL
)


def rendered(page: str) -> str:
    """A page with its tables as the code has them now."""
    return _PLACE.sub(
        lambda place: place["begin"] + TABLES[place["name"]]() + "\n" + place["end"], page
    )


def stale_pages() -> list[Path]:
    pages = sorted(DOCS.rglob("*.md"))
    return [page for page in pages if rendered(_read(page)) != _read(page)]


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def main(arguments: list[str]) -> int:
    stale = stale_pages()
    for page in stale:
        print(f"{page.relative_to(DOCS.parent).as_posix()}: out of date")
        if "--check" not in arguments:
            page.write_text(rendered(_read(page)), encoding="utf-8", newline="\n")
            print("  written")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
