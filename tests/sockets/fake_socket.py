"""A `socket` module that opens nothing and writes down what it was asked for.

For families that this machine does not have, or must not use: what they would tell the system can
be checked everywhere. It refuses what CPython refuses.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Call = tuple[Any, ...]

AF_VSOCK = 40
FIRST_DESCRIPTOR = 1000


class FakeSocket:
    """One socket. `calls` has every method that was called, with its arguments, in order.

    A second one on the same descriptor writes to the list of the first.
    """

    def __init__(
        self, module: FakeModule, arguments: tuple[object, ...], descriptor: int, calls: list[Call]
    ) -> None:
        self._module = module
        self.arguments = arguments
        self.family = arguments[0] if arguments else None
        self.calls = calls
        self.closed = False
        self._descriptor = descriptor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*arguments: object) -> Any:
            return self._called(name, *arguments)

        return method

    def _called(self, name: str, *arguments: object) -> Any:
        self.calls.append((name, *arguments))
        answer = self._module.answers.get(name)
        return answer(*arguments) if answer is not None else None

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        if self.family == AF_VSOCK and not isinstance(value, int):
            raise TypeError("an AF_VSOCK socket takes options as numbers only")
        self._called("setsockopt", level, option, value)

    def fileno(self) -> int:
        return self._descriptor

    def detach(self) -> int:
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def close(self) -> None:
        self.closed = True

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def options(self) -> dict[tuple[int, int], Any]:
        """The options that were set: level and number, and the value."""
        return {(call[1], call[2]): call[3] for call in self.calls if call[0] == "setsockopt"}


class FakeModule(SimpleNamespace):
    """Put it in the place of a module's `socket`. `answers` says what methods return or raise."""

    SOCK_STREAM = socket.SOCK_STREAM

    def __init__(self, **answers: Callable[..., Any]) -> None:
        super().__init__()
        self.answers = answers
        self.sockets: list[FakeSocket] = []
        self.aliases: list[FakeSocket] = []
        """Further ones on a descriptor. One that is not detached would close it."""

    def socket(self, *arguments: object, fileno: int | None = None) -> FakeSocket:
        if fileno is not None:
            (first,) = (sock for sock in self.sockets if sock.fileno() == fileno)
            self.aliases.append(FakeSocket(self, arguments, fileno, first.calls))
            return self.aliases[-1]
        descriptor = FIRST_DESCRIPTOR + len(self.sockets)
        self.sockets.append(FakeSocket(self, arguments, descriptor, []))
        return self.sockets[-1]


def raising(*errors: OSError) -> Callable[..., None]:
    """A method that raises these errors, one at each call, and succeeds afterwards."""
    left = list(errors)

    def method(*_: object) -> None:
        if left:
            raise left.pop(0)

    return method
