"""Bytes to messages and back: the spec's shapes, in any encoding, cut anywhere, and large values."""

from __future__ import annotations

import datetime
import gc
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvrpc import ProtocolError
from hvrpc.msgpack.extensions import Extensions
from hvrpc.msgpack.limits import DEFAULT, Limits
from hvrpc.msgpack.wire import KEPT_BUFFER, LARGE, LEAST, TOGETHER, Decoder, Encoder

from ..sockets.background import Background
from .raw import pack

CHUNK = 64 * 1024

VECTORS: list[tuple[str, Any]] = [
    # the spec's three messages, in the shortest encoding
    ("94 00 00 a3 616464 92 01 02", [0, 0, "add", [1, 2]]),
    ("94 00 01 a3 616464 90", [0, 1, "add", []]),
    ("94 01 01 c0 03", [1, 1, None, 3]),
    ("94 01 01 a3 626164 c0", [1, 1, "bad", None]),
    ("93 02 a3 616464 91 01", [2, "add", [1]]),
    # ids at both ends
    ("94 00 ce ffffffff a1 78 90", [0, 2**32 - 1, "x", []]),
    ("94 01 ce ffffffff c0 c0", [1, 2**32 - 1, None, None]),
    # longer encodings than needed, which the spec allows
    ("dc 0004 00 01 a1 78 90", [0, 1, "x", []]),
    ("dd 00000004 00 01 a1 78 dd 00000000", [0, 1, "x", []]),
    ("94 cc00 cd0001 d9 01 78 dc 0000", [0, 1, "x", []]),
    ("94 ce00000001 cf0000000000000001 c0 d2 00000003", [1, 1, None, 3]),
    ("94 d0 00 d1 0001 da 0001 78 90", [0, 1, "x", []]),
    ("94 d3 0000000000000000 d3 0000000000000001 db 00000001 78 90", [0, 1, "x", []]),
    # the method's name as bin, as pynvim sends it
    ("94 00 01 c4 01 78 90", [0, 1, b"x", []]),
    ("93 02 c5 0001 78 90", [2, b"x", []]),
]


def decoder(limits: Limits = DEFAULT, extensions: Extensions | None = None) -> Decoder:
    return Decoder(limits, (extensions or Extensions()).ext_hook)


def encoder(*, ours: bool = True, limit: int | None = None) -> Encoder:
    made = Encoder(Extensions().default)
    made.address(ours=ours, limit=limit)
    return made


def first(made: Decoder, data: bytes) -> Any | None:
    made.feed(data)
    return made.next()


def messages(made: Decoder) -> Iterator[Any]:
    while (message := made.next()) is not None:
        yield message


def decode(data: bytes, sizes: int = CHUNK, limits: Limits = DEFAULT) -> list[Any]:
    """As a driver does it: received in pieces, into `target` where there is one."""
    made = decoder(limits)
    found: list[Any] = []
    at = 0
    while at < len(data):
        target = made.target
        if target is not None:
            piece = data[at : at + min(sizes, len(target))]
            target[: len(piece)] = piece
            made.filled(len(piece))
        else:
            piece = data[at : at + sizes]
            made.feed(piece)
        at += len(piece)
        found += messages(made)
    return found


def whole(item: Any) -> bytes:
    """What is queued, as bytes."""
    return b"".join(bytes(part) for part in item) if isinstance(item, tuple) else bytes(item)


class TestVectors:
    @pytest.mark.parametrize(("data", "message"), VECTORS)
    def test_known_bytes_are_this_message(self, data: str, message: Any) -> None:
        assert decode(bytes.fromhex(data)) == [message]

    @pytest.mark.parametrize(("data", "message"), VECTORS[:5])
    def test_this_message_is_these_bytes(self, data: str, message: Any) -> None:
        assert encoder().encode(message) == bytes.fromhex(data)

    def test_cut_at_every_byte(self) -> None:
        stream = b"".join(bytes.fromhex(data) for data, _ in VECTORS)
        expected = [message for _, message in VECTORS]
        for cut in range(len(stream) + 1):
            made = decoder()
            found: list[Any] = []
            for part in (stream[:cut], stream[cut:]):
                made.feed(part)
                found += messages(made)
            assert found == expected
            assert not made.has_more

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_byte_by_byte(self, size: int) -> None:
        stream = b"".join(bytes.fromhex(data) for data, _ in VECTORS)
        assert decode(stream, size) == [message for _, message in VECTORS]

    def test_nothing_is_no_message(self) -> None:
        made = decoder()
        assert made.next() is None
        made.feed(b"")
        assert made.next() is None
        assert not made.has_more

    def test_old_str_with_bytes_in_it_goes_back_as_it_came(self) -> None:
        raw = b"\x93\x02\xa3\xff\xfe\x41\x90"
        (message,) = decode(raw)
        assert encoder().encode(message) == raw


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text() | st.integers(0, 99), inner, max_size=5)
    ),
    max_leaves=20,
)


