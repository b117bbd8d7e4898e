"""gRPC's contexts for methods that were called over msgpack-RPC, so that a servicer need not know.

What msgpack-RPC has no place for is metadata on the way back. A servicer that gives some is not
stopped by that; the log says once that it is not sent.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import grpc

from ..errors import InvalidParams, RemoteError
from ..msgpack import Context
from ..msgpack.values import shown

logger = logging.getLogger("hvrpc.services")


class Metadatum(NamedTuple):
    """One piece of metadata."""

    key: str
    value: str | bytes


Pairs = tuple[Metadatum, ...]


def metadata_of(params: Sequence[Any]) -> Pairs:
    """The metadata of a call: its second parameter, a map. Raises :class:`InvalidParams`."""
    if len(params) < 2 or params[1] is None:
        return ()
    given = params[1]
    if len(params) > 2:
        raise InvalidParams(f"it takes a message and metadata, not {len(params)} parameters")
    if not isinstance(given, Mapping):
        raise InvalidParams(f"params[1]: expected a map of metadata, got {shown(given)}")
    pairs: list[Metadatum] = []
    for key, values in given.items():
        for value in values if isinstance(values, list | tuple) else (values,):
            if type(key) is not str or type(value) is not (bytes if key.endswith("-bin") else str):
                raise InvalidParams(
                    f"params[1]: expected metadata with values of str (bytes if a name ends in -bin),"
                    f" got {shown(key)}: {shown(value)}"
                )
            pairs.append(Metadatum(key.lower(), value))
    return tuple(pairs)


def metadata_map(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, Any]:
    """The same on the way out: values of a name that comes several times in a list."""
    found: dict[str, list[str | bytes]] = {}
    for key, value in metadata:
        found.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


@functools.cache
def _say_once(method: str, what: str) -> None:
    logger.warning("%s: msgpack-RPC has no place for %s: not sent", method, what)


class _Told:
    """What both contexts know."""

    def __init__(self, context: Context, metadata: Pairs) -> None:
        self._context = context
        self._metadata = metadata
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Any = ()

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return str(self._context.peer)

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> Any:
        peer = self._context.peer
        vm_id = None if peer is None else peer.vm_id
        return {} if vm_id is None else {"vm_id": [str(vm_id).encode()]}

    def time_remaining(self) -> Any:
        return self._context.time_remaining()

    def set_compression(self, compression: grpc.Compression) -> None:
        _say_once(self._context.method, "compression")

    def disable_next_message_compression(self) -> None:
        """Nothing is compressed."""

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        _say_once(self._context.method, "trailing metadata")
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> Any:
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return self._details

    def finish(self) -> None:
        """A method has returned: raise if it has set an error before."""
        if self._code is not None and self._code is not grpc.StatusCode.OK:
            raise RemoteError(self._details, code=self._code.name)

    def _abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        if code is grpc.StatusCode.OK:
            raise RemoteError("abort() called with the status OK", code="UNKNOWN")
        self._code, self._details = code, details
        raise RemoteError(details, code=code.name)


class BlockingContext(_Told, grpc.ServicerContext):
    """For methods that block."""

    def is_active(self) -> bool:
        return not self._context.cancelled

    def cancel(self) -> bool:
        self._context.cancel()
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._over:
            return False
        self._callbacks.append(callback)
        return True

    def __init__(self, context: Context, metadata: Pairs) -> None:
        super().__init__(context, metadata)
        self._over = False
        self._callbacks: list[Callable[[], None]] = []

    def end(self) -> None:
        """The call is over, in whichever way."""
        self._over = True
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                logger.exception("%s: a callback for its end raised", self._context.method)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        _say_once(self._context.method, "initial metadata")

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self._abort(code, details)

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self._abort(status.code, status.details)


class CoroutineContext(_Told, grpc.aio.ServicerContext[Any, Any]):
    """For methods that are coroutines."""

    def __init__(self, context: Context, metadata: Pairs) -> None:
        super().__init__(context, metadata)
        self._callbacks: list[Callable[[Any], Any]] = []
        self._over = False

    async def read(self) -> Any:
        raise NotImplementedError("iterate over the requests; read() is not there over msgpack-RPC")

    async def write(self, message: Any) -> None:
        raise NotImplementedError("yield the responses; write() is not there over msgpack-RPC")

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        _say_once(self._context.method, "initial metadata")

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self._abort(code, details)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self._abort(status.code, status.details)

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        return self._context.cancelled

    def done(self) -> bool:
        return self._over

    def end(self) -> None:
        """The call is over, in whichever way."""
        self._over = True
        for callback in self._callbacks:
            try:
                callback(self)
            except Exception:
                logger.exception("%s: a callback for its end raised", self._context.method)


REQUESTS: Final = "hvrpc.requests"
"""The method of a client that yields the messages it sends: a server that carries out a call with
streaming requests calls it back, so that both directions have the flow control of results."""
