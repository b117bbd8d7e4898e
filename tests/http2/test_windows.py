"""Receiving windows: the invariants of flow control, and growth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hvrpc.http2.windows import ConnectionWindow, ReceiveWindow

MOST = 100_000


@given(
    st.integers(1, MOST),
    st.lists(st.tuples(st.booleans(), st.integers(1, MOST)), max_size=60),
)
def test_a_peer_is_never_granted_more_than_the_target_beyond_what_was_consumed(
    initial: int, steps: list[tuple[bool, int]]
) -> None:
    window = ReceiveWindow(initial)
    announced = initial
    for arrives, size in steps:
        if arrives:
            window.received += min(size, window.granted - window.received)
        else:
            window.consumed += min(size, window.received - window.consumed)
            if window.is_due():
                before = window.target
                increment = window.renew(MOST)
                assert increment > 0
                announced += increment
                assert window.target in (before, min(before * 2, MOST))
        assert window.consumed <= window.received <= window.granted == announced
        assert window.granted - window.consumed <= window.target <= MOST
        idle = window.consumed == window.received
        assert not idle or window.granted - window.received > 0, "the peer would wait for ever"


def test_a_quick_consumer_gets_a_larger_window_up_to_the_limit() -> None:
    window = ReceiveWindow(1000)
    for _ in range(20):
        window.received = window.granted
        window.consumed = window.received
        window.renew(5000)
    assert window.target == 5000


def test_a_slow_consumer_never_gets_a_larger_window() -> None:
    window = ReceiveWindow(1000)
    for _ in range(20):
        window.received = window.granted
        window.consumed = window.received - 500
        if window.is_due():
            window.renew(5000)
    assert window.target == 1000


@given(
    st.integers(1, MOST),
    st.integers(0, MOST),
    st.lists(st.tuples(st.booleans(), st.integers(1, MOST)), max_size=60),
)
def test_what_lies_unread_is_lent_up_to_a_limit(
    initial: int, lends: int, steps: list[tuple[bool, int]]
) -> None:
    window = ConnectionWindow(initial, lends)
    for arrives, size in steps:
        if arrives:
            window.received += min(size, window.granted - window.received)
        else:
            window.consumed += min(size, window.received - window.consumed)
        if window.is_due():
            assert window.renew(MOST) > 0
        unread = window.received - window.consumed
        assert 0 <= unread <= window.target + lends
        assert window.granted - window.consumed <= window.target + lends
        assert unread > lends or window.granted - window.received > 0, "the peer would wait"
