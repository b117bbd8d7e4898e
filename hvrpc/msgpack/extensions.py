"""Extension types: classes of the user's that travel as msgpack ext values.

Both ends register the same codes. The registry's two methods are the hooks of msgpack's Packer
(``default``) and Unpacker (``ext_hook``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from hvrpc.msgpack import writers
from hvrpc.msgpack.values import BadValue

# The msgpack specification leaves these to applications; negative codes are its own.
CODES = range(128)


class Extensions:
    """Extension types by class and by code. Fill it before the connection is made."""

    def __init__(self) -> None:
        self._packers: dict[type, tuple[int, Callable[[Any], bytes]]] = {}
        self._unpackers: dict[int, tuple[type, Callable[[bytes], Any]]] = {}

    def register(
        self,
        code: int,
        cls: type,
        pack: Callable[[Any], bytes],
        unpack: Callable[[bytes], Any],
    ) -> None:
        """Let values of ``cls``, and of its subclasses, travel under ``code`` (0 to 127).

        Both ends have to register the same. Raises ValueError for a code that is taken or out of
        range, TypeError for a class that msgpack packs by itself.
        """
        self._check(code, cls)
        self._packers[cls] = code, pack
        self._unpackers[code] = cls, unpack

    def _check(self, code: int, cls: type) -> None:
        name = cls.__qualname__
        if isinstance(code, bool) or not isinstance(code, int) or code not in CODES:
            raise ValueError(
                f"extension code {code!r} for {name}: expected an int from 0 to 127 "
                f"(negative codes belong to msgpack itself)"
            )
        if code in self._unpackers:
            raise ValueError(
                f"extension code {code} for {name}: it stands for "
                f"{self._unpackers[code][0].__qualname__} already; choose another"
            )
        if cls in self._packers:
            raise ValueError(
                f"{name} has the extension code {self._packers[cls][0]} already; "
                f"a class travels in one way"
            )
        if issubclass(cls, writers.NATIVE):
            raise TypeError(
                f"{name} is packed by msgpack itself, as a "
                f"{next(base for base in cls.__mro__ if base in writers.NATIVE).__name__}; "
                f"an extension type would never be asked"
            )

    def __contains__(self, cls: object) -> bool:
        return cls in self._packers

    def __iter__(self) -> Iterator[type]:
        return iter(self._packers)

    def default(self, value: Any) -> Any:
        """The Packer's hook: registered classes first, then what hvrpc knows by itself."""
        found = self._packers.get(type(value)) or self._inherited(type(value))
        if found is None:
            return writers.default(value)
        code, pack = found
        data = pack(value)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(
                f"the pack function of {type(value).__qualname__} (extension code {code}) "
                f"must return bytes, not {type(data).__name__}"
            )
        return msgpack.ExtType(code, bytes(data))

    def _inherited(self, cls: type) -> tuple[int, Callable[[Any], bytes]] | None:
        return next((self._packers[base] for base in cls.__mro__ if base in self._packers), None)

    def ext_hook(self, code: int, data: bytes) -> Any:
        """The Unpacker's hook. A code nobody registered gives a plain ``msgpack.ExtType``."""
        if code not in self._unpackers:
            return msgpack.ExtType(code, bytes(data))
        cls, unpack = self._unpackers[code]
        try:
            return unpack(data)
        except Exception as error:
            raise BadValue(
                f"{cls.__qualname__} (extension code {code})",
                f"{len(data)} bytes that its unpack function refuses",
                (f"{type(error).__name__}: {error}",),
            ) from error
