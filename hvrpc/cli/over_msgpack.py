"""What the commands do, over msgpack-RPC. `over_grpc` has the same functions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from ..errors import CallError, HvrpcError, RemoteError
from ..msgpack import Client, connect
from ..msgpack.values import BadValue
from .errors import ExitCode, Failure
from .targets import Target, speaks_otherwise
from .words import Word, Words

PING: Final = "$/ping"
"""Answered at once by a peer of ours; any other answers an error, which is an answer too."""

OURS: Final = frozenset({"timeout", "idempotent", "window"})
"""Keywords that `Client.call` and `Client.stream` take for themselves."""


def client_of(target: Target) -> Client:
    """Connect. One attempt, unless the user wants to wait."""
    began = time.perf_counter()
    try:
        client = connect(
            target.address,
            timeout=target.timeout,
            retry=None if target.wait else False,
            hello=not target.foreign,
            expect_peer=target.expect_peer or None,
            tls=target.tls,
        )
    except CallError as error:
        if speaks_otherwise(error):
            error.add_note("if it speaks gRPC, leave --msgpack out")
        raise
    target.tell_connected("msgpack-RPC", client.peer, time.perf_counter() - began)
    return client


def methods_of(target: Target, client: Client) -> dict[str, dict[str, Any]] | None:
    """What the other side says of its methods; None when it is a peer that cannot tell."""
    if target.foreign:
        return None
    try:
        return {each["name"]: each for each in client.methods()}
    except RemoteError:
        return None


def listing(target: Target, service: str | None) -> list[dict[str, Any]]:
    """A row for each method; with `service` only those whose names begin with it and a dot."""
    with client_of(target) as client:
        methods = methods_of(target, client)
    if methods is None:
        raise Failure(
            f"{target.address} cannot tell what it offers",
            why="it speaks msgpack-RPC, but is not a server of hvrpc's",
            do="look its methods up in its documentation; hvrpc call works all the same",
            code=ExitCode.REFUSED,
        )
    prefix = "" if service is None else f"{service}."
    rows = [
        {"method": name, "signature": signature_of(each), "doc": each.get("doc", "")}
        for name, each in methods.items()
        if name.startswith(prefix) or name == service
    ]
    if not rows and service is not None:
        raise _no_such(target, service, methods)
    return rows


def description(target: Target, name: str | None) -> list[dict[str, Any]]:
    """Everything that is known of a method, of all that begin with `name.`, or of all."""
    with client_of(target) as client:
        methods = methods_of(target, client)
    if methods is None:
        listing(target, None)
        return []
    chosen = [
        {**each, "signature": signature_of(each)}
        for key, each in methods.items()
        if name is None or key == name or key.startswith(f"{name}.")
    ]
    if not chosen and name is not None:
        raise _no_such(target, name, methods)
    return chosen


def _no_such(target: Target, name: str, methods: dict[str, Any]) -> Failure:
    return Failure(
        f"{target.address} offers no {name}",
        why=f"it offers {', '.join(methods) or 'nothing'}",
        do=f"hvrpc list --msgpack {target.address} shows its methods",
        code=ExitCode.REFUSED,
    )


def signature_of(method: dict[str, Any]) -> str:
    """A method as it would be written in Python."""
    parameters: list[str] = []
    for each in method.get("params", ()):
        if each.get("kind") == "named" and "*" not in parameters:
            parameters.append("*")
        parameters.append(_parameter(each))
    result = method.get("result", "Any")
    if method.get("stream"):
        result = f"stream of {result}"
    return f"{method['name']}({', '.join(parameters)}) -> {result}"


def _parameter(each: dict[str, Any]) -> str:
    text = f"{each['name']}: {each['type']}" if "type" in each else str(each["name"])
    return f"{text} = {each['default']}" if "default" in each else text


@contextmanager
def _packed() -> Iterator[None]:
    """A value that msgpack does not have was typed by the user."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, HvrpcError) and not isinstance(error, BadValue):
            raise
        raise click.UsageError(str(error)) from error


def call(
    target: Target, method: str, words: Words, *, notify: bool = False, **_: Any
) -> Iterator[Any]:
    """Call a method, and yield its result or the items of it as they come."""
    with client_of(target) as client, _packed():
        known = (methods_of(target, client) or {}).get(method)
        positional, named = arguments(known, words)
        if notify:
            if named:
                raise click.UsageError("a notification takes no parameters by name")
            client.notify(method, *positional)
        elif known is not None and known.get("stream"):
            if taken := OURS & named.keys():
                raise click.UsageError(f"give {', '.join(taken)} by position, without its name")
            with client.stream(method, *positional, timeout=target.timeout, **named) as items:
                yield from items
        elif OURS & named.keys():
            # Names of ours are the method's here; the deadline then stays on this side.
            remote = client.remote
            for part in method.split("."):
                remote = getattr(remote, part)
            yield remote(*positional, **named)
        else:
            yield client.call(method, *positional, timeout=target.timeout, **named)


def arguments(known: dict[str, Any] | None, words: Words) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named parameters, each as the type that the method wants, if that is known."""
    wanted = {each["name"]: each.get("type", "") for each in (known or {}).get("params", ())}
    in_order = [*wanted.values(), *([""] * len(words.positional))]
    if len(words.positional) == 1 and not words.named:
        word = words.positional[0]
        if word.text.lstrip().startswith("{") and isinstance(word.value(), dict):
            return [], word.value()
    positional = [word.value(kind) for word, kind in zip(words.positional, in_order, strict=False)]
    return positional, _named(words.named, wanted)


def _named(named: list[tuple[str, Word]], wanted: dict[str, str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, word in named:
        if name in result:
            raise click.UsageError(f"{name} is given twice; a list is written {name}='[1, 2]'")
        result[name] = word.value(wanted.get(name, ""))
    return result


@contextmanager
def pinging(target: Target) -> Iterator[Callable[[], None]]:
    """A function that asks for a sign of life, and waits for it."""
    with client_of(target) as client:

        def ping() -> None:
            try:
                client.call(PING, timeout=target.timeout)
            except RemoteError:
                pass

        yield ping


@contextmanager
def calling(target: Target, method: str | None, words: Words) -> Iterator[Callable[[], object]]:
    """A function that makes the same call again and again; without a method, the shortest one."""
    if method is None:
        with pinging(target) as ping:
            yield ping
        return
    with client_of(target) as client:
        known = (methods_of(target, client) or {}).get(method)
        positional, named = arguments(known, words)
        if known is not None and known.get("stream"):

            def once() -> object:
                with client.stream(method, *positional, **named) as items:
                    return sum(1 for _ in items)

        elif named:

            def once() -> object:
                return client.call(method, *positional, **named)

        else:

            def once() -> object:
                return client.call(method, *positional)

        yield once


def health(target: Target, service: str | None) -> dict[str, Any]:
    """Whether it answers: msgpack-RPC knows nothing of health beyond that."""
    if service is not None:
        raise click.UsageError("health of a single service is something that gRPC has")
    with client_of(target) as client:
        started = time.perf_counter()
        try:
            client.call(PING, timeout=target.timeout)
        except RemoteError:
            pass
        took = time.perf_counter() - started
        return {"status": "SERVING", "peer": str(client.peer), "ms": round(took * 1000, 3)}
