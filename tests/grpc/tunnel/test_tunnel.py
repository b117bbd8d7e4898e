"""Calls of grpcio go through a VM socket as they go through TCP, blocking and with asyncio."""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
import pytest

import hvrpc
from hvrpc import AddressError, ListenError, Peer, UnsupportedError
from hvrpc.grpc import tunnel
from hvrpc.grpc.tunnel import gates
from hvrpc.grpc.tunnel.places import place_here
from hvrpc.testing import Link

from ...sockets.background import WAIT, Background, wait_until
from .calls import METHOD, Calls, Handlers, echo


def local_credentials(carrier: str) -> grpc.ChannelCredentials:
    kinds = {"unix": grpc.LocalConnectionType.UDS, "tcp": grpc.LocalConnectionType.LOCAL_TCP}
    return grpc.local_channel_credentials(kinds[carrier])


# --- Channels and servers -------------------------------------------------------------------------


def test_a_call_has_a_response(calls: Calls) -> None:
    channel = calls.channel(calls.serve().address)
    assert calls.call(channel, b"hello") == b"hello"
    large = bytes(3_000_000)
    assert calls.call(channel, large) == large


def test_channels_and_servers_are_grpcios_own(calls: Calls) -> None:
    kind = grpc.aio.Channel if calls.is_aio else grpc.Channel
    channel = calls.channel(calls.serve().address)
    assert isinstance(channel, kind)
    assert type(channel).__module__.startswith("grpc.")


def test_all_four_kinds_of_call_pass_the_gate() -> None:
    """Blocking ones; those of asyncio are below, for their handlers are of three sorts."""

    def upper(requests: Any, context: Any) -> Iterator[bytes]:
        yield from (request.upper() for request in requests)

    def join(requests: Any, context: Any) -> bytes:
        return b"".join(requests)

    def spell(request: bytes, context: Any) -> Iterator[bytes]:
        yield from (bytes([byte]) for byte in request)

    with Calls("sync") as calls:
        for handler, call, expected in (
            (
                grpc.unary_stream_rpc_method_handler(spell),
                lambda channel: list(channel.unary_stream(METHOD)(b"abc")),
                [b"a", b"b", b"c"],
            ),
            (
                grpc.stream_unary_rpc_method_handler(join),
                lambda channel: channel.stream_unary(METHOD)(iter([b"a", b"b"])),
                b"ab",
            ),
            (
                grpc.stream_stream_rpc_method_handler(upper),
                lambda channel: list(channel.stream_stream(METHOD)(iter([b"a", b"b"]))),
                [b"A", b"B"],
            ),
        ):
            server = calls.server(handler)
            port = calls.add_port(server)
            calls.start(server)
            assert call(calls.channel(port.address)) == expected


