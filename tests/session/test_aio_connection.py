"""What only the asyncio driver has to withstand: cancelled tasks, and loops that close."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

import hvrpc.msgpack
from hvrpc import ConnectionLost, DeadlineExceeded, Outcome, sockets
from hvrpc.msgpack import aio
from hvrpc.session.aio import Connection
from hvrpc.session.aio.session import HandedOver
from hvrpc.session.core import answers_size
from hvrpc.session.state import Event, Heartbeat
from hvrpc.testing import Link

from ..sockets.background import WAIT
from ..sockets.places import PLACES
from .lines import LineCore, streams
from .sides import MISSING, AsyncTools

MiB = 1024 * 1024

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine function on a loop of its own, to the end and within bounds."""
    if request.param in MISSING:
        pytest.skip(MISSING[request.param])

    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(WAIT):
                await main()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks were left behind: {left}"

        if request.param == "asyncio":
            with asyncio.Runner() as runner:
                runner.run(bounded())
        else:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(bounded())
        gc.collect()

    return run


@asynccontextmanager
async def serving(
    tools: AsyncTools | None = None, **settings: Any
) -> AsyncIterator[tuple[str, AsyncTools, aio.Server]]:
    """A server on the loop."""
    tools = tools or AsyncTools()
    with PLACES["local over TCP"]() as place:
        async with aio.Server(tools, **settings) as server:
            yield str(server.listen(place.fresh_url())), tools, server


@asynccontextmanager
async def line_pair(
    server: LineCore | None = None,
) -> AsyncIterator[tuple[Connection[LineCore], Connection[LineCore]]]:
    with streams() as (calling, called):
        made = []
        for stream, core in ((calling, LineCore()), (called, server or LineCore())):
            connection = await Connection.adopt(stream, core, heartbeat=Heartbeat(5))
            connection.life.happened(Event.PROVEN)
            made.append(connection)
        try:
            yield made[0], made[1]
        finally:
            for connection in made:
                await connection.close()


async def ask(connection: Connection[LineCore], text: str) -> str:
    call = connection.make_call()
    connection.core.request(text, call)
    connection.push()
    assert await connection.wait(call, None, exact=False)
    if call.failure is not None:
        raise call.failure
    value: str = call.value
    return value


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


# --- Any core ----------------------------------------------------------------------------------------


def test_any_core_can_be_driven(run: Run) -> None:
    async def main() -> None:
        async with line_pair() as (ours, _):
            words = [f"word {number}" for number in range(300)]
            answers = await asyncio.gather(*(ask(ours, word) for word in words))
            assert answers == [word.upper() for word in words]

    run(main)


def test_coroutines_run_side_by_side_up_to_the_limit(run: Run) -> None:
    """The rest is left unread, and has its turn."""
    most = now = 0

    async def work(text: str) -> str:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return text

    async def main() -> None:
        core = LineCore(work, limit=3)
        async with line_pair(core) as (ours, _):
            answers = await asyncio.gather(*(ask(ours, str(n)) for n in range(20)))
            assert answers == [str(n) for n in range(20)]

    run(main)
    assert most == 3


def test_end_is_complete_when_the_peer_has_reset_it_since(run: Run) -> None:
    """The socket refuses the goodbye then. Whoever counts connections has to know all the same."""

    class Reset:
        def __init__(self, transport: Any) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def write_eof(self) -> None:
            raise OSError(errno.ENOTCONN, "the transport endpoint is not connected")

    async def main() -> None:
        ends: list[object] = []
        async with line_pair() as (ours, _):
            ours._on_end = ends.append
            ours._transport = Reset(ours._transport)  # type: ignore[assignment]
            ours.end(None)
            assert ends == [ours]
            await asyncio.wait_for(ours._over, WAIT)

    run(main)


