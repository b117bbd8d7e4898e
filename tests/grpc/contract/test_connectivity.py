"""Channels: when they connect, what they say about it, and how they come back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from ...sockets.background import WAIT, Background, wait_until
from ...sockets.places import short_folder
from . import kinds
from .bench import METHOD, Bench
from .engines import any_server
from .kinds import KINDS, UNARY

pytestmark = any_server

IDLE = grpc.ChannelConnectivity.IDLE
CONNECTING = grpc.ChannelConnectivity.CONNECTING
READY = grpc.ChannelConnectivity.READY
TRANSIENT_FAILURE = grpc.ChannelConnectivity.TRANSIENT_FAILURE
SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN

QUICK = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
)
"""Try again soon."""

ECHO = {METHOD: kinds.handler_of(UNARY, kinds.echo)}


class States:
    """A callback for `subscribe`, and what it was told."""

    def __init__(self) -> None:
        self._told: queue.Queue[grpc.ChannelConnectivity] = queue.Queue()
        self.seen: list[grpc.ChannelConnectivity] = []

    def __call__(self, state: grpc.ChannelConnectivity) -> None:
        self._told.put(state)

    def next(self) -> grpc.ChannelConnectivity:
        self.seen.append(self._told.get(timeout=WAIT))
        return self.seen[-1]

    def wait_for(self, *states: grpc.ChannelConnectivity) -> grpc.ChannelConnectivity:
        while (state := self.next()) not in states:
            pass
        return state

    def tells(self, state: grpc.ChannelConnectivity, within: float) -> bool:
        """Whether it is told before nothing more is told for so long."""
        try:
            while self._told.get(timeout=within) is not state:
                pass
        except queue.Empty:
            return False
        return True

    def is_quiet(self) -> bool:
        return self._told.empty()


class TestWaitForReady:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_call_waits_for_a_server(self, bench: Bench, kind: str) -> None:
        path = bench.fresh_path()
        states = States()
        channel = bench.channel(to=path, options=QUICK)
        channel.subscribe(states)
        method = bench.method(kind, channel=channel)
        waiting = Background(lambda: kinds.call(kind, method, wait_for_ready=True, timeout=WAIT))
        states.wait_for(TRANSIENT_FAILURE)
        bench.serve({METHOD: kinds.handler_of(kind, kinds.echo)}, at=path)
        outcome = waiting.result()
        assert outcome.responses == [b"request"]
        assert outcome.code is grpc.StatusCode.OK
        channel.unsubscribe(states)

    def test_without_it_a_call_fails(self, bench: Bench) -> None:
        outcome = kinds.call(UNARY, bench.method(), wait_for_ready=False)
        assert outcome.code is grpc.StatusCode.UNAVAILABLE

    def test_can_be_given_by_the_service_config(self, bench: Bench) -> None:
        config = '{"methodConfig": [{"name": [{}], "waitForReady": true}]}'
        path = bench.fresh_path()
        states = States()
        channel = bench.channel(to=path, options=(*QUICK, ("grpc.service_config", config)))
        channel.subscribe(states)
        method = bench.method(channel=channel)
        waiting = Background(lambda: method(b"x", timeout=WAIT))
        states.wait_for(TRANSIENT_FAILURE)
        bench.serve(ECHO, at=path)
        assert waiting.result() == b"x"
        channel.unsubscribe(states)


class TestSubscribe:
    def test_tells_the_present_state_first(self, bench: Bench) -> None:
        bench.serve(ECHO)
        states = States()
        channel = bench.channel()
        channel.subscribe(states)
        assert states.next() is IDLE

    def test_tells_when_a_call_connects(self, bench: Bench) -> None:
        bench.serve(ECHO)
        states = States()
        channel = bench.channel()
        channel.subscribe(states)
        assert bench.method(channel=channel)(b"x") == b"x"
        states.wait_for(READY)

    def test_can_connect_by_itself(self, bench: Bench) -> None:
        bench.serve(ECHO)
        states = States()
        bench.channel().subscribe(states, try_to_connect=True)
        states.wait_for(READY)

    def test_tells_of_failure_and_of_success_after_it(self, bench: Bench) -> None:
        path = bench.fresh_path()
        states = States()
        channel = bench.channel(to=path, options=QUICK)
        channel.subscribe(states, try_to_connect=True)
        states.wait_for(TRANSIENT_FAILURE)
        bench.serve(ECHO, at=path)
        waiting = Background(lambda: bench.method(channel=channel)(b"x", wait_for_ready=True))
        states.wait_for(READY)
        assert waiting.result() == b"x"

    def test_tells_when_the_server_goes(self, bench: Bench) -> None:
        server = bench.serve(ECHO)
        states = States()
        bench.channel().subscribe(states, try_to_connect=True)
        states.wait_for(READY)
        server.stop(None).wait(WAIT)
        assert states.wait_for(IDLE, TRANSIENT_FAILURE, CONNECTING)

    def test_all_that_subscribe_are_told(self, bench: Bench) -> None:
        bench.serve(ECHO)
        channel = bench.channel()
        several = [States() for _ in range(3)]
        for states in several:
            channel.subscribe(states)
        assert bench.method(channel=channel)(b"x") == b"x"
        for states in several:
            states.wait_for(READY)

    def test_after_unsubscribing_nobody_is_told(self, bench: Bench) -> None:
        bench.serve(ECHO)
        channel = bench.channel()
        gone, stays = States(), States()
        channel.subscribe(gone)
        assert gone.next() is IDLE
        channel.subscribe(stays)
        channel.unsubscribe(gone)
        assert bench.method(channel=channel)(b"x") == b"x"
        stays.wait_for(READY)
        assert gone.is_quiet()
        channel.unsubscribe(gone)  # which does no harm

    def test_a_callback_that_raises_harms_nobody(self, bench: Bench) -> None:
        bench.serve(ECHO)
        channel = bench.channel()
        states = States()

        def bad(state: grpc.ChannelConnectivity) -> None:
            raise ValueError("of the callback")

        channel.subscribe(bad)
        channel.subscribe(states)
        assert bench.method(channel=channel)(b"x") == b"x"
        states.wait_for(READY)


class TestChannelReadyFuture:
    def test_is_done_when_the_channel_is_ready(self, bench: Bench) -> None:
        bench.serve(ECHO)
        ready = grpc.channel_ready_future(bench.channel())
        assert ready.result(timeout=WAIT) is None
        assert ready.done()

    def test_waits_for_a_server(self, bench: Bench) -> None:
        path = bench.fresh_path()
        ready = grpc.channel_ready_future(bench.channel(to=path, options=QUICK))
        with pytest.raises(grpc.FutureTimeoutError):
            ready.result(timeout=0.05)
        bench.serve(ECHO, at=path)
        ready.result(timeout=WAIT)

    def test_can_be_cancelled(self, bench: Bench) -> None:
        ready = grpc.channel_ready_future(bench.channel())
        assert ready.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            ready.result()

    def test_is_not_watched_any_more_when_its_test_ends(self, bench: Bench) -> None:
        with short_folder() as folder, ExitStack() as stack:
            channel = Bench(bench.calling, bench.serving, folder, stack).channel()
            assert grpc.channel_ready_future(channel).cancel()
        state = getattr(channel, "_connectivity_state", None)  # grpcio's
        assert state is None or not state.polling


class TestComingBack:
    def test_the_channel_finds_a_server_that_was_started_again(self, bench: Bench) -> None:
        path = bench.fresh_path()
        server = bench.serve(ECHO, at=path)
        method = bench.method(channel=bench.channel(options=QUICK))
        assert method(b"one") == b"one"
        for _ in range(3):
            server.stop(None).wait(WAIT)
            with pytest.raises(grpc.RpcError) as caught:
                method(b"nobody")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            server = bench.serve(ECHO, at=path)
            assert method(b"two", wait_for_ready=True, timeout=WAIT) == b"two"

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_call_under_way_ends_with_its_server(self, bench: Bench, kind: str) -> None:
        entered, over = threading.Event(), threading.Event()

        def hold(requests: Iterator[bytes], context: Any) -> Any:
            context.add_callback(over.set)
            entered.set()
            assert over.wait(WAIT)

        call = kinds.begin(kind, bench.offer(kind, hold))
        assert entered.wait(WAIT)
        bench.server.stop(None).wait(WAIT)
        outcome = kinds.finish(kind, call)
        assert outcome.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert over.is_set()

    def test_idle_channels_let_go_of_their_connection(self, bench: Bench) -> None:
        """And connect again for the next call."""
        bench.serve(ECHO)
        states = States()
        channel = bench.channel(options=(("grpc.client_idle_timeout_ms", 1000),))
        channel.subscribe(states)
        method = bench.method(channel=channel)
        assert method(b"x") == b"x"
        states.wait_for(READY)
        states.wait_for(IDLE)
        assert method(b"y") == b"y"
        states.wait_for(READY)

    @pytest.mark.parametrize(
        "option", ["grpc.max_connection_idle_ms", "grpc.max_connection_age_ms"]
    )
    def test_a_server_that_ends_connections_loses_no_call(self, bench: Bench, option: str) -> None:
        bench.serve(ECHO, options=((option, 100), ("grpc.max_connection_age_grace_ms", 5000)))
        states = States()
        channel = bench.channel()
        channel.subscribe(states)
        assert states.next() is IDLE
        method = bench.method(channel=channel)
        for _ in range(2):
            assert method(b"x") == b"x"
            while not states.tells(IDLE, within=1.0):
                assert method(b"again, as what lasts shorter than a callback takes is not told")
        for number in range(500):
            assert method(b"%d" % number) == b"%d" % number

    def test_calls_go_on_when_a_connection_is_too_old(self, bench: Bench) -> None:
        """The old connection is finished in peace while new calls go over the next one."""
        let_go = threading.Event()

        def two(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield b"first"
            assert let_go.wait(WAIT)
            yield b"second"

        bench.serve(
            {METHOD: kinds.handler_of(kinds.SERVER_STREAM, two), "Echo": ECHO[METHOD]},
            options=(
                ("grpc.max_connection_age_ms", 100),
                ("grpc.max_connection_age_grace_ms", 30_000),
            ),
        )
        states = States()
        channel = bench.channel()
        channel.subscribe(states)
        stream = bench.method(kinds.SERVER_STREAM, channel=channel)(b"")
        assert next(stream) == b"first"
        states.wait_for(READY)
        states.wait_for(IDLE, CONNECTING)
        assert bench.method(name="Echo", channel=channel)(b"x") == b"x"
        let_go.set()
        assert list(stream) == [b"second"]


class TestMany:
    def test_channels_to_one_server(self, bench: Bench) -> None:
        bench.serve(ECHO)
        methods = [bench.method() for _ in range(30)]
        assert [method(b"%d" % n) for n, method in enumerate(methods)] == [
            b"%d" % n for n in range(30)
        ]

    def test_a_stub_keeps_its_channel_alive(self, bench: Bench) -> None:
        """Code that keeps the stub and drops the channel is common."""
        bench.serve(ECHO)
        module = bench.calling.load()
        target = bench.calling.at(bench.path)
        method = module.insecure_channel(target).unary_unary(f"/contract.Service/{METHOD}")
        assert method(b"x") == b"x"
        assert method(b"y") == b"y"
        del method

    def test_a_channel_that_nobody_has_closed_goes_when_it_is_collected(self, bench: Bench) -> None:
        gone = threading.Event()

        def hold(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.add_callback(gone.set)
            yield b"first"
            gone.wait(WAIT)

        bench.serve({METHOD: kinds.handler_of(kinds.SERVER_STREAM, hold)})
        channel = bench.calling.load().insecure_channel(bench.calling.at(bench.path))
        call = channel.unary_stream(f"/contract.Service/{METHOD}")(b"")
        assert next(call) == b"first"
        del channel, call
        wait_until(lambda: _collected(gone), "the call has ended with the channel")


def _collected(event: threading.Event) -> bool:
    import gc

    gc.collect()
    return event.is_set()
