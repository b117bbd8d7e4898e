"""The beginning of TLS on a stream that was just opened.

It blocks, within a time that holds for all of it. So a server does it in a thread that it can spare,
and never in the one that accepts.
"""

from __future__ import annotations

import ssl
import time
from typing import Final

from ..errors import AccessDenied, ConnectError, ConnectTimeout
from ..tls import Codec, End, WrongName
from . import causes, tls_causes
from .stream import Stream

CHUNK: Final = 16 * 1024
OPERATION: Final = "begin TLS with"
_TLS_RECORDS: Final = (0x15, 0x16)
"""What the first record can be: an alert, or the handshake (RFC 8446, 5.1)."""


class NotTls(Exception):
    """The first byte is not one of TLS."""


def shake_hands(stream: Stream, end: End, within: float) -> None:
    """Begin TLS. From then on the stream is encrypted, and its peer's certificate is known.

    Raises :class:`hvrpc.AccessDenied` where one side does not believe the other,
    :class:`hvrpc.ConnectTimeout` and :class:`hvrpc.ConnectError` otherwise. The stream is the caller's
    to close: so that the other side learns why, by :meth:`Stream.close`.
    """
    deadline = time.monotonic() + within
    codec = end.begin(stream.address)
    try:
        _exchange(stream, codec, deadline)
    except ssl.SSLError as error:
        _send_last(stream, codec)
        if isinstance(error, ssl.SSLEOFError):
            raise _ended(stream, error) from error
        raise tls_causes.explain(error, stream.address, stream.peer, OPERATION) from error
    except NotTls as error:
        raise tls_causes.explained(
            tls_causes.NO_TLS, stream.address, stream.peer, OPERATION
        ) from error
    except WrongName as error:
        raise _wrong_name(error, stream) from None
    except TimeoutError as error:
        raise ConnectTimeout(
            str(stream.address),
            operation=OPERATION,
            cause=f"the other side has not finished it in {within:.3g} s",
            remedy="check that the other side has tls= too, and is not paused",
        ) from error
    except OSError as error:
        raise _ended(stream, error) from error
    stream.secured(codec)


def _exchange(stream: Stream, codec: Codec, deadline: float) -> None:
    sock = stream.socket
    met = False
    while True:
        finished = codec.handshake()
        if data := codec.produced():
            sock.settimeout(_left(deadline))
            sock.sendall(data)
        if finished:
            sock.settimeout(None)
            return
        sock.settimeout(_left(deadline))
        data = sock.recv(CHUNK)
        if not met and data and data[0] not in _TLS_RECORDS:
            # OpenSSL would wait for the rest of a record that never comes.
            raise NotTls
        met = met or bool(data)
        codec.arrived(data)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _send_last(stream: Stream, codec: Codec) -> None:
    """The alert that tells the other side what is wrong. Nobody waits for room to send it."""
    try:
        stream.socket.settimeout(0)
        stream.socket.send(codec.produced())
    except OSError:
        pass  # it has gone already


def _wrong_name(error: WrongName, stream: Stream) -> AccessDenied:
    wanted = " or ".join(map(repr, error.wanted))
    found = "none" if error.certificate is None else f"one for {error.certificate}"
    return AccessDenied(
        str(stream.address),
        peer=str(stream.peer),
        problem=f"has to have a certificate for {wanted}, and has {found}",
        remedy="call the machine that is meant, or say whom to expect: Tls(names=…)",
    )


def _ended(stream: Stream, error: OSError) -> ConnectError:
    return ConnectError(
        str(stream.address),
        operation=OPERATION,
        cause="the other side has ended the connection",
        remedy="it may not speak TLS (pass tls= there), or not let this machine in (its allow=): its"
        " log says so",
        errno=None if isinstance(error, ssl.SSLError) else causes.code_of(error),
    )
