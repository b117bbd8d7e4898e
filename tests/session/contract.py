"""What a connection must do, whichever driver calls, whichever serves, and whatever lies between.

Subclasses run with the `pair` that a fixture gives them; see `test_contract`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgpack
import pytest

from hvrpc import CallError, ConnectionLost, DeadlineExceeded, Outcome, RemoteError, sockets
from hvrpc.msgpack.limits import Limits
from hvrpc.security import PLAIN, Security
from hvrpc.sockets import Options, Stream
from hvrpc.sockets.handshake import shake_hands
from hvrpc.testing import Link

from ..sockets.background import WAIT, Background, wait_until
from .sides import ClientSide, Pair

MiB = 1024 * 1024
QUICK_DEATH = 0.6
"""`dead_after` of the tests: short, and long enough for a busy machine to answer in a third of it."""

EXCHANGE = 300
"""Bytes that suffice for hello, a call and its answer, in TLS's records too."""


def together(count: int, function: Any) -> list[Any]:
    """Run function(0), function(1), … in threads at the same time."""
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait(WAIT)
        return function(number)

    threads = [Background(partial(run, number)) for number in range(count)]
    return [thread.result() for thread in threads]


class BasicContract:
    """Short, so that it can be tried on every family of sockets."""

    def test_calls_are_answered(self, pair: Pair) -> None:
        client = pair.client(pair.server().url)
        assert client.call("echo", [1, "ä", b"\0", None, {"a": 2.5}]) == [
            1,
            "ä",
            b"\0",
            None,
            {"a": 2.5},
        ]
        with pytest.raises(RemoteError, match="boom"):
            client.call("fail", "boom")

    def test_many_threads_share_a_connection(self, pair: Pair) -> None:
        """Everybody gets the answers that belong to him."""
        serving = pair.server()
        client = pair.client(serving.url)

        def caller(number: int) -> list[Any]:
            return [client.call("echo", [number, turn]) for turn in range(40)]

        for number, answers in enumerate(together(12, caller)):
            assert answers == [[number, turn] for turn in range(40)]
        assert client.connections == 1
        assert serving.side.connections == 1

    def test_large_messages_cross(self, pair: Pair) -> None:
        """Each more than all buffers hold; from both ends at once, several in each direction."""
        serving = pair.server()
        client = pair.client(serving.url, service=pair.calling.tools())

        def same(blob: bytes) -> bool:
            return bool(client.call("echo", blob) == blob)

        blobs = [bytes([number]) * (17 * MiB + number) for number in range(2)]
        jobs = [Background(partial(same, blob)) for blob in blobs]
        jobs.append(
            Background(lambda: client.call("back", "blob", [17 * MiB]) == [bytes(17 * MiB)])
        )
        assert all(job.result() for job in jobs)
        assert client.connections == 1

    def test_server_calls_back(self, pair: Pair) -> None:
        client = pair.client(pair.server().url, service=pair.calling.tools())
        assert client.call("back", "echo", [1, 2, 3]) == [1, 2, 3]

    def test_connection_is_lost_and_found(self, pair: Pair) -> None:
        """The other side goes away in the middle of a call; the next call opens a connection."""
        serving = pair.server()
        link = pair.enter(Link(serving.url))
        client = pair.client(str(link.address))
        call = Background(lambda: client.call("hold", "cut"))
        serving.tools._wait_entered("cut")
        link.cut()
        error = call.error()
        assert isinstance(error, ConnectionLost)
        assert error.outcome is Outcome.MAY_HAVE_RUN
        serving.tools._let_go("cut")
        assert client.call("echo", 1) == 1
        assert client.connections == 2

    def test_nothing_is_left_behind(self, pair: Pair) -> None:
        """Closing both ends, in either order, ends every thread and closes every file."""
        for server_first in (True, False):
            serving = pair.server()
            client = pair.client(serving.url, service=pair.calling.tools())
            client.call("back", "echo", [1])
            ends: list[Any] = [client.close, serving.side.close]
            for close in reversed(ends) if server_first else ends:
                close()


