"""The protocol by itself: bytes in, answers and finished calls out. No socket, no thread, no clock."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvrpc import CallError, ConnectionLost, Outcome, ProtocolError, RemoteError
from hvrpc.errors import HvrpcError
from hvrpc.msgpack import Context, Extensions, Limits, Service
from hvrpc.msgpack.core import MAX_ID, MOST_KEPT, MsgpackCore, Request
from hvrpc.msgpack.streams import ItemCall
from hvrpc.msgpack.wire import KEPT_MESSAGE
from hvrpc.session.core import JOIN, MANY_ANSWERS, Call

from .raw import pack

HELLO = [0, 1, "$/hello", [{"hvrpc": 1}]]


class Tools:
    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.contexts: list[Context] = []

    def add(self, a: int, b: int) -> int:
        return a + b

    def note(self, value: Any) -> None:
        self.notes.append(value)

    def fail(self) -> None:
        raise ValueError("boom")

    def remember(self, context: Context) -> None:
        self.contexts.append(context)

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def later(self) -> str:
        await asyncio.sleep(0)
        return "late"


class Lane:
    """Where handlers run."""

    def __init__(self) -> None:
        self.reader: object = "me"
        self.handled = self.serving = 0


def make(
    offered: Any = None, *, ours: bool = False, limits: Limits | None = None, **more: Any
) -> MsgpackCore:
    service = Service.of(offered)
    core = MsgpackCore(
        service,
        says_hello=False,
        limits=limits or Limits(),
        descriptions=service.describe,
        **more,
    )
    if ours:
        receive(core, HELLO)
        sent(core)
    return core


def receive(core: MsgpackCore, *messages: Any) -> None:
    """Have messages arrive, in one piece, and run what they ask for."""
    data = b"".join(each if isinstance(each, bytes) else pack(each) for each in messages)
    lane = Lane()
    work = core.take(data or None)
    while work is not None:
        rest = core.serve_simple(deque([work]), lane, lane.reader)
        if rest is not None:
            core.serve(rest)
        work = core.take()


def sent(core: MsgpackCore) -> list[Any]:
    """What was queued since the last look."""
    unpacker = msgpack.Unpacker(strict_map_key=False, timestamp=3)
    while core.outgoing:
        item = core.outgoing.popleft()
        for part in item if isinstance(item, tuple) else (item,):
            unpacker.feed(part)
    return list(unpacker)


def asked(core: MsgpackCore, method: str = "m", *params: Any) -> Call:
    call = Call()
    core.request(method, params, call)
    return call


class TestRequestsOfThePeer:
    def test_a_request_is_answered(self) -> None:
        core = make(Tools())
        receive(core, [0, 7, "add", [1, 2]])
        assert sent(core) == [[1, 7, None, 3]]
        assert not core.active

    def test_many_in_one_piece_are_answered_in_order(self) -> None:
        core = make(Tools())
        receive(core, *([0, n, "add", [n, n]] for n in range(500)))
        assert sent(core) == [[1, n, None, 2 * n] for n in range(500)]

    @pytest.mark.parametrize("number", [0, 1, 127, 128, 2**32 - 1])
    def test_any_id(self, number: int) -> None:
        core = make(Tools())
        receive(core, [0, number, "add", [1, 2]])
        receive(core, [0, number, "nope", []])
        assert [each[1] for each in sent(core)] == [number, number]

    def test_a_name_as_bin(self) -> None:
        core = make(tools := Tools())
        receive(core, [0, 1, b"add", [1, 2]], [2, b"note", ["x"]])
        assert sent(core) == [[1, 1, None, 3]]
        assert tools.notes == ["x"]

    @pytest.mark.parametrize(
        "data",
        [
            "dc0004 00 01 a3616464 92 01 02",
            "dd00000004 cc00 cd0001 d903616464 dc0002 d001 d10002",
            "94 d300000000000000 00 cf0000000000000001 db00000003616464 dd00000002 01 02",
        ],
    )
    def test_any_encoding(self, data: str) -> None:
        core = make(Tools())
        receive(core, bytes.fromhex(data))
        assert sent(core) == [[1, 1, None, 3]]

    def test_notifications_are_never_answered(self) -> None:
        core = make(tools := Tools())
        receive(core, [2, "note", [1]], [2, "fail", []], [2, "nope", []], [2, "note", []])
        receive(core, [2, "later-than-all", []], [2, "$/unknown", [1, 2]])
        assert sent(core) == []
        assert tools.notes == [1]

    def test_an_id_may_be_used_again_once_answered(self) -> None:
        core = make(Tools())
        receive(core, [0, 1, "add", [1, 2]])
        receive(core, [0, 1, "add", [3, 4]])
        assert [each[3] for each in sent(core)] == [3, 7]

    def test_an_id_in_use_breaks_the_protocol(self) -> None:
        core = make(Tools())
        assert core.take(pack([0, 1, "add", [1, 2]])) is not None
        with pytest.raises(ProtocolError, match="two requests have the id 1"):
            core.take(pack([0, 1, "add", [1, 2]]))

    def test_no_more_than_allowed_are_taken_until_one_has_ended(self) -> None:
        core = make(Tools(), limits=Limits(in_flight=2))
        data = b"".join(pack([0, n, "add", [n, 1]]) for n in range(4))
        first, second = core.take(data), core.take()
        assert core.take() is None
        assert core.throttled
        assert core.has_more
        assert first is not None
        assert second is not None
        core.serve(first)
        third = core.take()
        assert third is not None
        assert third[1] == 2

    def test_each_in_a_piece_of_its_own_changes_nothing(self) -> None:
        core = make(Tools(), limits=Limits(in_flight=2))
        works = [core.take(pack([0, n, "add", [n, 1]])) for n in range(4)]
        assert [work is not None for work in works] == [True, True, False, False]
        assert core.throttled
        for work in works[:2]:
            assert work is not None
            core.serve(work)
        receive(core)
        assert [each[1:] for each in sent(core)] == [[n, None, n + 1] for n in range(4)]

    def test_answers_are_taken_although_no_more_requests_are(self) -> None:
        core = make(Tools(), limits=Limits(in_flight=1))
        assert core.take(pack([0, 1, "add", [1, 2]])) is not None
        call = asked(core)
        receive(core, [1, call.key, None, "answer"])
        assert call.value == "answer"
        assert core.take(pack([0, 2, "add", [1, 2]])) is None
        assert core.throttled

    def test_calls_with_options_in_one_piece_wait_too(self) -> None:
        core = make(Tools(), ours=True, limits=Limits(in_flight=3))
        calls = (pack([0, n, "$/call", ["add", [n, 0], {}, {}]]) for n in range(3, 20))
        work: deque[Any] = deque()
        core.digest(b"".join(calls), work)
        assert core.throttled
        assert len(work) == 3
        while work:
            core.serve(work.popleft())
            core.digest(None, work)
        assert sent(core) == [[1, n, None, n] for n in range(3, 20)]

    def test_what_comes_behind_a_large_value_that_has_to_wait_is_not_forgotten(self) -> None:
        core = make(Tools(), limits=Limits(in_flight=1))
        work: deque[Any] = deque()
        core.digest(pack([0, 1, "later", []]), work)
        given_up = asked(core)
        large = pack([0, 2, "note", [bytes(100_000)]])
        core.digest(large[:10_000], work)  # an answer may follow it
        core.forget(given_up)
        assert core.target is not None
        rest = large[10_000:]
        core.target[: len(rest)] = rest
        core.filled(len(rest))
        core.digest(None, work)
        assert core.throttled
        call = asked(core)
        core.digest(pack([1, call.key, None, "answer"], [0, 3, "add", [1, 2]]), work)
        assert call.value == "answer"
        assert [each[1] for each in work] == [1, 2]
        core.serve(work.pop())
        assert not core.active.get(2)

    def test_a_look_ahead_finds_what_cancels_a_call_that_runs(self) -> None:
        core = make(tools := Tools(), limits=Limits(in_flight=2))
        work: deque[Any] = deque()
        core.digest(pack(*([0, n, "add", [n, 1]] for n in range(4))), work)
        assert [each[1] for each in work] == [0, 1]
        core.look_ahead(None, work)
        core.look_ahead(pack([2, "note", ["kept"]], [2, "$/cancelRequest", [1]]), work)
        core.look_ahead(pack([2, "$/cancelRequest", [3]], [0, 4, "add", [4, 1]]), work)
        assert len(work) == 2, "nothing more is begun"
        core.digest(None, work)
        assert (core.throttled, core.has_more, len(work)) == (True, True, 2)
        while work:
            core.serve(work.popleft())
            core.digest(None, work)
        answers = {each[1]: each[2] for each in sent(core)}
        assert sorted(answers) == [0, 1, 2, 3, 4]
        assert [number for number, error in answers.items() if error is not None] == [1, 3]
        assert tools.notes == ["kept"]
        assert not core.busy
        assert not core.has_more

    def test_what_a_look_ahead_keeps_begins_in_order(self) -> None:
        """Also when there is room again meanwhile."""
        core = make(tools := Tools(), limits=Limits(in_flight=1))
        work: deque[Any] = deque()
        core.digest(pack([0, 1, "add", [1, 1]], [0, 2, "add", [1, 1]]), work)
        core.look_ahead(None, work)
        core.serve(work.popleft())
        core.look_ahead(pack([2, "note", [3]], [0, 4, "add", [1, 1]]), work)
        core.digest(pack([2, "note", [5]]), work)
        order = []
        while work:
            order.append(work[0][2][0] if work[0][1] is None else work[0][1])
            core.serve(work.popleft())
            core.digest(None, work)
        assert order == [2, 3, 4, 5]
        assert tools.notes == [3, 5]

    @pytest.mark.parametrize("size", [10, 5000])
    def test_a_look_ahead_ends(self, size: int) -> None:
        core = make(Tools(), limits=Limits(in_flight=1))
        work: deque[Any] = deque()
        core.digest(pack([0, 0, "add", [1, 1]]), work)
        number = 0
        while core.may_look_ahead:
            number += 1
            core.look_ahead(pack([0, number, "note", ["x" * size]]), work)
            assert number * size < 2 * 1024 * 1024
        assert len(core._kept) == number <= MOST_KEPT
        assert len(work) == 1
        core.serve(work.popleft())
        core.digest(None, work)
        assert work.popleft()[1] == 1
        assert not work

    def test_who_leaves_refuses_what_it_has_kept(self) -> None:
        core = make(Tools(), ours=True, limits=Limits(in_flight=1))
        work: deque[Any] = deque()
        core.digest(pack([0, 1, "add", [1, 1]], [0, 2, "add", [1, 1]]), work)
        core.look_ahead(None, work)
        core.goodbye()
        core.look_ahead(pack([0, 3, "add", [1, 1]]), work)
        refused = [each for each in sent(core) if each[0] == 1]
        assert [(each[1], each[2]["code"]) for each in refused] == [(2, -32801), (3, -32801)]
        core.serve(work.popleft())
        assert not core.busy

    def test_beyond_twice_the_limit_requests_are_refused(self) -> None:
        core = make(Tools(), ours=True, limits=Limits(in_flight=2))
        asked(core)
        sent(core)
        works = [core.take(pack([0, n, "add", [n, 1]])) for n in range(6)]
        assert [work is not None for work in works] == [True] * 4 + [False] * 2
        assert [each[2]["code"] for each in sent(core)] == [-32802, -32802]
        work = works[0]
        assert work is not None
        core.serve(work)
        assert core.take(pack([0, 9, "add", [1, 1]])) is not None

    @pytest.mark.parametrize(
        "message",
        [
            [],
            [0],
            [0, 1, "add"],
            [0, 1, "add", [1, 2], 5],
            [1, 1, None],
            [2, "add"],
            [2, "add", [1], 5],
            [3, 1, "add", []],
            [-1, 1, "add", []],
            ["0", 1, "add", []],
            [None, 1, "add", []],
            [[0], 1, "add", []],
            [0, "1", "add", []],
            [0, None, "add", []],
            [0, 1.5, "add", []],
            [0, [1], "add", []],
            [0, True, "add", [1, 2]],
            [0, 1, 5, []],
            [0, 1, None, []],
            [0, 1, ["add"], []],
            [0, 1, {"a": 1}, []],
            [0, 1, "x" * 257, []],
            [0, 1, b"x" * 257, []],
            [0, 1, "add", None],
            [0, 1, "add", {"a": 1}],
            [0, 1, "add", "ab"],
            [0, 1, "nope", 5],
            [1, "1", None, 5],
            [1, None, None, 5],
            [1, [1], None, 5],
            [2, 5, []],
            [2, ["add"], []],
            [2, "add", {}],
            [2, "add", 5],
            [2, "x" * 257, []],
            0,
            None,
            True,
            1.5,
            "text",
            "four",
            b"\x00\x01\x02\x03",
            b"\x01\x05\x06\x07",
            {},
            {0: 1, 1: 2, 2: 3, 3: 4},
            {1: 1, 5: 2, 2: 3, 3: 4},
            {2: 1, "note": 2, 3: 3},
            msgpack.ExtType(5, b"abcd"),
            msgpack.Timestamp(5),
        ],
        ids=lambda message: repr(message)[:40],
    )
    def test_what_is_no_message_breaks_the_protocol(self, message: Any) -> None:
        core = make(tools := Tools())
        call = asked(core)
        while call.key != 5:
            call = asked(core)
        sent(core)
        with pytest.raises(ProtocolError) as caught:
            receive(core, message)
        assert len(str(caught.value)) < 1000
        assert sent(core) == []
        assert tools.notes == []
        assert not call.done

    @pytest.mark.parametrize(
        ("data", "known"),
        [(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"), (b"\x16\x03\x01\x02\x00\x01", "TLS")],
    )
    def test_other_protocols_are_named(self, data: bytes, known: str) -> None:
        with pytest.raises(ProtocolError, match=known):
            receive(make(), data)

    def test_a_huge_wrong_message_makes_no_huge_error(self) -> None:
        core = make()
        with pytest.raises(ProtocolError) as caught:
            receive(core, b"x" * 1_000_000 and pack(b"x" * 10_000_000))
        assert len(str(caught.value)) < 1000

    def test_what_came_before_nonsense_is_answered(self) -> None:
        core = make(Tools())
        with pytest.raises(ProtocolError):
            receive(core, [0, 1, "add", [1, 2]], b"\xc1")
        assert sent(core) == [[1, 1, None, 3]]

    @settings(max_examples=150, deadline=None)
    @given(
        st.binary(max_size=80)
        | st.lists(st.integers(0, 5) | st.text(max_size=3), max_size=5).map(pack)
    )
    def test_any_bytes_are_digested_or_refused(self, data: bytes) -> None:
        core = make(Tools())
        try:
            receive(core, data)
        except ProtocolError:
            pass
        for answer in sent(core):
            assert answer[0] == 1


class TestAnswersToStrangersAndToOurs:
    def test_strangers_get_text(self) -> None:
        core = make(Tools())
        receive(core, [0, 1, "nope", []], [0, 2, "fail", []], [0, 3, "add", ["x", 1]])
        errors = [each[2] for each in sent(core)]
        assert errors[0] == "there is no method 'nope'"
        assert errors[1] == "ValueError: boom"
        assert errors[2].startswith("params[0]: expected int")

    def test_ours_get_all_there_is(self) -> None:
        def refuse() -> None:
            raise RemoteError("no", code=5, data=[1])

        core = make([refuse, Tools().fail], ours=True, tracebacks=True)
        receive(core, [0, 2, "refuse", []], [0, 3, "fail", []])
        first, second = sent(core)
        assert {**first[2], "traceback": ""} == {
            "code": 5,
            "message": "no",
            "data": [1],
            "traceback": "",
        }
        assert "ValueError: boom" in second[2]["traceback"]

    def test_hello_is_answered_with_facts(self) -> None:
        core = make()
        assert not core.is_ours
        receive(core, HELLO)
        ((kind, number, error, facts),) = sent(core)
        assert (kind, number, error) == (1, 1, None)
        assert facts["hvrpc"] == 1
        assert facts["message"] == core.limits.message
        assert core.is_ours

    @pytest.mark.parametrize(
        "params", [[], [None], [{}], [{"hvrpc": "1"}], [5, 6], [{"hvrpc": None}]]
    )
    def test_a_hello_of_another_kind_makes_nobody_ours(self, params: list[Any]) -> None:
        core = make()
        receive(core, [0, 1, "$/hello", params])
        assert sent(core)[0][2] is None
        assert not core.is_ours

    @pytest.mark.parametrize("limit", [0, -5, 1, "x", None, 2**63])
    def test_a_peer_cannot_forbid_us_to_answer(self, limit: Any) -> None:
        core = make(Tools())
        receive(core, [0, 1, "$/hello", [{"hvrpc": 1, "message": limit}]])
        receive(core, [0, 2, "add", [1, 2]], [0, 3, "$/methods", []], [0, 4, "nope" * 60, []])
        answers = sent(core)
        assert sorted(each[1] for each in answers) == [1, 2, 3, 4]
        assert {each[1]: each[3] for each in answers}[2] == 3

    def test_pings_are_answered_whatever_runs(self) -> None:
        core = make(Tools(), ours=True)
        core.take(pack([0, 5, "add", [1, 2]]))
        receive(core, [0, 6, "$/ping", []])
        assert sent(core) == [[1, 6, None, None]]

    def test_methods_are_told(self) -> None:
        core = make(Tools(), ours=True)
        receive(core, [0, 6, "$/methods", []])
        ((_, _, error, found),) = sent(core)
        assert error is None
        assert "add" in [each["name"] for each in found]

    def test_calls_with_names_and_options(self) -> None:
        core = make(Tools(), ours=True)
        receive(core, [0, 6, "$/call", ["add", [1], {"b": 5}, {"unknown": 1}]])
        assert sent(core) == [[1, 6, None, 6]]

    @pytest.mark.parametrize(
        "params",
        [
            [],
            ["add"],
            ["add", [], {}],
            [5, [], {}, {}],
            ["add", {}, {}, {}],
            ["x" * 300, [], {}, {}],
            ["count", [1], {}, {"stream": 0}],
            ["count", [1], {}, {"stream": -1}],
            ["count", [1], {}, {"stream": "x"}],
            ["count", [1], {}, {"stream": 2**40}],
            ["count", [1], {}, {"stream": True}],
            ["add", [1], {5: 5}, {}],
        ],
        ids=repr,
    )
    def test_calls_that_are_put_wrongly(self, params: list[Any]) -> None:
        core = make(Tools(), ours=True)
        receive(core, [0, 6, "$/call", params])
        ((_, number, error, _),) = sent(core)
        assert number == 6
        assert error["code"] == -32602
        assert not core.active

    @pytest.mark.parametrize("timeout", ["x", None, [], {}, True, float("nan"), -5, 2**60])
    def test_an_odd_deadline_harms_nobody(self, timeout: Any) -> None:
        core = make(Tools(), ours=True)
        receive(core, [0, 6, "$/call", ["add", [1, 2], {}, {"timeout": timeout}]])
        receive(core, [0, 7, "$/call", ["remember", [], {}, {"timeout": timeout}]])
        assert [each[2] for each in sent(core)] == [None, None]

    @pytest.mark.parametrize(
        "message",
        [
            [2, "$/item", []],
            [2, "$/item", ["x", 1]],
            [2, "$/item", [1, 2, 3]],
            [2, "$/more", []],
            [2, "$/more", [1, 0]],
            [2, "$/more", [1, -1]],
            [2, "$/more", [1, 2**40]],
            [2, "$/more", ["x", 1]],
        ],
        ids=repr,
    )
    def test_wrong_notifications_of_our_own_break_the_protocol(self, message: Any) -> None:
        with pytest.raises(ProtocolError):
            receive(make(ours=True), message)

    @pytest.mark.parametrize("params", [[], ["x"], [None], [99], [1, 2], [[1]]])
    def test_a_cancel_for_nothing_is_nothing(self, params: list[Any]) -> None:
        core = make(Tools(), ours=True)
        receive(core, [2, "$/cancelRequest", params], [2, "$/goodbye", params])
        assert sent(core) == []


class TestOurCalls:
    def test_ids_begin_at_1(self) -> None:
        core = make()
        assert [asked(core).key for _ in range(3)] == [1, 2, 3]

    def test_answers_in_any_order(self) -> None:
        core = make()
        calls = [asked(core) for _ in range(4)]
        for call in reversed(calls):
            receive(core, [1, call.key, None, call.key * 10])
        assert [call.value for call in calls] == [10, 20, 30, 40]
        assert not core.waiting

    def test_ids_wrap_and_skip_those_in_flight(self) -> None:
        core = make()
        first, second = asked(core), asked(core)
        core._ids = itertools.count(MAX_ID)
        assert asked(core).key == MAX_ID
        assert asked(core).key == 3
        receive(core, [1, second.key, None, None])
        core._ids = itertools.count(3 * MAX_ID + 1)
        assert first.key == 1
        assert asked(core).key == 2

    @pytest.mark.parametrize("error", [0, "", [], False, {}, b""], ids=repr)
    def test_falsy_errors_are_errors(self, error: Any) -> None:
        core = make()
        call = asked(core)
        receive(core, [1, call.key, error, "value"])
        assert call.done
        assert call.error is not None
        assert call.error == error

    def test_late_answers_are_counted_and_match_nobody(self) -> None:
        core = make()
        gone, waiting = asked(core), asked(core)
        core.forget(gone)
        receive(core, [1, gone.key, None, "late"], [1, 99, None, "never asked"])
        assert core.late == 2
        assert not waiting.done
        receive(core, [1, waiting.key, None, "right"], [1, waiting.key, None, "again"])
        assert waiting.value == "right"
        assert core.late == 3

    def test_forgetting_tells_ours_and_nobody_else(self) -> None:
        for ours in (True, False):
            core = make(ours=ours)
            call = asked(core)
            sent(core)
            core.forget(call)
            core.forget(call)
            assert sent(core) == ([[2, "$/cancelRequest", [call.key]]] if ours else [])

    def test_forgetting_late_takes_nobody_elses_id(self) -> None:
        core = make()
        old = asked(core)
        receive(core, [1, old.key, None, 1])
        core._ids = itertools.count(1)
        young = asked(core)
        assert young.key == old.key
        core.forget(old)
        assert core.pending[1] is young

    def test_what_is_withdrawn_is_never_sent(self) -> None:
        core = make(ours=True)
        first, second, third = (asked(core, "m", n) for n in range(3))
        assert core.withdraw(second)
        assert not core.withdraw(second)
        assert [each[3] for each in sent(core)] == [[0], [2]]
        assert not core.withdraw(first)
        assert set(core.pending) == {first.key, third.key}

    def test_a_call_that_cannot_be_packed_leaves_nothing_behind(self) -> None:
        core = make()
        with pytest.raises(ValueError, match=r"params\[0\]"):
            asked(core, "m", object())
        assert not core.pending
        assert sent(core) == []

    def test_wake_is_called_once_the_answer_is_in_place(self) -> None:
        core = make()
        call = asked(core)
        seen: list[Any] = []
        call.wake = lambda: seen.append((call.done, call.value))
        receive(core, [1, call.key, None, 5])
        assert seen == [(True, 5)]

    def test_keywords_travel_in_a_call_of_our_own(self) -> None:
        core = make(ours=True)
        core.request("m", (1,), Call(), {"a": 2}, {"timeout": 5})
        assert sent(core) == [[0, 1, "$/call", ["m", [1], {"a": 2}, {"timeout": 5}]]]

    def test_pings_go_to_ours_only(self) -> None:
        assert make().ping() is False
        core = make(ours=True)
        assert core.ping() is True
        assert sent(core) == [[0, 1, "$/ping", []]]


class TestManyInOnePiece:
    """Requests that are joined, and what is simple of a peer's, run in one go."""

    def test_small_ones_are_joined(self) -> None:
        core = make()
        requests = [Request("m", (n,)) for n in range(64)]
        core.request_all(requests)
        assert len(core.outgoing) == 1
        assert sent(core) == [[0, n + 1, "m", [n]] for n in range(64)]
        receive(core, *([1, n + 1, None, n] for n in range(64)))
        assert [(each.done, each.value) for each in requests] == [(True, n) for n in range(64)]

    def test_large_ones_go_by_themselves_and_in_their_place(self) -> None:
        core = make()
        values = [
            1,
            bytes(100_000),
            "x" * (JOIN + 1),
            2,
            "y" * 2_000_000,
            "z" * 40_000,
            "z" * 40_000,
        ]
        core.request_all([Request("m", (value,)) for value in values])
        found = sent(core)
        assert [each[3] for each in found] == [[value] for value in values]
        assert sorted(core.pending) == [each[1] for each in found]

    @pytest.mark.parametrize("grows", [1, 40], ids=["short", "longer and longer"])
    def test_any_number_keeps_its_order(self, grows: int) -> None:
        core = make()
        values = ["x" * (n * grows) for n in range(700)]
        requests = [Request("m", (value,)) for value in values]
        core.request_all(requests)
        assert all(each.item in core.outgoing for each in requests)
        assert max(map(len, core.outgoing)) <= JOIN
        found = sent(core)
        assert [each[3] for each in found] == [[value] for value in values]
        assert list(core.pending) == [each.key for each in requests] == [each[1] for each in found]

    def test_if_one_cannot_be_sent_none_is(self) -> None:
        core = make(ours=True, limits=Limits())
        receive(core, [0, 2, "$/hello", [{"hvrpc": 1, "message": 5000}]])
        sent(core)
        for bad in (object(), "x" * 6000, bytes(100_000)):
            with pytest.raises(ValueError, match=r"params|takes"):
                core.request_all([Request("m", (1,)), Request("m", (bad,)), Request("m", (2,))])
            assert not core.pending
            assert sent(core) == []
        with pytest.raises(TypeError):
            core.request_all([Request("m", (1,)), Request(7, ())])  # type: ignore[arg-type]
        assert not core.pending

    def test_none_is_nothing(self) -> None:
        core = make()
        core.request_all([])
        assert not core.outgoing

    def test_one_of_them_can_be_withdrawn(self) -> None:
        core = make()
        first, second, third = requests = [Request("m", (n,)) for n in range(3)]
        core.request_all(requests)
        assert core.withdraw(second)
        assert not core.withdraw(second)
        assert core.withdraw(first)
        assert [each[3] for each in sent(core)] == [[2]]
        assert not core.withdraw(third)

    def test_whatever_they_say_and_whoever_was_given_up_before(self) -> None:
        core = make(ours=True)
        odd = {("a", "key"): msgpack.Timestamp(2**60), "name": ["\udcff", msgpack.ExtType(5, b"x")]}
        first, second, third = requests = [Request("m", (odd, n)) for n in range(3)]
        core.request_all(requests)
        core.forget(first)
        assert core.withdraw(second)
        said, rest = core.outgoing
        assert pack([2, "$/cancelRequest", [first.key]]) == said
        assert rest == third.item
        assert msgpack.Packer(unicode_errors="surrogateescape").pack((0, 3, "m", (odd, 2))) == rest

    def test_none_is_sent_when_the_connection_ends_while_they_are_packed(self) -> None:
        core = make()

        class Ending(dict[str, int]):
            def items(self) -> Any:
                core.fail(ConnectionLost("gone"))
                return super().items()

        requests = [Request("m", (n,)) for n in range(100)]
        requests[80].params = (Ending(x=1),)
        core.request_all(requests)
        outcomes = [getattr(each.failure, "outcome", None) for each in requests]
        assert outcomes == [Outcome.NOT_SENT] * 100

    def test_what_a_parent_process_has_queued_is_not_for_its_child_to_repeat(self) -> None:
        core = make()
        requests = [Request("m", (n,)) for n in range(3)]
        core.request_all(requests)
        core.stay_behind()
        outcomes = [getattr(each.failure, "outcome", None) for each in requests]
        assert outcomes == [Outcome.MAY_HAVE_RUN] * 3

    def test_those_that_were_not_sent_know_it(self) -> None:
        core = make()
        early, late = [[Request("m", (n,)) for n in range(3)] for _ in range(2)]
        core.request_all(early)
        sent(core)
        core.request_all(late)
        core.withdraw(late[1])
        core.fail(ConnectionLost("gone"))
        outcomes = [getattr(each.failure, "outcome", None) for each in (*early, late[0], late[2])]
        assert outcomes == [Outcome.MAY_HAVE_RUN] * 3 + [Outcome.NOT_SENT] * 2

    def test_after_the_end_all_of_them_fail(self) -> None:
        core = make()
        core.fail(ConnectionLost("gone"))
        requests = [Request("m", (n,)) for n in range(3)]
        core.request_all(requests)
        assert [each.failure is not None for each in requests] == [True] * 3

    def test_what_is_simple_runs_until_something_is_not(self) -> None:
        core = make(Tools())
        work: deque[Any] = deque()
        core.digest(
            b"".join(pack([0, n, "count" if n == 3 else "add", [1, n]]) for n in range(5)), work
        )
        lane = Lane()
        rest = core.serve_simple(work, lane, lane.reader)
        assert rest is not None
        assert rest[1] == 3
        assert [each[1] for each in sent(core)] == [0, 1, 2]
        assert lane.handled == lane.serving == 3
        assert [each[1] for each in work] == [4]

    def test_who_takes_over_finds_the_rest(self) -> None:
        class Slow(Tools):
            def add(self, a: int, b: int) -> int:
                if b == 1:
                    lane.reader = "somebody else"
                return a + b

        core = make(Slow())
        work: deque[Any] = deque()
        core.digest(b"".join(pack([0, n, "add", [1, n]]) for n in range(3)), work)
        lane = Lane()
        assert core.serve_simple(work, lane, lane.reader) is None
        assert [each[1] for each in sent(core)] == [0, 1]
        assert [each[1] for each in work] == [2]
        assert list(core.active) == [2]

    def test_many_answers_and_large_ones_are_sent_first(self) -> None:
        class Echo:
            def echo(self, value: Any) -> Any:
                return value

        lane = Lane()
        work: deque[Any] = deque()
        core = make(Echo())
        core.digest(b"".join(pack([0, n, "echo", [n]]) for n in range(MANY_ANSWERS + 1)), work)
        core.serve_simple(work, lane, lane.reader)
        assert len(work) == 1
        for large in ("x" * JOIN, bytes(JOIN), "x" * 2_000_000):
            core = make(Echo())
            work.clear()
            core.digest(b"".join(pack([0, n, "echo", [large]]) for n in range(2)), work)
            core.serve_simple(work, lane, lane.reader)
            assert len(work) == 1
            assert sent(core) == [[1, 0, None, large]]

    def test_an_answer_that_cannot_be_sent_is_an_error_and_the_next_is_right(self) -> None:
        class Odd:
            def odd(self, size: int) -> Any:
                return "x" * size if size else object()

        core = make(Odd(), ours=True)
        receive(core, [0, 2, "$/hello", [{"hvrpc": 1, "message": 5000}]])
        sent(core)
        receive(core, [0, 3, "odd", [6000]], [0, 4, "odd", [0]], [0, 5, "odd", [1]])
        too_long, unknown, right = sent(core)
        assert "6" in too_long[2]["message"]
        assert "object" in unknown[2]["message"]
        assert right == [1, 5, None, "x"]
        assert not core.active

    def test_what_is_long_is_packed_once(self) -> None:
        class Counted(dict[str, str]):
            looks = 0

            def items(self) -> Any:
                self.looks += 1
                return super().items()

        value = Counted(a="x" * 2_000_000)
        core = make({"get": lambda: value})
        asked(core, "m", value)
        assert value.looks == 1
        receive(core, [0, 1, "get", []])
        assert value.looks == 2
        assert [each[3] for each in sent(core)] == [[value], value]

    @pytest.mark.parametrize("by_name", [False, True])
    def test_a_value_may_raise_anything_while_it_is_packed(self, by_name: bool) -> None:
        class Changing(dict[str, int]):
            def items(self) -> Any:
                raise RuntimeError("dictionary changed size during iteration")

        class Odd:
            def changing(self) -> Any:
                return Changing(a=1)

            def released(self) -> memoryview:
                with memoryview(b"abc") as view:
                    return view

            def with_gaps(self) -> memoryview:
                return memoryview(b"abcdef")[::2]

        core = make(Odd(), ours=True)
        names = ("changing", "released", "with_gaps")
        receive(
            core,
            *(
                [0, number, "$/call", [name, [], {}, {}]] if by_name else [0, number, name, []]
                for number, name in enumerate(names, 3)
            ),
        )
        errors = [each[2]["message"] for each in sent(core)]
        assert [error.split(":")[0] for error in errors] == ["the result cannot be sent"] * 3
        assert not core.active
        with pytest.raises(RuntimeError, match="changed size"):
            asked(core, "m", Changing(a=1))
        assert not core.pending

    @pytest.mark.parametrize("shape", [{1: 0, 7: 0, None: 0, 4: 0}, "abcd", b"\x01\x07ab"])
    def test_what_merely_has_four_parts_is_no_message(self, shape: Any) -> None:
        core = make()
        call = asked(core)
        with pytest.raises(ProtocolError, match="not a message"):
            receive(core, shape)
        assert not call.done


