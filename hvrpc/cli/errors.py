"""What a person reads when a command fails, and what a script gets: a block and an exit code.

    error  hvsock://web/5000: connect
      why  VM web is not running
       do  start it, or ask for another one

`problem_of` makes the three of any error, by the table below it; a command that knows more raises
:class:`Failure` itself.
"""

from __future__ import annotations

import enum
import re
import sys
import textwrap
import traceback
from dataclasses import dataclass, replace
from typing import IO, Any, Final

import click

from .. import errors
from . import INTERRUPTED, MISSING, output
from .details import details_of


class ExitCode(enum.IntEnum):
    """What a script can rely on."""

    OK = 0
    """It was done."""
    FAILED = 1
    """It was not done, or what was looked at is not well; for a reason that has no row of its own."""
    USAGE = 2
    """The command line cannot be understood: an option, an address, a parameter."""
    NO_CONNECTION = 3
    """Nobody answers at the address, or the connection was lost."""
    TOO_LATE = 4
    """The answer did not come in time."""
    REFUSED = 5
    """The other side answered "no": the method raised, or does not exist."""
    NOT_ALLOWED = 6
    """This user, or this VM, may not do that."""
    MISSING = MISSING
    """This machine or this Python lacks something; the error says what to install."""
    BUG = 70
    """hvrpc is wrong. `--debug` shows where."""
    INTERRUPTED = INTERRUPTED
    """Ctrl-C."""


@dataclass(frozen=True)
class Problem:
    """An error in three parts."""

    what: str
    why: str = ""
    do: str = ""
    code: ExitCode = ExitCode.FAILED


class Failure(click.ClickException):
    """A command gives up: what it could not do, why, and what to do about it."""

    def __init__(
        self, what: str, *, why: str = "", do: str = "", code: ExitCode = ExitCode.FAILED
    ) -> None:
        super().__init__(what)
        self.problem = Problem(what, why, do, code)

    def show(self, file: IO[Any] | None = None) -> None:
        print_problem(self.problem)


PACKAGES: Final = {
    # What a module is called where it is installed from.
    "google": "protobuf",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_tools": "grpcio-tools",
}


def missing(package: str, extra: str) -> Failure:
    """A package, or a module of it, is not installed that comes with an extra."""
    name = PACKAGES.get(package.partition(".")[0], package)
    return Failure(
        f"this needs {name}, which is not installed here",
        do=f'{sys.executable} -m pip install "hvrpc[{extra}]"',
        code=ExitCode.MISSING,
    )


CODES: Final[tuple[tuple[type[BaseException], ExitCode], ...]] = (
    # The first class that fits.
    (errors.AddressError, ExitCode.USAGE),
    (errors.CredentialsError, ExitCode.USAGE),
    (errors.UnsupportedError, ExitCode.MISSING),
    (errors.UnknownName, ExitCode.USAGE),
    (errors.AccessDenied, ExitCode.NOT_ALLOWED),
    (errors.RemoteError, ExitCode.REFUSED),
    (errors.OpenFailed, ExitCode.NO_CONNECTION),
    (errors.ConnectionLost, ExitCode.NO_CONNECTION),
    (errors.PeerGone, ExitCode.NO_CONNECTION),
    (errors.ConnectError, ExitCode.NO_CONNECTION),
    (errors.DeadlineExceeded, ExitCode.TOO_LATE),
    (errors.TransportTimeout, ExitCode.TOO_LATE),
    (PermissionError, ExitCode.NOT_ALLOWED),
)

STATUS_CODES: Final = {
    # gRPC's status codes. What is not here is an answer of the other side: REFUSED.
    "UNAVAILABLE": ExitCode.NO_CONNECTION,
    "DEADLINE_EXCEEDED": ExitCode.TOO_LATE,
    "PERMISSION_DENIED": ExitCode.NOT_ALLOWED,
    "UNAUTHENTICATED": ExitCode.NOT_ALLOWED,
    "CANCELLED": ExitCode.FAILED,
}


def code_of(error: BaseException) -> ExitCode:
    return next((code for kind, code in CODES if isinstance(error, kind)), ExitCode.FAILED)


