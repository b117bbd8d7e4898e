"""Errors as they come from other implementations, and what the caller gets of them."""

from __future__ import annotations

from typing import Any

import pytest

from hvrpc import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidParams,
    MethodNotFound,
    Outcome,
    ProtocolError,
    RemoteError,
)
from hvrpc.msgpack.replies import failure_of, remote_error
from hvrpc.session.core import Call

Expected = tuple[Any, str, Any]

SHAPES: list[tuple[str, Any, Any, Expected]] = [
    ("a string", "it broke", None, (None, "it broke", None)),
    ("Neovim", [1, "Vim:E492"], None, (1, "Vim:E492", None)),
    ("a name and a text", ["ValueError", "bad"], None, ("ValueError", "bad", None)),
    (
        "ours",
        {"code": 5, "message": "no", "data": [1], "traceback": "T"},
        None,
        (5, "no", [1]),
    ),
    ("a map without a code", {"message": "no"}, None, (None, "no", None)),
    ("a map with an odd code", {"message": "no", "code": [1]}, None, (None, "no", None)),
    (
        "Ruby",
        ".CallError.NoMethodError",
        ["no such"],
        (".CallError.NoMethodError", "no such", ["no such"]),
    ),
    ("Ruby, with a text", "Code.Name", "text", ("Code.Name", "text", "text")),
    ("Ruby, with other data", "Code.Name", {"a": 1}, ("Code.Name", "Code.Name", {"a": 1})),
]

DATA: list[Any] = [0, "", [], False, {}, 5, b"bytes", [1, 2, 3], {"code": 1}, ["only"], 1.5]


@pytest.mark.parametrize(
    ("error", "result", "expected"), [each[1:] for each in SHAPES], ids=[each[0] for each in SHAPES]
)
def test_known_shapes(error: Any, result: Any, expected: Expected) -> None:
    found = remote_error(error, result, method="m", address="a")
    assert (found.code, found.message, found.data) == expected
    assert (found.method, found.address) == ("m", "a")
    assert found.outcome is Outcome.ANSWERED


@pytest.mark.parametrize("error", DATA, ids=repr)
def test_anything_else_is_an_error_too_and_its_data_is_kept(error: Any) -> None:
    found = remote_error(error, None, method="m", address="a")
    assert isinstance(found, RemoteError)
    assert str(found)
    if error != "":
        assert found.data == error
        assert repr(error)[:20] in str(found)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(-32601, MethodNotFound), (-32602, InvalidParams), (-32603, RemoteError), (7, RemoteError)],
)
def test_codes_choose_the_class(code: int, kind: type[RemoteError]) -> None:
    assert type(remote_error([code, "text"], None, method="m", address="a")) is kind
    error = {"code": code, "message": "text"}
    assert type(remote_error(error, None, method="m", address="a")) is kind


def test_a_huge_error_makes_no_huge_text() -> None:
    found = remote_error([b"x" * 10_000_000, 1, 2], None, method="m", address="a")
    assert len(str(found)) < 1000


def test_a_traceback_is_kept() -> None:
    error = {"code": 5, "message": "no", "traceback": "Traceback …"}
    assert remote_error(error, None, method="m", address="a").remote_traceback == "Traceback …"
    odd = {"code": 5, "message": "no", "traceback": 5}
    assert remote_error(odd, None, method="m", address="a").remote_traceback is None


@pytest.mark.parametrize("kind", [ConnectionLost, ProtocolError, DeadlineExceeded])
def test_a_failure_names_method_and_address(kind: Any) -> None:
    call = Call()
    call.failure = kind("it ended", outcome=Outcome.NOT_SENT)
    found = failure_of(call, method="add", address="unix:///x")
    assert isinstance(found, kind)
    assert "add at unix:///x: it ended" in str(found)


def test_falsy_errors_of_a_call_are_errors() -> None:
    falsy: list[Any] = [0, "", [], False]
    for error in falsy:
        call = Call()
        call.error = error
        assert isinstance(failure_of(call, method="m", address="a"), RemoteError)
