"""Who may call, and whether it is encrypted, as gRPC has it: credentials of channels and servers.

    hvrpc.grpc.channel_credentials(expect_peer="web", tls=hvrpc.Tls(ca="ca.pem"))
    hvrpc.grpc.server_credentials(allow="children", tls=hvrpc.Tls(certificate=…, key=…))

They *are* `grpc.ChannelCredentials` and `grpc.ServerCredentials`: grpcio itself takes them too, as
credentials for what stays on this machine, which is what it does in the tunnel.
"""

from __future__ import annotations

import enum
import os
import ssl
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from ..access import Access, Rule
from ..addresses import Address, TcpAddress
from ..errors import CredentialsError
from ..security import PLAIN, Security
from ..tls import Tls
from .call_credentials import NONE as NO_CALL_CREDENTIALS
from .call_credentials import TOO_INSECURE, CallCredentials, Pending, Unreadable, where_to
from .status import StatusError

ALPN: Final = "h2"
"""HTTP/2, which gRPC peers of other makes insist on."""

LOCAL: Final = (
    grpc.LocalConnectionType.LOCAL_TCP if sys.platform == "win32" else grpc.LocalConnectionType.UDS
)
"""Where grpcio and the tunnel meet on this system."""


class Level(enum.Enum):
    """How far a connection can be trusted: gRPC's name of it, and the level that it grants."""

    INSECURE = "insecure", "TSI_SECURITY_NONE"
    """Nobody vouches for anything. No tokens go over it."""
    LOCAL = "local", "TSI_PRIVACY_AND_INTEGRITY"
    """The system says who is there, and the bytes do not leave the machine."""
    SSL = "ssl", "TSI_PRIVACY_AND_INTEGRITY"
    """TLS."""

    @classmethod
    def of(cls, address: Address, security: Security) -> Level:
        """What credentials give at an address. TCP beyond this machine is not local, whatever they say."""
        if security.tls is not None:
            return cls.SSL
        if isinstance(address, TcpAddress) and not address.is_loopback:
            return cls.INSECURE
        return cls.LOCAL


def _inside(credentials: Any) -> Any:
    """grpcio's own object in one of its credentials: that alone is what its C core looks at."""
    return credentials._credentials


_Inner: Final[Any] = type(_inside(grpc.local_channel_credentials(LOCAL)))


class _Marked(_Inner):  # type: ignore[misc]
    """grpcio's own object, which remembers ours: a composite of grpcio's keeps nothing else."""

    security: Security


class ChannelCredentials(grpc.ChannelCredentials):
    """Made by :func:`channel_credentials`."""

    def __init__(self, security: Security, calls: Any = None) -> None:
        inner: Any = _Marked(LOCAL.value)
        inner.security = security
        if calls is not None:
            inner = _inside(
                grpc.composite_channel_credentials(grpc.ChannelCredentials(inner), calls)
            )
        super().__init__(inner)
        self.security = security
        self.call_credentials = calls


class ServerCredentials(grpc.ServerCredentials):
    """Made by :func:`server_credentials`."""

    def __init__(self, security: Security) -> None:
        super().__init__(_inside(grpc.local_server_credentials(LOCAL)))
        self.security = security


def channel_credentials(
    expect_peer: Access | Rule | Iterable[Rule] | None = None,
    tls: Tls | ssl.SSLContext | None = None,
    call_credentials: grpc.CallCredentials | Iterable[grpc.CallCredentials] | None = None,
) -> ChannelCredentials:
    """Credentials for `secure_channel`: ours, those of asyncio, and the tunnel's.

    `expect_peer` says who has to be at the other end, by the rules of :mod:`hvrpc.access`; `tls` (a
    :class:`hvrpc.Tls`) encrypts; `call_credentials` go with each call, as with
    `grpc.composite_channel_credentials`, which takes these as well. With none of the three the
    hypervisor's word is what there is. Raises :class:`hvrpc.CredentialsError`.
    """
    calls: Any = call_credentials
    if calls is not None and not isinstance(calls, grpc.CallCredentials):
        several = list(calls)
        calls = several[0] if len(several) == 1 else grpc.composite_call_credentials(*several)
    return ChannelCredentials(Security.of_client(expect_peer, _with_alpn(tls)), calls)


def server_credentials(
    allow: Access | Rule | Iterable[Rule] | None = None,
    tls: Tls | ssl.SSLContext | None = None,
) -> ServerCredentials:
    """Credentials for `add_secure_port`: ours, that of asyncio, and the tunnel's `add_port`.

    `allow` says who may call, by the rules of :mod:`hvrpc.access`: a VM's id or name, `"parent"`,
    `"children"`, a CID, or a function of the :class:`hvrpc.Peer`. Who may not is cut off before a byte is
    read. `tls` (a :class:`hvrpc.Tls`) encrypts, and asks for certificates if it has a `ca`. Raises
    :class:`hvrpc.CredentialsError`.
    """
    return ServerCredentials(Security.of_server(allow, _with_alpn(tls)))


def _with_alpn(tls: Tls | ssl.SSLContext | None) -> Tls | None:
    given = Tls.of(tls)
    return None if given is None else given.offering(ALPN)


