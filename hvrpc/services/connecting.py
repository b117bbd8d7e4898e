"""Channels for clients: which one, for which protocol.

Imported when a client connects, so that a program that only serves, or speaks the one protocol, does not
load the other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from ..addresses import Address
from .descriptors import ServiceDescriptor

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    import tenacity

    from ..access import Access, Rule
    from ..tls import Tls
    from .clients import Options

SERVICE_CONFIG = "grpc.service_config"


class PeerSecurity(NamedTuple):
    """What is asked of the other side, for either protocol."""

    expect_peer: Access | Rule | Iterable[Rule] | None = None
    tls: Tls | ssl.SSLContext | None = None


def channel(
    descriptor: ServiceDescriptor,
    target: Address | str,
    protocol: str,
    credentials: grpc.ChannelCredentials | None,
    security: PeerSecurity,
    retry: tenacity.BaseRetrying | bool | None,
    options: Options,
) -> grpc.Channel:
    """A channel that blocks."""
    address = Address.parse(target)
    if _is_msgpack(protocol, credentials, options):
        from .channels import MsgpackChannel

        return MsgpackChannel(address, retry=retry, **security._asdict())
    from .. import grpc as native

    settings = _options(descriptor, retry, options)
    credentials = _credentials(credentials, security)
    if credentials is None:
        made: grpc.Channel = native.insecure_channel(str(address), options=settings)
    else:
        made = native.secure_channel(str(address), credentials, options=settings)
    return made


def aio_channel(
    descriptor: ServiceDescriptor,
    target: Address | str,
    protocol: str,
    credentials: grpc.ChannelCredentials | None,
    security: PeerSecurity,
    retry: tenacity.BaseRetrying | bool | None,
    options: Options,
) -> grpc.aio.Channel:
    """A channel for asyncio."""
    address = Address.parse(target)
    if _is_msgpack(protocol, credentials, options):
        from .aio_channels import AioMsgpackChannel

        return AioMsgpackChannel(address, retry=retry, **security._asdict())
    from ..grpc import aio as native

    settings = _options(descriptor, retry, options)
    credentials = _credentials(credentials, security)
    if credentials is None:
        made: grpc.aio.Channel = native.insecure_channel(str(address), options=settings)
    else:
        made = native.secure_channel(str(address), credentials, options=settings)
    return made


def _is_msgpack(
    protocol: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> bool:
    if protocol == "grpc":
        return False
    if protocol != "msgpack":
        raise ValueError(f'protocol= is "grpc" or "msgpack", not {protocol!r}')
    if credentials is not None:
        raise ValueError("credentials= is gRPC's: over msgpack-RPC give expect_peer= and tls=")
    if options:
        raise ValueError("options= is gRPC's: over msgpack-RPC there are none")
    return True


def _credentials(
    given: grpc.ChannelCredentials | None, security: PeerSecurity
) -> grpc.ChannelCredentials | None:
    if security == PeerSecurity():
        return given
    if given is not None:
        raise ValueError(
            "credentials= say it all: give expect_peer= and tls= to hvrpc.grpc.channel_credentials"
        )
    from ..grpc import channel_credentials

    return channel_credentials(**security._asdict())


def _options(
    descriptor: ServiceDescriptor,
    retry: tenacity.BaseRetrying | bool | None,
    options: Options,
) -> list[tuple[str, Any]]:
    """The options of a gRPC channel, with what the `.proto` says of repeating."""
    given = list(options)
    if retry not in (None, True, False):
        raise ValueError(
            "retry= takes a tenacity policy over msgpack-RPC only: over gRPC it is True or False,"
            f" and more is said by a retryPolicy in options=[({SERVICE_CONFIG!r}, …)]"
        )
    if retry is False:
        return [*given, ("grpc.enable_retries", 0)]
    if any(name == SERVICE_CONFIG for name, _ in given):
        return given
    config = service_config(descriptor)
    return [*given, (SERVICE_CONFIG, config)] if config else given


ATTEMPTS = 4
"""Of a call that may be repeated, in all."""


def service_config(descriptor: ServiceDescriptor) -> str:
    """gRPC's service config: repeat what the `.proto` calls idempotent. Empty if there is nothing.

    What has certainly not been carried out is repeated anyway.
    """
    names = [
        {"service": descriptor.name, "method": method.name}
        for method in descriptor
        if method.is_idempotent
    ]
    if not names:
        return ""
    policy = {
        "maxAttempts": ATTEMPTS,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})
