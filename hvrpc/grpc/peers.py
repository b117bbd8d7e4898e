"""What a server's handler is told of the other side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from ..access import Peer
from .core import GrpcCore

logger = logging.getLogger("hvrpc.grpc")

IDENTITY_KEY: Final = "vm_id"
"""The property that says who calls, where the hypervisor vouches for that."""


def name_of(core: GrpcCore) -> str:
    """The caller in one word, as `context.peer()` gives it."""
    return str(core.peer) if core.peer is not None else "unknown:"


def auth_context(core: GrpcCore) -> Mapping[str, Sequence[bytes]]:
    """What is known of the caller, as `context.auth_context()` gives it."""
    peer = core.peer
    return {} if peer is None else _known_of(peer)


def _known_of(peer: Peer) -> dict[str, list[bytes]]:
    known: dict[str, object] = {
        "transport_security_type": "insecure",
        "family": peer.family,
        "vm_id": peer.vm_id,
        "vm_name": peer.vm_name,
        "cid": peer.cid,
        "pid": peer.pid,
        "uid": peer.uid,
    }
    return {name: [str(value).encode()] for name, value in known.items() if value is not None}


def identity_key(core: GrpcCore) -> str | None:
    """Which property names the caller; None when nobody vouches for one."""
    return IDENTITY_KEY if core.peer is not None and core.peer.vm_id is not None else None


def identities(core: GrpcCore) -> Sequence[bytes] | None:
    """The caller's names."""
    key = identity_key(core)
    return None if key is None else auth_context(core)[key]
