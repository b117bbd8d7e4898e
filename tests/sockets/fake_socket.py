"""A `socket` module that opens nothing and writes down what it was asked for.

For families that this machine does not have, or must not use: what they would tell the system can
be checked everywhere.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Call = tuple[Any, ...]


class FakeSocket:
    """One socket. `calls` has every method that was called, with its arguments, in order."""

    def __init__(self, module: FakeModule, *arguments: object) -> None:
        self._module = module
        self.arguments = arguments
        self.calls: list[Call] = []
        self.closed = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*arguments: object) -> Any:
            self.calls.append((name, *arguments))
            answer = self._module.answers.get(name)
            return answer(*arguments) if answer is not None else None

        return method

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

    def socket(self, *arguments: object) -> FakeSocket:
        self.sockets.append(FakeSocket(self, *arguments))
        return self.sockets[-1]


def raising(*errors: OSError) -> Callable[..., None]:
    """A method that raises these errors, one at each call, and succeeds afterwards."""
    left = list(errors)

    def method(*_: object) -> None:
        if left:
            raise left.pop(0)

    return method
