"""Many calls in one write.

    with client.batch() as batch:
        sums = [batch.call("add", number, number) for number in range(64)]
    sums[1].result()

`aio.batch` has the same for asyncio.
"""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..session.repeating import repeating
from ..session.threads import Connection, at_most
from .calling import UNSET, InBatch, Timeout, late
from .core import MsgpackCore
from .replies import failure_of

if TYPE_CHECKING:
    from .client import Caller


class Pending(InBatch):
    """A call of a batch: its result, once the batch was sent."""

    def result(self, timeout: Timeout = UNSET) -> Any:
        """Wait for the result. Raises what :meth:`Client.call` would.

        Who stops waiting gives the call up, here as there: asking again raises the same.
        """
        limit: Any = self._sending.batch._caller._timeout if timeout is UNSET else timeout
        now = time.monotonic()
        return self._result_by(None if limit is None else now + limit, limit, now)

    def _result_by(self, deadline: float | None, limit: float | None, now: float) -> Any:
        sending = self._sending
        connection = sending.connection or self._have_sent(sending, deadline, now)
        if not self.ok:
            self._end(connection, deadline, limit)
        if connection.core.draining:
            sending.batch._caller._retire(connection)
        return self.value

    def _have_sent(
        self, sending: Sending, deadline: float | None, now: float
    ) -> Connection[MsgpackCore]:
        """Send its batch, unless somebody does, or has tried to."""
        if sending is sending.batch._sending:
            sending.batch._send(deadline, now)
        with sending.batch._one_sends:  # another thread packs it just now, perhaps
            if sending.connection is None:
                raise self.never_sent()
            return sending.connection

    def _end(
        self, connection: Connection[MsgpackCore], deadline: float | None, limit: float | None
    ) -> None:
        """Wait for its end, and see to what is no value: one thread for all that ask."""
        # A child process may have got a lock that nobody will release.
        lock: Any = vars(self).setdefault(f"_one_waits_{os.getpid()}", threading.RLock())
        caller = self._sending.batch._caller
        try:
            try:
                if not (lock.acquire(False) or lock.acquire(timeout=_left_until(deadline))) or not (
                    self.done or connection.wait(self, deadline)
                ):
                    raise late(connection.core, self, self.method, caller.address, limit)
            except BaseException as error:
                if not self.done:  # else another thread repeats it
                    caller._abandon(connection, self)
                    self.end_by(error)
                raise
            if not self.ok:
                self._settle(caller, deadline)
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not ours

    def _settle(self, caller: Caller, deadline: float | None) -> None:
        """It has ended in another way than with a value: repeat it, once for all who ask, or raise."""
        failure = failure_of(self, method=self.method, address=caller.address)
        may = self.method in caller._idempotent
        if self.is_final or not caller._repeat(failure, 1, deadline, may):
            raise failure
        left = None if deadline is None else deadline - time.monotonic()
        try:
            with repeating(failure):
                self.value = caller._call(
                    self.method, self.params, None, left, None, False, repetition=1
                )
        except BaseException as error:
            self.end_by(error)
            raise
        self.ok = True


def _left_until(deadline: float | None) -> float:
    """What a lock can be told: seconds, or -1 for no limit."""
    return -1 if deadline is None else at_most(max(deadline - time.monotonic(), 0.0))


class Sending:
    """Where the calls of a batch that are sent together have gone."""

    connection: Connection[MsgpackCore] | None = None

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


class Batch:
    """Many calls in one write. Send by leaving the `with` block, or with :meth:`send`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._added: list[Pending] = []
        self._sending = Sending(self)
        self._one_sends = threading.RLock()
        """Held while calls are packed. Values with code of their own may ask for results meanwhile, which
        are not to be had then."""

    def call(self, method: str, /, *params: Any) -> Pending:
        """Add a call."""
        pending = Pending(self, method, params)
        self._added.append(pending)
        return pending

    def send(self) -> None:
        """Send what was added. All of it or, when something cannot be packed, nothing."""
        limit = self._caller._timeout
        now = time.monotonic()
        self._send(None if limit is None else now + limit, now)

    def _send(self, deadline: float | None, now: float) -> None:
        connection = self._caller._connection(deadline, now)
        sending = self._sending
        with self._one_sends:
            if sending is self._sending:  # no other thread was faster
                following = Sending(self)
                # In one statement, between whose steps no interrupt strikes.
                added, self._added, self._sending = self._added, [], following
                try:
                    connection.core.request_all(added)
                    sending.connection = connection
                except Exception:
                    raise
                except BaseException as error:
                    # It may have struck when they were queued already.
                    for each in added:
                        self._caller._abandon(connection, each)
                        each.end_by(error)
                    sending.connection = connection
                    raise
        connection.push()

    def results(self, timeout: Timeout = UNSET) -> list[Any]:
        """Send, and wait for all results in order, `timeout` seconds for all of them together. The first
        call that failed raises."""
        limit: Any = self._caller._timeout if timeout is UNSET else timeout
        now = time.monotonic()
        deadline = None if limit is None else now + limit
        added = self._added
        self._send(deadline, now)
        if added:
            added[0]._result_by(deadline, limit, now)  # the others have come with it, as a rule
        return [each.value if each.ok else each._result_by(deadline, limit, now) for each in added]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.send()
