"""The emulated fabric: who is there, and who listens where. No sockets, only a private folder.

A fabric is several "virtual machines" on one machine: processes that each say by their environment
which VM they belong to. They find each other in a folder that only their user can enter:

    members/<token>        a process that listens, or belongs to a guest; locked while it lives
    endpoints/<vm.service.admits>   a listener; locked while it listens
    vms/<short id>         the id and the name of a guest that was ever here
    sockets/, callers/              what the carriers need

Two rules make this work although any process may be killed, or stopped, at any moment:

- *Whoever wrote a file holds its lock.* The system takes the lock away from a dead process, and
  from nobody else. So a file without a lock is a leftover and may be replaced, and one with a lock
  is never touched. There is no lock that several processes share, hence none to hang on.
- *Looking disturbs nobody.* Whether a member lives is tried with a shared lock, which can meet an
  exclusive one only before the member's file is complete.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import secrets
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from typing import Any, Final
from uuid import UUID, uuid5

from ..addresses import HV_GUID_PARENT, NAMED_VMS
from ..errors import UnsupportedError
from .locks import try_lock, unlock

FABRIC_VARIABLE: Final = "HVRPC_FABRIC"
"""The fabric's name. hvsock:// addresses use the fabric only when it is set, local:// always."""
VM_VARIABLE: Final = "HVRPC_FABRIC_VM"
"""The name or the id of the VM this process plays; without it the process is the host."""
DEFAULT_FABRIC: Final = "default"

_NAMESPACE: Final = UUID("b2f1c1f6-64f2-4a0e-9c57-0e6b1e0a7c11")
"""What names are hashed with, so that no other program makes the same ids of them."""
_GUID: Final = re.compile(r"\{?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}?", re.IGNORECASE)

FOLDERS: Final = ("members", "endpoints", "vms", "sockets", "callers")
MAX_FILE: Final = 4096
"""Bytes of any of these files: far more than are ever written."""
CLAIM_PATIENCE: Final = 0.5
"""Seconds to wait while a leftover is being looked at, or another process is about to listen."""
CLAIM_PAUSE: Final = 0.005


def vm_id(fabric: str, name: str) -> UUID:
    """The id of the VM of that name."""
    return uuid5(uuid5(_NAMESPACE, fabric), name)


def service_id(name: str) -> UUID:
    """The id of the service of that name."""
    return uuid5(_NAMESPACE, name)


@dataclass(frozen=True, slots=True)
class Vm:
    """A virtual machine, or the host."""

    id: UUID
    name: str | None = None

    @property
    def is_host(self) -> bool:
        return self.id == HV_GUID_PARENT

    @property
    def short_id(self) -> str:
        """The id, short enough for the name of a UNIX socket."""
        return hashlib.sha256(self.id.bytes).hexdigest()[:12]

    def __str__(self) -> str:
        return "the host" if self.is_host else f"VM {self.name or self.id}"


MAX_NAME: Final = 256
"""Characters of a VM's name: Hyper-V takes no more, and the fabric's files are small."""


def vm_called(name: str, fabric: str) -> Vm:
    """The VM that a process plays which was given this name, or id. Raises ValueError."""
    guid = UUID(name) if _GUID.fullmatch(name) else None
    if not 0 < len(name) <= MAX_NAME or name != name.strip():
        raise ValueError(
            f"a VM's name has 1 to {MAX_NAME} characters and no space around it, not {name[:40]!r}"
        )
    if name.lower() in NAMED_VMS or guid in NAMED_VMS.values():
        raise ValueError(f"no VM can be called {name!r}, which has a meaning of its own")
    return Vm(vm_id(fabric, name), name) if guid is None else Vm(guid)


HOST: Final = Vm(HV_GUID_PARENT)
"""Seen from every guest its host is the parent; so this is the host's id on the fabric."""


@dataclass(frozen=True, slots=True)
class Key:
    """What can be listened on once: a service of a VM, for certain callers."""

    vm: UUID
    service: UUID
    admits: UUID
    """A VM's id, or CHILDREN, PARENT, LOOPBACK or WILDCARD."""

    def __str__(self) -> str:
        return f"{self.vm.hex}.{self.service.hex}.{self.admits.hex}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What an endpoint's file tells those who want to connect."""

    member: str
    """The token of the process that listens."""
    pid: int
    carrier: str
    """How it is reached: a row of `carriers.CARRIERS`."""
    place: str
    """Where, in that carrier's words."""
    secret: str = ""
    """Who knows it can read this folder."""


