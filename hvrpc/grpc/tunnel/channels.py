"""What a channel of the C core is made with so that it leads through the tunnel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from ...addresses import Address
from ...security import PLAIN
from ..credentials import security_in
from .door import Destination, door_here
from .settings import Option, channel_options, connect_seconds


@dataclass(frozen=True, slots=True)
class Parameters:
    """For code that insists on making its channel by itself: `grpc.secure_channel(target, …)`."""

    target: str
    credentials: grpc.ChannelCredentials | None
    """None: for `grpc.insecure_channel`."""
    options: tuple[Option, ...]
    """A tuple, because the functions of generated code that take a target want one."""


def parameters(
    target: Address | str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Iterable[Option] | None = None,
) -> Parameters:
    """What to make a C-core channel with, that leads to an address of ours.

    Good for this process only, and not for one that is forked from it. Raises
    :class:`hvrpc.AddressError` for an address that is wrong, and :class:`hvrpc.CredentialsError` for
    tokens that anybody could read on the way.
    """
    address = Address.parse(target)
    wanted = channel_options(address, options)
    way = door_here()
    security = PLAIN if credentials is None else security_in(credentials, address)
    way_there = way.arguments_for(Destination(address, connect_seconds(wanted), security))
    return Parameters(way.target, credentials, (*way_there, *wanted))
