"""What only the blocking client has: any number of threads."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

import hvrpc.msgpack
from hvrpc import (
    Address,
    CallCancelled,
    CallError,
    ConnectionLost,
    DeadlineExceeded,
    Outcome,
)
from hvrpc.msgpack import Context
from hvrpc.msgpack.client import PeerCaller
from hvrpc.msgpack.core import MsgpackCore

from ..sockets.background import WAIT, Background, wait_until
from ..sockets.places import UnixPlace, needs_unix, short_folder
from .contract import Tools
from .drivers import BLOCKING, Bench, bench
from .raw import RawPeer, refuse_hello, serving

pytestmark = needs_unix


@pytest.fixture
def made() -> Iterator[Bench]:
    with (
        short_folder() as folder,
        bench(UnixPlace("unix", folder=folder), BLOCKING, BLOCKING) as found,
    ):
        yield found


def pair(made: Bench, offered: Any = None, **settings: Any) -> hvrpc.msgpack.Client:
    client = made.pair(Tools() if offered is None else offered, **settings)
    assert isinstance(client, hvrpc.msgpack.Client)
    return client


class TestBatch:
    def test_one_that_comes_just_after_the_end_was_not_sent(self, made: Bench) -> None:
        """The connection ends after the batch has looked for it, and before its calls are known."""
        connection = pair(made)._session.current
        assert connection is not None
        connection.close()
        batch = PeerCaller(lambda: connection, "elsewhere").batch()
        calls = [batch.call("note", n) for n in range(3)]
        batch.send()
        for each in calls:
            with pytest.raises(ConnectionLost) as caught:
                each.result(timeout=WAIT)
            assert caught.value.outcome is Outcome.NOT_SENT

    def test_threads_that_ask_for_one_result_repeat_its_call_once(self) -> None:
        carried_out: list[Any] = []
        gone = threading.Barrier(2)

        def leaving(peer: RawPeer) -> None:
            peer.send([1, peer.next()[1], None, {"hvrpc": 1}])
            if gone.broken:
                carried_out.append(request := peer.next())
                peer.send([1, request[1], None, len(carried_out)])
            else:
                request = peer.next()
                peer.send([1, request[1], {"code": -32801, "message": "leaving"}, None])
                peer.send([2, "$/goodbye", [{"unfinished": []}]])
                gone.abort()
            peer.rest()

        with serving(leaving) as url, hvrpc.msgpack.connect(url) as client:
            with client.batch() as batch:
                pending = batch.call("x")
            threads = [Background(pending.result) for _ in range(4)]
            assert [each.result() for each in threads] == [1] * 4
        assert len(carried_out) == 1

    def test_all_threads_that_wait_for_one_result_have_it_when_it_comes(self, made: Bench) -> None:
        tools = Tools()
        client = pair(made, tools)
        with client.batch() as batch:
            leading, shared = batch.call("hold", "x"), batch.call("hold", "y")
        leader = Background(lambda: leading.result(None))
        leader.wait_until_blocked_in("_lead_until")
        threads = [Background(lambda: shared.result(None)) for _ in range(3)]
        for each in threads:
            each.wait_until_blocked_in("result")
        tools.gates["y"].open()
        assert [each.result() for each in threads] == ["y"] * 3
        tools.gates["x"].open()
        assert leader.result() == "x"

    def test_a_thread_that_asks_while_another_packs_gets_its_result(self, made: Bench) -> None:
        client = pair(made)
        packing, go_on = threading.Event(), threading.Event()

        class Slow(dict[str, int]):
            def items(self) -> Any:
                packing.set()
                assert go_on.wait(WAIT)
                return super().items()

        batch = client.batch()
        calls = [batch.call("add", 1, 2), batch.call("echo", Slow(x=1))]
        sending = Background(batch.send)
        assert packing.wait(WAIT)
        asking = Background(calls[0].result)
        asking.wait_until_blocked_in("result")
        go_on.set()
        assert asking.result() == 3
        sending.result()
        assert calls[1].result() == {"x": 1}

    def test_a_value_that_asks_for_a_result_while_it_is_packed_ends_the_batch(
        self, made: Bench
    ) -> None:
        tools = Tools()
        client = pair(made, tools)

        class Curious(dict[str, int]):
            def items(self) -> Any:
                return calls[0].result()

        batch = client.batch()
        calls = [batch.call("note", 1), batch.call("echo", Curious(x=1))]
        with pytest.raises(CallError, match="its batch was not sent"):
            batch.send()
        assert client.call("add", 1, 2) == 3
        assert tools.notes == []

    def test_an_interrupt_behind_the_last_step_does_not_say_that_nothing_was_sent(self) -> None:
        class Interrupted(deque[Any]):
            def extend(self, items: Any) -> None:
                super().extend(items)
                raise KeyboardInterrupt

        core = MsgpackCore({}, says_hello=False)
        core.outgoing = Interrupted()
        connection: Any = SimpleNamespace(core=core, push=list, ended=False)
        batch = PeerCaller(lambda: connection, "elsewhere").batch()
        pending = batch.call("x")
        with pytest.raises(KeyboardInterrupt):
            batch.send()
        with pytest.raises(CallCancelled) as caught:
            pending.result()
        assert caught.value.outcome is Outcome.MAY_HAVE_RUN

    def test_an_interrupt_before_the_first_step_leaves_it_to_be_sent(
        self, made: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Interrupted:
            def __init__(self, _: object) -> None:
                monkeypatch.undo()
                raise KeyboardInterrupt

        batch = pair(made).batch()
        pending = batch.call("add", 1, 2)
        monkeypatch.setattr("hvrpc.msgpack.batch.Sending", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch.send()
        assert pending.result(timeout=WAIT) == 3

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_a_forked_child_does_not_wait_for_what_its_parent_has_sent(self, made: Bench) -> None:
        tools = Tools()
        client = pair(made, tools)
        with client.batch() as batch:
            held, shared = batch.call("hold", "x"), batch.call("hold", "y")
        waiting = [Background(partial(each.result, None)) for each in (held, shared)]
        waiting[0].wait_until_blocked_in("result")
        waiting[1].wait_until_blocked_in("result")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(int(WAIT))
                for each in (held, shared):
                    try:
                        each.result(None)
                    except ConnectionLost as error:
                        code = 0 if error.outcome is Outcome.MAY_HAVE_RUN else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        tools.gates["x"].open()
        tools.gates["y"].open()
        assert [each.result() for each in waiting] == ["x", "y"]


class TestThreads:
    def test_a_method_that_blocks_does_not_stop_the_connection(self, made: Bench) -> None:
        go_on = threading.Event()

        def block() -> str:
            assert go_on.wait(WAIT)
            return "went on"

        client = pair(made, [block, Tools().add])
        blocked = [Background(lambda: client.call("block")) for _ in range(3)]
        for number in range(20):
            assert client.call("add", number, 1) == number + 1
        go_on.set()
        assert [each.result() for each in blocked] == ["went on"] * 3

    def test_a_sleep_that_ends_with_the_caller(self, made: Bench) -> None:
        woken = threading.Event()

        def sleep(context: Context) -> bool:
            given_up = context.wait_cancelled(WAIT)
            woken.set()
            return given_up

        client = pair(made, sleep)
        with pytest.raises((DeadlineExceeded, AssertionError)):
            assert client.call("sleep", timeout=0.05) is not True
        assert woken.wait(WAIT)

    def test_two_large_messages_cross(self, made: Bench) -> None:
        client = pair(made)
        value = bytes(8 * 1024 * 1024)
        calls = [Background(lambda: client.call("echo", value)) for _ in range(4)]
        assert all(each.result() == value for each in calls)

    def test_a_slow_reader_of_a_coroutines_stream_stops_nobody_else(self, made: Bench) -> None:
        """All coroutines of a blocking server share a loop, which must never wait for a socket."""

        async def blocks() -> Any:
            for _ in range(200):
                yield bytes(200_000)

        client = pair(made, [blocks, Tools().echo_async])
        other = made.connect()
        stream = client.stream("blocks", window=200)
        assert next(stream) == bytes(200_000)
        for number in range(5):
            assert other.call("echo_async", number, timeout=WAIT) == number
        assert len(list(stream)) == 199

    def test_a_call_that_was_never_sent_says_so_and_never_is(self) -> None:
        """The peer does not read; what waits behind a large message has not been sent."""
        received: list[Any] = []
        full, read_on = threading.Event(), threading.Event()

        def lazy(peer: RawPeer) -> None:
            refuse_hello(peer)
            full.wait(WAIT)
            assert read_on.wait(WAIT)
            received.extend(peer.rest())

        with serving(lazy) as url, hvrpc.msgpack.connect(url) as client:
            large = Background(lambda: client.call("large", bytes(4_000_000), timeout=1))
            core = _core_of(client)
            wait_until(lambda: core.pending, "the large call is on its way")
            full.set()
            with pytest.raises(DeadlineExceeded) as caught:
                client.call("small", timeout=0.1)
            assert caught.value.outcome is Outcome.NOT_SENT
            assert isinstance(large.error(), DeadlineExceeded)
            read_on.set()
            client.notify("after")
        assert [each[-2] for each in received] == ["large", "after"]


def _core_of(client: Any) -> Any:
    return client._session.current.core


class TestServe:
    def test_serving_until_told_to_stop(self) -> None:
        """The whole life of a server program: `ready`, calls, SIGTERM, end."""
        results: list[Any] = []

        def use(address: Address) -> None:
            with hvrpc.msgpack.connect(address) as client:
                results.append(client.call("add", 1, 2))
            os.kill(os.getpid(), signal.SIGTERM)

        users: list[Background[None]] = []
        with short_folder() as folder:
            hvrpc.msgpack.serve(
                f"unix://{folder}/serve.sock",
                Tools(),
                ready=lambda address: users.append(Background(lambda: use(address))),
            )
        users[0].result()
        assert results == [3]

    def test_texts_say_where(self, made: Bench) -> None:
        server = made.serve(Tools())
        client = pair(made)
        assert str(client.remote.add) == f"<remote method 'add' of {client.address}>"
        assert client.address in repr(client)
        assert "unix://" in repr(server)
