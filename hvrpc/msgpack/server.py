"""The blocking server.

    server = hvrpc.msgpack.Server(Tools())
    server.listen("hvsock://any/5001")
    server.start()
    …
    server.close(grace=5)

Each connection has a thread, which runs quick methods itself; a method that takes longer does not
keep the others waiting (`hvrpc.session.threads`). Methods may block, call back the caller, or be
coroutines.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from .. import sockets
from ..access import Access, Rule
from ..addresses import Address
from ..security import Security
from ..session.state import Heartbeat
from ..session.threads import Connection
from ..session.threads import Server as Acceptor
from ..session.threads.server import MAX_CONNECTIONS
from ..sockets import Options, Stream
from ..stopping import GRACE, serve_until_told
from ..tls import Tls
from .client import PeerCaller, flush_from_loop
from .core import MsgpackCore
from .extensions import Extensions
from .limits import DEFAULT, Limits
from .loops import LoopThread
from .service import Service, SupportsAddTo, parted


class Server:
    """Serves an object, a module, functions, servicers that were generated, a list of these, or a
    :class:`hvrpc.msgpack.Service`.

    Next: :meth:`add` for more servicers, :meth:`listen`, then :meth:`start`, and :meth:`close` in the
    end. Making it raises TypeError for a service without methods, and for a type
    hint that cannot be checked.
    """

    def __init__(
        self,
        service: Any = None,
        *,
        limits: Limits = DEFAULT,
        max_connections: int = MAX_CONNECTIONS,
        extensions: Extensions | None = None,
        tracebacks: bool = False,
        dead_after: float = Heartbeat.DEAD_AFTER,
    ) -> None:
        """`tracebacks` lets callers of ours see where a method raised: useful, and indiscreet."""
        plain, servicers = parted(service)
        self.service = Service.of(plain, extensions or ())
        self._limits = limits
        self._extensions = extensions
        self._tracebacks = tracebacks
        self._loop = LoopThread()
        self._acceptor: Acceptor[MsgpackCore] = Acceptor(
            self._make_core, max_connections=max_connections, dead_after=dead_after
        )
        for servicer in servicers:
            self.add(servicer)

    def _make_core(
        self, stream: Stream, connection: Callable[[], Connection[MsgpackCore]]
    ) -> MsgpackCore:
        core = MsgpackCore(
            self.service,
            says_hello=False,
            limits=self._limits,
            extensions=self._extensions,
            peer=stream.peer,
            tracebacks=self._tracebacks,
            descriptions=self.service.describe,
        )
        core.caller = PeerCaller(connection, str(stream.peer))
        core.on_queued = lambda: connection().flush()
        core.on_queued_in_loop = lambda: flush_from_loop(connection())
        core.run_coroutine = self._loop.run
        return core

    def add(self, servicer: SupportsAddTo[Self]) -> None:
        """Offer a servicer that `hvrpc codegen` has made the class of. Raises TypeError for one that is
        not made for this kind of server, ValueError for a method that is offered already.
        """
        servicer.add_to(self)

    def listen(
        self,
        address: Address | str,
        *,
        options: Options = sockets.DEFAULT,
        allow: Access | Rule | Iterable[Rule] | None = None,
        tls: Tls | ssl.SSLContext | None = None,
        backlog: int = sockets.DEFAULT_BACKLOG,
    ) -> Address:
        """Listen on an address, on several by calling it again; returns it with its port.

        `allow` says who may call, `tls` (a :class:`hvrpc.Tls`) encrypts. Callers wait until
        :meth:`start`. Raises :class:`hvrpc.AddressError`, :class:`hvrpc.CredentialsError`,
        :class:`hvrpc.UnsupportedError` or :class:`hvrpc.ListenError`.
        """
        security = Security.of_server(allow, tls)
        return self._acceptor.listen(address, options=options, security=security, backlog=backlog)

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return self._acceptor.addresses

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return self._acceptor.connections

    def start(self) -> None:
        """Begin to serve, and return at once."""
        self._acceptor.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it was closed; False when the time was up first."""
        return self._acceptor.wait(timeout)

    def close(self, grace: float = GRACE) -> bool:
        """Finish what was taken, refuse the rest so that callers go elsewhere, and close.

        False when methods were still running after `grace` seconds.
        """
        finished = self._acceptor.close(grace)
        self._loop.close()
        return finished

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        places = ", ".join(map(str, self.addresses)) or "nowhere"
        return f"<msgpack Server on {places}>"


def serve(
    address: Address | str,
    service: Any,
    *,
    ready: Callable[[Address], object] | None = None,
    grace: float = GRACE,
    allow: Access | Rule | Iterable[Rule] | None = None,
    tls: Tls | ssl.SSLContext | None = None,
    **settings: Any,
) -> None:
    """Serve until told to stop, by Ctrl-C or SIGTERM.

    `ready` is called with the address once callers can connect; `grace` is how long methods under
    way may take in the end; other settings are those of :class:`Server`. Raises
    :class:`hvrpc.AddressError`, :class:`hvrpc.UnsupportedError` or :class:`hvrpc.ListenError` when it
    cannot listen.
    """
    server = Server(service, **settings)
    where = server.listen(address, allow=allow, tls=tls)

    def begin() -> None:
        server.start()
        if ready is not None:
            ready(where)

    serve_until_told(begin, lambda: server.close(grace))
