"""The options of channels and servers: grpcio's names and units -> ours.

`options=` is a list of pairs, as grpcio takes them; the first of equal names wins. What we do not
implement is logged once by its name, so that nobody relies on it in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc

from .messages import MOST_RECEIVED, UNLIMITED

logger = logging.getLogger("hvrpc.grpc")

_MOST_INT: Final = 2**31 - 1
"""C's largest int: "never" among times, "no limit" among numbers."""


# --- Values -------------------------------------------------------------------------------------

_Reader = Callable[[Any], Any]
"""Makes of a value what we keep; ValueError says what it should have been."""


def _number(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    raise ValueError("a number")


def _flag(value: Any) -> bool:
    return _number(value) != 0


def _limit(value: Any) -> int:
    """A size; -1 is none."""
    number = _number(value)
    return UNLIMITED if number < 0 else number


def _count(value: Any) -> int | None:
    number = _number(value)
    return None if number < 0 or number == _MOST_INT else number


def _time(value: Any) -> float | None:
    """Milliseconds -> seconds; None is never."""
    number = _number(value)
    if number == _MOST_INT:
        return None
    if number < 0:
        raise ValueError("a number of milliseconds")
    return number / 1000


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    raise ValueError("text")


def _compression(value: Any) -> grpc.Compression:
    try:
        return grpc.Compression(_number(value))
    except ValueError:
        raise ValueError("one of grpc.Compression") from None


# --- What both have -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    """What channels and servers have in common. Times are seconds; None: not said, or never."""

    most_received: int = MOST_RECEIVED
    most_sent: int = UNLIMITED
    most_metadata: int | None = None
    """Bytes of metadata of one message, as SETTINGS_MAX_HEADER_LIST_SIZE counts."""
    compression: grpc.Compression = grpc.Compression.NoCompression
    keepalive_time: float | None = None
    """Seconds of silence after which the other side is asked for a sign of life."""
    keepalive_timeout: float | None = None
    """Seconds without one after which it is given up."""
    keepalive_when_idle: bool = False
    """Whether it is asked while no calls are under way, too."""

    @classmethod
    def of(cls, options: Iterable[Any] | None) -> Self:
        """Read grpcio's pairs.

        Raises what grpcio raises: TypeError for names that are no text and values of a kind that no
        option has, ValueError for what is no pair, OverflowError for numbers that no int of C holds.
        """
        found: dict[str, Any] = {}
        for name, value in _pairs(options):
            field = _FIELDS[cls].get(name)
            if field is None:
                _tell_ignored(name, value)
            elif field[0] not in found:
                try:
                    found[field[0]] = field[1](value)
                except ValueError as error:
                    _tell(name, f"the option {name!r} is ignored: it is {error}, not {value!r}")
        return cls(**found)


@dataclass(frozen=True, slots=True)
class ChannelOptions(Options):
    """The options of a channel."""

    authority: str | None = None
    user_agent: str = ""
    """What stands before our own name."""
    user_agent_after: str = ""
    service_config: str | None = None
    retries: bool = True
    idle_timeout: float | None = None
    """Seconds without a call after which the connection is let go. Unlike grpcio's, ours stays unless
    somebody asks for that: there is no network whose routers would forget it."""
    first_backoff: float | None = None
    """Seconds between the first two attempts to connect."""
    most_backoff: float | None = None
    connect_timeout: float | None = None
    """What grpcio calls the least backoff is in fact the time that one attempt may take."""
    target_name: str | None = None
    """The name that the server's certificate shall have."""


@dataclass(frozen=True, slots=True)
class ServerOptions(Options):
    """The options of a server."""

    most_streams: int | None = None
    """Calls at a time on one connection."""
    connection_idle: float | None = None
    connection_age: float | None = None
    connection_age_grace: float | None = None
    least_ping_interval: float | None = None
    """Seconds between pings of a client that carries nothing else; None: as often as it likes."""
    ping_strikes: int | None = None
    """Pings that come too soon before the connection is ended; 0: as many as it likes."""


_COMMON: Final[Mapping[str, tuple[str, _Reader]]] = {
    "grpc.max_receive_message_length": ("most_received", _limit),
    "grpc.max_send_message_length": ("most_sent", _limit),
    "grpc.max_metadata_size": ("most_metadata", _count),
    "grpc.absolute_max_metadata_size": ("most_metadata", _count),
    "grpc.default_compression_algorithm": ("compression", _compression),
    "grpc.keepalive_time_ms": ("keepalive_time", _time),
    "grpc.keepalive_timeout_ms": ("keepalive_timeout", _time),
    "grpc.http2.ping_timeout_ms": ("keepalive_timeout", _time),
    "grpc.keepalive_permit_without_calls": ("keepalive_when_idle", _flag),
}

_FIELDS: Final[Mapping[type[Options], Mapping[str, tuple[str, _Reader]]]] = {
    ChannelOptions: {
        **_COMMON,
        "grpc.default_authority": ("authority", _text),
        "grpc.primary_user_agent": ("user_agent", _text),
        "grpc.secondary_user_agent": ("user_agent_after", _text),
        "grpc.service_config": ("service_config", _text),
        "grpc.enable_retries": ("retries", _flag),
        "grpc.client_idle_timeout_ms": ("idle_timeout", _time),
        "grpc.initial_reconnect_backoff_ms": ("first_backoff", _time),
        "grpc.max_reconnect_backoff_ms": ("most_backoff", _time),
        "grpc.min_reconnect_backoff_ms": ("connect_timeout", _time),
        "grpc.ssl_target_name_override": ("target_name", _text),
    },
    ServerOptions: {
        **_COMMON,
        "grpc.max_concurrent_streams": ("most_streams", _count),
        "grpc.max_connection_idle_ms": ("connection_idle", _time),
        "grpc.max_connection_age_ms": ("connection_age", _time),
        "grpc.max_connection_age_grace_ms": ("connection_age_grace", _time),
        "grpc.http2.min_ping_interval_without_data_ms": ("least_ping_interval", _time),
        "grpc.http2.min_recv_ping_interval_without_data_ms": ("least_ping_interval", _time),
        "grpc.http2.max_ping_strikes": ("ping_strikes", _count),
    },
}

_FULFILLED: Final[Mapping[str, tuple[Any, ...]]] = {
    # There is no network between us, and no resolver or proxy on the way.
    "grpc.enable_http_proxy": (0, False),
    "grpc.so_reuseport": (0, False),
    "grpc.use_local_subchannel_pool": (1, True),
    "grpc.lb_policy_name": ("pick_first",),
    # Pings of ours are not counted: our windows grow without them, our servers take any number.
    "grpc.http2.max_pings_without_data": (0,),
    "grpc.http2.bdp_probe": (0, 1, False, True),
    # No call has a thread of its own.
    "SingleThreadedUnaryStream": (0, 1, False, True),
}
"""What need not be done, because it is so anyway."""

_told: set[str] = set()


def _tell_ignored(name: str, value: Any) -> None:
    if value not in _FULFILLED.get(name, ()):
        _tell(name, f"the option {name!r} is not implemented, and ignored")


def _tell(name: str, text: str) -> None:
    if name not in _told:
        _told.add(name)
        logger.warning("%s", text)


def _pairs(options: Iterable[Any] | None) -> Iterable[tuple[str, Any]]:
    """The pairs, of the types that grpcio takes."""
    for name, value in options or ():
        if isinstance(name, bytes):
            name = name.decode("utf-8", "replace")
        elif not isinstance(name, str):
            raise TypeError(f"Expected str, not {type(name)}")
        if isinstance(value, int):
            if not -_MOST_INT - 1 <= value <= _MOST_INT:
                raise OverflowError(f"{name}: value too large to convert to int: {value}")
        elif not isinstance(value, (str, bytes)) and not hasattr(value, "__int__"):
            raise TypeError(f"Expected int, bytes, or behavior, got {type(value)}")
        yield name, value