# --- Files that are held ------------------------------------------------------------------------


class HeldFile:
    """A file that is locked by this process until it is removed here, or the process ends."""

    def __init__(self, file: FileIO, path: str) -> None:
        self._file = file
        self._path = path
        _held.add(self)

    def write(self, content: object) -> None:
        """Replace the content."""
        data = json.dumps(content).encode()
        self._file.seek(0)
        self._file.truncate()
        self._file.write(data)  # at once: who reads in between finds nothing, or everything

    def remove(self) -> None:
        """Give the file up. A forked child does nothing: the file is its parent's."""
        if self._file.closed:
            return
        try:
            self._file.truncate(0)
            if os.name == "posix":
                # While it is locked: afterwards it may already be somebody else's.
                os.unlink(self._path)
        except FileNotFoundError:
            pass  # the whole folder was removed
        self.forget()
        if os.name != "posix":
            # Windows removes no file that is open, which protects somebody else's just as well.
            unlink_if_there(self._path)

    def is_there(self) -> bool:
        """Whether others see it: somebody may have tidied up the folder for temporary files."""
        return not self._file.closed and _is_still_at(self._path, self._file.fileno())

    def forget(self) -> None:
        """Close the file without giving it up."""
        if not self._file.closed:
            self._file.close()
        _held.discard(self)


_held: weakref.WeakSet[HeldFile] = weakref.WeakSet()


def hold(path: str) -> HeldFile | None:
    """Create the file unless it is there, and lock it; None while somebody else holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        file = FileIO(fd, "r+")
        try:
            locked = try_lock(fd)
            if locked and _is_still_at(path, fd):
                return HeldFile(file, path)
        except BaseException:
            file.close()
            raise
        file.close()
        if not locked:
            return None
        # Somebody removed the file between opening and locking: what we have is not it any more.


def _remove_unless_held(path: str) -> None:
    """Remove a leftover. Nobody can come to hold it meanwhile, since it is locked here."""
    try:
        with open(path, "rb") as file:
            if not try_lock(file.fileno(), shared=True):
                return
            if os.name == "posix":
                unlink_if_there(path)
            unlock(file.fileno())
    except (FileNotFoundError, PermissionError):
        return
    if os.name != "posix":
        unlink_if_there(path)  # refused by Windows if somebody has opened it since


def _is_still_at(path: str, fd: int) -> bool:
    if os.name != "posix":
        return True  # Windows removes no file that is open
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _read(path: str) -> dict[str, Any] | None:
    """The content of a file; None when there is none, or not yet."""
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(MAX_FILE))
    except (FileNotFoundError, PermissionError, ValueError):
        return None  # Windows says "permission denied" about a file that is being removed
    return content if isinstance(content, dict) else None


def unlink_if_there(path: str) -> None:
    """Remove a file that another may have removed, or (on Windows) may be using."""
    try:
        os.unlink(path)
    except (FileNotFoundError, PermissionError):
        pass


def names_in(folder: str) -> list[str]:
    """The names of the files in a folder, if it is there."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


# --- The fabric ---------------------------------------------------------------------------------


