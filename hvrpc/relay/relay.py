"""Listens, and joins every caller to a connection of its own to the target."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Protocol, Self

from .. import sockets
from ..access import Access, Peer, RateLimitedLog
from ..addresses import Address
from ..errors import HvrpcError, StreamClosed
from ..security import PLAIN, Security
from ..sockets import Listener, Options, Stream
from ..sockets.handshake import shake_hands
from ..tls import End
from .joint import LINGER, Joint, Line

logger = logging.getLogger("hvrpc.relay")

MAX_CONNECTIONS: Final = 1000
"""Connections at once: each has two threads and, while much passes, two large buffers."""
ACCEPT_AGAIN_AFTER: Final = 0.1
"""Seconds to wait when accepting fails, for want of file descriptors say."""
CUT_PATIENCE: Final = 5.0
"""Seconds for threads to notice that their connection was cut."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What has happened so far."""

    accepted: int = 0
    """Callers that were let in."""
    open: int = 0
    """How many of them are there now."""
    refused: int = 0
    """Callers that the rules do not admit, or that were too many."""
    failed: int = 0
    """Callers that could not be passed on: the target was not reached, say."""
    to_target: int = 0
    """Bytes."""
    to_caller: int = 0
    """Bytes."""

    def __str__(self) -> str:
        return (
            f"{self.open} open, {self.accepted} accepted, {self.refused} refused,"
            f" {self.failed} failed, {self.to_target:,} bytes to the target,"
            f" {self.to_caller:,} back"
        )


class Target(Line, Protocol):
    """What a caller is joined to. A :class:`hvrpc.sockets.Stream` is one."""

    @property
    def address(self) -> Address: ...


class CountingAccess(Access):
    """Rules that remember how often they said no."""

    def __init__(self, rules: Access) -> None:
        super().__init__(rules.admits)
        self._text = str(rules)
        self.refused = 0

    def log_refusal(self, peer: Peer, address: object) -> None:
        self.refused += 1  # by the one thread that accepts
        super().log_refusal(peer, address)


def listening_on(
    address: Address | str, security: Security, options: Options
) -> tuple[Listener, CountingAccess | None]:
    """A listener for a relay. With TLS, other machines may reach a TCP port."""
    access = None if security.peers is None else CountingAccess(security.peers)
    if security.tls is not None:
        options = replace(options, remote_tcp_without_tls=True)
    return sockets.listen(address, allow=access, options=options), access


