"""The registry behind five functions, so that what is written there can be tried anywhere.

Paths are below HKEY_LOCAL_MACHINE, in the 64-bit view: a 32-bit Python would otherwise read and write
a shadow that Hyper-V never looks at.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from ..errors import UnsupportedError

T = TypeVar("T")


class Store(Protocol):
    """What is needed of a registry. Errors are those of the system, as `OSError`."""

    def subkeys(self, path: str) -> list[str]:
        """Names of the keys in a key; empty when there is no such key."""
        ...

    def values(self, path: str) -> dict[str, object] | None:
        """The values of a key by name; None when there is no such key."""
        ...

    def create(self, path: str) -> bool:
        """Make a key, and those above it. Returns whether it was not there before."""
        ...

    def set_text(self, path: str, name: str, text: str) -> None:
        """Set a REG_SZ value of a key that exists."""
        ...

    def delete(self, path: str) -> None:
        """Remove a key that has no keys in it."""
        ...


if sys.platform == "win32":
    import winreg

    def _all(one_of: Callable[[winreg.HKEYType, int], T], key: winreg.HKEYType) -> Iterator[T]:
        """Everything in a key, until there is no more: others may change it meanwhile."""
        for at in itertools.count():
            try:
                yield one_of(key, at)
            except OSError:
                return

    class WindowsRegistry:
        """The machine's own."""

        _HIVE = winreg.HKEY_LOCAL_MACHINE
        _READ = winreg.KEY_READ | winreg.KEY_WOW64_64KEY
        _WRITE = winreg.KEY_READ | winreg.KEY_WRITE | winreg.KEY_WOW64_64KEY

        def subkeys(self, path: str) -> list[str]:
            try:
                key = winreg.OpenKey(self._HIVE, path, 0, self._READ)
            except FileNotFoundError:
                return []
            with key:
                return list(_all(winreg.EnumKey, key))

        def values(self, path: str) -> dict[str, object] | None:
            try:
                key = winreg.OpenKey(self._HIVE, path, 0, self._READ)
            except FileNotFoundError:
                return None
            with key:
                return {name: value for name, value, _kind in _all(winreg.EnumValue, key)}

        def create(self, path: str) -> bool:
            is_new = self.values(path) is None
            winreg.CreateKeyEx(self._HIVE, path, 0, self._WRITE).Close()
            return is_new

        def set_text(self, path: str, name: str, text: str) -> None:
            with winreg.OpenKey(self._HIVE, path, 0, self._WRITE) as key:
                winreg.SetValueEx(key, name, 0, winreg.REG_SZ, text)

        def delete(self, path: str) -> None:
            winreg.DeleteKeyEx(self._HIVE, path, winreg.KEY_WOW64_64KEY, 0)


def open_registry(what_for: str, name: str = "") -> Store:
    """This machine's registry; :class:`hvrpc.UnsupportedError` where there is none."""
    if sys.platform == "win32":
        return WindowsRegistry()
    raise UnsupportedError(
        name,
        operation=what_for,
        problem="services are registered on the Windows host, and this is not one",
        remedy="run it there; a script for its administrator is made by hvrpc service export."
        " A guest registers nothing",
    )
