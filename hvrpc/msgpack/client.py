"""The blocking client.

    with hvrpc.msgpack.connect("hvsock://My VM/5001") as client:
        client.call("add", 1, 2)
        client.remote.add(1, 2)

Any number of threads may share a client: it has one connection, and whoever waits for an answer
reads for all (`hvrpc.session.threads`).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import tenacity

from .. import sockets
from ..access import Access, Peer, Rule
from ..addresses import Address
from ..errors import CallCancelled, DeadlineExceeded, HvrpcError, Outcome
from ..security import Security
from ..session.core import Call
from ..session.opening import OnAttempt, Policy
from ..session.repeating import in_doubt, may_have_run, repeating
from ..session.state import Heartbeat
from ..session.threads import Connection, Session
from ..sockets import Options, Stream
from ..tls import Tls
from .batch import Batch, Pending
from .calling import (
    GRACE,
    TIMEOUT,
    UNSET,
    Remote,
    Timeout,
    late,
    names_of,
    request,
    request_stream,
    stream_failure,
)
from .core import METHODS, MsgpackCore
from .extensions import Extensions
from .limits import DEFAULT, Limits
from .loops import LoopThread
from .replies import failure_of
from .service import Service
from .streams import WINDOW, ItemCall


def connect(
    address: Address | str,
    *,
    timeout: float | None = TIMEOUT,
    retry: tenacity.BaseRetrying | bool | None = None,
    on_attempt: OnAttempt | None = None,
    dead_after: float = Heartbeat.DEAD_AFTER,
    watch_idle: bool = False,
    hello: bool = True,
    service: Any = None,
    idempotent: Collection[str] = (),
    limits: Limits = DEFAULT,
    extensions: Extensions | None = None,
    options: Options = sockets.DEFAULT,
    expect_peer: Access | Rule | Iterable[Rule] | None = None,
    tls: Tls | ssl.SSLContext | None = None,
) -> Client:
    """Connect, and return the client once the other side has answered.

    `timeout` bounds this, and every call that does not say otherwise. `retry` takes a tenacity policy
    for opening (False: one attempt), `on_attempt` is told about each attempt that failed.
    `dead_after` is how long a silent peer is believed in; with `watch_idle` also while nothing is
    called. `hello=False` is for peers that are not ours and do not answer unknown methods.
    `service` offers methods to the other side. `idempotent` names methods that may be carried out
    twice, so that they are repeated when a connection is lost. `expect_peer` says who has to be at the
    other end, by the rules of :mod:`hvrpc.access`; `tls` (a :class:`hvrpc.Tls`) encrypts.

    Raises :class:`hvrpc.OpenFailed`, which lists what was tried, :class:`hvrpc.AccessDenied` when the
    other side is not who it should be, or does not let this one in, :class:`hvrpc.AddressError` or
    :class:`hvrpc.CredentialsError`.
    """
    client = Client(
        address,
        timeout=timeout,
        retry=retry,
        on_attempt=on_attempt,
        dead_after=dead_after,
        watch_idle=watch_idle,
        hello=hello,
        service=service,
        idempotent=idempotent,
        limits=limits,
        extensions=extensions,
        options=options,
        expect_peer=expect_peer,
        tls=tls,
    )
    try:
        client.open()
    except BaseException:
        client.close(0)
        raise
    return client


class Caller:
    """What can be called. Everything but where the connection comes from."""

    address: str = ""
    _timeout: float | None = TIMEOUT
    _idempotent: Collection[str] = ()

    def _connection(self, deadline: float | None, now: float) -> Connection[MsgpackCore]:
        raise NotImplementedError

    def _repeat(
        self, failure: HvrpcError, repetition: int, deadline: float | None, idempotent: bool
    ) -> bool:
        return False

    def _retire(self, connection: Connection[MsgpackCore]) -> None:
        pass

    # --- Calls ---------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        /,
        *params: Any,
        timeout: Timeout = UNSET,
        idempotent: bool = False,
        **named: Any,
    ) -> Any:
        """Call a method and wait for its result.

        `timeout` in seconds, None for none; given here, and not to the client, it also tells the
        server when to give up. `idempotent`: repeat it if the connection is lost, even if it may
        have run. Parameters by name are for servers of ours.

        Raises :class:`hvrpc.RemoteError` when the method does, :class:`hvrpc.DeadlineExceeded`,
        :class:`hvrpc.ConnectionLost`, :class:`hvrpc.OpenFailed`, which are all
        :class:`hvrpc.CallError`: `error.outcome` says whether the call may have run. ValueError for
        a parameter that cannot be packed: nothing was sent.
        """
        if timeout is not UNSET or named:
            limit: Any = self._timeout if timeout is UNSET else timeout
            options = None if timeout is UNSET or timeout is None else {"timeout": timeout}
            return self._call(method, params, named, limit, options, idempotent)
        # The usual case, written out: a function call more would cost a percent.
        now = time.monotonic()
        limit = self._timeout
        deadline = None if limit is None else now + limit
        connection = self._connection(deadline, now)
        core = connection.core
        call = Call()
        try:
            item = core.prepare(method, params, call)
            if not connection.call(item, call, deadline, limit):
                raise late(core, call, method, self.address, limit)
        except BaseException:
            self._abandon(connection, call)
            raise
        if call.ok and not core.draining:
            return call.value
        return self._settle(connection, call, method, params, deadline, idempotent)

    def _settle(
        self,
        connection: Connection[MsgpackCore],
        call: Call,
        method: str,
        params: tuple[Any, ...],
        deadline: float | None,
        idempotent: bool,
    ) -> Any:
        """A call has ended in another way than with a value: repeat it, or raise."""
        if connection.core.draining:
            self._retire(connection)
        if call.ok:
            return call.value
        failure = failure_of(call, method=method, address=self.address)
        may = idempotent or method in self._idempotent
        if not self._repeat(failure, 1, deadline, may):
            raise failure
        left = None if deadline is None else deadline - time.monotonic()
        with repeating(failure):
            return self._call(method, params, None, left, None, idempotent, repetition=1)

    def _call(
        self,
        method: str,
        params: tuple[Any, ...],
        named: Mapping[str, Any] | None,
        limit: float | None,
        options: Mapping[str, Any] | None,
        idempotent: bool,
        repetition: int = 0,
    ) -> Any:
        now = time.monotonic()
        deadline = None if limit is None else now + limit
        while True:
            connection = self._connection(deadline, now)
            core = connection.core
            call = Call()
            try:
                if named or options:
                    request(core, method, params, call, named, options, self.address)
                else:
                    core.request(method, params, call)
                connection.push()
                if not connection.wait(call, deadline):
                    raise late(connection.core, call, method, self.address, limit)
            except BaseException:
                self._abandon(connection, call)
                raise
            if core.draining:
                self._retire(connection)
            if call.ok:
                return call.value
            failure = failure_of(call, method=method, address=self.address)
            repetition += 1
            if not self._repeat(
                failure, repetition, deadline, idempotent or method in self._idempotent
            ):
                raise failure
            now = time.monotonic()
            if options and deadline is not None:
                options = {"timeout": max(deadline - now, 0.0)}
            if may_have_run(failure):
                left = None if deadline is None else deadline - now
                with in_doubt():
                    return self._call(method, params, named, left, options, idempotent, repetition)

    def _abandon(self, connection: Connection[MsgpackCore], call: Call) -> None:
        """Nobody waits for this call any more: say so, if that can be done at once."""
        if call.key is not None and not connection.ended:
            connection.core.forget(call)
            connection.push()

    def notify(self, method: str, /, *params: Any) -> None:
        """Send a notification: nobody answers, and nobody tells whether it arrived.

        Raises :class:`hvrpc.OpenFailed` when there is no connection, and
        :class:`hvrpc.DeadlineExceeded` when the other side takes nothing more.
        """
        now = time.monotonic()
        deadline = None if self._timeout is None else now + self._timeout
        connection = self._connection(deadline, now)
        connection.core.notify(method, params)
        if not connection.flush(deadline):
            raise DeadlineExceeded(
                "the other side reads too slowly",
                address=self.address,
                method=method,
                outcome=Outcome.MAY_HAVE_RUN,
            )

    def stream(
        self,
        method: str,
        /,
        *params: Any,
        timeout: Timeout = UNSET,
        window: int = WINDOW,
        **named: Any,
    ) -> ResultStream:
        """Call a method that yields its result, and iterate over the items as they come.

        `timeout` bounds the wait for each item. The server sends at most `window` items ahead, 1 to
        1024. Use it in a `with` block: leaving that early cancels the method. Iterating raises what
        :meth:`call` raises; :class:`hvrpc.CallError` for a peer that is not ours.
        """
        limit = self._timeout if timeout is UNSET else timeout
        now = time.monotonic()
        deadline = None if limit is None else now + limit  # type: ignore[operator]
        connection = self._connection(deadline, now)
        call = request_stream(connection.core, method, params, named, window, self.address)
        connection.push()
        return ResultStream(self, connection, call, method, limit, window)  # type: ignore[arg-type]

    def batch(self) -> Batch:
        """Collect calls and send them in one go.

        with client.batch() as batch:
            sums = [batch.call("add", i, i) for i in range(64)]
        sums[0].result()
        """
        return Batch(self)

    @property
    def remote(self) -> Remote:
        """The other side's methods as attributes: `client.remote.math.add(1, 2)`."""
        return Remote(self, "")

    def methods(self) -> list[dict[str, Any]]:
        """What the other side offers: names, parameters, results, documentation.

        Raises :class:`hvrpc.RemoteError` when the other side is no hvrpc peer.
        """
        found: list[dict[str, Any]] = self.call(METHODS)
        return found


