"""Towards peers that are not ours: nothing they might not know, and all that the spec has."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from hvrpc import CallError, MethodNotFound, Outcome, RemoteError
from hvrpc.msgpack import Context

from ..sockets.background import WAIT, Background
from ..sockets.places import UnixPlace, needs_unix, short_folder
from .contract import AsyncTools, BlockingTools, Tools, tools_for
from .drivers import ASYNCIO, BLOCKING, Bench, bench
from .raw import RawPeer, call, refuse_hello, serving

pytestmark = needs_unix

DRIVERS = [BLOCKING, ASYNCIO]


@pytest.fixture(params=DRIVERS)
def made(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with (
        short_folder() as folder,
        bench(UnixPlace("unix", folder=folder), request.param, request.param) as bench_,
    ):
        yield bench_


class Stranger:
    """A server that has never heard of hvrpc, as the reference implementations behave."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.methods: dict[str, Any] = {"add": lambda a, b: a + b, "echo": lambda x: x}

    def __call__(self, peer: RawPeer) -> None:
        while True:
            message = peer.next()
            self.seen.append(message)
            if message[0] != 0:
                continue
            _, number, name, params = message
            if name not in self.methods:
                peer.send([1, number, f"undefined method {name}", None])
            else:
                peer.send([1, number, None, self.methods[name](*params)])

    def extras(self) -> list[Any]:
        """Messages with names of ours, but for the one hello."""
        names = [each[-2] for each in self.seen if each[0] != 1]
        return [name for name in names if name.startswith("$/")]


class TestOurClientAndAForeignServer:
    def test_a_hello_that_is_refused_means_plain_calls(self, made: Bench) -> None:
        stranger = Stranger()
        with serving(stranger) as made.url:
            client = made.connect()
            assert client.call("add", 1, 2) == 3
            assert client.call("add", 1, 2, timeout=WAIT) == 3
            assert client.remote.add(3, 4) == 7
            client.notify("echo", 1)
            with pytest.raises(RemoteError, match="undefined method nope") as caught:
                client.call("nope")
            assert type(caught.value) is RemoteError
            assert caught.value.code is None
            client.close()
        assert stranger.extras() == ["$/hello"]
        assert all(len(each) in (3, 4) for each in stranger.seen)

    def test_without_hello_nothing_of_ours_is_ever_sent(self, made: Bench) -> None:
        stranger = Stranger()
        with serving(stranger) as made.url:
            client = made.connect(hello=False)
            assert client.call("add", 1, 2, timeout=WAIT) == 3
            client.close()
        assert stranger.seen == [[0, 1, "add", [1, 2]]]

    def test_a_timeout_sends_no_cancel(self, made: Bench) -> None:
        hellos: list[Any] = []

        def slow(peer: RawPeer) -> None:
            refuse_hello(peer)
            first = peer.next()
            second = peer.next()
            peer.send([1, first[1], None, "late"], [1, second[1], None, "right"])
            hellos.extend([first, second, *peer.rest()])

        with serving(slow) as made.url:
            client = made.connect()
            with pytest.raises(TimeoutError):
                client.call("slow", timeout=0.05)
            assert client.call("quick") == "right"
            client.close()
        assert [each[2] for each in hellos] == ["slow", "quick"]

    def test_what_strangers_do_not_know_is_refused_clearly(self, made: Bench) -> None:
        stranger = Stranger()
        with serving(stranger) as made.url:
            client = made.connect()
            with pytest.raises(
                CallError, match="by name are understood by hvrpc peers only"
            ) as one:
                client.call("add", a=1, b=2)
            with pytest.raises(CallError, match="streaming results are understood") as other:
                client.stream("echo", [1])
            for caught in (one, other):
                assert caught.value.outcome is Outcome.NOT_SENT
                assert caught.value.remedy
            with pytest.raises(RemoteError, match="methods"):
                client.methods()

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            ("text", None, "text"),
            ([0, "Vim:E1"], 0, "Vim:E1"),
            (["ValueError", "bad"], "ValueError", "bad"),
            ({"message": "m", "code": 3}, 3, "m"),
            ([-32601, "no such"], -32601, "no such"),
        ],
    )
    def test_errors_in_all_shapes(self, made: Bench, error: Any, code: Any, message: str) -> None:
        def failing(peer: RawPeer) -> None:
            refuse_hello(peer)
            peer.send([1, peer.next()[1], error, None])
            peer.rest()

        with serving(failing) as made.url:
            with pytest.raises(RemoteError) as caught:
                made.connect().call("x")
            assert (caught.value.code, caught.value.message) == (code, message)
            if code == -32601:
                assert isinstance(caught.value, MethodNotFound)

    @pytest.mark.parametrize("error", [0, "", [], False, {}])
    def test_falsy_errors_are_errors(self, made: Bench, error: Any) -> None:
        def failing(peer: RawPeer) -> None:
            refuse_hello(peer)
            peer.send([1, peer.next()[1], error, "looks like success"])
            peer.rest()

        with serving(failing) as made.url, pytest.raises(RemoteError):
            made.connect().call("x")

    def test_the_stranger_may_call_us_too(self, made: Bench) -> None:
        answers: list[Any] = []

        def calling(peer: RawPeer) -> None:
            refuse_hello(peer)
            _, number, _, _ = peer.next()
            peer.send([0, 0, b"add", [1, 2]], [0, 1, "nope", []], [2, "fail", ["x"]])
            answers.extend([peer.next(), peer.next()])
            peer.send([1, number, None, "done"])
            answers.extend(peer.rest())

        with serving(calling) as made.url:
            client = made.connect(service=Tools())
            assert client.call("start") == "done"
            client.close()
        assert sorted(answers) == [[1, 0, None, 3], [1, 1, "there is no method 'nope'", None]]

    def test_a_datetime_goes_as_text(self, made: Bench) -> None:
        stranger = Stranger()
        moment = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
        with serving(stranger) as made.url:
            assert made.connect().call("echo", moment) == "2024-01-02T03:04:05+00:00"


