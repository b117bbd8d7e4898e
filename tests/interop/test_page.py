"""The page about other implementations says what the catalogue says, and so what the tests expect."""

from __future__ import annotations

import pytest

from .page import PAGE, TABLES, _power, rendered
from .peers import PEERS


def test_its_tables_are_those_of_the_catalogue() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == rendered(page), "write them again: python -m tests.interop.page"


def test_it_has_every_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in TABLES if f"<!-- peers: {name} -->" not in page] == []


def test_every_peer_is_in_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [peer.name for peer in PEERS if f"| `{peer.name}` |" not in page] == []


@pytest.mark.parametrize(
    ("number", "text"),
    [(-(2**31), "-2³¹"), (2**31 - 1, "2³¹-1"), (2**53, "2⁵³"), (-(2**53) + 1, "-2⁵³+1")],
)
def test_numbers_are_written_as_powers(number: int, text: str) -> None:
    assert _power(number) == text
