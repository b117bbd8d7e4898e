"""Servers: starting, stopping, threads, and how much they take on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

import hvrpc

from ...sockets.background import WAIT, Background, wait_until
from . import kinds
from .bench import METHOD, SERVICE, Bench, path_of
from .engines import HAS_UNIX, NATIVE, NEEDS_UNIX
from .kinds import KINDS, UNARY

ECHO = {METHOD: kinds.handler_of(UNARY, kinds.echo)}


class Holding:
    """A handler that goes on until it is let go, whatever becomes of its call."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.entered.release()
        assert self.let_go.wait(WAIT)
        with self._lock:
            self.running -= 1
        yield b"held"

    def wait_entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=WAIT)


class TestStart:
    def test_nobody_is_served_before(self, bench: Bench) -> None:
        server = bench.new_server([grpc.method_handlers_generic_handler(SERVICE, ECHO)])
        bench.path = bench.fresh_path()
        assert server.add_insecure_port(bench.serving.at(bench.path))
        with pytest.raises(grpc.RpcError) as caught:
            bench.method()(b"x", timeout=0.2)
        assert caught.value.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
        server.start()
        assert bench.method()(b"x", wait_for_ready=True, timeout=WAIT) == b"x"

    def test_twice_is_an_error(self, bench: Bench) -> None:
        server = bench.serve(ECHO)
        with pytest.raises(ValueError, match=r"already.started"):
            server.start()

    def test_a_server_may_listen_in_several_places(self, bench: Bench) -> None:
        server = bench.new_server([grpc.method_handlers_generic_handler(SERVICE, ECHO)])
        paths = [bench.fresh_path() for _ in range(3)]
        for path in paths:
            assert server.add_insecure_port(bench.serving.at(path))
        server.start()
        for path in paths:
            assert bench.method(channel=bench.channel(to=path))(b"x") == b"x"

    @pytest.mark.skipif(not HAS_UNIX, reason=NEEDS_UNIX)
    def test_where_nobody_can_listen_is_an_error(self, bench: Bench) -> None:
        server = bench.new_server()
        with pytest.raises((RuntimeError, hvrpc.ListenError), match="/nowhere/at/all"):
            server.add_insecure_port(bench.serving.at("/nowhere/at/all"))

    def test_handlers_may_be_added_before(self, bench: Bench) -> None:
        server = bench.new_server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, ECHO),))
        bench.start(server)
        assert bench.method()(b"x") == b"x"

    def test_what_is_no_handler_is_an_error(self, bench: Bench) -> None:
        with pytest.raises(AttributeError):
            bench.new_server().add_generic_rpc_handlers((5,))


