"""A private certificate authority: a CA of one's own, and certificates for a host and its guests.

    authority = Authority.new()
    authority.write(folder)                               ca.pem, ca-key.pem
    authority.issue("host", ["host"]).write(folder)       host.pem, host-key.pem

The cryptography is the `cryptography` package's (`pip install 'hvrpc[tls]'`); only making certificates
needs it, using them does not. Importing this raises :class:`hvrpc.UnsupportedError` without it.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import CredentialsError, UnsupportedError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError as error:
    raise UnsupportedError(
        "certificates",
        operation="make",
        problem="the package cryptography is not installed",
        remedy="pip install 'hvrpc[tls]'",
    ) from error

CA_DAYS: Final = 3650
DAYS: Final = 825
"""How long certificates are valid. Long, for nothing renews them by itself; some programs believe in
none that is valid for longer."""
EARLY: Final = datetime.timedelta(days=1)
"""They are valid from yesterday on: clocks of virtual machines are not the best."""
CA_FILE: Final = "ca.pem"
CA_KEY_FILE: Final = "ca-key.pem"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM."""

    name: str
    certificate: bytes
    key: bytes

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Where they belong in a folder."""
        stem = re.sub(r"[^\w.-]", "-", self.name)
        return folder / f"{stem}.pem", folder / f"{stem}-key.pem"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files; the key for this user only. Raises FileExistsError rather than replace."""
        certificate, key = self.files(folder)
        _write_both(certificate, self.certificate, key, self.key)
        return certificate, key


@dataclass(frozen=True, slots=True)
class Shown:
    """What stands in a certificate."""

    file: Path
    name: str
    names: tuple[str, ...]
    until: datetime.datetime
    is_ca: bool

    @classmethod
    def read(cls, file: Path) -> Shown:
        """Read a file. Raises :class:`hvrpc.CredentialsError`."""
        try:
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
        except (OSError, ValueError) as error:
            raise CredentialsError(
                f"certificate {file}",
                problem=f"it cannot be read ({error})",
                remedy="give a PEM file that begins with a certificate",
            ) from error
        names: tuple[str, ...] = ()
        is_ca = False
        for extension in certificate.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                names = tuple(str(name.value) for name in extension.value)
            elif isinstance(extension.value, x509.BasicConstraints):
                is_ca = extension.value.ca
        common = certificate.subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
        name = str(common[0].value) if common else certificate.subject.rfc4514_string()
        return cls(file, name, names, certificate.not_valid_after_utc, is_ca)

    def days_left(self, now: datetime.datetime) -> int:
        """Whole days for which it is valid still; below 0, it is not any more."""
        return (self.until - now).days


class Authority:
    """A CA: what it signs is believed by whoever has its certificate as `ca=`."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, name: str = "hvrpc private CA", *, days: int = CA_DAYS) -> Authority:
        """One with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        who = _subject(name)
        builder = (
            _begin(who, who, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        return cls(_sign(builder, key), key)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """The one that :meth:`write` has left in a folder. Raises :class:`hvrpc.CredentialsError`."""
        try:
            certificate = x509.load_pem_x509_certificate((folder / CA_FILE).read_bytes())
            key = serialization.load_pem_private_key(
                (folder / CA_KEY_FILE).read_bytes(), password=None
            )
        except (OSError, ValueError, TypeError) as error:
            raise CredentialsError(
                f"CA in {folder}",
                problem=f"it cannot be read ({error})",
                remedy=f"{CA_FILE} and {CA_KEY_FILE} have to be there, as they were made; or choose"
                " another folder",
            ) from error
        if (
            not isinstance(key, ec.EllipticCurvePrivateKey)
            or key.public_key() != certificate.public_key()
        ):
            raise CredentialsError(
                f"CA in {folder}",
                problem=f"{CA_FILE} and {CA_KEY_FILE} do not belong together",
                remedy="bring back the one that was replaced, or choose another folder",
            )
        return cls(certificate, key)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files. Raises FileExistsError rather than replace one."""
        certificate, key = folder / CA_FILE, folder / CA_KEY_FILE
        _write_both(certificate, _pem(self._certificate), key, _key_pem(self._key))
        return certificate, key

    def issue(self, name: str, names: Iterable[str], *, days: int = DAYS) -> Pair:
        """A new pair for somebody, to be used as a client and as a server.

        `names` are what others will look for. Raises :class:`hvrpc.CredentialsError` for one that no
        certificate can hold.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usages = x509.oid.ExtendedKeyUsageOID
        authority_id = self._certificate.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value
        builder = (
            _begin(_subject(name), self._certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([usages.SERVER_AUTH, usages.CLIENT_AUTH]), critical=False
            )
            .add_extension(
                x509.SubjectAlternativeName([_alternative(each) for each in names]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id),
                critical=False,
            )
        )
        return Pair(name, _pem(_sign(builder, self._key)), _key_pem(key))


def _subject(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise _no_name(name, str(error)) from error


def _alternative(name: str) -> x509.GeneralName:
    if not name.isascii() or not name.isprintable():
        raise _no_name(name, "it is not plain ASCII")
    return x509.DNSName(name)


def _no_name(name: str, problem: str) -> CredentialsError:
    return CredentialsError(
        f"name {name!r}",
        problem=f"no certificate can hold it ({problem})",
        remedy="choose a name of ASCII letters, and expect it by Tls(names=…)",
    )


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLY)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_both(certificate: Path, its_data: bytes, key: Path, key_data: bytes) -> None:
    """Both, or none: a key without its certificate would only be in the way."""
    _write(key, key_data, secret=True)
    try:
        _write(certificate, its_data)
    except BaseException:
        key.unlink()
        raise


def _write(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Never over what is there. On Windows a secret has the rights of its folder."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o600 if secret else 0o644), "wb") as file:
        file.write(data)