async def _spell_by_generator(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for byte in request:
        yield bytes([byte])


async def _spell_by_writing(request: bytes, context: Any) -> None:
    for byte in request:
        await context.write(bytes([byte]))


def _spell_without_asyncio(request: bytes, context: Any) -> Iterator[bytes]:
    for byte in request:
        yield bytes([byte])


@pytest.mark.parametrize("spell", [_spell_by_generator, _spell_by_writing, _spell_without_asyncio])
@pytest.mark.parametrize("through_tunnel", [True, False])
def test_every_sort_of_asyncio_handler_is_guarded(spell: Any, through_tunnel: bool) -> None:
    with Calls("aio") as calls:
        server = calls.server(grpc.unary_stream_rpc_method_handler(spell))
        port = calls.add_port(server)
        elsewhere = calls.do(lambda: server.add_insecure_port("127.0.0.1:0"))
        calls.start(server)
        if through_tunnel:
            channel = calls.channel(port.address)
        else:
            channel = calls.do(lambda: grpc.aio.insecure_channel(f"127.0.0.1:{elsewhere}"))

        async def read() -> list[bytes]:
            return [each async for each in channel.unary_stream(METHOD)(b"abc", timeout=WAIT)]

        try:
            if through_tunnel:
                assert calls.run(read) == [b"a", b"b", b"c"]
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    calls.run(read)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        finally:
            calls.close(channel)


def test_a_wrong_address_is_told_at_once(calls: Calls) -> None:
    with pytest.raises(AddressError):
        calls.channel("web:50051")
    with pytest.raises(AddressError):
        calls.add_port(calls.server(), "50051")


def test_a_port_that_is_taken_is_told_at_once(calls: Calls) -> None:
    with pytest.raises(ListenError, match="already"):
        calls.add_port(calls.server(), str(calls.serve().address))


def test_a_server_has_several_ports(calls: Calls) -> None:
    server = calls.server()
    ports = [calls.add_port(server) for _ in range(3)]
    calls.start(server)
    for port in ports:
        assert calls.call(calls.channel(port.address)) == b"x"
    calls.stop(server)
    for port in ports:
        with pytest.raises(hvrpc.ConnectError):
            hvrpc.sockets.connect(port.address)


def test_callers_wait_for_a_server_that_has_not_started_yet() -> None:
    with Calls("sync") as calls:
        server = calls.server()
        port = calls.add_port(server)
        future = calls.channel(port.address).unary_unary(METHOD).future(b"x", timeout=WAIT)
        wait_until(lambda: port.counters.open == 1, "the caller has come")
        calls.start(server)
        assert future.result() == b"x"


def test_a_call_waits_until_the_service_is_there(calls: Calls) -> None:
    with hvrpc.sockets.listen("hvsock://loopback/0") as gone:
        address = str(gone.address)
    channel = calls.channel(address, options=[("grpc.initial_reconnect_backoff_ms", 20)])
    waiting = Background(lambda: calls.call(channel, b"early", wait_for_ready=True))
    wait_until(lambda: tunnel.last_error(address), "it was tried in vain")
    calls.serve(address=address)
    assert waiting.result() == b"early"


def test_where_nobody_is_the_call_is_unavailable_with_a_number(calls: Calls) -> None:
    error = calls.error(calls.channel("hvsock://nowhere/1"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "HTTP proxy returned response code 50" in error.details()
    assert "nowhere" in str(tunnel.last_error("hvsock://nowhere/1"))


def test_the_next_call_reconnects_when_the_line_was_cut(calls: Calls) -> None:
    with Link(calls.serve().address, "hvsock://loopback/0") as link:
        channel = calls.channel(link.address)
        assert calls.call(channel, b"one") == b"one"
        link.cut()
        # Calls that meet the cut fail, but none of them hangs, and soon there is another line.
        codes: list[Any] = []
        while codes[-1:] != [grpc.StatusCode.OK]:
            try:
                assert calls.call(channel, b"two", wait_for_ready=True) == b"two"
                codes.append(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                codes.append(error.code())
        assert set(codes[:-1]) <= {grpc.StatusCode.UNAVAILABLE}


def test_a_call_under_way_fails_at_once_when_the_line_is_cut() -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        arrived.set()
        assert go_on.wait(WAIT)
        return request

    with Calls("sync") as calls, Link(calls.serve(wait).address, "hvsock://loopback/0") as link:
        future = calls.channel(link.address).unary_unary(METHOD).future(b"x", timeout=WAIT)
        assert arrived.wait(WAIT)
        link.cut()
        error: Any = future.exception(WAIT)
        go_on.set()
        assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_a_silent_peer_is_given_up_by_pings() -> None:
    """A paused VM: nothing arrives, nothing fails. What ends it is the option for pings."""
    impatient = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.ping_timeout_ms", 200)]
    arrived, go_on = threading.Event(), threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        arrived.set()
        assert go_on.wait(WAIT)
        return request

    with Calls("sync") as calls, Link(calls.serve(wait).address, "hvsock://loopback/0") as link:
        channel = calls.channel(link.address, options=impatient)
        future = channel.unary_unary(METHOD).future(b"x", timeout=WAIT)
        assert arrived.wait(WAIT)
        link.stall()
        error: Any = future.exception(WAIT)
        go_on.set()
        link.resume()
        assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_closing_a_channel_closes_its_connection(calls: Calls) -> None:
    port = calls.serve()
    channel = calls.channel(port.address)
    calls.call(channel)
    assert port.counters.open == 1
    calls.close(channel)
    wait_until(lambda: port.counters.open == 0, "the connection has ended")


def test_stopping_a_server_lets_calls_finish_and_lets_nobody_in() -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        arrived.set()
        assert go_on.wait(WAIT)
        return request

    with Calls("sync") as calls:
        server = calls.server(calls.handler(wait))
        port = calls.add_port(server)
        calls.start(server)
        future = calls.channel(port.address).unary_unary(METHOD).future(b"x", timeout=WAIT)
        assert arrived.wait(WAIT)
        stopped = server.stop(WAIT)
        with pytest.raises(hvrpc.ConnectError):
            hvrpc.sockets.connect(port.address)
        go_on.set()
        assert future.result() == b"x"
        assert stopped.wait(WAIT)
        wait_until(lambda: port.counters.open == 0, "the connection has ended")


def test_a_server_that_is_dropped_listens_no_more() -> None:
    with Calls("sync") as calls:
        threads = futures.ThreadPoolExecutor(1)
        handlers: list[grpc.GenericRpcHandler] = [Handlers(calls.handler(echo))]
        server = grpc.server(threads, handlers, interceptors=[tunnel.gate()])
        port = tunnel.add_port(server, "hvsock://loopback/0")
        server.start()
        assert calls.call(calls.channel(port.address)) == b"x"
        del server
        threads.shutdown()

        def is_gone() -> bool:
            try:
                hvrpc.sockets.connect(port.address).abort()
            except hvrpc.ConnectError:
                return True
            return False

        wait_until(is_gone, "nobody listens")


def test_a_port_can_be_closed_by_itself(calls: Calls) -> None:
    port = calls.serve()
    channel = calls.channel(port.address)
    calls.call(channel)
    port.close()
    assert port.counters.open == 0
    assert calls.error(channel).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "does not listen any more"),
        (OSError(errno.EMFILE, "too many"), "no file descriptor left"),
    ],
)
def test_why_a_caller_does_not_reach_the_server_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: OSError, told: str
) -> None:
    def dial(*arguments: Any) -> Any:
        raise failure

    with Calls("sync") as calls:
        port = calls.serve()
        monkeypatch.setattr(type(place_here()), "dial", dial)
        with hvrpc.sockets.connect(port.address) as stream:
            assert stream.recv(1) == b""
        wait_until(lambda: told in caplog.text, "it is logged")
        assert "pass on a caller of" in caplog.text


