"""How much the peer may send (RFC 9113, section 5.2): receiving windows that grow with use.

A window is four totals that only grow, instead of a number that goes up and down:

    consumed <= received <= granted,   and always   granted - consumed <= target

`granted - received` is what the peer may still send, `received - consumed` what lies in our
memory. So a consumer that stops makes us hold `target` bytes at most. A WINDOW_UPDATE is sent when
half of the target has been consumed since the last, not for every message. If by then the consumer
has nearly caught up with what arrived, it is the window that limits the transfer, and the target
doubles, up to its limit. (There is no clock here to measure how fast anything is.)

A stream *is* such a window, with states: see `streams.py`.
"""

from __future__ import annotations

# A window grows when at most this part of it lies unconsumed as it is renewed.
_CAUGHT_UP = 4


class ReceiveWindow:
    """What one stream, or the whole connection, lets the peer send."""

    __slots__ = ("consumed", "granted", "received", "target")

    def __init__(self, granted: int) -> None:
        self.received = 0
        self.consumed = 0
        self.granted = granted
        self.target = granted

    def is_due(self) -> bool:
        """Whether a WINDOW_UPDATE is worth sending. (The hot path asks this inline.)"""
        return (self.granted - self.consumed) * 2 <= self.target

    def renew(self, most_target: int) -> int:
        """Grow if it helps, grant anew, and return the increment for the WINDOW_UPDATE."""
        unread = self.received - self.consumed
        if self.target < most_target and unread * _CAUGHT_UP <= self.target:
            self.target = min(self.target * 2, most_target)
        increment = self.consumed + self.target - self.granted
        self.granted += increment
        return increment


class ConnectionWindow(ReceiveWindow):
    """The window that all streams of a connection share.

    What lies unread in streams, up to `lends`, is granted anew as if it had been consumed: each stream has
    a window of its own for that. Or a few streams that nobody reads would use up what all others need, and
    whoever waits for another call before it reads on would wait for ever.
    """

    __slots__ = ("lends",)

    def __init__(self, granted: int, lends: int) -> None:
        super().__init__(granted)
        self.lends = lends

    def _lent(self) -> int:
        return min(self.received - self.consumed, self.lends)

    def is_due(self) -> bool:
        return (self.granted - self.consumed - self._lent()) * 2 <= self.target

    def renew(self, most_target: int) -> int:
        lent = self._lent()
        self.granted -= lent
        increment = super().renew(most_target)
        self.granted += lent
        return increment