OPTIONS: Final = (
    # What errors call by the names that programs use, and what it is called here. The first that fits.
    ("Options(remote_tcp_without_tls=True)", "--remote-tcp-without-tls of hvrpc tunnel"),
    ("Tls(certificate=…, key=…, ca=…)", "--tls-cert, --tls-key and --tls-ca"),
    ("Tls(certificate=…, key=…)", "--tls-cert and --tls-key"),
    ("Tls(names=…)", "--tls-name"),
    ("Tls(ca=…)", "--tls-ca"),
    ("certificate= and key=", "--tls-cert and --tls-key"),
    ("certificate=", "--tls-cert"),
    ("expect_peer=", "--expect-peer"),
    ("key=", "--tls-key"),
    ("ca=", "--tls-ca"),
    ("tls=", "the --tls options"),
    ("timeout=", "--timeout"),
)


def in_options(text: str) -> str:
    """What an error says, for somebody who types commands."""
    for argument, option in OPTIONS:
        # Whole names only: `tls=` is the end of others, too.
        text = re.sub(rf"(?<!\w){re.escape(argument)}", option, text)
    return text


def problem_of(error: BaseException) -> Problem | None:
    """The error in three parts; None for one that hvrpc does not raise on purpose."""
    problem = _problem_of(error)
    if problem is None or not isinstance(error, errors.HvrpcError):
        return problem
    return replace(problem, why=in_options(problem.why), do=in_options(problem.do))


def _problem_of(error: BaseException) -> Problem | None:
    code = code_of(error)
    if isinstance(error, Failure):
        return error.problem
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, errors.AddressError):
        where = "" if error.part == error.text else f" at {error.part!r}"
        what = f"{error.text!r} is not an address"
        return Problem(what, f"{error.problem}{where}", f"write it like {error.example}", code)
    if isinstance(error, errors.CredentialsError):
        return Problem(f"{error.what} cannot be used", error.problem, error.remedy, code)
    if isinstance(error, errors.UnsupportedError):
        what = f"{error.operation} {error.address}".strip() + " is not possible here"
        return Problem(what, error.problem, error.remedy, code)
    if isinstance(error, errors.UnknownName):
        candidates = "".join(f"\n{each}" for each in error.candidates)
        what = f"{error.operation} {error.address} is not possible"
        return Problem(
            what, error.problem + (candidates and f"; there is{candidates}"), error.remedy, code
        )
    if isinstance(error, errors.RegistrationError):
        what = f"{error.operation} {error.service} is not possible"
        return Problem(what, error.problem, error.remedy, code)
    if isinstance(error, errors.PrivilegeError):
        command = error.command and f":\n{AS_IT_IS}{error.command}"
        what = f"{error.operation} is not allowed"
        return Problem(what, error.problem, error.remedy + command, code)
    if isinstance(error, errors.TransportError):
        what = f"{error.operation} {error.address} failed"
        return Problem(what, error.cause, error.remedy, code)
    if isinstance(error, errors.AccessDenied):
        return Problem(
            f"{error.address} is not for us", f"{error.peer} {error.problem}", error.remedy, code
        )
    if isinstance(error, errors.OpenFailed):
        return _open_failed(error)
    if isinstance(error, errors.RemoteError):
        return _remote(error)
    if isinstance(error, errors.CallError):
        what = (
            f"{error.method} at {error.address}" if error.method else f"a call to {error.address}"
        )
        what = what.removesuffix(" at ").removesuffix(" to ")
        return Problem(f"{what} has no result", error.problem, error.remedy or _fate(error), code)
    if isinstance(error, errors.HvrpcError):
        return Problem(str(error), code=code)
    if "grpc" in sys.modules and isinstance(error, sys.modules["grpc"].RpcError):
        return _status(error)
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}" if error.filename else type(error).__name__
        return Problem(what, error.strerror, code=code)
    return None


def _usage(error: click.ClickException) -> Problem:
    context = getattr(error, "ctx", None)
    do = f"see {context.command_path} --help" if context is not None else ""
    return Problem(error.format_message(), do=do, code=ExitCode(error.exit_code))


