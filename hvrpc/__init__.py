"""RPC between a Hyper-V host and its virtual machines, over Hyper-V sockets.

    import hvrpc
    hvrpc.Address.parse("hvsock://parent/50051")       what is being called
    hvrpc.sockets.connect / hvrpc.sockets.listen       bytes, and nothing else

Protocols are imported by themselves: `hvrpc.msgpack`, `hvrpc.grpc`. Everything raised on purpose is a
:class:`hvrpc.HvrpcError`; :mod:`hvrpc.errors` shows the tree.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


_MODULES = ("errors", "addresses", "access", "tls", "sockets")
"""Where the names above are, the quickest to import first."""

_BY_THEMSELVES = ("authority", "grpc", "msgpack", "relay", "services", "testing", "windows")
"""What is imported by itself. It is no attribute before, and people try."""


if not TYPE_CHECKING:  # which would take any name for one that exists

    def __getattr__(name: str) -> object:
        """Names are imported when they are first used: sockets take a tenth of a second, and whoever needs
        a part of hvrpc without them, such as a generated module, does not wait for them."""
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name in __all__:
            for module in _MODULES:
                found = vars(importlib.import_module(f".{module}", __name__))
                if name in found:
                    globals()[name] = found[name]
                    return found[name]
        hint = f" yet: import {__name__}.{name}" if name in _BY_THEMSELVES else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")

    def __dir__() -> list[str]:
        """For the tab key, which asks before anything is used."""
        return sorted({*globals(), *__all__, *_MODULES})
