"""hvrpc and foreign msgpack-RPC programs understand each other, in both directions.

The catalogue (`peers/__init__.py`) says what each of them can do, and so what is expected here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hvrpc
import hvrpc.msgpack
from hvrpc import CallError, ConnectionLost, DeadlineExceeded, Outcome, RemoteError
from hvrpc.msgpack import Context, Extensions
from hvrpc.msgpack.core import MAX_ID

from ..msgpack.drivers import ASYNCIO, BLOCKING, AdaptedClient, AnyClient, Bench, bench
from ..sockets.background import Background, wait_until
from ..sockets.places import MISSING, PLACES, QUICK
from .peers import CLIENTS, SERVERS, STEPS, Call, Ext, Peer, Server, Whole
from .processes import run_client, server_of

pytestmark = [
    pytest.mark.skipif("unix" in MISSING, reason=MISSING.get("unix", "")),
    pytest.mark.timeout(200),  # the first run builds the Go programs
]

KiB = 1024
MiB = 1024 * KiB
MANY = 300
"""Calls on their way at the same time."""
SLOW = 0.2
"""Seconds that a call takes which others overtake."""


def installed(peer: Peer) -> Peer:
    if reason := peer.missing():
        pytest.skip(reason)
    return peer


@pytest.fixture(params=[BLOCKING, ASYNCIO], name="bench")
def _bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Makes our clients and servers, of one driver after the other."""
    with PLACES["unix"]() as place, bench(place, request.param, request.param) as made:
        yield made


# --- Our clients, their servers -------------------------------------------------------------------


class Running(NamedTuple):
    """A peer's server that listens."""

    server: Server
    path: Path

    def spell(self, method: str, *params: Any) -> Call:
        return self.server.spell(method, *params)


def start(peer: Peer) -> Iterator[Running]:
    server = installed(peer).server
    assert server is not None
    with server_of(peer) as path:
        yield Running(server, path)