def test_what_was_ended_before_it_was_on_the_loop_hangs_up(run: Run) -> None:
    async def main() -> None:
        with streams() as (calling, called):
            connection = Connection(calling, LineCore())
            connection.end(None)
            await connection.put_on_loop()
            assert await asyncio.to_thread(called.socket.recv, 1) == b""
            await connection.close()

    run(main)


def test_end_wakes_everybody_and_says_what_was_not_sent(run: Run) -> None:
    async def main() -> None:
        never = asyncio.Event()

        async def wait_for_ever(text: str) -> str:
            await never.wait()
            return text

        async with line_pair(LineCore(wait_for_ever)) as (ours, theirs):
            sent = asyncio.create_task(ask(ours, "sent"))
            await until(lambda: theirs.core.active)
            queued = ours.make_call()
            ours.core.request("queued", queued)
            ours.end(TimeoutError("silent"))
            with pytest.raises(ConnectionLost) as lost:
                await sent
            assert lost.value.outcome is Outcome.MAY_HAVE_RUN
            assert isinstance(queued.failure, ConnectionLost)
            assert queued.failure.outcome is Outcome.NOT_SENT

    run(main)


# --- msgpack -----------------------------------------------------------------------------------------


def test_two_64_mib_messages_cross(run: Run) -> None:
    async def main() -> None:
        blob = bytes(64 * MiB)
        async with serving() as (url, _, _), aio.connect(url, service=AsyncTools()) as client:
            there, back = await asyncio.gather(
                client.call("echo", blob), client.call("back", "blob", [64 * MiB])
            )
            assert there == blob
            assert back == [blob]
            assert client.connections == 1

    run(main)


def test_many_tasks_share_a_connection(run: Run) -> None:
    """More than the queue's limit at once: callers are held back, and nothing jams."""

    async def main() -> None:
        async with serving() as (url, _, server), aio.connect(url) as client:
            load = "x" * 200
            answers = await asyncio.gather(*(client.call("echo", [n, load]) for n in range(10_000)))
            assert [answer[0] for answer in answers] == list(range(10_000))
            assert server.connections == 1

    run(main)


def test_cancelled_task_cancels_the_call_on_the_other_side(run: Run) -> None:
    async def main() -> None:
        async with serving() as (url, tools, _), aio.connect(url) as client:
            call = asyncio.create_task(client.call("hold", "x"))
            await until(lambda: tools.inside == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: tools.inside == 0)
            assert await client.call("echo", 1) == 1
            assert client.connections == 1

    run(main)


def test_timeout_cancels_the_call_on_the_other_side(run: Run) -> None:
    async def main() -> None:
        async with serving() as (url, tools, _), aio.connect(url) as client:
            with pytest.raises(DeadlineExceeded):
                await client.call("hold", "x", timeout=0.1)
            await until(lambda: tools.inside == 0)

    run(main)


def test_caller_that_leaves_ends_what_it_asked_for(run: Run) -> None:
    async def main() -> None:
        async with serving() as (url, tools, _):
            async with aio.connect(url) as client:
                call = asyncio.create_task(client.call("hold", "x"))
                await until(lambda: tools.inside == 1)
                await client.close(0)
                with pytest.raises(ConnectionLost):
                    await call
            await until(lambda: tools.inside == 0)

    run(main)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8])
def test_connecting_can_be_cancelled_at_every_step(run: Run, steps: int) -> None:
    """The connection that a thread was opening is closed, not forgotten."""

    async def main() -> None:
        async with serving() as (url, _, server):
            connecting = asyncio.ensure_future(_open(url))
            for _ in range(steps):
                await asyncio.sleep(0.0005)
            connecting.cancel()
            try:
                client = await connecting
            except asyncio.CancelledError:
                pass
            else:
                await client.close()
            await asyncio.sleep(0.05)
            await until(lambda: server.connections == 0)

    run(main)


async def _open(url: str) -> aio.Client:
    return await aio.connect(url)


