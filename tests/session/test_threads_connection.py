"""What only the threads driver has to withstand: interrupts, forks, and threads at every step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import hvrpc.msgpack
from hvrpc import ConnectionLost, Outcome
from hvrpc.msgpack.limits import DEFAULT
from hvrpc.session.core import Call
from hvrpc.session.state import Event, Heartbeat, State
from hvrpc.session.threads import Connection, serving

from ..sockets.background import WAIT, Background, wait_until
from ..sockets.places import PLACES, Place
from .lines import LineCore, streams
from .sides import Tools

ROOT = Path(__file__).parents[2]
MiB = 1024 * 1024

needs_unix = pytest.mark.skipif(os.name != "posix", reason="signals and forks: run on Linux")


@contextmanager
def line_pair(
    client: LineCore | None = None, server: LineCore | None = None
) -> Iterator[tuple[Connection[LineCore], Connection[LineCore]]]:
    """Two connections with each other; the second one serves in a thread."""
    with streams() as (calling, called):
        ours = Connection(calling, client or LineCore(), heartbeat=Heartbeat(5))
        theirs = Connection(called, server or LineCore(), heartbeat=Heartbeat(5))
        for connection in (ours, theirs):
            connection.life.happened(Event.PROVEN)
        reading = Background(theirs.serve)
        try:
            yield ours, theirs
        finally:
            ours.end(ConnectionAbortedError("the test is over"))
            theirs.end(ConnectionAbortedError("the test is over"))
            reading.result()


def ask(connection: Connection[LineCore], text: str) -> str:
    call = Call()
    connection.core.request(text, call)
    connection.push()
    assert connection.wait(call, None)
    if call.failure is not None:
        raise call.failure
    value: str = call.value
    return value


# --- Any core ----------------------------------------------------------------------------------------


def test_any_core_can_be_driven() -> None:
    with line_pair() as (ours, _):
        assert [ask(ours, word) for word in ("one", "two")] == ["ONE", "TWO"]


def test_threads_lead_and_follow_without_a_stall() -> None:
    """No heartbeat is needed to get anybody going again: a stall would hold for seconds."""
    with line_pair() as (ours, _):

        def caller(number: int) -> list[str]:
            return [ask(ours, f"{number}.{turn}") for turn in range(200)]

        callers = [Background(partial(caller, n)) for n in range(8)]
        for number, each in enumerate(callers):
            assert each.result() == [f"{number}.{turn}" for turn in range(200)]
        assert ours.core.pings == 0


def test_follower_is_late_on_its_own() -> None:
    """Its deadline comes while another thread leads, and waits on."""
    gate = threading.Event()

    def method(text: str) -> str:
        if text == "long":
            gate.wait(WAIT)
        return text

    with line_pair(server=LineCore(method)) as (ours, _):
        leader = Background(lambda: ask(ours, "long"))
        wait_until(ours.lead.lock.locked, "somebody leads")
        call = Call()
        ours.core.request("long", call)
        ours.push()
        assert not ours.wait(call, time.monotonic() + 0.05)
        gate.set()
        assert leader.result() == "long"


def test_end_wakes_everybody_and_happens_once() -> None:
    ends: list[object] = []
    with line_pair(server=LineCore(lambda text: str(threading.Event().wait(0.2)))) as (ours, _):
        ours._on_end = ends.append
        calls = [Background(lambda: ask(ours, "x")) for _ in range(5)]
        wait_until(lambda: len(ours.core.pending) == 5, "all wait")
        for _ in range(3):
            ours.end(ConnectionResetError("gone"))
        assert all(isinstance(call.error(), ConnectionLost) for call in calls)
    assert ends == [ours]
    assert ours.life.state is State.LOST


def test_what_is_told_not_sent_is_never_sent_afterwards() -> None:
    """The end comes while something is queued: from then on nothing leaves, whoever pushes."""
    with line_pair() as (ours, theirs):
        told: list[Outcome] = []
        with ours.sender.writer:  # another thread is sending
            call = Call()
            ours.core.request("late", call)
            ending = Background(lambda: ours.end(TimeoutError("silent")))
            wait_until(lambda: call.done, "its owner is told")
            assert isinstance(call.failure, ConnectionLost)
            told.append(call.failure.outcome)
        ours.push()
        ending.result()
        wait_until(lambda: theirs.ended, "the other side sees the end")
        assert told == [Outcome.NOT_SENT]
        assert theirs.lane.handled == 0


def test_nothing_comes_between_the_halves_of_a_message() -> None:
    """The socket takes half of it, and another thread sends before its own one comes to the rest."""
    with line_pair() as (ours, _):
        first, second = Call(), Call()
        ours.core.request("first", first)
        item = ours.core.outgoing.pop()
        send = ours.sender.send

        def half(data: bytes, flags: int) -> int:
            ours.sender.send = send
            return send(data[:5], flags)

        class Writer:
            """Lets another thread in as soon as it is given back."""

            def __init__(self, lock: Any) -> None:
                self.acquire = lock.acquire
                self._lock = lock

            def release(self) -> None:
                self._lock.release()
                if cast(Any, ours.sender.writer) is self:
                    ours.sender.writer = self._lock
                    ours.core.request("second", second)
                    ours.push()

        ours.sender.send = half
        ours.sender.writer = cast(Any, Writer(ours.sender.writer))
        assert ours.call(item, first, time.monotonic() + WAIT, WAIT)
        assert ours.wait(second, time.monotonic() + WAIT)
        assert [first.value, second.value] == ["FIRST", "SECOND"]


def test_what_is_withdrawn_at_the_last_moment_harms_nobody() -> None:
    class Withdrawn(deque[Any]):
        def __len__(self) -> int:
            size = super().__len__()
            self.clear()  # another thread, once this one has looked
            return size

    with line_pair() as (ours, _):
        ours.sender.queue = Withdrawn([b"?7 never\n"])
        assert ours.push()
        ours.sender.queue = ours.core.outgoing
        assert ask(ours, "x") == "X"


def test_drain_reads_for_calls_nobody_waits_for() -> None:
    """A batch that was sent, and whose results are fetched after closing."""
    with line_pair() as (ours, _):
        call = Call()
        ours.core.request("x", call)
        ours.push()
        assert ours.drain(time.monotonic() + WAIT)
        assert call.value == "X"


# --- msgpack: large, many, and interrupted -----------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Place]:
    with PLACES["unix" if os.name == "posix" else "local over TCP"]() as place:
        yield place


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
def server(place: Place, tools: Tools) -> Iterator[hvrpc.msgpack.Server]:
    server = hvrpc.msgpack.Server(tools)
    server.listen(place.fresh_url())
    with server:
        yield server
        tools._let_go("mine", "other")


def test_two_64_mib_messages_cross(server: hvrpc.msgpack.Server) -> None:
    """One in each direction at the same time, both as requests, both answered in full."""
    blob = bytes(64 * MiB)
    with hvrpc.msgpack.connect(server.addresses[0], service=Tools()) as client:
        there = Background(lambda: client.call("echo", blob) == blob)
        back = Background(lambda: client.call("back", "blob", [64 * MiB]) == [blob])
        assert there.result()
        assert back.result()
        assert client.connections == 1


def test_batch_larger_than_all_buffers(server: hvrpc.msgpack.Server) -> None:
    """Its answers begin to come long before all of it is sent."""
    with hvrpc.msgpack.connect(server.addresses[0]) as client:
        with client.batch() as batch:
            pending = [batch.call("echo", "x" * 100) for _ in range(50_000)]
        assert {each.result() for each in pending} == {"x" * 100}
        assert client.connections == 1


def test_more_quick_calls_than_may_be_under_way_do_not_wait_for_a_clock(
    server: hvrpc.msgpack.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run on the thread that reads, and it knows that they have ended."""
    monkeypatch.setattr(serving, "THROTTLED", WAIT)
    with hvrpc.msgpack.connect(server.addresses[0], timeout=WAIT) as client:
        with client.batch() as batch:
            pending = [batch.call("echo", n) for n in range(5 * DEFAULT.in_flight)]
        assert [each.result(WAIT / 4) for each in pending] == list(range(len(pending)))


