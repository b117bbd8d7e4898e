"""What a blocking handler can do besides returning a response."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc

from ..http2 import Fields
from . import metadata, peers
from .messages import ENCODINGS
from .serving import ServerCall
from .wire import PLAIN, RESPONSE, response_fields


class Context(grpc.ServicerContext):
    """The context of one call, with the methods of :class:`grpc.ServicerContext`."""

    # Defaults of the class: most handlers set nothing, and one is made for every call.
    _plain = True
    """Whether nothing has been set or sent that the usual answer does not have."""
    _code: Any = None
    _details: str | None = None
    _trailing: Any = None
    _aborted = False
    _finished = False
    _callbacks: list[Callable[[], object]] | None = None
    _head: Fields = RESPONSE
    _compression = PLAIN
    _compress_next = True

    def __init__(self, call: ServerCall, compression: grpc.Compression) -> None:
        self._call = call
        if compression is not PLAIN:
            self._use(compression)

    # --- The call --------------------------------------------------------------------------------

    def is_active(self) -> bool:
        """Whether somebody waits for the answer still."""
        call = self._call
        return not (call.cancelled or call.answered or call.is_late)

    def time_remaining(self) -> float | None:  # type: ignore[override]
        """Seconds until the caller's deadline; None without one."""
        deadline = self._call.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def cancel(self) -> bool:
        """End the call, which its caller sees as cancelled. False: it had ended before."""
        call = self._call
        if not self.is_active():
            return False
        call.core.reset(call)
        call.give_up()
        if call.on_cancelled is not None:
            call.on_cancelled()
        call.core.connection.flush()
        return True

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Have something called when the call ends. False: it has ended already."""
        if self._finished or not self.is_active():
            return False
        if self._callbacks is None:
            self._callbacks = []
            if self._call.on_cancelled is None:
                self._call.on_cancelled = self._run_callbacks
        self._callbacks.append(callback)
        return True

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                peers.logger.exception("a callback of %s failed", self._call.request.path)

    # --- Who calls -------------------------------------------------------------------------------

    def invocation_metadata(self) -> tuple[Any, ...]:
        """What the caller has sent along."""
        return self._call.request.metadata

    def peer(self) -> str:
        """Who calls: `hvsock:<vm id>/<service>`, and the like."""
        return peers.name_of(self._call.core)

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:  # type: ignore[override]
        """What is known of the caller, and who vouches for it."""
        return peers.auth_context(self._call.core)

    def peer_identities(self) -> Sequence[bytes] | None:
        """The caller's names, in the property that `peer_identity_key` names."""
        return peers.identities(self._call.core)

    def peer_identity_key(self) -> str | None:
        """Which property of `auth_context` says who calls."""
        return peers.identity_key(self._call.core)

    # --- The answer ------------------------------------------------------------------------------

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send what opens the response now. Raises ValueError the second time."""
        if self._call.cancelled:
            raise grpc.RpcError
        if self._call.headers_sent:
            raise ValueError("Initial metadata no longer allowed!")
        self._send_headers(metadata.to_fields(initial_metadata))
        self._call.core.connection.push()

    def _send_headers(self, extra: Fields = ()) -> None:
        self._plain = False
        self._call.core.send_headers(self._call, self._head, extra)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Send this along with the status."""
        self._plain = False
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> Any:
        """What was set so."""
        return self._trailing

    def set_code(self, code: Any) -> None:
        """Let the call end with this status code."""
        self._plain = False
        self._code = code

    def code(self) -> Any:
        """What was set so."""
        return self._code

    def set_details(self, details: str) -> None:
        """Let the call end with this explanation."""
        self._plain = False
        self._details = _text(details)

    def details(self) -> bytes | None:
        """What was set so, as bytes: as grpcio has it."""
        return None if self._details is None else self._details.encode()

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the handler here, and the call with this status. Always raises."""
        if code == grpc.StatusCode.OK:
            peers.logger.error("abort() called with StatusCode.OK; returning UNKNOWN")
            code, details = grpc.StatusCode.UNKNOWN, ""
        self._plain = False
        self._code = code
        self._details = _text(details)
        self._aborted = True
        raise Aborted

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """The same with a whole status."""
        self._trailing = status.trailing_metadata
        self.abort(status.code, status.details)

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compress what is sent from now on in this way, if the caller understands it."""
        if self._call.headers_sent:
            raise ValueError("the response has begun; set the compression before its first message")
        self._use(grpc.Compression(compression))

    def _use(self, compression: grpc.Compression) -> None:
        """Compress in this way, unless the caller has not said that it can read it."""
        if ENCODINGS[compression] not in self._call.request.accepted:
            compression = PLAIN
        self._plain = self._plain and compression is PLAIN
        self._compression = compression
        self._head = response_fields(compression)

    def disable_next_message_compression(self) -> None:
        """Send the next message as it is."""
        self._plain = False
        self._compress_next = False


def _text(details: str | bytes) -> str:
    """Bytes are taken, too: grpcio does."""
    return details if isinstance(details, str) else details.decode("utf-8", "replace")


class Aborted(Exception):
    """What `abort` raises. Caught by the server; a handler that catches it changes nothing."""
