"""The rendezvous: who is there, and who listens where, although anybody may die or stop any time."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from hvrpc.addresses import HV_GUID_PARENT, HV_GUID_WILDCARD, service_id_of_port
from hvrpc.errors import UnsupportedError
from hvrpc.sockets import fabric
from hvrpc.sockets.fabric import Entry, Fabric, Key
from hvrpc.sockets.locks import try_lock

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX: run on Linux or macOS")

KEY = Key(HV_GUID_PARENT, service_id_of_port(5000), HV_GUID_WILDCARD)
NOWHERE = "local://loopback/5000"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fabric]:
    """A fabric in a folder of its own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv(fabric.FABRIC_VARIABLE, "mine")
    monkeypatch.delenv(fabric.VM_VARIABLE, raising=False)
    opened = fabric.open_fabric(NOWHERE, "use")
    yield opened
    fabric.leave_for_good(opened.folder)
    shutil.rmtree(opened.folder)


class Other:
    """Another process, which does as it is told and then waits until it is ended."""

    def __init__(self, code: str) -> None:
        begin = (
            "import os, sys, time\n"
            "from hvrpc.sockets import fabric\n"
            "from tests.sockets.test_fabric import KEY, NOWHERE, publish\n"
            "here = fabric.open_fabric(NOWHERE, 'use')\n"
            "said = ''\n"
        )
        end = "\nprint('done', said, flush=True)\nsys.stdin.read()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", begin + code + end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout is not None
        done, *self.said = self.process.stdout.readline().decode().split()
        assert done == "done"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def publish(here: Fabric) -> fabric.HeldFile | None:
    """Listen, without a socket."""
    claim = here.claim(KEY)
    if claim is not None:
        member = fabric.join(here)
        claim.write(fabric.to_dict(Entry(member.token, os.getpid(), "none", "nowhere")))
    return claim


# --- Names -----------------------------------------------------------------------------------------


def test_ids_are_the_same_in_every_process_and_different_on_every_fabric() -> None:
    assert fabric.vm_id("mine", "web") == UUID("c7664bda-c5fa-56a5-8ba5-32cf728f509d")
    assert len({fabric.vm_id(name, vm) for name in "ab" for vm in ("web", "db")}) == 4
    assert fabric.service_id("web") == fabric.service_id("web") != fabric.service_id("db")


def test_a_process_without_a_name_is_the_host(here: Fabric) -> None:
    assert here.here.is_host


def test_a_process_can_be_given_an_id(here: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fabric.vm_id("mine", "web")
    for text in (str(wanted), f"{{{str(wanted).upper()}}}"):
        monkeypatch.setenv(fabric.VM_VARIABLE, text)
        assert fabric.open_fabric(NOWHERE, "use").here.id == wanted


def test_an_id_finds_the_vm_of_that_name(here: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fabric.VM_VARIABLE, "Büro 1/2")
    guest = fabric.open_fabric(NOWHERE, "use").here
    assert here.vm(guest.id) == here.vm("Büro 1/2") == guest
    assert here.known_vm(guest.short_id) == guest


@pytest.mark.parametrize("name", ["parent", "LOOPBACK", "a42e7cda-d03f-480c-9cc2-a4de20abb878"])
def test_a_vm_cannot_have_a_name_with_a_meaning(
    here: Fabric, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(fabric.VM_VARIABLE, name)
    with pytest.raises(UnsupportedError, match=f"(?i){fabric.VM_VARIABLE}.*{name}"):
        fabric.open_fabric(NOWHERE, "use")


# --- The folder ------------------------------------------------------------------------------------


@posix
def test_only_the_owner_can_enter_the_folder(here: Fabric, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "hvrpc").stat().st_mode) == 0o700


@posix
def test_a_folder_that_others_can_enter_is_refused(here: Fabric, tmp_path: Path) -> None:
    (tmp_path / "hvrpc").chmod(0o750)
    with pytest.raises(UnsupportedError, match="other users"):
        fabric.open_fabric(NOWHERE, "use")


@posix
def test_a_link_in_place_of_the_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / "hvrpc").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsupportedError, match="not a folder"):
        fabric.open_fabric(NOWHERE, "use")


@posix
def test_a_folder_of_another_user_is_refused(here: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    with pytest.raises(UnsupportedError, match="belongs to user"):
        fabric.open_fabric(NOWHERE, "use")


@posix
def test_a_folder_that_cannot_be_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "not" / "there"))
    with pytest.raises(UnsupportedError, match="cannot be made"):
        fabric.open_fabric(NOWHERE, "use")


def test_any_name_makes_a_short_folder(here: Fabric) -> None:
    for name in ("../..", "a/b", "x" * 500, "CON", "Büro"):
        folder = Path(fabric.folder_of(name))
        assert folder.parent == Path(here.folder).parent
        assert len(folder.name) == 12


# --- Held files --------------------------------------------------------------------------------------


