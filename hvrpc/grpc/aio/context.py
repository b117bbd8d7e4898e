"""What an asyncio handler can do besides returning a response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import grpc
from grpc import aio

from ...http2 import Fields
from ...session.aio import FutureCall
from ...session.core import Call
from .. import metadata, peers, status
from ..calling import CREDIT
from ..messages import ENCODINGS, SERVER, check_sent, compress, pieces
from ..serving import ServerCall
from ..status import StatusError
from ..wire import PLAIN, RESPONSE, response_fields
from .calls import FINISHED
from .rpc import MANY, MUCH, as_bytes

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None

ABORTED: Final = "Locally aborted."
_TRAILING: Final = "Tuple[Tuple[str, Union[str, bytes]]...]"


class Context(aio.ServicerContext):  # type: ignore[type-arg]
    """The context of one call, with the methods of :class:`grpc.aio.ServicerContext`."""

    # Defaults of the class: most handlers set nothing, and one is made for every call.
    plain = True
    """Whether nothing has been set or sent that the usual answer does not have."""
    code_: Any = None
    details_: str = ""
    trailing: Any = ()
    aborted: aio.AbortError | None = None
    callbacks: list[Callable[[Any], None]] | None = None
    _readers: list[FutureCall] | None = None
    _head: Fields = RESPONSE
    _compression = PLAIN
    _compress_next = True

    def __init__(
        self,
        call: ServerCall,
        loop: asyncio.AbstractEventLoop,
        deserialize: Deserializer,
        serialize: Serializer,
        most_sent: int,
        compression: grpc.Compression,
    ) -> None:
        self.call = call
        self.loop = loop
        self._deserialize = deserialize
        self._serialize = serialize
        self._most_sent = most_sent
        if compression is not PLAIN:
            self._use(compression)

    # --- Messages --------------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next request, or `grpc.aio.EOF` after the last."""
        self.check_running()
        message = await self.receive()
        if message is None:
            return aio.EOF
        return message if self._deserialize is None else self._deserialize(message)

    async def receive(self) -> bytes | None:
        """The next message; None after the last. Ends as if cancelled when the caller has gone."""
        call = self.call
        core = call.core
        while True:
            try:
                message = call.take()
            except StatusError as error:
                self.end(error.code, error.details)
                raise asyncio.CancelledError from error
            if call.taken >= CREDIT and core.consumed(call):
                core.connection.push()
            if message is not None:
                return message
            if call.cancelled:
                raise asyncio.CancelledError
            if self.aborted is not None:
                raise self.aborted
            if call.answered or call.request_ended:
                self.check_complete()
                return None
            waiter = FutureCall(self.loop)
            if self._readers is None:
                self._readers = []
                call.wake = self._wake_readers
            self._readers.append(waiter)
            call.done = False
            await waiter.future

    def _wake_readers(self) -> None:
        """There is something new for all tasks that read."""
        readers, self._readers = self._readers, []
        for reader in readers or ():
            reader.wake()

    def check_complete(self) -> None:
        """Refuse a request that ends within a message."""
        assembler = self.call.assembler
        if assembler is not None and assembler.missing and not self.call.answered:
            self.end(grpc.StatusCode.INTERNAL, "the request ends within a message")
            raise asyncio.CancelledError

    async def write(self, message: Any) -> None:
        """Send a response. Waits while the caller does not take what was sent to it."""
        self.check_running()
        serialize = self._serialize
        await self.send(as_bytes(message if serialize is None else serialize(message)))

    async def send(self, payload: bytes) -> None:
        """Send a message. Ends as if cancelled when the caller has gone."""
        call = self.call
        core = call.core
        connection = core.connection
        if len(payload) > self._most_sent:
            self.check_size(payload)
        if not call.headers_sent:
            self.send_headers()
        queued = core.send(call, self.pieces(payload))
        if queued < 0:
            raise asyncio.CancelledError
        connection.push()
        if queued > MUCH:
            waiter = _Sender(self.loop, call.room)
            if core.queued(call, waiter):
                await waiter.future
        elif connection.crowded:
            await connection.room()
        elif len(core.outgoing) >= MANY:
            await asyncio.sleep(0)

    def check_size(self, payload: bytes) -> None:
        """End the call if this is larger than may be sent."""
        try:
            check_sent(len(payload), self._most_sent, SERVER)
        except StatusError as error:
            self.end(error.code, error.details)
            raise asyncio.CancelledError from error

    def pieces(self, payload: bytes) -> tuple[bytes, ...]:
        """A message as it is sent."""
        if self._compression is PLAIN:
            return pieces(payload)
        compress_it, self._compress_next = self._compress_next, True
        if not compress_it:
            return pieces(payload)
        return pieces(*compress(payload, self._compression))

    # --- The answer ------------------------------------------------------------------------------

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send what opens the response now. Raises :class:`grpc.aio.UsageError` the second time."""
        self.check_running()
        if self.call.headers_sent:
            raise aio.UsageError("Send initial metadata failed: already sent")
        try:
            fields = metadata.to_fields(initial_metadata)
        except StatusError as error:
            self.end(error.code, error.details)
            raise asyncio.CancelledError from error
        self.send_headers(fields)
        self.call.core.connection.push()

    def send_headers(self, extra: Fields = ()) -> None:
        """Queue what opens the response."""
        self.plain = False
        self.call.core.send_headers(self.call, self._head, extra)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Send this along with the status. Raises TypeError for what is no metadata."""
        self.trailing = _trailing(trailing_metadata)
        self.plain = False

    def trailing_metadata(self) -> Any:
        """What was set so."""
        return self.trailing

    def set_code(self, code: Any) -> None:
        """Let the call end with this status code."""
        self.code_ = code
        self.plain = False

    def code(self) -> Any:
        """What was set so."""
        return self.code_

    def set_details(self, details: str) -> None:
        """Let the call end with this explanation."""
        self.details_ = details
        self.plain = False

    def details(self) -> str:
        """What was set so."""
        return self.details_

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with this status, and the handler here. Always raises."""
        if self.aborted is not None:
            raise aio.UsageError("Abort already called!")
        self.check_running()
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self.aborted = aio.AbortError(ABORTED)
        chosen = status_code(code)
        if chosen is grpc.StatusCode.OK:
            peers.logger.error("abort() called with StatusCode.OK; returning UNKNOWN")
            chosen = grpc.StatusCode.UNKNOWN
        self.code_ = code
        self.details_ = details or self.details_
        self.end(chosen, self.details_)
        raise self.aborted

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """The same with a whole status."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """Queue the status, with the trailing metadata that was set. Only the first one counts."""
        call = self.call
        if call.answered:
            return
        extra: Fields = ((b"grpc-message", status.encode_message(details)),) if details else ()
        if self.trailing:
            try:
                extra += metadata.to_fields(self.trailing)
            except StatusError as error:
                code = error.code
                extra = ((b"grpc-message", status.encode_message(error.details)),)
        if code is grpc.StatusCode.OK and not call.headers_sent:
            self.send_headers()
        call.core.end(call, code, extra)
        call.look()  # it may be another task that waits for requests
        call.core.connection.push()

    @property
    def ends_well(self) -> bool:
        """Whether no status was set that is an error."""
        return self.code_ is None or status_code(self.code_) is grpc.StatusCode.OK

    def check_running(self) -> None:
        """Raise if the call is over, whatever the handler makes of that."""
        if self.aborted is not None:
            raise self.aborted
        if self.call.answered:
            raise aio.UsageError(FINISHED)

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compress what is sent in this way, if the caller understands it."""
        if self.call.headers_sent:
            raise RuntimeError(
                "Compression setting must be specified before sending initial metadata"
            )
        self._use(grpc.Compression(compression))

    def _use(self, compression: grpc.Compression) -> None:
        if ENCODINGS[compression] not in self.call.request.accepted:
            compression = PLAIN
        self.plain = self.plain and compression is PLAIN
        self._compression = compression
        self._head = response_fields(compression)

    def disable_next_message_compression(self) -> None:
        """Send the next message as it is."""
        self._compress_next = False

    # --- Who calls -------------------------------------------------------------------------------

    def invocation_metadata(self) -> Any:
        """What the caller has sent along."""
        return self.call.request.metadata

    def peer(self) -> str:
        """Who calls: `hvsock:<vm id>/<service>`, and the like."""
        return peers.name_of(self.call.core)

    def peer_identities(self) -> Sequence[bytes] | None:
        """The caller's names, in the property that `peer_identity_key` names."""
        return peers.identities(self.call.core)

    def peer_identity_key(self) -> str | None:
        """Which property of `auth_context` says who calls."""
        return peers.identity_key(self.call.core)

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What is known of the caller, and who vouches for it."""
        return peers.auth_context(self.call.core)

    # --- The call --------------------------------------------------------------------------------

    def time_remaining(self) -> Any:
        """Seconds until the caller's deadline; None without one."""
        deadline = self.call.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have something called with this when the handler has ended."""
        if self.callbacks is None:
            self.callbacks = []
        self.callbacks.append(callback)

    def done(self) -> bool:
        """Whether the status was sent."""
        return self.call.answered

    def cancelled(self) -> bool:
        """Whether the caller has given up, or has gone."""
        return self.call.cancelled

    def run_callbacks(self) -> None:
        """Tell those who want to be told that the handler has ended."""
        callbacks, self.callbacks = self.callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception:
                peers.logger.exception("a callback of %s failed", self.call.request.path)


class _Sender(FutureCall):
    """A task that waits until what was queued has been sent, as others may do already."""

    def __init__(self, loop: asyncio.AbstractEventLoop, others: Call | None) -> None:
        super().__init__(loop)
        self._others = others

    def wake(self) -> None:
        super().wake()
        if self._others is not None and self._others.wake is not None:
            self._others.wake()


def status_code(code: Any) -> grpc.StatusCode:
    """A code as users give it: one of `grpc.StatusCode`, or its number. Others are UNKNOWN."""
    if isinstance(code, grpc.StatusCode):
        return code
    if isinstance(code, int) and 0 <= code < len(status.CODES):
        return status.CODES[code]
    return grpc.StatusCode.UNKNOWN


def _trailing(given: Any) -> Any:
    """Metadata to be sent at the end, once it is known to be metadata."""
    pairs: Any = ()
    try:
        pairs = tuple(given)
        metadata.to_fields(pairs)
    except StatusError:
        pass  # of the right types: it will be told to the caller
    except (TypeError, ValueError) as error:
        raise TypeError(f"Invalid trailing metadata type, expected {_TRAILING}: {given}") from error
    return pairs