class TestStop:
    def test_with_no_grace_cancels_calls(self, bench: Bench) -> None:
        held = Holding()
        cancelled = threading.Event()

        def hold(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.add_callback(cancelled.set)
            yield from held(requests, context)

        call = kinds.begin(UNARY, bench.offer(UNARY, hold))
        held.wait_entered()
        stopping = Background(lambda: bench.server.stop(None).wait(WAIT))
        assert cancelled.wait(WAIT)
        held.let_go.set()
        assert stopping.result()
        outcome = kinds.finish(UNARY, call)
        assert outcome.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    @pytest.mark.parametrize("kind", KINDS)
    def test_with_grace_lets_calls_finish(self, bench: Bench, kind: str) -> None:
        held = Holding()
        call = kinds.begin(kind, bench.offer(kind, held))
        held.wait_entered()
        stopped = bench.server.stop(WAIT)
        assert isinstance(stopped, threading.Event)
        assert not stopped.is_set()
        held.let_go.set()
        outcome = kinds.finish(kind, call)
        assert outcome.responses == [b"held"]
        assert outcome.code is grpc.StatusCode.OK
        assert stopped.wait(WAIT)

    def test_with_grace_returns_at_once_and_takes_no_new_callers(self, bench: Bench) -> None:
        held = Holding()
        bench.serve({METHOD: kinds.handler_of(UNARY, held), "Echo": ECHO[METHOD]})
        channel = bench.channel()
        call = bench.method(channel=channel).future(b"")
        held.wait_entered()
        # Otherwise the C core may share the connection, and be served until it is told otherwise.
        other = bench.channel(options=[("grpc.use_local_subchannel_pool", 1)])
        stopped = bench.server.stop(WAIT)
        fresh = kinds.call(UNARY, bench.method(name="Echo", channel=other))
        assert fresh.code is grpc.StatusCode.UNAVAILABLE
        held.let_go.set()
        assert call.result(WAIT) == b"held"
        assert stopped.wait(WAIT)

    def test_the_grace_ends(self, bench: Bench) -> None:
        held = Holding()
        cancelled = threading.Event()

        def hold(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.add_callback(cancelled.set)
            yield from held(requests, context)

        call = kinds.begin(UNARY, bench.offer(UNARY, hold))
        held.wait_entered()
        stopped = bench.server.stop(0.1)
        assert cancelled.wait(WAIT)
        outcome = kinds.finish(UNARY, call)
        assert outcome.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        held.let_go.set()
        assert stopped.wait(WAIT)

    def test_a_shorter_grace_replaces_a_longer_one(self, bench: Bench) -> None:
        held = Holding()
        cancelled = threading.Event()

        def hold(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.add_callback(cancelled.set)
            yield from held(requests, context)

        call = kinds.begin(UNARY, bench.offer(UNARY, hold))
        held.wait_entered()
        patient = bench.server.stop(WAIT)
        impatient = bench.server.stop(0)
        assert cancelled.wait(WAIT)
        held.let_go.set()
        assert patient.wait(WAIT)
        assert impatient.wait(WAIT)
        assert kinds.finish(UNARY, call).code is not grpc.StatusCode.OK

    def test_of_an_idle_server_is_done_soon(self, bench: Bench) -> None:
        bench.serve(ECHO)
        assert bench.method()(b"x") == b"x"
        assert bench.server.stop(WAIT).wait(WAIT)
        assert bench.server.stop(None).wait(WAIT), "again, which does no harm"

    def test_of_a_server_that_was_never_started(self, bench: Bench) -> None:
        assert bench.new_server().stop(None).wait(WAIT)

    def test_the_place_is_free_afterwards(self, bench: Bench) -> None:
        path = bench.fresh_path()
        # grpcio's channels share a connection otherwise, and one may be used that has just lost its server.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        for _ in range(3):
            server = bench.serve(ECHO, at=path)
            assert bench.method(channel=bench.channel(options=alone))(b"x") == b"x"
            server.stop(None).wait(WAIT)


class TestWaitForTermination:
    def test_returns_when_the_server_was_stopped(self, bench: Bench) -> None:
        server = bench.serve(ECHO)
        waiting = Background(lambda: server.wait_for_termination(WAIT))
        waiting.wait_until_blocked_in("wait_for_termination")
        server.stop(None)
        assert waiting.result() is False

    def test_tells_when_it_has_waited_in_vain(self, bench: Bench) -> None:
        server = bench.serve(ECHO)
        assert server.wait_for_termination(0.01) is True

    def test_without_a_bound(self, bench: Bench) -> None:
        server = bench.serve(ECHO)
        waiting = Background(server.wait_for_termination)
        waiting.wait_until_blocked_in("wait_for_termination")
        server.stop(None)
        assert waiting.result() is False


class TestThreads:
    def test_handlers_run_at_the_same_time(self, bench: Bench) -> None:
        together = threading.Barrier(6)

        def meet(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            together.wait(WAIT)
            yield b"met"

        method = bench.offer(UNARY, meet, threads=6)
        calls = [method.future(b"") for _ in range(6)]
        assert [call.result(WAIT) for call in calls] == [b"met"] * 6

    def test_one_worker_runs_one_handler_at_a_time(self, bench: Bench) -> None:
        """Services that rely on that, rather than on a lock, exist."""
        running: list[int] = []
        most: list[int] = []

        def work(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            running.append(1)
            most.append(len(running))
            time.sleep(0.005)  # work that lets other threads run
            running.pop()
            yield b"done"

        method = bench.offer(UNARY, work, threads=1)
        other = bench.method()
        calls = [each.future(b"") for _ in range(10) for each in (method, other)]
        assert [call.result(WAIT) for call in calls] == [b"done"] * 20
        assert max(most) == 1

    def test_workers_are_no_more_than_the_pool_has(self, bench: Bench) -> None:
        held = Holding()
        method = bench.offer(UNARY, held, threads=3)
        calls = [method.future(b"") for _ in range(9)]
        held.wait_entered(3)
        held.let_go.set()
        assert [call.result(WAIT) for call in calls] == [b"held"] * 9
        assert held.most == 3

    def test_the_pool_s_initializer_has_run_in_a_handler_s_thread(self, bench: Bench) -> None:
        local = threading.local()

        def prepare() -> None:
            local.ready = True

        def look(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield str(getattr(local, "ready", False)).encode()

        with futures.ThreadPoolExecutor(2, initializer=prepare) as pool:
            method = bench.offer(UNARY, look, pool=pool)
            assert {method(b"") for _ in range(20)} == {b"True"}
            bench.server.stop(None).wait(WAIT)

    def test_a_handler_that_blocks_delays_nobody(self, bench: Bench) -> None:
        held = Holding()
        bench.serve({METHOD: kinds.handler_of(UNARY, held), "Echo": ECHO[METHOD]})
        channel = bench.channel()
        calls = [bench.method(channel=channel).future(b"") for _ in range(3)]
        held.wait_entered(3)
        echo = bench.method(name="Echo", channel=channel)
        assert [echo(b"%d" % number) for number in range(100)] == [b"%d" % n for n in range(100)]
        held.let_go.set()
        assert [call.result(WAIT) for call in calls] == [b"held"] * 3

    def test_calls_beyond_the_maximum_are_refused(self, bench: Bench) -> None:
        held = Holding()
        method = bench.offer(UNARY, held, maximum_concurrent_rpcs=2)
        calls = [method.future(b"") for _ in range(2)]
        held.wait_entered(2)
        refused = kinds.call(UNARY, method)
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.details == "Concurrent RPC limit exceeded!"
        held.let_go.set()
        assert [call.result(WAIT) for call in calls] == [b"held"] * 2
        wait_until(
            lambda: kinds.call(UNARY, method).code is grpc.StatusCode.OK, "there is room again"
        )

    def test_streams_beyond_those_offered_wait(self, bench: Bench) -> None:
        """`grpc.max_concurrent_streams` delays calls, and refuses none."""
        if NATIVE not in (bench.calling.name, bench.serving.name):
            pytest.skip(
                "a C core refuses a call now and then that comes when another has just ended"
            )
        held = Holding()
        method = bench.offer(UNARY, held, options=(("grpc.max_concurrent_streams", 2),), threads=8)
        calls = [method.future(b"") for _ in range(6)]
        held.wait_entered(2)
        held.let_go.set()
        assert [call.result(WAIT) for call in calls] == [b"held"] * 6
        assert held.most <= 2


class TestRegistration:
    def test_generic_handlers_decide_by_call_details(self, bench: Bench) -> None:
        seen: list[Any] = []

        class Generic(grpc.GenericRpcHandler):
            def service(self, handler_call_details: Any) -> Any:
                seen.append(handler_call_details)
                if handler_call_details.method == "/any/Thing":
                    return kinds.handler_of(UNARY, kinds.echo)
                return None

        bench.start(bench.new_server([Generic()]))
        channel = bench.channel()
        assert channel.unary_unary("/any/Thing")(b"x", metadata=(("key", "value"),)) == b"x"
        assert seen[0].method == "/any/Thing"
        assert ("key", "value") in kinds.plain(seen[0].invocation_metadata)
        outcome = kinds.call(UNARY, channel.unary_unary("/any/Other"))
        assert outcome.code is grpc.StatusCode.UNIMPLEMENTED

    def test_the_first_handler_that_knows_a_method_serves_it(self, bench: Bench) -> None:
        def saying(word: bytes) -> Any:
            return kinds.plain_handler(UNARY, lambda request, context: word)

        first = grpc.method_handlers_generic_handler(SERVICE, {"A": saying(b"first")})
        second = grpc.method_handlers_generic_handler(
            SERVICE, {"A": saying(b"second"), "B": saying(b"second")}
        )
        bench.start(bench.new_server([first, second]))
        channel = bench.channel()
        assert bench.method(name="A", channel=channel)(b"") == b"first"
        assert bench.method(name="B", channel=channel)(b"") == b"second"

    def test_a_generic_handler_that_raises(self, bench: Bench) -> None:
        class Generic(grpc.GenericRpcHandler):
            def service(self, handler_call_details: Any) -> Any:
                raise ValueError("no idea")

        bench.start(bench.new_server([Generic()]))
        outcome = kinds.call(UNARY, bench.method())
        assert outcome.code is grpc.StatusCode.UNKNOWN
        assert outcome.details == "Error in service handler!"

    def test_registered_handlers(self, bench: Bench) -> None:
        """What generated code of grpcio-tools 1.64 and later does besides the generic ones."""
        server = bench.new_server()
        server.add_registered_method_handlers(SERVICE, ECHO)
        bench.start(server)
        method = bench.channel().unary_unary(path_of(), _registered_method=True)
        assert method(b"x") == b"x"
        assert bench.method()(b"x") == b"x"
        other = kinds.call(UNARY, bench.method(name="Other"))
        assert other.code is grpc.StatusCode.UNIMPLEMENTED
