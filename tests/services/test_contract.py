"""What every client of a generated service may rely on, over both protocols and with both drivers."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2

import hvrpc
from hvrpc.services import RpcError
from hvrpc.testing import Link

from .echo import WAIT
from .gen.echo_pb2 import Failure, Note
from .wires import ASYNCIO, BLOCKING, C_CORE, GRPC, MSGPACK, Wire

DRIVERS = list(itertools.product((BLOCKING, ASYNCIO), repeat=2))
WIRES = [
    pytest.param((protocol, client, server), id=f"{client} to {server} over {protocol}")
    for protocol in (GRPC, MSGPACK)
    for client, server in DRIVERS
] + [
    # That any channel and server of gRPC will do; the drivers with one another are gRPC's business.
    pytest.param(
        (C_CORE, driver, driver),
        id=f"{driver} over {C_CORE}",
        marks=[
            pytest.mark.may_leave("grpcio keeps threads and descriptors for the whole process"),
            pytest.mark.skipif(
                not hasattr(socket, "AF_UNIX"),
                reason="meets on a UNIX socket, which Python has on POSIX only: run on Linux",
            ),
        ],
    )
    for driver in (BLOCKING, ASYNCIO)
]


OURS = [wire for wire in WIRES if C_CORE not in str(wire.id)]
"""Those whose clients make their channels themselves."""
ONLY_BLOCKING = [wire for wire in WIRES if ASYNCIO not in str(wire.id)]
ONLY_ASYNCIO = [wire for wire in WIRES if BLOCKING not in str(wire.id)]


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wire]:
    with ExitStack() as stack:
        protocol, client, server = request.param
        yield Wire(protocol, client, server, tmp_path, stack)


@pytest.fixture
def client(wire: Wire) -> Any:
    wire.serve()
    return wire.client()


FROM_ME: Any = {"from": "me"}
FULL = Note(
    text="häuser",
    count=-(2**63),
    data=b"\x00\xff",
    weight=0.1,
    urgent=True,
    colour="BLUE",
    comment="",
    at=datetime.datetime(2024, 2, 29, 12, 0, 0, 123456, datetime.UTC),
    lasting=datetime.timedelta(seconds=-1.5),
    parts=[Note(text="inner", parts=[Note()]), Note(room=7)],
    tally={"a": 1, "b": -1},
    person="somebody",
    large=2**64 - 1,
    **FROM_ME,
)


class TestOneToOne:
    @pytest.mark.parametrize("note", [FULL, Note()], ids=["everything set", "nothing set"])
    def test_messages_arrive_as_they_are(self, client: Any, note: Note) -> None:
        answer = client.say(note)
        assert answer == note
        assert answer.HasField("comment") == note.HasField("comment")
        assert answer.WhichOneof("to") == note.WhichOneof("to")

    def test_fields_can_be_keywords(self, client: Any) -> None:
        assert client.say(text="x", count=3, from_="me") == Note(text="x", count=3, **FROM_ME)
        assert client.say() == Note()
        assert client.Say(text="by the proto's name").text == "by the proto's name"

    def test_a_message_and_keywords_exclude_each_other(self, client: Any) -> None:
        with pytest.raises(TypeError, match=r"say\(\) takes either a message or fields"):
            client.say(Note(), text="x")
        with pytest.raises(TypeError, match="unexpected keyword argument 'txt'"):
            client.say(txt="x")

    def test_a_large_message(self, client: Any) -> None:
        data = bytes(range(256)) * 4096
        assert client.say(data=data).data == data


class TestStreams:
    @pytest.mark.parametrize("count", [0, 1, 300])
    def test_responses(self, client: Any, count: int) -> None:
        call = client.repeat(text="x", count=count)
        assert [note.count for note in call] == list(range(count))
        assert call.code() is grpc.StatusCode.OK

    @pytest.mark.parametrize("count", [0, 1, 300])
    def test_requests(self, client: Any, count: int) -> None:
        answer = client.join(Note(text=str(number)) for number in range(count))
        assert answer == Note(text=" ".join(map(str, range(count))), count=count)

    @pytest.mark.parametrize("count", [0, 1, 300])
    def test_both(self, client: Any, count: int) -> None:
        call = client.chat(Note(count=number) for number in range(count))
        assert [note.count for note in call] == list(range(count))
        assert call.code() is grpc.StatusCode.OK

    def test_an_answer_comes_before_the_next_request(self, client: Any) -> None:
        """Both directions stream at the same time: else this would hang."""
        answered = [threading.Event() for _ in range(5)]

        def requests() -> Iterator[Note]:
            for number, event in enumerate(answered):
                yield Note(count=number)
                assert event.wait(WAIT)

        for note in client.chat(requests()):
            answered[note.count].set()
        assert all(event.is_set() for event in answered)

    def test_lists_are_as_good_as_generators(self, client: Any) -> None:
        assert client.join([Note(text="a"), Note(text="b")]).text == "a b"
        assert [note.text for note in client.chat([Note(text="a"), Note(text="b")])] == ["a", "b"]

    def test_giving_up_is_told_to_the_server(self, wire: Wire) -> None:
        wire.serve()
        call = wire.client().linger(text="x")
        assert next(call).text == "x"
        assert wire.told.begun.wait(WAIT)
        assert call.cancel()
        assert wire.told.given_up.wait(WAIT)
        assert call.code() is grpc.StatusCode.CANCELLED
        assert not call.cancel()

    def test_a_chat_that_is_given_up_ends_its_requests(self, wire: Wire) -> None:
        wire.serve()
        client = wire.client()
        go_on = threading.Event()

        def requests() -> Iterator[Note]:
            yield Note(text="first")
            go_on.wait(WAIT)

        call = client.chat(requests())
        assert next(call).text == "first"
        call.cancel()
        go_on.set()
        assert client.say(text="still works").text == "still works"


class TestErrors:
    @pytest.mark.parametrize("code", ["NOT_FOUND", "PERMISSION_DENIED", "DATA_LOSS", "UNKNOWN"])
    def test_a_status_with_details(self, client: Any, code: str) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            client.fail(code=code, details="because of ü")
        error: Any = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode[code], "because of ü")

    def test_an_exception_is_an_unknown_error(self, client: Any) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            client.fail(Failure(details="no disk"))
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNKNOWN
        assert "no disk" in error.details()

    def test_messages_before_an_error_arrive(self, client: Any) -> None:
        call = client.fail_later(code="ABORTED", details="enough")
        assert [next(call).count, next(call).count] == [1, 2]
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        error: Any = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "enough")
        assert call.code() is grpc.StatusCode.ABORTED

    def test_a_service_that_is_not_there(self, wire: Wire) -> None:
        from .other import AsyncNothing, Nothing

        wire.serve(Nothing() if wire.server_driver == BLOCKING else AsyncNothing())
        client = wire.client()
        with pytest.raises(grpc.RpcError) as caught:
            client.say(text="x")
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            list(client.repeat(text="x"))
        error = caught.value
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_nobody_is_there(self, wire: Wire) -> None:
        wire.url = wire.fresh_url()
        client = wire.client(**({} if wire.protocol == C_CORE else {"retry": False}))
        with pytest.raises(grpc.RpcError) as caught:
            client.say(text="x", timeout=WAIT)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError) as caught:
            list(client.repeat(text="x", timeout=WAIT))
        error = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("wire", OURS, indirect=True)
    def test_an_error_says_whether_the_call_may_have_run(self, wire: Wire) -> None:
        absent = wire.fresh_url()
        wire.serve()
        client = wire.client()
        assert outcome(client.fail, code="ABORTED") is hvrpc.Outcome.ANSWERED
        assert outcome(client.fail_later, code="ABORTED", details="later") is hvrpc.Outcome.ANSWERED
        # Whose clock is first does not matter: a server may say so itself.
        assert outcome(client.wait, text="x", timeout=0.2) is hvrpc.Outcome.MAY_HAVE_RUN
        wire.url = absent
        absentee = wire.client(retry=False)
        assert outcome(absentee.say, timeout=WAIT) is hvrpc.Outcome.NOT_SENT
        assert outcome(absentee.repeat, timeout=WAIT) is hvrpc.Outcome.NOT_SENT

    @pytest.mark.parametrize("wire", [ONLY_BLOCKING[0], ONLY_ASYNCIO[0]], indirect=True)
    def test_who_waits_in_vain_is_told_for_what(self, wire: Wire) -> None:
        wire.url = wire.fresh_url()
        client = wire.client()
        for method in (client.say, client.repeat):
            with pytest.raises(grpc.RpcError) as caught:
                list(method(text="x", timeout=0.3, wait_for_ready=True))
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert error.outcome is hvrpc.Outcome.NOT_SENT
            assert "could be opened in time: connect to local://" in str(error.__cause__)

    @pytest.mark.parametrize("wire", OURS, indirect=True)
    def test_how_large_a_message_may_be_depends_on_the_protocol(self, wire: Wire) -> None:
        wire.serve()
        client = wire.client()
        text = "x" * 5 * 2**20
        if wire.protocol == MSGPACK:
            assert len(client.say(text=text).text) == len(text)
            return
        with pytest.raises(grpc.RpcError) as caught:
            client.say(text=text)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the server's option grpc.max_receive_message_length" in error.details()

    @pytest.mark.parametrize("wire", OURS, indirect=True)
    def test_what_is_no_message_is_not_sent(self, client: Any) -> None:
        with pytest.raises((TypeError, grpc.RpcError)) as caught:
            client.say("x")
        error = caught.value
        assert isinstance(error, TypeError) or isinstance(error.__cause__, TypeError)

    @pytest.mark.parametrize("wire", OURS, indirect=True)
    def test_a_keyword_that_is_unknown_is_told_by_the_name_that_was_called(
        self, client: Any
    ) -> None:
        told = r"^say\(\) got an unexpected keyword argument 'txt': did you mean 'text'\?$"
        with pytest.raises(TypeError, match=told) as caught:
            client.say(txt="x")
        assert caught.value.__suppress_context__
        with pytest.raises(TypeError, match=r"^repeat\(\) got .* 'zzz'; it takes text, count, "):
            list(client.repeat(text="x", zzz=1))
        with pytest.raises(
            TypeError, match=r"^fail\(\) got .* 'nothing'; it takes code, details, "
        ):
            client.fail(nothing=1)
        with pytest.raises(TypeError) as caught:
            client.say(count="one")  # a known one
        assert "unexpected keyword" not in str(caught.value)


def outcome(method: Any, **keywords: Any) -> hvrpc.Outcome:
    """What the error of a call that fails says of it."""
    with pytest.raises(RpcError) as caught:
        list(method(**keywords))
    assert isinstance(caught.value, grpc.RpcError)
    assert isinstance(caught.value.code(), grpc.StatusCode)
    assert isinstance(caught.value.details(), str)
    return caught.value.outcome


class TestOptions:
    def test_metadata(self, client: Any) -> None:
        metadata = [("b", "2"), ("a", "1"), ("a", "3"), ("c-bin", b"raw")]
        shown = client.describe(metadata=metadata).metadata
        assert list(shown) == ["a: 1", "a: 3", "b: 2", "c-bin: raw"]
        assert list(client.describe(empty_pb2.Empty()).metadata) == []

    def test_the_server_knows_who_calls(self, client: Any) -> None:
        assert client.describe().peer

    def test_the_server_knows_the_deadline(self, client: Any) -> None:
        assert not client.describe().HasField("left")
        assert 0 < client.describe(timeout=WAIT).left <= WAIT + 1  # the C core rounds up

    def test_a_call_that_takes_too_long(self, wire: Wire) -> None:
        wire.serve()
        client = wire.client()
        client.say()  # the time is for the call, and not for connecting
        with pytest.raises(grpc.RpcError) as caught:
            client.wait(text="x", timeout=0.2)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert wire.told.given_up.wait(WAIT)

    def test_a_stream_that_takes_too_long(self, wire: Wire) -> None:
        wire.serve()
        client = wire.client()
        client.say()
        call = client.linger(text="x", timeout=0.3)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert wire.told.given_up.wait(WAIT)


class TestConnections:
    def test_a_server_that_comes_back(self, wire: Wire) -> None:
        stop = wire.serve()
        client = wire.client()
        client.say(text="before")
        stop()
        wire.serve(at=wire.url)
        assert client.say(text="after", wait_for_ready=True, timeout=WAIT).text == "after"

    @pytest.mark.parametrize("wire", OURS, indirect=True)
    def test_what_the_proto_calls_idempotent_is_repeated(self, wire: Wire) -> None:
        """The answer is lost, and nobody knows whether the call has been carried out."""
        wire.serve()
        with Link(wire.url) as link:
            wire.url = str(link.address)
            client = wire.client()
            client.say(text="first")
            link.cut_after(1, "to_caller")
            assert client.say(text="again", timeout=WAIT).text == "again"
            assert wire.told.calls == 3
            link.cut_after(1, "to_caller")
            with pytest.raises(grpc.RpcError) as caught:
                client.describe(timeout=WAIT)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("wire", OURS, indirect=True)
    def test_who_has_to_be_there(self, wire: Wire) -> None:
        wire.serve()
        assert wire.client(expect_peer="loopback").say(text="x").text == "x"
        with pytest.raises(grpc.RpcError) as caught:
            wire.client(expect_peer="parent").say(text="x", timeout=WAIT)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED

    def test_many_threads_share_a_client(self, client: Any) -> None:
        wrong: list[object] = []

        def ask(number: int) -> None:
            for count in range(20):
                answer = client.say(text=str(number), count=count)
                if (answer.text, answer.count) != (str(number), count):
                    wrong.append(answer)

        threads = [threading.Thread(target=ask, args=[number]) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert not wrong

    def test_a_deprecated_method_warns(self, client: Any) -> None:
        with pytest.warns(DeprecationWarning, match=r"speak\(\) is deprecated in its .proto"):
            assert client.speak(text="x").text == "x"


@pytest.mark.parametrize("wire", ONLY_BLOCKING, indirect=True)
class TestBlocking:
    """What only blocking clients have. With asyncio the call itself is what these give."""

    def test_with_call(self, client: Any) -> None:
        answer, call = client.say.with_call(text="x")
        assert (answer.text, call.code()) == ("x", grpc.StatusCode.OK)
        answer, call = client.join.with_call([Note(text="a")], timeout=WAIT)
        assert (answer.text, call.details() or "") == ("a", "")

    def test_future(self, client: Any) -> None:
        future = client.say.future(text="x", timeout=WAIT)
        assert future.result(WAIT).text == "x"
        assert (future.done(), future.exception(), future.code()) == (
            True,
            None,
            grpc.StatusCode.OK,
        )
        called = threading.Event()
        future.add_done_callback(lambda done: called.set() if done is future else None)
        assert called.wait(WAIT)
        assert client.join.future(iter([Note(text="a")])).result(WAIT).text == "a"

    def test_a_future_that_fails(self, client: Any) -> None:
        future = client.fail.future(code="NOT_FOUND", details="x")
        error = future.exception(WAIT)
        assert isinstance(error, grpc.RpcError)
        assert future.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError):
            future.result(WAIT)

    def test_a_future_that_is_given_up(self, wire: Wire, client: Any) -> None:
        future = client.wait.future(text="x", timeout=WAIT)
        assert wire.told.begun.wait(WAIT)
        with pytest.raises(grpc.FutureTimeoutError):
            future.result(0.01)
        assert future.cancel()
        assert (future.cancelled(), future.done()) == (True, True)
        with pytest.raises(grpc.FutureCancelledError):
            future.result(WAIT)


@pytest.mark.parametrize("wire", ONLY_ASYNCIO, indirect=True)
class TestAsyncio:
    """What only asyncio clients have."""

    @pytest.fixture
    def served(self, wire: Wire) -> Wire:
        wire.serve()
        return wire

    def test_messages_can_be_written_one_by_one(self, served: Wire) -> None:
        client = served.client().client

        async def talk() -> tuple[list[int], Note]:
            call = client.chat()
            answers = aiter(call)
            seen = []
            for number in range(40):
                await call.write(Note(count=number))
                seen.append((await anext(answers)).count)
            await call.done_writing()
            assert [each async for each in answers] == []
            joined = client.join()
            await joined.write(Note(text="a"))
            await joined.write(Note(text="b"))
            await joined.done_writing()
            return seen, await joined

        seen, joined = served.loop.run(talk())
        assert (seen, joined.text) == (list(range(40)), "a b")

    def test_what_gives_no_messages_is_a_type_error(self, served: Wire) -> None:
        client = served.client().client

        async def mistake() -> None:
            # Left to the call, it would be a cancellation, which nobody asked for.
            for method in (client.join, client.chat):
                with pytest.raises(TypeError, match="takes an iterable of Note"):
                    method(Note())

        served.loop.run(mistake())

    def test_cancelling_the_task_cancels_the_call(self, served: Wire) -> None:
        client = served.client().client

        async def give_up() -> bool:
            async def ask() -> None:
                await client.wait(text="x")

            asking = asyncio.ensure_future(ask())
            await asyncio.to_thread(served.told.begun.wait, WAIT)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            return await asyncio.to_thread(served.told.given_up.wait, WAIT)

        assert served.loop.run(give_up())

    def test_a_call_tells_of_itself(self, served: Wire) -> None:
        client = served.client().client

        async def ask() -> tuple[Any, ...]:
            call = client.say(text="x")
            ended = asyncio.Event()
            call.add_done_callback(lambda _: ended.set())
            await call
            await ended.wait()
            return await call.code(), call.done(), call.cancelled(), call.cancel()

        assert served.loop.run(ask()) == (grpc.StatusCode.OK, True, False, False)
