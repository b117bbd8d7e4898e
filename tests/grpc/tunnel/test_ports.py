"""A connection to a C-core server speaks for a peer, for as long as it is there and no longer."""

from __future__ import annotations

import socket

from hvrpc import Address, Peer
from hvrpc.grpc.tunnel import gates
from hvrpc.grpc.tunnel.ports import _Named
from hvrpc.sockets import Stream

NAME = "unix-abstract:vsock/3:1024"


class Context:
    def peer(self) -> str:
        return NAME


def named_after(peer: Peer) -> _Named:
    near, far = socket.socketpair()
    far.close()
    stream = Stream(near, address=Address.parse("unix:///pair"), family="unix", peer=peer)
    return _Named(stream, NAME, stream)


def test_one_that_is_ended_twice_takes_no_name_from_the_next() -> None:
    """A relay ends both sides of what it joins, and then cuts what may be left."""
    first, second = (Peer("vsock", cid=3, port=1024) for _ in range(2))
    ended = named_after(first)
    assert gates.peer_of(Context()) is first
    ended.close()
    assert gates.peer_of(Context()) is None
    following = named_after(second)
    ended.abort()
    assert gates.peer_of(Context()) is second
    following.abort()
    assert gates.peer_of(Context()) is None