def test_one_task_that_gives_up_opening_does_not_disturb_the_others(run: Run) -> None:
    async def main() -> None:
        async with serving() as (url, _, _):
            client = aio.Client(url)
            calls = [asyncio.create_task(client.call("echo", n)) for n in range(5)]
            await asyncio.sleep(0)
            calls[0].cancel()
            assert await asyncio.gather(*calls[1:]) == [1, 2, 3, 4]
            await client.close()

    run(main)


def test_slow_reader_holds_back_the_tasks_that_write(run: Run) -> None:
    """They wait for room instead of filling memory, and go on when there is some."""

    async def main() -> None:
        async with serving() as (url, tools, _):
            with Link(url) as link:
                async with aio.connect(str(link.address)) as client:
                    link.stall()
                    calls = [
                        asyncio.create_task(client.call("carry", bytes(MiB), n)) for n in range(40)
                    ]
                    current = client._session.current
                    assert current is not None
                    await until(lambda: current.crowded)
                    await asyncio.sleep(0.05)
                    held = current._unsent() + answers_size(current.core.outgoing, ())
                    assert held < 8 * MiB
                    link.resume()
                    assert await asyncio.gather(*calls) == list(range(40))
                    assert len(tools.executed) == 40

    run(main)


# --- Loops that close --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loop_that_closes_under_a_client_does_not_hang() -> None:
    """Nobody closed anything: tasks are cancelled, threads end, and asyncio.run() returns."""
    with PLACES["local over TCP"]() as place:
        server = hvrpc.msgpack.Server({"echo": lambda value: value})
        url = str(server.listen(place.fresh_url()))
        with server:

            async def main() -> None:
                client = await aio.connect(url)
                assert await client.call("echo", 1) == 1
                task = asyncio.create_task(client.call("hold", 1))
                await asyncio.sleep(0)
                task.add_done_callback(lambda done: done.cancelled() or done.exception())

            asyncio.run(main())
            gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loop_that_closes_under_a_server_does_not_hang() -> None:
    """Its listener ends with the first caller that comes too late."""
    with PLACES["local over TCP"]() as place:
        urls: list[str] = []

        async def main() -> None:
            server = aio.Server(AsyncTools())
            urls.append(str(server.listen(place.fresh_url())))
            await server.start()

        asyncio.run(main())
        gc.collect()
        with sockets.connect(urls[0], timeout=WAIT) as caller, contextlib.suppress(OSError):
            caller.timeout = WAIT
            caller.recv(1)  # one who is gone before he is accepted is nobody: this one stays


def test_loop_that_closes_while_connecting_does_not_wait_for_it() -> None:
    """Nobody answers, and connecting takes its time; the loop does not."""
    with PLACES["local over TCP"]() as place, sockets.listen(place.fresh_url()) as listener:

        async def main() -> None:
            task = asyncio.create_task(_open(str(listener.address)))
            await asyncio.sleep(0.05)
            task.cancel()

        asyncio.run(main())


class TestHandingOver:
    """A socket that was connected in a thread is closed whoever gives up, and whenever."""

    def test_given_up_before_it_was_there(self, run: Run) -> None:
        async def main() -> None:
            with streams() as (ours, _):
                handed_over = HandedOver(asyncio.get_running_loop())
                handed_over.give_up()
                handed_over.succeeded(ours)
                assert ours.closed

        run(main)

    def test_given_up_before_the_loop_has_come_to_it(self, run: Run) -> None:
        async def main() -> None:
            with streams() as (ours, _):
                handed_over = HandedOver(asyncio.get_running_loop())
                handed_over.succeeded(ours)
                handed_over.give_up()
                assert ours.closed

        run(main)

    def test_the_loop_was_closed(self) -> None:
        loop = asyncio.new_event_loop()
        handed_over = HandedOver(loop)
        loop.close()
        with streams() as (ours, _):
            handed_over.succeeded(ours)
            assert ours.closed
