"""Many calls in one write.

    with client.batch() as batch:
        sums = [batch.call("add", number, number) for number in range(64)]
    sums[1].result()

`aio.batch` has the same for asyncio.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..session.repeating import in_doubt, may_have_run
from ..session.threads import Connection
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
        batch = self._sending.batch
        caller = batch._caller
        if self._sending.connection is None:
            if self._sending is not batch._sending:
                raise self.never_sent()
            batch.send()
        limit: Any = caller._timeout if timeout is UNSET else timeout
        deadline = None if limit is None else time.monotonic() + limit
        if not self.done:
            self._wait(deadline, limit)
        if not self.ok:
            self._settle(caller, deadline)
        return self.value

    def _wait(self, deadline: float | None, limit: float | None) -> None:
        caller = self._sending.batch._caller
        connection = self._sending.connection
        assert connection is not None
        try:
            if not connection.wait(self, deadline):
                raise late(connection.core, self, self.method, caller.address, limit)
        except BaseException as error:
            caller._abandon(connection, self)
            self.end_by(error)
            raise

    def _settle(self, caller: Caller, deadline: float | None) -> None:
        """It has ended in another way than with a value: repeat it, once for all who ask, or raise."""
        lock: threading.Lock = vars(self).setdefault("_settling", threading.Lock())
        with lock:
            if self.ok:
                return
            failure = failure_of(self, method=self.method, address=caller.address)
            may = self.method in caller._idempotent
            if self.is_final or not caller._repeat(failure, 1, deadline, may):
                raise failure
            left = None if deadline is None else deadline - time.monotonic()
            try:
                with in_doubt() if may_have_run(failure) else nullcontext():
                    self.value = caller._call(
                        self.method, self.params, None, left, None, False, repetition=1
                    )
            except BaseException as error:
                self.end_by(error)
                raise
            self.ok = True


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

    def call(self, method: str, /, *params: Any) -> Pending:
        """Add a call."""
        pending = Pending(self, method, params)
        self._added.append(pending)
        return pending

    def send(self) -> None:
        """Send what was added. All of it or, when something cannot be packed, nothing."""
        caller = self._caller
        now = time.monotonic()
        deadline = None if caller._timeout is None else now + caller._timeout
        connection = caller._connection(deadline, now)
        added, self._added = self._added, []
        sending, self._sending = self._sending, Sending(self)
        connection.core.request_all(added)
        sending.connection = connection
        connection.push()

    def results(self, timeout: Timeout = UNSET) -> list[Any]:
        """Send, and wait for all results in order. The first call that failed raises."""
        added = self._added
        self.send()
        if added:
            added[0].result(timeout)  # the others have come with it, as a rule
        return [pending.value if pending.ok else pending.result(timeout) for pending in added]

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
