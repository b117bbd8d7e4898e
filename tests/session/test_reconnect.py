"""What callers see when servers come and go: as little as possible, and never a lie.

Every test runs with every pair of drivers.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from hvrpc import CallError, ConnectionLost, OpenFailed, Outcome, SessionClosed, sockets
from hvrpc.testing import Link

from ..sockets.background import WAIT, Background, wait_until
from .contract import stranger, together
from .sides import Pair, Serving

GRACE = WAIT
"""Longer than anything here takes: what exceeds it hangs."""


def restart(pair: Pair, old: Serving, **settings: Any) -> Serving:
    """Close a server, and put another one in its place."""
    old.side.close(GRACE)
    return pair.server(old.url, **settings)


# --- Lost connections ------------------------------------------------------------------------------


def test_idle_client_does_not_notice_a_restart(pair: Pair) -> None:
    first = pair.server()
    client = pair.client(first.url)
    assert client.call("echo", 1) == 1
    for turn in range(3):
        first = restart(pair, first)
        assert client.call("echo", turn) == turn
    assert client.connections == 4


def test_server_that_is_away_for_a_while_is_waited_for(pair: Pair) -> None:
    """Opening goes on until the call's deadline."""
    first = pair.server()
    client = pair.client(first.url)
    first.side.close(GRACE)
    call = Background(lambda: client.call("echo", 1))
    call.wait_until_blocked_in("call")
    pair.server(first.url)
    assert call.result() == 1


def test_server_that_stays_away_is_an_error_in_time(pair: Pair) -> None:
    first = pair.server()
    client = pair.client(first.url)
    first.side.close(GRACE)
    with pytest.raises(OpenFailed) as failed:
        client.call("record", 1, timeout=0.3)
    assert failed.value.outcome is Outcome.NOT_SENT
    assert failed.value.attempts


def test_calls_in_flight_fail_truthfully(pair: Pair) -> None:
    """They had reached the server; whether they ran nobody knows."""
    serving = pair.server()
    link = pair.enter(Link(serving.url))
    client = pair.client(str(link.address))
    names = [f"h{number}" for number in range(6)]
    calls = [Background(partial(client.call, "hold", name)) for name in names]
    for name in names:
        serving.tools._wait_entered(name)
    link.cut()
    for call in calls:
        error = call.error()
        assert isinstance(error, ConnectionLost)
        assert error.outcome is Outcome.MAY_HAVE_RUN
    serving.tools._let_go(*names)
    assert client.call("echo", 1) == 1
    assert client.connections == 2


def test_idempotent_calls_in_flight_are_made_again(pair: Pair) -> None:
    """By the mark of the call, and by the client's list of names."""
    serving = pair.server()
    link = pair.enter(Link(serving.url))
    client = pair.client(str(link.address), idempotent=["hold"])
    plain = pair.client(str(link.address))
    calls = [
        Background(lambda: client.call("hold", "listed")),
        Background(lambda: plain.call("hold", "marked", idempotent=True)),
    ]
    for name in ("listed", "marked"):
        serving.tools._wait_entered(name)
    link.cut()
    wait_until(lambda: link.statistics.connections == 4, "both have opened another connection")
    serving.tools._let_go("listed", "marked")
    assert [call.result() for call in calls] == ["listed", "marked"]


def test_calls_that_were_not_sent_move_over_unseen(pair: Pair) -> None:
    """The line is jammed by a message that does not get through; what is queued behind it has not
    been sent, and is not lost with it."""
    serving = pair.server()
    link = pair.enter(Link(serving.url))
    client = pair.client(str(link.address))
    client.call("echo", 0)
    link.stall()
    jam = Background(lambda: client.call("echo", bytes(32 * 1024 * 1024)))
    wait_until(lambda: _is_blocked(client), "the line is jammed")
    calls = [Background(partial(client.call, "record", n)) for n in range(5)]
    wait_until(lambda: _queued(client) >= 5, "they wait in line")
    link.cut()
    link.resume()
    assert isinstance(jam.error(), ConnectionLost)
    assert [call.result() for call in calls] == list(range(5))
    assert sorted(serving.tools.executed) == list(range(5))


def test_many_threads_open_one_connection(pair: Pair) -> None:
    """After a loss all of them need one at the same moment."""
    serving = pair.server()
    link = pair.enter(Link(serving.url))
    client = pair.client(str(link.address))
    client.call("echo", 0)
    link.cut()

    def call(number: int) -> Any:
        return client.call("echo", number, idempotent=True)

    assert together(16, call) == list(range(16))
    assert client.connections == 2


