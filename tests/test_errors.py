"""The error tree: its drawing is right, its texts say enough, and errors survive pickling."""

from __future__ import annotations

import builtins
import copy
import errno
import inspect
import pickle
import re
from collections.abc import Callable, Iterator

import pytest

import hvrpc
from hvrpc import errors
from hvrpc.errors import (
    AccessDenied,
    AddressError,
    Attempt,
    CallCancelled,
    CallError,
    ConnectError,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    CredentialsError,
    DeadlineExceeded,
    HvrpcError,
    InvalidParams,
    ListenError,
    MethodNotFound,
    OpenFailed,
    Outcome,
    PeerGone,
    PrivilegeError,
    ProtocolError,
    RegistrationError,
    RemoteError,
    SessionClosed,
    StreamClosed,
    TransportError,
    TransportTimeout,
    UnknownName,
    UnsupportedError,
)

# --- The tree ------------------------------------------------------------------------------------


def drawn_tree() -> Iterator[tuple[str, str]]:
    """(class, base) for every line of the drawing in the module's docstring."""
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r"([ │├└─]*)([A-Z]\w+)(?:\s{2,}.*)?", line)
        if not found or not line.startswith("    "):
            continue
        depth, name = len(found[1]), found[2]
        while above and above[-1][0] >= depth:
            above.pop()
        if above:
            yield name, above[-1][1]
        above.append((depth, name))


def real_tree() -> Iterator[tuple[str, str]]:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        for base in kind.__bases__:
            if issubclass(base, HvrpcError) and kind.__module__ == errors.__name__:
                yield name, base.__name__


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    drawn = sorted(drawn_tree())
    assert len(drawn) > 10
    assert drawn == sorted(real_tree())


@pytest.mark.parametrize("name", sorted({name for name, _ in drawn_tree()} | {"HvrpcError"}))
def test_every_error_can_be_imported_from_the_top(name: str) -> None:
    assert getattr(hvrpc, name) is getattr(errors, name)
    assert name in hvrpc.__all__
    assert inspect.getdoc(getattr(errors, name))


BUILTIN_BASES: list[tuple[type[HvrpcError], str]] = [
    (AddressError, "ValueError"),
    (CredentialsError, "ValueError"),
    (TransportError, "OSError"),
    (ConnectError, "ConnectionError"),
    (ConnectTimeout, "TimeoutError"),
    (ConnectTimeout, "ConnectionError"),
    (ConnectRefused, "ConnectionRefusedError"),
    (ListenError, "OSError"),
    (TransportTimeout, "TimeoutError"),
    (PeerGone, "ConnectionError"),
    (StreamClosed, "OSError"),
    (AccessDenied, "PermissionError"),
    (PrivilegeError, "PermissionError"),
    (UnknownName, "LookupError"),
    (ConnectionLost, "ConnectionError"),
    (DeadlineExceeded, "TimeoutError"),
    (OpenFailed, "ConnectionError"),
]


@pytest.mark.parametrize(("kind", "base"), BUILTIN_BASES)
def test_who_catches_pythons_own_class_catches_ours(kind: type[HvrpcError], base: str) -> None:
    assert issubclass(kind, getattr(builtins, base))


# --- What they say -------------------------------------------------------------------------------

CALLER = {"operation": "connect to", "cause": "nobody is there", "remedy": "start the server"}


def refused(cause: str = "refused") -> ConnectRefused:
    return ConnectRefused("unix:///x", operation="connect to", cause=cause, remedy="start it")


