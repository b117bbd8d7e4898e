"""RPC between a Hyper-V host and its virtual machines, over Hyper-V sockets.

    import hvrpc
    hvrpc.Address.parse("hvsock://parent/50051")       what is being called
    hvrpc.sockets.connect / hvrpc.sockets.listen       bytes, and nothing else

Protocols are imported by themselves: `hvrpc.msgpack`, `hvrpc.grpc`. Everything raised on purpose is a
:class:`hvrpc.HvrpcError`; :mod:`hvrpc.errors` shows the tree.
"""

from __future__ import annotations

from . import sockets
from .access import Access, Certificate, Peer
from .addresses import Address
from .errors import (
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
from .tls import Tls

__version__ = "0.1.0.dev0"

__all__ = [
    "Access",
    "AccessDenied",
    "Address",
    "AddressError",
    "Attempt",
    "CallCancelled",
    "CallError",
    "Certificate",
    "ConnectError",
    "ConnectRefused",
    "ConnectTimeout",
    "ConnectionLost",
    "CredentialsError",
    "DeadlineExceeded",
    "HvrpcError",
    "InvalidParams",
    "ListenError",
    "MethodNotFound",
    "OpenFailed",
    "Outcome",
    "Peer",
    "PeerGone",
    "PrivilegeError",
    "ProtocolError",
    "RegistrationError",
    "RemoteError",
    "SessionClosed",
    "StreamClosed",
    "Tls",
    "TransportError",
    "TransportTimeout",
    "UnknownName",
    "UnsupportedError",
    "__version__",
    "sockets",
]