def test_the_authority_is_what_servers_in_other_languages_accept() -> None:
    seen = []

    def answer(request: bytes, context: Any) -> bytes:
        seen.append(context._rpc_event.call_details.host)
        return request

    with Calls("sync") as calls:
        calls.call(calls.channel(calls.serve(answer).address))
        assert seen in ([b"loopback"], [b""])  # newer ones do not tell, for registered methods


# --- Who calls ------------------------------------------------------------------------------------


def test_handlers_learn_who_calls(calls: Calls, carrier: str) -> None:
    seen: list[tuple[str, Peer | None]] = []

    def answer(request: bytes, context: Any) -> bytes:
        seen.append((context.peer(), tunnel.peer_of(context)))
        return request

    channel = calls.channel(calls.serve(answer).address)
    calls.call(channel)
    ((name, peer),) = seen
    assert peer is not None
    assert peer.family == "local"
    assert peer.is_loopback
    if carrier == "unix":
        assert name.startswith(f"unix-abstract:local/{peer.vm_id}:")
        # What OpenTelemetry's instrumentation does to every name that is not a path.
        host, port = name.split(",")[0].split(":", 1)[1].rsplit(":", 1)
        assert host == f"local/{peer.vm_id}"
        assert port
    calls.close(channel)
    wait_until(lambda: name not in gates._peers, "a name is forgotten with its connection")


