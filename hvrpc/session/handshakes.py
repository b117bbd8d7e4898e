"""Callers of a server that are still at the beginning of TLS: in threads of their own, few and not for long.

Somebody who connects and says nothing must cost little: no place among the connections, and a thread
only for a bounded time. And one VM that connects a thousand times must not keep the others out. So
when there are too many, the oldest one of whoever has the most is cut off.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final

from ..access import Peer, RateLimitedLog
from ..errors import HvrpcError
from ..sockets import Stream
from ..sockets.handshake import shake_hands
from ..tls import End

MOST: Final = 64
"""Handshakes at once. Each takes milliseconds, unless the caller wants it to take long."""


class _Caller:
    """One that is at it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.who = _who(stream.peer)
        self.thread: threading.Thread | None = None
        self.cut_off = False

    def end(self) -> None:
        """Wake its thread, which closes the stream: nobody closes a socket under somebody else."""
        self.cut_off = True
        try:
            self.stream.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already


class Handshakes:
    """The ones under way on a server."""

    def __init__(self, log: RateLimitedLog, *, most: int = MOST) -> None:
        self._log = log
        self._most = most
        self._lock = threading.Lock()
        self._callers: dict[_Caller, None] = {}
        """In the order in which they came."""
        self._closed = False

    def __len__(self) -> int:
        return len(self._callers)

    def begin(self, stream: Stream, end: End, then: Callable[[Stream], object]) -> None:
        """Shake hands in a thread, and call `then` in the same one. Returns at once."""
        caller = _Caller(stream)
        caller.thread = threading.Thread(
            target=self._run, args=(caller, end, then), name="hvrpc-handshake", daemon=True
        )
        with self._lock:
            if self._closed:
                stream.abort()
                return
            greedy = self._greediest() if len(self._callers) >= self._most else None
            self._callers[caller] = None
        if greedy is not None:
            greedy.end()
            self._log.warning(
                "%s: more than %d handshakes at once: cut off %s",
                stream.address,
                self._most,
                greedy.stream.peer,
            )
        try:
            caller.thread.start()
        except RuntimeError as error:  # no more threads to be had
            self._forget(caller)
            self._log.warning("%s: no thread for %s: %s", stream.address, stream.peer, error)
            stream.abort()

    def _greediest(self) -> _Caller | None:
        """The oldest one of whoever has the most. The lock is held."""
        left = [caller for caller in self._callers if not caller.cut_off]
        if not left:
            return None
        who, _ = Counter(caller.who for caller in left).most_common(1)[0]
        return next(caller for caller in left if caller.who == who)

    def _run(self, caller: _Caller, end: End, then: Callable[[Stream], object]) -> None:
        stream = caller.stream
        try:
            try:
                shake_hands(stream, end, end.handshake_within)
            except HvrpcError as error:
                if not caller.cut_off:
                    why = getattr(error, "problem", None) or getattr(error, "cause", error)
                    self._log.warning("%s: refused %s: %s", stream.address, stream.peer, why)
                stream.close()  # not `abort`: the alert that says why has to arrive
                return
            finally:
                self._forget(caller)
            then(stream)
        except BaseException:
            stream.abort()
            raise

    def _forget(self, caller: _Caller) -> None:
        with self._lock:
            self._callers.pop(caller, None)

    def close(self) -> list[threading.Thread]:
        """Cut off those that are not done; returns their threads, which end soon."""
        with self._lock:
            self._closed = True
            left = list(self._callers)
        for caller in left:
            caller.end()
        return [caller.thread for caller in left if caller.thread is not None]


def _who(peer: Peer) -> Hashable:
    """What one caller has in common with itself when it connects again."""
    return peer.family, peer.vm_id, peer.cid, peer.uid, peer.host
