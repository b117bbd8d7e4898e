"""What a call of generated code raises, over either protocol: a `grpc.RpcError` that knows its outcome.

By itself, below both protocols, so that a program that speaks the one does not load the other. grpcio's
class has no methods for type checkers; whoever catches this one has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from .errors import Outcome


class RpcError(grpc.RpcError):
    """A call has no result. `outcome` says whether it may have run, `code()` how it ended.

    The hvrpc error that caused it, if one did, is its `__cause__`. The same class over gRPC and over
    msgpack-RPC, blocking and with asyncio, where the channel is one of hvrpc's.
    """

    outcome: Outcome
    """Whether the call may have been carried out."""

    def code(self) -> grpc.StatusCode:
        """How it ended."""
        raise NotImplementedError

    def details(self) -> str | None:
        """What is said about it."""
        raise NotImplementedError
