"""`hvrpc credentials`: what it makes works, and nothing is ever replaced."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs cryptography: pip install 'hvrpc[tls]'")

import hvrpc.msgpack
from hvrpc import Tls
from hvrpc.authority import Authority
from hvrpc.cli.errors import ExitCode

from ..sockets.background import WAIT
from .runs import run

VM_ID = "2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "certificates"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def pair(folder: Path, name: str) -> Tls:
    return Tls(
        ca=folder / "ca.pem", certificate=folder / f"{name}.pem", key=folder / f"{name}-key.pem"
    )


def test_a_host_and_its_guests_get_what_they_need(folder: Path) -> None:
    done = run("credentials", "new", folder, "--guest", "web", "--guest", f"My VM={VM_ID}")
    assert done.exit_code == 0
    assert names_in(folder) == {
        "ca.pem",
        "ca-key.pem",
        "host.pem",
        "host-key.pem",
        "web.pem",
        "web-key.pem",
        "My-VM.pem",
        "My-VM-key.pem",
    }
    assert "copy  ca.pem, web.pem and web-key.pem to the guest web" in done.stdout
    assert "keep  ca-key.pem secret" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="on Windows the rights of the folder hold")
def test_keys_are_for_their_owner_only(folder: Path) -> None:
    run("credentials", "new", folder, "--guest", "web")
    for path in folder.glob("*-key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_was_made_is_what_both_sides_need(folder: Path) -> None:
    """A host and a guest that know each other by these files alone."""
    run("credentials", "new", folder, "--guest", "web")

    class Who:
        def who(self, context: hvrpc.msgpack.Context) -> str:
            assert context.peer is not None
            return str(context.peer.certificate)

    server = hvrpc.msgpack.Server(Who())
    address = server.listen("local://loopback/0", tls=pair(folder, "host"))
    with (
        server,
        hvrpc.msgpack.connect(address, tls=pair(folder, "web"), timeout=WAIT) as client,
    ):
        assert client.call("who") == "web"


def test_guests_can_be_added_later(folder: Path) -> None:
    run("credentials", "new", folder)
    before = (folder / "host.pem").read_bytes()
    done = run("credentials", "new", folder, "--guest", "web", "--json")
    assert json.loads(done.stdout)["made"] == ["web.pem", "web-key.pem"]
    assert (folder / "host.pem").read_bytes() == before


def test_nothing_is_replaced(folder: Path) -> None:
    run("credentials", "new", folder, "--guest", "web")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = run("credentials", "new", folder, "--guest", "web")
    assert done.exit_code == ExitCode.USAGE
    assert "is there already" in done.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_ca_that_was_torn_apart_is_not_used(folder: Path) -> None:
    run("credentials", "new", folder)
    (folder / "ca-key.pem").unlink()
    done = run("credentials", "new", folder, "--guest", "web")
    assert done.exit_code == ExitCode.USAGE
    assert "have to be there" in " ".join(done.stderr.split())
    other = folder.parent / "other"
    other.mkdir()
    key, _ = reversed(Authority.new().write(other))
    (folder / "ca-key.pem").write_bytes(key.read_bytes())
    done = run("credentials", "new", folder, "--guest", "web")
    assert done.exit_code == ExitCode.USAGE
    assert "do not belong together" in done.stderr


@pytest.mark.parametrize(
    ("guest", "said"),
    [
        ("=1", "a guest has a name"),
        ("web=5", "is no VM's id"),
        ("Büro", "not plain ASCII"),
        ("CA", "called like those of the CA"),
        ("web-key", "or of another key"),
    ],
)
def test_a_guest_that_cannot_be_is_refused(folder: Path, guest: str, said: str) -> None:
    done = run("credentials", "new", folder, "--guest", guest)
    assert done.exit_code == ExitCode.USAGE
    assert said in done.stderr


def test_days_are_as_many_as_a_certificate_can_hold(folder: Path) -> None:
    assert run("credentials", "new", folder, "--days", 36_500).exit_code == ExitCode.OK
    done = run("credentials", "new", folder, "--guest", "web", "--days", 9_999_999)
    assert done.exit_code == ExitCode.USAGE
    assert "--days" in done.stderr


def test_a_key_is_not_left_without_its_certificate(folder: Path) -> None:
    folder.mkdir()
    (folder / "host.pem").touch()
    (folder / "web.pem").touch()
    done = run("credentials", "new", folder, "--guest", "web")
    assert "web.pem is there already" in done.stderr
    assert names_in(folder) == {"ca.pem", "ca-key.pem", "host.pem", "web.pem"}


def test_show_tells_whose_they_are_and_until_when(folder: Path) -> None:
    run("credentials", "new", folder, "--guest", f"web={VM_ID}", "--days", 10)
    done = run("credentials", "show", folder)
    assert done.exit_code == 0
    assert f"web, {VM_ID}" in done.stdout
    assert "a CA" in done.stdout
    assert "host, loopback, localhost, 127.0.0.1" in done.stdout
    shown = json.loads(run("credentials", "show", folder / "web.pem", "--json").stdout)
    assert [(each["name"], each["names"], each["is_ca"]) for each in shown] == [
        ("web", ["web", VM_ID], False)
    ]
    assert shown[0]["days_left"] in (9, 10)


def test_show_says_when_the_time_is_up(folder: Path) -> None:
    folder.mkdir()
    Authority.new().issue("web", ["web"], days=-1).write(folder)
    assert "its time is up" in run("credentials", "show", folder).stdout


def test_show_refuses_what_is_no_certificate(folder: Path) -> None:
    run("credentials", "new", folder)
    done = run("credentials", "show", folder / "host-key.pem")
    assert done.exit_code == ExitCode.USAGE
    assert "host-key.pem" in done.stderr
    done = run("credentials", "show", folder / "none.pem")
    assert done.exit_code == ExitCode.USAGE
    assert "No such file" in done.stderr
