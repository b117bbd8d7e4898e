"""A server made of txmsgpackrpc, on Twisted."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import sys
from typing import Any

from twisted.internet import defer, reactor  # type: ignore[import-not-found]
from txmsgpackrpc.server import MsgpackRPCServer  # type: ignore[import-not-found]


class Peer(MsgpackRPCServer):  # type: ignore[misc]
    def __init__(self) -> None:
        self._noted: list[Any] = []

    def remote_echo(self, x: Any) -> Any:
        return x

    def remote_add(self, a: int, b: int) -> int:
        return a + b

    def remote_fail(self, text: str) -> None:
        raise RuntimeError(text)

    def remote_slow(self, seconds: float, x: Any) -> Any:
        later = defer.Deferred()
        reactor.callLater(seconds, later.callback, x)
        return later

    def remote_note(self, x: Any) -> None:
        self._noted.append(x)

    def remote_notes(self) -> list[Any]:
        return self._noted


reactor.listenUNIX(sys.argv[1], Peer().getStreamFactory())
reactor.run()
