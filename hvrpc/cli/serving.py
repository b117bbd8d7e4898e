"""Serving until told to stop, as people at a terminal and service managers expect."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from ..access import Access
from ..addresses import Address
from ..msgpack.loops import LoopThread
from ..tls import Tls
from . import output
from .errors import ExitCode, Failure, missing
from .loading import is_async, registrars
from .notify import Notifier

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whether to stop: Windows delivers Ctrl-C between waits only."""


Adder = Callable[[Any], object]
"""Adds a servicer to a server."""


T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What is asked of callers."""

    allow: Access | None = None
    tls: Tls | None = None


class Serving(Protocol):
    """Something that serves."""

    offers: list[str]
    """What it serves, in words."""

    def listen(self, address: Address, wanted: Wanted) -> Address: ...

    def start(self) -> None: ...

    def stop(self, grace: float) -> bool:
        """Finish what was taken. False: something still ran when the grace was over."""
        ...


def serving_of(things: Sequence[Any], *, msgpack: bool, threads: int | None) -> Serving:
    """The server for some objects: gRPC if they are servicers, else msgpack-RPC.

    It runs on asyncio if one of them is a servicer of coroutines. (Other objects may have coroutines
    as methods on any msgpack-RPC server.)
    """
    adders = [registrars(thing) for thing in things]
    on_asyncio = any(add and is_async(thing) for thing, add in zip(things, adders, strict=True))
    try:
        if msgpack or not any(adders):
            return (AioMsgpackServing if on_asyncio else MsgpackServing)(things)
        _check_all_are_servicers(things, adders)
        flat = [add for each in adders for add in each]
        return AioGrpcServing(flat) if on_asyncio else GrpcServing(flat, threads)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("grpc", "google", "hpack", "grpc_health"):
            raise
        raise missing(error.name or "grpcio", "grpc") from error
    except (TypeError, ValueError) as error:
        raise Failure("this cannot be served", why=str(error), code=ExitCode.USAGE) from error


def _check_all_are_servicers(things: Sequence[Any], adders: Sequence[Sequence[Adder]]) -> None:
    others = [type(each).__name__ for each, add in zip(things, adders, strict=True) if not add]
    if others:
        raise Failure(
            f"{', '.join(others)} is no gRPC servicer, and the others are",
            do="serve it by a command of its own",
            code=ExitCode.USAGE,
        )


def _offer(server: Any, things: Sequence[Any]) -> list[str]:
    """Offer objects, and servicers of hvrpc's generator, on a msgpack-RPC server."""
    for thing in things:
        if hasattr(thing, "add_to"):
            server.add(thing)
        else:
            server.service.add(thing)
    return sorted(server.service)


class MsgpackServing:
    """Objects, modules, functions and servicers, over msgpack-RPC."""

    def __init__(self, things: Sequence[Any]) -> None:
        from ..msgpack import Server, Service

        self._server = Server(Service())
        self.offers = _offer(self._server, things)

    def listen(self, address: Address, wanted: Wanted) -> Address:
        return self._server.listen(address, allow=wanted.allow, tls=wanted.tls)

    def start(self) -> None:
        self._server.start()

    def stop(self, grace: float) -> bool:
        return self._server.close(grace)


class AioMsgpackServing:
    """The same on asyncio, for servicers of coroutines."""

    def __init__(self, things: Sequence[Any]) -> None:
        from ..msgpack import Service, aio

        self._loop = Loop()
        self._server = aio.Server(Service())
        self.offers = _offer(self._server, things)

    def listen(self, address: Address, wanted: Wanted) -> Address:
        return self._server.listen(address, allow=wanted.allow, tls=wanted.tls)

    def start(self) -> None:
        self._loop.run(self._server.start())

    def stop(self, grace: float) -> bool:
        return self._loop.finish(self._server.close(grace))


class GrpcServing:
    """Servicers, with reflection and health so that `hvrpc list` and `hvrpc health` work."""

    def __init__(self, adders: Sequence[Adder], threads: int | None) -> None:
        from .. import grpc as engine

        pool = futures.ThreadPoolExecutor(threads) if threads else None
        self._server = engine.server(pool, health=True, reflection=True)
        self.offers = record(self._server, adders)

    def listen(self, address: Address, wanted: Wanted) -> Address:
        return _listen(self._server, address, wanted)

    def start(self) -> None:
        self._server.start()

    def stop(self, grace: float) -> bool:
        began = time.monotonic()
        self._server.stop(grace).wait()
        return time.monotonic() - began < grace or not grace


