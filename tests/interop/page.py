"""Writes the tables of `docs/reference/interop.md` from the catalogue: ``python -m tests.interop.page``.

The page says where a table goes: ``<!-- peers: NAME -->`` … ``<!-- end of peers -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from .peers import CLIENTS, PEERS, SERVERS, Values

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "interop.md"

_PLACE = re.compile(
    r"(?P<begin><!-- peers: (?P<name>[a-z]+) -->\n).*?(?P<end><!-- end of peers -->)", re.DOTALL
)


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _peers() -> str:
    titles = ("peer", "what", "from", "it serves", "it calls")
    return _table(
        titles,
        (
            (
                f"`{peer.name}`",
                peer.what,
                f"{peer.source.installer}: "
                + ", ".join(f"`{name}`" for name in peer.source.packages),
                _yes(peer.server is not None),
                _yes(peer.client is not None),
            )
            for peer in PEERS
        ),
    )


def _servers() -> str:
    titles = (
        *("peer", "`hello=`", "answers out of order", "takes notifications"),
        *(
            "bytes come back as",
            "integers that do",
            "floats such as 2.0",
            "unknown extension types",
        ),
    )
    return _table(titles, _rows_of_servers())


def _rows_of_servers() -> Iterator[tuple[str, ...]]:
    for name, peer in SERVERS.items():
        server = peer.server
        assert server is not None
        yield (
            f"`{name}`",
            "either" if server.takes_hello else "`False`",
            _yes(server.replies_out_of_order),
            _yes(server.takes_notifications),
            "bytes" if server.values.bytes_as is bytes else "text",
            _integers(server.values),
            server.values.whole_floats.value,
            server.values.ext.value,
        )


def _integers(values: Values) -> str:
    if values.integers == Values().integers:
        return "all"
    return " to ".join(map(_power, values.integers))


def _power(number: int) -> str:
    """A number beside a power of two: -2³¹, 2³¹-1."""
    size = abs(number)
    short = size & (size - 1) != 0  # one less than the power
    exponent = (size + short).bit_length() - 1
    assert size + short == 2**exponent
    sign, rest = ("-", "+1") if number < 0 else ("", "-1")
    raised = str(exponent).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{sign}2{raised}{rest if short else ''}"


def _clients() -> str:
    titles = ("peer", "calls many at a time", "notifies", "is called back while it waits")
    steps = ("pipelined", "notes", "nested")
    return _table(
        titles,
        (
            (f"`{name}`", *(_yes(step in peer.client.steps) for step in steps))
            for name, peer in CLIENTS.items()
            if peer.client is not None
        ),
    )


def _minding() -> str:
    remarks = [
        (f"`{peer.name}`", role, end.mind)
        for peer in PEERS
        for role, end in (("serves", peer.server), ("calls", peer.client))
        if end is not None and end.mind
    ]
    return _table(("peer", "when it", "mind"), remarks)


TABLES: Mapping[str, Callable[[], str]] = {
    "all": _peers,
    "servers": _servers,
    "clients": _clients,
    "minding": _minding,
}


def rendered(page: str) -> str:
    """The page with its tables as the catalogue has them."""
    return _PLACE.sub(
        lambda place: place["begin"] + TABLES[place["name"]]() + "\n" + place["end"], page
    )


def main() -> None:
    written = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(rendered(written), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
