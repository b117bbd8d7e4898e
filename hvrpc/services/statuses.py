"""How a call over msgpack-RPC ended, in gRPC's words: clients catch `grpc.RpcError` on either protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from ..errors import (
    AccessDenied,
    CallCancelled,
    CallError,
    ConnectionLost,
    DeadlineExceeded,
    HvrpcError,
    InvalidParams,
    MethodNotFound,
    OpenFailed,
    Outcome,
    ProtocolError,
    RemoteError,
    SessionClosed,
)
from ..msgpack.core import BUSY, CANCELLED, DRAINING, INTERNAL_ERROR
from ..rpc_errors import RpcError

_OF_CLASS: Final = (
    # The first that fits.
    (AccessDenied, grpc.StatusCode.PERMISSION_DENIED),
    (MethodNotFound, grpc.StatusCode.UNIMPLEMENTED),
    (InvalidParams, grpc.StatusCode.INVALID_ARGUMENT),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    ((CallCancelled, SessionClosed), grpc.StatusCode.CANCELLED),
    ((ConnectionLost, OpenFailed), grpc.StatusCode.UNAVAILABLE),
    (ProtocolError, grpc.StatusCode.INTERNAL),
)
_OF_NUMBER: Final[dict[int | str | None, grpc.StatusCode]] = {
    CANCELLED: grpc.StatusCode.CANCELLED,
    BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DRAINING: grpc.StatusCode.UNAVAILABLE,
    INTERNAL_ERROR: grpc.StatusCode.INTERNAL,
}


def code_of(error: HvrpcError) -> grpc.StatusCode:
    """The status for an error of a call."""
    if isinstance(error, OpenFailed) and error.attempts:
        last = error.attempts[-1].error
        if isinstance(last, AccessDenied):
            return grpc.StatusCode.PERMISSION_DENIED
    if type(error) is RemoteError:
        if isinstance(error.code, str) and error.code in grpc.StatusCode.__members__:
            return grpc.StatusCode[error.code]
        return _OF_NUMBER.get(error.code, grpc.StatusCode.UNKNOWN)
    return next(
        (code for classes, code in _OF_CLASS if isinstance(error, classes)),
        grpc.StatusCode.UNKNOWN,
    )


def details_of(error: HvrpcError) -> str:
    """What is said about it: the server's own words, or ours with address and remedy."""
    return error.message if isinstance(error, RemoteError) else str(error)


def outcome_of(error: HvrpcError) -> Outcome:
    """Whether the call may have been carried out. What is no error of a call came before it was sent."""
    return error.outcome if isinstance(error, CallError) else Outcome.NOT_SENT


class ServiceError(RpcError, grpc.Call):
    """A call over msgpack-RPC has no result. The hvrpc error is its `__cause__`."""

    def __init__(self, error: HvrpcError) -> None:
        super().__init__(str(error))
        self.outcome = outcome_of(error)
        self._code = code_of(error)
        self._details = details_of(error)

    def code(self) -> grpc.StatusCode:
        """How it ended."""
        return self._code

    def details(self) -> str:
        """What is said about it."""
        return self._details

    def initial_metadata(self) -> Any:
        """Nothing: msgpack-RPC has no metadata on the way back."""
        return ()

    def trailing_metadata(self) -> Any:
        """Nothing, either."""
        return ()

    def is_active(self) -> bool:
        """It is over."""
        return False

    def time_remaining(self) -> float:
        """None is left."""
        return 0.0

    def cancel(self) -> bool:
        """Too late."""
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Too late."""
        return False

    def __str__(self) -> str:
        return f"{self._code.name}: {self._details}"


class AioServiceError(grpc.aio.AioRpcError, RpcError):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The same with asyncio."""

    def __init__(self, error: HvrpcError) -> None:
        nothing = grpc.aio.Metadata()
        super().__init__(code_of(error), nothing, nothing, details_of(error))
        self.outcome = outcome_of(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return aio_error, (self.__cause__,)


def rpc_error(error: HvrpcError) -> ServiceError:
    """What a blocking caller is raised."""
    raised = ServiceError(error)
    raised.__cause__ = error
    return raised


def aio_error(error: HvrpcError) -> AioServiceError:
    """What a coroutine is raised."""
    raised = AioServiceError(error)
    raised.__cause__ = error
    return raised
