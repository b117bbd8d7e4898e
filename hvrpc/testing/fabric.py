"""A fabric for one test: the test is the host, its guests are processes."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from ..sockets import fabric as rendezvous
from ..sockets.locks import try_lock
from .guests import READY_TIMEOUT, Guest, GuestFailed, Ready
from .programs import Program

_OWNER: Final = "owner"
"""A file in a fabric's folder, locked by the test run that will remove it."""

_VARIABLES: Final = (rendezvous.FABRIC_VARIABLE, rendezvous.VM_VARIABLE)


class Fabric:
    """An emulated fabric of its own, and the guests on it. Use it in a `with` statement.

    Meanwhile the environment of this process names it, so that `hvsock://` and `local://` addresses
    use it, with this process as the host. At the end all guests are ended, and nothing is left of
    them. A guest that has failed on its own (with a traceback, or by a signal that did not come from
    here) makes the end raise :class:`GuestFailed`.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name: Final = name or f"test-{os.getpid()}-{secrets.token_hex(4)}"
        self.guests: Final[list[Guest]] = []
        self._folder = rendezvous.folder_of(self.name)
        self._owner: rendezvous.HeldFile | None = None
        self._environment: dict[str, str | None] = {}

    def vm_id(self, name: str) -> UUID:
        """The id of the VM of that name, whether it runs or not."""
        return rendezvous.vm_called(name, self.name).id

    def guest(
        self,
        name: str,
        target: Callable[..., object] | str | os.PathLike[str],
        args: Sequence[object] = (),
        *,
        ready: Ready = "listening",
        timeout: float = READY_TIMEOUT,
    ) -> Guest:
        """Start a VM: a function, or a script, in a process of its own.

        The function must be at the top level of a module, and `args` must be picklable; of a script
        `args` are the command line. `ready` says what to wait for, at most `timeout` seconds:

        - `"listening"`: it listens for the first time, or calls :func:`hvrpc.testing.ready`;
        - `"told"`: it calls :func:`hvrpc.testing.ready`;
        - `"started"`: its process runs, and nothing more.

        A guest that ends well without that is fine, too. Raises :class:`GuestFailed`, with what it
        has printed, if it fails or is not ready in time.
        """
        program = Program.of(target, args)
        guest = Guest(self.name, name, self.vm_id(name), program, ready, timeout)
        self.guests.append(guest)
        guest.start()
        return guest

    def __enter__(self) -> Self:
        self._owner = _make_folder(self.name)
        self._environment = {name: os.environ.get(name) for name in _VARIABLES}
        os.environ[rendezvous.FABRIC_VARIABLE] = self.name
        os.environ.pop(rendezvous.VM_VARIABLE, None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failures = self._end_guests()
        self._leave()
        if error is None and failures:
            for other in failures[1:]:
                failures[0].add_note(str(other))
            raise failures[0]
        for failure in failures:
            assert error is not None
            error.add_note(str(failure))

    def _end_guests(self) -> list[GuestFailed]:
        failures = []
        for guest in self.guests:
            failure = guest.failure()
            if failure is not None:
                failures.append(failure)
            guest.kill()
        return failures

    def _leave(self) -> None:
        rendezvous.leave_for_good(self._folder)
        if self._owner is not None:
            self._owner.remove()
        shutil.rmtree(self._folder, ignore_errors=True)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _make_folder(name: str) -> rendezvous.HeldFile:
    """Make the folder of a fabric; remove those of test runs that were killed."""
    fabric = rendezvous.Fabric(name, rendezvous.HOST, rendezvous.folder_of(name))
    with rendezvous.explained(f"fabric {name}", "make"):
        rendezvous.make_private(fabric)
    root = os.path.dirname(fabric.folder)
    for other in rendezvous.names_in(root):
        _remove_if_abandoned(os.path.join(root, other))
    while True:
        try:
            owner = rendezvous.hold(os.path.join(fabric.folder, _OWNER))
        except FileNotFoundError:
            rendezvous.make_private(fabric)  # it was removed before its owner was known
            continue
        if owner is not None:
            return owner


def _remove_if_abandoned(folder: str) -> None:
    try:
        with open(os.path.join(folder, _OWNER), "rb") as owner:
            if not try_lock(owner.fileno(), shared=True):
                return
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # the fabric of no test, or removed meanwhile
    if os.name != "posix":
        shutil.rmtree(folder, ignore_errors=True)  # Windows keeps a file while it is open
