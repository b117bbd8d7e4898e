"""Many calls in one write, for asyncio.

    async with client.batch() as batch:
        sums = [batch.call("add", number, number) for number in range(64)]
    await sums[1]

As many tasks with a call each take nearly twice as long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ...errors import DeadlineExceeded
from ...session.aio import Connection, settle
from ...session.repeating import repeating
from ..calling import UNSET, InBatch, Timeout, late
from ..core import MsgpackCore
from ..replies import failure_of

if TYPE_CHECKING:
    from .client import Caller


class Pending(InBatch):
    """A call of a batch: await it, or its :meth:`result`, once the batch was sent."""

    _future: asyncio.Future[None] | None = None
    """What those who wait for it share. Most have been answered by the time that they are asked for."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()

    async def result(self, timeout: Timeout = UNSET) -> Any:  # noqa: ASYNC109 (it ends the call)
        """Wait for the result. Raises what :meth:`Client.call` would.

        Who stops waiting, or is cancelled, gives the call up, here as there: asking again raises the same.
        """
        limit: Any = self._sending.batch._caller._timeout if timeout is UNSET else timeout
        return await self._result_by(None if limit is None else time.monotonic() + limit, limit)

    async def _result_by(self, deadline: float | None, limit: float | None) -> Any:
        sending = self._sending
        batch = sending.batch
        if sending.connection is None and sending is batch._sending:
            await batch._send(deadline)
        if sending.connection is None:
            raise self.never_sent()
        if not self.done:
            await self._wait(sending.connection, deadline, limit)
        if not self.ok:
            await self._settle(batch._caller, deadline, limit)
        if sending.connection.core.draining:
            batch._caller._retire(sending.connection)
        return self.value

    async def _wait(
        self, connection: Connection[MsgpackCore], deadline: float | None, limit: float | None
    ) -> None:
        future = self._future
        if future is None:
            future = self._future = asyncio.get_running_loop().create_future()
            self.wake = partial(settle, future)
            connection.look_out()
        left = None if deadline is None else deadline - time.monotonic()
        try:
            await asyncio.wait((future,), timeout=left)
            if not self.done:
                raise self._late(connection, limit)
        except BaseException as error:
            self._give_up(error)
            raise

    def _late(self, connection: Connection[MsgpackCore], limit: float | None) -> DeadlineExceeded:
        address = self._sending.batch._caller.address
        return late(connection.core, self, self.method, address, limit)

    def _give_up(self, error: BaseException) -> None:
        """Nobody waits for it any more: say so."""
        sending = self._sending
        caller = sending.batch._caller
        if sending.connection is not None and not self.done:
            caller._abandon(sending.connection, self)
            self.end_by(error)

    async def _settle(self, caller: Caller, deadline: float | None, limit: float | None) -> None:
        """It has ended in another way than with a value: repeat it, once for all who ask, or raise."""
        lock: asyncio.Lock = vars(self).setdefault("_one_repeats", asyncio.Lock())
        connection = self._sending.connection
        assert connection is not None
        left = None if deadline is None else deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                await lock.acquire()
        except TimeoutError:
            raise self._late(connection, limit) from None
        try:
            await self._repeat(caller, deadline)
        finally:
            lock.release()

    async def _repeat(self, caller: Caller, deadline: float | None) -> None:
        if self.ok:
            return
        failure = failure_of(self, method=self.method, address=caller.address)
        may = self.method in caller._idempotent
        if self.is_final or not await caller._repeat(failure, 1, deadline, may):
            raise failure
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        try:
            with repeating(failure):
                self.value = await caller._call(
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
    """Many calls in one write. Send by leaving the `async with` block, or with :meth:`send`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._added: list[Pending] = []
        self._sending = Sending(self)

    def call(self, method: str, /, *params: Any) -> Pending:
        """Add a call."""
        pending = Pending(self, method, params)
        self._added.append(pending)
        return pending

    async def send(self) -> None:
        """Send what was added. All of it or, when something cannot be packed, nothing."""
        await self._send(self._caller._deadline())

    async def _send(self, deadline: float | None) -> None:
        connection = await self._caller._way("a batch", deadline)
        added, self._added = self._added, []
        sending, self._sending = self._sending, Sending(self)
        connection.core.request_all(added)
        sending.connection = connection
        connection.push()

    async def results(self, timeout: Timeout = UNSET) -> list[Any]:  # noqa: ASYNC109 (it ends the calls)
        """Send, and wait for all results in order, `timeout` seconds for all of them together. The first
        call that failed raises.

        Being cancelled meanwhile cancels all that are not done.
        """
        limit: Any = self._caller._timeout if timeout is UNSET else timeout
        deadline = None if limit is None else time.monotonic() + limit
        added = self._added
        try:
            await self._send(deadline)
            if added:
                # The others have come with it, as a rule.
                await added[0]._result_by(deadline, limit)
            return [
                each.value if each.ok else await each._result_by(deadline, limit) for each in added
            ]
        except asyncio.CancelledError as error:
            for each in added:
                each._give_up(error)
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.send()