# --- Drain -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("callers", [8])
def test_rolling_restart_under_load_shows_in_no_error(pair: Pair, callers: int) -> None:
    """What was taken is finished, what was not moves over; each is carried out once."""
    serving = pair.server()
    client = pair.client(serving.url)
    stop = threading.Event()
    done: list[list[int]] = [[] for _ in range(callers)]

    def work(caller: int) -> int:
        turn = 0
        while not stop.is_set():
            number = caller * 1_000_000 + turn
            assert client.call("record", number) == number
            done[caller].append(number)
            turn += 1
        return turn

    def moved_on(so_far: list[int]) -> bool:
        """Everybody, or somebody has failed: then there is no need to wait."""
        counts = zip(done, so_far, strict=True)
        return all(len(numbers) > before + 20 for numbers, before in counts) or not all(
            worker.thread.is_alive() for worker in workers
        )

    workers = [Background(partial(work, n)) for n in range(callers)]
    executed: list[Any] = []
    for _ in range(4):
        so_far = [len(each) for each in done]
        wait_until(partial(moved_on, so_far), "everybody has made calls since")
        old = serving
        assert old.side.close(GRACE)
        executed += old.tools.executed
        serving = pair.server(old.url)
    stop.set()
    for worker in workers:
        worker.result()
    executed += serving.tools.executed
    assert sorted(executed) == sorted(number for each in done for number in each)


def test_drain_finishes_what_was_taken(pair: Pair) -> None:
    serving = pair.server()
    client = pair.client(serving.url)
    call = Background(lambda: client.call("hold", "taken"))
    serving.tools._wait_entered("taken")
    closing = Background(lambda: serving.side.close(GRACE))
    wait_until(lambda: not _can_connect(serving.url), "nobody gets in any more")
    serving.tools._let_go("taken")
    assert call.result() == "taken"
    assert closing.result() is True


def test_call_during_a_drain_goes_to_the_next_server(pair: Pair) -> None:
    """While the old one is still busy with an earlier call of the same client."""
    old = pair.server()
    client = pair.client(old.url)
    taken = Background(lambda: client.call("hold", "taken"))
    old.tools._wait_entered("taken")
    closing = Background(lambda: old.side.close(GRACE))
    wait_until(lambda: not _can_connect(old.url), "the old one does not listen any more")
    wait_until(lambda: _connection(client).core.draining, "it has said goodbye")
    new = pair.server(old.url)
    assert [client.call("record", number) for number in range(5)] == list(range(5))
    assert new.tools.executed == list(range(5))
    assert old.tools.executed == []
    old.tools._let_go("taken")
    assert taken.result() == "taken"
    assert closing.result() is True


def test_grace_exceeded_is_told_on_both_sides(pair: Pair) -> None:
    """The caller learns that the call may have run, the server's owner that something was left."""
    serving = pair.server()
    client = pair.client(serving.url)
    call = Background(lambda: client.call("hold", "long"))
    serving.tools._wait_entered("long")
    assert serving.side.close(0.1) is False
    error = call.error()
    assert isinstance(error, ConnectionLost)
    assert error.outcome is Outcome.MAY_HAVE_RUN
    serving.tools._let_go("long")


def test_stranger_gets_its_answers_before_the_end(pair: Pair) -> None:
    """It knows no goodbye; it is answered all the same, and sees an orderly end."""
    serving = pair.server()
    with stranger(serving.url) as peer:
        peer.send([0, 1, "hold", ["taken"]])
        serving.tools._wait_entered("taken")
        closing = Background(lambda: serving.side.close(GRACE))
        wait_until(lambda: not _can_connect(serving.url), "it closes")
        serving.tools._let_go("taken")
        assert list(peer.messages()) == [[1, 1, None, "taken"]]
    assert closing.result() is True


# --- Closing a client --------------------------------------------------------------------------------


def test_client_waits_for_its_own_calls(pair: Pair) -> None:
    serving = pair.server()
    client = pair.client(serving.url)
    call = Background(lambda: client.call("hold", "own"))
    serving.tools._wait_entered("own")
    closing = Background(lambda: client.close(GRACE))
    wait_until(lambda: _says_closed(client), "it takes no more calls")
    serving.tools._let_go("own")
    assert call.result() == "own"
    closing.result()
    wait_until(lambda: serving.side.connections == 0, "the server sees the end")


