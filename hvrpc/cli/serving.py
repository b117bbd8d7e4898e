"""Serving until told to stop, as people at a terminal and service managers expect."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from typing import Any, Final, Protocol

from ..access import Access
from ..addresses import Address
from . import output
from .errors import ExitCode, Failure, missing
from .loading import registrars
from .notify import Notifier

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whether to stop: Windows delivers Ctrl-C between waits only."""


Adder = Callable[[Any], object]
"""Adds a servicer to a server."""


class Serving(Protocol):
    """Something that serves."""

    offers: list[str]
    """What it serves, in words."""

    def listen(self, address: Address, allow: Access | None) -> Address: ...

    def start(self) -> None: ...

    def stop(self, grace: float) -> bool:
        """Finish what was taken. False: something still ran when the grace was over."""
        ...


def serving_of(things: Sequence[Any], *, msgpack: bool, threads: int | None) -> Serving:
    """The server for some objects: gRPC if they are servicers, else msgpack-RPC."""
    adders = [registrars(thing) for thing in things]
    if msgpack or not any(adders):
        return MsgpackServing(things, adders)
    if not all(adders):
        names = ", ".join(
            type(thing).__name__ for thing, add in zip(things, adders, strict=True) if not add
        )
        raise Failure(
            f"{names} is no gRPC servicer, and the others are",
            do="serve it by a command of its own",
            code=ExitCode.USAGE,
        )
    return GrpcServing([add for each in adders for add in each], threads)


class MsgpackServing:
    """Objects, modules and functions; servicers of hvrpc's generator, which know both protocols."""

    def __init__(self, things: Sequence[Any], adders: Sequence[Sequence[Adder]]) -> None:
        from ..msgpack import Server, Service

        service = Service()
        try:
            for thing, add in zip(things, adders, strict=True):
                if not add:
                    service.add(thing)
            self._server = Server(service)
            for thing in things:
                if hasattr(thing, "add_to"):
                    thing.add_to(self._server)
        except (TypeError, ValueError) as error:
            raise Failure("this cannot be served", why=str(error), code=ExitCode.USAGE) from error
        self.offers = sorted(self._server.service)

    def listen(self, address: Address, allow: Access | None) -> Address:
        return self._server.listen(address, allow=allow)

    def start(self) -> None:
        self._server.start()

    def stop(self, grace: float) -> bool:
        return self._server.close(grace)


class GrpcServing:
    """Servicers, with reflection and health so that `hvrpc list` and `hvrpc health` work."""

    def __init__(self, adders: Sequence[Adder], threads: int | None) -> None:
        try:
            from .. import grpc as engine
        except ImportError as error:
            raise missing(error.name or "grpcio", "grpc") from error
        pool = futures.ThreadPoolExecutor(threads) if threads else None
        self._server = engine.server(pool, health=True, reflection=True)
        recorder: Any = Recorder(self._server)
        for add in adders:
            add(recorder)
        self.offers = sorted(recorder.services)

    def listen(self, address: Address, allow: Access | None) -> Address:
        if allow is not None:
            raise Failure("--allow is for msgpack-RPC so far", code=ExitCode.USAGE)
        self._server.add_insecure_port(address)
        return self._server.addresses[-1]

    def start(self) -> None:
        self._server.start()

    def stop(self, grace: float) -> bool:
        began = time.monotonic()
        self._server.stop(grace).wait()
        return time.monotonic() - began < grace or not grace


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
    serving: Serving, addresses: Sequence[Address], *, allow: Access | None, grace: float
) -> ExitCode:
    """Serve until SIGTERM or Ctrl-C, then finish what was taken. A second one ends that at once."""

    def begin() -> str:
        where = [serving.listen(address, allow) for address in addresses]
        serving.start()
        return f"serving {', '.join(serving.offers)} on {', '.join(map(str, where))}"

    return run_until_told(begin, lambda: serving.stop(grace))


def run_until_told(
    begin: Callable[[], str],
    end: Callable[[], bool],
    *,
    meanwhile: Callable[[], object] = lambda: None,
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
            output.say(line)
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