class TestRoundTrips:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 2**32 - 1), VALUES), max_size=5), st.integers(1, 40))
    def test_any_messages_in_any_pieces(self, sent: list[tuple[int, Any]], size: int) -> None:
        made = encoder()
        data = b"".join(whole(made.result(number, value)) for number, value in sent)
        assert decode(data, size) == [[1, number, None, value] for number, value in sent]

    @pytest.mark.parametrize("length", [LEAST, LARGE - 1, LARGE, LARGE + 1, TOGETHER * 2, 1 << 20])
    @pytest.mark.parametrize("size", [100, 1448, CHUNK])
    def test_large_values_between_small_ones(self, length: int, size: int) -> None:
        if size == 100 and length > 1 << 17:
            pytest.skip("too slow for what it shows")
        value = bytes(range(256)) * (length // 256) + bytes(length % 256)
        made = encoder()
        data = b"".join(
            whole(item)
            for item in (
                made.result(1, "small"),
                made.result(2, value),
                made.request(3, "method", (value,)),
                made.request(4, "method", (value, 1)),
                made.encode((2, "note", (value,))),
                made.result(2**32 - 1, value),
                made.result(5, "end"),
            )
        )
        assert decode(data, size) == [
            [1, 1, None, "small"],
            [1, 2, None, value],
            [0, 3, "method", [value]],
            [0, 4, "method", [value, 1]],
            [2, "note", [value]],
            [1, 2**32 - 1, None, value],
            [1, 5, None, "end"],
        ]

    @pytest.mark.parametrize("number", [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1])
    @pytest.mark.parametrize("name", ["m", "m" * 31, "m" * 32, "m" * 255, "ü" * 128, "m" * 256])
    def test_large_values_behind_every_kind_of_head(self, number: int, name: str) -> None:
        value = bytes(100_000)
        made = encoder()
        request = whole(made.request(number, name, (value,)))
        assert msgpack.unpackb(request, max_bin_len=1 << 20) == [0, number, name, [value]]
        assert decode(request) == [[0, number, name, [value]]]
        response = whole(made.result(number, value))
        assert decode(response) == [[1, number, None, value]]

    def test_a_large_value_is_received_where_it_stays(self) -> None:
        """The codec sees the beginning only; the rest goes into a buffer of its own."""
        data = whole(encoder().result(1, bytes(1 << 20)))
        made = decoder()
        made.feed(data[:CHUNK])
        assert made.next() is None
        assert made.target is not None

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_large_values_of_every_kind(self, kind: type) -> None:
        value = bytes(LARGE + 5)
        assert decode(whole(encoder().result(1, kind(value)))) == [[1, 1, None, value]]

    def test_a_memoryview_of_something_else_than_bytes(self) -> None:
        view = memoryview(bytes(4 * LARGE)).cast("I")
        assert decode(whole(encoder().result(1, view))) == [[1, 1, None, bytes(4 * LARGE)]]
        square = memoryview(bytes(LARGE * LARGE // LARGE * 4)).cast("B", (LARGE, 4))
        assert decode(whole(encoder().result(1, square))) == [[1, 1, None, bytes(4 * LARGE)]]

    def test_a_released_buffer_is_not_looked_into(self) -> None:
        """Between two looks of the decoder another connection may have used the receive buffer."""
        first = encoder().encode((2, "first", []))
        large = whole(encoder().result(7, b"\x01" * 200_000))
        buffer = bytearray(first + large[: CHUNK - len(first)])
        made = decoder()
        made.feed(memoryview(buffer))
        assert made.next() == [2, "first", []]
        made.stopped(made.start)
        foreign = whole(encoder().result(7, b"\x02" * 200_000))
        buffer[len(first) :] = foreign[: len(buffer) - len(first)]
        assert made.next() is None
        rest = large[CHUNK - len(first) :]
        assert made.target is None
        made.feed(rest)
        assert made.next() == [1, 7, None, b"\x01" * 200_000]

    @pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
    def test_what_is_given_up_half_way_is_collected_in_silence(self) -> None:
        made = Decoder(DEFAULT)
        made.feed(pack([0, 1, "m", [bytes(100_000)]])[:10_000])
        assert made.next() is None
        assert made.target is not None
        itself: list[Any] = [made]
        itself.append(itself)  # as the traceback of an error may have it
        del made, itself
        gc.collect()


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            ("c1", "not msgpack"),
            ("94 00 01 c1", "not msgpack"),
            ("dd ffffffff", "exceeds max_array_len"),
            ("df ffffffff", "exceeds max_map_len"),
            ("c9 ffffffff 05", "exceeds max_ext_len"),
            ("91" * 10_000, "not msgpack"),
            ("81" * 10_000, "not msgpack"),
            ("81 90 01", "unhashable"),
        ],
    )
    def test_what_is_not_msgpack_or_far_too_large(self, data: str, complaint: str) -> None:
        with pytest.raises(ProtocolError, match=complaint):
            decode(bytes.fromhex(data))

    def test_a_message_that_grows_beyond_the_limit(self) -> None:
        limits = Limits(message=10_000)
        part = b"\x93" + pack(bytes(6000))
        assert decode(part, 100, limits) == []
        with pytest.raises(ProtocolError, match="longer than the 10000 bytes allowed"):
            decode(part + pack(bytes(6000)), 100, limits)

    @pytest.mark.parametrize("length", [10_001, 2**32 - 1])
    def test_a_large_value_beyond_the_limit(self, length: int) -> None:
        head = b"\x94\x01\x05\xc0\xc6" + length.to_bytes(4, "big") + bytes(5000)
        with pytest.raises(ProtocolError, match=r"exceeds|allowed"):
            decode(head, limits=Limits(message=10_000))

    def test_a_claimed_length_sets_little_aside(self) -> None:
        """128 MiB are claimed, five thousand bytes have come."""
        head = b"\x94\x01\x05\xc0\xc6" + (128 << 20).to_bytes(4, "big") + bytes(5000)
        made = decoder()
        made.feed(head)
        assert made.next() is None
        assert made.target is not None
        assert len(made.target) < 100 * len(head)

    @pytest.mark.parametrize("head", ["c6 ffffffff", "db ffffffff", "93 02 a1 78 c6 ffffffff"])
    def test_more_bytes_than_allowed_are_not_waited_for_for_ever(self, head: str) -> None:
        made = decoder(Limits(message=100_000))
        made.feed(bytes.fromhex(head))
        assert made.next() is None
        assert made.target is None

        def go_on() -> None:
            for _ in range(100):
                made.feed(bytes(2000))
                made.next()

        with pytest.raises(ProtocolError, match="longer than the 100000 bytes allowed"):
            go_on()

    def test_more_elements_than_allowed(self) -> None:
        limits = Limits(elements=10)
        assert decode(pack(list(range(10))), limits=limits) == [list(range(10))]
        for value in (list(range(11)), dict.fromkeys(range(11))):
            with pytest.raises(ProtocolError, match="exceeds"):
                decode(pack(value), limits=limits)


class Odd(dict[Any, Any]):
    """A dict with code of its own, which lets other threads run in the midst of packing."""

    def items(self) -> Any:
        threading.Event().wait(0.0001)
        return super().items()


class TestEncoder:
    def test_threads_do_not_get_into_each_others_messages(self) -> None:
        made = encoder()

        def encode(number: int) -> list[bytes]:
            return [made.encode((2, "x", [number, Odd(a=number)])) for _ in range(50)]

        workers = [Background(partial(encode, n)) for n in range(4)]
        for number, worker in enumerate(workers):
            expected = pack((2, "x", [number, {"a": number}]))
            assert worker.result() == [expected] * 50

    def test_after_an_error_it_goes_on(self) -> None:
        made = encoder()
        for _ in range(3):
            with pytest.raises(TypeError, match="no form in msgpack"):
                made.encode((2, "x", [1, 2, object()]))
            assert made.encode((2, "x", [])) == bytes.fromhex("93 02 a1 78 90")

    @pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
    def test_integers_that_do_not_fit(self, value: int) -> None:
        with pytest.raises((OverflowError, TypeError, ValueError)):
            encoder().encode((2, "x", [value]))

    def test_a_datetime_is_a_timestamp_for_ours_and_text_for_strangers(self) -> None:
        moment = datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
        assert decode(encoder(ours=True).encode([moment])) == [[moment]]
        assert decode(encoder(ours=False).encode([moment])) == [
            ["2024-01-02T03:04:05.000006+00:00"]
        ]

    def test_a_datetime_without_a_zone_is_refused(self) -> None:
        naive = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC).replace(tzinfo=None)
        for ours in (True, False):
            with pytest.raises(ValueError, match="time zone"):
                encoder(ours=ours).encode([naive])

    def test_what_the_other_side_does_not_take_is_refused(self) -> None:
        made = encoder(limit=100_000)
        for value in (bytes(100_000), "x" * 100_000, [bytes(60_000)] * 2, Odd(a="x" * 100_000)):
            with pytest.raises(ValueError, match="the other side takes 100000 at most"):
                made.result(1, value)
        assert len(whole(made.result(1, bytes(99_000)))) < 100_000

    def test_a_huge_message_leaves_no_huge_buffer_behind(self) -> None:
        made = encoder()
        made.encode("small")
        assert len(made.idle) == 1
        made.encode("x" * (KEPT_BUFFER + 1))
        assert made.idle == []


