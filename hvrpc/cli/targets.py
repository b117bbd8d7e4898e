"""Who is called: the address and the options that all commands share which call somebody."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, TypeVar

import click

from ..access import Access
from ..addresses import Address
from ..errors import ConnectionLost, OpenFailed, Outcome, ProtocolError
from ..sockets import MAX_TIMEOUT
from ..tls import Tls
from .errors import missing
from .latencies import short

Function = TypeVar("Function", bound=Callable[..., Any])

logger = logging.getLogger("hvrpc.cli")

TIMEOUT: Final = 10.0
"""Seconds for everything, unless told otherwise: somebody waits at the keyboard."""


class AddressType(click.ParamType[Address]):
    """An address, read before anything is done. Its errors are those of `AddressError`."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        return Address.parse(value)


ADDRESS: Final = AddressType()


class Seconds(click.FloatRange):
    """A time: a number, and one that can be waited for. Neither NaN nor infinity is."""

    def __init__(
        self, *, least: float = 0, most: float = int(MAX_TIMEOUT), above_zero: bool = False
    ) -> None:
        super().__init__(min=least, max=most, min_open=above_zero)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):  # which is not below, nor above anything
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class RuleType(click.ParamType[str]):
    """An access rule, checked before anything is done."""

    name = "rule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            Access(value)
        except (TypeError, ValueError) as error:
            self.fail(str(error), param, ctx)
        return str(value)


@dataclass(frozen=True)
class Target:
    """Somebody to call, and how."""

    address: Address
    msgpack: bool = False
    timeout: float | None = TIMEOUT
    wait: bool = False
    """Whether to wait for one that is not there yet."""
    protos: tuple[str, ...] = ()
    """Files that say what it serves, for servers that do not."""
    include: tuple[str, ...] = ()
    foreign: bool = False
    """Whether it must not be asked what only hvrpc knows."""
    expect_peer: tuple[str, ...] = ()
    """Rules for who has to be at the other end."""
    tls: Tls | None = None

    @property
    def is_secured(self) -> bool:
        """Whether more is asked of the other side than to be there."""
        return bool(self.expect_peer) or self.tls is not None

    def tell_connected(self, protocol: str, peer: object, seconds: float) -> None:
        """For those who want to know what happens (--verbose)."""
        how = f"{protocol} over TLS" if self.tls is not None else protocol
        who = "" if peer is None else f" with {peer}"
        logger.info("connected to %s in %s: %s%s", self.address, short(seconds), how, who)

    @property
    def protocol(self) -> ModuleType:
        """The module that speaks its protocol; both have the same functions."""
        if self.msgpack:
            from . import over_msgpack

            return over_msgpack
        try:
            from . import over_grpc
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in ("grpc", "google"):
                raise
            raise missing("grpcio", "grpc") from error
        return over_grpc


@dataclass(frozen=True)
class Asked:
    """What is asked of the other side before a word is said to it."""

    expect_peer: tuple[str, ...] = ()
    """Rules for who has to be there."""
    tls: Tls | None = None


def server_options(function: Function) -> Function:
    """Give a command the options that say what a server has to be; it gets the parameter `asked`."""

    @click.option(
        "--expect-peer",
        type=RuleType(),
        multiple=True,
        help="Who has to be at the other end: a VM's name or id, parent, cid:3, uid:1000.",
    )
    @tls_options("Encrypt, and believe a server whose certificate this CA has signed.")
    @click.option(
        "--tls-name",
        multiple=True,
        metavar="NAME",
        help="What the server's certificate has to say, if not the name of its VM.",
    )
    @functools.wraps(function)
    def command(
        *args: Any,
        expect_peer: tuple[str, ...],
        tls_name: tuple[str, ...],
        tls_ca: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        **others: Any,
    ) -> Any:
        asked = Asked(expect_peer, tls_of(tls_ca, tls_cert, tls_key, tls_name))
        return function(*args, asked=asked, **others)

    return command  # type: ignore[return-value]


def target_options(function: Function) -> Function:
    """Give a command ADDRESS and the options of a call; it gets the parameter `target`."""

    @click.argument("address", type=ADDRESS)
    @click.option("--msgpack", is_flag=True, help="It speaks msgpack-RPC, not gRPC.")
    @click.option(
        "--foreign",
        is_flag=True,
        help="With --msgpack: it is not hvrpc's, and does not answer what it does not know.",
    )
    @timeout_option
    @click.option("--wait", is_flag=True, help="Wait for a service that is not there yet.")
    @server_options
    @functools.wraps(function)
    def command(
        *args: Any,
        address: Address,
        msgpack: bool,
        foreign: bool,
        timeout: float,
        wait: bool,
        protos: tuple[str, ...] = (),
        include: tuple[str, ...] = (),
        asked: Asked,
        **others: Any,
    ) -> Any:
        target = Target(
            address,
            msgpack,
            timeout or None,
            wait,
            tuple(_found(each, include) for each in protos),
            include,
            foreign,
            asked.expect_peer,
            asked.tls,
        )
        return function(*args, target=target, **others)

    return command  # type: ignore[return-value]


def tls_options(authority: str) -> Callable[[Function], Function]:
    """Options that name the files of TLS; `authority` says what a CA is good for on this side."""
    file = click.Path(exists=True, dir_okay=False)

    def add(function: Function) -> Function:
        for name, meaning in (
            ("--tls-key", "Its private key, if that is a file of its own."),
            ("--tls-cert", "The certificate of this side."),
            ("--tls-ca", authority),
        ):
            function = click.option(name, type=file, help=meaning)(function)
        return function

    return add


def tls_of(
    ca: str | None, certificate: str | None, key: str | None, names: tuple[str, ...] = ()
) -> Tls | None:
    """What the options come to; None when TLS was not asked for."""
    if not (ca or certificate):
        if key or names:
            raise click.UsageError("--tls-key and --tls-name need --tls-ca or --tls-cert")
        return None
    return Tls(ca=ca, certificate=certificate, key=key, names=names)


def proto_options(function: Function) -> Function:
    """Options of a command that has to know what the other side serves. Below `target_options`."""
    for option in (
        click.option(
            "-I",
            "--proto-path",
            "include",
            multiple=True,
            type=click.Path(exists=True, file_okay=False),
            help="A folder that imports of .proto files start from, as of protoc and hvrpc codegen.",
        ),
        click.option(
            "--proto",
            "protos",
            multiple=True,
            type=click.Path(dir_okay=False),
            help="A .proto file, or a descriptor set, of a server without reflection.",
        ),
    ):
        function = option(function)
    return function


def _found(file: str, include: tuple[str, ...]) -> str:
    """Where a file of --proto is: as it is written or, as imports are, below a folder of -I."""
    for path in (file, *(os.path.join(folder, file) for folder in include)):
        if os.path.isfile(path):
            return path
    below = f", nor below {' or '.join(include)}" if include else ""
    raise click.UsageError(f"--proto: there is no file {file}{below}")


def speaks_otherwise(error: BaseException | None) -> bool:
    """Whether a connection has ended before one word was understood, as with another protocol."""
    if isinstance(error, OpenFailed) and error.attempts:
        error = error.attempts[-1].error
    if isinstance(error, ProtocolError):
        return True
    return isinstance(error, ConnectionLost) and error.outcome is Outcome.NOT_SENT


def timeout_option(function: Function) -> Function:
    return click.option(
        "-t",
        "--timeout",
        type=Seconds(),
        default=TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="For connecting and for the call; 0: no limit.",
    )(function)