def test_without_abstract_names_the_table_says_who_calls(
    calls: Calls, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if carrier == "tcp":
        pytest.skip("of UNIX sockets only")
    monkeypatch.setattr("hvrpc.grpc.tunnel.places.ABSTRACT_NAMES", False)  # as on macOS
    seen: list[tuple[str, Peer | None]] = []

    def answer(request: bytes, context: Any) -> bytes:
        seen.append((context.peer(), tunnel.peer_of(context)))
        return request

    calls.call(calls.channel(calls.serve(answer).address))
    ((name, peer),) = seen
    assert peer is not None
    assert peer.is_loopback
    assert re.fullmatch(r"unix:/.+/caller-[0-9a-f]{8}", name)


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_who_comes_by_another_way_is_stopped_by_the_gate(kind: str) -> None:
    with Calls(kind) as calls:
        server = calls.server()
        calls.add_port(server)
        elsewhere = calls.do(lambda: server.add_insecure_port("127.0.0.1:0"))
        calls.start(server)
        make = grpc.aio.insecure_channel if calls.is_aio else grpc.insecure_channel
        channel = calls.do(lambda: make(f"127.0.0.1:{elsewhere}"))
        error = calls.error(channel)
        calls.close(channel)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error.details() == gates.REFUSAL


def test_unknown_methods_are_told_as_unimplemented_by_the_gate(calls: Calls) -> None:
    server = calls.server(handler=None)
    port = calls.add_port(server)
    calls.start(server)
    channel = calls.channel(port.address)
    assert calls.call(channel) == b"x"


def test_where_the_servers_end_is_open_to_all_a_gate_is_required(
    calls: Calls, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "_gates", set())
    server = calls.server(gate=False)
    if carrier == "unix":
        calls.add_port(server)
        return
    with pytest.raises(UnsupportedError, match=r"interceptors=\[tunnel.gate\(\)\]"):
        calls.add_port(server)


def test_who_is_not_admitted_gets_no_answer(calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    port = calls.serve(allow="parent")
    error = calls.error(calls.channel(port.address))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert port.counters.accepted == 0
    assert port.counters.refused > 0
    assert "allowed are: parent" in caplog.text


# --- Credentials of grpcio's ----------------------------------------------------------------------


def test_tokens_are_sent(calls: Calls, carrier: str) -> None:
    seen = []

    def answer(request: bytes, context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata()).get("authorization"))
        return request

    credentials = grpc.composite_channel_credentials(
        local_credentials(carrier), grpc.access_token_call_credentials("secret")
    )
    calls.call(calls.channel(calls.serve(answer).address, credentials))
    assert seen == ["Bearer secret"]


# --- Other code -----------------------------------------------------------------------------------


def test_parameters_serve_code_that_makes_its_own_channel() -> None:
    with Calls("sync") as calls:
        made = tunnel.parameters(calls.serve().address)
        assert hash(made.options) is not None  # generated code with a target needs that
        with grpc.insecure_channel(made.target, made.options) as channel:
            method: Any = channel.unary_unary(METHOD)
            assert method(b"x", timeout=WAIT) == b"x"


def test_instrumentation_that_replaces_grpcios_functions_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    original = grpc.insecure_channel

    def instrumented(*arguments: Any) -> grpc.Channel:
        made.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(grpc, "insecure_channel", instrumented)
    tunnel.insecure_channel("hvsock://parent/1").close()
    assert len(made) == 1


def test_proxies_in_the_environment_are_not_asked(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert calls.call(calls.channel(calls.serve().address)) == b"x"


def test_many_channels_at_once(calls: Calls) -> None:
    address = calls.serve().address
    channels = [calls.channel(address, options=[("n", n)]) for n in range(8)]
    running = [
        Background(lambda channel=channel: [calls.call(channel, bytes(9999)) for _ in range(5)])  # type: ignore[misc]
        for channel in channels
    ]
    for each in running:
        assert each.result() == [bytes(9999)] * 5


def test_connections_that_age_are_replaced_without_an_error() -> None:
    with Calls("sync") as calls:
        server = calls.server(options=[("grpc.max_connection_age_ms", 50)])
        port = calls.add_port(server)
        calls.start(server)
        channel = calls.channel(port.address)
        deadline = time.monotonic() + WAIT
        while port.counters.accepted < 3:
            assert time.monotonic() < deadline
            assert calls.call(channel) == b"x"