class TestOneByItself:
    """The short way for one small message in one piece."""

    def test_a_request(self) -> None:
        core = make(Tools())
        work: deque[Any] = deque()
        assert core.only_one(pack([0, 1, "add", [1, 2]]), work)
        assert [each[1] for each in work] == [1]
        assert list(core.active) == [1]

    def test_an_answer(self) -> None:
        core = make()
        call = asked(core)
        seen: list[Any] = []
        call.wake = lambda: seen.append((call.done, call.value))
        assert core.only_one(pack([1, call.key, None, 5]), deque())
        assert seen == [(True, 5)]
        assert not core.pending

    @pytest.mark.parametrize(
        "message",
        [
            [1, 1, "an error", None],
            [1, 2, None, "for nobody"],
            [1, [], None, 1],
            [0, 1, "nope", []],
            [0, [], "add", [1, 2]],
            [0, 1, "add", {}],
            [2, "note", [1]],
            [3, 1, None, 1],
            [0, 1, "add"],
            pack([0, 1, "add", [1, 2]])[:-1],
            pack([0, 1, "add", [1, 2]]) * 2,
            None,
        ],
    )
    def test_everything_else_is_left_alone(self, message: Any) -> None:
        core = make(Tools())
        call = asked(core)
        work: deque[Any] = deque()
        assert not core.only_one(message if isinstance(message, bytes) else pack(message), work)
        assert (list(work), core.active, call.done, core.late) == ([], {}, False, 0)
        assert core.pending == {call.key: call}

    def test_the_rest_of_a_message_is_not_taken_for_one(self) -> None:
        core = make(Tools())
        work: deque[Any] = deque()
        inner = pack([0, 1, "add", [1, 2]])
        data = pack([0, 2, "note", [inner]])
        core.digest(data[: -len(inner)], work)
        assert not core.only_one(inner, work)
        core.digest(inner, work)
        assert [each[1] for each in work] == [2]


