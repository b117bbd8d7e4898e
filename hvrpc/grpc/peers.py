"""What a server's handler is told of the other side."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import Final

from ..access import Certificate, Peer
from .core import GrpcCore

logger = logging.getLogger("hvrpc.grpc")

IDENTITY_KEY: Final = "vm_id"
"""The property that says who calls, where the hypervisor vouches for that."""
CERTIFICATE_KEYS: Final = ("x509_subject_alternative_name", "x509_common_name")
"""Those that do so where TLS has verified a certificate: gRPC's names, the first one that there is."""


def name_of(core: GrpcCore) -> str:
    """The caller in one word, as `context.peer()` gives it."""
    return str(core.peer) if core.peer is not None else "unknown:"


def auth_context(core: GrpcCore) -> Mapping[str, Sequence[bytes]]:
    """What is known of the caller, as `context.auth_context()` gives it."""
    if core.peer is None:
        return {}
    kind, level = core.level.value
    known = {
        "transport_security_type": [kind.encode()],
        "security_level": [level.encode()],
        **_known_of(core.peer),
    }
    if core.peer.certificate is not None:
        known |= _known_of_certificate(core.peer.certificate)
    return known


def _known_of(peer: Peer) -> dict[str, list[bytes]]:
    known: dict[str, object] = {
        "family": peer.family,
        "vm_id": peer.vm_id,
        "vm_name": peer.vm_name,
        "cid": peer.cid,
        "pid": peer.pid,
        "uid": peer.uid,
    }
    return {name: [str(value).encode()] for name, value in known.items() if value is not None}


def _known_of_certificate(certificate: Certificate) -> dict[str, list[bytes]]:
    known = {"x509_pem_cert": [ssl.DER_cert_to_PEM_cert(certificate.der).encode()]}
    if certificate.common_name is not None:
        known["x509_common_name"] = [certificate.common_name.encode()]
    if certificate.names:
        known["x509_subject_alternative_name"] = [name.encode() for name in certificate.names]
    return known


def identity_key(core: GrpcCore) -> str | None:
    """Which property names the caller; None when nobody vouches for one."""
    if core.peer is None:
        return None
    if core.peer.certificate is not None:
        known = _known_of_certificate(core.peer.certificate)
        return next((key for key in CERTIFICATE_KEYS if key in known), None)
    return IDENTITY_KEY if core.peer.vm_id is not None else None


def identities(core: GrpcCore) -> Sequence[bytes] | None:
    """The caller's names."""
    key = identity_key(core)
    return None if key is None else auth_context(core)[key]
