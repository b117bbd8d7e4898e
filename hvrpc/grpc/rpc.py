"""Calls that live on after they were made: futures, and streams in either direction.

Nobody reads for them in the background. Whoever waits for one reads, as with every call; only when
somebody wants to be *told* of the end a thread is needed (`Channel.attend`).

Requests that stream are taken from the user's iterator by a thread of its own, because it may block. Not
so a list, when the caller waits for the response anyway.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from ..errors import HvrpcError
from ..http2 import Fields
from ..session.core import Call
from ..session.repeating import doubtful, may_have_run, untaken
from ..session.threads import Connection, at_most
from .alarms import alarms
from .calling import CREDIT, ClientCore, StreamCall
from .messages import compress, pieces
from .outcome import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    NO_RESPONSE,
    RpcError,
    describe,
    ending_of_failure,
)
from .status import StatusError
from .wire import PLAIN, Ending

if TYPE_CHECKING:
    from .channel import Method

logger = logging.getLogger("hvrpc.grpc")

MUCH: Final = 256 * 1024
"""Bytes of one call that may wait to be sent before its sender has to wait."""
MOST_KEPT: Final = 256 * 1024
"""Bytes of requests that are kept for a call that may have to be begun anew, as in grpcio."""
CANNOT_BLOCK: Final = tuple(map(type, (iter([]), iter(()), iter(range(0)), iter({}))))
"""Iterators that need no thread."""


class Rpc(RpcError):
    """A call. Like grpcio's it is at once a call, a future, and the error that it may end in."""

    def __init__(
        self,
        method: Method,
        requests: bytes | Iterable[Any],
        timeout: float | None,
        given: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
        *,
        waits: bool = False,
    ) -> None:
        timeout, wait_for_ready = method.configured(timeout, wait_for_ready)
        self._method = method
        self._retrying = method.retrying()
        self._given = given
        self._requests = requests
        single = type(requests) is bytes
        self._sent: list[bytes] | None = [requests] if single else []  # type: ignore[list-item]
        """What was sent, while the call may have to be begun anew; None once it may not."""
        self._sent_size = 0
        self._all_sent = single
        self._one_sends = threading.Lock()
        self._wait_for_ready = bool(wait_for_ready)
        self._call = StreamCall(method.most_received)
        self._connection: Connection[ClientCore] | None = None
        self._refused: Ending | None = None
        """How it ended before it was on a connection, or because of what came."""
        self._cause: BaseException | None = None
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Rpc], object]] | None = []
        self._begun: threading.Event | None = None
        self._repetitions = 0
        self._spent = False
        self._asked = False
        """Whether the retry policy has said its last word."""
        self._one_repeats = threading.RLock()
        self._repeating = False
        self._one_takes = threading.RLock()
        """Whoever takes messages has looked at all there was before it waits for more: one at a time."""
        self._extra = method.extra(timeout, given)
        self._fields, self._compression = method.fields(compression)
        self._vouched: Fields = ()
        if timeout is not None and timeout <= 0:
            # Or a quick server might still be quicker than its own look at the clock.
            self._vouching = None
            self._refuse(DEADLINE_EXCEEDED)
            return
        channel = method.channel
        try:
            self._vouching = method.vouch(credentials)
        except StatusError as error:
            self._vouching = None
            self._refuse(Ending(error.code, error.details), error)
            return
        answered = self._vouching is None or self._vouching.ready
        if waits or (channel.is_up and answered):
            self._begin()
            self._supply(waits)
        else:
            if channel.closed:
                raise ValueError("Cannot invoke RPC on closed channel!")
            self._begun = threading.Event()
            threading.Thread(target=self._begin_later, name="hvrpc-begin", daemon=True).start()

    # --- Beginning -------------------------------------------------------------------------------

    def _begin_later(self) -> None:
        begun = self._begun
        assert begun is not None
        try:
            self._begin()
        except ValueError:  # the channel was closed
            self._refuse(CANCELLED)
        except Exception as error:
            logger.exception("%s could not be begun", self._method.path)
            why = f"the call could not be begun: {type(error).__name__}: {error}"
            self._refuse(Ending(grpc.StatusCode.INTERNAL, why), error)
        finally:
            begun.set()
        self._supply(False)

    def _begin(self) -> None:
        """Put it on a connection, and send what there is to send at once."""
        channel = self._method.channel
        if self._vouching is not None:
            try:
                self._vouched = self._vouching.fields(self._deadline)
            except StatusError as error:
                self._refuse(Ending(error.code, error.details), error)
                return
            self._vouching = None
            self._extra += self._vouched
        connection = self._connected()
        if connection is None:
            return
        if type(self._requests) is bytes:
            try:
                self._method.check_size(self._requests)
            except RpcError as error:
                self._refuse(error._ending, error.__cause__)
                return
        call = self._call
        core = connection.core
        if self._callbacks is None or self._callbacks:
            call.watched = self._over
        with self._one_sends:
            self._connection = connection
            core.start(call, self._fields, self._extra)
            queued = 0
            for payload in self._sent or ():
                core.send(call, self._packed(payload))
            if self._all_sent:
                queued = core.send(call, (), end=True)
        if not connection.push() or queued > 0:
            channel.attend(connection)  # the rest must get there although nobody waits, perhaps
        if call.ended or self._refused is not None:
            # Perhaps it was given up just before there was anything to give up.
            core.end(call, self._refused or CANCELLED)
            connection.push()

    def _connected(self) -> Connection[ClientCore] | None:
        """A connection for it. None: it has ended for want of one, after all attempts that the retry policy
        allows."""
        method = self._method
        while True:
            try:
                return method.channel.connection(
                    self._deadline, time.monotonic(), self._wait_for_ready
                )
            except HvrpcError as error:
                again = None
                if not self._asked:
                    again = method.again_without(
                        error, self._retrying, self._deadline, self._is_refused
                    )
                if again is None:
                    self._asked = True
                    failure = doubtful(error) if self._in_doubt else error
                    self._refuse(ending_of_failure(failure), failure)
                    return None
                self._extra = method.extra(again.left, self._given) + self._vouched + again.fields

    def _packed(self, payload: bytes) -> tuple[bytes, ...]:
        if self._compression is PLAIN:
            return pieces(payload)
        return pieces(*compress(payload, self._compression))

    def _refuse(self, ending: Ending, cause: BaseException | None = None) -> None:
        with self._lock:
            if self._refused is not None:
                return
            self._refused = ending
            self._cause = cause
        self._call.decided = ending
        self._call.finish()
        self._finished()

    def _supply(self, waits: bool) -> None:
        """See to it that the requests are sent."""
        if type(self._requests) is bytes or self._connection is None or self._refused is not None:
            return
        try:
            requests = iter(self._requests)
        except TypeError as error:
            self._give_up(Ending(grpc.StatusCode.UNKNOWN, "Exception iterating requests!"), error)
            return
        if waits and type(requests) in CANNOT_BLOCK:
            self._send_requests(requests)
        else:
            threading.Thread(
                target=self._send_requests, args=(requests,), name="hvrpc-requests", daemon=True
            ).start()

    def _send_requests(self, requests: Iterator[Any]) -> None:
        while not self._call.ended or self._is_repeated():
            try:
                request = next(requests)
            except StopIteration:
                self._send(None)
                return
            except Exception as error:
                logger.exception("Exception iterating requests!")
                self._give_up(
                    Ending(grpc.StatusCode.UNKNOWN, "Exception iterating requests!"), error
                )
                return
            if self._call.ended and not self._is_repeated():
                return
            try:
                payload = self._method.payload(request)
                self._method.check_size(payload)
            except RpcError as error:
                logger.exception("a request cannot be sent")
                self._give_up(error._ending, error.__cause__)
                return
            if not self._send(payload):
                return

    def _send(self, payload: bytes | None) -> bool:
        """Send a request, waiting while too much waits to be sent; None: that was all.

        False when the deadline came first.
        """
        # Not while it is begun anew: what is sent then must be kept, and is.
        with self._one_repeats, self._one_sends:
            call = self._call
            connection = self._connection
            assert connection is not None
            core = connection.core
            if payload is None:
                self._all_sent = True
                queued = core.send(call, (), end=True)
            else:
                self._keep(call, payload)
                queued = core.send(call, self._packed(payload))
        if not connection.push():
            connection.flush(self._deadline, lambda: call.ended)
        if queued > MUCH:
            room = Call()
            if core.queued(call, room):
                return connection.wait(room, self._deadline)
        return True

    def _keep(self, call: StreamCall, payload: bytes) -> None:
        """Keep a request for as long as the call may have to be begun anew."""
        sent = self._sent
        if sent is not None:
            self._sent_size += len(payload)
            if call.headers is not None or self._sent_size > MOST_KEPT:
                self._sent = None
            else:
                sent.append(payload)

    # --- Waiting ---------------------------------------------------------------------------------

    def _on_connection(self, deadline: float | None) -> bool:
        """Wait until it was begun. False when the time came first."""
        begun = self._begun
        if begun is not None:
            left = None if deadline is None else at_most(max(deadline - time.monotonic(), 0.0))
            if not begun.wait(left):
                return False
            self._begun = None
        return True

    def _look(self, deadline: float | None, waiter: Call | None = None) -> bool:
        """Wait until there is something to look at. False when the time came first.

        Whoever has looked at all there was sets `done` to False, looks again, and then calls this.
        """
        call = self._call
        until = self._deadline
        if deadline is not None and (until is None or deadline < until):
            until = deadline
        if not self._on_connection(until):
            return self._late(until)
        connection = self._connection
        if call.ended or connection is None:
            return True
        if connection.wait(call if waiter is None else waiter, until):
            return True
        return self._late(until)

    def _late(self, until: float | None) -> bool:
        if until is not None and until == self._deadline:
            self._give_up(DEADLINE_EXCEEDED)
            return True
        return False

    def _is_repeated(self) -> bool:
        """Whether a call that has failed was begun anew: because it has certainly not been run, or
        because the retry policy says so."""
        call = self._call
        if self._sent is None or not call.ended or self._refused is not None:
            return False
        with self._one_repeats:
            if self._call is not call:
                return True  # another thread has just begun it anew
            if self._sent is None:
                return False
            self._repeating = True
            try:
                return self._repeat(call)
            finally:
                self._repeating = False

    def _repeat(self, call: StreamCall) -> bool:
        method = self._method
        again = None
        if self._retrying is not None and not self._asked:
            again = method.again(call, self._retrying, self._deadline, self._is_refused)
            self._asked = again is None
        if again is not None:
            self._in_doubt = self._in_doubt or call.failure is None or may_have_run(call.failure)
            self._extra = method.extra(again.left, self._given) + self._vouched + again.fields
        else:
            failure = call.failure
            if failure is None or call.decided is not None:
                return False
            self._repetitions += 1
            if (
                may_have_run(failure)
                or self._is_spent(call, failure)
                or not method.channel.session.repeat(
                    failure, self._repetitions, self._deadline, idempotent=False
                )
            ):
                return False
        with self._lock:
            if self._refused is not None:
                return False  # it was given up meanwhile
            self._call = StreamCall(call.most)
            self._call.watched = call.watched
        self._begin()
        if self._call.watched is not None and self._connection is not None:
            method.channel.attend(self._connection)
            if self._call.ended:  # at once: then nobody has been told
                threading.Thread(target=self._finished, name="hvrpc-repeat", daemon=True).start()
        return True

    def _is_spent(self, call: StreamCall, failure: HvrpcError) -> bool:
        """Whether it was begun anew often enough. The first time its failure says so."""
        spent = untaken(failure, self._repetitions)
        if spent is not None and not self._spent:
            self._spent = True
            call.failure = spent
        return self._spent

    def _is_refused(self) -> bool:
        return self._refused is not None

    def _take(self, deadline: float | None) -> bytes | None:
        """The next message; None at the end. Raises TimeoutError when the time came first."""
        while True:
            call = self._call
            try:
                message = call.take()
            except StatusError as error:
                self._spoil(Ending(error.code, error.details), error)
                return None
            # Also of a message that is not complete, or the peer could not go on with it.
            if call.taken >= CREDIT:
                connection = self._connection
                if connection is not None and connection.core.consumed(call):
                    connection.push()
            if message is not None:
                return message
            if call.ended:
                # The end was seen; what came before it may have been seen too late.
                if call.pieces or self._is_repeated():
                    continue
                self._retire()
                return None
            call.done = False
            if call.pieces or call.ended:
                call.done = True
                continue
            if not self._look(deadline):
                raise grpc.FutureTimeoutError

    def _retire(self) -> None:
        connection = self._connection
        if connection is not None and connection.core.draining:
            self._method.channel.session.retire(connection)

    # --- The end -------------------------------------------------------------------------------

    def _give_up(self, ending: Ending, cause: BaseException | None = None) -> bool:
        connection = self._connection
        if connection is None:
            if ending is DEADLINE_EXCEEDED and cause is None:
                late = self._method.channel.late()
                cause = doubtful(late) if self._in_doubt else late
            self._refuse(ending, cause)
            return True
        if cause is not None:
            self._cause = cause
        call = self._call
        if not connection.core.end(call, ending):
            if not self._repeating:
                return False
            self._refuse(ending, cause)
            return self._refused is ending
        connection.push()
        self._finished()
        return True

    def _spoil(self, ending: Ending, cause: BaseException) -> None:
        """What came cannot be used: that is how it ends, whatever the server says."""
        self._refused = ending
        self._give_up(ending, cause)

    def cancel(self) -> bool:
        """Give it up; the server's handler is told."""
        return self._give_up(CANCELLED)

    def _over(self) -> None:
        """It has ended, as the thread that reads the connection says. If it may be begun anew, which takes
        time, that is not for this thread to do: others wait for it."""
        call = self._call
        failure = call.failure
        unsent = failure is not None and not may_have_run(failure)
        retried = self._retrying is not None and call.ending.code is not grpc.StatusCode.OK
        if self._sent is not None and self._refused is None and (unsent or retried):
            threading.Thread(target=self._finished, name="hvrpc-repeat", daemon=True).start()
        else:
            self._finished()

    def _finished(self) -> None:
        """It has ended: tell whoever wants to be told."""
        if self._refused is None and self._is_repeated():
            return
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks:
            alarms.forget(self._overdue)
            for callback in callbacks:
                try:
                    callback(self)
                except Exception:
                    logger.exception("a callback of a call failed")

    def _overdue(self) -> None:
        self._give_up(DEADLINE_EXCEEDED)

    def _watch(self, callback: Callable[[Rpc], object]) -> bool:
        """Call something when it has ended. False: it has."""
        with self._lock:
            if self._call.ended or self._callbacks is None:
                return False
            self._callbacks.append(callback)
            first = len(self._callbacks) == 1
        if first:
            self._call.watched = self._over
            if self._deadline is not None:
                alarms.at(self._deadline, self._overdue)
            self._attend()
        return True

    def _attend(self) -> None:
        if self._begun is None:
            connection = self._connection
            if connection is not None:
                self._method.channel.attend(connection)
                if self._call.ended:  # just before it was watched
                    self._finished()
        else:
            threading.Thread(target=self._attend_later, name="hvrpc-begin", daemon=True).start()

    def _attend_later(self) -> None:
        self._on_connection(None)
        self._attend()

    def __del__(self) -> None:
        try:
            call = self._call
            connection = self._connection
            if not call.ended and self._callbacks == [] and connection is not None:
                connection.core.forsaken.append(call)
        except Exception:  # half made, or the interpreter is ending
            pass

    # --- grpc.Call -------------------------------------------------------------------------------

    @property
    def _ending(self) -> Ending:  # type: ignore[override]
        return self._call.ending if self._refused is None else self._refused

    def _wait_for_end(self, timeout: float | None = None) -> None:
        """Until it has ended. What comes meanwhile stays to be taken.

        Raises :class:`grpc.FutureTimeoutError` when the time comes first.
        """
        self._look_on(lambda call: False, timeout)

    def _look_on(
        self, is_enough: Callable[[StreamCall], bool], timeout: float | None = None
    ) -> StreamCall:
        """Wait for something, or the end, while another thread may take the messages."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            call = self._call
            waiter = Call()
            with self._lock:
                call.onlookers += (waiter,)
            try:
                while not (is_enough(call) or call.ended):
                    if not self._look(deadline, waiter):
                        raise grpc.FutureTimeoutError
                    waiter.done = False
            finally:
                with self._lock:
                    call.onlookers = tuple(each for each in call.onlookers if each is not waiter)
            if is_enough(call) or not self._is_repeated():
                return call

    def initial_metadata(self) -> Any:
        """What the server sends before its responses. Waits for it."""
        opening = self._look_on(lambda call: call.headers is not None).opening
        return () if opening is None else opening.metadata

    def trailing_metadata(self) -> Any:
        """What the server sends with its status. Waits for it."""
        self._wait_for_end()
        return self._ending.metadata

    def code(self) -> grpc.StatusCode:
        """How it ended. Waits for that."""
        self._wait_for_end()
        return self._ending.code

    def details(self) -> str:
        """Why it ended so. Waits for that."""
        self._wait_for_end()
        return self._ending.details

    def debug_error_string(self) -> str:
        """The same in one line. Waits for it."""
        self._wait_for_end()
        return RpcError.debug_error_string(self)

    def is_active(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return not self.done()

    def time_remaining(self) -> float | None:  # type: ignore[override]
        """Seconds until its deadline; None without one."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Call something when it has ended. False: it has already."""
        return self._watch(lambda _: callback())

    # --- grpc.Future -----------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has ended, as far as has been read."""
        if not self._call.ended and self._begun is None:
            connection = self._connection
            if connection is not None:
                connection.refresh()
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._give_up(DEADLINE_EXCEEDED)
        return self._call.ended and (self._refused is not None or not self._repeating)

    def running(self) -> bool:
        """Whether it has not ended."""
        return not self.done()

    def cancelled(self) -> bool:
        """Whether it was given up, by whichever side."""
        return self._call.ended and self._ending.code is grpc.StatusCode.CANCELLED

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call something with this when it has ended; at once if it has."""
        if not self._watch(fn):
            fn(self)

    def traceback(self, timeout: float | None = None) -> Any:
        """The traceback of :meth:`exception`."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def _error(self) -> Rpc:
        """This as an error, with its cause."""
        self.__cause__ = self._cause or self._call.failure
        return self

    def __str__(self) -> str:
        if self._call.ended:
            return describe(type(self).__name__, self._ending)
        return f"<{type(self).__name__} of {self._method.path}, under way>"

    __repr__ = __str__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a call cannot be pickled")


