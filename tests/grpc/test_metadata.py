"""Metadata: what is sent, what is refused in grpcio's words, what is shown."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvrpc.grpc.metadata import Metadatum, from_fields, to_fields
from hvrpc.grpc.status import StatusError


@pytest.mark.parametrize(
    ("metadata", "fields"),
    [
        (None, ()),
        ((), ()),
        ([], ()),
        ((("k", "v"),), ((b"k", b"v"),)),
        ([["k", "v"]], ((b"k", b"v"),)),
        ((["k", "v"],), ((b"k", b"v"),)),
        ({"k": "v"}.items(), ((b"k", b"v"),)),
        ((Metadatum("k", "v"),), ((b"k", b"v"),)),
        (grpc.aio.Metadata(("a", "b"), ("a", "c")), ((b"a", b"b"), (b"a", b"c"))),
        (((b"k", b"v"), ("j", None)), ((b"k", b"v"), (b"j", b""))),
        ((("k_.-9", " a b "),), ((b"k_.-9", b" a b "),)),
        ((("k-bin", b"\x00\xff"), ("l-bin", b"")), ((b"k-bin", b"AP8"), (b"l-bin", b""))),
        ((("host", "h"), ("grpc-foo", "1")), ((b"host", b"h"), (b"grpc-foo", b"1"))),
    ],
)
def test_pairs_become_fields(metadata: Any, fields: Any) -> None:
    assert to_fields(metadata) == fields
    assert to_fields(metadata) == fields, "also the second time"


def test_an_iterator_is_read_once() -> None:
    assert to_fields(iter([("k", "v")])) == ((b"k", b"v"),)


@pytest.mark.parametrize(
    "key",
    [
        "te",
        "content-type",
        "user-agent",
        "grpc-timeout",
        "grpc-encoding",
        "grpc-status",
        "grpc-message",
        "grpc-accept-encoding",
        "connection",
        "content-length",
    ],
)
def test_what_the_protocol_needs_for_itself_is_not_sent(key: str) -> None:
    assert to_fields(((key, "x"), ("k", "v"))) == ((b"k", b"v"),)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("K", "v"),
        ("", "v"),
        ("k k", "v"),
        ("kä", "v"),
        (":path", "v"),
        ("k-BIN", b"v"),
        ("k", "ä"),
        ("k", "\n"),
        ("k", "\0"),
        ("k", "\x7f"),
        ("k", b"\xff"),
        ("k", "\ud800"),
    ],
)
def test_characters_that_may_not_be_sent_end_the_call(key: str, value: str | bytes) -> None:
    with pytest.raises(StatusError) as caught:
        to_fields(((key, value),))
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert caught.value.details == "Invalid metadata"


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ((("k", 1),), "Expected str, not <class 'int'>"),
        (((1, "v"),), "Expected str, not <class 'int'>"),
        ((("K", "v"), ("k", 1)), "Expected str, not <class 'int'>"),
        ((("k", bytearray(b"v")),), "Expected str, not <class 'bytearray'>"),
        ((("k-bin", "v"),), "Binary metadata key=\"k-bin\" expected bytes, got <class 'str'>"),
        (5, "'int' object is not iterable"),
    ],
)
def test_wrong_types_are_grpcios_type_errors(metadata: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        to_fields(metadata)
    assert str(caught.value) == text


@pytest.mark.parametrize("metadata", [(("k", "v", "w"),), (("k",),), "ab"])
def test_what_is_no_pair_is_a_value_error(metadata: Any) -> None:
    with pytest.raises(ValueError, match="unpack"):
        to_fields(metadata)


def test_errors_are_not_forgotten() -> None:
    for _ in range(2):
        with pytest.raises(StatusError):
            to_fields((("K", "v"),))


@pytest.mark.parametrize(
    ("fields", "metadata"),
    [
        ((), ()),
        (
            ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"k", b"v")),
            (("k", "v"),),
        ),
        (((b"k", b"1"), (b"j", b"2"), (b"k", b"3")), (("k", "1"), ("j", "2"), ("k", "3"))),
        (((b"k", b"x,y"),), (("k", "x,y"),)),
        (((b"k", b"\xc3\xa4"), (b"l", b"\xff")), (("k", "ä"), ("l", "ÿ"))),
        (((b"k-bin", b"AP8"), (b"k-bin", b"AP8=")), (("k-bin", b"\0\xff"), ("k-bin", b"\0\xff"))),
        (((b"k-bin", b"AP8,AA== ,"),), (("k-bin", b"\0\xff"), ("k-bin", b"\0"), ("k-bin", b""))),
        (((b"grpc-status", b"0"), (b"grpc-message", b"x"), (b"grpc-timeout", b"1S")), ()),
        (((b"grpc-trace-bin", b"AA"), (b"grpc-tags-bin", b"AA")), ()),
        (((b"grpc-status-details-bin", b"AA"),), (("grpc-status-details-bin", b"\0"),)),
        (((b"user-agent", b"me"),), (("user-agent", "me"),)),
        (((b"grpc-retry-pushback-ms", b"3"),), (("grpc-retry-pushback-ms", "3"),)),
    ],
)
def test_fields_become_pairs(fields: Any, metadata: Any) -> None:
    assert from_fields(fields) == metadata


def test_pairs_have_names() -> None:
    (entry,) = from_fields(((b"k", b"v"),))
    assert (entry.key, entry.value) == ("k", "v")
    assert entry == ("k", "v")


@pytest.mark.parametrize("value", [b"!!", b"A", b"A=A", b"AP8 AP8", b"-_", b"\xff"])
def test_what_is_not_base64_ends_the_call(value: bytes) -> None:
    with pytest.raises(StatusError) as caught:
        from_fields(((b"a-bin", value),))
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert caught.value.details == "Error parsing 'a-bin' metadata: illegal base64 encoding"


keys = st.from_regex(r"x-[a-z0-9_.\-]{1,10}", fullmatch=True)
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
pairs: st.SearchStrategy[tuple[str, str | bytes]] = st.one_of(
    st.tuples(keys.filter(lambda key: not key.endswith("-bin")), texts),
    st.tuples(keys.map(lambda key: f"{key}-bin"), st.binary()),
)


@given(st.lists(pairs))
def test_everything_legal_arrives_as_it_was(metadata: list[tuple[str, str | bytes]]) -> None:
    fields = to_fields(metadata)
    assert from_fields(fields) == tuple(metadata)
    assert all(octet in range(0x20, 0x7F) for _name, value in fields for octet in value)