class Client(Caller):
    """A client with a connection of its own, replaced when it is lost. Made by :func:`connect`."""

    def __init__(
        self,
        address: Address | str,
        *,
        timeout: float | None = TIMEOUT,
        retry: tenacity.BaseRetrying | bool | None = None,
        on_attempt: OnAttempt | None = None,
        dead_after: float = Heartbeat.DEAD_AFTER,
        watch_idle: bool = False,
        hello: bool = True,
        service: Any = None,
        idempotent: Collection[str] = (),
        limits: Limits = DEFAULT,
        extensions: Extensions | None = None,
        options: Options = sockets.DEFAULT,
        expect_peer: Access | Rule | Iterable[Rule] | None = None,
        tls: Tls | ssl.SSLContext | None = None,
    ) -> None:
        where = Address.parse(address)
        self.address = str(where)
        self._timeout = timeout
        self._idempotent = names_of(idempotent)
        self._hello = hello
        self._service = Service.of(service, extensions or ())
        self._limits = limits
        self._extensions = extensions
        self._loop = LoopThread()
        self._session: Session[MsgpackCore] = Session(
            where,
            self._make_core,
            policy=Policy.of(retry, on_attempt),
            options=options,
            security=Security.of_client(expect_peer, tls),
            dead_after=dead_after,
            serving=bool(self._service),
            watch_idle=watch_idle,
        )
        self._connection = self._session.connection  # type: ignore[method-assign]
        self._retire = self._session.retire  # type: ignore[method-assign]

    def _make_core(self, stream: Stream) -> MsgpackCore:
        core = MsgpackCore(
            self._service,
            says_hello=self._hello,
            limits=self._limits,
            extensions=self._extensions,
            peer=stream.peer,
            descriptions=self._service.describe,
        )
        core.caller = self
        core.on_queued = self._flush
        core.on_queued_in_loop = self._flush_from_loop
        core.run_coroutine = self._loop.run
        return core

    def _flush(self) -> None:
        current = self._session.current
        if current is not None:
            current.flush()

    def _flush_from_loop(self) -> Awaitable[object] | None:
        current = self._session.current
        return None if current is None else flush_from_loop(current)

    def _repeat(
        self, failure: HvrpcError, repetition: int, deadline: float | None, idempotent: bool
    ) -> bool:
        return self._session.repeat(failure, repetition, deadline, idempotent=idempotent)

    def open(self) -> None:
        """Open the connection now, if there is none. Raises :class:`hvrpc.OpenFailed`."""
        now = time.monotonic()
        self._session.connection(None if self._timeout is None else now + self._timeout, now)

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end, while there is a connection."""
        current = self._session.current
        return None if current is None else current.stream.peer

    @property
    def connections(self) -> int:
        """How many connections there have been: more than one means that it has healed."""
        return self._session.opened

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._session.closed

    def close(self, grace: float = GRACE) -> None:
        """Wait for calls under way, at most `grace` seconds, and close. May be called twice.

        Calls that are made afterwards raise :class:`hvrpc.SessionClosed`.
        """
        self._session.close(grace)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<msgpack Client of {self.address}, {'closed' if self.closed else 'open'}>"


def flush_from_loop(connection: Connection[MsgpackCore]) -> Awaitable[object] | None:
    """Send what a coroutine has queued. Waiting for room is left to another thread."""
    connection.work_done()
    if connection.push():
        return None
    return asyncio.get_running_loop().run_in_executor(None, connection.flush)


class PeerCaller(Caller):
    """The way back: calls on a connection that the other side has opened."""

    def __init__(self, connection: Callable[[], Connection[MsgpackCore]], address: str) -> None:
        self._get = connection
        self.address = address

    def _connection(self, deadline: float | None, now: float) -> Connection[MsgpackCore]:
        return self._get()


class ResultStream(Iterator[Any]):
    """The items of a streaming result, as they come. Made by :meth:`Client.stream`.

    A connection that is lost raises :class:`hvrpc.ConnectionLost`; it is never taken for the end.
    """

    def __init__(
        self,
        caller: Caller,
        connection: Connection[MsgpackCore],
        call: ItemCall,
        method: str,
        limit: float | None,
        window: int,
    ) -> None:
        self._caller = caller
        self._connection = connection
        self._call = call
        self._method = method
        self.timeout = limit
        """Seconds to wait for each item. It may be changed between two of them."""
        self._grant_after = max(window // 2, 1)
        self._taken = 0
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._over:
            raise StopIteration
        call = self._call
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        while True:
            if call.items:
                return self._take()
            if call.ended:
                # The end was seen; items that came before it may have been seen too late.
                if call.items:
                    return self._take()
                self._finish()
            call.done = False
            if call.items or call.ended:
                continue
            try:
                if not self._connection.wait(call, deadline):
                    raise late(
                        self._connection.core,
                        call,
                        self._method,
                        self._caller.address,
                        self.timeout,
                    )
            except BaseException:
                self.cancel()
                raise

    def _take(self) -> Any:
        value = self._call.items.popleft()
        self._taken += 1
        if self._taken >= self._grant_after and not self._call.ended:
            self._connection.core.grant(self._call, self._taken)
            self._taken = 0
            self._connection.push()
        return value

    def _finish(self) -> None:
        self._over = True
        failure = stream_failure(self._call, self._method, self._caller.address)
        raise failure or StopIteration

    def cancel(self) -> None:
        """Tell the server to stop. The stream is over; a thread that waits for an item is told so."""
        if not self._over:
            self._over = True
            self._call.fail(
                CallCancelled(
                    "the stream was given up", address=self._caller.address, method=self._method
                )
            )
            self._caller._abandon(self._connection, self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        if not self._over:
            self.cancel()


__all__ = ["Batch", "Client", "Pending", "Remote", "ResultStream", "connect"]