class TestOurServerAndAForeignClient:
    def test_plain_calls(self, made: Bench) -> None:
        made.serve(Tools())
        with call(made.url) as peer:
            peer.send([0, 0, "add", [1, 2]], [0, 2**32 - 1, b"add", [3, 4]])
            assert [peer.next(), peer.next()] == [[1, 0, None, 3], [1, 2**32 - 1, None, 7]]

    def test_errors_are_text(self, made: Bench) -> None:
        made.serve(Tools(), tracebacks=True)
        with call(made.url) as peer:
            for number, (name, params, text) in enumerate(
                [
                    ("nope", [], "there is no method 'nope'"),
                    ("fail", ["boom"], "ValueError: boom"),
                    ("refuse", [5, "on purpose", {"a": 1}], "on purpose"),
                    ("refuse_async", [5, "on purpose"], "on purpose"),
                    ("add", ["x"], "params[0]: expected int, got str 'x'"),
                    ("unsendable", [], None),
                ]
            ):
                peer.send([0, number, name, params])
                kind, answered, error, result = peer.next()
                assert (kind, answered, result) == (1, number, None)
                assert isinstance(error, str)
                assert text is None or error == text

    def test_streams_are_lists(self, made: Bench) -> None:
        made.serve(Tools())
        with call(made.url) as peer:
            for name in ("count", "count_async"):
                peer.send([0, 5, name, [3]])
                assert peer.next() == [1, 5, None, [0, 1, 2]]

    def test_failing_notifications_are_silent(self, made: Bench) -> None:
        tools = Tools()
        made.serve(tools)
        with call(made.url) as peer:
            peer.send(
                [2, "nope", []],
                [2, "fail", ["x"]],
                [2, "add", ["wrong", "types"]],
                [2, "add", []],
                [2, "refuse_async", [5, "x"]],
                [2, "broken_stream", [2]],
                [2, "broken_stream_async", [2]],
                [2, "unsendable", []],
                [2, b"note", ["last"]],
                [0, 9, "noted", []],
            )
            assert peer.next() == [1, 9, None, ["last"]]

    def test_closing_the_server_sends_nothing_of_ours(self, made: Bench) -> None:
        server = made.serve(Tools())
        with call(made.url) as peer:
            peer.send([0, 1, "add", [1, 2]])
            assert peer.next() == [1, 1, None, 3]
            closing = Background(server.close)
            assert peer.rest() == []
            peer.close()
            assert closing.result() is True

    def test_calling_back_sends_plain_requests(self, made: Bench) -> None:
        made.serve(tools_for(made.server_driver))
        with call(made.url) as peer:
            peer.send([0, 1, "back", ["question", 42]])
            kind, number, name, params = peer.next()
            assert (kind, name, params) == (0, "question", [42])
            peer.send([1, number, None, "answer"])
            assert peer.next() == [1, 1, None, "answer"]

    def test_half_a_connection_is_enough_for_the_answers(self, made: Bench) -> None:
        """A client that has said all it wants may shut down its sending side first."""
        made.serve(Tools())
        with call(made.url) as peer:
            peer.send(*([0, n, "add", [n, n]] for n in range(50)))
            peer.socket.shutdown(1)
            assert peer.rest() == [[1, n, None, 2 * n] for n in range(50)]

    def test_out_of_order_answers(self, made: Bench) -> None:
        tools = Tools()
        made.serve(tools)
        with call(made.url) as peer:
            peer.send([0, 1, "hold", ["slow"]], [0, 2, "add", [1, 2]])
            assert peer.next() == [1, 2, None, 3]
            tools.gates["slow"].open()
            assert peer.next() == [1, 1, None, "slow"]

    def test_a_plain_method_that_blocks_delays_nobody(self) -> None:
        """Threads: the connection is read on while a method takes its time."""
        with (
            short_folder() as folder,
            bench(UnixPlace("unix", folder=folder), BLOCKING, BLOCKING) as made,
        ):

            def block(context: Context) -> str:
                context.wait_cancelled(WAIT)
                return "blocked"

            made.serve([block, Tools().add])
            with call(made.url) as peer:
                peer.send([0, 1, "$/hello", [{"hvrpc": 1}]])
                assert peer.next()[1] == 1
                peer.send([0, 2, "block", []])
                for number in range(3, 10):
                    peer.send([0, number, "add", [1, 2]])
                    assert peer.next() == [1, number, None, 3]
                peer.send([2, "$/cancelRequest", [2]])
                assert peer.next() == [1, 2, None, "blocked"]


def test_the_tools_of_both_drivers_offer_the_same() -> None:
    one, other = (
        sorted(name for name in dir(kind) if not name.startswith("_"))
        for kind in (BlockingTools, AsyncTools)
    )
    assert one == other


def test_the_stranger_is_one() -> None:
    """The reference of this file does answer what it does not know."""
    stranger = Stranger()
    with serving(stranger) as url, call(url) as peer:
        for number in itertools.islice(itertools.count(), 3):
            peer.send([0, number, "nope", []])
            assert peer.next() == [1, number, "undefined method nope", None]
