"""Messages out of pieces of any size: limits, compression, nonsense."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import random
import tracemalloc
import zlib

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvrpc.grpc.calling import StreamCall
from hvrpc.grpc.messages import (
    ACCEPT_ENCODING,
    CLIENT,
    ENCODINGS,
    MOST_JOINED,
    SERVER,
    STEP,
    UNLIMITED,
    Assembler,
    check_sent,
    compress,
    decompress,
    encoding_of,
    pack,
    pieces,
    prefix,
    unpack_only,
)
from hvrpc.grpc.status import StatusError

Gzip = grpc.Compression.Gzip
Deflate = grpc.Compression.Deflate
NoCompression = grpc.Compression.NoCompression

MiB = 1024 * 1024


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(mark % (len(data) + 1) for mark in cuts)})
    return [data[start:stop] for start, stop in itertools.pairwise(marks)]


def wrong(assembler: Assembler, data: bytes) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(StatusError) as caught:
        _feed_and_take(assembler, data)
    return caught.value.code, caught.value.details


def _feed_and_take(assembler: Assembler, data: bytes) -> None:
    assembler.feed(data)
    taken(assembler)


def taken(assembler: Assembler) -> list[bytes]:
    return [
        message if isinstance(message, bytes) else message.unpack() for message in assembler.take()
    ]


# --- Plain messages -----------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=3000), max_size=8), st.lists(st.integers(0, 30_000)))
def test_messages_come_out_whole_however_they_are_cut(
    messages: list[bytes], cuts: list[int]
) -> None:
    assembler = Assembler(CLIENT, UNLIMITED)
    taken = []
    for piece in cut(b"".join(map(pack, messages)), cuts):
        assembler.feed(piece)
        taken += assembler.take()
    assert taken == messages
    assert not assembler.missing
    assert assembler.held == 0


def test_byte_by_byte() -> None:
    assembler = Assembler(CLIENT, UNLIMITED)
    for octet in pack(b"ab") + pack(b"") + pack(b"c"):
        assembler.feed(bytes((octet,)))
    assert assembler.take() == [b"ab", b"", b"c"]
    assert assembler.take() == []


@pytest.mark.parametrize("size", [1, 4, 5, 6])
def test_an_end_within_a_message_is_noticed(size: int) -> None:
    assembler = Assembler(CLIENT, UNLIMITED)
    assembler.feed(pack(b"ab")[:size])
    assert assembler.missing
    assert assembler.take() == []


def test_a_large_message_in_small_pieces_costs_about_its_size() -> None:
    size = 4 * MiB
    assembler = Assembler(CLIENT, UNLIMITED)
    assembler.feed(prefix(size))
    pieces = [bytes((7, 7, 7, 7))] * (size // 4 - 1)
    tracemalloc.start()
    try:
        for piece in pieces:
            assembler.feed(piece[:2])  # a new object each time
            assembler.feed(piece[2:])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert assembler.held == size - 4
    assert held < size * 1.5
    assembler.feed(b"\7\7\7\7")
    assert assembler.take() == [b"\7" * size]


def test_the_limit_is_checked_before_the_message_comes() -> None:
    code, details = wrong(Assembler(SERVER, 4), prefix(5))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details == (
        "SERVER: Received message larger than max (5 vs. 4)"
        "; the server's option grpc.max_receive_message_length sets the limit"
    )


def test_the_largest_legal_message_passes() -> None:
    assembler = Assembler(SERVER, 4)
    assembler.feed(pack(b"1234"))
    assert assembler.take() == [b"1234"]


def test_messages_before_a_wrong_one_are_kept() -> None:
    assembler = Assembler(CLIENT, 4)
    _, details = wrong(assembler, pack(b"1") + pack(b"12345"))
    assert details == (
        "CLIENT: Received message larger than max (5 vs. 4); the client's option"
        " grpc.max_receive_message_length, or its service config, sets the limit"
    )
    assert assembler.take() == [b"1"]


def test_without_a_limit_the_prefix_may_say_anything() -> None:
    assembler = Assembler(CLIENT, UNLIMITED)
    assembler.feed(b"\0\xff\xff\xff\xff")
    assert assembler.missing


def test_an_unknown_flag() -> None:
    assert wrong(Assembler(CLIENT, 4), b"\2\0\0\0\1a") == (
        grpc.StatusCode.INTERNAL,
        "Bad GRPC frame type 0x02",
    )


# --- The quick ways -----------------------------------------------------------------------------


def test_one_whole_plain_message() -> None:
    assert unpack_only(pack(b"ab"), 2) == b"ab"
    assert unpack_only(pack(b""), 0) == b""


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0\0\0", pack(b"ab")[:-1], pack(b"ab") + b"\0", pack(b"ab", True), pack(b"abc")],
)
def test_anything_else_is_left_to_the_assembler(data: bytes) -> None:
    assert unpack_only(data, 2) is None


@pytest.mark.parametrize("size", [0, 1, MOST_JOINED, MOST_JOINED + 1])
def test_large_messages_are_not_copied(size: int) -> None:
    payload = bytes(size)
    sent = pieces(payload, compressed=True)
    assert b"".join(sent) == pack(payload, True)
    assert (sent[-1] is payload) == (size > MOST_JOINED)


def test_sending_has_a_limit_too() -> None:
    check_sent(4, 4, CLIENT)
    with pytest.raises(StatusError) as caught:
        check_sent(5, 4, CLIENT)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details == (
        "CLIENT: Sent message larger than max (5 vs. 4); the client's option"
        " grpc.max_send_message_length, or its service config, sets the limit"
    )


# --- Compression --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [Gzip, Deflate])
def test_compressed_messages_among_plain_ones(encoding: grpc.Compression) -> None:
    text = b"again and " * 50
    packed, is_compressed = compress(text, encoding)
    assert is_compressed
    assert len(packed) < len(text)
    assembler = Assembler(CLIENT, len(text), encoding)
    data = pack(packed, True) + pack(b"plain") + pack(b"", True)
    for octet in data:
        assembler.feed(bytes((octet,)))
    assembler.feed(data)
    assert taken(assembler) == [text, b"plain", b""] * 2


def test_what_does_not_shrink_is_sent_as_it_is() -> None:
    payload = b"hi"
    assert compress(payload, Gzip) == (payload, False)
    assert compress(payload, NoCompression) == (payload, False)


def test_others_read_what_we_compress() -> None:
    text = bytes(1000)
    assert gzip.decompress(compress(text, Gzip)[0]) == text
    assert zlib.decompress(compress(text, Deflate)[0]) == text


def test_a_flag_without_an_encoding() -> None:
    assert wrong(Assembler(CLIENT, 100), pack(b"x", True)) == (
        grpc.StatusCode.INTERNAL,
        "Compression bit set but no encoding configured",
    )


def test_a_bomb_ends_at_the_limit() -> None:
    bomb = compress(bytes(64 * MiB), Gzip)[0]
    assembler = Assembler(CLIENT, 4 * MiB, Gzip)
    tracemalloc.start()
    try:
        code, details = wrong(assembler, pack(bomb, True))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details == (
        "Decompressed message larger than max; the client's option"
        " grpc.max_receive_message_length, or its service config, sets the limit"
    )
    assert peak < 4 * MiB * 9 / 8 + 2 * MiB  # what grows is a little larger than what is in it


def test_many_bombs_in_one_piece_are_unpacked_one_by_one() -> None:
    bomb = pack(compress(bytes(4 * MiB), Gzip)[0], True)
    pieces = bomb * 10
    assert len(pieces) < 64 * 1024
    call = StreamCall(4 * MiB)
    call.assembler = Assembler(CLIENT, 4 * MiB, Gzip)
    call.pieces.append(pieces)
    tracemalloc.start()
    try:
        for _ in range(10):
            assert call.take() == bytes(4 * MiB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert call.take() is None
    assert peak < 14 * MiB  # one message, its successor, and what it is compared to


@pytest.mark.parametrize("size", [STEP - 1, STEP, STEP + 1, 5 * STEP])
@pytest.mark.parametrize("noise", [False, True])
def test_messages_of_any_number_of_steps_unpack(size: int, noise: bool) -> None:
    text = random.Random(size).randbytes(size) if noise else b"again and " * (size // 10)
    for encoding, packed in ((Gzip, gzip.compress(text)), (Deflate, zlib.compress(text))):
        assert decompress(packed, encoding, len(text), CLIENT) == text
        with pytest.raises(StatusError, match="larger than max"):
            decompress(packed, encoding, len(text) - 1, CLIENT)
        with pytest.raises(StatusError, match="data error"):
            decompress(packed[:-1], encoding, len(text), CLIENT)
        with pytest.raises(StatusError, match="not all input consumed"):
            decompress(packed + bytes(3 * STEP), encoding, len(text), CLIENT)


def test_exactly_the_limit_unpacks() -> None:
    assert decompress(compress(bytes(100), Gzip)[0], Gzip, 100, SERVER) == bytes(100)


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (b"plain", "zlib error"),
        (zlib.compress(b"x"), "zlib error"),
        (gzip.compress(b"x" * 100)[:-5], "data error"),
        (gzip.compress(b"x") + b"junk", "not all input consumed"),
        (gzip.compress(b"x") + gzip.compress(b"y"), "not all input consumed"),
    ],
    ids=["plain", "deflated", "gzip cut off", "gzip and more", "gzip twice"],
)
def test_what_cannot_be_unpacked(payload: bytes, cause: str) -> None:
    with pytest.raises(StatusError) as caught:
        decompress(payload, Gzip, 1000, SERVER)
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert caught.value.details == f"Decompression failed due to {cause}"


@pytest.mark.parametrize(("encoding", "name"), ENCODINGS.items())
def test_encodings_have_names(encoding: grpc.Compression, name: bytes) -> None:
    assert encoding_of(name, SERVER) is encoding
    assert name in ACCEPT_ENCODING.split(b", ")


def test_no_encoding_is_none() -> None:
    assert encoding_of(None, CLIENT) is NoCompression


@pytest.mark.parametrize(
    ("side", "code"),
    [(SERVER, grpc.StatusCode.UNIMPLEMENTED), (CLIENT, grpc.StatusCode.INTERNAL)],
)
def test_an_unknown_encoding(side: str, code: grpc.StatusCode) -> None:
    with pytest.raises(StatusError, match="'br' is not supported") as caught:
        encoding_of(b"br", side)
    assert caught.value.code is code


@given(st.binary(max_size=100), st.integers(0, 50), st.sampled_from([Gzip, Deflate, NoCompression]))
def test_no_bytes_do_more_than_end_the_call(
    data: bytes, most: int, encoding: grpc.Compression
) -> None:
    assembler = Assembler(SERVER, most, encoding)
    with contextlib.suppress(StatusError):
        assembler.feed(data)
    with contextlib.suppress(StatusError):
        assert all(len(message) <= most for message in taken(assembler))