class Fabric:
    """One fabric, as one VM sees it."""

    def __init__(self, name: str, here: Vm, folder: str) -> None:
        self.name = name
        self.here = here
        self.folder = folder

    def path(self, kind: str, name: str) -> str:
        """Where one of the files of the module's table is."""
        return os.path.join(self.folder, kind, name)

    def vm(self, vm: UUID | str) -> Vm:
        """The VM of an address."""
        if isinstance(vm, str):
            return Vm(vm_id(self.name, vm), vm)
        return HOST if vm == HV_GUID_PARENT else self.known_vm(Vm(vm).short_id) or Vm(vm)

    def known_vm(self, short_id: str) -> Vm | None:
        """The VM with this short id, if it was ever here."""
        if short_id == HOST.short_id:
            return HOST
        content = _read(self.path("vms", short_id))
        return None if content is None else Vm(UUID(content["id"]), content["name"])

    def introduce(self) -> None:
        """Leave this VM's id and name for those who see its short id only."""
        path = self.path("vms", self.here.short_id)
        if self.here.is_host or os.path.exists(path):
            return
        draft = f"{path}.{secrets.token_hex(4)}"
        with open(draft, "x", encoding="utf-8") as file:
            json.dump({"id": str(self.here.id), "name": self.here.name}, file)
        os.replace(draft, path)

    def guests(self) -> list[tuple[Vm, bool]]:
        """The guests that were ever here, by name, and whether each is running."""
        known = (self.known_vm(short_id) for short_id in names_in(self.path("vms", "")))
        found = [(vm, self.is_running(vm)) for vm in known if vm is not None]
        return sorted(found, key=lambda entry: (entry[0].name or "", entry[0].id.int))

    # --- Members ---

    def is_running(self, vm: Vm) -> bool:
        """Whether a process of this VM is alive. The host always is."""
        if vm.is_host:
            return True
        return any(
            content["vm"] == str(vm.id) and self.is_alive(token)
            for token, content in self._members()
        )

    def _members(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for token in names_in(self.path("members", "")):
            content = _read(self.path("members", token))
            if content is not None:
                yield token, content

    def is_alive(self, token: str) -> bool:
        """Whether the member with this token is a living process."""
        try:
            with open(self.path("members", token), "rb") as file:
                if not try_lock(file.fileno(), shared=True):
                    return True
                unlock(file.fileno())
                return False
        except (FileNotFoundError, PermissionError):
            return False

    # --- Endpoints ---

    def find(self, key: Key) -> Entry | None:
        """The listener there, if it is alive."""
        entry = self._entry(str(key))
        return entry if entry is not None and self.is_alive(entry.member) else None

    def _entry(self, name: str) -> Entry | None:
        content = _read(self.path("endpoints", name))
        return None if content is None else Entry(**content)

    def claim(self, key: Key) -> HeldFile | None:
        """Become the one who listens there; None when somebody else does.

        The claim is published by :meth:`HeldFile.write` and given back by :meth:`HeldFile.remove`.
        """
        patience = time.monotonic() + CLAIM_PATIENCE
        while True:
            claim = hold(self.path("endpoints", str(key)))
            if claim is not None:
                return claim
            # Most often a listener. Else somebody who removes a leftover, or is about to listen.
            if self.find(key) is not None or time.monotonic() > patience:
                return None
            time.sleep(CLAIM_PAUSE)

    def sweep(self) -> None:
        """Remove what dead processes have left."""
        for kind in ("members", "endpoints"):
            for name in names_in(self.path(kind, "")):
                _remove_unless_held(self.path(kind, name))
        for kind in ("sockets", "callers"):
            for name in names_in(self.path(kind, "")):
                # UNIX callers' names begin with no token: they are needed for the moment of
                # connecting only, and a socket keeps its name when the file is gone.
                token = name.partition(".")[0]
                if not self.is_alive(token):
                    unlink_if_there(self.path(kind, name))


# --- This process ------------------------------------------------------------------------------


class Member:
    """This process as a member of a fabric, for as long as it listens or plays a guest."""

    def __init__(self, fabric: Fabric, token: str, file: HeldFile) -> None:
        self.token = token
        self.file = file
        self._key = fabric.folder, fabric.here
        self._uses = 0
        self._stays = False
        self._names = itertools.count()

    def next_name(self) -> str:
        """A name for a socket of this process."""
        return f"{self.token}.{next(self._names):x}"

    def use(self) -> None:
        """Be a member once more; :meth:`leave` takes it back."""
        with _joining:
            self._uses += 1

    def stay(self) -> None:
        """Be a member until the process ends."""
        self._stays = True

    def leave(self) -> None:
        """Be a member once less. The last one ends it."""
        with _joining:
            self._uses -= 1
            if self._uses <= 0 and not self._stays:
                # A forked child may have joined by itself: then this is its parent's membership.
                if _members.get(self._key) is self:
                    del _members[self._key]
                self.file.remove()


_members: dict[tuple[str, Vm], Member] = {}
_joining = threading.RLock()

listening_hooks: list[Callable[[], None]] = []
"""Called after this process has published a listener. For tests, which wait for it."""


def join(fabric: Fabric) -> Member:
    """This process as a member, used once (again)."""
    with _joining:
        member = _member(fabric)
        member.use()
        return member


def stay(fabric: Fabric) -> None:
    """Be a member until the process ends: a guest runs as long as one of its processes."""
    with _joining:
        _member(fabric).stay()


def _member(fabric: Fabric) -> Member:
    key = fabric.folder, fabric.here
    member = _members.get(key)
    if member is None or not member.file.is_there():
        fabric.sweep()
        member = _members[key] = _new_member(fabric)
    return member


def _new_member(fabric: Fabric) -> Member:
    while True:
        token = secrets.token_hex(5)
        file = hold(fabric.path("members", token))
        if file is not None:  # else somebody is looking at it just now
            break
    file.write({"vm": str(fabric.here.id), "name": fabric.here.name, "pid": os.getpid()})
    return Member(fabric, token, file)


def leave_for_good(folder: str) -> None:
    """End this process's memberships in a fabric that is about to be removed."""
    with _joining:
        for key in [key for key in _members if key[0] == folder]:
            _members.pop(key).file.remove()


def _after_fork_in_child() -> None:
    """The child is not its parent: it keeps none of the files by which the parent is alive."""
    global _joining
    _joining = threading.RLock()
    _members.clear()
    for file in list(_held):
        file.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def fabric_name() -> str:
    """The name of the fabric of this process."""
    return os.environ.get(FABRIC_VARIABLE) or DEFAULT_FABRIC


def open_fabric(address: object, operation: str) -> Fabric:
    """The fabric this process belongs to, by its environment. Address and operation are for errors."""
    with explained(address, operation):
        name = fabric_name()
        fabric = Fabric(name, _vm_of_this_process(name), folder_of(name))
        make_private(fabric)
        fabric.introduce()
    if not fabric.here.is_host:
        stay(fabric)
    return fabric


def guests_of(name: str) -> list[tuple[Vm, bool]]:
    """The guests of a fabric, and whether each is running. Only looks: nothing is made there."""
    return Fabric(name, HOST, folder_of(name)).guests()


def this_vm() -> Vm:
    """The VM that this process plays. Raises :class:`hvrpc.UnsupportedError`."""
    with explained("", "play a VM"):
        return _vm_of_this_process(fabric_name())


class Unusable(Exception):
    """The fabric cannot be used as this process is set up. Becomes an `UnsupportedError`."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy


@contextmanager
def explained(address: object, operation: str) -> Iterator[None]:
    """Tell users what they wanted to do when the fabric turned out to be unusable."""
    try:
        yield
    except Unusable as error:
        raise UnsupportedError(
            str(address), operation=operation, problem=error.problem, remedy=error.remedy
        ) from None


def _vm_of_this_process(fabric: str) -> Vm:
    name = os.environ.get(VM_VARIABLE)
    if not name:
        return HOST
    try:
        return vm_called(name, fabric)
    except ValueError as error:
        raise Unusable(
            f"{VM_VARIABLE} is wrong: {error}",
            "set it to the name or the id of a VM, or unset it to be the host",
        ) from None


# --- The folder --------------------------------------------------------------------------------


def folder_of(name: str) -> str:
    """The folder of a fabric. Its name is hashed: it may hold anything, and paths must be short."""
    return os.path.join(_root(), hashlib.sha256(name.encode()).hexdigest()[:12])


def _root() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # A relative one means another folder for everybody, and is to be ignored (XDG says so).
    if os.name == "posix" and runtime and os.path.isabs(runtime) and os.path.isdir(runtime):
        return os.path.join(runtime, "hvrpc")
    user = f"-{os.geteuid()}" if os.name == "posix" else ""
    return os.path.join(tempfile.gettempdir(), f"hvrpc{user}")


def make_private(fabric: Fabric) -> None:
    """Make the folder unless it is there, and make sure that nobody else can enter it."""
    _make_private(os.path.dirname(fabric.folder))
    if os.path.isdir(fabric.path(FOLDERS[-1], "")):
        return
    for kind in FOLDERS:
        os.makedirs(fabric.path(kind, ""), mode=0o700, exist_ok=True)


def _make_private(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)  # on Windows too: Python translates 0o700 for it
    except FileExistsError:
        pass
    except OSError as error:
        raise Unusable(
            f"the folder {folder} cannot be made ({error.strerror})",
            "let XDG_RUNTIME_DIR, or the folder for temporary files, be one you can write to",
        ) from error
    if os.name != "posix":
        return
    found = os.lstat(folder)  # not stat(): a symbolic link may lead to where others can write
    if not stat.S_ISDIR(found.st_mode):
        problem = "is not a folder"
    elif found.st_uid != os.geteuid():
        problem = f"belongs to user {found.st_uid}, not to you"
    elif stat.S_IMODE(found.st_mode) & 0o077:
        problem = "can be entered by other users"
    else:
        return
    raise Unusable(
        f"the folder {folder} {problem}",
        "remove it, or set XDG_RUNTIME_DIR to a folder of your own",
    )


def to_dict(entry: Entry) -> dict[str, Any]:
    """What to write into an endpoint's file."""
    return asdict(entry)
