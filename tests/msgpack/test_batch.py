"""What becomes of a batch's calls when a server leaves, or nobody waits for them: with servers made of bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hvrpc import CallCancelled, CallError, ConnectionLost, DeadlineExceeded, Outcome
from hvrpc.msgpack import aio

from ..sockets.background import WAIT, Background
from ..sockets.places import UnixPlace, needs_unix, short_folder
from .contract import Tools
from .drivers import ASYNCIO, BLOCKING, AnyClient, Bench, bench
from .raw import RawPeer, refuse_hello, serving

pytestmark = needs_unix

LEAVING = {"code": -32801, "message": "leaving"}


@pytest.fixture(params=[BLOCKING, ASYNCIO])
def made(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with (
        short_folder() as folder,
        bench(UnixPlace("unix", folder=folder), request.param, BLOCKING) as found,
    ):
        yield found


@contextmanager
def client_of(
    made: Bench, handle: Callable[[RawPeer], None], **settings: Any
) -> Iterator[AnyClient]:
    with serving(handle) as url:
        made.url = url
        client = made.connect(**settings)
        yield client
        client.close()


def greet(peer: RawPeer) -> None:
    peer.send([1, peer.next()[1], None, {"hvrpc": 1}])


def test_they_are_one_write(made: Bench) -> None:
    sizes: list[int] = []

    def counting(peer: RawPeer) -> None:
        refuse_hello(peer)
        peer.received = b""
        numbers = [peer.next()[1]]
        sizes.append(len(peer.received))
        numbers += [peer.next()[1] for _ in range(19)]
        peer.send(*([1, number, None, number] for number in reversed(numbers)))
        peer.rest()

    with client_of(made, counting) as client:
        batch = client.batch()
        for _ in range(20):
            batch.call("x")
        found = batch.results()
    assert found == sorted(found)
    assert sizes == [20 * len(b"\x94\x00\x02\xa1x\x90")]


class Leaving:
    """A server that refuses calls on its first connection and says goodbye; it counts what it carries out
    on the others."""

    def __init__(self, answers: int = 0) -> None:
        self.answers = answers
        self.connections = 0
        self.carried_out: list[Any] = []

    def __call__(self, peer: RawPeer) -> None:
        greet(peer)
        self.connections += 1
        if self.connections == 1:
            calls = [peer.next() for _ in range(2)]
            for number, call in enumerate(calls):
                peer.send(
                    [1, call[1], *((None, "first") if number < self.answers else (LEAVING, None))]
                )
            peer.send([2, "$/goodbye", [{"unfinished": []}]])
            return
        for _ in range(2 - self.answers):
            call = peer.next()
            self.carried_out.append(call[2])
            peer.send([1, call[1], None, "second"])
        self.carried_out += [call[2] for call in peer.rest() if call[0] == 0]


def test_calls_that_were_not_carried_out_move_to_a_new_connection(made: Bench) -> None:
    server = Leaving(answers=1)
    with client_of(made, server) as client:
        with client.batch() as batch:
            calls = [batch.call("x"), batch.call("y")]
        assert [each.result() for each in calls] == ["first", "second"]
        assert client.connections == 2
    assert server.carried_out == ["y"]


def test_however_often_the_result_is_asked_for_it_is_carried_out_once(made: Bench) -> None:
    server = Leaving()
    with client_of(made, server) as client:
        batch = client.batch()
        calls = [batch.call("x"), batch.call("y")]
        assert batch.results() == ["second"] * 2
        assert [each.result() for each in calls] == ["second"] * 2
    assert sorted(server.carried_out) == ["x", "y"]


def test_a_repetition_that_is_never_sent_does_not_say_that_nothing_ran(made: Bench) -> None:
    connections: list[int] = []

    def dying(peer: RawPeer) -> None:
        connections.append(1)
        if len(connections) > 1:
            return
        greet(peer)
        peer.next()
        peer.next()  # it may be carried out, or not: nobody will know

    with serving(dying) as url:
        made.url = url
        client = made.connect(idempotent=("x",), retry=False)
        with client.batch() as batch:
            pending = [batch.call("x"), batch.call("x")]
        for each in pending:
            for _ in range(2):
                with pytest.raises(CallError) as caught:
                    each.result(timeout=0.2)
                assert caught.value.outcome is Outcome.MAY_HAVE_RUN
    client.close(0)


def test_nobody_waits_longer_for_a_repetition_than_it_may(made: Bench) -> None:
    connections: list[int] = []
    repeated, answer = threading.Event(), threading.Event()

    def slow(peer: RawPeer) -> None:
        greet(peer)
        connections.append(1)
        request = peer.next()
        if len(connections) == 1:
            peer.send([1, request[1], LEAVING, None])
            return
        repeated.set()
        answer.wait(WAIT)
        peer.send([1, request[1], None, "at last"])
        peer.rest()

    with client_of(made, slow) as client:
        with client.batch() as batch:
            pending = batch.call("x")
        patient = Background(lambda: pending.result(None))
        assert repeated.wait(WAIT)
        with pytest.raises(DeadlineExceeded) as caught:
            pending.result(timeout=0.01)
        assert caught.value.outcome is Outcome.MAY_HAVE_RUN
        answer.set()
        assert patient.result() == pending.result() == "at last"


def test_what_a_result_may_take_includes_opening_a_connection(made: Bench) -> None:
    connections: list[int] = []

    def once(peer: RawPeer) -> None:
        connections.append(1)
        if len(connections) == 1:
            greet(peer)
            peer.next()
        else:
            peer.rest()  # without a word

    with client_of(made, once, timeout=None) as client:
        with pytest.raises(ConnectionLost):
            client.call("x", timeout=WAIT)
        batch = client.batch()
        pending = batch.call("x")
        for ask in (pending.result, batch.results):
            with pytest.raises(CallError) as caught:
                ask(timeout=0.05)
            assert caught.value.outcome is Outcome.NOT_SENT


def test_all_results_together_take_no_longer_than_they_may(made: Bench) -> None:
    stop = threading.Event()

    def dripping(peer: RawPeer) -> None:
        greet(peer)
        while not stop.wait(0.06):  # each of them comes in time
            peer.send([1, peer.next()[1], None, None])

    with client_of(made, dripping) as client:
        batch = client.batch()
        for _ in range(50):
            batch.call("x")
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.5 s"):
            batch.results(timeout=0.5)
        stop.set()


def test_the_last_of_its_results_closes_what_the_other_side_leaves(made: Bench) -> None:
    closed = threading.Event()

    def leaving(peer: RawPeer) -> None:
        greet(peer)
        first, second = peer.next(), peer.next()
        peer.send(
            [2, "$/goodbye", [{}]], [1, first[1], None, "first"], [1, second[1], None, "second"]
        )
        peer.rest()
        closed.set()

    with client_of(made, leaving) as client:
        batch = client.batch()
        batch.call("x")
        batch.call("y")
        assert batch.results() == ["first", "second"]
        assert closed.wait(WAIT)


class TestAsyncio:
    def run(self, main: Callable[[aio.Client, Tools], Any]) -> None:
        async def bounded() -> None:
            tools = Tools()
            with short_folder() as folder:
                async with asyncio.timeout(WAIT), aio.Server(tools) as server:
                    url = server.listen(f"unix://{folder}/aio.sock")
                    async with aio.connect(url) as client:
                        await main(client, tools)

        asyncio.run(bounded())

    def test_calls_are_awaited(self) -> None:
        async def main(client: aio.Client, _: Tools) -> None:
            async with client.batch() as batch:
                sums = [batch.call("add", n, n) for n in range(64)]
            assert await sums[1] == 2
            assert await asyncio.gather(*sums) == list(range(0, 128, 2))
            assert await client.batch().results() == []

        self.run(main)

    def test_who_is_cancelled_cancels_the_call(self) -> None:
        async def main(client: aio.Client, tools: Tools) -> None:
            async with client.batch() as batch:
                held, quick = batch.call("hold", "x"), batch.call("add", 1, 2)
            waiting = asyncio.ensure_future(held)
            assert await asyncio.to_thread(tools.gates["x"].reached.wait, WAIT)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await asyncio.to_thread(tools.cancelled.wait, WAIT)
            with pytest.raises(CallCancelled, match="given up"):
                await held
            assert await quick == 3

        self.run(main)

    def test_who_is_cancelled_while_all_are_awaited_cancels_all(self) -> None:
        async def main(client: aio.Client, tools: Tools) -> None:
            batch = client.batch()
            calls = [batch.call("add", 1, 2), batch.call("hold", "x"), batch.call("hold", "y")]
            waiting = asyncio.ensure_future(batch.results())
            for gate in "xy":
                assert await asyncio.to_thread(tools.gates[gate].reached.wait, WAIT)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await calls[0] == 3
            for each in calls[1:]:
                with pytest.raises(CallCancelled):
                    await each
            current = client._session.current
            assert current is not None
            assert not current.core.pending

        self.run(main)

    def test_several_tasks_wait_for_one(self) -> None:
        async def main(client: aio.Client, tools: Tools) -> None:
            async with client.batch() as batch:
                held = batch.call("hold", "x")
            patient = asyncio.ensure_future(held.result())
            await asyncio.sleep(0)
            hasty = asyncio.ensure_future(held.result())
            tools.gates["x"].open()
            assert [*await asyncio.gather(patient, hasty)] == ["x", "x"]

        self.run(main)

    def test_tasks_that_ask_for_what_is_not_sent_are_told(self) -> None:
        async def main(client: aio.Client, _: Tools) -> None:
            current = client._session.current
            assert current is not None
            await current.close()
            batch = client.batch()
            calls = [batch.call("add", 1, 2), batch.call("add", object())]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(found[0], ValueError)
            assert isinstance(found[1], CallError)
            assert found[1].outcome is Outcome.NOT_SENT

        self.run(main)

    def test_it_waits_for_room_as_calls_do(self) -> None:
        stop = threading.Event()

        def lazy(peer: RawPeer) -> None:
            refuse_hello(peer)
            stop.wait(WAIT)

        async def main(url: str) -> None:
            client = await aio.connect(url, timeout=0.05)
            await client.notify("large", bytes(8_000_000))
            batch = client.batch()
            pending = batch.call("small")
            for _ in range(2):
                with pytest.raises(CallError) as caught:
                    await pending
                assert caught.value.outcome is Outcome.NOT_SENT
            await client.close(0)

        with serving(lazy) as url:
            try:
                asyncio.run(main(url))
            finally:
                stop.set()