def test_client_that_waited_long_enough_gives_up_its_calls(pair: Pair) -> None:
    serving = pair.server()
    client = pair.client(serving.url)
    call = Background(lambda: client.call("hold", "own"))
    serving.tools._wait_entered("own")
    client.close(0.05)
    error = call.error()
    assert isinstance(error, CallError)
    assert error.outcome is Outcome.MAY_HAVE_RUN
    serving.tools._let_go("own")


def test_closed_client_says_so(pair: Pair) -> None:
    client = pair.client(pair.server().url)
    client.close()
    client.close()
    with pytest.raises(SessionClosed) as closed:
        client.call("echo", 1)
    assert closed.value.outcome is Outcome.NOT_SENT


def test_close_while_opening(pair: Pair) -> None:
    """A client that waits for a server that is away gives up at once when it is closed."""
    serving = pair.server()
    client = pair.client(serving.url)
    serving.side.close(GRACE)
    call = Background(lambda: client.call("echo", 1))
    call.wait_until_blocked_in("call")
    client.close()
    assert isinstance(call.error(), SessionClosed)


def test_close_while_the_other_side_does_not_answer(pair: Pair) -> None:
    """Connected, and not yet validated: nobody says anything there."""
    serving = pair.server()
    client = pair.client(serving.url)
    serving.side.close(GRACE)
    with sockets.listen(serving.url) as listener:
        call = Background(lambda: client.call("echo", 1))
        silent, _ = listener.accept(timeout=WAIT)
        client.close(0.1)
        with silent:
            assert isinstance(call.error(), SessionClosed | ConnectionLost | OpenFailed)


def test_short_call_does_not_wait_for_a_long_opening(pair: Pair) -> None:
    """Somebody else is opening, and has all the time in the world; this call has not."""
    serving = pair.server()
    client = pair.client(serving.url)
    serving.side.close(GRACE)
    patient = Background(lambda: client.call("echo", 1))
    patient.wait_until_blocked_in("call")
    with pytest.raises(CallError) as late:
        client.call("echo", 2, timeout=0.1)
    assert late.value.outcome is Outcome.NOT_SENT
    pair.server(serving.url)
    assert patient.result() == 1


@pytest.mark.parametrize("turn", range(3))
def test_close_from_another_thread_during_calls(pair: Pair, turn: int) -> None:
    """Every call ends, with a result or an error; nothing hangs."""
    serving = pair.server()
    client = pair.client(serving.url)
    ends: list[type[BaseException]] = []

    def work() -> int:
        for number in range(1_000_000):
            try:
                client.call("echo", number)
            except CallError as error:
                ends.append(type(error))
                return number
        return 0

    workers = [Background(work) for _ in range(4)]
    wait_until(lambda: serving.side.connections == 1, "they work")
    client.close(0.2)
    for worker in workers:
        worker.result()
    assert set(ends) <= {SessionClosed, ConnectionLost}


def test_server_with_idle_clients_closes(pair: Pair) -> None:
    """They read nothing, and see the end when they come back."""
    serving = pair.server()
    clients = [pair.client(serving.url) for _ in range(10)]
    assert serving.side.close(GRACE) is True
    pair.server(serving.url)
    assert [client.call("echo", 1) for client in clients] == [1] * 10


def test_server_closes_while_clients_come(pair: Pair) -> None:
    """A connection that was accepted in the last moment is not forgotten."""
    serving = pair.server()
    stop = threading.Event()

    def come() -> None:
        while not stop.is_set():
            try:
                sockets.connect(serving.url, timeout=1).abort()
            except OSError:
                return

    coming = [Background(come) for _ in range(3)]
    serving.side.close(GRACE)
    stop.set()
    for each in coming:
        each.result()
    assert serving.side.connections == 0


# --- Looking inside ----------------------------------------------------------------------------------


def _session(client: Any) -> Any:
    return getattr(client, "client", client)._session


def _connection(client: Any) -> Any:
    return _session(client).current


def _is_blocked(client: Any) -> bool:
    connection = _connection(client)
    # The threads driver's knows by what sends, asyncio's by itself.
    return bool(connection.sender.blocked if hasattr(connection, "sender") else connection.crowded)


def _queued(client: Any) -> int:
    """Calls that wait in the connection's queue, or for room in it."""
    connection = _connection(client)
    return len(connection.core.outgoing) + len(getattr(connection, "_room", ()))


def _says_closed(client: Any) -> bool:
    return bool(_session(client).closed)


def _can_connect(url: str) -> bool:
    try:
        sockets.connect(url, timeout=1).abort()
    except OSError:
        return False
    return True