class AioGrpcServing:
    """The same on asyncio, for servicers of coroutines."""

    def __init__(self, adders: Sequence[Adder]) -> None:
        from ..grpc import aio

        self._loop = Loop()
        self._server = aio.server(health=True, reflection=True)
        self.offers = record(self._server, adders)

    def listen(self, address: Address, wanted: Wanted) -> Address:
        return _listen(self._server, address, wanted)

    def start(self) -> None:
        self._loop.run(self._server.start())

    def stop(self, grace: float) -> bool:
        began = time.monotonic()
        self._loop.finish(self._server.stop(grace))
        return time.monotonic() - began < grace or not grace


def _listen(server: Any, address: Address, wanted: Wanted) -> Address:
    if wanted == Wanted():
        server.add_insecure_port(address)
    else:
        from ..grpc import server_credentials

        server.add_secure_port(address, server_credentials(wanted.allow, wanted.tls))
    where: Address = server.addresses[-1]
    return where


class Loop:
    """An event loop in a thread: the main one waits for signals, which loops of Windows do not tell."""

    def __init__(self) -> None:
        self._thread = LoopThread()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        result: T = self._thread.run(coroutine).result()
        return result

    def finish(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the last one, and end the loop."""
        try:
            return self.run(coroutine)
        finally:
            self._thread.close()


def record(server: Any, adders: Sequence[Adder]) -> list[str]:
    """Add servicers to a server, and return the names of their services."""
    recorder = Recorder(server)
    for add in adders:
        add(recorder)
    return sorted(recorder.services)


class Recorder:
    """Stands for a server while servicers are added, and notes the names of their services."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.services: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        handlers = tuple(handlers)
        self.services |= {each.service_name() for each in handlers if hasattr(each, "service_name")}
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        self.services.add(service)
        self._server.add_registered_method_handlers(service, handlers)


def run(
    serving: Serving, addresses: Sequence[Address], wanted: Wanted, *, grace: float
) -> ExitCode:
    """Serve until SIGTERM or Ctrl-C, then finish what was taken. A second one ends that at once."""

    def begin() -> str:
        where = [serving.listen(address, wanted) for address in addresses]
        serving.start()
        return f"serving {', '.join(serving.offers)} on {', '.join(map(str, where))}"

    return run_until_told(begin, lambda: serving.stop(grace))


def run_until_told(
    begin: Callable[[], str],
    end: Callable[[], bool],
    *,
    meanwhile: Callable[[], object] = lambda: None,
    on_stderr: bool = False,
) -> ExitCode:
    """Begin, print the line that it returns, and end at SIGTERM or Ctrl-C.

    `meanwhile` is called about once a second. When `end` returns False, or is interrupted, the process
    leaves although something still runs.
    """
    notifier = Notifier.of(os.environ, os.getpid())
    stop = threading.Event()
    code, finished = ExitCode.OK, False
    with _told_to_stop(stop):
        try:
            line = begin()
            output.say(line, stderr=on_stderr)
            sys.stdout.flush()  # whoever waits for this line may read it through a pipe
            notifier.ready(line)
            while not stop.wait(min(LOOK_EVERY, (notifier.watchdog or LOOK_EVERY) / 3)):
                notifier.alive()
                meanwhile()
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        notifier.stopping()
        try:
            finished = end()
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
    if not finished:
        output.say("calls were still running, and are cut off", stderr=True)
        _leave(code)
    return code


def _leave(code: ExitCode) -> None:
    """End now. Python would wait for threads that nobody can end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def _told_to_stop(stop: threading.Event) -> Iterator[None]:
    """SIGTERM sets the event, as service managers expect; the second time it interrupts. On Windows
    Ctrl-Break does, which is what one process can send another there."""

    def tell(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = [signal.SIGTERM]
    if sys.platform == "win32":
        numbers.append(signal.SIGBREAK)
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.signal(number, tell) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
