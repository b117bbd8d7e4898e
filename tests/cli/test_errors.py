"""Every error of hvrpc becomes a block that a person can act on, and a code that a script can."""

from __future__ import annotations

import click
import pytest

import hvrpc as library
from hvrpc.cli import errors
from hvrpc.cli.errors import ExitCode, Failure, Problem, problem_of
from hvrpc.cli.main import hvrpc

from .runs import run

REFUSED = library.ConnectRefused(
    "hvsock://web/5000", operation="connect", cause="nobody listens there", remedy="start it"
)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            library.AddressError(
                "hvsock://web",
                part="web",
                problem="it lacks a service",
                example="hvsock://web/50051",
            ),
            Problem(
                "'hvsock://web' is not an address",
                "it lacks a service at 'web'",
                "write it like hvsock://web/50051",
                ExitCode.USAGE,
            ),
        ),
        (
            library.CredentialsError("key k.pem", problem="there is none", remedy="make one"),
            Problem("key k.pem cannot be used", "there is none", "make one", ExitCode.USAGE),
        ),
        (
            library.UnsupportedError(
                "vsock://2/5", operation="connect", problem="no vsock", remedy="load the module"
            ),
            Problem(
                "connect vsock://2/5 is not possible here",
                "no vsock",
                "load the module",
                ExitCode.MISSING,
            ),
        ),
        (
            REFUSED,
            Problem(
                "connect hvsock://web/5000 failed",
                "nobody listens there",
                "start it",
                ExitCode.NO_CONNECTION,
            ),
        ),
        (
            library.OpenFailed(
                "hvsock://web/5000",
                [library.Attempt(1, 0.0, REFUSED), library.Attempt(2, 1.5, REFUSED)],
            ),
            Problem(
                "no connection to hvsock://web/5000 (tried 2 times in 1.5 s)",
                "nobody listens there",
                "start it",
                ExitCode.NO_CONNECTION,
            ),
        ),
        (
            library.DeadlineExceeded("no answer within 1 s", address="unix:///a", method="add"),
            Problem(
                "add at unix:///a has no result",
                "no answer within 1 s",
                library.Outcome.MAY_HAVE_RUN.value,
                ExitCode.TOO_LATE,
            ),
        ),
        (
            library.MethodNotFound("no method 'ad'", code=-32601, address="unix:///a", method="ad"),
            Problem(
                "ad at unix:///a answered with an error",
                "no method 'ad' [-32601]",
                "hvrpc list --msgpack unix:///a shows its methods",
                ExitCode.REFUSED,
            ),
        ),
        (
            library.AccessDenied("unix:///a", peer="pid 5", problem="is of another user"),
            Problem(
                "unix:///a is not for us", "pid 5 is of another user", "", ExitCode.NOT_ALLOWED
            ),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_in_three_parts(error: Exception, problem: Problem) -> None:
    assert problem_of(error) == problem


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "pass tls= on both sides, or on neither",
            "pass the --tls options on both sides, or on neither",
        ),
        ("pass Tls(certificate=…, key=…, ca=…)", "pass --tls-cert, --tls-key and --tls-ca"),
        ("say whom to expect: Tls(names=…)", "say whom to expect: --tls-name"),
        ("the CA that the other side has as ca=", "the CA that the other side has as --tls-ca"),
        (
            "call the one that is meant, or correct expect_peer=",
            "call the one that is meant, or correct --expect-peer",
        ),
        ("start it", "start it"),
    ],
)
def test_arguments_of_programs_are_told_as_options(said: str, told: str) -> None:
    address = "hvsock://web/5000"
    refused = library.ConnectRefused(address, operation="connect", cause="no", remedy=said)
    problem = problem_of(library.OpenFailed(address, [library.Attempt(1, 0.0, refused)]))
    assert problem is not None
    assert problem.do == told


def test_every_error_of_hvrpc_is_readable() -> None:
    """A class that is added to the tree does not pass for a bug of hvrpc."""
    for name in library.__all__:
        kind = getattr(library, name)
        if isinstance(kind, type) and issubclass(kind, library.HvrpcError):
            problem = problem_of(kind.__new__(kind)) if kind is library.HvrpcError else None
            assert problem is None or problem.code is not ExitCode.BUG
            assert errors.code_of(kind.__new__(kind)) is not ExitCode.BUG


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command that raises what is in the list."""
    raised: list[BaseException] = []

    @click.command()
    def command() -> None:
        raise raised[0]

    monkeypatch.setattr(type(hvrpc), "get_command", lambda self, ctx, name: command)
    return raised


def test_a_failure_is_told_as_a_block(failing: list[BaseException]) -> None:
    failing.append(Failure("it failed", why="it could not\nreally", do="do it by hand"))
    result = run("fail")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "error  it failed\n  why  it could not\n       really\n   do  do it by hand\n"
    )


def test_ctrl_c_is_one_word_and_its_own_code(failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())
    result = run("fail")
    assert (result.exit_code, result.stderr) == (130, "\ninterrupted\n")


def test_a_bug_is_called_one(failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError("by zero"))
    result = run("fail")
    assert result.exit_code == ExitCode.BUG
    assert "hvrpc itself is wrong: ZeroDivisionError: by zero" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(failing: list[BaseException]) -> None:
    failing.append(REFUSED)
    assert "Traceback" not in run("fail").stderr
    assert "Traceback" in run("--debug", "fail").stderr


@pytest.mark.parametrize(
    ("told", "typed"),
    [
        ("pass Tls(certificate=…, key=…)", "pass --tls-cert and --tls-key"),
        ("give a PEM file with both, or key=", "give a PEM file with both, or --tls-key"),
        ("its CA has to be in Tls(ca=…)", "its CA has to be in --tls-ca"),
        ("want TLS (tls=), or", "want TLS (the --tls options), or"),
        ("Options(remote_tcp_without_tls=True)", "--remote-tcp-without-tls of hvrpc tunnel"),
        ("connect_timeout=5", "connect_timeout=5"),
    ],
)
def test_what_programs_pass_is_told_as_what_is_typed(told: str, typed: str) -> None:
    assert errors.in_options(told) == typed


def test_a_grpc_call_that_takes_too_long_says_what_gives_it_longer() -> None:
    grpc = pytest.importorskip("grpc", reason="pip install 'hvrpc[grpc]'")

    class Late(grpc.RpcError):  # type: ignore[misc, name-defined]
        outcome = library.Outcome.MAY_HAVE_RUN

        def code(self) -> object:
            return grpc.StatusCode.DEADLINE_EXCEEDED

        def details(self) -> str:
            return "Deadline Exceeded"

    problem = problem_of(Late())
    assert problem is not None
    assert problem.code is ExitCode.TOO_LATE
    assert problem.do == f"give it longer with --timeout; {library.Outcome.MAY_HAVE_RUN.value}"


@pytest.mark.parametrize(
    ("module", "package"),
    [("google.protobuf", "protobuf"), ("grpc", "grpcio"), ("hpack", "hpack")],
)
def test_what_is_missing_is_called_as_it_is_installed(module: str, package: str) -> None:
    problem = errors.missing(module, "grpc").problem
    assert problem.what == f"this needs {package}, which is not installed here"
    assert problem.code is ExitCode.MISSING
