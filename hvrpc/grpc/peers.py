"""What a server's handler is told of the other side."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import Final, SupportsIndex

from ..access import Certificate, Peer
from .core import GrpcCore

logger = logging.getLogger("hvrpc.grpc")

IDENTITY_KEY: Final = "vm_id"
"""The property that says who calls, where the hypervisor vouches for that."""
CERTIFICATE_KEYS: Final = ("x509_subject_alternative_name", "x509_common_name")
"""Those that do so where TLS has verified a certificate: gRPC's names, the first one that there is."""


class PeerName(str):
    """`hvsock:<vm id>/<service>`: a text, which also comes apart as gRPC's `ipv4:<address>:<port>` does.

    OpenTelemetry's server interceptor splits whatever `context.peer()` says at its last colon, and every
    call would fail where there is none. So what it gets of this is the VM and the service.
    """

    __slots__ = ()

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As of any text; the pieces come apart like the whole."""
        return [PeerName(piece) for piece in super().split(sep, maxsplit)]

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As of any text, except that a piece without a colon is divided where its service begins."""
        if sep == ":" and ":" not in self:
            vm, _, service = self.rpartition("/")
            return [vm, service]
        return super().rsplit(sep, maxsplit)


def name_of(core: GrpcCore) -> str:
    """The caller in one word, as `context.peer()` gives it."""
    return PeerName(core.peer) if core.peer is not None else "unknown:"


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
