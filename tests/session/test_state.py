"""How a connection lives, without sockets, threads or clocks."""

from __future__ import annotations

import itertools
import re

import pytest

from hvrpc.session import state
from hvrpc.session.state import (
    ENDED,
    TRANSITIONS,
    Event,
    Heartbeat,
    Lifecycle,
    State,
    Verdict,
    Wait,
)

# --- The table -----------------------------------------------------------------------------------


def drawn() -> dict[State, dict[Event, State]]:
    """The transitions that the module's docstring draws."""
    assert state.__doc__ is not None
    lines = state.__doc__.splitlines()
    (row,) = [number for number, line in enumerate(lines) if "►" in line]
    names = [State[name] for name in re.findall(r"[A-Z]{2,}", lines[row])]
    events = [Event[word.upper()] for word in lines[row - 1].split()]
    arrows = {here: {event: there} for here, event, there in zip(names, events, names[1:])}  # noqa: B905
    # The line below the states collects, from each upright above it, what leads to the last state.
    (gone,) = [line for line in lines if line.count(" gone ") > 1]
    assert gone.count("┴") + 2 == len(names) - 1
    for name in names[:-1]:
        arrows[name][Event.GONE] = State.LOST
    return arrows


def test_docstring_draws_the_table() -> None:
    """Whoever reads the drawing, and the sentence below it, knows every transition."""
    expected: dict[State, dict[Event, State]] = drawn()
    # The sentence: closing ends it from everywhere; a goodbye may come early; what has happened
    # already, and what happens after the end, changes nothing.
    for name in State:
        expected.setdefault(name, {})
    for name in set(State) - ENDED:
        expected[name][Event.FINISHED] = State.CLOSED
    expected[State.VALIDATING][Event.GOODBYE] = State.DRAINING
    expected[State.UP][Event.PROVEN] = State.UP
    expected[State.DRAINING] |= {Event.PROVEN: State.DRAINING, Event.GOODBYE: State.DRAINING}
    for name in ENDED:
        expected[name] = dict.fromkeys(Event, name)
    assert expected == TRANSITIONS


@pytest.mark.parametrize(("now", "event"), list(itertools.product(State, Event)))
def test_lifecycle_follows_the_table(now: State, event: Event) -> None:
    """It moves where the table says, and refuses what the table does not have."""
    life = Lifecycle()
    life.state = now
    if event in TRANSITIONS[now]:
        assert life.happened(event) is life.state is TRANSITIONS[now][event]
    else:
        with pytest.raises(ValueError, match=f"{event.value} cannot happen while {now.value}"):
            life.happened(event)
        assert life.state is now


def test_a_connection_begins_by_connecting() -> None:
    assert Lifecycle().state is State.CONNECTING


@pytest.mark.parametrize("now", list(State))
def test_calls_are_taken_only_while_up(now: State) -> None:
    """Connecting is not enough: the other side must have answered, and not said goodbye."""
    life = Lifecycle()
    life.state = now
    assert life.takes_calls is (now is State.UP)
    assert life.ended is (now in {State.CLOSED, State.LOST})


@pytest.mark.parametrize("now", [each for each in State if each not in ENDED])
def test_every_state_can_end_both_ways(now: State) -> None:
    assert TRANSITIONS[now][Event.GONE] is State.LOST
    assert TRANSITIONS[now][Event.FINISHED] is State.CLOSED


# --- Heartbeats, by a clock of our own -----------------------------------------------------------


class Peer:
    """A connection whose clock we turn: it counts pings, and answers them or not."""

    def __init__(self, dead_after: float = 9.0, *, alive: bool) -> None:
        self.heartbeat = Heartbeat(dead_after)
        self.alive = alive
        self.now = 1000.0
        self.pings = 0
        self.dead_at: float | None = None

    def wait(self, seconds: float) -> None:
        """Somebody receives for so long, a tick at a time, and acts on every verdict."""
        until = self.now + seconds
        tick = self.heartbeat.interval
        while self.dead_at is None and self.now < until:
            tick = min(tick, until - self.now)
            self.now += tick
            verdict = self.heartbeat.due(self.now, tick)
            if verdict is Verdict.DEAD:
                self.dead_at = self.now
            elif verdict is Verdict.PING:
                self.pings += 1
                tick = self.heartbeat.interval
                if self.alive:
                    self.heartbeat.heard()
            elif isinstance(verdict, Wait):
                tick = verdict.seconds
                assert tick > 0, "a wait that is no wait is a loop that spins"

    def rest(self, seconds: float) -> None:
        """Nothing is expected for so long."""
        self.now += seconds


@pytest.mark.parametrize("dead_after", [0.6, 9.0, 10.0])
def test_silent_peer_is_given_up_after_dead_after(dead_after: float) -> None:
    """One question at a third of the time, and the verdict at its end; never earlier."""
    peer = Peer(dead_after, alive=False)
    began = peer.now
    peer.wait(dead_after * 10)
    assert peer.dead_at == pytest.approx(began + dead_after)
    assert peer.pings == 1


def test_slow_peer_that_answers_pings_is_never_given_up() -> None:
    """A call may take a hundred times as long, as long as there are signs of life."""
    peer = Peer(alive=True)
    peer.wait(9.0 * 100)
    assert peer.dead_at is None
    assert peer.pings >= 200


def test_bytes_of_any_kind_spare_the_ping() -> None:
    peer = Peer(alive=False)
    for _ in range(100):
        peer.heartbeat.heard()
        peer.wait(2.9)
    assert peer.pings == 0


def test_short_calls_that_time_out_lead_to_the_verdict_too() -> None:
    """Each of them waits less than the time; together they wait longer."""
    peer = Peer(alive=False)
    began = peer.now
    for _ in range(1000):
        peer.wait(0.25)
        if peer.dead_at is not None:
            break
    assert peer.dead_at is not None
    assert peer.dead_at - began <= 9.0 + 0.25


def test_pauses_between_short_calls_do_not_save_a_dead_peer() -> None:
    peer = Peer(alive=False)
    for _ in range(1000):
        peer.wait(0.25)
        peer.rest(5)
        if peer.dead_at is not None:
            break
    assert peer.dead_at is not None


def test_idle_connection_owes_nothing() -> None:
    """After a day of rest the first call starts with all of its time."""
    peer = Peer(alive=False)
    peer.heartbeat.heard()
    peer.rest(86_400)
    began = peer.now
    peer.wait(100)
    assert peer.dead_at == pytest.approx(began + 9.0)


def test_silence_from_before_a_rest_is_not_enough_for_a_verdict() -> None:
    """A call was given up in silence, then nobody asked for a day: the peer is asked first."""
    peer = Peer(alive=False)
    peer.wait(1.0)
    peer.rest(86_400)
    began = peer.now
    peer.wait(100)
    assert peer.pings == 1
    assert peer.dead_at is not None
    assert peer.dead_at >= began + 9.0 * 2 / 3


def test_answer_to_the_ping_starts_afresh() -> None:
    peer = Peer(alive=False)
    peer.wait(8.9)
    assert peer.pings == 1
    peer.heartbeat.heard()
    began = peer.now
    peer.wait(100)
    assert peer.dead_at == pytest.approx(began + 9.0)
    assert peer.pings == 2


@pytest.mark.parametrize("wrong", [0, -1, float("nan")])
def test_dead_after_must_be_some_time(wrong: float) -> None:
    with pytest.raises(ValueError, match="dead_after"):
        Heartbeat(wrong)
