"""Whether an address answers, and what speaks there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import hvrpc.msgpack

from ... import sockets
from ...addresses import (
    HV_GUID_CHILDREN,
    HV_GUID_WILDCARD,
    VMADDR_CID_ANY,
    Address,
    HvsockAddress,
    LocalAddress,
    VsockAddress,
)
from ...errors import CallError, HvrpcError, TransportError
from ...security import PLAIN, Security
from ...tls import Tls
from ..errors import problem_of
from .findings import Finding, note, ok, problem

PATIENCE = 1.0
"""Seconds in which a gRPC server has sent its settings: it does not wait to be spoken to."""
_FRAME_HEADER = 9
_SETTINGS = 4
_HTTP2 = "h2"


_OTHERWISE = {True: "wants TLS (--tls-ca)", False: "wants a certificate of yours (--tls-cert)"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found at an address."""

    seconds: float
    """To connect, the look-up of names included."""
    peer: str
    speaks: str | None
    """The protocol, if it is one of ours."""


def is_for_listening(address: Address) -> bool:
    """Whether it says where to listen, so that there is nothing to call."""
    if isinstance(address, HvsockAddress | LocalAddress):
        return address.vm in (HV_GUID_WILDCARD, HV_GUID_CHILDREN)
    return isinstance(address, VsockAddress) and address.cid == VMADDR_CID_ANY


def probe(
    address: Address, timeout: float, *, expect_peer: Sequence[str] = (), tls: Tls | None = None
) -> Answer:
    """Connect, and find out who is there. Raises what connecting raises."""
    security = PLAIN
    if expect_peer or tls is not None:
        # gRPC servers hang up on TLS without this offer; others pass it over.
        offering = None if tls is None else tls.offering(_HTTP2)
        security = Security.of_client(expect_peer or None, offering)
    began = time.perf_counter()
    with sockets.connect(address, timeout=timeout, security=security) as stream:
        took = time.perf_counter() - began
        peer = str(stream.peer)
        stream.timeout = PATIENCE
        first = b""
        with contextlib.suppress(TransportError):
            first = stream.recv(_FRAME_HEADER)
    if _is_settings(first):
        return Answer(took, peer, "gRPC (HTTP/2)")
    speaks_msgpack = _speaks_msgpack(address, timeout, expect_peer, tls)
    return Answer(took, peer, "msgpack-RPC" if speaks_msgpack else None)


def _is_settings(data: bytes) -> bool:
    """Whether that is how an HTTP/2 server begins."""
    return len(data) == _FRAME_HEADER and data[3] == _SETTINGS and data[5:] == bytes(4)


def _speaks_msgpack(
    address: Address, timeout: float, expect_peer: Sequence[str], tls: Tls | None
) -> bool:
    asked = expect_peer or None
    try:
        hvrpc.msgpack.connect(
            address, timeout=timeout, retry=False, expect_peer=asked, tls=tls
        ).close()
    except (CallError, TransportError):
        return False
    return True


def examine(
    address: Address, timeout: float, *, expect_peer: Sequence[str] = (), tls: Tls | None = None
) -> Finding:
    """The same as a line of the report."""
    about = "answer"
    if is_for_listening(address):
        return note(about, f"{address} is for listening only, so it was not called")
    try:
        answer = probe(address, timeout, expect_peer=expect_peer, tls=tls)
    except HvrpcError as error:
        told = problem_of(error)
        assert told is not None
        return problem(about, f"{address}: {told.why or told.what}", told.do)
    took = f"{answer.seconds * 1000:.1f} ms"
    if answer.speaks is None:
        return note(
            about,
            f"{address} accepts connections ({took}) and neither speaks gRPC nor msgpack-RPC",
            "if it should: look whether the right program listens there, whether it still lives, and"
            f" whether it {_OTHERWISE[tls is None]}",
        )
    over = "" if tls is None else " over TLS"
    text = f"{address} speaks {answer.speaks}{over}; connected in {took} as {answer.peer}"
    return ok(about, text)