class Contract(BasicContract):
    """All of it."""

    # --- Who waits for whom ---

    def test_handler_that_waits_delays_nobody(self, pair: Pair) -> None:
        serving = pair.server()
        client = pair.client(serving.url)
        held = [Background(partial(client.call, "hold", name)) for name in "abc"]
        for name in "abc":
            serving.tools._wait_entered(name)
        assert [client.call("echo", number) for number in range(20)] == list(range(20))
        serving.tools._let_go(*"cab")
        assert [call.result() for call in held] == list("abc")

    def test_requests_behind_one_that_waits_are_carried_out(self, pair: Pair) -> None:
        """All of them arrived in one piece, before the first was begun."""
        serving = pair.server()
        with stranger(serving.url, pair.security) as peer:
            peer.send([0, 1, "hold", ["first"]], *([0, n, "echo", [n]] for n in range(2, 40)))
            answers = peer.receive(38)
            assert sorted(answers) == list(range(2, 40))
            serving.tools._let_go("first")
            assert peer.receive(1) == {1: "first"}

    def test_handlers_call_back_in_many_threads(self, pair: Pair) -> None:
        """While the callers themselves wait on the same connection."""
        client = pair.client(pair.server().url, service=pair.calling.tools())

        def caller(number: int) -> Any:
            return client.call("back", "echo", [[number, turn] for turn in range(10)])

        answers = together(8, caller)
        assert answers == [[[number, turn] for turn in range(10)] for number in range(8)]

    def test_calls_back_and_forth_nest(self, pair: Pair) -> None:
        """Each side waits for the other, several times over, on one connection."""
        client = pair.client(pair.server().url, service=pair.calling.tools())
        assert client.call("nest", 8) == 8

    def test_client_that_waits_in_a_handler_still_gets_answers(self, pair: Pair) -> None:
        """A method of the client's own waits, while a call of the client's is answered."""
        theirs = pair.server()
        tools = pair.calling.tools()
        client = pair.client(theirs.url, service=tools)
        holding = Background(lambda: client.call("back", "hold", ["mine", "mine"]))
        tools._wait_entered("mine")
        assert [client.call("echo", number) for number in range(20)] == list(range(20))
        assert client.call("back", "echo", [1, 2]) == [1, 2]
        tools._let_go("mine")
        assert holding.result() == ["mine", "mine"]

    # --- Limits ---

    def test_no_more_run_than_may(self, pair: Pair) -> None:
        """The rest waits outside, and has its turn."""
        serving = pair.server(limits=Limits(in_flight=3))
        names = [f"h{number}" for number in range(10)]
        with stranger(serving.url, pair.security) as peer:
            peer.send(*([0, number, "hold", [name]] for number, name in enumerate(names)))
            for name in names[:3]:
                serving.tools._wait_entered(name)
            serving.tools._let_go(*names)
            assert peer.receive(10) == dict(enumerate(names))
        assert serving.tools.most_inside == 3

    def test_many_requests_before_any_answer_is_read(self, pair: Pair) -> None:
        """By a client that sends all and only then reads, as simple ones do."""
        serving = pair.server()
        blob = bytes(64 * 1024)
        with stranger(serving.url, pair.security) as peer:
            peer.send(*([0, number, "echo", [blob]] for number in range(100)))
            assert peer.receive(100) == dict.fromkeys(range(100), blob)

    def test_peer_that_does_not_read_costs_little(self, pair: Pair) -> None:
        """It asks for much and takes nothing: only some of it is made. When it reads, it gets all."""
        serving = pair.server()
        size, count = 256 * 1024, 300
        with stranger(serving.url, pair.security) as peer:
            peer.send(*([0, number, "blob", [size]] for number in range(count)))
            wait_until(lambda: len(serving.tools.executed) >= 16 * MiB // size, "it is filled")
            client = pair.client(serving.url)
            for _ in range(200):
                client.call("echo", 1)
            assert len(serving.tools.executed) < 2 * 16 * MiB // size
            assert client.call("echo", 1) == 1
            answers = peer.receive(count)
            assert len(answers) == count
            assert all(len(answer) == size for answer in answers.values())

    @pytest.mark.skipif(
        not hasattr(socket, "AF_UNIX"),
        reason="TCP's buffers hold all these answers: run where Python has UNIX sockets",
    )
    def test_small_answers_that_nobody_reads_cost_little_too(self, pair: Pair) -> None:
        serving = pair.server(options=Options(send_buffer=100_000))
        count = 60_000
        with stranger(serving.url, pair.security) as peer:
            sending = Background(
                lambda: peer.send(*([0, n, "record", [2**62 + n]] for n in range(count)))
            )
            client = pair.client(serving.url)
            before = -1
            while before != len(serving.tools.executed):  # as far as it goes
                before = len(serving.tools.executed)
                for _ in range(100):
                    client.call("echo", 1)
            assert before < count
            assert len(peer.receive(count)) == count
            sending.result()

    @pytest.mark.parametrize("timeout", [1e7, 1e12])
    def test_a_timeout_may_be_beyond_all_waiting(self, pair: Pair, timeout: float) -> None:
        """On Windows a lock waits for 49 days at most, elsewhere for three centuries."""
        serving = pair.server()
        client = pair.client(serving.url, timeout=timeout)
        names = ["a", "b"]
        held = [Background(functools.partial(client.call, "hold", name)) for name in names]
        for name in names:
            serving.tools._wait_entered(name)
        assert client.call("echo", 2, timeout=timeout) == 2
        serving.tools._let_go(*names)
        assert [each.result() for each in held] == names

    # --- Silence ---

    def test_silent_peer_is_given_up_while_a_call_waits(self, pair: Pair) -> None:
        """A paused VM shows in no error of any socket."""
        serving = pair.server()
        link = pair.enter(Link(serving.url))
        client = pair.client(str(link.address), dead_after=QUICK_DEATH)
        client.call("echo", 1)
        link.stall()
        with pytest.raises(ConnectionLost, match="no sign of life") as lost:
            client.call("record", 1)
        assert lost.value.outcome is Outcome.MAY_HAVE_RUN
        link.resume()
        assert client.call("echo", 2) == 2
        assert client.connections == 2

    def test_silent_peer_is_given_up_when_calls_are_short(self, pair: Pair) -> None:
        """None of them waits as long as that; all together they do."""
        serving = pair.server()
        link = pair.enter(Link(serving.url))
        client = pair.client(str(link.address), dead_after=QUICK_DEATH)
        client.call("echo", 1)
        link.stall()
        for _ in range(200):
            try:
                client.call("echo", 1, timeout=0.1)
            except DeadlineExceeded:
                continue
            except ConnectionLost:
                break
        else:
            pytest.fail("it was never given up")
        link.resume()
        assert client.call("echo", 2) == 2

    def test_silent_peer_is_given_up_while_idle_if_asked(self, pair: Pair) -> None:
        serving = pair.server()
        link = pair.enter(Link(serving.url))
        client = pair.client(str(link.address), dead_after=QUICK_DEATH, watch_idle=True)
        client.call("echo", 1)
        link.stall()
        wait_until(lambda: _current(client).ended, "the idle connection is given up")
        link.resume()
        assert client.call("record", 2) == 2
        assert client.connections == 2

    def test_silent_client_is_given_up_by_a_server_that_calls_it(self, pair: Pair) -> None:
        """A method that calls back must not hang for ever because the caller's VM was paused."""
        serving = pair.server(dead_after=QUICK_DEATH)
        tools = pair.calling.tools()
        link = pair.enter(Link(serving.url))
        client = pair.client(str(link.address), service=tools)
        asking = Background(lambda: client.call("back", "hold", ["x"]))
        tools._wait_entered("x")
        link.stall()
        wait_until(lambda: serving.side.connections == 0, "the server gives the client up")
        tools._let_go("x")
        link.cut()
        link.resume()
        assert isinstance(asking.error(), ConnectionLost)

    def test_slow_peer_that_is_alive_is_never_given_up(self, pair: Pair) -> None:
        """A method that takes twice as long, on a connection that is silent otherwise."""
        serving = pair.server()
        client = pair.client(serving.url, dead_after=QUICK_DEATH)
        call = Background(lambda: client.call("hold", "slow"))
        serving.tools._wait_entered("slow")
        call.thread.join(QUICK_DEATH * 2)
        serving.tools._let_go("slow")
        assert call.result() == "slow"
        assert client.connections == 1

    def test_server_that_takes_no_more_calls_is_never_given_up(self, pair: Pair) -> None:
        """It reads nothing then, our questions included."""
        serving = pair.server(limits=Limits(in_flight=2))
        client = pair.client(serving.url, dead_after=QUICK_DEATH)
        names = ["a", "b", "c", "d"]
        calls = [Background(functools.partial(client.call, "hold", name)) for name in names]
        wait_until(lambda: serving.tools.inside == 2, "two of them are carried out")
        calls[0].thread.join(QUICK_DEATH * 2)
        serving.tools._let_go(*names)
        assert [call.result() for call in calls] == names
        assert client.connections == 1

    def test_silent_peer_is_given_up_though_a_message_is_half_sent(self, pair: Pair) -> None:
        serving = pair.server()
        link = pair.enter(Link(serving.url))
        client = pair.client(str(link.address), dead_after=QUICK_DEATH, timeout=WAIT)
        client.call("echo", 1)
        link.stall()
        with pytest.raises(ConnectionLost, match="no sign of life"):
            client.call("echo", bytes(32 * 1024 * 1024))
        link.resume()
        assert client.call("echo", 2) == 2

    @pytest.mark.parametrize("hello", [True, False])
    def test_stranger_is_not_pinged(self, pair: Pair, hello: bool) -> None:
        """It may be as slow as it likes: it cannot be asked, so it is not given up."""
        with sockets.listen(pair.place.fresh_url()) as listener:
            seen: list[Any] = []

            def serve() -> None:
                stream, _ = listener.accept(timeout=WAIT)
                if pair.tls is not None:
                    shake_hands(stream, pair.tls.server(), WAIT)
                with Stranger(stream) as peer:
                    for message in peer.messages():
                        seen.append(message)
                        if message[2].startswith("$/"):
                            peer.send([1, message[1], "no such method", None])
                        else:
                            threading.Event().wait(QUICK_DEATH)
                            peer.send([1, message[1], None, "at last"])

            serving = Background(serve)
            url = pair.place.url_for_callers(listener)
            client = pair.client(url, hello=hello, dead_after=QUICK_DEATH / 2)
            assert client.call("slow") == "at last"
            client.close()
            serving.result()
        assert [message[2] for message in seen if message[0] == 0] == ["$/hello"] * hello + ["slow"]
        assert client.connections == 1

    # --- The end, whenever it comes ---

    @pytest.mark.parametrize("direction", ["to_target", "to_caller"])
    def test_peer_dies_at_every_byte(self, pair: Pair, direction: Any) -> None:
        """Or every second of an exchange, hello included. Every call ends, truthfully; the next one works."""
        serving = pair.server()
        link = pair.enter(Link(serving.url))
        plain = pair.client(str(link.address))
        plain.call("record", -1)
        plain.close()
        length = getattr(link.statistics, direction)
        numbers = itertools.count()
        for count in _places_to_cut(length):
            link.cut_after(count, direction)
            client = None
            number = next(numbers)
            try:
                client = pair.client(str(link.address), retry=False)
                assert client.call("record", number) == number
            except CallError as error:
                executed = serving.tools.executed.count(number)
                if error.outcome is Outcome.NOT_SENT:
                    assert executed == 0
                assert executed <= 1
            else:
                assert serving.tools.executed.count(number) == 1
            link.cut_after(10**9, direction)
            if client is not None:
                if pair.place.family != "unix":  # TCP takes a message before it tells of the cut
                    with contextlib.suppress(ConnectionLost):
                        client.call("echo", count)
                assert client.call("echo", count) == count
                client.close()

    def test_late_answer_belongs_to_nobody(self, pair: Pair) -> None:
        serving = pair.server()
        client = pair.client(serving.url)
        with pytest.raises(DeadlineExceeded) as late:
            client.call("hold", "late", timeout=0.05)
        assert late.value.outcome is Outcome.MAY_HAVE_RUN
        assert client.call("echo", 1) == 1
        serving.tools._let_go("late")
        assert [client.call("echo", number) for number in range(50)] == list(range(50))
        assert client.connections == 1

    def test_large_answer_that_comes_too_late_harms_nobody(self, pair: Pair) -> None:
        """The deadline strikes while its bytes are arriving; the rest arrives later."""
        serving = pair.server()
        link = pair.enter(Link(serving.url))
        client = pair.client(str(link.address), timeout=WAIT)
        link.slow(bytes_per_second=4 * MiB)
        with pytest.raises(DeadlineExceeded):
            client.call("blob", 2 * MiB, timeout=0.2)
        threading.Event().wait(0.05)  # rested, as between two calls of a person
        assert client.call("echo", "next") == "next"
        link.slow()
        assert client.call("blob", 2 * MiB) == bytes(2 * MiB)
        assert client.connections == 1

    def test_nonsense_ends_the_connection_and_not_the_server(self, pair: Pair) -> None:
        serving = pair.server()
        for nonsense in (
            b"\xc1",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x93\x00\x01",
            b"\x94\x07\x01\xc0\xc0",
        ):
            with stranger(serving.url, pair.security) as peer:
                peer.stream.sendall(nonsense)
                peer.stream.socket.shutdown(socket.SHUT_WR)
                assert list(peer.messages()) == []
        client = pair.client(serving.url)
        assert client.call("echo", 1) == 1
        wait_until(lambda: serving.side.connections == 1, "the others are gone")


# --- A peer of another make ----------------------------------------------------------------------


class Stranger:
    """Speaks plain msgpack-RPC, and blocks at every step."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._unpacker = msgpack.Unpacker(raw=False, max_buffer_size=0)

    def send(self, *messages: Any) -> None:
        pack: Any = msgpack.packb
        self.stream.sendall(b"".join(pack(message) for message in messages))

    def messages(self) -> Iterator[Any]:
        """What arrives, until the end."""
        while True:
            yield from self._unpacker
            data = self.stream.recv(65536)
            if not data:
                return
            self._unpacker.feed(data)

    def receive(self, count: int) -> dict[int, Any]:
        """So many answers by their ids."""
        answers: dict[int, Any] = {}
        for kind, number, error, result in itertools.islice(self.messages(), count):
            assert (kind, error) == (1, None), (kind, error)
            answers[number] = result
        return answers

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.abort()


@contextmanager
def stranger(url: str, security: Security = PLAIN) -> Iterator[Stranger]:
    """A foreign client of that server."""
    stream = sockets.connect(url, security=security)
    stream.timeout = WAIT
    with Stranger(stream) as peer:
        yield peer


def _places_to_cut(length: int) -> list[int]:
    """After so many bytes. What comes before an exchange is TLS's handshake: long, and without any call."""
    handshake = max(0, length - EXCHANGE)
    return [*range(0, handshake, 11), *range(handshake, length + 2, 2)]


def _current(client: ClientSide) -> Any:
    inner: Any = getattr(client, "client", client)
    return inner._session.current