def test_a_file_is_held_by_one(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    first = fabric.hold(path)
    assert first is not None
    assert fabric.hold(path) is None
    first.remove()
    assert not os.path.exists(path)
    second = fabric.hold(path)
    assert second is not None
    second.remove()


def test_a_file_that_was_removed_while_it_was_being_locked_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "file")
    removed: list[str] = []

    def remove_then_lock(fd: int) -> bool:
        if not removed and os.name == "posix":
            os.unlink(path)
            removed.append(path)
        return try_lock(fd)

    monkeypatch.setattr("hvrpc.sockets.fabric.try_lock", remove_then_lock)
    file = fabric.hold(path)
    assert file is not None
    monkeypatch.undo()
    assert fabric.hold(path) is None, "what is held is the file that others see"
    file.remove()


# --- Members ----------------------------------------------------------------------------------------


def test_a_member_lives_as_long_as_its_process(here: Fabric) -> None:
    with Other("fabric.join(here)") as other:
        (token,) = os.listdir(here.path("members", ""))
        assert here.is_alive(token)
        other.kill()
        assert not here.is_alive(token)


@posix
def test_a_stopped_member_lives(here: Fabric) -> None:
    with Other("fabric.join(here)") as other:
        (token,) = os.listdir(here.path("members", ""))
        other.process.send_signal(signal.SIGSTOP)
        assert here.is_alive(token)


def test_what_a_dead_member_has_left_is_swept_away(here: Fabric) -> None:
    left = "open(here.path(kind, f'{member.token}.1'), 'x').close()"
    code = f"kept = publish(here); member = fabric.join(here)\nfor kind in 'sockets', 'callers': {left}"
    with Other(code) as other:
        here.sweep()
        kinds = ("members", "endpoints", "sockets", "callers")
        assert [len(os.listdir(here.path(kind, ""))) for kind in kinds] == [1, 1, 1, 1]
        other.kill()
        here.sweep()
        assert [len(os.listdir(here.path(kind, ""))) for kind in kinds] == [0, 0, 0, 0]


def test_a_membership_ends_with_its_last_use(here: Fabric) -> None:
    first, second = fabric.join(here), fabric.join(here)
    assert first is second
    first.leave()
    assert here.is_alive(first.token)
    second.leave()
    assert not here.is_alive(first.token)
    assert os.listdir(here.path("members", "")) == []


@posix
def test_a_folder_that_was_tidied_up_is_made_again(here: Fabric) -> None:
    before = fabric.join(here)
    shutil.rmtree(here.folder)
    fabric.open_fabric(NOWHERE, "use")
    after = fabric.join(here)
    assert here.is_alive(after.token)
    before.leave()
    assert here.is_alive(after.token)


def test_the_host_always_runs_and_a_guest_while_it_has_a_process(here: Fabric) -> None:
    guest = here.vm("web")
    assert here.is_running(here.vm(HV_GUID_PARENT))
    assert not here.is_running(guest)
    code = "os.environ['HVRPC_FABRIC_VM'] = 'web'; fabric.open_fabric(NOWHERE, 'use')"
    with Other(code) as other:
        assert here.is_running(guest)
        other.kill()
        assert not here.is_running(guest)


# --- Endpoints ---------------------------------------------------------------------------------------


def test_a_live_listener_is_found_and_never_replaced(here: Fabric) -> None:
    assert here.find(KEY) is None
    with Other("kept = publish(here)") as other:
        for _ in range(3):
            entry = here.find(KEY)
            assert entry is not None
            assert entry.pid == other.process.pid
            assert here.claim(KEY) is None


def test_a_dead_listener_is_not_found_and_replaced_at_once(here: Fabric) -> None:
    with Other("kept = publish(here)") as other:
        other.kill()
        assert here.find(KEY) is None
        claim = publish(here)
        assert claim is not None
        entry = here.find(KEY)
        assert entry is not None
        assert entry.pid == os.getpid()
        claim.remove()
        assert here.find(KEY) is None


@posix
def test_nobody_hangs_on_a_process_that_stopped_while_it_was_about_to_listen(here: Fabric) -> None:
    with Other("kept = here.claim(KEY)") as other:
        other.process.send_signal(signal.SIGSTOP)
        assert here.find(KEY) is None
        assert here.claim(KEY) is None
        another = here.claim(Key(KEY.vm, service_id_of_port(5001), KEY.admits))
        assert another is not None
        another.remove()


def test_a_file_that_makes_no_sense_is_nobody(here: Fabric) -> None:
    for content in (b"", b"{", b"[1]", b"\xff"):
        Path(here.path("endpoints", str(KEY))).write_bytes(content)
        assert here.find(KEY) is None
    claim = here.claim(KEY)
    assert claim is not None
    claim.remove()


@posix
def test_a_forked_child_does_not_keep_its_parent_alive(here: Fabric) -> None:
    """The child of a listener lives on; the listener itself is dead, and its place is free."""
    code = """
kept = publish(here)
child_ready, tell_ready = os.pipe()
said = os.fork()
if said == 0:
    kept.remove()  # it is the parent's: nothing may happen
    os.write(tell_ready, fabric.join(here).token.encode())
    time.sleep(60)
    os._exit(0)
said = f"{said} {os.read(child_ready, 100).decode()}"
"""
    with Other(code) as other:
        child, token = other.said
        try:
            assert here.find(KEY) is not None, "the child has not removed it"
            other.kill()
            assert here.is_alive(token), "the child is a member of its own"
            assert here.find(KEY) is None
            claim = here.claim(KEY)
            assert claim is not None
            claim.remove()
        finally:
            os.kill(int(child), signal.SIGKILL)