SAMPLES: list[tuple[Callable[[], HvrpcError], str]] = [
    (
        lambda: AddressError("tcp://x", part="x", problem="no port", example="tcp://x:1"),
        "bad address 'tcp://x' at 'x': no port (right: tcp://x:1)",
    ),
    (
        lambda: AddressError("x", part="x", problem="no scheme", example="tcp://x:1"),
        "bad address 'x': no scheme (right: tcp://x:1)",
    ),
    (
        lambda: CredentialsError("key k.pem", problem="there is none", remedy="make one"),
        "key k.pem: there is none; make one",
    ),
    (
        lambda: UnsupportedError(
            "vsock://2/5", operation="listen on", problem="no vsock here", remedy="use Linux"
        ),
        "listen on vsock://2/5: no vsock here; use Linux",
    ),
    (
        lambda: UnknownName(
            "hvsock://web/5",
            operation="connect to",
            problem="several VMs are called 'web'",
            candidates=["web (1)", "web (2)"],
            remedy="give the id",
        ),
        "connect to hvsock://web/5: several VMs are called 'web' (web (1), web (2)); give the id",
    ),
    (
        lambda: UnknownName("x", operation="find", problem="nobody is called x", remedy="look"),
        "find x: nobody is called x; look",
    ),
    (
        lambda: RegistrationError(
            "agent", operation="register service", problem="it is taken", remedy="take another"
        ),
        "register service agent: it is taken; take another",
    ),
    (
        lambda: PrivilegeError(
            "list VMs", problem="you may not", remedy="run this", command="Start-Process x"
        ),
        "list VMs: you may not; run this: Start-Process x",
    ),
    (lambda: PrivilegeError("look", problem="you may not", remedy="ask"), "look: you may not; ask"),
    *(
        (
            lambda kind=kind: kind("unix:///x", errno=111, **CALLER),
            "connect to unix:///x: nobody is there; start the server",
        )
        for kind in (
            TransportError,
            ConnectError,
            ConnectTimeout,
            ConnectRefused,
            ListenError,
            TransportTimeout,
            PeerGone,
            StreamClosed,
        )
    ),
    (
        lambda: TransportError("unix:///x", operation="send to", cause="broken"),
        "send to unix:///x: broken",
    ),
    (
        lambda: AccessDenied("unix:///x", peer="unix:?pid=1", problem="may not", remedy="ask"),
        "unix:///x: unix:?pid=1 may not; ask",
    ),
    (lambda: AccessDenied("unix:///x", peer="it", problem="may not"), "unix:///x: it may not"),
    (
        lambda: CallError("no answer", address="unix:///x", method="add", remedy="try again"),
        f"add at unix:///x: no answer ({Outcome.MAY_HAVE_RUN.value}); try again",
    ),
    *(
        (
            lambda kind=kind: kind("ended", outcome=Outcome.NOT_SENT),
            "ended (it was not carried out: safe to repeat)",
        )
        for kind in (ConnectionLost, DeadlineExceeded, CallCancelled, SessionClosed, ProtocolError)
    ),
    *(
        (
            lambda kind=kind: kind(
                "no", code=-32601, data={"a": 1}, address="unix:///x", method="add"
            ),
            "add at unix:///x: no [-32601]",
        )
        for kind in (RemoteError, MethodNotFound, InvalidParams)
    ),
    (
        lambda: OpenFailed("unix:///x", [Attempt(1, 0.0, refused())], remedy="look at the log"),
        """\
unix:///x: no connection; tried once (it was not carried out: safe to repeat)
  attempt 1, after 0.00 s: connect to unix:///x: refused; start it
  look at the log""",
    ),
]
every_sample = pytest.mark.parametrize(("make", "text"), SAMPLES)


@every_sample
def test_text(make: Callable[[], HvrpcError], text: str) -> None:
    assert str(make()) == text


def test_every_class_of_the_tree_is_among_the_samples() -> None:
    assert {type(make()).__name__ for make, _ in SAMPLES} == {name for name, _ in drawn_tree()}


def test_many_attempts_are_shortened_to_the_last_ones() -> None:
    attempts = [Attempt(n, n * 1.0, refused(f"refusal {n}")) for n in range(1, 9)]
    lines = str(OpenFailed("unix:///x", attempts)).splitlines()
    assert lines[0].startswith("unix:///x: no connection; tried 8 times")
    assert lines[1] == "  … 3 earlier attempts"
    assert [line.split(": ")[2] for line in lines[2:]] == [
        f"refusal {n}; start it" for n in range(4, 9)
    ]


# --- What programs read --------------------------------------------------------------------------


def test_attributes_of_a_transport_error() -> None:
    error = ConnectTimeout("unix:///x", errno=errno.ETIMEDOUT, **CALLER)
    assert error.address == "unix:///x"
    assert error.operation == "connect to"
    assert error.cause == "nobody is there"
    assert error.remedy == "start the server"
    assert error.errno == errno.ETIMEDOUT
    assert error.strerror == "nobody is there"


def test_an_error_without_a_number() -> None:
    error = StreamClosed("unix:///x", operation="send to", cause="closed")
    assert error.errno is None
    assert error.remedy == ""


def test_a_long_list_of_candidates_is_shortened() -> None:
    names = [f"vm{number}" for number in range(25)]
    error = UnknownName("x", operation="find", problem="no", candidates=names, remedy="look")
    assert str(error).endswith("vm8, vm9, 15 more); look")
    assert error.candidates == tuple(names)


def test_attributes_of_denied_access() -> None:
    error = AccessDenied("unix:///x", peer="it", problem="may not", remedy="ask")
    assert (error.address, error.peer, error.problem, error.remedy) == (
        "unix:///x",
        "it",
        "may not",
        "ask",
    )
    assert error.errno == errno.EACCES
    assert error.filename is None


@every_sample
def test_errors_survive_pickle_and_copy(make: Callable[[], HvrpcError], text: str) -> None:
    error = make()
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == text
        assert _comparable(again) == _comparable(error)


def _comparable(error: HvrpcError) -> dict[str, object]:
    told = {**vars(error), "errno": getattr(error, "errno", None)}
    return {name: str(value) if name == "attempts" else value for name, value in told.items()}


def test_the_cause_is_chained() -> None:
    original = ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    def fail() -> None:
        try:
            raise original
        except OSError as error:
            raise refused() from error

    with pytest.raises(ConnectRefused) as caught:
        fail()
    assert caught.value.__cause__ is original
