"""Channels for clients: which one, for which protocol.

Imported when a client connects, so that a program that only serves, or speaks the one protocol, does not
load the other.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import grpc

from ..addresses import Address
from .descriptors import ServiceDescriptor

if TYPE_CHECKING:
    import tenacity

    from .clients import Options

SERVICE_CONFIG = "grpc.service_config"


def channel(
    descriptor: ServiceDescriptor,
    target: Address | str,
    protocol: str,
    credentials: grpc.ChannelCredentials | None,
    retry: tenacity.BaseRetrying | bool | None,
    options: Options,
) -> grpc.Channel:
    """A channel that blocks."""
    address = Address.parse(target)
    if _is_msgpack(protocol, credentials, options):
        from .channels import MsgpackChannel

        return MsgpackChannel(address, retry=retry)
    native: Any = importlib.import_module("hvrpc.grpc")
    settings = _options(descriptor, retry, options)
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
    retry: tenacity.BaseRetrying | bool | None,
    options: Options,
) -> grpc.aio.Channel:
    """A channel for asyncio."""
    address = Address.parse(target)
    if _is_msgpack(protocol, credentials, options):
        from .aio_channels import AioMsgpackChannel

        return AioMsgpackChannel(address, retry=retry)
    native: Any = importlib.import_module("hvrpc.grpc.aio")
    settings = _options(descriptor, retry, options)
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
        raise ValueError(
            "credentials= is gRPC's: over msgpack-RPC the server's allow= says who may call"
        )
    if options:
        raise ValueError("options= is gRPC's: over msgpack-RPC there are none")
    return True


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