def _open_failed(error: errors.OpenFailed) -> Problem:
    """The last attempt tells what to do: earlier ones failed for the same reason, or for less."""
    count = len(error.attempts)
    tried = "" if count < 2 else f" (tried {count} times in {error.attempts[-1].after:.1f} s)"
    last = problem_of(error.attempts[-1].error) if error.attempts else None
    why = last.why or last.what if last else error.problem
    do = error.remedy or (last.do if last else "")
    return Problem(
        f"no connection to {error.address}{tried}", why, do, last.code if last else code_of(error)
    )


def _remote(error: errors.RemoteError) -> Problem:
    why = f"{error.message} [{error.code}]" if error.code is not None else error.message
    if error.remote_traceback:
        why = f"{why}\n{error.remote_traceback.rstrip()}"
    do = ""
    if isinstance(error, errors.MethodNotFound) and error.address:
        do = f"hvrpc list --msgpack {error.address} shows its methods"
    what = f"{error.method} at {error.address}".removesuffix(" at ")
    return Problem(f"{what} answered with an error", why, do, code_of(error))


def _fate(error: Any) -> str:
    """Whether it may have run, of an error that knows it."""
    return "" if error.outcome is errors.Outcome.ANSWERED else error.outcome.value


def _status(error: Any) -> Problem:
    """A gRPC status; what lies under it tells more, when it was ours."""
    # An RpcError that is raised is a call too, and has these; its class does not say so.
    status = error.code().name if hasattr(error, "code") else "UNKNOWN"
    details = error.details() if hasattr(error, "details") else str(error)
    why = "\n".join(filter(None, [details, *details_of(error)]))
    below = problem_of(error.__cause__) if error.__cause__ is not None else None
    code = STATUS_CODES.get(status, ExitCode.REFUSED)
    if below is not None and below.why:
        return Problem(f"{status}: {below.what}", below.why, below.do, code)
    do = ""
    if code is ExitCode.TOO_LATE:
        fate = _fate(error) if hasattr(error, "outcome") else ""
        do = "; ".join(filter(None, ["give it longer with --timeout", fate]))
    return Problem(f"the call ended with status {status}", why, do, code)


def print_problem(problem: Problem) -> None:
    """The block, on stderr."""
    from rich.text import Text

    console = output.console(stderr=True)
    rows = (
        ("error", "bold red", problem.what),
        ("why", "bold", problem.why),
        ("do", "bold green", problem.do),
    )
    for label, style, text in rows:
        if text:
            lines = wrapped(text, console.width - INDENT)
            head = Text.assemble((label.rjust(5), style), "  ", lines[0])
            console.print(
                head, *(" " * INDENT + line for line in lines[1:]), sep="\n", soft_wrap=True
            )


INDENT: Final = 7
AS_IT_IS: Final = "    "
"""A line that begins with this is something to copy, and is not broken."""


def wrapped(text: str, width: int) -> list[str]:
    lines = [
        [line]
        if line.startswith(AS_IT_IS)
        else textwrap.wrap(line, max(width, 20), break_on_hyphens=False)
        for line in text.splitlines()
    ]
    return [part for line in lines for part in line or [""]]


def report(error: BaseException, *, debug: bool) -> ExitCode:
    """Tell a person why a command ended early, and return the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return ExitCode(error.exit_code)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return ExitCode.USAGE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        output.say("interrupted", "dim", stderr=True)
        return ExitCode.INTERRUPTED
    if debug and not isinstance(error, click.ClickException):
        traceback.print_exception(error)
    problem = problem_of(error)
    if problem is None:
        problem = Problem(
            f"hvrpc itself is wrong: {type(error).__name__}: {error}",
            do="" if debug else "run it again with --debug, and report what it shows",
            code=ExitCode.BUG,
        )
    print_problem(with_notes(problem, error))
    return problem.code


def with_notes(problem: Problem, error: BaseException) -> Problem:
    """What a command has to say about an error that passed it."""
    notes = getattr(error, "__notes__", ())
    return replace(problem, do="; ".join(filter(None, [problem.do, *notes])))
