"""What msgpack-RPC promises, whichever drivers and sockets carry it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import enum
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest

import hvrpc
from hvrpc import (
    CallError,
    ConnectionLost,
    DeadlineExceeded,
    HvrpcError,
    InvalidParams,
    MethodNotFound,
    Outcome,
    RemoteError,
    SessionClosed,
)
from hvrpc.msgpack import Context, Extensions, Limits, Service, method
from hvrpc.session.repeating import MOST_WITHOUT_LIMIT

from ..sockets.background import WAIT, Background, wait_until
from .drivers import BLOCKING, AdaptedClient, Bench, Gate

KiB = 1024
NAIVE = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC).replace(tzinfo=None)
MiB = 1024 * KiB


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Place:
    street: str
    number: int = 1


@dataclasses.dataclass
class Order:
    ident: uuid.UUID
    when: datetime.datetime
    colour: Colour
    places: list[Place]
    note: str | None = None


class Tools:
    """Methods that both drivers can serve: none of them blocks."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = collections.defaultdict(Gate)
        self.notes: list[Any] = []
        self.produced = 0
        self.ended = threading.Event()
        self.cancelled = threading.Event()

    def add(self, a: int, b: int = 10) -> int:
        """Add two numbers."""
        return a + b

    def echo(self, value: Any) -> Any:
        return value

    async def echo_async(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    def keys(self) -> Any:
        return {(1, 2): 3}

    def note(self, value: Any) -> None:
        self.notes.append(value)

    def noted(self) -> list[Any]:
        return self.notes

    async def hold(self, gate: str) -> str:
        try:
            await self.gates[gate].wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return gate

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def refuse(self, code: Any, message: str, data: Any = None) -> None:
        raise RemoteError(message, code=code, data=data)

    async def refuse_async(self, code: Any, message: str, data: Any = None) -> None:
        raise RemoteError(message, code=code, data=data)

    def unsendable(self) -> Any:
        return [1, {"here": object()}]

    def repeat(self, order: Order) -> Order:
        order.places.append(Place("added"))
        return order

    def path(self, where: Path) -> str:
        return where.name

    def count(self, n: int) -> Iterator[int]:
        for number in range(n):
            self.produced = number + 1
            yield number

    async def count_async(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            self.produced = number + 1
            yield number

    def endless(self) -> Iterator[int]:
        try:
            while True:
                yield self.produced
                self.produced += 1
        finally:
            self.ended.set()

    async def endless_async(self) -> AsyncIterator[int]:
        try:
            while True:
                yield self.produced
                self.produced += 1
        finally:
            self.ended.set()

    def broken_stream(self, good: int) -> Iterator[int]:
        yield from range(good)
        raise RemoteError("no more of it", code=7)

    async def broken_stream_async(self, good: int) -> AsyncIterator[int]:
        for number in range(good):
            yield number
        raise RemoteError("no more of it", code=7)

    async def slow_stream(self) -> AsyncIterator[str]:
        yield "first"
        await self.gates["slow_stream"].wait()
        yield "second"

    def who(self, context: Context) -> str:
        assert context.peer is not None
        return str(context.peer)

    def remaining(self, context: Context) -> float | None:
        return context.time_remaining()

    async def until_cancelled(self, context: Context) -> str:
        gate = Gate()
        context.on_cancel(gate.open)
        self.gates["until_cancelled"].reached.set()
        try:
            await gate.wait()
        finally:
            self.cancelled.set()
        return "cancelled"


class BlockingTools(Tools):
    """With methods that call back, as one does with threads."""

    def back(self, name: str, value: Any, context: Context) -> Any:
        return context.caller.call(name, value)

    def back_note(self, value: Any, context: Context) -> None:
        context.caller.notify("note", value)


class AsyncTools(Tools):
    """With methods that call back, as one does with coroutines."""

    async def back(self, name: str, value: Any, context: Context) -> Any:
        return await context.caller.call(name, value)

    async def back_note(self, value: Any, context: Context) -> None:
        await context.caller.notify("note", value)


def tools_for(driver: str) -> Tools:
    return BlockingTools() if driver == BLOCKING else AsyncTools()


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    1.5,
    float("inf"),
    "",
    "text",
    "äöü €",
    "\0",
    b"",
    b"\xff\x00",
    [],
    [1, "two", b"three", None],
    {},
    {"a": {"b": [{"c": 1}]}},
    {1: "one", b"two": 2, None: 3},
    datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.UTC),
    datetime.datetime(1960, 1, 1, tzinfo=datetime.UTC),
    msgpack.ExtType(5, b"opaque"),
]

THRESHOLDS = (4 * KiB, 32 * KiB, 64 * KiB, MiB)
SIZES = sorted({size + near for size in THRESHOLDS for near in (-1, 0, 1)} | {128 * KiB, 3 * MiB})


