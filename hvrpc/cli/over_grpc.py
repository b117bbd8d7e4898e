"""What the commands do, over gRPC. `over_msgpack` has the same functions."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click
import grpc
from google.protobuf import json_format

from .. import grpc as engine
from ..msgpack import Limits
from . import output, proto_text, schema
from .errors import ExitCode, Failure, missing
from .requests import requests
from .schema import Schema, request_class, response_class
from .targets import Target, speaks_otherwise
from .words import Words

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

logger = logging.getLogger("hvrpc.cli")

MOST_RECEIVED: Final = Limits().message
"""Bytes of an answer. gRPC's 4 MiB are for programs that can be told otherwise; here it is as much as over
the other protocol."""
TOLD_WITHIN: Final = 1.0
"""Seconds for a thread to tell what has happened already."""

HEALTH: Final = "/grpc.health.v1.Health"

NO_ANSWERS: Final = (
    # Of these alone it cannot be said that somebody has answered.
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


def open_channel(target: Target) -> grpc.Channel:
    """A channel of ours, with what the user asks of the other side."""
    options = [("grpc.max_receive_message_length", MOST_RECEIVED)]
    if not target.is_secured:
        return engine.insecure_channel(target.address, options)
    credentials = engine.channel_credentials(target.expect_peer or None, target.tls)
    return engine.secure_channel(target.address, credentials, options)


@contextmanager
def channel_of(target: Target) -> Iterator[grpc.Channel]:
    """A channel; the first call connects."""
    with open_channel(target) as channel, _told(target, channel):
        try:
            yield channel
        except grpc.RpcError as error:
            if speaks_otherwise(error.__cause__):
                error.add_note("if it speaks msgpack-RPC, add --msgpack")
            raise


@contextmanager
def _told(target: Target, channel: grpc.Channel) -> Iterator[None]:
    """Tell when it has connected, if somebody wants to know; that is asked for on another thread."""
    if not (isinstance(channel, engine.Channel) and logger.isEnabledFor(logging.INFO)):
        yield
        return
    began = time.perf_counter()
    told = threading.Event()

    def changed(state: grpc.ChannelConnectivity) -> None:
        nonlocal began
        if state is grpc.ChannelConnectivity.CONNECTING:
            began = time.perf_counter()
        elif state is grpc.ChannelConnectivity.READY:
            took = time.perf_counter() - began
            target.tell_connected("gRPC", channel.peer, took)
            told.set()

    channel.subscribe(changed)
    yield
    if channel.peer is not None:  # else nobody was called
        told.wait(TOLD_WITHIN)
    channel.unsubscribe(changed)


def schema_of(target: Target, channel: grpc.Channel) -> Schema:
    if target.protos:
        return schema.of_files(target.protos, target.include)
    if target.wait:
        _wait_for(target, channel)
    return schema.of_server(channel, target.address, target.timeout)


def _wait_for(target: Target, channel: grpc.Channel) -> None:
    try:
        grpc.channel_ready_future(channel).result(target.timeout)
    except grpc.FutureTimeoutError as error:
        raise Failure(
            f"no connection to {target.address}",
            why=f"nobody has answered there for {target.timeout:g} s",
            do="start the server, or wait longer (--timeout); --verbose tells what was tried",
            code=ExitCode.TOO_LATE,
        ) from error


def listing(target: Target, service: str | None) -> list[dict[str, Any]]:
    """A row for each method of each service, or of one."""
    with channel_of(target) as channel:
        known = schema_of(target, channel)
    services = known.services if service is None else [known.service(service).full_name]
    return [
        {
            "service": name,
            "method": method.name,
            "signature": signature_of(method),
            "request": method.input_type.full_name,
            "response": method.output_type.full_name,
            "client_streaming": method.client_streaming,
            "server_streaming": method.server_streaming,
        }
        for name in services
        for method in known.pool.FindServiceByName(name).methods
    ]


def signature_of(method: MethodDescriptor) -> str:
    """As it would be written in Python; the package that it shares with its messages is left out."""
    takes, gives = (each.full_name for each in (method.input_type, method.output_type))
    package = method.containing_service.file.package
    takes, gives = (name.removeprefix(f"{package}.") for name in (takes, gives))
    takes = f"stream of {takes}" if method.client_streaming else takes
    gives = f"stream of {gives}" if method.server_streaming else gives
    return f"{method.name}({takes}) -> {gives}"


def description(target: Target, name: str | None) -> list[dict[str, Any]]:
    """A service, method, message or enum as .proto text, with the messages of a method."""
    with channel_of(target) as channel:
        known = schema_of(target, channel)
    if name is None:
        texts = {each: proto_text.service_text(known.service(each)) for each in known.services}
    else:
        texts = _texts(known.symbol(name))
    return [{"name": each, "text": text} for each, text in texts.items()]


def _texts(symbol: Any) -> dict[str, str]:
    if hasattr(symbol, "methods"):
        return {symbol.full_name: proto_text.service_text(symbol)}
    if hasattr(symbol, "input_type"):
        messages = (symbol.input_type, symbol.output_type)
        return {
            symbol.full_name: proto_text.method_text(symbol),
            **{each.full_name: proto_text.message_text(each) for each in messages},
        }
    if hasattr(symbol, "values"):
        return {symbol.full_name: proto_text.enum_text(symbol)}
    return {symbol.full_name: proto_text.message_text(symbol)}


def call(
    target: Target,
    method: str,
    words: Words,
    *,
    notify: bool = False,
    metadata: tuple[tuple[str, str | bytes], ...] = (),
    show_metadata: bool = False,
) -> Iterator[Any]:
    """Call a method of any kind, and yield its messages as they come."""
    if notify:
        raise click.UsageError("--notify is for msgpack-RPC: gRPC has no notifications")
    with channel_of(target) as channel:
        known = schema_of(target, channel)
        found = known.method(method)
        sent = Sending.of(known, found, words)
        answered = sent.call = invoke(channel, found, sent, target, metadata)
        try:
            for answer in answers(answered, found):
                yield plain(known, answer)
        except (grpc.RpcError, grpc.FutureCancelledError):
            if sent.failure is not None:
                raise sent.failure from None
            raise
        finally:
            answered.cancel()
            if show_metadata:
                _show_metadata(answered)


class Sending(Iterator["Message"]):
    """The messages of a call. When one cannot be made, the call is given up; `failure` says why."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = iter(messages)
        self.call: Any = None
        self.failure: Exception | None = None

    @classmethod
    def of(cls, known: Schema, method: MethodDescriptor, words: Words) -> Sending:
        """All of what was typed is read before the call begins, but not what is being typed."""
        wanted = requests(known, method, words)
        if any(word.text == "@-" for word in words.positional) and method.client_streaming:
            return cls(wanted)
        made = list(wanted)
        if len(made) != 1 and not method.client_streaming:
            raise click.UsageError(f"{method.name} takes one message, not {len(made)}")
        return cls(made)

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except click.ClickException as error:
            self.failure = error
            if self.call is None:
                raise
            self.call.cancel()
            raise StopIteration from error


