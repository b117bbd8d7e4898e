"""How calls end: every code, every text, and nonsense."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvrpc.grpc.status import (
    CODES,
    NUMBERS,
    code_of,
    code_of_http,
    code_of_reset,
    decode_message,
    details_of_http,
    encode_message,
)
from hvrpc.http2 import ErrorCode


def test_codes_stand_at_their_numbers() -> None:
    assert len(CODES) == 17
    assert all(code.value[0] == number for number, code in enumerate(CODES))


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_code_survives_the_wire(code: grpc.StatusCode) -> None:
    assert code_of(NUMBERS[code]) is code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"05", grpc.StatusCode.NOT_FOUND),
        (b"000", grpc.StatusCode.OK),
        (b"17", grpc.StatusCode.UNKNOWN),
        (b"99999999999999999999", grpc.StatusCode.UNKNOWN),
        (b"-1", grpc.StatusCode.INTERNAL),
        (b"abc", grpc.StatusCode.INTERNAL),
        (b"", grpc.StatusCode.INTERNAL),
        (b"5 ", grpc.StatusCode.INTERNAL),
    ],
)
def test_other_values_mean_what_the_c_core_makes_of_them(
    value: bytes, code: grpc.StatusCode
) -> None:
    assert code_of(value) is code


@pytest.mark.parametrize(
    ("error_code", "code"),
    [
        (ErrorCode.NO_ERROR, grpc.StatusCode.INTERNAL),
        (ErrorCode.PROTOCOL_ERROR, grpc.StatusCode.INTERNAL),
        (ErrorCode.REFUSED_STREAM, grpc.StatusCode.UNAVAILABLE),
        (ErrorCode.CANCEL, grpc.StatusCode.CANCELLED),
        (ErrorCode.ENHANCE_YOUR_CALM, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (ErrorCode.INADEQUATE_SECURITY, grpc.StatusCode.PERMISSION_DENIED),
        (4711, grpc.StatusCode.INTERNAL),
    ],
)
def test_a_reset_stream_has_a_status(error_code: int, code: grpc.StatusCode) -> None:
    found, details = code_of_reset(error_code)
    assert found is code
    assert details == (
        f"Stream removed (RST_STREAM (Received RST_STREAM with error code {int(error_code)}))"
    )


@pytest.mark.parametrize(
    ("http", "code"),
    [
        (200, grpc.StatusCode.UNKNOWN),
        (302, grpc.StatusCode.UNKNOWN),
        (400, grpc.StatusCode.INTERNAL),
        (401, grpc.StatusCode.UNAUTHENTICATED),
        (403, grpc.StatusCode.PERMISSION_DENIED),
        (404, grpc.StatusCode.UNIMPLEMENTED),
        (429, grpc.StatusCode.UNAVAILABLE),
        (500, grpc.StatusCode.UNKNOWN),
        (502, grpc.StatusCode.UNAVAILABLE),
        (503, grpc.StatusCode.UNAVAILABLE),
        (504, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_an_http_answer_has_a_status(http: int, code: grpc.StatusCode) -> None:
    assert code_of_http(http) is code
    assert details_of_http(http) == f"Received http2 header with status: {http}"


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("", b""),
        ("a b", b"a b"),
        ("100%", b"100%25"),
        ("ä\n\x7f~", b"%C3%A4%0A%7F~"),
        ("\ud800", b"?"),
    ],
)
def test_messages_are_percent_encoded(message: str, value: bytes) -> None:
    assert encode_message(message) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"a%20b%zz%", "a b%zz%"),
        (b"%c3%A4", "ä"),
        (b"\xc3\xa4", "ä"),
        (b"%ff\xc3", "ÿÃ"),
    ],
)
def test_wrong_messages_are_shown_as_far_as_they_go(value: bytes, message: str) -> None:
    assert decode_message(value) == message


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_message_survives_and_is_printable(message: str) -> None:
    value = encode_message(message)
    assert decode_message(value) == message
    assert all(0x20 <= octet <= 0x7E for octet in value)


@given(st.binary())
def test_no_value_is_too_wrong_to_be_read(value: bytes) -> None:
    assert isinstance(decode_message(value), str)
    assert code_of(value) in CODES
