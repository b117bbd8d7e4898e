"""The client's side: one listener for all channels of this process.

The C core connects to it, says where it wants to (`preface`) and proves by a token that one of our
channels has sent it; then it is joined to a connection to the VM. A relay dials for each connection,
so what a channel does by itself (reconnecting, giving up idle connections, ageing) works as it does
with TCP. Whoever cannot be passed on gets a status number, which is all of it that the C core shows;
the reason is logged, and `last_error` has it. Who may not go there is told in words (`refusals`).
"""

from __future__ import annotations

import hmac
import os
import secrets
import threading
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ... import errors, sockets
from ...addresses import Address
from ...errors import AccessDenied, HvrpcError, TransportTimeout
from ...relay import Counters, Relay
from ...security import PLAIN, Security
from ...sockets import Stream
from .places import Place, place_here
from .preface import END, MAX_SIZE, BadPreface, Preface, answer, arguments, parse
from .refusals import refuse_calls
from .settings import Option

MAX_CONNECTIONS: Final = 10_000
"""Only this process gets in, and its own limits come first."""
PREFACE_TIMEOUT: Final = 10.0
"""Seconds for a request that the C core sends at once."""
LINGER: Final = 0.0
"""Nobody who speaks HTTP/2 closes one half of a connection and still listens on the other."""

AUTHORIZATION: Final = "Proxy-Authorization"
DESTINATION: Final = "Hvrpc-Destination"

STATUSES: Final[tuple[tuple[type[HvrpcError], HTTPStatus], ...]] = (
    # What a caller sees of a failure: the first row that fits.
    (errors.AddressError, HTTPStatus.BAD_REQUEST),
    (errors.UnsupportedError, HTTPStatus.NOT_IMPLEMENTED),
    (errors.ConnectTimeout, HTTPStatus.GATEWAY_TIMEOUT),
    (errors.ConnectRefused, HTTPStatus.SERVICE_UNAVAILABLE),
)


def status_of(error: HvrpcError) -> HTTPStatus:
    """The number that stands for a failure."""
    found = (status for kind, status in STATUSES if isinstance(error, kind))
    return next(found, HTTPStatus.BAD_GATEWAY)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a channel's connections lead, and how they are opened."""

    address: Address
    connect_timeout: float
    security: Security = PLAIN

    def connect(self) -> Stream:
        return sockets.connect(self.address, timeout=self.connect_timeout, security=self.security)


class Door:
    """The listener, who may come in by it, and what it leads to."""

    def __init__(self, place: Place) -> None:
        self._token = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        self._numbers: dict[Destination, str] = {}
        self._destinations: dict[str, Destination] = {}
        """Kept for as long as the process runs: a stub may outlive its channel, and connect again."""
        self.failures: dict[Address, HvrpcError] = {}
        """Why the last attempt to reach an address has failed, if it has."""
        listener = place.open_door()
        self.target: Final = place.target_of(listener)
        self._relay = Relay(
            listener, self._dial, name="tunnel", max_connections=MAX_CONNECTIONS, linger=LINGER
        ).start()

    @property
    def counters(self) -> Counters:
        return self._relay.counters

    def arguments_for(self, destination: Destination) -> list[Option]:
        """What makes a channel to `target` lead there."""
        with self._lock:
            number = self._numbers.setdefault(destination, str(len(self._numbers) + 1))
            self._destinations[number] = destination
        headers = {AUTHORIZATION: f"Bearer {self._token}", DESTINATION: number}
        return [*arguments(str(destination.address), headers)]

    def close(self) -> None:
        """Listen no more, and cut everything."""
        self._relay.close()

    def abandon(self) -> None:
        """After a fork, in the child: close what was inherited, and leave the parent's alone."""
        self._relay.abandon()

    # --- A connection of the C core's ----------------------------------------------------------

    def _dial(self, stream: Stream) -> Stream:
        try:
            destination = self._admit(stream)
        except AccessDenied:
            _refuse(stream, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
            raise
        try:
            there = destination.connect()
        except HvrpcError as error:
            self.failures[destination.address] = error
            if isinstance(error, AccessDenied):
                stream.sendall(answer(HTTPStatus.OK))
                refuse_calls(stream, error)
            else:
                _refuse(stream, status_of(error))
            raise
        self.failures.pop(destination.address, None)
        try:
            stream.timeout = None
            stream.sendall(answer(HTTPStatus.OK))
        except BaseException:
            there.abort()  # the C core has given up meanwhile
            raise
        return there

    def _admit(self, stream: Stream) -> Destination:
        """Where a connection shall lead. Raises AccessDenied for one that is not of ours."""
        try:
            preface = _read_preface(stream)
        except BadPreface as error:
            raise _stranger(stream, f"has not sent a request of grpcio's ({error})") from error
        given = preface.headers.get(AUTHORIZATION.lower(), "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise _stranger(stream, "does not know the token of this process")
        destination = self._destinations.get(preface.headers.get(DESTINATION.lower(), ""))
        if destination is None or str(destination.address) != preface.target:
            raise _stranger(stream, f"asks for {preface.target}, which no channel leads to")
        return destination


def _read_preface(stream: Stream) -> Preface:
    stream.timeout = PREFACE_TIMEOUT
    data = b""
    while END not in data:
        try:
            piece = stream.recv(MAX_SIZE)
        except TransportTimeout:
            raise BadPreface("it did not come in time") from None
        data += piece
        if not piece or len(data) > MAX_SIZE:
            raise BadPreface("it has no end")
    return parse(data)  # which raises when more follows: the C core waits for the answer


def _stranger(stream: Stream, problem: str) -> AccessDenied:
    return AccessDenied(
        str(stream.address),
        peer=str(stream.peer),
        problem=problem,
        remedy="make channels by hvrpc.grpc.tunnel, in the process that uses them",
    )


def _refuse(stream: Stream, status: HTTPStatus) -> None:
    try:
        stream.sendall(answer(status))
    except HvrpcError:
        pass  # it does not wait for an answer any more
    stream.close()  # so that the answer arrives


# --- The one of this process ----------------------------------------------------------------------

_doors: dict[str, Door] = {}
_making = threading.Lock()


def door_here() -> Door:
    """The door of this process. It is opened by the first channel, and stays."""
    place = place_here()
    with _making:
        if place.name not in _doors:
            _doors[place.name] = Door(place)
        return _doors[place.name]


def close_doors() -> None:
    """End all connections of channels of this process, and the listener. Further ones open anew."""
    with _making:
        left = list(_doors.values())
        _doors.clear()
    for each in left:
        each.close()


def _forget_doors() -> None:
    """In a child that was forked: no thread of the parent's is there, and the secret is the parent's."""
    global _making
    _making = threading.Lock()
    for each in _doors.values():
        each.abandon()
    _doors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_doors)
