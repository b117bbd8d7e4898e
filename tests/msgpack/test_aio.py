"""What only the asyncio drivers have: tasks, awaiting, one loop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

import hvrpc.msgpack
from hvrpc import Address, ConnectionLost, DeadlineExceeded, OpenFailed, Outcome
from hvrpc.msgpack import Limits, Service, aio
from hvrpc.msgpack.core import MsgpackCore
from hvrpc.session.aio import Connection
from hvrpc.session.aio.connection import LOOK, MAX_QUEUED
from hvrpc.sockets import Stream

from ..sockets.background import WAIT
from ..sockets.places import needs_unix, short_folder
from .contract import AsyncTools, Tools
from .raw import RawPeer, pack, refuse_hello, serving, unpacked

pytestmark = needs_unix


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT):
            await main()

    asyncio.run(bounded())


@asynccontextmanager
async def pair(offered: Any, **settings: Any) -> AsyncIterator[aio.Client]:
    with short_folder() as folder:
        async with aio.Server(offered) as server:
            url = server.listen(f"unix://{folder}/aio.sock")
            async with aio.connect(url, **settings) as client:
                yield client


class TestCalls:
    def test_awaited_and_in_a_with_statement(self) -> None:
        async def main() -> None:
            async with pair(Tools()) as client:
                assert await client.call("add", 1, 2) == 3
                assert await client.remote.add(1, b=2) == 3
                other = await aio.connect(client.address)
                assert await other.call("add", 1, 2) == 3
                await other.close()
                assert other.closed

        run(main)

    def test_many_at_once(self) -> None:
        async def main() -> None:
            async with pair(Tools()) as client:
                results = await asyncio.gather(*(client.call("echo", n) for n in range(500)))
                assert results == list(range(500))
                results = await asyncio.gather(*(client.call("echo_async", n) for n in range(500)))
                assert results == list(range(500))

        run(main)

    def test_cancelling_a_task_cancels_the_call(self) -> None:
        async def main() -> None:
            tools = Tools()
            async with pair(tools) as client:
                task = asyncio.create_task(client.call("hold", "never"))
                assert await asyncio.to_thread(tools.gates["never"].reached.wait, WAIT)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await asyncio.to_thread(tools.cancelled.wait, WAIT)
                assert await client.call("add", 1, 2) == 3

        run(main)

    def test_cancelling_at_once(self) -> None:
        async def main() -> None:
            async with pair(Tools()) as client:
                for turns in range(5):
                    task = asyncio.create_task(client.call("hold", "never"))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                    assert await client.call("add", 1, 2) == 3

        run(main)

    def test_a_timeout_of_the_callers_own(self) -> None:
        async def main() -> None:
            tools = Tools()
            async with pair(tools) as client:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await client.call("hold", "never")
                assert await asyncio.to_thread(tools.cancelled.wait, WAIT)

        run(main)

    def test_a_call_that_finds_no_room_keeps_its_timeout(self) -> None:
        """The other side reads nothing: calls are late in time, not when it is given up."""
        stop = threading.Event()

        def lazy(peer: RawPeer) -> None:
            refuse_hello(peer)
            stop.wait(WAIT)

        async def main(url: str) -> None:
            client = await aio.connect(url)
            with pytest.raises(DeadlineExceeded):
                await client.call("large", bytes(8_000_000), timeout=0.05)
            with pytest.raises(DeadlineExceeded) as caught:
                await client.call("small", timeout=0.05)
            assert caught.value.outcome is Outcome.NOT_SENT
            await client.close(0)

        with serving(lazy) as url:
            try:
                run(lambda: main(url))
            finally:
                stop.set()

    def test_the_other_side_is_called_from_coroutines(self) -> None:
        async def main() -> None:
            async with pair(AsyncTools(), service=AsyncTools()) as client:
                results = await asyncio.gather(*(client.call("back", "echo", n) for n in range(50)))
                assert results == list(range(50))

        run(main)

    def test_nobody_listens(self) -> None:
        async def main() -> None:
            with short_folder() as folder, pytest.raises(OpenFailed):
                await aio.connect(f"unix://{folder}/nobody.sock", retry=False)

        run(main)


class TestStreams:
    def test_leaving_the_loop_early_ends_the_generator(self) -> None:
        async def main() -> None:
            for name in ("endless", "endless_async"):
                tools = Tools()
                async with pair(tools) as client:
                    async for item in await client.stream(name):
                        if item == 3:
                            break
                    assert await asyncio.to_thread(tools.ended.wait, WAIT)

        run(main)

    def test_in_a_with_statement(self) -> None:
        async def main() -> None:
            tools = Tools()
            async with pair(tools) as client:
                async with await client.stream("endless_async") as stream:
                    assert await anext(stream) == 0
                assert await asyncio.to_thread(tools.ended.wait, WAIT)
                assert [item async for item in stream] == []

        run(main)

    def test_cancelling_the_reader_ends_the_generator(self) -> None:
        async def main() -> None:
            tools = Tools()
            async with pair(tools) as client:

                async def read() -> None:
                    async for _ in await client.stream("slow_stream"):
                        pass

                task = asyncio.create_task(read())
                assert await asyncio.to_thread(tools.gates["slow_stream"].reached.wait, WAIT)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                assert await client.call("add", 1, 2) == 3

        run(main)

    def test_a_reader_that_does_not_read_bounds_what_is_queued(self) -> None:
        async def blocks() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield bytes(200_000)

        async def main() -> None:
            async with pair([blocks, Tools().add]) as client:
                stream = await client.stream("blocks", window=200)
                assert await anext(stream) == bytes(200_000)
                assert await client.call("add", 1, 2) == 3
                assert len([item async for item in stream]) == 199

        run(main)

    def test_the_caller_may_yield_too(self) -> None:
        async def total(n: int, context: hvrpc.msgpack.Context) -> int:
            caller: Any = context.caller
            found = 0
            for name in ("count", "count_async"):
                async for item in await caller.stream(name, n):
                    found += item
            return found

        async def main() -> None:
            async with pair(total, service=Tools()) as client:
                assert await client.call("total", 200) == 2 * sum(range(200))

        run(main)


class Line(asyncio.Transport):
    """What a connection does to its transport."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Any] = []
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += unpacked(bytes(data))

    def pause_reading(self) -> None:
        self.reading = False

    def abort(self) -> None:
        pass

    @classmethod
    def of(cls, offered: Any) -> tuple[Self, Connection[MsgpackCore]]:
        """One whose connection serves this."""
        core = MsgpackCore(Service.of(offered), says_hello=False)
        connection = Connection(cast(Stream, SimpleNamespace(peer="a stranger")), core)
        line = cls()
        connection.connection_made(line)
        return line, connection


