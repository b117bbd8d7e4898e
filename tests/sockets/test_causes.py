"""Every known error of a VM socket, and what becomes of it.

The tables here are written from what Hyper-V sockets are known to do, not from the code: number,
what people call it, the class for each operation, and words that the text has to contain.
"""

from __future__ import annotations

import errno
import socket

import pytest

from hvrpc import (
    AddressError,
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    HvrpcError,
    ListenError,
    PeerGone,
    StreamClosed,
    TransportError,
    TransportTimeout,
    UnsupportedError,
)
from hvrpc.sockets import causes
from hvrpc.sockets.causes import ACCEPT, CONNECT, LISTEN, RECEIVE, SEND

ADDRESS = "hvsock://parent/5000"

Row = tuple[int, str, dict[str, type[HvrpcError]], tuple[str, ...]]

WINDOWS: list[Row] = [
    (
        10013,
        "WSAEACCES",
        {CONNECT: ConnectError, LISTEN: ListenError},
        ("register the service", "Hyper-V Administrators", "logging off", "security descriptor"),
    ),
    (
        10022,
        "WSAEINVAL",
        {CONNECT: ConnectError, LISTEN: ListenError},
        ("disabled", "service table", "enable"),
    ),
    (10041, "WSAEPROTOTYPE", {CONNECT: ConnectError, LISTEN: ListenError}, ("HV_PROTOCOL_RAW",)),
    (
        10042,
        "WSAENOPROTOOPT",
        {CONNECT: ConnectError, LISTEN: ListenError},
        ("option", "container_passthrough", "22H2"),
    ),
    (
        10047,
        "WSAEAFNOSUPPORT",
        {CONNECT: UnsupportedError, LISTEN: UnsupportedError},
        ("no Hyper-V sockets", "turn on", "Virtual Machine Platform"),
    ),
    (10048, "WSAEADDRINUSE", {LISTEN: ListenError}, ("another program", "another service")),
    (
        10049,
        "WSAEADDRNOTAVAIL",
        {CONNECT: ConnectError},
        ("no such running VM", "listening only", "Get-VM", "WSL"),
    ),
    (10050, "WSAENETDOWN", {CONNECT: ConnectError}, ("try again", "rebooting")),
    (10051, "WSAENETUNREACH", {CONNECT: ConnectError}, ("try again",)),
    (10053, "WSAECONNABORTED", {SEND: PeerGone, RECEIVE: PeerGone}, ("gone", "connect again")),
    (10054, "WSAECONNRESET", {SEND: PeerGone, RECEIVE: PeerGone}, ("gone", "connect again")),
    (10057, "WSAENOTCONN", {SEND: PeerGone, RECEIVE: PeerGone}, ("standby", "connect again")),
    (10058, "WSAESHUTDOWN", {SEND: PeerGone}, ("shut down",)),
    (
        10060,
        "WSAETIMEDOUT",
        {CONNECT: ConnectTimeout, SEND: PeerGone, RECEIVE: PeerGone},
        (),
    ),
    (
        10061,
        "WSAECONNREFUSED",
        {CONNECT: ConnectRefused},
        ("nobody listens", "start the server", "any or children", "VM's id"),
    ),
    (109, "ERROR_BROKEN_PIPE", {SEND: PeerGone, RECEIVE: PeerGone}, ("without saying goodbye",)),
]

LINUX_GUEST: list[Row] = [
    (
        errno.ETIMEDOUT,
        "ETIMEDOUT",
        {CONNECT: ConnectTimeout, SEND: PeerGone, RECEIVE: PeerGone},
        (),
    ),
    (
        errno.ENETUNREACH,
        "ENETUNREACH",
        {CONNECT: ConnectError},
        ("only its host", "2147483647", "hvsock://parent/"),
    ),
    (errno.ENODEV, "ENODEV", {CONNECT: ConnectError, LISTEN: ListenError}, ("modprobe hv_sock",)),
    (
        errno.EAFNOSUPPORT,
        "EAFNOSUPPORT",
        {CONNECT: UnsupportedError, LISTEN: UnsupportedError},
        ("no VM sockets", "CONFIG_VSOCKETS"),
    ),
    (errno.EACCES, "EACCES", {LISTEN: ListenError}, ("below 1024", "CAP_NET_BIND_SERVICE")),
    (errno.EADDRNOTAVAIL, "EADDRNOTAVAIL", {LISTEN: ListenError}, ("hvsock://any/",)),
    (errno.EADDRINUSE, "EADDRINUSE", {LISTEN: ListenError}, ("another program",)),
    (errno.EPIPE, "EPIPE", {SEND: PeerGone, RECEIVE: PeerGone}, ("gone", "connect again")),
    (errno.ENOTCONN, "ENOTCONN", {SEND: PeerGone, RECEIVE: PeerGone}, ("gone", "connect again")),
    (errno.EIO, "EIO at the end", {RECEIVE: PeerGone}, ("6.17 to 7.0", "connect again")),
    (errno.ENOMEM, "ENOMEM at the end", {RECEIVE: PeerGone}, ("6.17 to 7.0", "connect again")),
    (errno.EOPNOTSUPP, "EOPNOTSUPP", {RECEIVE: TransportError}, ("cannot do that",)),
    # Not Hyper-V: virtio and loopback refuse where hv_sock is silent.
    (errno.ECONNRESET, "ECONNRESET, connecting", {CONNECT: ConnectRefused}, ("nobody listens",)),
    (errno.ECONNRESET, "ECONNRESET, later", {SEND: PeerGone, RECEIVE: PeerGone}, ("gone",)),
]