class UnaryResponse(Rpc):
    """A call whose one response comes later."""

    _response: Any = None
    _has_response = False
    _messages: list[bytes] | None = None

    def _fetch(self, timeout: float | None) -> bool:
        """Wait for the response, and keep it. False when it failed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        longest = -1 if timeout is None else at_most(max(timeout, 0))
        if not self._one_takes.acquire(timeout=longest):
            raise grpc.FutureTimeoutError
        try:
            if not self._has_response and self._refused is None:
                self._read_all(deadline)
        finally:
            self._one_takes.release()
        return self._ending.code is grpc.StatusCode.OK

    def _read_all(self, deadline: float | None) -> None:
        if self._messages is None:
            self._messages = []
        messages = self._messages
        while (message := self._take(deadline)) is not None:
            messages.append(message)
        ending = self._ending
        if ending.code is not grpc.StatusCode.OK:
            return
        if len(messages) != 1:
            self._refused = NO_RESPONSE
            return
        deserialize = self._method.deserialize
        try:
            self._response = messages[0] if deserialize is None else deserialize(messages[0])
            self._has_response = True
        except Exception as error:
            self._cause = error
            self._refused = Ending(grpc.StatusCode.INTERNAL, "Exception deserializing response!")

    def result(self, timeout: float | None = None) -> Any:
        """The response; waits for it. Raises :class:`grpc.RpcError`, FutureTimeoutError, or
        FutureCancelledError."""
        if self._fetch(timeout):
            return self._response
        if self._refused is CANCELLED or self._call.decided is CANCELLED:
            raise grpc.FutureCancelledError
        raise self._error()

    def exception(self, timeout: float | None = None) -> Any:
        """The error that it ended in; None if there was none. Waits for the end."""
        if self._fetch(timeout):
            return None
        if self._refused is CANCELLED or self._call.decided is CANCELLED:
            raise grpc.FutureCancelledError
        return self._error()


class StreamResponse(Rpc):
    """A call whose responses come one after the other: an iterator."""

    def __iter__(self) -> StreamResponse:
        return self

    def __next__(self) -> Any:
        with self._one_takes:
            message = self._take(None)
        if message is None:
            if self._ending.code is grpc.StatusCode.OK:
                raise StopIteration
            raise self._error()
        deserialize = self._method.deserialize
        if deserialize is None:
            return message
        try:
            return deserialize(message)
        except Exception as error:
            self._spoil(
                Ending(grpc.StatusCode.INTERNAL, "Exception deserializing response!"), error
            )
            raise self._error() from error

    def next(self) -> Any:
        """The next response."""
        return self.__next__()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end, which is the result. Raises :class:`grpc.RpcError`, or FutureTimeoutError."""
        self._wait_for_end(timeout)
        if self._ending.code is grpc.StatusCode.OK:
            return self
        raise self._error()

    def exception(self, timeout: float | None = None) -> Any:
        """The error that it ended in; None if there was none. Waits for the end."""
        self._wait_for_end(timeout)
        return None if self._ending.code is grpc.StatusCode.OK else self._error()