def test_batch_whose_results_nobody_fetches_does_not_delay_the_end(
    server: hvrpc.msgpack.Server,
) -> None:
    client = hvrpc.msgpack.connect(server.addresses[0])
    with client.batch() as batch:
        pending = batch.call("echo", 1)
    client.close(WAIT)
    assert pending.result() == 1


def run_in_process(program: str, address: object, *options: str) -> str:
    """Run a program that has `client`, in a process of its own; returns what it printed."""
    whole = textwrap.dedent(
        """
        import os, signal, sys, threading, time
        import hvrpc, hvrpc.msgpack
        from hvrpc.testing import no_leaks
        address = sys.argv[1]
        client = hvrpc.msgpack.connect(address)
        """
    ) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", whole, str(address)],
        capture_output=True,
        text=True,
        timeout=WAIT * 2,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@needs_unix
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_keyboard_interrupt_in_a_waiting_call(server: hvrpc.msgpack.Server, role: str) -> None:
    """The client works on, or opens another connection; the other thread's call ends either way."""
    told = run_in_process(
        f"""
        role = {role!r}
        ends = []

        def other():
            try:
                ends.append(client.call("hold", "other"))
            except hvrpc.ConnectionLost as error:
                ends.append(error)

        thread = threading.Thread(target=other)

        def waiters():
            current = client._session.current
            return len(current.core.pending)

        def strike():
            while waiters() < 2:
                time.sleep(0.01)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)

        if role == "follower":
            thread.start()
            while not client._session.current.lead.lock.locked():
                time.sleep(0.01)
        threading.Thread(target=strike).start()
        if role == "leader":
            def later():
                while not client._session.current.lead.lock.locked():
                    time.sleep(0.01)
                thread.start()
            threading.Thread(target=later).start()
        try:
            client.call("hold", "mine")
        except KeyboardInterrupt:
            print("interrupted")
        assert client.call("echo", 1) == 1
        client.close(0)
        thread.join(20)
        assert not thread.is_alive() and len(ends) == 1
        print("works on")
        """,
        server.addresses[0],
    )
    assert told.split("\n")[:2] == ["interrupted", "works on"]