class TestStreams:
    def test_items_beyond_the_window_break_the_protocol(self) -> None:
        core = make(ours=True)
        call = ItemCall(2)
        core.request("m", (), call, None, {"stream": 2})
        receive(core, [2, "$/item", [call.key, 1]], [2, "$/item", [call.key, 2]])
        with pytest.raises(ProtocolError, match="more than the 2 items"):
            receive(core, [2, "$/item", [call.key, 3]])

    def test_items_nobody_waits_for_are_counted(self) -> None:
        core = make(ours=True)
        plain = asked(core)
        receive(core, [2, "$/item", [99, 1]], [2, "$/item", [plain.key, 1]])
        assert core.late == 2
        assert not plain.done

    def test_items_and_their_end(self) -> None:
        core = make(Tools(), ours=True)
        receive(core, [0, 5, "$/call", ["count", [2], {}, {"stream": 8}]])
        assert sent(core) == [
            [2, "$/item", [5, 0]],
            [2, "$/item", [5, 1]],
            [1, 5, None, None],
        ]

    def test_strangers_get_a_list(self) -> None:
        core = make(Tools())
        receive(core, [0, 5, "count", [3]], [2, "count", [3]])
        assert sent(core) == [[1, 5, None, [0, 1, 2]]]


class TestCancelling:
    def test_a_method_with_a_context_is_told(self) -> None:
        tools = Tools()

        def check(context: Context) -> bool:
            receive_inside(core, [2, "$/cancelRequest", [9]])
            return context.cancelled

        core = make([check, tools.add], ours=True)
        receive(core, [0, 9, "check", []])
        assert sent(core) == [[1, 9, None, True]]

    def test_a_coroutine_is_cancelled_though_it_has_not_begun(self) -> None:
        """Its task was made, and has not had its first step."""

        async def main() -> None:
            core = make(Tools(), ours=True)
            work = core.take(pack([0, 9, "later", []]))
            assert work is not None
            coroutine: Any = core.serve_async(work)
            task = asyncio.get_running_loop().create_task(coroutine)
            core.begun(work, task)
            assert core.take(pack([2, "$/cancelRequest", [9]])) is None
            await asyncio.wait([task])
            ((_, number, error, _),) = sent(core)
            assert (number, error["code"]) == (9, -32800)
            assert not core.active

        asyncio.run(main())

    def test_a_call_cancelled_in_the_same_piece_is_not_begun(self) -> None:
        core = make(tools := Tools(), ours=True)
        work = core.take(pack([0, 9, "later", []]) + pack([2, "$/cancelRequest", [9]]))
        assert work is not None
        assert core.serve_async(work) is None
        ((_, number, error, _),) = sent(core)
        assert (number, error["code"]) == (9, -32800)
        assert not core.active
        assert not tools.notes

    def test_room_made_before_a_stream_begins_is_not_forgotten(self) -> None:
        core = make(Tools(), ours=True)
        receive(
            core,
            [0, 9, "$/call", ["count", [5], {}, {"stream": 1}]],
            [2, "$/more", [9, 10]],
        )
        assert [each[2] for each in sent(core)[:5]] == [[9, n] for n in range(5)]

    def test_a_coroutine_whose_connection_breaks_before_it_begins_still_ends(self) -> None:
        async def main() -> None:
            core = make(Tools(), ours=True)
            work = core.take(pack([0, 9, "later", []]))
            assert work is not None
            coroutine: Any = core.serve_async(work)
            task = asyncio.get_running_loop().create_task(coroutine)
            core.begun(work, task)
            core.fail(ProtocolError("nonsense"))
            await asyncio.wait([task])
            assert not core.active

        asyncio.run(main())

    def test_without_a_loop_a_coroutine_is_an_error_and_no_crash(self) -> None:
        core = make(Tools())

        def closed(coroutine: Any) -> concurrent.futures.Future[Any]:
            coroutine.close()
            raise RuntimeError("the server is closed")

        core.run_coroutine = closed
        receive(core, [0, 9, "later", []])
        assert sent(core) == [[1, 9, "RuntimeError: the server is closed", None]]

    def test_a_coroutine_that_is_over_at_once_is_not_taken_for_the_next_call(self) -> None:
        core = make([Plain().soon])

        def at_once(coroutine: Any) -> concurrent.futures.Future[Any]:
            asyncio.run(coroutine)
            assert core.take(pack([0, 9, "soon", []])) is not None
            return concurrent.futures.Future()

        core.run_coroutine = at_once
        receive(core, [0, 9, "soon", []])
        assert sent(core) == [[1, 9, None, "soon"]]
        assert core.active == {9: None}

    def test_a_plain_function_that_returns_a_coroutine_can_be_cancelled_at_once(self) -> None:
        async def main() -> None:
            core = make([Plain().soon], ours=True)
            core.run_coroutine = asyncio.ensure_future
            receive(
                core,
                [0, 8, "soon", []],
                [0, 9, "soon", []],
                [2, "$/cancelRequest", [9]],
            )
            core.active[8].cancel()
            await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
            assert [each[2]["code"] for each in sent(core)] == [-32800, -32800]
            assert not core.active

        asyncio.run(main())