# --- For our channels and servers ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelSecurity:
    """What a channel has to do for its credentials."""

    security: Security = PLAIN
    calls: CallCredentials = NO_CALL_CREDENTIALS
    level: Level = Level.INSECURE

    def ask(self, credentials: grpc.CallCredentials | None, authority: str, path: str) -> Pending:
        """Ask all plugins, and those of one call, what they add to its metadata."""
        return self.with_(credentials).begin(*where_to(authority, path))

    def with_(self, credentials: grpc.CallCredentials | None) -> CallCredentials:
        """The channel's call credentials and those of one call. Raises :class:`StatusError` where others
        could read what they add, with grpcio's words."""
        if self.level is Level.INSECURE:
            raise StatusError(grpc.StatusCode.UNAUTHENTICATED, TOO_INSECURE)
        if credentials is None:
            return self.calls
        try:
            return self.calls + CallCredentials.of(credentials)
        except Unreadable as error:
            raise _unreadable(
                "call credentials", str(error), "grpc.metadata_call_credentials"
            ) from error


INSECURE: Final = ChannelSecurity()


def of_channel(
    credentials: grpc.ChannelCredentials, address: Address, name: str | None = None
) -> ChannelSecurity:
    """What is in somebody's credentials for a channel to an address.

    Ours, grpcio's local and insecure ones, `grpc.ssl_channel_credentials`, and any of them composed
    with call credentials. `name` is whom to expect, if not the one in the address
    (`grpc.ssl_target_name_override`). Raises :class:`hvrpc.CredentialsError` for others.
    """
    if not isinstance(credentials, grpc.ChannelCredentials):
        raise TypeError(f"credentials are grpc.ChannelCredentials, not {credentials!r}")
    inner = _inside(credentials)
    calls = NO_CALL_CREDENTIALS
    while hasattr(inner, "_call_credentialses"):
        try:
            calls = CallCredentials.of(*inner._call_credentialses) + calls
        except Unreadable as error:
            raise _unreadable(
                "call credentials", str(error), "grpc.metadata_call_credentials"
            ) from (error)
        inner = inner._channel_credentials
    if isinstance(inner, _Marked):
        security = inner.security
    elif isinstance(inner, _Inner):
        security = PLAIN
    elif hasattr(inner, "_pem_root_certificates"):
        security = _from_ssl(inner, name)
    elif "Insecure" in type(inner).__name__:
        return ChannelSecurity(PLAIN, calls)  # what grpcio says against it, it does not check
    else:
        raise _unreadable(
            "channel credentials", type(inner).__name__, "hvrpc.grpc.channel_credentials(…)"
        )
    return ChannelSecurity(security, calls, Level.of(address, security))


def security_in(credentials: grpc.ChannelCredentials, address: Address) -> Security:
    """What the tunnel has to do for a channel: what ours ask for. What is in grpcio's the C core does.

    It takes its way for local, and so would send tokens on a way that is not. Raises
    :class:`hvrpc.CredentialsError` for that.
    """
    inner = _inside(credentials)
    sends_tokens = hasattr(inner, "_call_credentialses")
    while hasattr(inner, "_call_credentialses"):
        inner = inner._channel_credentials
    security = inner.security if isinstance(inner, _Marked) else PLAIN
    if sends_tokens and isinstance(inner, _Inner) and Level.of(address, security) is Level.INSECURE:
        raise CredentialsError(
            f"call credentials to {address}",
            problem="other machines could read them on the way",
            remedy="encrypt it: channel_credentials(tls=…), or grpc.ssl_channel_credentials(…)",
        )
    return security


def of_server(credentials: grpc.ServerCredentials) -> Security:
    """What is in somebody's credentials for a port, which have to be ours.

    Raises :class:`hvrpc.CredentialsError` for grpcio's: those of servers are all alike from outside.
    """
    if isinstance(credentials, ServerCredentials):
        return credentials.security
    if not isinstance(credentials, grpc.ServerCredentials):
        raise TypeError(f"credentials are grpc.ServerCredentials, not {credentials!r}")
    raise _unreadable(
        "server credentials", "of grpcio's", "hvrpc.grpc.server_credentials(allow=…, tls=…)"
    )


def _unreadable(what: str, kind: str, instead: str) -> CredentialsError:
    return CredentialsError(
        f"{what} {kind}",
        problem="they work inside grpcio only, which does not tell what is in them",
        remedy=f"use {instead}, or hvrpc.grpc.tunnel, which leaves them to grpcio",
    )


def _from_ssl(inner: Any, name: str | None) -> Security:
    """What `grpc.ssl_channel_credentials` was given."""
    roots, key, chain = inner._pem_root_certificates, inner._private_key, inner._certificate_chain
    # Not `create_default_context`: that is stricter about old CAs than grpcio is.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([ALPN])
    try:
        if roots is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=roots.decode())
        if chain is not None:
            _load_pair(context, chain, key)
    except ssl.SSLError as error:
        raise CredentialsError(
            "grpc.ssl_channel_credentials(…)",
            problem=f"its certificate and key cannot be used ({error.reason or error})",
            remedy="give the PEM texts of both, which belong together",
        ) from error
    return Security.of_client(tls=Tls(context=context, names=() if name is None else name))


def _load_pair(context: ssl.SSLContext, chain: bytes, key: bytes | None) -> None:
    """`ssl` loads files only. For a moment there are some, which nobody else can read."""
    with tempfile.TemporaryDirectory(prefix="hvrpc-") as folder:
        file = Path(folder, "pair.pem")
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as pair:
            pair.write(chain + b"\n" + (key or b""))
        context.load_cert_chain(file, password="")