def invoke(
    channel: grpc.Channel,
    method: MethodDescriptor,
    sent: Iterator[Message],
    target: Target,
    metadata: Any = (),
) -> Any:
    """Begin a call of any kind."""
    takes = "stream" if method.client_streaming else "unary"
    gives = "stream" if method.server_streaming else "unary"
    stub: Any = getattr(channel, f"{takes}_{gives}")(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request_class(method).SerializeToString,
        response_deserializer=response_class(method).FromString,
    )
    begin = stub if method.server_streaming else stub.future
    return begin(
        sent if method.client_streaming else next(sent),
        timeout=target.timeout,
        metadata=metadata,
        wait_for_ready=target.wait or None,
    )


def answers(call: Any, method: MethodDescriptor) -> Iterator[Message]:
    """The messages that a call brings, whatever its kind."""
    if method.server_streaming:
        yield from call
    else:
        yield call.result()


def plain(known: Schema, message: Message) -> dict[str, Any]:
    """A message as protobuf's JSON has it, under the names of the .proto."""
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=known.pool,
    )


def _show_metadata(call: Any) -> None:
    for title, pairs in (
        ("header", call.initial_metadata()),
        ("trailer", call.trailing_metadata()),
    ):
        for key, value in pairs or ():
            text = value.hex(" ") if isinstance(value, bytes) else value
            output.say(f"{title:7}  {key}: {text}", "dim", stderr=True)


