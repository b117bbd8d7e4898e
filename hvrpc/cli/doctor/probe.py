"""Whether an address answers, and what speaks there."""

from __future__ import annotations

import contextlib
import time
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
from ..errors import problem_of
from .findings import Finding, note, ok, problem

PATIENCE = 1.0
"""Seconds in which a gRPC server has sent its settings: it does not wait to be spoken to."""
_FRAME_HEADER = 9
_SETTINGS = 4


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


def probe(address: Address, timeout: float) -> Answer:
    """Connect, and find out who is there. Raises what connecting raises."""
    began = time.perf_counter()
    with sockets.connect(address, timeout=timeout) as stream:
        took = time.perf_counter() - began
        peer = str(stream.peer)
        stream.timeout = PATIENCE
        first = b""
        with contextlib.suppress(TransportError):
            first = stream.recv(_FRAME_HEADER)
    if _is_settings(first):
        return Answer(took, peer, "gRPC (HTTP/2)")
    return Answer(took, peer, "msgpack-RPC" if _speaks_msgpack(address, timeout) else None)


def _is_settings(data: bytes) -> bool:
    """Whether that is how an HTTP/2 server begins."""
    return len(data) == _FRAME_HEADER and data[3] == _SETTINGS and data[5:] == bytes(4)


def _speaks_msgpack(address: Address, timeout: float) -> bool:
    try:
        hvrpc.msgpack.connect(address, timeout=timeout, retry=False).close()
    except (CallError, TransportError):
        return False
    return True


def examine(address: Address, timeout: float) -> Finding:
    """The same as a line of the report."""
    about = "answer"
    if is_for_listening(address):
        return note(about, f"{address} is for listening only, so it was not called")
    try:
        answer = probe(address, timeout)
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
            " whether it wants TLS",
        )
    return ok(about, f"{address} speaks {answer.speaks}; connected in {took} as {answer.peer}")
