"""Hostile bytes, both ways. Each ends at most its own connection, with a reason in the log.

The rest of the promise: others are served on, memory stays bounded, and nothing is left behind (which
`conftest.py` checks after every test).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvrpc import (
    CallError,
    ConnectionLost,
    HvrpcError,
    OpenFailed,
    Outcome,
    ProtocolError,
    RemoteError,
)
from hvrpc.msgpack import Context, Limits

from ..sockets.background import WAIT, wait_until
from ..sockets.places import UnixPlace, needs_unix, short_folder
from .contract import Tools
from .drivers import ASYNCIO, BLOCKING, Bench, bench
from .raw import RawPeer, call, pack, refuse_hello, serving

pytestmark = needs_unix

MiB = 1024 * 1024
GOOD = pack([0, 1, "add", [1, 2]])
ANSWER = [1, 1, None, 3]

NONSENSE: dict[str, bytes] = {
    "0xc1, which is never valid": b"\xc1",
    "0xc1 inside of a message": b"\x94\x00\x01\xa3add\x91\xc1",
    "an array of 2**32-1": b"\xdd\xff\xff\xff\xff",
    "a map of 2**32-1": b"\xdf\xff\xff\xff\xff",
    "an extension of 2**32-1": b"\xc9\xff\xff\xff\xff\x05",
    "params of 2**32-1": b"\x94\x00\x01\xa3add\xdd\xff\xff\xff\xff",
    "10 000 nested arrays": b"\x91" * 10_000,
    "10 000 nested maps": b"\x81" * 10_000,
    "nested arrays as parameters": b"\x94\x00\x01\xa4echo" + b"\x91" * 10_000 + b"\xc0",
    "a map with a list as key": b"\x81\x90\x01",
    "nil": b"\xc0",
    "a number": b"\x05",
    "text": pack("hello"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(32),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "zeros": bytes(100),
    "an empty array": pack([]),
    "an array of one": pack([0]),
    "a request without parameters": pack([0, 1, "add"]),
    "a request with too much": pack([0, 1, "add", [1, 2], 5]),
    "an unknown kind": pack([3, 1, "add", [1, 2]]),
    "a negative kind": pack([-1, 1, "add", [1, 2]]),
    "a kind as text": pack(["0", 1, "add", [1, 2]]),
    "an id as text": pack([0, "1", "add", [1, 2]]),
    "an id of nil": pack([0, None, "add", [1, 2]]),
    "an id that is a list": pack([0, [1], "add", [1, 2]]),
    "a method that is a number": pack([0, 1, 5, []]),
    "a method that is a list": pack([0, 1, ["add"], []]),
    "a huge name": pack([0, 1, "x" * MiB, []]),
    "a huge name as bin": pack([0, 1, b"x" * MiB, []]),
    "parameters of nil": pack([0, 1, "add", None]),
    "parameters as a map": pack([0, 1, "add", {"a": 1, "b": 2}]),
    "a notification without parameters": pack([2, "add"]),
    "a notification of a number": pack([2, 5, []]),
    "a response to nothing with an odd id": pack([1, "x", None, 5]),
    "bytes that look like a response": pack(b"\x01\x05\x06\x07"),
}

HARMLESS: dict[str, bytes] = {
    "responses to nothing": pack([1, 5, None, 5], [1, 0, "error", None]) * 100,
    "notifications for nobody": pack([2, "nope", []]) * 100,
    "failing notifications": pack([2, "fail", ["x"]]) * 100,
    "cancels for nothing": pack([2, "$/cancelRequest", [1]], [2, "$/cancelRequest", []]) * 100,
    "unknown extras": pack([2, "$/unknown", [1]], [2, "$/unknown", []]),
    "a goodbye": pack([2, "$/goodbye", [{}]]),
    "hello and hello again": pack(*[[0, n, "$/hello", [{"hvrpc": n}]] for n in range(50)]),
    "text that is no UTF-8": b"\x94\x00\x09\xa4\xff\xfe\xfd\xfc\x90",
}


@pytest.fixture(params=[BLOCKING, ASYNCIO])
def made(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with bench_for(request.param) as found:
        yield found


@contextmanager
def bench_for(driver: str) -> Iterator[Bench]:
    with short_folder() as folder, bench(UnixPlace("unix", folder=folder), driver, driver) as found:
        yield found


def is_served(made: Bench) -> bool:
    """Whether a newcomer is served."""
    with call(made.url) as peer:
        peer.send(GOOD)
        answer: bool = peer.next() == ANSWER
        return answer


class TestHostileClients:
    @pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE)
    def test_nonsense_ends_its_own_connection_and_is_logged(
        self, made: Bench, data: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = made.serve(Tools())
        with caplog.at_level(logging.WARNING), call(made.url) as bystander, call(made.url) as peer:
            bystander.send(GOOD)
            assert bystander.next() == ANSWER
            peer.send(GOOD + data)
            assert peer.next() == ANSWER
            assert peer.ended()
            bystander.send(GOOD)
            assert bystander.next() == ANSWER
        warnings = [record.getMessage() for record in caplog.records]
        assert any("closing the connection" in text for text in warnings), warnings
        assert all(len(text) < 1000 for text in warnings)
        assert is_served(made)
        wait_until(lambda: server.connections == 0, "the connections have ended")

    @pytest.mark.parametrize("data", HARMLESS.values(), ids=HARMLESS)
    def test_what_is_odd_but_harmless_ends_nothing(self, made: Bench, data: bytes) -> None:
        made.serve(Tools())
        with call(made.url) as peer:
            peer.send(data + pack([0, 77, "add", [1, 2]]))
            while (message := peer.next())[1] != 77:
                assert message[0] == 1
            assert message == [1, 77, None, 3]

    @pytest.mark.parametrize("length", [1, 5, 15])
    def test_half_a_message_and_the_end(self, made: Bench, length: int) -> None:
        server = made.serve(Tools())
        data = pack([0, 1, "echo", ["some text"]])
        with call(made.url) as peer:
            peer.send(data[:length])
            peer.socket.shutdown(1)
            assert peer.rest() == []
        wait_until(lambda: server.connections == 0, "the connection has ended")
        assert is_served(made)

    @pytest.mark.parametrize("length", [20, 5_000, 100_000, 199_999])
    def test_half_a_large_value_and_the_end(self, made: Bench, length: int) -> None:
        server = made.serve(Tools())
        data = pack([0, 1, "echo", [bytes(200_000)]])
        with call(made.url) as peer:
            peer.send(data[:length])
        wait_until(lambda: server.connections == 0, "the connection has ended")
        assert is_served(made)

    def test_one_byte_at_a_time(self, made: Bench) -> None:
        made.serve(Tools())
        with call(made.url) as peer:
            for byte in pack([0, 1, "echo", ["some text"]], [2, "note", [1]], [0, 2, "noted", []]):
                peer.send(bytes([byte]))
            assert [peer.next(), peer.next()] == [[1, 1, None, "some text"], [1, 2, None, [1]]]

    def test_thousands_of_messages_in_one_piece(self, made: Bench) -> None:
        made.serve(Tools())
        count = 5000
        with call(made.url) as peer:
            peer.send(pack(*([0, n, "add", [n, 1]] for n in range(count))))
            assert sorted(peer.next()[1] for _ in range(count)) == list(range(count))

    def test_who_leaves_with_answers_unread_harms_nobody(self, made: Bench) -> None:
        server = made.serve(Tools())
        for _ in range(5):
            with call(made.url) as peer:
                peer.send(*([0, n, "echo", [bytes(50_000)]] for n in range(5)))
        wait_until(lambda: server.connections == 0, "the connections have ended")
        assert is_served(made)

    def test_who_never_reads_is_not_read_for_ever(self, made: Bench) -> None:
        """Requests are small and answers large: what waits to be sent is bounded."""

        def large() -> bytes:
            return bytes(MiB)

        made.serve([large, Tools().add])
        with call(made.url) as peer:
            peer.socket.settimeout(0.5)
            gc.collect()
            tracemalloc.start()
            try:
                with pytest.raises(TimeoutError):
                    peer.send(pack(*([0, n, "large", []] for n in range(60_000))))
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 80 * MiB
            assert is_served(made)

    def test_claimed_lengths_cost_nothing(self, made: Bench) -> None:
        made.serve(Tools())
        heads = [
            b"\xc6\x07\xff\xff\xff",
            b"\xdb\x07\xff\xff\xff",
            b"\x94\x00\x01\xa4echo\x91\xc6\x07\xff\xff\xff" + bytes(5000),
            b"\x94\x00\x01\xa4echo\x91\xdb\x07\xff\xff\xff" + bytes(5000),
            b"\xdf\x00\x0f\x00\x00" + bytes(5000),
        ]
        gc.collect()
        tracemalloc.start()
        peers = [call(made.url) for _ in range(4) for _ in heads]
        try:
            for peer, head in zip(peers, heads * 4, strict=True):
                peer.send(head)
            assert is_served(made)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            for peer in peers:
                peer.close()
        assert peak < 32 * MiB

    def test_a_message_beyond_the_limit_is_not_collected(self, made: Bench) -> None:
        made.serve(Tools(), limits=Limits(message=MiB))
        with call(made.url) as peer:
            try:
                peer.send(b"\x94\x00\x01\xa4echo\x92\xc6\x7f\xff\xff\xff" + bytes(4 * MiB))
            except ConnectionError:
                pass  # it was ended while we were at it
            assert peer.ended()
        assert is_served(made)

    def test_ids_in_use_are_not_taken_twice(self, made: Bench) -> None:
        tools = Tools()
        made.serve(tools)
        with call(made.url) as peer:
            peer.send([0, 1, "hold", ["x"]])
            assert tools.gates["x"].reached.wait(WAIT)
            peer.send([0, 1, "add", [1, 2]])
            assert peer.ended()
        assert tools.cancelled.wait(WAIT)
        assert is_served(made)

    def test_nonsense_behind_a_coroutine_that_has_not_begun(self, made: Bench) -> None:
        server = made.serve(Tools())
        for _ in range(5):
            with call(made.url) as peer:
                peer.send(pack([0, 1, "hold", ["x"]], [0, 2, "endless_async", []]) + b"\xc1")
                assert peer.ended()
        wait_until(lambda: server.connections == 0, "the connections have ended")
        assert is_served(made)

    def test_what_is_under_way_hears_what_it_waits_for(self, made: Bench) -> None:
        """As many calls as may be under way are, and the answers they need come behind more calls."""

        class Back:
            def ask(self, context: Context) -> Any:
                return context.caller.call("more")

        class BackAsync:
            async def ask(self, context: Context) -> Any:
                return await context.caller.call("more")

        back = BackAsync() if made.server_driver == ASYNCIO else Back()
        made.serve([back.ask, Tools().add], limits=Limits(in_flight=2))
        with call(made.url) as peer:
            peer.send(pack([0, 1, "ask", []], [0, 2, "ask", []], [0, 3, "add", [1, 2]]))
            answers: dict[int, Any] = {}
            while len(answers) < 3:
                kind, number, *rest = peer.next()
                if kind == 0:
                    peer.send([1, number, None, "here"])
                else:
                    answers[number] = rest[1]
            assert answers == {1: "here", 2: "here", 3: 3}

    def test_streams_are_told_of_room_however_many_run(self, made: Bench) -> None:
        made.serve(Tools(), limits=Limits(in_flight=2))
        with call(made.url) as peer:
            peer.send([0, 1, "$/hello", [{"hvrpc": 1}]])
            streams = ([0, n, "$/call", ["count", [5], {}, {"stream": 1}]] for n in (2, 3))
            peer.send(pack(*streams, [0, 4, "add", [1, 2]]))
            peer.send(pack([2, "$/more", [2, 9]], [2, "$/more", [3, 9]]))
            ended: set[int] = set()
            while ended != {1, 2, 3, 4}:
                kind, number, *_ = peer.next()
                if kind == 1:
                    ended.add(number)

    def test_a_cancel_is_read_however_many_run(self, made: Bench) -> None:
        """Of handlers that wait for that very word, with more calls before it than may run."""

        async def wait() -> None:
            await asyncio.Event().wait()

        made.serve([wait, Tools().echo], limits=Limits(in_flight=2))
        with call(made.url) as peer:
            echoes = ([0, n, "echo", [n]] for n in range(3, 50))
            peer.send(pack([0, 1, "wait", []], [0, 2, "wait", []], *echoes))
            peer.send([2, "$/cancelRequest", [1]])
            peer.send([2, "$/cancelRequest", [2]])
            answers = {number: value for _, number, _, value in (peer.next() for _ in range(49))}
            assert answers == {1: None, 2: None} | {n: n for n in range(3, 50)}

    def test_nonsense_is_noticed_however_many_run(self, made: Bench) -> None:
        async def wait() -> None:
            await asyncio.Event().wait()

        made.serve([wait], limits=Limits(in_flight=1))
        with call(made.url) as peer:
            peer.send(pack([0, 1, "wait", []], [0, 2, "wait", []]))
            peer.send([7])
            assert all(each[0] == 1 for each in peer.rest())

    def test_a_flood_of_streams_and_cancels(self, made: Bench) -> None:
        tools = Tools()
        server = made.serve(tools)
        with call(made.url) as peer:
            peer.send([0, 0, "$/hello", [{"hvrpc": 1}]])
            for number in range(1, 30):
                name = "endless_async" if number % 2 else "endless"
                peer.send([0, number, "$/call", [name, [], {}, {"stream": 3}]])
                peer.send([2, "$/cancelRequest", [number]])
            ends = 0
            while ends < 29:
                message = peer.next()
                ends += message[0] == 1 and message[1] > 0
        wait_until(lambda: server.connections == 0, "the connection has ended")
        assert is_served(made)

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_any_bytes(self, made: Bench, data: st.DataObject) -> None:
        if not made.url:
            made.serve(Tools())
        with call(made.url) as peer:
            peer.send(data.draw(FUZZ))
            peer.socket.shutdown(1)
            for answer in peer.rest():
                assert answer[0] in (0, 1, 2)
        assert is_served(made)


_PARTS: st.SearchStrategy[Any] = (
    st.none()
    | st.integers(0, 3)
    | st.sampled_from(["add", "echo", "count", "$/hello", "$/call", "$/item", "$/more", b"add"])
    | st.lists(st.integers(0, 3) | st.text(max_size=3) | st.just({}), max_size=4)
    | st.dictionaries(st.text(max_size=6), st.integers(0, 9), max_size=2)
)
FUZZ = (
    st.binary(max_size=60)
    | st.lists(st.lists(_PARTS, max_size=5), max_size=4).map(lambda messages: pack(*messages))
    | st.tuples(
        st.lists(st.lists(_PARTS, min_size=3, max_size=4), max_size=3), st.binary(max_size=9)
    ).map(lambda both: pack(*both[0]) + both[1])
)


class TestHostileServers:
    @pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE)
    def test_nonsense_instead_of_an_answer_to_hello(self, made: Bench, data: bytes) -> None:
        def nonsense(peer: RawPeer) -> None:
            peer.next()
            peer.send(data)
            peer.rest()

        with serving(nonsense) as made.url:
            with pytest.raises(ProtocolError) as caught:
                made.connect(timeout=5)
            assert caught.value.outcome is Outcome.NOT_SENT
            assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize("data", list(NONSENSE.values())[::3], ids=list(NONSENSE)[::3])
    def test_nonsense_while_a_call_waits(self, made: Bench, data: bytes) -> None:
        def nonsense(peer: RawPeer) -> None:
            refuse_hello(peer)
            peer.next()
            peer.send(data)
            peer.rest()

        with serving(nonsense) as made.url:
            client = made.connect()
            with pytest.raises(ProtocolError) as caught:
                client.call("x")
            assert caught.value.method == "x"

    def test_a_server_that_never_answers(self, made: Bench) -> None:
        silence = "the other side says nothing"
        with serving(RawPeer.rest) as made.url, pytest.raises(OpenFailed, match=silence):
            made.connect(retry=False, timeout=0.1)

    def test_a_server_that_never_answers_a_call(self, made: Bench) -> None:
        def silent(peer: RawPeer) -> None:
            refuse_hello(peer)
            peer.rest()

        with serving(silent) as made.url:
            client = made.connect()
            with pytest.raises(TimeoutError):
                client.call("x", timeout=0.05)

    def test_hello_answered_with_any_error_is_plain_mode(self, made: Bench) -> None:
        for error in ("no", 0, [1, "no"], {"message": "no"}, False, ""):

            def odd(peer: RawPeer, error: Any = error) -> None:
                peer.send([1, peer.next()[1], error, None])
                peer.send([1, peer.next()[1], None, "fine"])
                peer.rest()

            with serving(odd) as made.url:
                assert made.connect().call("x") == "fine"

    @pytest.mark.parametrize("facts", [None, 5, "x", [], {}, {"hvrpc": "x"}, {1: 2}])
    def test_hello_answered_with_nonsense_is_plain_mode(self, made: Bench, facts: Any) -> None:
        def odd(peer: RawPeer) -> None:
            peer.send([1, peer.next()[1], None, facts])
            peer.send([1, peer.next()[1], None, "fine"])
            peer.rest()

        with serving(odd) as made.url:
            client = made.connect()
            assert client.call("x") == "fine"
            with pytest.raises(CallError, match="hvrpc peers only"):
                client.call("x", a=1)

    def test_a_server_that_closes_at_each_byte_of_its_answer(self, made: Bench) -> None:
        answer = pack([1, 2, None, "a result of some length"])
        cuts = iter(range(len(answer)))

        def cutting(peer: RawPeer) -> None:
            peer.send([1, peer.next()[1], "no hello here", None])
            _, number, _, _ = peer.next()
            cut = next(cuts)
            peer.send(pack([1, number, None, "a result of some length"])[:cut])

        with serving(cutting) as made.url:
            client = made.connect()
            for _ in range(len(answer)):
                with pytest.raises(ConnectionLost):
                    client.call("x")
            assert client.connections == len(answer)

    @pytest.mark.parametrize("length", [10, 5_000, 70_000, 150_000])
    def test_a_server_that_closes_within_a_large_answer(self, made: Bench, length: int) -> None:
        def cutting(peer: RawPeer) -> None:
            refuse_hello(peer)
            peer.send(pack([1, peer.next()[1], None, bytes(200_000)])[:length])

        with serving(cutting) as made.url, pytest.raises(ConnectionLost):
            made.connect().call("x")

    def test_answers_with_wrong_ids_match_nobody(self, made: Bench) -> None:
        def confused(peer: RawPeer) -> None:
            refuse_hello(peer)
            while True:
                _, number, _, _ = peer.next()
                peer.send([1, number + 1, None, "wrong"], [1, 0, None, "wrong"])
                peer.send([1, number, None, number], [1, number, None, "again"])

        with serving(confused) as made.url:
            client = made.connect()
            first = client.call("x")
            assert [client.call("x") for _ in range(5)] == [first + n for n in range(1, 6)]

    def test_requests_of_a_server_get_refused_by_a_client_without_service(
        self, made: Bench
    ) -> None:
        answers: list[Any] = []

        def asking(peer: RawPeer) -> None:
            refuse_hello(peer)
            _, number, _, _ = peer.next()
            peer.send([0, 1, "format_disk", []], [2, "format_disk", []])
            answers.append(peer.next())
            peer.send([1, number, None, None])
            peer.rest()

        with serving(asking) as made.url:
            made.connect().call("x")
        assert answers == [[1, 1, "there is no method 'format_disk'", None]]

    def test_more_items_than_asked_for(self, made: Bench) -> None:
        def flooding(peer: RawPeer) -> None:
            peer.send([1, peer.next()[1], None, {"hvrpc": 1}])
            _, number, _, _ = peer.next()
            try:
                # In one piece: nobody can consume them as fast as they come.
                peer.send(pack([2, "$/item", [number, bytes(100)]]) * 100)
            except OSError:
                return
            peer.rest()

        with serving(flooding) as made.url:
            stream = made.connect().stream("x", window=4)
            with pytest.raises(ProtocolError, match="more than the 4 items"):
                list(stream)

    def test_a_stream_that_ends_with_the_connection_is_no_end(self, made: Bench) -> None:
        def leaving(peer: RawPeer) -> None:
            peer.send([1, peer.next()[1], None, {"hvrpc": 1}])
            _, number, _, _ = peer.next()
            peer.send([2, "$/item", [number, 0]], [2, "$/item", [number, 1]])

        with serving(leaving) as made.url:
            stream = made.connect().stream("x")
            assert [next(stream), next(stream)] == [0, 1]
            with pytest.raises(ConnectionLost):
                next(stream)

    def test_a_stream_that_ends_with_any_error(self, made: Bench) -> None:
        errors: list[Any] = ["text", 0, "", [], False, {"code": 5, "message": "no"}]
        for error in errors:

            def failing(peer: RawPeer, error: Any = error) -> None:
                peer.send([1, peer.next()[1], None, {"hvrpc": 1}])
                peer.send([1, peer.next()[1], error, None])
                peer.rest()

            with serving(failing) as made.url, pytest.raises(RemoteError):
                list(made.connect().stream("x"))

    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=FUZZ)
    def test_any_bytes(self, made: Bench, data: bytes) -> None:
        def random(peer: RawPeer) -> None:
            refuse_hello(peer)
            peer.next()
            peer.send(data)

        with serving(random) as made.url:
            client = made.connect(retry=False)
            try:
                client.call("x", timeout=WAIT)
            except HvrpcError:
                pass
            client.close(0)


def test_the_probes_are_what_they_claim() -> None:
    """None of them is a message that a server would have to answer."""
    for name, data in NONSENSE.items():
        unpacker = msgpack.Unpacker(max_buffer_size=0, strict_map_key=False)
        unpacker.feed(data)
        try:
            message = unpacker.unpack()
        except (ValueError, TypeError, msgpack.UnpackException):
            continue
        shape = isinstance(message, list) and len(message) in (3, 4)
        assert not (shape and message[:3] == [0, 1, "add"] and message[3:] == [[1, 2]]), name
