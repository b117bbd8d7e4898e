"""What an error of TLS means, and what to do about it: the table beside `causes`.

OpenSSL names what went wrong in capitals. Half of these names are *alerts*, by which the other side
tells what it does not like about this one.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from typing import Final

from ..access import Peer
from ..errors import AccessDenied, ConnectError, HvrpcError, PeerGone
from . import causes

NO_GOODBYE: Final = "it has ended without TLS's goodbye: it was cut off, or has crashed"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A row of the table below."""

    problem: str
    remedy: str
    denied: bool = True
    """Whether it says that one side does not believe the other; if not, another attempt may help."""


_NOT_ACCEPTED = Meaning(
    "does not accept the certificate of this side",
    "use one that is in its time and signed by the CA that the other side has as ca=",
)
NO_TLS = Meaning(
    "does not speak TLS: it has sent something else",
    "pass tls= on both sides, or on neither",
    denied=False,
)
_VERSION = Meaning("and this side have no version of TLS in common", "TLS 1.3 is needed")
_WANTS_CERTIFICATE = Meaning(
    "wants a certificate of this side, and was shown none",
    "pass Tls(certificate=…, key=…, ca=…)",
)

MEANINGS: Final[dict[str, Meaning]] = {
    "CERTIFICATE_VERIFY_FAILED": Meaning(
        "has a certificate that is not trusted here",
        "its CA has to be in Tls(ca=…), the certificate within its time, and the clocks right",
    ),
    "HTTP_REQUEST": NO_TLS,
    "NO_APPLICATION_PROTOCOL": Meaning(
        "and this side have no application protocol in common", "call a service of this protocol"
    ),
    "NO_PROTOCOLS_AVAILABLE": _VERSION,
    "NO_SHARED_CIPHER": Meaning("and this side have no cipher in common", "use the defaults"),
    "PACKET_LENGTH_TOO_LONG": NO_TLS,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Meaning(
        "shows no certificate", "have it pass Tls(certificate=…, key=…), or leave out ca= here"
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": _NOT_ACCEPTED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _NOT_ACCEPTED,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _NOT_ACCEPTED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _NOT_ACCEPTED,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _NOT_ACCEPTED,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_CERTIFICATE,
    "TLSV1_ALERT_ACCESS_DENIED": Meaning(
        "does not let the name in the certificate of this side in",
        "use the certificate of somebody who is among its Tls(names=…)",
    ),
    "TLSV1_ALERT_PROTOCOL_VERSION": _VERSION,
    "TLSV1_ALERT_UNKNOWN_CA": _NOT_ACCEPTED,
    "UNSUPPORTED_PROTOCOL": _VERSION,
    "WRONG_VERSION_NUMBER": NO_TLS,
}
"""By OpenSSL's name of what went wrong."""


def meaning_of(error: ssl.SSLError) -> Meaning:
    """The row of the table for an error of `ssl`."""
    found = MEANINGS.get(error.reason or "")
    if found is None:
        return Meaning(f"broke TLS ({error.reason or error})", "connect again", denied=False)
    detail = getattr(error, "verify_message", None)
    return replace(found, problem=f"{found.problem} ({detail})") if detail else found


def explain(error: ssl.SSLError, address: object, peer: Peer, operation: str) -> HvrpcError:
    """Our error for an error of `ssl`. The caller chains it: `raise explain(e, …) from e`."""
    return explained(meaning_of(error), address, peer, operation)


def explained(meaning: Meaning, address: object, peer: Peer, operation: str) -> HvrpcError:
    """Our error for a row of the table."""
    if meaning.denied:
        return AccessDenied(
            str(address), peer=str(peer), problem=meaning.problem, remedy=meaning.remedy
        )
    kind = PeerGone if operation in (causes.SEND, causes.RECEIVE) else ConnectError
    return kind(
        str(address),
        operation=operation,
        cause=f"the other side {meaning.problem}",
        remedy=meaning.remedy,
    )
