"""TLS inside a connection, for what the hypervisor does not vouch for.

Hyper-V says which *machine* is at the other end. TLS says which *program*, by a key that it holds, and
keeps the bytes from others on the way. It is the standard library's `ssl` on memory (`MemoryBIO`), so it
is the same on every family of sockets and in both drivers: a `Codec` turns bytes into bytes, and whoever
has the socket carries them.

    tls = Tls(ca="ca.pem", certificate="host.pem", key="host-key.pem")

`hvrpc credentials new` makes such files.
"""

from __future__ import annotations

import errno
import os
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .access import Certificate
from .addresses import (
    HV_GUID_PARENT,
    VMADDR_CID_HOST,
    Address,
    HvsockAddress,
    LocalAddress,
    TcpAddress,
    VsockAddress,
    describe_vm,
)
from .errors import CredentialsError

if TYPE_CHECKING:
    from typing_extensions import Buffer

File: TypeAlias = "str | os.PathLike[str]"

HANDSHAKE_WITHIN: Final = 10.0
"""Seconds that a server waits for a handshake to be finished, however little of it arrives at a time."""
RECORD: Final = 16 * 1024
"""Bytes of the largest record: what one read of `ssl` gives at most."""
HOST_NAME: Final = "host"
"""What the certificate of a host is called, as `hvrpc credentials new` makes it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What one side needs for TLS 1.3; the same object serves as a client and as a server.

    A client needs `ca`, a server `certificate` and `key`. When a server has a `ca` too it wants
    certificates of its clients ("mutual TLS"). Files are PEM, and are read when a connection or a
    server is set up with this; what cannot be used is a :class:`hvrpc.CredentialsError` there.
    """

    ca: File | None = None
    """Certificates of those who sign the other side's."""
    certificate: File | None = None
    """This side's, followed by those in between, if any."""
    key: File | None = None
    """Its private key; None when it is in the file of the certificate."""
    password: str | None = field(default=None, repr=False)
    """Of the key, if it has one."""
    names: str | Iterable[str] = ()
    """One of these has to be among the alternative names of the other side's certificate. A client
    that gives none expects the name of the VM that it calls, or "host"; a server takes any."""
    handshake_within: float = HANDSHAKE_WITHIN
    """Seconds after which a server gives up a caller that has not finished the handshake."""
    context: ssl.SSLContext | None = None
    """Instead of the files: a context of your own, whose settings are left alone."""
    protocols: tuple[str, ...] = ()
    """What is offered as application protocol (ALPN); gRPC sets "h2" by itself."""

    def __post_init__(self) -> None:
        names = (self.names,) if isinstance(self.names, str) else tuple(self.names)
        object.__setattr__(self, "names", names)
        if not self.handshake_within > 0:
            raise ValueError(
                f"handshake_within is a number of seconds above 0, not {self.handshake_within!r}"
            )
        if self.context is not None and (self.ca or self.certificate or self.key):
            raise CredentialsError(
                "Tls(context=…)",
                problem="it is given files besides, which a context has of its own",
                remedy="give one or the other",
            )

    @classmethod
    def of(cls, tls: Tls | ssl.SSLContext | None) -> Tls | None:
        """What users may pass as `tls=`: this, a context of their own, or None for no TLS."""
        if tls is None or isinstance(tls, Tls):
            return tls
        if isinstance(tls, ssl.SSLContext):
            return cls(context=tls)
        raise TypeError(f"tls= takes hvrpc.Tls(…) or an ssl.SSLContext, not {tls!r}")

    def offering(self, *protocols: str) -> Tls:
        """The same, offering an application protocol, unless something else is settled already."""
        if self.context is not None or self.protocols:
            return self
        return replace(self, protocols=protocols)

    def client(self) -> End:
        """The calling side's end of it."""
        context = self.context
        if context is None:
            if self.ca is None:
                raise CredentialsError(
                    "Tls(ca=…)",
                    problem="it is missing, so no server could be believed",
                    remedy="give the certificate of your CA ('hvrpc credentials new' makes one); to"
                    " trust what this machine trusts, pass tls=ssl.create_default_context()",
                )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # names are checked by `End`, those of VMs are no hosts'
            self._fill(context)
        return End(self, context, server_side=False)

    def server(self) -> End:
        """The serving side's end of it."""
        context = self.context
        if context is None:
            if self.certificate is None:
                raise CredentialsError(
                    "Tls(certificate=…)",
                    problem="it is missing, and a server has to show one",
                    remedy="give certificate= and key= ('hvrpc credentials new' makes them)",
                )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            # A ticket would be read by nobody: a client that only sends would leave it lying there.
            context.num_tickets = 0
            self._fill(context)
            if self.ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
        if self.names and context.verify_mode is not ssl.CERT_REQUIRED:
            raise CredentialsError(
                "Tls(names=…)",
                problem="clients are not asked for a certificate, so they have no names",
                remedy="give ca= too, which makes the server ask",
            )
        return End(self, context, server_side=True)

    def _fill(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.ca is not None:
            _use(context.load_verify_locations, "ca", self.ca)
        if self.certificate is not None:
            _use(
                context.load_cert_chain,
                "certificate",
                self.certificate,
                self.key,
                # Without one, OpenSSL would ask at the terminal.
                self.password or "",
            )
        if self.protocols:
            context.set_alpn_protocols(list(self.protocols))


def _use(load: Any, what: str, file: File, *more: Any) -> None:
    """Load a file into a context, and say about errors which one it was."""
    try:
        load(file, *more)
    except FileNotFoundError as error:
        missing = [path for path in (file, *more) if path and not Path(str(path)).exists()]
        raise CredentialsError(
            f"{what} {missing[0] if missing else file}",
            problem="there is no such file",
            remedy="correct the path; 'hvrpc credentials new' makes files to begin with",
        ) from error
    except ssl.SSLError as error:
        problem, remedy = _FILE_PROBLEMS.get(
            error.reason or "PEM_LIB",
            (f"it cannot be used ({error.reason or error})", "use a PEM file"),
        )
        raise CredentialsError(f"{what} {file}", problem=problem, remedy=remedy) from error
    except OSError as error:
        raise CredentialsError(
            f"{what} {file}",
            problem=f"it cannot be read ({error.strerror or error})",
            remedy="let this user read it",
        ) from error


_FILE_PROBLEMS: Final = {
    "KEY_VALUES_MISMATCH": (
        "the key belongs to another certificate",
        "give the key that was made together with the certificate",
    ),
    "NO_START_LINE": ("it is no PEM file", "give one with -----BEGIN … lines"),
    "NO_CERTIFICATE_OR_CRL_FOUND": ("there is no certificate in it", "give a PEM file with one"),
    "PEM_LIB": ("there is no certificate, or no key, in it", "give a PEM file with both, or key="),
    "BAD_DECRYPT": ("the password of the key is wrong", "give the right one as password="),
    "BAD_PASSWORD_READ": ("the key has a password", "give it as password="),
    "PROBLEMS_GETTING_PASSWORD": ("the key has a password", "give it as password="),
}


def expected_name(address: Address) -> str | None:
    """Whose certificate a client expects at an address; None when the address does not say."""
    match address:
        case HvsockAddress() | LocalAddress():
            return HOST_NAME if address.vm == HV_GUID_PARENT else describe_vm(address.vm)
        case VsockAddress(cid=cid):
            return HOST_NAME if cid == VMADDR_CID_HOST else None
        case TcpAddress(host=host):
            return host
    return None


class End:
    """One side of TLS, ready to begin connections. Made by :class:`Tls`."""

    def __init__(self, tls: Tls, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.server_side = server_side
        # Some versions of Python, that of Debian 12 too, have OpenSSL take a line that was cut for one
        # that was closed. Then whoever can cut a line could shorten what is said on it.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        self.context = context
        self.handshake_within = tls.handshake_within
        self._names = tuple(tls.names)
        self._is_ours = tls.context is None

    def begin(self, address: Address) -> Codec:
        """The codec of a new connection.

        Raises :class:`hvrpc.CredentialsError` for a client that could not know whom to expect.
        """
        names = self._names
        hostname: str | None = None
        if not self.server_side and (self._is_ours or self.context.check_hostname):
            names = names or _expected_at(address)
            if self.context.check_hostname:  # a context of the user's: OpenSSL looks at the name
                hostname, names = names[0], ()
        return Codec(
            self.context, server_side=self.server_side, server_hostname=hostname, names=names
        )


def _expected_at(address: Address) -> tuple[str, ...]:
    name = expected_name(address)
    if name is None:
        raise CredentialsError(
            str(address),
            problem="the address does not say whose certificate is to be expected",
            remedy="name it: Tls(names=…)",
        )
    return (name,)


def _same_everywhere(error: ssl.SSLError) -> ssl.SSLError:
    """What newer versions of Python raise: older ones have no class of its own for a cut line."""
    if error.reason == "UNEXPECTED_EOF_WHILE_READING" and not isinstance(error, ssl.SSLEOFError):
        return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, str(error))
    return error


class WrongName(Exception):
    """The certificate is genuine, and somebody else's."""

    def __init__(self, certificate: Certificate | None, wanted: tuple[str, ...]) -> None:
        super().__init__(certificate, wanted)
        self.certificate = certificate
        self.wanted = wanted


class Codec:
    """TLS on one connection: bytes to bytes. It carries nothing itself.

    One thread may encrypt while another decrypts; that alone is what the lock is for, and nothing
    that waits is done with it.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        self.ended = False
        """The other side has said that nothing follows, and all before that was read."""
        self.cut = False
        """Part of a record was sent, and the rest will not be: nothing can follow it."""
        self._names = names
        self._arrived = ssl.MemoryBIO()
        self._produced = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._arrived,
            self._produced,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._lock = threading.Lock()
        self._ahead = b""
        self._failure: ssl.SSLError | None = None
        self._said_end = False

    # --- The beginning -------------------------------------------------------------------------

    def handshake(self) -> bool:
        """Go on with it; False while more has to arrive. In either case, send what is `produced`.

        Raises ssl.SSLError, and :class:`WrongName` in the end.
        """
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _same_everywhere(error) from None
        self._look_ahead()  # the first words of the protocol may have come along
        if self._names:
            wanted = {name.casefold() for name in self._names}
            found = self.certificate
            if found is None or not wanted & {name.casefold() for name in found.names}:
                raise WrongName(found, self._names)
        return True

    def arrived(self, data: Buffer) -> None:
        """These bytes were received; none: the connection has ended."""
        if len(memoryview(data)):
            self._arrived.write(data)
        else:
            self._arrived.write_eof()

    def produced(self) -> bytes:
        """What has to be sent now."""
        return self._produced.read()

    @property
    def certificate(self) -> Certificate | None:
        """The other side's, if it was verified."""
        found: Any = self._ssl.getpeercert()
        der = self._ssl.getpeercert(binary_form=True)
        if not found or der is None:
            return None
        subject = dict(pair for part in found.get("subject", ()) for pair in part)
        names = tuple(name for _, name in found.get("subjectAltName", ()))
        return Certificate(subject.get("commonName"), names, der)

    # --- Afterwards ----------------------------------------------------------------------------

    def encrypt(self, data: Buffer) -> bytes:
        """What to send for it. Whatever else waits to be sent goes before.

        Raises BrokenPipeError when either side has ended, or TLS is broken: then it was not sent.
        """
        with self._lock:
            try:
                self._ssl.write(data)
            except ssl.SSLError as error:
                raise BrokenPipeError(errno.EPIPE, "TLS has ended on this connection") from error
            return self._produced.read()

    def decrypt(self, size: int) -> bytes:
        """At most so many bytes of what has arrived; none: more has to arrive, or it has `ended`.

        Raises ssl.SSLError: ssl.SSLEOFError when the connection has ended and nobody has said so.
        """
        with self._lock:
            data = self._take(size)
            # Nearly always it was one record, and nothing is behind it.
            if self._ahead or self._arrived.pending or size < RECORD:
                if len(data) < size and self._has_more:
                    parts = [data]
                    left = size - len(data)
                    while left and self._has_more and (data := self._take(left)):
                        parts.append(data)
                        left -= len(data)
                    data = b"".join(parts)
                self._look_ahead()
        if not data and self._failure is not None:
            raise self._failure
        return data

    def decrypt_into(self, buffer: memoryview) -> int:
        """The same into a place; returns how much."""
        size = len(buffer)
        with self._lock:
            data = self._take(size) if self._ahead else b""
            got = len(data)
            buffer[:got] = data
            while got < size and not self._is_over:
                with buffer[got:] as place:
                    count = self._read(size - got, place)
                if not count:
                    break
                got += count
            self._look_ahead()
        if not got and self._failure is not None:
            raise self._failure
        return got

    @property
    def pending(self) -> bool:
        """Whether there is something to be had although nothing more arrives: bytes, or the end."""
        return bool(self._ahead) or self._is_over

    @property
    def _is_over(self) -> bool:
        return self.ended or self._failure is not None

    @property
    def _has_more(self) -> bool:
        """Whether trying to read on makes sense. There may be half a record only."""
        return bool(self._arrived.pending or self._ssl.pending())

    def _take(self, size: int) -> bytes:
        """At most a record. The lock is held, here and below."""
        ahead = self._ahead
        if ahead:
            self._ahead = ahead[size:]
            return ahead[:size]
        return b"" if self._is_over else self._read(min(size, RECORD))

    def _read(self, size: int, *place: memoryview) -> Any:
        """Bytes, or how many were put in a place. False ones when there are none now, or no more."""
        try:
            got: Any = self._ssl.read(size, *place)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            got = b""
        except ssl.SSLError as error:
            # Kept: what came before it is delivered first.
            self._failure = _same_everywhere(error)
            return b""
        self.ended = not got
        return got

    def _look_ahead(self) -> None:
        """Have a record in hand if there is a whole one, so that `pending` tells the truth."""
        if not self._ahead and not self._is_over and self._has_more:
            self._ahead = self._read(RECORD)

    def farewell(self) -> bytes:
        """What says that nothing follows (close_notify); nothing when that was said, or cannot be."""
        with self._lock:
            if self._said_end or self.cut:
                return b""
            self._said_end = True
            while self._has_more and not self._is_over and (data := self._read(RECORD)):
                self._ahead += data  # bytes that wait to be read would make an error of it
            try:
                self._ssl.unwrap()
            except (ssl.SSLError, ValueError):
                pass  # it waits for the other side's, which we do not
            return self._produced.read()
