"""The server's side: a server of the C core listens on an endpoint of this machine, and callers from
VMs are joined to it, each by a socket whose name says who it is."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Any, Final

import grpc

from ...access import Access, Rule
from ...addresses import Address
from ...errors import ConnectRefused, UnsupportedError
from ...relay import Counters, Relay
from ...relay.relay import listening_on
from ...security import Security
from ...sockets import Options, Stream, causes
from ..credentials import ServerCredentials
from . import gates
from .door import LINGER
from .places import Place, place_here


class Port:
    """A port of a C-core server on a VM socket. Made by :func:`hvrpc.grpc.tunnel.add_port`.

    It ends with the server. Nothing has to be done with it.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    @property
    def address(self) -> Address:
        """Where it listens; port 0 has become the port that was chosen."""
        return self._relay.address

    @property
    def counters(self) -> Counters:
        """What has happened so far, for monitoring."""
        return self._relay.counters

    def close(self, grace: float = 0.0) -> None:
        """Listen no more, let connections end by themselves for `grace` seconds, and cut the rest."""
        self._relay.close(grace)

    def __repr__(self) -> str:
        return f"<Port {self.address}>"


def add_port(
    server: Any,
    address: Address | str,
    gate: type[gates.Gate | gates.AioGate],
    *,
    credentials: grpc.ServerCredentials | None,
    allow: Rule | Iterable[Rule] | None,
    options: Options,
    max_connections: int,
) -> Port:
    """What the functions of that name do, for both kinds of servers."""
    place = place_here()
    if place.needs_gate and not gates.has_gate(gate):
        raise UnsupportedError(
            str(address),
            operation="listen on",
            problem="the server's own end is a TCP port here, which any program can connect to",
            remedy="make the server with interceptors=[tunnel.gate()], which keeps them out",
        )
    security, inside = _understood(credentials, allow)
    listener, access = listening_on(address, security, options)
    try:
        local = place.add_port(server, inside or place.server_credentials())
    except BaseException:
        listener.close()
        raise
    relay = Relay(
        listener,
        lambda caller: _Named(*_dial(place, local, caller), caller),
        max_connections=max_connections,
        linger=LINGER,
        access=access,
        tls=security.tls,
    )
    _end_with(server, relay)
    relay.start()
    return Port(relay)


def _understood(
    credentials: grpc.ServerCredentials | None, allow: Rule | Iterable[Rule] | None
) -> tuple[Security, grpc.ServerCredentials | None]:
    """What we see to, and what the C core does: with ours we see to all of it."""
    rules = Access.of(allow)
    if not isinstance(credentials, ServerCredentials):
        return Security(rules), credentials
    security = credentials.security
    if rules is not None and security.peers is not None:
        raise TypeError("say who may call once: by allow=, or by the credentials")
    return Security(security.peers or rules, security.tls), None


def _dial(place: Place, local: Address, caller: Stream) -> tuple[Stream, str]:
    try:
        return place.dial(local, caller.peer)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise ConnectRefused(
            str(caller.address),
            operation=PASS_ON,
            cause="the gRPC server behind it does not listen any more",
            remedy="start a new one",
            errno=error.errno,
        ) from error
    except OSError as error:  # no more file descriptors, say
        raise causes.explain(
            error, operation=PASS_ON, address=caller.address, family=caller.family
        ) from error


PASS_ON: Final = "pass on a caller of"


class _Named:
    """A connection to the server, for as long as it speaks for a peer."""

    def __init__(self, stream: Stream, name: str, caller: Stream) -> None:
        gates.announce(name, caller.peer)
        self._stream = stream
        self._names = [name]
        """None, once it is given back: to end it twice must not take the name from the next one."""
        self.recv_into = stream.recv_into
        self.sendall = stream.sendall
        self.shutdown_write = stream.shutdown_write
        self.fileno = stream.fileno

    @property
    def address(self) -> Address:
        return self._stream.address

    @property
    def ended_by(self) -> OSError | None:
        return self._stream.ended_by

    def close(self) -> None:
        # In this order: once it is closed, somebody else can have the name.
        self._give_name_back()
        self._stream.close()

    def abort(self) -> None:
        self._give_name_back()
        self._stream.abort()

    def _give_name_back(self) -> None:
        try:
            gates.forget(self._names.pop())
        except IndexError:
            pass  # it was given back already


# --- The end --------------------------------------------------------------------------------------

_relays: weakref.WeakKeyDictionary[Any, list[Relay]] = weakref.WeakKeyDictionary()
_adding = threading.Lock()


def _end_with(server: Any, relay: Relay) -> None:
    """Listen for as long as the server does: until its `stop`, or until it is gone.

    The C core does not tell when a server stops. So its `stop` is wrapped, on this one object. The
    wrapper must not keep the server alive, since one that is dropped is stopped by that.
    """
    weakref.finalize(server, relay.stop_listening).atexit = False
    with _adding:
        relays = _relays.setdefault(server, [])
        relays.append(relay)
        if len(relays) > 1:
            return
    stop_of = type(server).stop
    this = weakref.ref(server)

    def stop(grace: float | None = None) -> Any:
        for each in relays:
            each.stop_listening()
        return stop_of(this(), grace)

    server.stop = stop
