"""Marks are found in output, and nothing else is."""

from __future__ import annotations

from hvrpc.testing.marks import Marks

MARKS = Marks("secret")


def test_marks_are_taken_out_and_all_else_stays() -> None:
    output = bytearray(b"one" + MARKS.make(1, "started") + b"two\n" + MARKS.make(1, "ready"))
    assert list(MARKS.take_from(output)) == [(1, "started"), (1, "ready")]
    assert output == b"onetwo\n"


def test_a_mark_may_arrive_in_pieces() -> None:
    output = bytearray()
    found: list[tuple[int, str]] = []
    for byte in b"x" + MARKS.make(5, "ready") + b"y":
        output.append(byte)
        found += MARKS.take_from(output)
    assert found == [(5, "ready")]
    assert output == b"xy"


def test_what_looks_like_one_is_none() -> None:
    printed = bytes(range(256)) + Marks("another").make(1, "ready")
    output = bytearray(printed)
    assert list(MARKS.take_from(output)) == []
    assert output == printed
    assert Marks.new() != Marks.new()


def test_a_mark_fits_into_a_pipe_at_once() -> None:
    assert len(Marks.new().make(2**32, "listening")) < 512