PLAIN: list[Row] = [
    (errno.ECONNREFUSED, "ECONNREFUSED", {CONNECT: ConnectRefused}, ("nobody listens", "start")),
    (errno.ENOENT, "ENOENT, connecting", {CONNECT: ConnectRefused}, ("start", "path")),
    (errno.ENOENT, "ENOENT, listening", {LISTEN: ListenError}, ("folder does not exist",)),
    (errno.EADDRINUSE, "EADDRINUSE", {LISTEN: ListenError}, ("another program",)),
    (errno.EADDRNOTAVAIL, "EADDRNOTAVAIL", {LISTEN: ListenError}, ("does not have that",)),
    (errno.EACCES, "EACCES", {CONNECT: ConnectError, LISTEN: ListenError}, ("permission",)),
    (errno.EPERM, "EPERM", {CONNECT: ConnectError}, ("permission",)),
    (errno.EMFILE, "EMFILE", {CONNECT: ConnectError, ACCEPT: ListenError}, ("ulimit -n",)),
    (errno.ETIMEDOUT, "ETIMEDOUT", {CONNECT: ConnectTimeout, RECEIVE: PeerGone}, ()),
    (errno.EPIPE, "EPIPE", {SEND: PeerGone}, ("gone",)),
    (errno.ECONNRESET, "ECONNRESET", {SEND: PeerGone, RECEIVE: PeerGone}, ("gone",)),
    (errno.ECONNABORTED, "ECONNABORTED", {RECEIVE: PeerGone, ACCEPT: ListenError}, ("gone",)),
    (errno.ENOTCONN, "ENOTCONN", {SEND: PeerGone}, ("gone",)),
    (errno.ESHUTDOWN, "ESHUTDOWN", {SEND: PeerGone}, ("shut down",)),
    (errno.EBADF, "EBADF", {SEND: StreamClosed, RECEIVE: StreamClosed}, ("closed already",)),
    (errno.EIO, "EIO", {RECEIVE: TransportError}, ()),
    (errno.ENOMEM, "ENOMEM", {RECEIVE: TransportError}, ()),
]

CASES = [
    pytest.param(family, code, operation, kind, words, id=f"{family}-{name}-{operation.split()[0]}")
    for families, rows in (
        (("hyperv",), WINDOWS),
        (("vsock",), LINUX_GUEST),
        (("unix", "tcp", "hybrid", "local"), PLAIN),
    )
    for family in families
    for code, name, kinds, words in rows
    for operation, kind in kinds.items()
]


def system_error(code: int) -> OSError:
    """As the system raises it: Python picks the subclass."""
    return OSError(code, f"the system's own words for {code}")


@pytest.mark.parametrize(("family", "code", "operation", "kind", "words"), CASES)
def test_row(
    family: str, code: int, operation: str, kind: type[HvrpcError], words: tuple[str, ...]
) -> None:
    error = causes.explain(system_error(code), operation=operation, address=ADDRESS, family=family)
    assert type(error) is kind
    assert str(error).startswith(f"{operation} {ADDRESS}: ")
    for word in words:
        assert word in str(error)
    if isinstance(error, TransportError):
        assert (error.address, error.operation, error.errno) == (ADDRESS, operation, code)


def test_a_windows_client_without_an_answer_is_told_of_guests_and_of_standby() -> None:
    error = causes.explain(system_error(10060), operation=CONNECT, address=ADDRESS, family="hyperv")
    for word in ("nobody answered", "Linux guest", "standby", "restart the VM"):
        assert word in str(error)


def test_a_linux_guest_without_an_answer_is_told_what_to_check_on_the_host() -> None:
    error = causes.explain(
        system_error(errno.ETIMEDOUT), operation=CONNECT, address=ADDRESS, family="vsock"
    )
    for word in ("host listens", "registered", "this VM's id", "never refuses"):
        assert word in str(error)


def test_the_number_of_windows_comes_before_the_one_python_made_of_it() -> None:
    error = OSError(errno.EPIPE, "broken pipe")
    error.winerror = 109  # type: ignore[attr-defined, unused-ignore]  # as Windows does
    assert causes.code_of(error) == 109
    explained = causes.explain(error, operation=RECEIVE, address=ADDRESS, family="hyperv")
    assert type(explained) is PeerGone
    assert explained.errno == 109