@pytest.fixture(scope="module", params=SERVERS)
def their(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server that all tests share: clients come and go."""
    yield from start(SERVERS[request.param])


@pytest.fixture(params=SERVERS)
def their_own(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server for one test alone, which may end it."""
    yield from start(SERVERS[request.param])


def client_of(bench: Bench, running: Running, **settings: Any) -> AnyClient:
    bench.url = f"unix://{running.path}"
    settings = {"hello": running.server.takes_hello, "options": QUICK, **settings}
    return bench.connect(**settings)


@pytest.fixture
def client(bench: Bench, their: Running) -> AnyClient:
    return client_of(bench, their)


def call(client: AnyClient, running: Running, method: str, *params: Any, **settings: Any) -> Any:
    name, spelled = running.spell(method, *params)
    return client.call(name, *spelled, **settings)


def call_all(client: AnyClient, calls: list[Call]) -> list[Any]:
    """All calls are on their way before the first answer is waited for."""
    if isinstance(client, AdaptedClient):
        caller = client.client

        async def gather() -> list[Any]:
            return await asyncio.gather(*(caller.call(name, *params) for name, params in calls))

        return client.loop.run(gather())
    assert isinstance(client, hvrpc.msgpack.Client)
    batch = client.batch()
    for name, params in calls:
        batch.call(name, *params)
    return batch.results()


def order_of_answers(client: AnyClient, calls: list[Call]) -> list[Any]:
    """All calls are sent at once; the results in the order in which they came."""
    order: list[Any] = []
    if isinstance(client, AdaptedClient):
        caller = client.client

        async def one(name: str, params: list[Any]) -> None:
            order.append(await caller.call(name, *params))

        async def gather() -> None:
            await asyncio.gather(*(one(name, params) for name, params in calls))

        client.loop.run(gather())
        return order
    assert isinstance(client, hvrpc.msgpack.Client)
    with client.batch() as batch:
        pending = [batch.call(name, *params) for name, params in calls]

    def take(call: hvrpc.msgpack.Pending) -> None:
        order.append(call.result())

    waiting = [Background(partial(take, call)) for call in pending]
    for each in waiting:
        each.result()
    return order


COMMON: list[Any] = [
    None,
    True,
    False,
    *(0, 1, 127, 128, 255, 256, 65535, 65536, 2**31 - 1),
    *(-1, -32, -33, -128, -130, -32768, -40000, -(2**31)),
    *(1.5, -2.5e300),
    *("", "Grüße €", "\0", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "x" * 65536),
    *([], [1, "two", [True, 3.5, None]], list(range(15)), list(range(16)), list(range(65536))),
    *({"a": 1}, {"a": {"b": [{"c": "d"}]}}, {str(n): n for n in range(16)}),
]
"""Values that every peer gives back as they were."""


def same(value: Any, other: Any) -> bool:
    """Equal, and of the same type: for Python, 1 and 1.0 and True are equal."""
    return type(value) is type(other) and bool(value == other)


class TestOurClients:
    @pytest.mark.parametrize("hello", [True, False])
    def test_a_stranger_is_known_as_one(self, bench: Bench, their: Running, hello: bool) -> None:
        """It gets plain msgpack-RPC, whether it was asked by a hello or not."""
        if hello and not their.server.takes_hello:
            pytest.skip("the catalogue says that it does not take a hello")
        client = client_of(bench, their, hello=hello)
        assert call(client, their, "add", 2, 3) == 5
        name, params = their.spell("add", 2, 3)
        with pytest.raises(CallError, match="hvrpc peers only") as refused:
            client.call(name, *params, by_name=1)
        assert refused.value.outcome is Outcome.NOT_SENT
        with pytest.raises(CallError, match="hvrpc peers only"):
            client.stream(name, *params)
        assert client.connections == 1

    def test_values_come_back(self, client: AnyClient, their: Running) -> None:
        for value in COMMON:
            assert same(call(client, their, "echo", value), value)
            assert same(call(client, their, "echo", [value]), [value])

    def test_integers_come_back_as_far_as_the_catalogue_says(
        self, client: AnyClient, their: Running
    ) -> None:
        smallest, largest = their.server.values.integers
        for value in (smallest, largest):
            assert same(call(client, their, "echo", value), value)
        for beyond in (smallest - 1, largest + 1):
            if -(2**63) <= beyond < 2**64:
                assert not same(call(client, their, "echo", beyond), beyond)

    def test_what_no_msgpack_integer_can_hold_is_not_sent(
        self, client: AnyClient, their: Running
    ) -> None:
        for beyond in (-(2**63) - 1, 2**64):
            with pytest.raises((ValueError, OverflowError), match=str(beyond)):
                call(client, their, "echo", beyond)
        assert call(client, their, "add", 2, 3) == 5

    def test_floats_without_a_fraction(self, client: AnyClient, their: Running) -> None:
        back = call(client, their, "echo", 2.0)
        expected = float if their.server.values.whole_floats is Whole.FLOAT else int
        assert same(back, expected(2))

    @pytest.mark.parametrize("size", [0, 5, 256, 32 * KiB, 70_000, 4 * MiB])
    def test_bytes_of_every_size(self, client: AnyClient, their: Running, size: int) -> None:
        """Bytes that come back as text still hold every one of them."""
        value = (b"\x00\xff\xfe any bytes" * (size // 13 + 1))[:size]
        back = call(client, their, "echo", value)
        assert type(back) is their.server.values.bytes_as
        if isinstance(back, str):
            back = back.encode(errors="surrogateescape")
        assert back == value

    def test_long_text(self, client: AnyClient, their: Running) -> None:
        value = "Grüße €" * (MiB // 2)
        assert call(client, their, "echo", value) == value

    def test_extension_types(self, bench: Bench, their_own: Running) -> None:
        extensions = Extensions()
        extensions.register(5, complex, _pack_complex, _unpack_complex)
        client = client_of(bench, their_own, extensions=extensions)
        value, ext = 1 - 2j, their_own.server.values.ext
        if ext is Ext.FATAL:
            with pytest.raises(ConnectionLost) as lost:
                call(client, their_own, "echo", value)
            assert lost.value.outcome is Outcome.MAY_HAVE_RUN
            return
        expected = {Ext.KEPT: value, Ext.NIL: None, Ext.TEXT: _pack_complex(value).decode()}[ext]
        assert same(call(client, their_own, "echo", value), expected)
        assert call(client, their_own, "add", 2, 3) == 5

    def test_a_method_that_fails(self, client: AnyClient, their: Running) -> None:
        with pytest.raises(RemoteError, match="no luck") as failed:
            call(client, their, "fail", "no luck")
        error = failed.value
        assert error.code == their.server.error_code
        assert error.method == their.spell("fail", "no luck")[0]
        assert str(their.path) in error.address
        assert error.outcome is Outcome.ANSWERED
        assert call(client, their, "add", 2, 3) == 5
        assert client.connections == 1

    def test_a_method_that_nobody_offers(self, client: AnyClient, their: Running) -> None:
        with pytest.raises(RemoteError) as failed:
            client.call("no_such_method", 1)
        assert failed.value.message
        assert call(client, their, "add", 2, 3) == 5
        assert client.connections == 1

    def test_many_calls_at_a_time(self, client: AnyClient, their: Running) -> None:
        calls = [their.spell("add", number, 1) for number in range(MANY)]
        assert call_all(client, calls) == list(range(1, MANY + 1))

    def test_large_values_cross(self, client: AnyClient, their: Running) -> None:
        """More than fits into the socket's buffers is on its way in both directions."""
        values = [str(number) * (64 * KiB) for number in range(10)] * 4
        assert call_all(client, [their.spell("echo", value) for value in values]) == values

    def test_answers_in_any_order(self, client: AnyClient, their: Running) -> None:
        calls = [their.spell("slow", 2 * SLOW, "slow"), their.spell("echo", "quick")]
        order = order_of_answers(client, calls)
        in_order = ["slow", "quick"]
        assert order == (in_order[::-1] if their.server.replies_out_of_order else in_order)

    def test_a_call_given_up_harms_no_other(self, client: AnyClient, their: Running) -> None:
        """A stranger is sent no cancel, which ends the connection with some; its late answer goes
        to nobody."""
        with pytest.raises(DeadlineExceeded):
            call(client, their, "slow", SLOW, "late", timeout=SLOW / 4)
        assert call(client, their, "echo", "mine") == "mine"
        # Asked later and as slow: the late answer has come before, or comes to nobody again.
        assert call(client, their, "slow", SLOW, "mine too") == "mine too"
        assert client.connections == 1

    def test_ids_begin_again(self, client: AnyClient, their: Running) -> None:
        """The largest id is answered, by some as a float, and so is the one behind it."""
        caller = client.client if isinstance(client, AdaptedClient) else client
        assert isinstance(caller, hvrpc.msgpack.Client | hvrpc.msgpack.aio.Client)
        connection = caller._session.current
        assert connection is not None
        connection.core._ids = itertools.count(MAX_ID - 1)
        calls = [their.spell("add", number, 1) for number in range(5)]
        assert call_all(client, calls) == [1, 2, 3, 4, 5]
        connection.core._ids = itertools.count(MAX_ID)
        with pytest.raises(DeadlineExceeded):
            call(client, their, "slow", SLOW, "late", timeout=SLOW / 4)
        assert call(client, their, "slow", SLOW, "mine") == "mine"
        assert client.connections == 1

    def test_notifications(self, bench: Bench, their_own: Running) -> None:
        client = client_of(bench, their_own)
        name, params = their_own.spell("note", "noted")
        client.notify(name, *params)
        if their_own.server.takes_notifications:
            assert call(client, their_own, "notes") == ["noted"]
            assert client.connections == 1
            return

        def has_come_back() -> bool:
            try:
                return bool(call(client, their_own, "add", 2, 3) == 5 and client.connections == 2)
            except ConnectionLost:
                return False

        wait_until(has_come_back, "it has closed the connection, and we have opened another")


def _pack_complex(value: complex) -> bytes:
    return f"{value.real} {value.imag}".encode()


def _unpack_complex(data: bytes) -> complex:
    return complex(*map(float, data.split()))


# --- Their clients, our servers -------------------------------------------------------------------


class Offered:
    """What the peers' clients call. Each client has notes of its own."""

    def __init__(self) -> None:
        self._notes: dict[Any, list[Any]] = {}

    def echo(self, x: Any) -> Any:
        return x

    def add(self, a: int, b: int) -> int:
        return a + b

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def note(self, x: Any, context: Context) -> None:
        self._notes.setdefault(context.peer, []).append(x)

    def notes(self, context: Context) -> list[Any]:
        return self._notes.get(context.peer, [])


class OfferedByThreads(Offered):
    def nested(self, method: str, params: list[Any], context: Context) -> Any:
        return context.caller.call(method, *params)


class OfferedByLoop(Offered):
    async def nested(self, method: str, params: list[Any], context: Context) -> Any:
        return await context.caller.call(method, *params)


@pytest.fixture
def served(bench: Bench) -> Path:
    """The socket of a server of ours."""
    bench.serve(OfferedByThreads() if bench.server_driver == BLOCKING else OfferedByLoop())
    return Path(bench.url.removeprefix("unix://"))


def check_steps(peer: Peer, printed: dict[str, Any]) -> None:
    assert peer.client is not None
    assert printed.keys() == peer.client.steps
    assert "no luck" in str(printed.pop("fail"))
    assert printed == {step: STEPS[step] for step in printed}


class TestTheirClients:
    @pytest.mark.parametrize("name", CLIENTS)
    def test_one_goes_through_its_steps(
        self, served: Path, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        peer = installed(CLIENTS[name])
        with caplog.at_level(logging.WARNING):
            check_steps(peer, run_client(peer, served))
        assert not caplog.records, "nothing about it is worth a warning"

    def test_all_of_them_at_the_same_time(self, served: Path) -> None:
        peers = [peer for peer in CLIENTS.values() if not peer.missing()]
        if not peers:
            pytest.skip("no peer is installed: run `python -m tests.interop.install`")
        running = [Background(partial(run_client, peer, served)) for peer in peers]
        for peer, each in zip(peers, running, strict=True):
            check_steps(peer, each.result())
