"""What can go wrong, and who should act.

    HvrpcError
    ├── AddressError                 you: the address is wrong
    ├── CredentialsError             you: a certificate, a key or a token cannot be used
    ├── UnsupportedError             you: this machine cannot do that (it names what is missing)
    ├── UnknownName                  you: no VM, or no service, has this name; or several have
    ├── RegistrationError            you: a service cannot be registered, or removed, like that
    ├── PrivilegeError               an administrator: `command` does it with the privileges it needs
    ├── TransportError               a socket failed: names address, operation, cause and remedy
    │   ├── ConnectError             nothing was sent
    │   │   ├── ConnectTimeout         nobody answered in time
    │   │   └── ConnectRefused         somebody answered: no such service
    │   ├── ListenError              the service could not be offered
    │   ├── TransportTimeout         sending or receiving took longer than asked for
    │   ├── PeerGone                 the other side is no longer there
    │   └── StreamClosed             you: it was used after it was closed
    ├── AccessDenied                 the other side is not who it should be
    └── CallError                    a call has no result: `outcome` says whether it may have run
        ├── OpenFailed                 no connection: lists what was tried
        ├── ConnectionLost             it ended before the answer came
        ├── DeadlineExceeded           the answer did not come in time
        ├── CallCancelled              you gave it up
        ├── SessionClosed              you: the client or server was closed before
        ├── ProtocolError              the peer broke the protocol
        └── RemoteError                the other side answered "no"
            ├── MethodNotFound           it has no such method
            └── InvalidParams            the parameters do not fit

Data is in attributes, the text is made from it by `str()`, and the cause is chained
(`error.__cause__`). Nobody has to read the text in order to decide what to do. Where Python has a
class of its own for what happened (`TimeoutError`, `ConnectionError`, `ValueError`) ours is one too.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Sequence
from dataclasses import dataclass


class HvrpcError(Exception):
    """Whatever hvrpc raises on purpose."""


class AddressError(HvrpcError, ValueError):
    """An address cannot be read, or cannot be used for what was asked."""

    def __init__(self, text: str, *, part: str, problem: str, example: str) -> None:
        super().__init__(text, part, problem, example)
        self.text = text
        self.part = part
        self.problem = problem
        self.example = example

    def __str__(self) -> str:
        where = "" if self.part == self.text else f" at {self.part!r}"
        return f"bad address {self.text!r}{where}: {self.problem} (right: {self.example})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_address_error, (self.text, self.part, self.problem, self.example))


def _address_error(text: str, part: str, problem: str, example: str) -> AddressError:
    return AddressError(text, part=part, problem=problem, example=example)


class CredentialsError(HvrpcError, ValueError):
    """A certificate, a key or other credentials cannot be used as they are."""

    def __init__(self, what: str, *, problem: str, remedy: str) -> None:
        super().__init__(what, problem, remedy)
        self.what = what
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.problem}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_credentials_error, (self.what, self.problem, self.remedy))


def _credentials_error(what: str, problem: str, remedy: str) -> CredentialsError:
    return CredentialsError(what, problem=problem, remedy=remedy)


class UnsupportedError(HvrpcError):
    """This machine, or this Python, cannot do what was asked."""

    def __init__(self, address: str, *, operation: str, problem: str, remedy: str) -> None:
        super().__init__(address, operation, problem, remedy)
        self.address = address
        self.operation = operation
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.operation} {self.address}: {self.problem}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_unsupported_error, (self.address, self.operation, self.problem, self.remedy))


def _unsupported_error(address: str, operation: str, problem: str, remedy: str) -> UnsupportedError:
    return UnsupportedError(address, operation=operation, problem=problem, remedy=remedy)


class UnknownName(HvrpcError, LookupError):
    """A name stands for no VM, or no service, or for several: `candidates` lists those."""

    SHOWN = 10
    """Candidates that the text lists."""

    def __init__(
        self,
        address: str,
        *,
        operation: str,
        problem: str,
        candidates: Sequence[str] = (),
        remedy: str,
    ) -> None:
        super().__init__(address, operation, problem)
        self.address = address
        self.operation = operation
        self.problem = problem
        self.candidates = tuple(candidates)
        self.remedy = remedy

    def __str__(self) -> str:
        shown = list(self.candidates[: self.SHOWN])
        if more := len(self.candidates) - len(shown):
            shown.append(f"{more} more")
        there = f" ({', '.join(shown)})" if shown else ""
        return f"{self.operation} {self.address}: {self.problem}{there}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        told = (self.address, self.operation, self.problem, self.candidates, self.remedy)
        return (_unknown_name, told)


def _unknown_name(
    address: str, operation: str, problem: str, candidates: Sequence[str], remedy: str
) -> UnknownName:
    return UnknownName(
        address, operation=operation, problem=problem, candidates=candidates, remedy=remedy
    )


class RegistrationError(HvrpcError):
    """A service cannot be registered, or removed, like that. Nothing was changed."""

    def __init__(self, service: str, *, operation: str, problem: str, remedy: str) -> None:
        super().__init__(service, operation, problem, remedy)
        self.service = service
        self.operation = operation
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.operation} {self.service}: {self.problem}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_registration_error, (self.service, self.operation, self.problem, self.remedy))


def _registration_error(
    service: str, operation: str, problem: str, remedy: str
) -> RegistrationError:
    return RegistrationError(service, operation=operation, problem=problem, remedy=remedy)


class PrivilegeError(HvrpcError, PermissionError):
    """The system allows this to an administrator only. `command` does it, with those privileges."""

    def __init__(self, operation: str, *, problem: str, remedy: str, command: str = "") -> None:
        super().__init__(errno.EACCES, problem)
        self.operation = operation
        self.problem = problem
        self.remedy = remedy
        self.command = command

    def __str__(self) -> str:
        text = f"{self.operation}: {self.problem}; {self.remedy}"
        return f"{text}: {self.command}" if self.command else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_privilege_error, (self.operation, self.problem, self.remedy, self.command))


def _privilege_error(operation: str, problem: str, remedy: str, command: str) -> PrivilegeError:
    return PrivilegeError(operation, problem=problem, remedy=remedy, command=command)


class TransportError(HvrpcError, OSError):
    """A socket failed.

    `errno` is the system's number (on Windows `winerror` too), `cause` says what it means on a VM
    socket and `remedy` what to do.
    """

    def __init__(
        self,
        address: str,
        *,
        operation: str,
        cause: str,
        remedy: str = "",
        errno: int | None = None,
    ) -> None:
        super().__init__(errno, cause)
        self.errno = errno
        self.address = address
        self.operation = operation
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.operation} {self.address}: {self.cause}"
        return f"{text}; {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        told = (self.address, self.operation, self.cause, self.remedy, self.errno)
        return (_transport_error, (type(self), *told))


def _transport_error(
    kind: type[TransportError],
    address: str,
    operation: str,
    cause: str,
    remedy: str,
    errno: int | None,
) -> TransportError:
    return kind(address, operation=operation, cause=cause, remedy=remedy, errno=errno)


class ConnectError(TransportError, ConnectionError):
    """No connection could be opened. Nothing was sent."""


class ConnectTimeout(ConnectError, TimeoutError):
    """Nobody answered in time. On Linux guests this is also how "nobody listens" looks."""


class ConnectRefused(ConnectError, ConnectionRefusedError):
    """The machine is there and refuses: nobody listens on that service."""


class ListenError(TransportError):
    """The service cannot be offered at this address."""


class TransportTimeout(TransportError, TimeoutError):
    """Sending or receiving took longer than the stream's timeout."""


