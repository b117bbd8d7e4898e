"""What the blocking client and the asyncio client have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

from ..errors import CallCancelled, CallError, DeadlineExceeded, HvrpcError, Outcome
from ..session.core import Call
from .core import MsgpackCore, Request
from .replies import failure_of
from .streams import ItemCall

TIMEOUT: Final = 60.0
"""Seconds that a call, or opening the connection, may take unless told otherwise. A peer that has
died is noticed by heartbeats long before."""
GRACE: Final = 5.0
"""Seconds that closing waits for calls under way."""


class Default:
    """Stands for "as the client says"."""

    def __repr__(self) -> str:
        return "the client's timeout"


UNSET: Final = Default()
Timeout = float | None | Default


class Calls(Protocol):
    """Something whose methods can be called. With asyncio, `_call` returns a coroutine."""

    address: str
    _timeout: float | None

    def _call(
        self,
        method: str,
        params: tuple[Any, ...],
        named: Mapping[str, Any] | None,
        limit: float | None,
        options: Mapping[str, Any] | None,
        idempotent: bool,
    ) -> Any: ...


class Remote:
    """Methods as attributes; dots lead to dotted names."""

    __slots__ = ("_caller", "_name")

    def __init__(self, caller: Calls, name: str) -> None:
        self._caller = caller
        self._name = name

    def __getattr__(self, name: str) -> Remote:
        if name.startswith("__"):
            raise AttributeError(name)  # copy, pickle and inspect ask for these
        return Remote(self._caller, f"{self._name}.{name}" if self._name else name)

    def __call__(self, /, *params: Any, **named: Any) -> Any:
        """Call it. All keywords go to the method; `client.call` takes a timeout."""
        caller = self._caller
        return caller._call(self._name, params, named, caller._timeout, None, False)

    def __repr__(self) -> str:
        return f"<remote method {self._name!r} of {self._caller.address}>"


def names_of(idempotent: Collection[str]) -> frozenset[str]:
    """The names of the methods that may be carried out twice."""
    if isinstance(idempotent, str):
        raise TypeError(f"idempotent= takes several names: ({idempotent!r},)")
    return frozenset(idempotent)


def request(
    core: MsgpackCore,
    method: str,
    params: tuple[Any, ...],
    call: Call,
    named: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
    address: str,
) -> None:
    """Queue a call with keywords or a deadline, which travel to our own peers only."""
    if core.is_ours:
        core.request(method, params, call, named, options)
    elif named:
        raise not_theirs("parameters by name", "pass them by position", method, address)
    else:
        core.request(method, params, call)


def late(
    core: MsgpackCore, call: Call, method: str, address: str, limit: float | None
) -> DeadlineExceeded:
    """The error for an answer that did not come in time. What has not been sent never will be."""
    withdrawn = core.withdraw(call)
    return DeadlineExceeded(
        f"no answer within {limit:g} s",
        address=address,
        method=method,
        outcome=Outcome.NOT_SENT if withdrawn else Outcome.MAY_HAVE_RUN,
    )


class InBatch(Request):
    """A call of a batch. What waiting for it means is the drivers' business."""

    is_final = False
    """Whether it was repeated already, or given up: what became of it then is what is told."""

    def __init__(self, batch: Any, method: str, params: tuple[Any, ...]) -> None:
        self.method = method
        self.params = params
        self.wake = None
        self._sending = batch._sending

    def never_sent(self) -> CallError:
        """The error when something in its batch could not be sent."""
        return CallError(
            "its batch was not sent, because something in it cannot be",
            address=self._address,
            method=self.method,
            outcome=Outcome.NOT_SENT,
            remedy="make a new batch without what `send` has named",
        )

    def end_by(self, error: BaseException) -> None:
        """Nobody carries it out any more, and whoever asks again is told what the first was told."""
        self.is_final = True
        if not isinstance(error, HvrpcError):
            error = CallCancelled("it was given up", address=self._address, method=self.method)
        if self.done:
            self.failure = error
        else:
            self.fail(error)

    @property
    def _address(self) -> str:
        address: str = self._sending.batch._caller.address
        return address


def request_stream(
    core: MsgpackCore,
    method: str,
    params: tuple[Any, ...],
    named: Mapping[str, Any],
    window: int,
    address: str,
) -> ItemCall:
    """Queue a call whose result comes item by item, which only our own peers can do."""
    if type(window) is not int or window < 1:
        raise ValueError(f"the window of a stream is a number of items from 1 on, not {window!r}")
    if not core.is_ours:
        raise not_theirs("streaming results", "use call()", method, address)
    call = ItemCall(window)
    core.request(method, params, call, named, {"stream": window})
    return call


def stream_failure(call: ItemCall, method: str, address: str) -> HvrpcError | None:
    """Why a stream that has ended did not end well; None if it did."""
    if call.error is not None or call.failure is not None:
        return failure_of(call, method=method, address=address)
    if call.value is not None:
        return CallError(
            "it returns its result at once instead of yielding it",
            address=address,
            method=method,
            outcome=Outcome.ANSWERED,
            remedy="use call()",
        )
    return None


def crowded(method: str, address: str) -> DeadlineExceeded:
    """The error for a call that could not even be sent in time."""
    return DeadlineExceeded(
        "the other side takes nothing more",
        address=address,
        method=method,
        outcome=Outcome.NOT_SENT,
    )


def not_theirs(what: str, remedy: str, method: str, address: str) -> CallError:
    """The error for asking a stranger for what only our own peers know."""
    return CallError(
        f"{what} are understood by hvrpc peers only, and the other side is not one",
        address=address,
        method=method,
        outcome=Outcome.NOT_SENT,
        remedy=remedy,
    )
