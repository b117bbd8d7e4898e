"""How bytes get across: six families of sockets behind two functions.

    listener = hvrpc.sockets.listen("hvsock://any/5000")
    stream, peer = listener.accept()

    stream = hvrpc.sockets.connect("hvsock://parent/5000", timeout=5)

Everything blocks. Reading order: `families` (the table), `stream` and `listener` (what callers get),
`causes` (what errors mean), then the family that interests you.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..access import Access, Peer, Rule
from ..addresses import Address
from ..errors import AccessDenied, HvrpcError, UnsupportedError
from ..security import PLAIN, Security
from . import causes
from .families import Family, family_of
from .handshake import shake_hands
from .listener import Listener
from .options import DEFAULT, Options
from .stream import Stream

__all__ = ["DEFAULT", "Listener", "Options", "Peer", "Stream", "connect", "listen"]

DEFAULT_TIMEOUT = 10.0
"""Seconds to connect. Windows and Linux have 2 s on their own, too few for a VM under load."""
MAX_TIMEOUT = 86_400.0
"""Systems count timeouts in 32-bit milliseconds; a day is below that, and above any sense."""
DEFAULT_BACKLOG = 128
"""Callers that wait to be accepted."""


def connect(
    address: Address | str,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    options: Options = DEFAULT,
    security: Security = PLAIN,
) -> Stream:
    """Open a connection. `security` says who is expected there, and begins TLS.

    Raises :class:`hvrpc.AddressError` for an address that is wrong, :class:`hvrpc.UnsupportedError`
    where this machine cannot do it, :class:`hvrpc.ConnectError` (with :class:`hvrpc.ConnectTimeout`
    and :class:`hvrpc.ConnectRefused`) when nobody is there, and
    :class:`hvrpc.AccessDenied` when somebody else is; on a Windows host, where names are looked up, also
    :class:`hvrpc.UnknownName` and :class:`hvrpc.PrivilegeError`. Nothing of the caller's was sent in any
    of these cases.
    """
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(
            f"a connect timeout is a number of seconds above 0, at most a day, not {timeout!r}"
        )
    deadline = time.monotonic() + timeout
    where = Address.parse(address)
    family = family_of(where)
    _check_available(family, where, causes.CONNECT)
    try:
        sock, peer = family.connect(where, timeout, options)
    except HvrpcError:
        raise  # explained already
    except OSError as error:
        raise causes.explain(
            error, operation=causes.CONNECT, address=where, family=family.name
        ) from error
    stream = Stream(sock, address=where, family=family.name, peer=peer, options=options)
    if security is not PLAIN:
        try:
            _check(stream, security, deadline)
        except BaseException:
            stream.abort()
            raise
    return stream


def _check(stream: Stream, security: Security, deadline: float) -> None:
    """Whether the right one is there. Nothing was sent to it yet."""
    if security.peers is not None and not security.peers.admits(stream.peer):
        raise AccessDenied(
            str(stream.address),
            peer=str(stream.peer),
            problem=f"is at the other end, where {security.peers} is expected",
            remedy="call the one that is meant, or correct expect_peer=",
        )
    if security.tls is not None:
        shake_hands(stream, security.tls, max(deadline - time.monotonic(), 0.001))


def listen(
    address: Address | str,
    *,
    backlog: int = DEFAULT_BACKLOG,
    options: Options = DEFAULT,
    allow: Access | Rule | Iterable[Rule] | None = None,
) -> Listener:
    """Offer a service.

    Port 0 stands for any free port; `listener.address` tells which. `allow` says who may call
    (:mod:`hvrpc.access`); everybody else is cut off before a byte is read. Raises
    :class:`hvrpc.AddressError`, :class:`hvrpc.UnsupportedError` or :class:`hvrpc.ListenError`.
    """
    where = Address.parse(address)
    family = family_of(where)
    access = Access.of(allow)
    _check_available(family, where, causes.LISTEN)
    try:
        endpoint = family.listen(where, backlog, options)
    except HvrpcError:
        raise  # explained already
    except OSError as error:
        raise causes.explain(
            error, operation=causes.LISTEN, address=where, family=family.name
        ) from error
    return Listener(endpoint, family=family.name, options=options, access=access)


def _check_available(family: Family, address: Address, operation: str) -> None:
    missing = family.unavailable()
    if missing is not None:
        problem, remedy = missing
        raise UnsupportedError(str(address), operation=operation, problem=problem, remedy=remedy)
