"""Errors about values say where and what, and stay short."""

from __future__ import annotations

import pickle

import msgpack
import pytest

from hvrpc.msgpack.values import BadValue, key_step, refuse, shown


def test_path_grows_from_the_inside_out() -> None:
    bad = refuse("int", "x").under(".zip").under(".address").under("params[1]")
    assert str(bad) == "params[1].address.zip: expected int, got str 'x'"
    assert (bad.path, bad.expected, bad.got) == ("params[1].address.zip", "int", "str 'x'")


def test_a_path_that_begins_with_a_field_has_no_leading_dot() -> None:
    assert refuse("int", None).under(".zip").path == "zip"


def test_a_value_without_a_path_is_described_alone() -> None:
    assert str(refuse("int", None)) == "expected int, got None"


def test_it_survives_pickling_with_its_path() -> None:
    bad = pickle.loads(pickle.dumps(refuse("int", "x").under("result")))
    assert str(bad) == "result: expected int, got str 'x'"


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000_000,
        b"x" * 10_000_000,
        bytearray(10_000_000),
        memoryview(bytes(10_000_000)),
        list(range(1_000_000)),
        dict.fromkeys(range(1000), "x" * 1000),
        msgpack.ExtType(5, b"x" * 10_000_000),
        [[["x" * 1000] * 1000] * 1000] * 1000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_huge_values_are_shown_short(value: object) -> None:
    assert len(shown(value)) < 400


def test_the_type_is_named_where_the_repr_hides_it() -> None:
    assert shown(1) == "int 1"
    assert shown("1") == "str '1'"
    assert shown(b"1") == "bytes b'1'"
    assert shown(True) == "True"


@pytest.mark.parametrize(
    ("key", "step"),
    [("zip", ".zip"), ("a b", "['a b']"), (7, "[7]"), (b"x", "[b'x']")],
)
def test_steps_to_the_values_of_a_map(key: object, step: str) -> None:
    assert key_step(key) == step


def test_a_huge_key_does_not_make_a_huge_path() -> None:
    assert len(key_step("k" * 1_000_000)) < 100


def test_reasons_follow_in_brackets() -> None:
    bad = BadValue("A | B", "map", ("A: no", "B: neither"))
    assert str(bad) == "expected A | B, got map (A: no; B: neither)"