def arrive(connection: Connection[MsgpackCore], *messages: Any) -> None:
    """Have messages come in one piece."""
    data = pack(*messages)
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


class TestOneSmallMessageAtATime:
    """They take a short way, which has to do all that the long one does."""

    def test_who_leaves_says_so_at_once(self) -> None:
        async def main() -> None:
            line, connection = Line.of([Tools().add])
            connection.core.goodbye()
            arrive(connection, [0, 1, "add", [1, 2]])
            ((_, number, error, _),) = line.written
            assert number == 1
            assert "shutting down" in error

        run(main)

    def test_answers_that_nobody_reads_are_bounded(self) -> None:
        async def main() -> None:
            made = 0

            def large() -> str:
                nonlocal made
                made += 1
                return "x" * 30_000

            line, connection = Line.of([large])
            connection.pause_writing()
            for number in range(1000):
                if line.reading:
                    arrive(connection, [0, number, "large", []])
            assert not line.reading
            assert made * 30_000 < MAX_QUEUED + 60_000
            connection.end(ConnectionLost("the test is over"))

        run(main)


class TestRoughLimits:
    @pytest.mark.parametrize("limit", [8 * LOOK, 8.5 * LOOK, 60.0])
    def test_are_kept_within_two_looks(self, limit: float) -> None:
        async def main() -> None:
            _, connection = Line.of(None)
            call = connection.make_call()
            item = connection.core.prepare("never", (), call)
            assert connection.begin(item, call, limit, alone=True)
            looks = 0
            while not call.future.done():
                connection._look()
                looks += 1
            # The first may come at once, or as late as the others.
            assert (looks - 1) * LOOK > limit
            assert looks * LOOK <= limit + 2 * LOOK
            connection.end(ConnectionLost("the test is over"))

        run(main)


class TestServing:
    def test_coroutines_of_plain_functions_make_room_for_others(self) -> None:
        async def later() -> int:
            await asyncio.sleep(0)
            return 1

        def plain() -> Any:
            return later()

        async def main() -> None:
            with short_folder() as folder:
                async with aio.Server([plain], limits=Limits(in_flight=3)) as server:
                    url = server.listen(f"unix://{folder}/aio.sock")
                    async with aio.connect(url, timeout=WAIT / 4) as client:
                        calls = (client.call("plain") for _ in range(20))
                        assert await asyncio.gather(*calls) == [1] * 20

        run(main)

    def test_until_cancelled(self) -> None:
        async def main() -> None:
            ready: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
            with short_folder() as folder:
                url = f"unix://{folder}/serve.sock"
                serving_ = asyncio.create_task(aio.serve(url, Tools(), ready=ready.set_result))
                async with aio.connect(await ready) as client:
                    assert await client.call("add", 1, 2) == 3
                serving_.cancel()
                await asyncio.wait([serving_])
                assert serving_.cancelled()

        run(main)

    def test_until_told_to_stop(self) -> None:
        async def main() -> None:
            with short_folder() as folder:
                await aio.serve(
                    f"unix://{folder}/serve.sock",
                    Tools(),
                    ready=lambda _: os.kill(os.getpid(), signal.SIGTERM),
                )

        run(main)

    def test_texts_say_where(self) -> None:
        async def main() -> None:
            async with pair(Tools()) as client:
                assert client.address in repr(client)
                assert "open" in repr(client)

        run(main)
