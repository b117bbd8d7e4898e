"""Which header lists are well formed, row by row (RFC 9113, section 8.2 and 8.3)."""

from __future__ import annotations

import pytest

from hvrpc.http2.fields import (
    Fields,
    content_length,
    request_problem,
    response_problem,
    trailers_problem,
    unsendable,
)

GOOD: Fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"))


@pytest.mark.parametrize(
    "fields",
    [
        GOOD,
        (*GOOD, (b":authority", b"host"), (b"te", b"trailers"), (b"x-y_z.1", b"")),
        (*GOOD, (b"x", b" spaces are tolerated ")),
        ((b":method", b"CONNECT"), (b":authority", b"host:1")),
    ],
)
def test_good_requests(fields: Fields) -> None:
    assert request_problem(fields) == ""


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (GOOD[1:], ":method is missing"),
        (GOOD[:2], ":path is missing"),
        (((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"")), ":path is missing"),
        ((*GOOD, (b":path", b"/")), "twice"),
        ((*GOOD, (b"x", b"y"), (b":authority", b"h")), "after a regular"),
        ((*GOOD, (b":status", b"200")), "does not belong"),
        ((*GOOD, (b":unknown", b"200")), "does not belong"),
        ((*GOOD, (b"Upper", b"x")), "not allowed"),
        ((*GOOD, (b"", b"x")), "not allowed"),
        ((*GOOD, (b"sp ace", b"x")), "not allowed"),
        ((*GOOD, (b"x:y", b"x")), "not allowed"),
        ((*GOOD, (b"\xc3\xbc", b"x")), "not allowed"),
        ((*GOOD, (b"x", b"a\nb")), "not allowed"),
        ((*GOOD, (b"x", b"a\rb")), "not allowed"),
        ((*GOOD, (b"x", b"a\0b")), "not allowed"),
        ((*GOOD, (b":authority", b"a\0b")), "not allowed"),
        ((*GOOD, (b"connection", b"close")), "no place"),
        ((*GOOD, (b"transfer-encoding", b"chunked")), "no place"),
        ((*GOOD, (b"te", b"gzip")), "no place"),
        (((b":method", b"CONNECT"), (b":path", b"/")), "CONNECT"),
    ],
)
def test_malformed_requests(fields: Fields, problem: str) -> None:
    assert problem in request_problem(fields)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ((), ":status"),
        (((b":status", b"2000"),), ":status"),
        (((b":status", b"abc"),), ":status"),
        (((b":status", b"200"), (b":status", b"200")), "twice"),
        (((b":status", b"200"), (b":path", b"/")), "does not belong"),
    ],
)
def test_malformed_responses(fields: Fields, problem: str) -> None:
    assert problem in response_problem(fields)
    assert response_problem(((b":status", b"200"), (b"x", b"y"))) == ""


def test_trailers_have_no_pseudo_headers() -> None:
    assert trailers_problem(((b"grpc-status", b"0"),)) == ""
    assert "does not belong" in trailers_problem(((b":status", b"200"),))


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ([], None),
        ([b"5"], 5),
        ([b"5", b"5"], 5),
        ([b"5", b"6"], -1),
        ([b"-1"], -1),
        ([b"1" * 20], -1),
        ([b""], -1),
    ],
)
def test_content_length_is_a_number_or_wrong(values: list[bytes], length: int | None) -> None:
    assert content_length([(b"content-length", value) for value in values]) == length


@pytest.mark.parametrize(
    "field", [(b"Upper", b"x"), (b"x", b"a\nb"), (b"", b""), ("text", b"x"), (b"x", "text")]
)
def test_what_we_may_not_send(field: tuple[bytes, bytes]) -> None:
    assert unsendable((field,))
    assert not unsendable(GOOD)


def test_remembered_names_are_still_checked_for_their_values() -> None:
    for _ in range(2):
        assert trailers_problem(((b"fine", b"x"), (b"te", b"trailers"))) == ""
    assert trailers_problem(((b"fine", b"a\0b"),))
    assert trailers_problem(((b"te", b"gzip"),))