class Relay:
    """A listener whose callers are passed on. Use it in a `with` statement, or close it.

    `dial` opens the other connection for a caller, in a thread of its own; what it raises as a
    :class:`hvrpc.HvrpcError` is logged, and the caller is cut off. Most want :meth:`between`.
    """

    def __init__(
        self,
        listener: Listener,
        dial: Callable[[Stream], Target],
        *,
        name: str = "",
        max_connections: int = MAX_CONNECTIONS,
        linger: float = LINGER,
        access: CountingAccess | None = None,
        tls: End | None = None,
    ) -> None:
        self.name: Final = name or str(listener.address)
        self._listener = listener
        self._dial = dial
        self._max_connections = max_connections
        self._linger = linger
        self._access = access
        self._tls = tls
        self._log = RateLimitedLog(logger)
        self._changed = threading.Condition()
        self._links: dict[_Link, threading.Thread] = {}
        self._accepted = self._too_many = self._failed = 0
        self._to_target = self._to_caller = 0
        """Bytes of connections that have ended."""
        self._closing = False
        self._thread: threading.Thread | None = None

    @classmethod
    def between(
        cls,
        listen: Address | str,
        target: Address | str,
        *,
        name: str = "",
        security: Security = PLAIN,
        target_security: Security = PLAIN,
        max_connections: int = MAX_CONNECTIONS,
        connect_timeout: float = sockets.DEFAULT_TIMEOUT,
        linger: float = LINGER,
        options: Options = sockets.DEFAULT,
    ) -> Relay:
        """A relay that listens on one address and passes on to another.

        `security` says who may call, `target_security` who is expected at the target, and each whether
        its side is encrypted; `options` are for both sides. Next: :meth:`start`. Raises what
        :func:`hvrpc.sockets.listen` raises; that the target cannot be reached is no error yet.
        """
        where = Address.parse(target)

        def dial(_: Stream) -> Stream:
            return sockets.connect(
                where, timeout=connect_timeout, options=options, security=target_security
            )

        listener, access = listening_on(listen, security, options)
        return cls(
            listener,
            dial,
            name=name,
            max_connections=max_connections,
            linger=linger,
            access=access,
            tls=security.tls,
        )

    @property
    def address(self) -> Address:
        """Where it listens; port 0 has become the port that was chosen."""
        return self._listener.address

    @property
    def counters(self) -> Counters:
        """What has happened so far, for monitoring."""
        with self._changed:
            links = list(self._links)
            return Counters(
                accepted=self._accepted,
                open=len(links),
                refused=self._too_many + (0 if self._access is None else self._access.refused),
                failed=self._failed,
                to_target=self._to_target + sum(link.to_target for link in links),
                to_caller=self._to_caller + sum(link.to_caller for link in links),
            )

    # --- Life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to accept. Returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._accept_all, name="hvrpc-relay-accept", daemon=True
            )
            self._thread.start()
        return self

    def close(self, grace: float = 0.0) -> None:
        """Listen no more, let connections end by themselves for `grace` seconds, and cut the rest."""
        self.stop_listening()
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._links, grace)
            links = list(self._links.items())
        if links and grace:
            logger.info("%s: cutting %d connections that are left", self.name, len(links))
        for link, _ in links:
            link.cut()
        deadline = time.monotonic() + CUT_PATIENCE
        for _, thread in links:
            if thread is not threading.current_thread():
                thread.join(max(deadline - time.monotonic(), 0))

    def stop_listening(self) -> None:
        """Refuse new callers from now on, and leave the others alone."""
        self._listener.close()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    def abandon(self) -> None:
        """After a fork, in the child: close its copies. Listener and connections are the parent's."""
        self._listener.close()
        for link in list(self._links):  # no thread is here that could hold a lock, or let go of one
            link.abandon()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- Work ----------------------------------------------------------------------------------

    def _accept_all(self) -> None:
        while True:
            try:
                stream, peer = self._listener.accept()
            except StreamClosed:
                return
            except HvrpcError as error:
                self._log.warning("%s: %s", self.name, error)
                time.sleep(ACCEPT_AGAIN_AFTER)
                continue
            if len(self._links) < self._max_connections:
                self._begin(stream)
            else:
                self._too_many += 1
                self._log.warning(
                    "%s: %s is one connection too many (limit %d): cut off",
                    self.name,
                    peer,
                    self._max_connections,
                )
                stream.abort()

    def _begin(self, stream: Stream) -> None:
        link = _Link(stream)
        thread = threading.Thread(
            target=self._serve, args=(link,), name="hvrpc-relay-there", daemon=True
        )
        with self._changed:
            self._links[link] = thread
            self._accepted += 1
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._log.warning("%s: %s could not be served: %s", self.name, stream.peer, error)
            self._forget(link, failed=True)
            stream.abort()

    def _serve(self, link: _Link) -> None:
        peer = link.caller.peer
        since = time.monotonic()
        failed = True
        try:
            if self._tls is not None:
                self._shake_hands(link.caller, self._tls)
            target = self._dial(link.caller)
            link.join(target, self._linger)
            logger.info("%s: %s is connected to %s", self.name, peer, target.address)
            failed = False
            if (failure := link.run()) is not None:
                self._log.warning("%s: %s was cut off: %s", self.name, peer, failure)
        except HvrpcError as error:
            if not self._closing:
                self._log.warning("%s: %s was not passed on: %s", self.name, peer, error)
        except Exception:
            self._log.warning("%s: %s was not passed on", self.name, peer, exc_info=True)
        finally:
            link.cut()
            self._forget(link, failed)
        if not failed:
            logger.info(
                "%s: %s has ended after %.1f s, %s bytes to the target and %s back",
                self.name,
                peer,
                time.monotonic() - since,
                f"{link.to_target:,}",
                f"{link.to_caller:,}",
            )

    def _shake_hands(self, caller: Stream, tls: End) -> None:
        try:
            shake_hands(caller, tls, tls.handshake_within)
        except HvrpcError:
            caller.close()  # and not `abort`: the alert that says why has to arrive
            raise

    def _forget(self, link: _Link, failed: bool) -> None:
        with self._changed:
            del self._links[link]
            self._failed += failed
            self._to_target += link.to_target
            self._to_caller += link.to_caller
            self._changed.notify_all()


class _Link:
    """A caller, and what it is joined to as soon as that is there."""

    def __init__(self, caller: Stream) -> None:
        self.caller = caller
        self._joint: Joint | None = None
        self._cut = False
        self._lock = threading.Lock()

    @property
    def to_target(self) -> int:
        return 0 if self._joint is None else self._joint.to_target

    @property
    def to_caller(self) -> int:
        return 0 if self._joint is None else self._joint.to_caller

    def join(self, target: Line, linger: float) -> None:
        with self._lock:
            self._joint = Joint(self.caller, target, linger=linger)
            if not self._cut:
                return
        self._joint.cut()  # meanwhile, nobody waits for it any more

    def run(self) -> HvrpcError | None:
        assert self._joint is not None
        self._joint.run()
        return self._joint.failure

    def abandon(self) -> None:
        self.caller.abort()
        if self._joint is not None:
            self._joint.cut()

    def cut(self) -> None:
        with self._lock:
            self._cut = True
            joint = self._joint
        if joint is None:
            self.caller.abort()
        else:
            joint.cut()