@contextmanager
def pinging(target: Target) -> Iterator[Callable[[], None]]:
    """A function that asks for a sign of life: its health, though any answer will do."""
    with channel_of(target) as channel:
        check: Any = channel.unary_unary(f"{HEALTH}/Check")

        def ping() -> None:
            try:
                check(b"", timeout=target.timeout, wait_for_ready=target.wait or None)
            except grpc.RpcError as error:
                if error.code() in NO_ANSWERS:
                    raise

        yield ping


@contextmanager
def calling(target: Target, method: str | None, words: Words) -> Iterator[Callable[[], object]]:
    """A function that makes the same call again and again; without a method, the shortest one."""
    if method is None:
        with pinging(target) as ping:
            yield ping
        return
    with channel_of(target) as channel:
        known = schema_of(target, channel)
        found = known.method(method)
        sent = list(Sending.of(known, found, words))
        if found.client_streaming or found.server_streaming:

            def once() -> object:
                return sum(1 for _ in answers(invoke(channel, found, iter(sent), target), found))

        else:
            stub: Any = channel.unary_unary(
                f"/{found.containing_service.full_name}/{found.name}",
                request_serializer=request_class(found).SerializeToString,
                response_deserializer=response_class(found).FromString,
            )
            [message] = sent

            def once() -> object:
                return stub(message, timeout=target.timeout)

        yield once


def health(target: Target, service: str | None) -> dict[str, Any]:
    """What the server says of its health, or of that of one service."""
    with channel_of(target) as channel, _explained(target, service):
        messages = _health_messages()
        check: Any = channel.unary_unary(f"{HEALTH}/Check", **_codec(messages))
        request = messages.HealthCheckRequest(service=service or "")
        answer = check(request, timeout=target.timeout, wait_for_ready=target.wait or None)
        return _status(messages, answer, service)


def watching(target: Target, service: str | None) -> Iterator[dict[str, Any]]:
    """Its health now, and each time that it changes."""
    with channel_of(target) as channel, _explained(target, service):
        messages = _health_messages()
        watch: Any = channel.unary_stream(f"{HEALTH}/Watch", **_codec(messages))
        request = messages.HealthCheckRequest(service=service or "")
        for answer in watch(request, wait_for_ready=target.wait or None):
            yield _status(messages, answer, service)


def _health_messages() -> Any:
    try:
        from grpc_health.v1 import health_pb2
    except ImportError as error:
        raise missing("grpcio-health-checking", "grpc") from error
    return health_pb2


def _codec(messages: Any) -> dict[str, Any]:
    return {
        "request_serializer": messages.HealthCheckRequest.SerializeToString,
        "response_deserializer": messages.HealthCheckResponse.FromString,
    }


def _status(messages: Any, answer: Any, service: str | None) -> dict[str, Any]:
    name = messages.HealthCheckResponse.ServingStatus.Name(answer.status)
    return {"status": name, "service": service or ""}


@contextmanager
def _explained(target: Target, service: str | None) -> Iterator[None]:
    """Say what a status means that health itself gives."""
    try:
        yield
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise Failure(
                f"{target.address} does not tell how it is",
                why="it answers, but has no health service",
                do="let it tell: hvrpc.grpc.server(…, health=True); hvrpc ping asks any server",
            ) from error
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise Failure(
                f"{target.address} knows nothing of a service {service}",
                do=f"hvrpc list {target.address} shows what it serves",
                code=ExitCode.REFUSED,
            ) from error
        raise
