"""`docs/reference/wire-protocol.md` is true: its bytes are those of the encoder, its conversations
are what a server says, and what it says of clients is what ours send.

A conversation on the page is a block marked `wire`: `->` and `<-` before a message, its bytes on the
line below, and `--` before something that happens (`HAPPENINGS`).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hvrpc import ConnectionLost, Outcome, ProtocolError
from hvrpc.msgpack import Service, core, limits, streams
from hvrpc.msgpack.core import MsgpackCore
from hvrpc.msgpack.extensions import Extensions
from hvrpc.msgpack.limits import DEFAULT
from hvrpc.msgpack.streams import ItemCall
from hvrpc.msgpack.wire import Decoder, Encoder
from hvrpc.session.core import Call

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "wire-protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")

_BLOCK = re.compile(r"^```wire\n(.*?)^```$", re.MULTILINE | re.DOTALL)

MINUS = "\N{MINUS SIGN}"
"""As the page writes negative numbers."""

TURNS = 20
"""Turns of the loop after which what has to happen has happened: nothing here waits for time."""


@dataclass
class Line:
    kind: str
    """`->`, `<-` or `--`."""
    text: str
    data: bytes = b""


def conversations() -> list[object]:
    found: list[object] = []
    for block in _BLOCK.finditer(TEXT):
        number = TEXT.count("\n", 0, block.start()) + 1
        found.append(pytest.param(lines_of(block[1]), id=f"line {number}"))
    return found


def lines_of(block: str) -> list[Line]:
    lines: list[Line] = []
    for text in block.splitlines():
        if text.startswith("   "):
            lines[-1].data = bytes.fromhex(text)
        else:
            kind, _, rest = text.partition(" ")
            lines.append(Line(kind, rest))
    return lines


ALL = [line for block in _BLOCK.finditer(TEXT) for line in lines_of(block[1])]
MESSAGES = [line for line in ALL if line.kind != "--"]


class Example:
    """What the server of the page offers."""

    def add(self, a: int, b: int) -> int:
        return a + b

    def divide(self, a: float, b: float) -> float:
        """A quotient."""
        return a / b

    def mount(self, disk: str) -> None:
        raise LookupError(f"there is no disk {disk}")

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            yield number

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


def make_core(service: Service | None = None, *, says_hello: bool) -> MsgpackCore:
    offered = service or Service()
    return MsgpackCore(offered, says_hello=says_hello, descriptions=offered.describe)


def bytes_in(queue: deque[Any]) -> bytes:
    """What waits to be sent, and no longer waits."""
    parts: list[bytes] = []
    while queue:
        item = queue.popleft()
        parts += item if isinstance(item, tuple) else [item]
    return b"".join(parts)


# --- The bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", MESSAGES, ids=lambda line: line.text[:40])
def test_bytes_and_messages_on_the_page_are_the_same(line: Line) -> None:
    message = json.loads(line.text)
    decoder = Decoder(DEFAULT)
    decoder.feed(line.data)
    assert decoder.next() == message
    assert not decoder.has_more
    encoder = Encoder(Extensions().default)
    encoder.address(ours=True, limit=None)
    assert encoder.encode(message) == line.data


def test_there_is_an_example_of_every_addition() -> None:
    shown = {name for line in MESSAGES for name in re.findall(r'"(\$/\w+)"', line.text)}
    assert shown == {*MsgpackCore._REQUESTS, *MsgpackCore._NOTIFICATIONS}


# --- The server -----------------------------------------------------------------------------------


class Server:
    """A core that accepted a connection, and as much of a driver as it needs."""

    def __init__(self) -> None:
        self.core = make_core(Service(Example()), says_hello=False)
        self.sent = b""
        self._tasks: list[asyncio.Task[None]] = []

    async def take(self, data: bytes) -> None:
        work = self.core.take(data)
        while work is not None:
            awaitable = self.core.serve_async(work)
            if awaitable is not None:
                task = asyncio.ensure_future(awaitable)
                self._tasks.append(task)
                self.core.begun(work, task)
            work = self.core.take()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.sent += bytes_in(self.core.outgoing)

    async def end(self) -> None:
        await self.settle()  # what was never begun could not be ended
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def say_hello(server: Server) -> None:
    await server.take(next(line.data for line in MESSAGES if '"$/hello"' in line.text))
    server.sent = b""


async def offer_only_divide(server: Server) -> None:
    only = Service({"divide": Example().divide})
    server.core = make_core(only, says_hello=False)


async def close(server: Server) -> None:
    server.core.goodbye()
    await server.settle()


async def take_no_more_calls(server: Server) -> None:
    server.core.reassure()
    await server.settle()


async def run_out_of_grace(server: Server) -> None:
    # Only the message: what it cancels besides would be answered to a stream that is shut down.
    server.core.notify(core.GOODBYE, ({"unfinished": list(server.core.active)},))
    await server.settle()


HAPPENINGS: dict[str, Callable[[Server], Awaitable[None]]] = {
    "after the hello": say_hello,
    "only divide is offered": offer_only_divide,
    "the server takes no more calls for a while": take_no_more_calls,
    "the server is closed": close,
    "its grace is over": run_out_of_grace,
}


@pytest.mark.parametrize("conversation", conversations())
def test_a_server_says_what_the_page_says(conversation: list[Line]) -> None:
    async def play() -> None:
        server = Server()
        for line in conversation:
            if line.kind == "--":
                await HAPPENINGS[line.text](server)
            elif line.kind == "->":
                await server.take(line.data)
            else:
                said, server.sent = server.sent[: len(line.data)], server.sent[len(line.data) :]
                assert said.hex(" ") == line.data.hex(" "), line.text
        assert server.sent == b"", "the server says more than the page"
        await server.end()

    async def in_time() -> None:
        async with asyncio.timeout(10):
            await play()

    asyncio.run(in_time())


# --- The client -----------------------------------------------------------------------------------


def client_of_ours() -> MsgpackCore:
    """A core that has said hello, and was answered."""
    client = make_core(says_hello=True)
    hello = Call()
    client.open(hello)
    client.outgoing.clear()
    answer = next(line for line in MESSAGES if line.kind == "<-" and '"hvrpc"' in line.text)
    client.take(answer.data)
    client.opened(hello)
    assert client.is_ours
    return client


def hello(client: MsgpackCore) -> None:
    make = make_core(says_hello=True)
    make.open(Call())
    client.outgoing.extend(make.outgoing)


def call_by_name(client: MsgpackCore) -> None:
    client.request("add", (1,), Call(), {"b": 2})


def call_with_a_deadline(client: MsgpackCore) -> None:
    client.request("add", (1, 2), Call())  # so that the next one has the id of the page
    client.outgoing.clear()
    client.request("add", (1, 2), Call(), None, {"timeout": 1.5})


def begin_a_stream(client: MsgpackCore) -> None:
    client.request("count", (3,), ItemCall(2), {}, {"stream": 2})


def grant(client: MsgpackCore) -> None:
    call = ItemCall(2)
    client.request("count", (3,), call, {}, {"stream": 2})
    client.outgoing.clear()
    client.grant(call, 1)


def give_up(client: MsgpackCore) -> None:
    call = Call()
    client.request("sleep", (60,), call)
    client.outgoing.clear()
    client.forget(call)


def ping(client: MsgpackCore) -> None:
    client.ping()


def notify(client: MsgpackCore) -> None:
    client.notify("add", (1, 2))


@pytest.mark.parametrize(
    "act",
    [hello, call_by_name, call_with_a_deadline, begin_a_stream, grant, give_up, ping, notify],
    ids=lambda act: act.__name__,
)
def test_a_client_sends_what_the_page_shows(act: Callable[[MsgpackCore], None]) -> None:
    client = client_of_ours()
    act(client)
    assert bytes_in(client.outgoing) in [line.data for line in MESSAGES if line.kind == "->"]


def test_both_goodbyes_are_those_of_the_page() -> None:
    leaving = client_of_ours()
    leaving.goodbye()
    assert bytes_in(leaving.outgoing) in [line.data for line in MESSAGES]
    leaving.farewell()
    decoder = Decoder(DEFAULT)
    decoder.feed(bytes_in(leaving.outgoing))
    assert decoder.next() == [2, "$/goodbye", [{"unfinished": []}]]


# --- What may be concluded, and what is no message ----------------------------------------------------


def told(data: bytes) -> list[Outcome]:
    """What a client knows about calls 2 and 3 when this was the last it heard."""
    client = client_of_ours()
    calls = [Call(), Call()]
    for call in calls:
        client.request("add", (1, 2), call)
    client.outgoing.clear()
    if data:
        client.take(data)
    client.fail(ConnectionLost("the connection ended"))
    assert all(isinstance(call.failure, ConnectionLost) for call in calls)
    return [call.failure.outcome for call in calls if isinstance(call.failure, ConnectionLost)]


def test_the_second_goodbye_tells_what_was_begun() -> None:
    named = next(line.data for line in MESSAGES if "unfinished" in line.text)
    first = next(line.data for line in MESSAGES if '"$/goodbye", [{}]' in line.text)
    assert told(named) == [Outcome.MAY_HAVE_RUN, Outcome.NOT_SENT]
    assert told(first) == [Outcome.MAY_HAVE_RUN, Outcome.MAY_HAVE_RUN]
    assert told(b"") == [Outcome.MAY_HAVE_RUN, Outcome.MAY_HAVE_RUN]


def packed(message: object) -> bytes:
    return Encoder(Extensions().default).encode(message)


NO_MESSAGES = {
    "not msgpack": b"\xc1",
    "nil": packed(None),
    "a map": packed({}),
    "an array of five": packed([0, 1, "add", [1, 2], None]),
    "an array of three that is a request": packed([0, 1, "add"]),
    "another kind of message": packed([3, 1, "add", [1, 2]]),
    "an id that is text": packed([0, "1", "add", [1, 2]]),
    "params that are a map": packed([0, 1, "add", {"a": 1}]),
    "a name that is a number": packed([0, 1, 7, []]),
    "a name that is too long": packed([0, 1, "a" * 257, []]),
    "an id in use": packed([0, 1, "sleep", [60]]) * 2,
    "more without a count": packed([2, "$/more", [1]]),
    "more than may be granted": packed([2, "$/more", [1, 1025]]),
    "an item without a value": packed([2, "$/item", [1]]),
    "too deep": packed([0, 1, "add", []])[:-1] + b"\x91" * 2000,
}


@pytest.mark.parametrize("data", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_what_is_no_message_ends_the_connection(data: bytes) -> None:
    async def main() -> None:
        server = Server()
        with pytest.raises(ProtocolError):
            await server.take(data)
        await server.end()

    asyncio.run(main())


HARMLESS = {
    "a notification nobody knows": packed([2, "nonsense", []]),
    "a reserved one nobody knows": packed([2, "$/nonsense", [1, 2, 3]]),
    "an answer nobody waits for": packed([1, 77, None, None]),
    "a cancellation of nothing": packed([2, "$/cancelRequest", [77]]),
    "credit for nothing": packed([2, "$/more", [77, 1]]),
    "an item of nothing": packed([2, "$/item", [77, "value"]]),
}


@pytest.mark.parametrize("data", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_ignored(data: bytes) -> None:
    async def main() -> None:
        server = Server()
        await server.take(data)
        assert server.sent == b""

    asyncio.run(main())


ALSO_A_REQUEST = {
    "the name as bin": (packed([0, 1, b"add", [1, 2]]), 1),
    "an array 16, an int 64 and a str 8": (
        bytes.fromhex(
            "dc 0004 d3 0000000000000000 cf 0000000000000001 d9 03 616464 dd 00000002 01 02"
        ),
        1,
    ),
    "id 0": (packed([0, 0, "add", [1, 2]]), 0),
    "the largest id": (packed([0, 2**32 - 1, "add", [1, 2]]), 2**32 - 1),
    "an id beyond that": (packed([0, -(2**63), "add", [1, 2]]), -(2**63)),
}


@pytest.mark.parametrize(("data", "number"), ALSO_A_REQUEST.values(), ids=ALSO_A_REQUEST.keys())
def test_what_is_taken_besides(data: bytes, number: int) -> None:
    async def main() -> None:
        server = Server()
        await server.take(data)
        assert server.sent == packed([1, number, None, 3])

    asyncio.run(main())


# --- The numbers --------------------------------------------------------------------------------------


def test_the_page_names_all_codes_and_no_others() -> None:
    codes = {
        value
        for name, value in vars(core).items()
        if name.isupper() and type(value) is int and value <= -32000
    }
    shown = {-int(code) for code in re.findall(rf"^\| {MINUS}(\d+) \|", TEXT, re.MULTILINE)}
    assert shown == codes


def test_the_page_has_the_limits_of_the_code() -> None:
    numbers = {number.replace(" ", "") for number in re.findall(r"\d[\d ]*\d|\d", TEXT)}
    for limit in (
        *(getattr(DEFAULT, name) for name in DEFAULT.__slots__),
        limits.LEAST_MESSAGE,
        core.VERSION,
        streams.WINDOW,
    ):
        assert str(limit) in numbers, limit