@needs_unix
def test_interrupts_at_any_moment(server: hvrpc.msgpack.Server) -> None:
    """However often and whenever they strike: no call hangs, and the client works in the end."""
    told = run_in_process(
        """
        armed = False

        def strike(*_):
            global armed
            if armed:  # once each time: not into the handling of the one before
                armed = False
                raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.0037)
        interrupts = calls = 0
        end = time.monotonic() + 1.5
        striking = True
        while striking:
            try:
                armed = True
                while time.monotonic() < end:
                    try:
                        client.call("echo", b"x" * 50_000, timeout=5)
                        calls += 1
                    except hvrpc.ConnectionLost:
                        pass
                armed = striking = False
            except KeyboardInterrupt:
                interrupts += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        assert client.call("echo", 1, timeout=5) == 1
        assert interrupts > 10 and calls > 10, (interrupts, calls)
        print("works")
        client.close(0)
        """,
        server.addresses[0],
        # Struck between opening a socket and keeping it, nobody but the garbage collector has it.
        "-Wignore::ResourceWarning",
    )
    assert told == "works\n"


@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="later ones do not trace every opcode: run it on Python 3.11",
)
def test_an_interrupt_behind_each_step(server: hvrpc.msgpack.Server) -> None:
    """Where the interpreter looks for signals: no call hangs afterwards, and none is waited for by nobody."""
    told = run_in_process(
        """
        import dis, select
        from hvrpc.session.core import Call

        LOOKS = ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD")
        named = {}
        waited = 0  # places passed while there was no room

        def interrupt(step):
            \"\"\"A trace function that raises behind the n-th place where signals are looked for.\"\"\"
            before = {}
            seen = 0

            def each(frame, event, _):
                global waited
                nonlocal seen
                if event == "opcode":
                    code = frame.f_code
                    if code not in named:
                        named[code] = {each.offset: each.opname for each in dis.get_instructions(code)}
                    looked = before.get(frame) in LOOKS
                    before[frame] = named[code].get(frame.f_lasti)
                    seen += looked
                    waited += looked and code.co_name == "_make_room"
                    if looked and seen == step:
                        sys.settrace(None)
                        raise KeyboardInterrupt
                return each

            def begin(frame, *_):
                if "hvrpc" not in frame.f_code.co_filename:
                    return None
                frame.f_trace_opcodes = True
                frame.f_trace_lines = False
                return each

            return begin

        def one():
            client.call("echo", 1)

        def named_one():
            client.call("echo", value=1, timeout=20)

        def many():
            batch = client.batch()
            for n in range(3):
                batch.call("echo", n)
            batch.results()

        def rested():
            # The connection is looked at first, and an answer has come that nobody waits for.
            connection = client._session.current
            if not connection.ended:
                traces = sys.gettrace()
                sys.settrace(None)
                connection.core.request("echo", (1,), Call())
                connection.push()
                assert select.select([connection.stream.socket], [], [], 20)[0]
                connection.used_at = 0.0
                sys.settrace(traces)
            client.call("echo", 1)

        def noted():
            # There is no room for it at once.
            client.notify("echo", bytes(4_000_000))

        for what in (one, named_one, many, rested, noted):
            step = 0
            interrupted = True
            while interrupted:
                step += 1
                try:
                    sys.settrace(interrupt(step))
                    what()
                    interrupted = False
                except KeyboardInterrupt:
                    pass
                finally:
                    sys.settrace(None)
                assert client.call("echo", step, timeout=20) == step, (what, step)
                # What was sent before may be answered later: the server has more than one thread.
                end = time.monotonic() + 20
                while client._session.current.core.pending and time.monotonic() < end:
                    client.call("echo", step, timeout=20)
                assert not client._session.current.core.pending, (what, step)
            assert step > 20, (what, step)
        assert waited > 20, waited
        print("works")
        client.close(0)
        """,
        server.addresses[0],
        # Struck between taking the lead and knowing that, nobody but the garbage collector has the socket.
        "-Wignore::ResourceWarning",
    )
    assert told == "works\n"