class PeerGone(TransportError, ConnectionError):
    """The other side closed, died, or was cut off. What it did with the last bytes is not known."""


class StreamClosed(TransportError):
    """A stream or a listener was used after it was closed on this side."""


class AccessDenied(HvrpcError, PermissionError):
    """The other side of a connection is not one that may be there."""

    def __init__(self, address: str, *, peer: str, problem: str, remedy: str = "") -> None:
        super().__init__(errno.EACCES, problem)
        self.address = address
        self.peer = peer
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.address}: {self.peer} {self.problem}"
        return f"{text}; {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_access_denied, (self.address, self.peer, self.problem, self.remedy))


def _access_denied(address: str, peer: str, problem: str, remedy: str) -> AccessDenied:
    return AccessDenied(address, peer=peer, problem=problem, remedy=remedy)


class Outcome(enum.Enum):
    """What may already have happened to a call that failed."""

    NOT_SENT = "it was not carried out: safe to repeat"
    MAY_HAVE_RUN = "it may have been carried out: repeat it only if that does no harm"
    ANSWERED = "the other side answered"


class CallError(HvrpcError):
    """A call has no result. `outcome` says whether it may have run."""

    def __init__(
        self,
        problem: str,
        *,
        address: str = "",
        method: str = "",
        outcome: Outcome = Outcome.MAY_HAVE_RUN,
        remedy: str = "",
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.address = address
        self.method = method
        self.outcome = outcome
        self.remedy = remedy

    def __str__(self) -> str:
        what = " ".join(
            part for part in (str(self.method), self.address and f"at {self.address}") if part
        )
        text = f"{what}: {self.problem}" if what else self.problem
        if self.outcome is not Outcome.ANSWERED:
            text = f"{text} ({self.outcome.value})"
        return f"{text}; {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        told = (self.problem, self.address, self.method, self.outcome, self.remedy)
        return (_call_error, (type(self), *told))


def _call_error(
    kind: type[CallError], problem: str, address: str, method: str, outcome: Outcome, remedy: str
) -> CallError:
    return kind(problem, address=address, method=method, outcome=outcome, remedy=remedy)


class ConnectionLost(CallError, ConnectionError):
    """The connection ended before the answer came."""


class DeadlineExceeded(CallError, TimeoutError):
    """The answer did not come in time."""


class CallCancelled(CallError):
    """The call was given up on purpose."""


class SessionClosed(CallError):
    """You: the client or the server was closed already."""


class ProtocolError(CallError):
    """The peer broke the protocol; the connection was ended."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to open a connection that failed."""

    number: int
    after: float
    """Seconds since the first attempt began."""
    error: Exception


class OpenFailed(CallError, ConnectionError):
    """No connection could be opened, however often it was tried. Nothing was sent."""

    SHOWN = 5
    """Attempts that the text lists, from the last one backwards."""

    def __init__(
        self, address: str, attempts: Sequence[Attempt], *, why: str = "", remedy: str = ""
    ) -> None:
        super().__init__(
            why or "no connection", address=address, outcome=Outcome.NOT_SENT, remedy=remedy
        )
        self.attempts = tuple(attempts)

    def __str__(self) -> str:
        count = len(self.attempts)
        times = "once" if count == 1 else f"{count} times"
        lines = [f"{self.address}: {self.problem}; tried {times} ({self.outcome.value})"]
        if count > self.SHOWN:
            lines.append(f"  … {count - self.SHOWN} earlier attempts")
        lines += [
            f"  attempt {attempt.number}, after {attempt.after:.2f} s: {attempt.error}"
            for attempt in self.attempts[-self.SHOWN :]
        ]
        if self.remedy:
            lines.append(f"  {self.remedy}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_open_failed, (self.address, self.attempts, self.problem, self.remedy))


def _open_failed(address: str, attempts: Sequence[Attempt], why: str, remedy: str) -> OpenFailed:
    return OpenFailed(address, attempts, why=why, remedy=remedy)


class RemoteError(CallError):
    """The other side answered "no": the method raised, or does not exist.

    `code` is a number or a name, `message` a sentence, `data` whatever the method attached,
    `remote_traceback` the other side's traceback if its server allows that.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | str | None = None,
        data: object = None,
        remote_traceback: str | None = None,
        address: str = "",
        method: str = "",
    ) -> None:
        super().__init__(message, address=address, method=method, outcome=Outcome.ANSWERED)
        self.message = message
        self.code = code
        self.data = data
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} [{self.code}]" if self.code is not None else text

    def __reduce__(self) -> tuple[object, ...]:
        told = (self.code, self.data, self.remote_traceback, self.address, self.method)
        return (_remote_error, (type(self), self.message, *told))


def _remote_error(
    kind: type[RemoteError],
    message: str,
    code: int | str | None,
    data: object,
    remote_traceback: str | None,
    address: str,
    method: str,
) -> RemoteError:
    return kind(
        message,
        code=code,
        data=data,
        remote_traceback=remote_traceback,
        address=address,
        method=method,
    )


class MethodNotFound(RemoteError):
    """The other side has no such method."""


class InvalidParams(RemoteError):
    """The parameters do not fit the method; it did not run."""
