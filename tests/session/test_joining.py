"""Which messages go out in one write."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from hvrpc.session.core import JOIN, MANY_JOINED, SHORT, joined

PAIR = (b"head", memoryview(b"body"))


@pytest.mark.parametrize("first", [b"a", b"a" * SHORT], ids=["short", "long"])
@pytest.mark.parametrize(
    ("behind", "with_it"),
    [
        pytest.param([], 0, id="nothing behind it"),
        pytest.param([b"b", b"c", b"d"], 3, id="short ones"),
        pytest.param([b"b", PAIR, b"c"], 1, id="until one that belongs together"),
        pytest.param([PAIR, b"b"], 0, id="one that belongs together"),
        pytest.param([b"b", b"c" * JOIN, b"d"], 2, id="until there is enough"),
        pytest.param([b"b" * 6000] * 20, 11, id="as many as there is room for"),
        pytest.param([b"b", memoryview(b"c"), b"d"], 3, id="the rest of one among them"),
    ],
)
def test_what_goes_with_the_first_is_taken_and_the_rest_stays(
    first: bytes, behind: list[Any], with_it: int
) -> None:
    queue = deque(behind)
    items, data = joined(first, queue)
    assert items == [first, *behind[:with_it]]
    assert data == b"".join(items)
    assert list(queue) == behind[with_it:]


def test_no_more_than_so_many_go_at_once() -> None:
    queue = deque(b"%d" % n for n in range(2 * MANY_JOINED))
    items, _ = joined(b"first", queue)
    assert len(items) == MANY_JOINED + 1
    assert queue[0] == b"%d" % MANY_JOINED


class Shrinking(deque[bytes]):
    """A queue whose last message another thread withdraws when nobody expects it."""

    def popleft(self) -> bytes:
        if len(self) == 1:
            self.clear()
        return super().popleft()


@pytest.mark.parametrize("first", [b"a", b"a" * SHORT], ids=["short", "long"])
def test_one_that_is_withdrawn_meanwhile_is_not_missed(first: bytes) -> None:
    queue = Shrinking([b"b", b"c"])
    assert joined(first, queue) == ([first, b"b"], first + b"b")
    assert not queue