class TestFilling:
    """A driver that can wait hands over what receives, until the value is there."""

    @pytest.mark.parametrize("piece", [1, 7, 511, 512, 513, 100_000])
    @pytest.mark.parametrize("size", [LARGE, 70_001, 3_000_000])
    @pytest.mark.parametrize("pauses", [0, 1, 3])
    def test_any_pieces(self, piece: int, size: int, pauses: int) -> None:
        if size // piece > 100_000:
            pytest.skip("too slow for what it shows")
        value = bytes(range(251)) * (size // 251 + 1)
        value = value[:size]
        data = whole(encoder().result(7, value))
        line = memoryview(data[CHUNK // 2 :] + b"what follows")
        calls = 0

        def receive(room: memoryview) -> int | None:
            nonlocal line, calls
            calls += 1
            if pauses and calls % (pauses + 1) == 0:
                return None
            got = min(piece, len(room), len(line))
            room[:got] = line[:got]
            line = line[got:]
            return got

        made = decoder()
        made.feed(data[: CHUNK // 2])
        assert made.next() is None
        while made.target is not None:
            made.fill(receive)
        assert made.next() == [1, 7, None, value]
        assert bytes(line) == b"what follows"

    def test_the_end_in_the_midst_is_no_value(self) -> None:
        data = whole(encoder().result(7, bytes(100_000)))
        made = decoder()
        made.feed(data[:50_000])
        assert made.next() is None
        made.fill(lambda room: 0)
        made.fill(lambda room: None)
        assert made.target is not None
        assert len(made.target) == len(data) - 50_000
        assert made.next() is None

    def test_an_error_goes_through(self) -> None:
        def receive(room: memoryview) -> int | None:
            raise KeyboardInterrupt

        made = decoder()
        made.feed(whole(encoder().result(7, bytes(100_000)))[:50_000])
        assert made.next() is None
        with pytest.raises(KeyboardInterrupt):
            made.fill(receive)


class TestSharedCodecs:
    """Decoders of many connections take turns with a few codecs."""

    def test_a_decoder_that_has_all_it_needs_gives_its_codec_back(self) -> None:
        codecs: list[Any] = []
        one, other = Decoder(DEFAULT, codecs=codecs), Decoder(DEFAULT, codecs=codecs)
        assert first(one, pack([1, 2, None, "a"])) == [1, 2, None, "a"]
        assert len(codecs) == 1
        assert first(other, pack([1, 3, None, "b"])) == [1, 3, None, "b"]
        assert len(codecs) == 1

    def test_half_a_message_stays_with_its_own_connection(self) -> None:
        codecs: list[Any] = []
        decoders = [Decoder(DEFAULT, codecs=codecs) for _ in range(3)]
        messages = [pack([1, n, None, "x" * n]) for n in range(3)]
        found: dict[int, Any] = {}
        for at in range(max(map(len, messages))):
            for n, decoder in enumerate(decoders):
                if at < len(messages[n]):
                    message = first(decoder, messages[n][at : at + 1])
                    if message is not None:
                        found[n] = message
        assert found == {n: [1, n, None, "x" * n] for n in range(3)}
        assert len(codecs) == 3

    def test_several_messages_in_a_piece(self) -> None:
        codecs: list[Any] = []
        decoder = Decoder(DEFAULT, codecs=codecs)
        data = b"".join(pack([1, n, None, n]) for n in range(3))
        assert [first(decoder, data), decoder.next(), decoder.next()] == [
            [1, n, None, n] for n in range(3)
        ]
        assert decoder.next() is None
        assert len(codecs) == 1

    def test_a_codec_that_met_nonsense_is_not_used_again(self) -> None:
        codecs: list[Any] = []
        decoder = Decoder(DEFAULT, codecs=codecs)
        with pytest.raises(ProtocolError):
            first(decoder, b"\xc1")
        assert codecs == []
