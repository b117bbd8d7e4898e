"""Frames are written as an independent implementation reads them."""

from __future__ import annotations

import pytest
from hyperframe import frame as wire

from hvrpc.http2 import frames

from .peers import parse


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (frames.settings_frame({3: 7, 4: 9}), wire.SettingsFrame(0, {3: 7, 4: 9})),
        (frames.reset_frame(5, 8), wire.RstStreamFrame(5, 8)),
        (frames.window_frame(0, 2**31 - 1), wire.WindowUpdateFrame(0, 2**31 - 1)),
        (frames.ping_frame(b"12345678"), wire.PingFrame(0, b"12345678")),
        (frames.ping_frame(b"12345678", ack=True), wire.PingFrame(0, b"12345678", flags=["ACK"])),
        (frames.goaway_frame(7, 2, b"why"), wire.GoAwayFrame(0, 7, 2, b"why")),
    ],
)
def test_small_frames_are_what_hyperframe_writes(ours: bytes, theirs: wire.Frame) -> None:
    assert ours == theirs.serialize()


@pytest.mark.parametrize("size", [0, 1, 10, 11, 20, 21, 35])
def test_a_header_block_is_split_into_continuations(size: int) -> None:
    block = bytes(range(size))
    first, *rest = parse(frames.header_frames(3, block, True, most=10))
    assert isinstance(first, wire.HeadersFrame)
    assert "END_STREAM" in first.flags
    assert all(isinstance(each, wire.ContinuationFrame) for each in rest)
    assert b"".join(each.data for each in (first, *rest)) == block  # type: ignore[attr-defined]
    assert ["END_HEADERS" in each.flags for each in (first, *rest)] == [False] * len(rest) + [True]
    assert all(len(each.data) <= 10 for each in (first, *rest))  # type: ignore[attr-defined]


def test_unknown_frame_types_have_a_name_for_messages() -> None:
    assert frames.frame_name(frames.GOAWAY) == "GOAWAY"
    assert frames.frame_name(0x42) == "frame of type 0x42"