class Plain:
    def soon(self) -> Any:
        async def soon() -> str:
            await asyncio.sleep(0)
            return "soon"

        return soon()


def receive_inside(core: MsgpackCore, message: Any) -> None:
    """A message arrives while a method runs."""
    assert core.take(pack(message)) is None


class Odd:
    """An extension type that can be sent, and not received."""


class TestWhatCannotBeRead:
    """Messages that are msgpack, and that no values can be made of, wherever they are cut."""

    GOOD: ClassVar = [pack([0, number, "echo", ["x" * number]]) for number in (2, 4, 6, 8)]
    BAD: ClassVar = [
        bytes.fromhex("94 00 03 a4 65 63 68 6f 91 81 91 01 02"),  # [0, 3, "echo", [{[1]: 2}]]
        pack([0, 5, "echo", [msgpack.ExtType(7, b"?")]]),
        pack([0, 7, "echo", list(range(101))]),
    ]
    ANSWERS: ClassVar[list[Any]] = [
        [2, "xx"],
        [3, -32602, "unhashable type: 'list'"],
        [4, "xxxx"],
        [5, -32602, "Odd (extension code 7)"],
        [6, "xxxxxx"],
        [7, -32602, "101 exceeds"],
        [8, "xxxxxxxx"],
    ]

    def served(
        self, chunks: Iterable[bytes], running: Iterable[int] = (), **limits: int
    ) -> list[Any]:
        extensions = Extensions()

        def refuse(data: bytes) -> Odd:
            raise ValueError(data)

        extensions.register(7, Odd, lambda _: b"?", refuse)

        core = make(
            {"echo": lambda value: value},
            ours=True,
            limits=Limits(elements=100, **limits),
            extensions=extensions,
        )
        core.active.update(dict.fromkeys(running))
        found: list[Any] = []
        for chunk in chunks:
            receive(core, chunk)
            found += sent(core)
        return sorted(
            [number, result] if error is None else [number, error["code"], error["message"]]
            for _, number, error, result in found
        )

    def check(self, found: list[Any]) -> None:
        assert [each[0] for each in found] == [each[0] for each in self.ANSWERS]
        for answer, wanted in zip(found, self.ANSWERS, strict=True):
            assert answer[:-1] == wanted[:-1]
            assert str(wanted[-1]) in answer[-1]

    def stream(self) -> bytes:
        return b"".join(good + bad for good, bad in zip(self.GOOD, [*self.BAD, b""], strict=True))

    def test_in_one_piece(self) -> None:
        self.check(self.served([self.stream()]))

    def test_byte_by_byte(self) -> None:
        data = self.stream()
        self.check(self.served(data[at : at + 1] for at in range(len(data))))

    def test_cut_anywhere(self) -> None:
        data = self.stream()
        for at in range(1, len(data)):
            self.check(self.served([data[:at], data[at:]]))

    def test_cut_twice(self) -> None:
        data = self.stream()
        for first in range(1, len(data) - 1, 3):
            for second in range(first + 1, len(data), 7):
                self.check(self.served([data[:first], data[first:second], data[second:]]))

    def test_long_ones_are_kept_up_to_a_bound(self) -> None:
        for size, is_kept in ((KEPT_MESSAGE - 100, True), (KEPT_MESSAGE + 10_000, False)):
            long = pack([0, 1, "echo", ["x" * size, {}]])[:-1] + b"\x81\x91\x01\x02"
            chunks = [long[at : at + 10_000] for at in range(0, len(long), 10_000)]
            if is_kept:
                [answer] = self.served(chunks)
                assert answer[:2] == [1, -32602]
            else:
                with pytest.raises(ProtocolError, match="unhashable"):
                    self.served(chunks)

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(
                bytes.fromhex("94 00 a1 78 a1 6d 91 81 91 01 02"), id="an id that is text"
            ),
            pytest.param(bytes.fromhex("94 05 01 a1 6d 91 81 91 01 02"), id="an unknown kind"),
            pytest.param(bytes.fromhex("81 91 01 02"), id="no array"),
            pytest.param(bytes.fromhex("95 00 01 a1 6d 91 81 91 01 02 c0"), id="too many parts"),
            pytest.param(bytes.fromhex("94 00 01 a1 6d 91 81 91 01 c1"), id="not even msgpack"),
        ],
    )
    def test_what_is_no_message_besides_ends_the_connection(self, data: bytes) -> None:
        with pytest.raises(ProtocolError):
            self.served([data])

    def test_the_id_of_a_call_under_way(self) -> None:
        with pytest.raises(ProtocolError, match="two requests have the id 3"):
            self.served([self.BAD[0]], running=[3])

    def test_answers(self) -> None:
        core = make()
        before, wrong, after = (asked(core) for _ in range(3))
        sent(core)
        receive(
            core, [1, 1, None, "a"], bytes.fromhex("94 01 02 c0 81 91 01 02"), [1, 3, None, "b"]
        )
        assert (before.value, after.value) == ("a", "b")
        assert isinstance(wrong.failure, CallError)
        assert wrong.failure.outcome is Outcome.ANSWERED
        receive(core, bytes.fromhex("94 01 02 c0 81 91 01 02"))
        assert core.late == 1

    def test_while_as_many_calls_run_as_may(self) -> None:
        assert self.served([self.stream()], running=[1], in_flight=1) == []
        self.check(self.served([self.stream()], in_flight=1))