@needs_unix
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_fork_gives_the_child_a_connection_of_its_own(server: hvrpc.msgpack.Server) -> None:
    """The parent's is not disturbed, not even by the child's closing, or end."""
    client = hvrpc.msgpack.connect(server.addresses[0])
    assert client.call("echo", 1) == 1
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)
            if [client.call("echo", n) for n in range(10)] == list(range(10)):
                code = 0
            client.close()
        finally:
            os._exit(code)
    assert [client.call("echo", n) for n in range(100)] == list(range(100))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.call("echo", 2) == 2
    assert client.connections == 1
    client.close()


@needs_unix
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_fork_during_calls_of_other_threads(server: hvrpc.msgpack.Server) -> None:
    """Locks that they hold at that moment must not be held for ever in the child."""
    client = hvrpc.msgpack.connect(server.addresses[0], service=Tools())
    stop = threading.Event()

    def work() -> int:
        turns = 0
        while not stop.is_set():
            assert client.call("echo", turns) == turns
            turns += 1
        return turns

    workers = [Background(work) for _ in range(3)]
    for _ in range(5):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(20)
                code = 0 if client.call("back", "echo", [7]) == [7] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop.set()
    assert all(worker.result() > 0 for worker in workers)
    assert client.connections == 1
    client.close()


def test_a_handler_that_waits_for_its_own_call_does_not_look_stuck() -> None:
    """It reads on by itself meanwhile; nobody has to take over. Another thread that waits changes nothing."""
    with line_pair() as (ours, _):
        done = Call()
        done.done = True
        ours.lane.handled = ours.lane.serving = 5
        ours.lane.runner = threading.get_ident()
        assert ours.wait(done, None)
        assert ours.lane.serving == ours.lane.handled == 6
        Background(lambda: ours.wait(done, None)).result()
        assert ours.lane.serving == ours.lane.handled == 6
        ours.lane.serving = 0
        assert ours.wait(done, None)
        assert ours.lane.serving == 0
