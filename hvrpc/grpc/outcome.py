"""What callers get besides a response: the error of a call that failed, and how one went.

`RpcError` is a `grpc.RpcError` with the methods of `grpc.Call`, as everybody's code expects; the error
of hvrpc that caused it, if one did, is its `__cause__`, and `outcome` says whether the call may have run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import grpc

from .. import rpc_errors
from ..errors import (
    AccessDenied,
    CallError,
    DeadlineExceeded,
    HvrpcError,
    OpenFailed,
    Outcome,
    SessionClosed,
)
from ..session.repeating import doubtful
from .wire import Ending

DEADLINE_EXCEEDED = Ending(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
CANCELLED = Ending(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
NO_RESPONSE = Ending(grpc.StatusCode.UNIMPLEMENTED, "the server sent no response, or more than one")
CHANNEL_CLOSED = Ending(grpc.StatusCode.CANCELLED, "Channel closed!")
IN_DOUBT = frozenset(each.details for each in (DEADLINE_EXCEEDED, CANCELLED, CHANNEL_CLOSED))
"""Whoever says so, this side or a server whose clock was first: the handler may have been at work."""


def ending_of_failure(failure: BaseException) -> Ending:
    """How a call ended whose connection could not be opened, or was lost."""
    if isinstance(failure, DeadlineExceeded):
        return DEADLINE_EXCEEDED
    if isinstance(failure, SessionClosed):
        return CHANNEL_CLOSED
    if isinstance(failure, OpenFailed) and failure.attempts:
        last = failure.attempts[-1].error
        if isinstance(last, AccessDenied):
            return Ending(grpc.StatusCode.PERMISSION_DENIED, str(last))
        return Ending(
            grpc.StatusCode.UNAVAILABLE,
            f"failed to connect to all addresses; last error: UNKNOWN: {failure}",
        )
    if isinstance(failure, AccessDenied):
        return Ending(grpc.StatusCode.PERMISSION_DENIED, str(failure))
    return Ending(grpc.StatusCode.UNAVAILABLE, str(failure))


def unopened(address: str, failed: str) -> DeadlineExceeded:
    """The failure of a call whose time was over before there was a connection; `failed`: the last attempt."""
    why = f": {failed}" if failed else ""
    return DeadlineExceeded(
        f"no connection could be opened in time{why}", address=address, outcome=Outcome.NOT_SENT
    )


def why_not(failure: OpenFailed) -> str:
    """What the last attempt to connect has ended with. As text: an exception would keep what it has seen."""
    return str(failure.attempts[-1].error) if failure.attempts else ""


def outcome_of(failure: HvrpcError, *, in_doubt: bool) -> Outcome:
    """Whether a call that failed so may have been carried out; `in_doubt`: already by an earlier attempt."""
    found = failure.outcome if isinstance(failure, CallError) else Outcome.NOT_SENT
    return Outcome.MAY_HAVE_RUN if in_doubt and found is Outcome.NOT_SENT else found


class CallInfo(grpc.Call):
    """How a call went that has ended: what `with_call` returns beside the response."""

    def __init__(self, initial: Any, ending: Ending) -> None:
        self._initial = initial
        self._ending = ending

    def initial_metadata(self) -> Any:
        """What the server sent before its response."""
        return self._initial

    def trailing_metadata(self) -> Any:
        """What the server sent with its status."""
        return self._ending.metadata

    def code(self) -> grpc.StatusCode:
        """How it ended."""
        return self._ending.code

    def details(self) -> str:
        """Why it ended so."""
        return self._ending.details

    def debug_error_string(self) -> str:
        """The same in one line, for logs."""
        return debug(self._ending)

    def is_active(self) -> bool:
        """It has ended."""
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]
        """It has ended."""
        return None

    def cancel(self) -> bool:
        """Too late."""
        return False

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Too late."""
        return False


class RpcError(CallInfo, rpc_errors.RpcError, grpc.Future):  # type: ignore[type-arg]
    """A call that did not succeed."""

    _in_doubt = False
    """Whether it was made again after it may have been carried out."""

    def __init__(self, initial: Any, ending: Ending, cause: BaseException | None = None) -> None:
        CallInfo.__init__(self, initial, ending)
        self.__cause__ = cause

    @property
    def outcome(self) -> Outcome:  # type: ignore[override]
        """Whether the call may have been carried out."""
        cause = self.__cause__
        if isinstance(cause, HvrpcError):
            return outcome_of(cause, in_doubt=self._in_doubt)
        return Outcome.MAY_HAVE_RUN if self._ending.details in IN_DOUBT else Outcome.ANSWERED

    # --- grpc.Future -----------------------------------------------------------------------------

    def cancelled(self) -> bool:
        """Whether it was this side that gave it up."""
        return self._ending.code is grpc.StatusCode.CANCELLED

    def running(self) -> bool:
        """It has ended."""
        return False

    def done(self) -> bool:
        """It has ended."""
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        """There is none."""
        raise self

    def exception(self, timeout: float | None = None) -> RpcError:
        """This."""
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        """Where it was raised."""
        return self.__traceback__

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call it now: it has ended."""
        fn(self)

    def __str__(self) -> str:
        return describe(type(self).__name__, self._ending)

    __repr__ = __str__

    def __reduce__(self) -> Any:
        ending = self._ending
        return _rpc_error, (tuple(self._initial or ()), ending.code, ending.details, ending.fields)


def failed(failure: HvrpcError, *, in_doubt: bool) -> RpcError:
    """The error of a call whose connection could not be opened, or was lost."""
    told = doubtful(failure) if in_doubt else failure
    error = RpcError((), ending_of_failure(told), told)
    error._in_doubt = in_doubt
    return error


def _rpc_error(initial: Any, code: grpc.StatusCode, details: str, fields: Any) -> RpcError:
    return RpcError(initial, Ending(code, details, fields))


def describe(name: str, ending: Ending) -> str:
    """An ended call as grpcio shows it."""
    if ending.code is grpc.StatusCode.OK:
        return f'<{name} of RPC that terminated with:\n\tstatus = {ending.code}\n\tdetails = "{ending.details}"\n>'
    return (
        f"<{name} of RPC that terminated with:\n"
        f"\tstatus = {ending.code}\n"
        f'\tdetails = "{ending.details}"\n'
        f'\tdebug_error_string = "{debug(ending)}"\n>'
    )


def debug(ending: Ending) -> str:
    """An ended call in one line, for logs."""
    number = ending.code.value[0]
    return f'{ending.code.name}:{ending.details} {{grpc_status:{number}, grpc_message:"{ending.details}"}}'