def test_a_connection_keeps_its_attributes_with_all_others() -> None:
    """Python does so up to thirty; beyond, each has a dictionary that doubles what an idle one takes."""
    core = make(Tools())
    receive(
        core,
        HELLO,
        [0, 2, "add", [1, 2]],
        [1, 7, None, None],
        pack([0, 3, "note", ["x" * 5000]])[:-1],
    )
    core.has_more = core.throttled = False
    assert len(vars(core)) <= 30


class TestTheEnd:
    def test_every_call_learns_whether_it_may_have_run(self) -> None:
        core = make()
        gone = asked(core)
        sent(core)
        queued = asked(core)
        core.fail(ConnectionLost("cut", address="a"))
        after = asked(core)
        outcomes = [_failure(call).outcome for call in (gone, queued, after)]
        assert outcomes == [Outcome.MAY_HAVE_RUN, Outcome.NOT_SENT, Outcome.NOT_SENT]
        assert isinstance(gone.failure, ConnectionLost)
        assert not core.pending

    def test_a_broken_protocol_is_what_calls_hear_of(self) -> None:
        core = make()
        call = asked(core)
        core.fail(ProtocolError("nonsense"))
        assert isinstance(call.failure, ProtocolError)
        assert "nonsense" in str(call.failure)

    def test_who_leaves_refuses_new_calls_and_finishes_old_ones(self) -> None:
        core = make(tools := Tools(), ours=True)
        work = core.take(pack([0, 5, "add", [1, 2]]))
        assert work is not None
        core.goodbye()
        receive(
            core,
            [0, 6, "add", [1, 2]],
            [0, 7, "$/call", ["add", [1, 2], {}, {}]],
            [0, 8, "nope", []],
            [2, "note", [1]],
            [2, b"note", [1]],
        )
        core.serve(work)
        goodbye, *refused, answer = sent(core)
        assert goodbye == [2, "$/goodbye", [{}]]
        assert [each[1] for each in refused] == [6, 7, 8]
        assert {each[2]["code"] for each in refused} == {-32801}
        assert answer == [1, 5, None, 3]
        assert tools.notes == []
        assert not core.busy

    def test_a_refusal_by_one_who_leaves_was_not_carried_out(self) -> None:
        core = make(ours=True)
        call = asked(core)
        receive(core, [1, call.key, {"code": -32801, "message": "leaving"}, None])
        assert _failure(call).outcome is Outcome.NOT_SENT
        assert core.draining

    def test_a_stranger_cannot_say_that(self) -> None:
        core = make()
        call = asked(core)
        receive(core, [1, call.key, {"code": -32801, "message": "leaving"}, None])
        assert call.failure is None
        assert call.error is not None
        assert not core.draining

    def test_the_last_word_tells_what_was_left_unfinished(self) -> None:
        core = make(Tools(), ours=True)
        assert core.take(pack([0, 5, "add", [1, 2]])) is not None
        core.farewell()
        assert sent(core) == [[2, "$/goodbye", [{"unfinished": [5]}]]]
        other = make(ours=True)
        begun, not_begun = asked(other), asked(other)
        sent(other)
        receive(other, [2, "$/goodbye", [{"unfinished": [begun.key]}]])
        other.fail(None)
        assert _failure(begun).outcome is Outcome.MAY_HAVE_RUN
        assert _failure(not_begun).outcome is Outcome.NOT_SENT

    def test_strangers_hear_no_goodbye(self) -> None:
        core = make(Tools())
        core.goodbye()
        core.farewell()
        assert sent(core) == []

    def test_methods_under_way_are_cancelled(self) -> None:
        cancelled: list[int] = []

        class Running:
            def cancel(self) -> None:
                cancelled.append(1)

        core = make()
        core.active[1] = Running()
        core.active[2] = None
        core.fail(None)
        assert cancelled == [1]


def _failure(call: Call) -> Any:
    assert isinstance(call.failure, HvrpcError)
    return call.failure


class TestTwoCores:
    """Both ends are ours, and what one queues the other takes."""

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), max_size=8), st.integers(1, 30)
    )
    def test_whatever_the_pieces(self, pairs: list[tuple[int, int]], size: int) -> None:
        server = make(Tools())
        client = make()
        first = Call()
        client.says_hello = True
        client.open(first)
        exchange(client, server, size)
        client.opened(first)
        assert client.is_ours
        assert server.is_ours
        calls = []
        for a, b in pairs:
            calls.append(call := Call())
            client.request("add", (a,), call, {"b": b})
        exchange(client, server, size)
        assert [call.value for call in calls] == [a + b for a, b in pairs]


def exchange(one: MsgpackCore, other: MsgpackCore, size: int) -> None:
    while one.outgoing or other.outgoing:
        for source, sink in ((one, other), (other, one)):
            data = b"".join(bytes(item) for item in source.outgoing)
            source.outgoing.clear()
            for at in range(0, len(data), size):
                receive(sink, data[at : at + size])
