"""TLS as bytes to bytes, and the files it is made of. No socket is opened here."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from hvrpc import Address, CredentialsError, Tls
from hvrpc.security import PLAIN, Security
from hvrpc.tls import RECORD, Codec, End, WrongName, expected_name

from .certificates import Certificates

HERE = Address.parse("local://loopback/5000")


# --- Files ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, certificates: Certificates) -> Path:
    from hvrpc.authority import Authority

    authority = Authority.new()
    authority.write(tmp_path)
    authority.issue("web", ["web"]).write(tmp_path)
    authority.issue("db", ["db"]).write(tmp_path)
    (tmp_path / "text.pem").write_text("no certificate")
    (tmp_path / "empty.pem").write_text("")
    return tmp_path


WRONG: list[tuple[dict[str, str], str]] = [
    ({"ca": "none.pem"}, r"ca .*none\.pem: there is no such file; correct the path"),
    ({"ca": "text.pem"}, r"ca .*text\.pem: .*certificate"),
    ({"ca": "empty.pem"}, r"ca .*empty\.pem: .*certificate"),
    ({"ca": "ca.pem", "certificate": "none.pem"}, r"certificate .*none\.pem: there is no such"),
    (
        {"ca": "ca.pem", "certificate": "web.pem", "key": "none.pem"},
        r"none\.pem: there is no such file",
    ),
    (
        {"ca": "ca.pem", "certificate": "web.pem", "key": "db-key.pem"},
        r"the key belongs to another certificate",
    ),
    ({"ca": "ca.pem", "certificate": "web.pem"}, r"certificate .*web\.pem: .*key"),
]


@pytest.mark.parametrize(("files", "message"), WRONG)
def test_a_file_that_cannot_be_used_is_named(
    folder: Path, files: dict[str, str], message: str
) -> None:
    paths: dict[str, Any] = {name: folder / file for name, file in files.items()}
    tls = Tls(**paths)
    with pytest.raises(CredentialsError, match=message):
        Security.of_client(tls=tls)


def test_a_key_with_a_password(folder: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    encrypted = folder / "locked-key.pem"
    key = serialization.load_pem_private_key((folder / "web-key.pem").read_bytes(), None)
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"sesame"),
        )
    )
    files: dict[str, Any] = {
        "ca": folder / "ca.pem",
        "certificate": folder / "web.pem",
        "key": encrypted,
    }
    assert Tls(**files, password="sesame").server()
    for password in (None, "wrong"):
        with pytest.raises(CredentialsError, match="password"):
            Tls(**files, password=password).server()
    assert "sesame" not in repr(Tls(**files, password="sesame"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user who is not root")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    (folder / "ca.pem").chmod(0)
    with pytest.raises(CredentialsError, match="let this user read it"):
        Tls(ca=folder / "ca.pem").client()


def test_what_is_missing_or_too_much_is_said(folder: Path) -> None:
    with pytest.raises(CredentialsError, match=r"Tls\(ca=…\): it is missing"):
        Tls().client()
    with pytest.raises(CredentialsError, match=r"Tls\(certificate=…\): it is missing"):
        Tls(ca=folder / "ca.pem").server()
    with pytest.raises(CredentialsError, match="clients are not asked for a certificate"):
        Tls(certificate=folder / "web.pem", key=folder / "web-key.pem", names="db").server()
    with pytest.raises(CredentialsError, match="one or the other"):
        Tls(context=ssl.create_default_context(), ca=folder / "ca.pem")
    with pytest.raises(ValueError, match="handshake_within is a number of seconds"):
        Tls(handshake_within=0)
    with pytest.raises(TypeError, match="tls= takes hvrpc"):
        Security.of_client(tls="ca.pem")  # type: ignore[arg-type]


def test_names_may_be_one_or_several() -> None:
    assert Tls(names="web").names == ("web",)
    assert Tls(names=["web", "db"]).names == ("web", "db")


def test_security_without_anything_is_plain() -> None:
    assert Security.of_client() == Security.of_server() == PLAIN


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("hvsock://parent/1", "host"),
        ("hvsock://My VM/1", "My VM"),
        (
            "hvsock://2E5C1F0A-7D0B-4B6E-9A67-3B8F1F6F9C11/1",
            "2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11",
        ),
        ("hvsock://loopback/1", "loopback"),
        ("local://web/1", "web"),
        ("vsock://host/1", "host"),
        ("vsock://3/1", None),
        ("hybrid:///v.sock?port=1", None),
        ("unix:///x.sock", None),
        ("tcp://127.0.0.1:1", "127.0.0.1"),
        ("tcp://example.org:1", "example.org"),
    ],
)
def test_whom_a_client_expects_without_being_told(url: str, name: str | None) -> None:
    assert expected_name(Address.parse(url)) == name


def test_an_address_that_names_nobody_needs_a_name(certificates: Certificates) -> None:
    end = certificates.tls("web").client()
    with pytest.raises(CredentialsError, match=r"name it: Tls\(names=…\)"):
        end.begin(Address.parse("unix:///x.sock"))
    assert certificates.tls("web", names="web").client().begin(Address.parse("unix:///x.sock"))


# --- The handshake -------------------------------------------------------------------------------


def carry(source: Codec, target: Codec, step: int = 1 << 20) -> int:
    """Take what one has produced to the other, in steps of so many bytes."""
    data = source.produced()
    for start in range(0, len(data), step):
        target.arrived(data[start : start + step])
    return len(data)


def shake(client: Codec, server: Codec) -> None:
    """To the end, or to the error of one of them."""
    done = [False, False]
    while not all(done):
        done[0] = done[0] or client.handshake()
        carry(client, server)
        done[1] = done[1] or server.handshake()
        carry(server, client)


def codecs(certificates: Certificates, **server: Any) -> tuple[Codec, Codec]:
    tls = certificates.tls("host", names="host")
    other = certificates.tls("host", **server)
    return tls.client().begin(HERE), other.server().begin(HERE)


@pytest.fixture
def pair(certificates: Certificates) -> tuple[Codec, Codec]:
    """A client and a server that have shaken hands."""
    client, server = codecs(certificates)
    shake(client, server)
    return client, server


def test_handshake_is_of_tls_1_3_and_tells_who_is_there(pair: tuple[Codec, Codec]) -> None:
    for codec in pair:
        assert codec._ssl.version() == "TLSv1.3"
        assert codec.certificate is not None
        assert codec.certificate.common_name == "host"
        assert codec.certificate.names == ("host", "loopback", "127.0.0.1")


def test_nothing_older_than_tls_1_3_is_spoken(certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=str(certificates.folder / "ca.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = Tls(context=context).client().begin(HERE)
    server = certificates.tls("host").server().begin(HERE)
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shake(client, server)


def test_a_wrong_name_is_found_before_anything_is_sent(certificates: Certificates) -> None:
    client = certificates.tls("host", names=["web", "db"]).client().begin(HERE)
    server = certificates.tls("host", ca=None).server().begin(HERE)
    with pytest.raises(WrongName) as caught:
        shake(client, server)
    assert caught.value.wanted == ("web", "db")
    assert str(caught.value.certificate) == "host, loopback, 127.0.0.1"
    assert client.produced() == b"" or not server.handshake()


def test_names_are_compared_without_regard_to_case_and_not_as_patterns(
    certificates: Certificates, folder: Path
) -> None:
    server = certificates.tls("host", ca=None).server()
    shake(certificates.tls(None, names="HOST").client().begin(HERE), server.begin(HERE))
    for name in ("ho", "*", "*ost", "host.", "hostx", ""):
        with pytest.raises(WrongName):
            shake(certificates.tls(None, names=[name]).client().begin(HERE), server.begin(HERE))


def test_a_common_name_is_no_name(tmp_path: Path, certificates: Certificates) -> None:
    """Only alternative names count, as everywhere since RFC 6125."""
    from hvrpc.authority import Authority

    authority = Authority.new()
    authority.write(tmp_path)
    authority.issue("web", ["other"]).write(tmp_path)
    server = Tls(certificate=tmp_path / "web.pem", key=tmp_path / "web-key.pem").server()
    with pytest.raises(WrongName):
        shake(Tls(ca=tmp_path / "ca.pem", names="web").client().begin(HERE), server.begin(HERE))


# --- Bytes to bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("size", [1, 100, RECORD, RECORD + 1, 5 * RECORD + 77])
def test_what_is_encrypted_is_decrypted(pair: tuple[Codec, Codec], size: int, step: int) -> None:
    """In records that arrive in pieces, and are taken in other pieces."""
    client, server = pair
    data = os.urandom(size)
    encrypted = client.encrypt(data)
    got = bytearray()
    for start in range(0, len(encrypted), step):
        server.arrived(encrypted[start : start + step])
        while piece := server.decrypt(1000):
            got += piece
    assert got == data
    assert not server.pending
    assert not server.ended


def test_pending_tells_whether_there_is_more_although_nothing_arrives(
    pair: tuple[Codec, Codec],
) -> None:
    client, server = pair
    server.arrived(client.encrypt(b"a" * 10) + client.encrypt(b"b" * 10)[:-1])
    assert server.decrypt(4) == b"aaaa"
    assert server.pending
    assert server.decrypt(100) == b"aaaaaa"
    assert not server.pending, "half a record is not to be had"
    server.arrived(b"")
    with pytest.raises(ssl.SSLEOFError):
        server.decrypt(100)
    assert server.pending, "the end is something, too"


def test_decrypting_into_a_place(pair: tuple[Codec, Codec]) -> None:
    client, server = pair
    data = os.urandom(3 * RECORD)
    encrypted = client.encrypt(data)
    server.arrived(encrypted)
    place = memoryview(bytearray(RECORD + 5))
    assert server.decrypt_into(place) == RECORD + 5
    assert server.pending
    rest = memoryview(bytearray(1 << 20))
    got = server.decrypt_into(rest)
    assert bytes(place) + bytes(rest[:got]) == data
    assert server.decrypt_into(rest) == 0
    assert server.decrypt(10) == b""


def test_first_words_that_came_with_the_handshake_are_pending(certificates: Certificates) -> None:
    client, server = codecs(certificates)
    client.handshake()
    carry(client, server)
    server.handshake()
    carry(server, client)
    assert client.handshake()
    server.arrived(client.produced() + client.encrypt(b"hello"))
    assert server.handshake()
    assert server.pending
    assert server.decrypt(10) == b"hello"


def test_goodbye_is_the_end_and_what_came_before_it_is_not_lost(pair: tuple[Codec, Codec]) -> None:
    client, server = pair
    server.arrived(client.encrypt(b"last words") + client.farewell())
    assert client.farewell() == b"", "it is said once"
    assert server.decrypt(4) == b"last"
    assert server.decrypt(100) == b" words"
    assert server.ended
    assert server.decrypt(100) == b""
    assert server.decrypt_into(memoryview(bytearray(10))) == 0


def test_after_its_own_goodbye_a_side_still_receives(pair: tuple[Codec, Codec]) -> None:
    """Also what had arrived already, which OpenSSL would take for an error."""
    client, server = pair
    client.arrived(server.encrypt(b"early"))
    farewell = client.farewell()
    assert farewell
    assert client.decrypt(100) == b"early"
    client.arrived(server.encrypt(b"late"))
    assert client.decrypt(100) == b"late"
    client.arrived(server.farewell())
    assert client.decrypt(100) == b""
    assert client.ended


def test_an_end_without_goodbye_is_an_error_each_time(pair: tuple[Codec, Codec]) -> None:
    """Whoever sits in between can cut a connection off, but not end it in good order."""
    client, server = pair
    server.arrived(client.encrypt(b"words"))
    server.arrived(b"")
    assert server.decrypt(100) == b"words"
    for _ in range(2):
        with pytest.raises(ssl.SSLEOFError):
            server.decrypt(100)
        with pytest.raises(ssl.SSLEOFError):
            server.decrypt_into(memoryview(bytearray(10)))
    assert not server.ended


def test_changed_bytes_are_an_error_each_time(pair: tuple[Codec, Codec]) -> None:
    client, server = pair
    good, bad = client.encrypt(b"good"), bytearray(client.encrypt(b"bad"))
    bad[-1] ^= 1
    server.arrived(good + bytes(bad))
    assert server.decrypt(100) == b"good"
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            server.decrypt(100)
    assert not server.ended


@pytest.mark.parametrize("how", ["cut off", "ended here"])
def test_nothing_can_be_sent_after_the_end(pair: tuple[Codec, Codec], how: str) -> None:
    client, server = pair
    if how == "cut off":
        client.arrived(b"")
        with pytest.raises(ssl.SSLEOFError):
            client.decrypt(10)
    else:
        server.arrived(client.farewell())
    with pytest.raises(BrokenPipeError):
        client.encrypt(b"x")


def test_a_record_that_was_cut_off_leaves_no_goodbye(pair: tuple[Codec, Codec]) -> None:
    """It would be read as the rest of the record."""
    client, _ = pair
    client.cut = True
    assert client.farewell() == b""


def test_tickets_of_a_context_of_the_users_do_no_harm(certificates: Certificates) -> None:
    """Its server sends some after the handshake, which a client finds when it first reads."""
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.folder / "ca.pem")
    )
    context.load_cert_chain(certificates.folder / "host.pem", certificates.folder / "host-key.pem")
    assert context.num_tickets > 0
    end: End = Tls(context=context).server()
    client, server = certificates.tls(None).client().begin(HERE), end.begin(HERE)
    shake(client, server)
    assert not client.pending
    server.arrived(client.encrypt(b"to"))
    assert server.decrypt(10) == b"to"
    client.arrived(server.encrypt(b"fro"))
    assert client.decrypt(10) == b"fro"


def test_ours_send_no_tickets(pair: tuple[Codec, Codec]) -> None:
    client, _ = pair
    assert not client._arrived.pending