@pytest.mark.parametrize("family", ["unix", "tcp", "hybrid", "local"])
def test_plain_sockets_are_not_told_about_hyper_v(family: str) -> None:
    """Also on Windows, where their errors have the same numbers."""
    for code in (errno.ECONNREFUSED, errno.EACCES, errno.ETIMEDOUT, errno.EADDRNOTAVAIL):
        for operation in (CONNECT, LISTEN):
            error = causes.explain(
                system_error(code), operation=operation, address="unix:///x", family=family
            )
            assert "VM" not in str(error)
            assert "Hyper-V" not in str(error)


# --- The other side is gone ----------------------------------------------------------------------

GONE: dict[str, list[int]] = {
    "hyperv": [64, 109, 232, 995, 10053, 10054, 10057, 10058, 10060],
    "vsock": [
        errno.EPIPE,
        errno.ENOTCONN,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EIO,
        errno.ENOMEM,
    ],
    "unix": [errno.EPIPE, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ESHUTDOWN],
    "hybrid": [errno.EPIPE, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED],
    "local": [errno.EPIPE, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED],
    "tcp": [errno.EPIPE, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT],
}
NOT_GONE: dict[str, list[int]] = {
    "hyperv": [10013, 10035, 10047, 10061],
    "vsock": [errno.EAGAIN, errno.EOPNOTSUPP, errno.EBADF],
    "unix": [errno.EAGAIN, errno.EIO, errno.ENOMEM, errno.EBADF],
    "tcp": [errno.EAGAIN, errno.EIO, errno.ENOMEM],
}


@pytest.mark.parametrize(("family", "code"), [(f, c) for f, codes in GONE.items() for c in codes])
def test_all_ways_to_be_gone_are_one(family: str, code: int) -> None:
    assert causes.is_gone(system_error(code), family)


@pytest.mark.parametrize(
    ("family", "code"), [(f, c) for f, codes in NOT_GONE.items() for c in codes]
)
def test_other_errors_do_not_mean_that_the_peer_is_gone(family: str, code: int) -> None:
    assert not causes.is_gone(system_error(code), family)


@pytest.mark.parametrize("family", list(GONE))
def test_pythons_own_classes_for_it_need_no_number(family: str) -> None:
    """asyncio on Windows raises some of them."""
    for kind in (BrokenPipeError, ConnectionAbortedError, ConnectionResetError):
        assert causes.is_gone(kind(), family)
    assert not causes.is_gone(ConnectionRefusedError(), family)


# --- Timeouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(GONE))
@pytest.mark.parametrize("error", [TimeoutError("timed out"), BlockingIOError(errno.EAGAIN, "x")])
def test_a_timeout_of_ours_is_not_the_end_of_the_peer(family: str, error: OSError) -> None:
    assert not causes.is_gone(error, family)
    for operation in (SEND, RECEIVE):
        explained = causes.explain(error, operation=operation, address=ADDRESS, family=family)
        assert type(explained) is TransportTimeout
        assert "time was up" in str(explained)
    explained = causes.explain(error, operation=CONNECT, address=ADDRESS, family=family)
    assert type(explained) is ConnectTimeout
    assert "nobody answered in time" in str(explained)


def test_a_real_socket_timeout_is_recognised() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(0.001)
        with pytest.raises(TimeoutError) as caught:
            one.recv(1)
    explained = causes.explain(caught.value, operation=RECEIVE, address=ADDRESS, family="unix")
    assert type(explained) is TransportTimeout


# --- What nobody has foreseen --------------------------------------------------------------------


@pytest.mark.parametrize("family", list(GONE))
@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        (CONNECT, ConnectError),
        (LISTEN, ListenError),
        (ACCEPT, ListenError),
        (SEND, TransportError),
        (RECEIVE, TransportError),
    ],
)
def test_an_unknown_number_keeps_the_systems_words(
    family: str, operation: str, kind: type[TransportError]
) -> None:
    error = causes.explain(
        OSError(10999, "never seen"), operation=operation, address=ADDRESS, family=family
    )
    assert type(error) is kind
    assert error.errno == 10999
    assert str(error) == f"{operation} {ADDRESS}: never seen"


def test_an_error_without_number_or_text() -> None:
    error = causes.explain(OSError(), operation=SEND, address=ADDRESS, family="unix")
    assert type(error) is TransportError
    assert error.errno is None
    assert str(error) == f"send to {ADDRESS}: OSError"


def test_what_is_explained_already_stays_as_it_is() -> None:
    ours = PeerGone(ADDRESS, operation=SEND, cause="gone")
    assert causes.explain(ours, operation=CONNECT, address="other", family="unix") is ours
    assert not issubclass(AddressError, OSError)