class CoreContract:
    """What is tried with every pair of drivers on every family."""

    def test_calls_have_results(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        assert client.call("add", 1, 2) == 3
        assert client.remote.add(1, b=5) == 6
        assert client.call("echo_async", "x") == "x"

    def test_values_arrive_as_they_were(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        for value in VALUES:
            back = client.call("echo", value)
            assert back == value
            assert type(back) is type(value)

    def test_large_bytes_arrive_whole_both_ways(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        for size in (64 * KiB + 1, 3 * MiB):
            value = bytes(range(256)) * (size // 256) + bytes(size % 256)
            assert client.call("echo", value) == value

    def test_notifications_come_in_order_before_later_calls(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        for number in range(10):
            client.notify("note", number)
        assert client.call("noted") == list(range(10))

    def test_errors_say_what_went_wrong(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        with pytest.raises(MethodNotFound, match="there is no method 'nope'") as missing:
            client.call("nope")
        assert missing.value.outcome is Outcome.ANSWERED
        assert missing.value.address == bench.url
        with pytest.raises(InvalidParams, match=r"params\[1\]: expected int, got str 'x'"):
            client.call("add", 1, "x")
        with pytest.raises(RemoteError, match="ValueError: boom") as raised:
            client.call("fail", "boom")
        assert raised.value.method == "fail"
        assert raised.value.remote_traceback is None
        assert client.call("add", 1) == 11

    def test_streams_come_item_by_item(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        assert list(client.stream("count", 200)) == list(range(200))
        assert list(client.stream("count_async", 200)) == list(range(200))

    def test_both_sides_call(self, bench: Bench) -> None:
        ours = tools_for(bench.client_driver)
        client = bench.pair(tools_for(bench.server_driver), service=ours)
        assert client.call("back", "echo", 21) == 21
        assert client.call("back", "echo_async", "x") == "x"
        with pytest.raises(MethodNotFound, match="nope"):
            client.call("back", "nope", 1)

    def test_a_deadline_ends_a_call_and_its_method(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.05 s") as late:
            client.call("hold", "never", timeout=0.05)
        assert late.value.outcome is Outcome.MAY_HAVE_RUN
        assert late.value.method == "hold"
        assert tools.cancelled.wait(WAIT)
        assert client.call("add", 1, 2) == 3

    def test_a_server_that_goes_ends_calls_under_way(self, bench: Bench) -> None:
        tools = Tools()
        server = bench.serve(tools)
        client = bench.connect(timeout=WAIT)
        waiting = Background(lambda: client.call("hold", "never"))
        assert tools.gates["never"].reached.wait(WAIT)
        assert server.close(0) is False
        lost = waiting.error()
        assert isinstance(lost, (ConnectionLost, RemoteError)), lost
        assert lost.method == "hold"


class CallContract:
    """Requests, responses, notifications."""

    @pytest.mark.parametrize("size", SIZES)
    def test_bytes_of_every_size(self, bench: Bench, size: int) -> None:
        client = bench.pair(Tools())
        value = (bytes(range(251)) * (size // 251 + 1))[:size]
        for like in (bytes, bytearray, memoryview):
            assert client.call("echo", like(value)) == value
        assert client.call("echo", [value, size]) == [value, size]
        assert client.call("echo", {"x": value}) == {"x": value}
        assert client.call("echo", 1) == 1

    def test_long_text_and_lists(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        for value in ("ä" * 100_000, list(range(100_000)), {str(n): n for n in range(5000)}):
            assert client.call("echo", value) == value

    def test_a_slow_call_does_not_delay_a_quick_one(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        slow = Background(lambda: client.call("hold", "slow"))
        assert tools.gates["slow"].reached.wait(WAIT)
        assert client.call("add", 1, 2) == 3
        tools.gates["slow"].open()
        assert slow.result() == "slow"

    def test_many_threads_share_a_client(self, bench: Bench) -> None:
        client = bench.pair(Tools())

        def work(start: int) -> list[int]:
            return [client.call("echo", start + n) for n in range(50)]

        threads = [Background(partial(work, start)) for start in range(0, 600, 100)]
        for start, thread in zip(range(0, 600, 100), threads, strict=True):
            assert thread.result() == list(range(start, start + 50))

    def test_calls_that_wait_are_answered_in_any_order(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        names = [str(n) for n in range(5)]
        waiting = [Background(partial(client.call, "hold", name)) for name in names]
        for name in names:
            assert tools.gates[name].reached.wait(WAIT)
        for name, each in reversed(list(zip(names, waiting, strict=True))):
            tools.gates[name].open()
            assert each.result() == name

    def test_the_clients_timeout_holds_for_every_call(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools, timeout=0.2)
        with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
            client.call("hold", "never")
        with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
            client.remote.hold("never")

    def test_a_calls_timeout_counts_more_than_the_clients(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools, timeout=0.2)
        slow = Background(lambda: client.call("hold", "long", timeout=None))
        with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
            client.call("hold", "never")
        tools.gates["long"].open()
        assert slow.result() == "long"

    def test_a_late_answer_goes_to_nobody(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        for number in range(3):
            with pytest.raises(DeadlineExceeded):
                client.call("hold", "late", timeout=0.02)
            assert client.call("echo", number) == number
        tools.gates["late"].open()
        assert client.call("echo", "right") == "right"

    def test_parameters_by_name(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        assert client.call("add", a=1, b=2) == 3
        assert client.call("add", 1, b=2, timeout=WAIT) == 3
        assert client.remote.add(b=2, a=1) == 3
        with pytest.raises(InvalidParams, match="c"):
            client.call("add", 1, c=2)
        with pytest.raises(InvalidParams, match="once"):
            client.call("add", 1, a=2)

    @pytest.mark.parametrize("params", [(), (1, 2, 3)])
    def test_a_wrong_number_of_parameters(self, bench: Bench, params: tuple[int, ...]) -> None:
        client = bench.pair(Tools())
        with pytest.raises(InvalidParams, match=r"expected 1 to 2 for .*add\(a, \[b\]\)") as caught:
            client.call("add", *params)
        assert caught.value.code == -32602

    def test_a_value_without_a_form_is_refused_before_it_is_sent(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        for value, complaint in [
            (2**64, r"params\[0\]: expected an int from -2\*\*63 to 2\*\*64-1"),
            (-(2**63) - 1, r"params\[0\]: expected an int from"),
            ([1, {"a": 2**64}], r"params\[0\]\[1\]\.a: expected an int from"),
            ([1, object()], r"params\[0\]\[1\]: expected something msgpack can carry"),
            (NAIVE, r"params\[0\]: expected datetime with time zone"),
        ]:
            with pytest.raises(ValueError, match=complaint):
                client.call("echo", value)
            with pytest.raises(ValueError, match=complaint):
                client.notify("echo", value)
        assert client.call("echo", 1) == 1

    def test_a_result_without_a_form_is_an_error(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        with pytest.raises(RemoteError, match=r"cannot be sent.*result\[1\]\.here") as caught:
            client.call("unsendable")
        assert caught.value.code == -32603
        assert client.call("echo", 1) == 1

    def test_reserved_names_can_be_neither_served_nor_confused(self, bench: Bench) -> None:
        service = Service()
        with pytest.raises(ValueError, match=r"names that begin with \$/ belong to hvrpc"):
            service.method("$/mine")(len)
        with pytest.raises(ValueError, match="belong to hvrpc"):
            Service({"$/hello": len})
        client = bench.pair(Tools())
        with pytest.raises(MethodNotFound):
            client.call("$/unknown")

    def test_the_other_side_is_known(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        assert client.peer is not None
        assert client.call("who").startswith(f"{bench.place.family}:")


class ServiceContract:
    """What can be served, and how it is found."""

    def test_a_module(self, bench: Bench) -> None:
        module = ModuleType("invented")
        source = "def twice(n: int) -> int:\n    return 2 * n\ndef _hidden(): pass\n"
        exec(source, module.__dict__)
        client = bench.pair(module)
        assert client.call("twice", 4) == 8
        assert [each["name"] for each in client.methods()] == ["twice"]

    def test_functions_and_dotted_names(self, bench: Bench) -> None:
        service = Service({"tools": Tools(), "math": {"abs": abs}})

        @service.method
        def plain(a: int) -> int:
            return a

        @service.method("very.deep.name")
        async def renamed() -> str:
            return "deep"

        client = bench.pair(service)
        assert client.call("tools.add", 1, 2) == 3
        assert client.remote.math.abs(-3) == 3
        assert client.remote.very.deep.name() == "deep"
        assert client.call("plain", 5) == 5
        with pytest.raises(MethodNotFound):
            client.call("add", 1, 2)

    def test_a_service_inside_a_service(self, bench: Bench) -> None:
        client = bench.pair(Service({"inner": Service(Tools())}))
        assert client.call("inner.add", 1, 2) == 3
        assert "inner.add" in [each["name"] for each in client.methods()]

    def test_only_marked_methods_where_one_is_marked(self, bench: Bench) -> None:
        class Marked:
            @method
            def offered(self) -> int:
                return 1

            @method("other.name")
            def renamed(self) -> int:
                return 2

            def kept(self) -> int:
                return 3

        client = bench.pair(Marked())
        assert client.call("offered") == 1
        assert client.call("other.name") == 2
        for name in ("kept", "renamed", "__init__"):
            with pytest.raises(MethodNotFound):
                client.call(name)

    def test_private_names_are_not_offered(self, bench: Bench) -> None:
        class Half:
            secret = "not a method"

            def open(self) -> int:
                return 1

            def _closed(self) -> int:
                return 2

        client = bench.pair(Half())
        assert [each["name"] for each in client.methods()] == ["open"]
        for name in ("_closed", "secret", "__class__", "open.__self__"):
            with pytest.raises(MethodNotFound):
                client.call(name)

    def test_hints_convert_and_check(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        order = Order(
            uuid.UUID(int=5),
            datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
            Colour.BLUE,
            [Place("here", 3)],
        )
        back = client.call("repeat", order)
        assert back["colour"] == "blue"
        assert [each["street"] for each in back["places"]] == ["here", "added"]
        assert client.call("path", Path("/a/b")) == "b"
        bad = dataclasses.replace(order, places=[Place("x", "y")])  # type: ignore[arg-type]
        with pytest.raises(InvalidParams, match=r"params\[0\]\.places\[0\]\.number: expected int"):
            client.call("repeat", bad)

    def test_what_is_offered_can_be_asked(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        found = {each["name"]: each for each in client.methods()}
        add = found["add"]
        assert add["doc"] == "Add two numbers."
        assert add["result"] == "int"
        assert [(each["name"], each["type"]) for each in add["params"]] == [
            ("a", "int"),
            ("b", "int"),
        ]
        assert found["count"]["stream"] is True
        assert found["who"]["params"] == []

    def test_extension_types_of_the_users(self, bench: Bench) -> None:
        extensions = Extensions()
        extensions.register(
            1, complex, lambda c: f"{c.real} {c.imag}".encode(), lambda b: _complex(b)
        )
        service = Service(Tools(), extensions=extensions)
        bench.serve(service, extensions=extensions)
        client = bench.connect(extensions=extensions)
        assert client.call("echo", 1 + 2j) == 1 + 2j
        assert client.call("echo", [{"x": 3j}]) == [{"x": 3j}]
        other = bench.connect()
        with pytest.raises(ValueError, match="complex"):
            other.call("echo", 1 + 2j)

    def test_the_callers_deadline_is_known(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        left = client.call("remaining", timeout=5)
        assert 0 < left <= 5
        assert client.call("remaining", timeout=None) is None

    def test_a_method_learns_that_its_caller_gave_up(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        with pytest.raises(DeadlineExceeded):
            client.call("until_cancelled", timeout=0.05)
        assert tools.cancelled.wait(WAIT)

    def test_a_method_learns_that_its_caller_left(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        waiting = Background(lambda: client.call("until_cancelled"))
        assert tools.gates["until_cancelled"].reached.wait(WAIT)
        client.close(0)
        assert tools.cancelled.wait(WAIT)
        assert isinstance(waiting.error(), HvrpcError)


def _complex(data: bytes) -> complex:
    real, imaginary = data.split()
    return complex(float(real), float(imaginary))


class BothSidesContract:
    """The server calls its caller."""

    def test_nested_calls_of_both_sides_at_the_same_time(self, bench: Bench) -> None:
        ours = tools_for(bench.client_driver)
        client = bench.pair(tools_for(bench.server_driver), service=ours)
        calls = [Background(partial(client.call, "back", "echo", n)) for n in range(20)]
        assert [each.result() for each in calls] == list(range(20))

    def test_there_and_back_and_there(self, bench: Bench) -> None:
        """A method calls its caller, whose method calls the first side again."""
        ours = tools_for(bench.client_driver)
        client = bench.pair(tools_for(bench.server_driver), service=ours)

        if bench.client_driver == BLOCKING:

            def again(n: int) -> int:
                value: int = client.call("add", n, 1)
                return value

            ours.again = again  # type: ignore[attr-defined]
        else:
            assert isinstance(client, AdaptedClient)
            inner = client.client

            async def again_async(n: int) -> int:
                value: int = await inner.call("add", n, 1)
                return value

            ours.again = again_async  # type: ignore[attr-defined]
        service = Service({"again": ours.again})  # type: ignore[attr-defined]
        nested = bench.connect(service=service)
        assert nested.call("back", "again", 5) == 6

    def test_a_notification_to_the_caller(self, bench: Bench) -> None:
        ours = tools_for(bench.client_driver)
        client = bench.pair(tools_for(bench.server_driver), service=ours)
        client.call("back_note", "hello")
        wait_until(lambda: ours.notes == ["hello"], "the notification has arrived")

    def test_large_bytes_cross(self, bench: Bench) -> None:
        ours = tools_for(bench.client_driver)
        client = bench.pair(tools_for(bench.server_driver), service=ours)
        value = bytes(2 * MiB)
        calls = [Background(lambda: client.call("back", "echo", value)) for _ in range(3)]
        assert all(each.result() == value for each in calls)


class ErrorContract:
    """Errors cross the boundary with all they carry."""

    @pytest.mark.parametrize("name", ["refuse", "refuse_async"])
    def test_errors_raised_on_purpose(self, bench: Bench, name: str) -> None:
        client = bench.pair(Tools())
        with pytest.raises(RemoteError) as caught:
            client.call(name, 42, "not today", {"retry": [1, 2]})
        error = caught.value
        assert (error.code, error.message, error.data) == (42, "not today", {"retry": [1, 2]})
        with pytest.raises(RemoteError) as caught:
            client.call(name, "named", "text", 0)
        assert (caught.value.code, caught.value.data) == ("named", 0)

    def test_an_error_without_a_code_keeps_text_and_data(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        with pytest.raises(RemoteError) as caught:
            client.call("refuse", None, "just no", [1])
        error = caught.value
        assert (error.code, error.message, error.data) == (-32000, "just no", [1])

    @pytest.mark.parametrize("code", [2**70, object(), True, 1.5, ["x"]])
    def test_an_unusable_code_does_not_hide_the_error(self, bench: Bench, code: Any) -> None:
        def odd() -> None:
            raise RemoteError("odd code", code=code)

        client = bench.pair(odd)
        with pytest.raises(RemoteError, match="odd code"):
            client.call("odd")

    def test_errors_whose_parts_cannot_be_sent(self, bench: Bench) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        def mute() -> None:
            raise Mute

        def surrogate() -> None:
            raise ValueError("\ud800 is no text")

        def heavy() -> None:
            raise RemoteError("with data", code=5, data=object())

        client = bench.pair([mute, surrogate, heavy])
        with pytest.raises(RemoteError, match="Mute"):
            client.call("mute")
        with pytest.raises(RemoteError, match="is no text"):
            client.call("surrogate")
        with pytest.raises(RemoteError, match="with data") as caught:
            client.call("heavy")
        assert caught.value.code == 5
        with pytest.raises(MethodNotFound):
            client.call("still there?")

    def test_methods_may_raise_our_own_errors(self, bench: Bench) -> None:
        def picky() -> None:
            raise InvalidParams("choose something else")

        client = bench.pair(picky)
        with pytest.raises(InvalidParams, match="choose something else"):
            client.call("picky")

    def test_exit_is_an_error_of_the_method(self, bench: Bench) -> None:
        def leave() -> None:
            sys.exit(3)

        client = bench.pair(leave)
        with pytest.raises(RemoteError, match="SystemExit"):
            client.call("leave")
        with pytest.raises(RemoteError, match="SystemExit"):
            client.call("leave")

    def test_tracebacks_only_where_the_server_allows_them(self, bench: Bench) -> None:
        bench.serve(Tools(), tracebacks=True)
        with pytest.raises(RemoteError) as caught:
            bench.connect().call("fail", "boom")
        assert caught.value.remote_traceback is not None
        assert "raise ValueError(text)" in caught.value.remote_traceback


class StreamContract:
    """Results that come item by item."""

    @pytest.fixture(params=["", "_async"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        kind: str = request.param
        return kind

    def test_a_stream_that_is_called_is_a_list(self, bench: Bench, kind: str) -> None:
        client = bench.pair(Tools())
        assert client.call("count" + kind, 5) == [0, 1, 2, 3, 4]
        assert client.call("count" + kind, 0) == []

    @pytest.mark.parametrize("items", [0, 1, 63, 64, 65, 1000])
    def test_all_items_and_then_the_end(self, bench: Bench, kind: str, items: int) -> None:
        client = bench.pair(Tools())
        stream = client.stream("count" + kind, items)
        assert list(stream) == list(range(items))
        assert list(stream) == []

    @pytest.mark.parametrize("window", [1, 2, 3, 1024])
    def test_any_window(self, bench: Bench, kind: str, window: int) -> None:
        client = bench.pair(Tools())
        assert list(client.stream("count" + kind, 20, window=window)) == list(range(20))

    def test_windows_that_make_no_sense(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        for window in (0, -1, "x", None):
            with pytest.raises(ValueError, match="the window of a stream"):
                client.stream("count", 1, window=window)
        with pytest.raises(InvalidParams, match="1 to 1024 items"):
            list(client.stream("count", 1, window=1025))
        assert list(client.stream("count", 1)) == [0]

    def test_a_reader_that_does_not_read_stops_the_producer(self, bench: Bench, kind: str) -> None:
        tools = Tools()
        client = bench.pair(tools)
        stream = client.stream("endless" + kind, window=8)
        assert next(stream) == 0
        for _ in range(3):
            client.call("add", 1, 2)  # what could still come has come
        assert tools.produced <= 8 + 1
        assert [next(stream) for _ in range(50)] == list(range(1, 51))
        assert tools.produced <= 51 + 8 + 1
        stream.cancel()
        assert tools.ended.wait(WAIT)

    def test_cancelling_ends_the_generator(self, bench: Bench, kind: str) -> None:
        tools = Tools()
        client = bench.pair(tools)
        stream = client.stream("endless" + kind)
        assert next(stream) == 0
        stream.cancel()
        assert tools.ended.wait(WAIT)
        assert list(stream) == []
        assert client.call("add", 1, 2) == 3

    def test_forgetting_a_stream_ends_the_generator(self, bench: Bench, kind: str) -> None:
        tools = Tools()
        client = bench.pair(tools)
        for item in client.stream("endless" + kind):
            assert item == 0
            break
        wait_until(tools.ended.is_set, "the generator has ended")

    def test_closing_the_client_ends_the_generator(self, bench: Bench, kind: str) -> None:
        tools = Tools()
        client = bench.pair(tools)
        stream = client.stream("endless" + kind)
        assert next(stream) == 0
        client.close(0)
        assert tools.ended.wait(WAIT)

    def test_an_error_in_the_midst_comes_after_the_items(self, bench: Bench, kind: str) -> None:
        client = bench.pair(Tools())
        stream = client.stream("broken_stream" + kind, 3)
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RemoteError, match="no more of it") as caught:
            next(stream)
        assert caught.value.code == 7
        with pytest.raises(RemoteError, match="no more of it"):
            client.call("broken_stream" + kind, 3)

    def test_a_loss_in_the_midst_is_a_failure_and_no_end(self, bench: Bench, kind: str) -> None:
        tools = Tools()
        server = bench.serve(tools)
        client = bench.connect()
        stream = client.stream("endless" + kind, window=4)
        assert next(stream) == 0
        server.close(0)
        with pytest.raises((ConnectionLost, RemoteError)):
            list(stream)
        assert tools.ended.wait(WAIT)

    def test_the_timeout_is_for_each_item(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        stream = client.stream("slow_stream", timeout=0.1)
        assert next(stream) == "first"
        with pytest.raises(DeadlineExceeded, match=r"0\.1 s"):
            next(stream)
        assert list(stream) == []

    def test_streams_and_calls_side_by_side(self, bench: Bench, kind: str) -> None:
        client = bench.pair(Tools())
        streams = [client.stream("count" + kind, 100, window=4) for _ in range(4)]
        for number in range(100):
            assert [next(stream) for stream in streams] == [number] * 4
            assert client.call("echo", number) == number
        for stream in streams:
            assert list(stream) == []

    def test_a_method_that_does_not_yield_says_so(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        with pytest.raises(hvrpc.HvrpcError, match=r"at once.*use call\(\)"):
            list(client.stream("add", 1, 2))

    def test_a_stream_with_names_and_large_items(self, bench: Bench, kind: str) -> None:
        def blocks(size: int, number: int = 2) -> Iterator[bytes]:
            for _ in range(number):
                yield bytes(size)

        async def blocks_async(size: int, number: int = 2) -> AsyncIterator[bytes]:
            for _ in range(number):
                yield bytes(size)

        client = bench.pair([blocks, blocks_async])
        found = list(client.stream("blocks" + kind, size=300 * KiB, number=30))
        assert found == [bytes(300 * KiB)] * 30

    def test_too_many_items_for_a_list(self, bench: Bench, kind: str) -> None:
        tools = Tools()
        bench.serve(tools, limits=Limits(items=10))
        client = bench.connect()
        assert len(client.call("count" + kind, 10)) == 10
        with pytest.raises(RemoteError, match="more than 10 items: call it as a stream"):
            client.call("endless" + kind)
        assert tools.ended.wait(WAIT)

    def test_the_caller_may_yield_too(self, bench: Bench) -> None:
        """Streams go both ways: the server reads one of its caller's."""
        if bench.client_driver != BLOCKING or bench.server_driver != BLOCKING:
            pytest.skip("written for the blocking drivers")

        def total(n: int, context: Context) -> int:
            caller: Any = context.caller
            found: int = sum(caller.stream("count", n)) + sum(caller.stream("count_async", n))
            return found

        client = bench.pair(total, service=Tools())
        assert client.call("total", 200) == 2 * sum(range(200))


class BatchContract:
    """Many calls in one write."""

    def test_all_results(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        with client.batch() as batch:
            sums = [batch.call("add", n, n) for n in range(500)]
        assert [each.result() for each in sums] == [2 * n for n in range(500)]
        assert [each.result() for each in sums] == [2 * n for n in range(500)]
        again = client.batch()
        for n in range(100):
            again.call("echo_async", n)
        assert again.results() == list(range(100))
        assert again.results() == []

    def test_values_of_every_size(self, bench: Bench) -> None:
        values = [1, b"x" * 300_000, "y" * 70_000, [], b"", "z" * 1000, bytearray(40_000)] * 5
        client = bench.pair(Tools())
        batch = client.batch()
        for value in values:
            batch.call("echo", value)
        assert batch.results() == values

    def test_results_raise_what_calls_raise(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        with client.batch() as batch:
            good, bad, missing = batch.call("add", 1), batch.call("fail", "x"), batch.call("nope")
        with pytest.raises(MethodNotFound):
            missing.result()
        with pytest.raises(RemoteError, match="ValueError: x"):
            bad.result()
        assert good.result() == 11
        again = client.batch()
        again.call("add", 1)
        again.call("fail", "y")
        with pytest.raises(RemoteError, match="ValueError: y"):
            again.results()

    def test_a_result_that_is_asked_for_sends_what_was_added(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        batch = client.batch()
        first = batch.call("add", 1, 2)
        assert first.result() == 3
        second = batch.call("add", 3, 4)
        assert second.result(timeout=WAIT) == 7

    def test_a_batch_that_cannot_be_packed_sends_nothing(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        batch = client.batch()
        first = batch.call("note", 1)
        batch.call("note", object())
        with pytest.raises(ValueError, match=r"params\[0\]"):
            batch.send()
        with pytest.raises(CallError, match="its batch was not sent") as caught:
            first.result()
        assert caught.value.outcome is Outcome.NOT_SENT
        assert client.call("noted") == []
        assert batch.call("add", 1, 2).result() == 3

    def test_leaving_the_block_by_an_error_sends_nothing(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        batch = client.batch()

        def fill() -> None:
            with batch:
                batch.call("note", 1)
                raise KeyError

        with pytest.raises(KeyError):
            fill()
        assert client.call("noted") == []

    def test_a_late_result_is_given_up(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        with client.batch() as batch:
            held, quick = batch.call("hold", "x"), batch.call("add", 1, 2)
        with pytest.raises(DeadlineExceeded) as caught:
            held.result(timeout=0.05)
        assert caught.value.method == "hold"
        assert quick.result() == 3
        assert tools.cancelled.wait(WAIT)
        # Nobody answers any more, and who asks again need not wait for that.
        with pytest.raises(DeadlineExceeded, match=r"hold.*no answer within 0.05 s"):
            held.result(timeout=None)

    def test_the_end_of_the_connection(self, bench: Bench) -> None:
        tools = Tools()
        server = bench.serve(tools)
        client = bench.connect(retry=False)
        with client.batch() as batch:
            quick, held = batch.call("add", 1, 2), batch.call("hold", "x")
        assert tools.gates["x"].reached.wait(WAIT)
        server.close(0)
        assert quick.result() == 3
        for _ in range(2):
            with pytest.raises(ConnectionLost) as caught:
                held.result()
            assert caught.value.outcome is Outcome.MAY_HAVE_RUN

    def test_a_closed_client_says_so(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        client.close()
        batch = client.batch()
        batch.call("add", 1, 2)
        with pytest.raises(SessionClosed):
            batch.send()


class EndContract:
    """Closing, draining, losing, limits."""

    def test_a_closed_client_says_so(self, bench: Bench) -> None:
        client = bench.pair(Tools())
        assert not client.closed
        client.close()
        client.close()
        assert client.closed
        with pytest.raises(SessionClosed) as caught:
            client.call("add", 1, 2)
        assert caught.value.outcome is Outcome.NOT_SENT

    def test_closing_a_client_waits_for_its_calls(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        waiting = Background(lambda: client.call("hold", "slow"))
        assert tools.gates["slow"].reached.wait(WAIT)
        closing = Background(lambda: client.close(WAIT))
        wait_until(lambda: client.closed, "the client is closing")
        tools.gates["slow"].open()
        assert waiting.result() == "slow"
        closing.result()

    def test_closing_a_server_finishes_what_it_took(self, bench: Bench) -> None:
        tools = Tools()
        server = bench.serve(tools)
        client = bench.connect(retry=False)
        waiting = Background(lambda: client.call("hold", "slow"))
        assert tools.gates["slow"].reached.wait(WAIT)
        closing = Background(lambda: server.close(WAIT))

        refusals: list[Any] = []

        def refused() -> bool:
            try:
                client.call("add", 1, 2)
            except HvrpcError as error:
                refusals.append(error)
            return bool(refusals)

        wait_until(refused, "new calls are refused")
        assert refusals[0].outcome is Outcome.NOT_SENT
        tools.gates["slow"].open()
        assert waiting.result() == "slow"
        assert closing.result() is True

    def test_calls_move_to_a_new_connection(self, bench: Bench) -> None:
        first = bench.serve(Tools())
        client = bench.connect()
        assert client.call("add", 1, 2) == 3
        first.close()
        with pytest.raises(HvrpcError):
            client.call("add", 1, 2, timeout=0.3)
        bench.serve(Tools(), at=bench.url)
        assert client.call("add", 1, 2) == 3
        assert client.connections == 2

    def test_a_call_that_may_have_run_is_not_repeated(self, bench: Bench) -> None:
        tools = Tools()
        server = bench.serve(tools)
        client = bench.connect()
        waiting = Background(lambda: client.call("hold", "never"))
        assert tools.gates["never"].reached.wait(WAIT)
        server.close(0)
        error = waiting.error()
        assert isinstance(error, hvrpc.CallError)
        assert error.outcome is not Outcome.NOT_SENT

    def test_more_calls_than_may_run_at_a_time_wait(self, bench: Bench) -> None:
        tools = Tools()
        bench.serve(tools, limits=Limits(in_flight=3))
        client = bench.connect()
        held = [Background(lambda: client.call("hold", "many")) for _ in range(10)]
        assert tools.gates["many"].reached.wait(WAIT)
        tools.gates["many"].open()
        assert [each.result() for each in held] == ["many"] * 10

    def test_answers_are_read_while_as_many_calls_run_as_may(self, bench: Bench) -> None:
        ours = tools_for(bench.client_driver)
        bench.serve(tools_for(bench.server_driver), limits=Limits(in_flight=1))
        client = bench.connect(service=ours)
        for number in range(3):
            assert client.call("back", "echo", number) == number

    def test_a_message_that_is_too_long_for_the_server(self, bench: Bench) -> None:
        bench.serve(Tools(), limits=Limits(message=100 * KiB))
        client = bench.connect()
        for value in (bytes(200 * KiB), "x" * 200 * KiB, [bytes(60 * KiB)] * 3):
            with pytest.raises(ValueError, match="the other side takes 102400 at most"):
                client.call("echo", value)
        assert client.call("echo", bytes(90 * KiB)) == bytes(90 * KiB)

    def test_the_least_limit_is_kept_before_sending_too(self, bench: Bench) -> None:
        bench.serve(Tools(), limits=Limits(message=4096))
        client = bench.connect()
        for size in (4097, 10_000, 100_000):
            for value in ("x" * size, b"x" * size):
                with pytest.raises(ValueError, match="takes 4096 at most"):
                    client.call("echo", value)
        assert client.call("echo", "x" * 4000) == "x" * 4000
        assert client.connections == 1

    def test_a_call_without_a_deadline_is_not_repeated_for_ever(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be the one that ends the connections."""
        for driver in ("threads", "aio"):
            monkeypatch.setattr(f"hvrpc.session.{driver}.session.pause", lambda _: 0.0)
        tools = Tools()
        server = bench.serve(tools, limits=Limits(method=10))
        client = bench.connect(timeout=None, idempotent=("long name of a method",))
        with pytest.raises(ConnectionLost) as caught:
            client.call("long name of a method")
        assert caught.value.outcome is Outcome.MAY_HAVE_RUN
        assert client.connections == MOST_WITHOUT_LIMIT + 1
        assert client.call("add", 1, 2) == 3
        server.close(0)

    def test_a_result_that_is_too_long_for_the_client(self, bench: Bench) -> None:
        def large(size: int, as_text: bool = False) -> Any:
            return "x" * size if as_text else bytes(size)

        bench.serve([large])
        client = bench.connect(limits=Limits(message=100 * KiB))
        for as_text in (False, True):
            with pytest.raises(RemoteError, match="the other side takes 102400 at most"):
                client.call("large", 200 * KiB, as_text)
            assert len(client.call("large", 90 * KiB, as_text)) == 90 * KiB
        assert client.connections == 1

    def test_too_many_elements_are_the_callers_error(self, bench: Bench) -> None:
        bench.serve(Tools(), limits=Limits(elements=1000))
        client = bench.connect()
        for element in (1, "x" * 1000):
            with pytest.raises(InvalidParams, match="1001"):
                client.call("echo", [element] * 1001)
        assert client.call("echo", list(range(1000))) == list(range(1000))
        assert client.connections == 1

    def test_what_cannot_be_read_ends_its_call_and_no_other(self, bench: Bench) -> None:
        """Keys that are tuples are fine in Python, and arrays in msgpack, which are no keys in Python."""
        tools = Tools()
        client = bench.pair(tools)
        with client.batch() as batch:
            before = batch.call("hold", "x")
            wrong = batch.call("echo", {(1, 2): 3})
            after = batch.call("add", 1, 2)
        with pytest.raises(InvalidParams, match=r"echo.*cannot be read: unhashable"):
            wrong.result()
        client.notify("note", {(1, 2): 3})
        client.notify("note", 1)
        assert client.call("noted") == [1]
        assert after.result() == 3
        tools.gates["x"].open()
        assert before.result() == "x"
        with pytest.raises(
            CallError, match=r"keys.*its result cannot be read: unhashable"
        ) as caught:
            client.call("keys")
        assert caught.value.outcome is Outcome.ANSWERED
        assert client.connections == 1

    def test_a_name_that_is_too_long(self, bench: Bench) -> None:
        bench.serve(Tools(), limits=Limits(method=20))
        client = bench.connect()
        with pytest.raises(MethodNotFound):
            client.call("x" * 20)
        with pytest.raises(InvalidParams):
            client.call("x" * 21, timeout=WAIT)  # a deadline travels with the name inside
        with pytest.raises(ConnectionLost):
            client.call("x" * 21)

    def test_connections_beyond_the_limit_are_closed(self, bench: Bench) -> None:
        server = bench.serve(Tools(), max_connections=2)
        clients = [bench.connect() for _ in range(2)]
        with pytest.raises(hvrpc.OpenFailed):
            bench.connect(retry=False, timeout=5)
        assert [client.call("add", 1, 2) for client in clients] == [3, 3]
        clients[0].close()
        wait_until(lambda: server.connections == 1, "there is room again")
        assert bench.connect().call("add", 1, 2) == 3

    def test_nothing_is_kept_for_calls_that_have_ended(self, bench: Bench) -> None:
        tools = Tools()
        client = bench.pair(tools)
        for _ in range(3):
            client.call("add", 1, 2)
            with pytest.raises(RemoteError):
                client.call("fail", "x")
            with pytest.raises(DeadlineExceeded):
                client.call("hold", "never", timeout=0.02)
            list(client.stream("count", 3))
        core = _core_of(client)
        assert not core.pending
        assert not core.outgoing


def _core_of(client: Any) -> Any:
    inner = client.client if isinstance(client, AdaptedClient) else client
    connection: Any = inner._session.current
    return connection.core
