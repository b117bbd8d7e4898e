"""How a connection lives, without sockets, threads or clocks.

                 opened             proven            goodbye             finished
    CONNECTING ─────────► VALIDATING ─────► UP ──────────────► DRAINING ─────────► CLOSED
         │                     │             │                     │
         └─────── gone ────────┴──── gone ───┴──────── gone ───────┘
                                  ▼
                                LOST

Not drawn: closing (`finished`) ends it from everywhere; a goodbye may come while it is validating;
what has happened already, and what happens after the end, changes nothing.

A connection is not up when connect() succeeds: Hyper-V sockets can connect to a peer that no longer
exists. It is up when the other side has *answered*. A paused, saved or vanished VM shows in no error
of any socket; only silence tells, and `Heartbeat` measures it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class State(enum.Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    VALIDATING = "validating"
    UP = "up"
    DRAINING = "draining"
    CLOSED = "closed"
    LOST = "lost"


class Event(enum.Enum):
    """What happens to a connection."""

    OPENED = "opened"
    PROVEN = "proven"
    GOODBYE = "goodbye"
    FINISHED = "finished"
    GONE = "gone"


TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.CONNECTING: {
        Event.OPENED: State.VALIDATING,
        Event.GONE: State.LOST,
        Event.FINISHED: State.CLOSED,
    },
    State.VALIDATING: {
        Event.PROVEN: State.UP,
        Event.GOODBYE: State.DRAINING,
        Event.GONE: State.LOST,
        Event.FINISHED: State.CLOSED,
    },
    State.UP: {
        Event.PROVEN: State.UP,
        Event.GOODBYE: State.DRAINING,
        Event.GONE: State.LOST,
        Event.FINISHED: State.CLOSED,
    },
    State.DRAINING: {
        Event.PROVEN: State.DRAINING,
        Event.GOODBYE: State.DRAINING,
        Event.FINISHED: State.CLOSED,
        Event.GONE: State.LOST,
    },
    # The end is the end, however often it is noticed.
    State.CLOSED: dict.fromkeys(Event, State.CLOSED),
    State.LOST: dict.fromkeys(Event, State.LOST),
}

ENDED: Final = frozenset({State.CLOSED, State.LOST})


class Lifecycle:
    """The state of one connection."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.CONNECTING

    def happened(self, event: Event) -> State:
        """Move on. Raises ValueError for what cannot happen in this state: a fault of ours."""
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise ValueError(f"{event.value} cannot happen while {self.state.value}") from None
        return self.state

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def takes_calls(self) -> bool:
        return self.state is State.UP


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for so many seconds."""

    seconds: float


class Verdict(enum.Enum):
    """What silence asks for."""

    PING = "ask whether it is alive"
    DEAD = "give it up"


class Heartbeat:
    """How long a peer may be silent while something is expected of it.

    After `dead_after / 3` seconds without a byte the peer is asked for a sign of life; without one
    for the rest of `dead_after` it is given up. Any byte counts as a sign, so a peer that is slow to
    answer a call is never given up while it still answers this. Silence is counted only while we
    expect something: an idle connection owes nothing.
    """

    DEAD_AFTER: Final = 10.0

    __slots__ = ("_heard", "_pinged_at", "_silent_since", "dead_after", "interval")

    def __init__(self, dead_after: float = DEAD_AFTER) -> None:
        if not dead_after > 0:
            raise ValueError(f"dead_after is a number of seconds above 0, not {dead_after!r}")
        self.dead_after = dead_after
        self.interval = dead_after / 3
        self._heard = True
        self._silent_since = 0.0
        self._pinged_at: float | None = None

    def heard(self) -> None:
        """Bytes arrived. Costs no look at the clock: `due` finds out."""
        self._heard = True

    def due(self, now: float, silent_for: float = 0.0) -> Wait | Verdict:
        """What to do now, while something is expected.

        `silent_for`: seconds that one has just waited in vain.
        """
        if self._heard:
            self._heard = False
            self._silent_since = now - silent_for
            self._pinged_at = None
        if self._pinged_at is not None:
            left = self._pinged_at + self.dead_after - self.interval - now
            return Wait(left) if left > 0 else Verdict.DEAD
        left = self._silent_since + self.interval - now
        if left > 0:
            return Wait(left)
        self._pinged_at = now
        return Verdict.PING
