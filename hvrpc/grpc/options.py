"""The options of channels and servers: grpcio's names and units -> ours.

`options=` is a list of pairs, as grpcio takes them; the first of equal names wins. What we do not
implement is logged once by its name, so that nobody relies on it in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import grpc

from .messages import MOST_RECEIVED, RECEIVE_OPTION, SEND_OPTION, UNLIMITED

logger = logging.getLogger("hvrpc.grpc")

KEEPALIVE_TIMEOUT: Final = 20.0
"""Seconds that a sign of life may take, when only the time before it is asked for was said."""
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

    @property
    def dead_after(self) -> float | None:
        """Seconds of silence after which the other side is given up; None: not said."""
        if self.keepalive_time is None:
            return None
        timeout = self.keepalive_timeout
        return self.keepalive_time + (KEEPALIVE_TIMEOUT if timeout is None else timeout)

    @classmethod
    def of(cls, options: Iterable[Any] | None) -> Self:
        """Read grpcio's pairs.

        Raises what grpcio raises: TypeError for names that are no text and values of a kind that no
        option has, ValueError for what is no pair, OverflowError for numbers that no int of C holds.
        """
        found: dict[str, Any] = {}
        for name, value in _pairs(options):
            row = _FIELDS[cls].get(name)
            if row is None:
                _tell_ignored(name, value)
            elif row.field not in found:
                try:
                    found[row.field] = row.read(value)
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


class Row(NamedTuple):
    """An option of grpcio's that we have, too."""

    field: str
    read: _Reader
    meaning: str
    """For the documentation."""


COMMON: Final[Mapping[str, Row]] = {
    RECEIVE_OPTION: Row(
        "most_received", _limit, "bytes of a message that is received, 4 MiB if not said; -1: any"
    ),
    SEND_OPTION: Row("most_sent", _limit, "bytes of a message that is sent; any if not said"),
    "grpc.max_metadata_size": Row("most_metadata", _count, "bytes of metadata that are received"),
    "grpc.absolute_max_metadata_size": Row("most_metadata", _count, "the same"),
    "grpc.default_compression_algorithm": Row(
        "compression",
        _compression,
        "a number of `grpc.Compression`; the argument is easier to read",
    ),
    "grpc.keepalive_time_ms": Row(
        "keepalive_time",
        _time,
        "after this much silence the other side is asked for a sign of life. Channels do that anyway "
        "while calls wait for answers; servers do it only if this is said",
    ),
    "grpc.keepalive_timeout_ms": Row(
        "keepalive_timeout", _time, "how long the sign of life may take, 20 s if not said"
    ),
    "grpc.http2.ping_timeout_ms": Row("keepalive_timeout", _time, "the same"),
    "grpc.keepalive_permit_without_calls": Row(
        "keepalive_when_idle", _flag, "whether a channel asks while it has no calls, too"
    ),
}

CHANNEL: Final[Mapping[str, Row]] = {
    "grpc.default_authority": Row(
        "authority", _text, "what stands in `:authority`; `localhost` if not said"
    ),
    "grpc.primary_user_agent": Row("user_agent", _text, "what stands before our `user-agent`"),
    "grpc.secondary_user_agent": Row("user_agent_after", _text, "what stands after it"),
    "grpc.service_config": Row(
        "service_config",
        _text,
        "JSON: timeouts, limits, `waitForReady` and retries of methods, and throttling of retries",
    ),
    "grpc.enable_retries": Row("retries", _flag, "0: no retries, whatever the config says"),
    "grpc.client_idle_timeout_ms": Row(
        "idle_timeout", _time, "a connection without calls is closed after it, 30 min if not said"
    ),
    "grpc.initial_reconnect_backoff_ms": Row(
        "first_backoff", _time, "the first wait between attempts to connect"
    ),
    "grpc.max_reconnect_backoff_ms": Row("most_backoff", _time, "the longest one"),
    "grpc.min_reconnect_backoff_ms": Row(
        "connect_timeout", _time, "how long one attempt may take, as in grpcio despite its name"
    ),
    "grpc.ssl_target_name_override": Row(
        "target_name", _text, "the name that the server's certificate has to have"
    ),
}

SERVER: Final[Mapping[str, Row]] = {
    "grpc.max_concurrent_streams": Row(
        "most_streams", _count, "calls at a time on one connection; others wait at their caller"
    ),
    "grpc.max_connection_idle_ms": Row(
        "connection_idle", _time, "a connection without calls is ended after it"
    ),
    "grpc.max_connection_age_ms": Row(
        "connection_age", _time, "every connection is ended after it, more or less"
    ),
    "grpc.max_connection_age_grace_ms": Row(
        "connection_age_grace", _time, "how long its calls may still take then"
    ),
}

_FIELDS: Final[Mapping[type[Options], Mapping[str, Row]]] = {
    ChannelOptions: {**COMMON, **CHANNEL},
    ServerOptions: {**COMMON, **SERVER},
}


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _at_most(most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and value <= most


_USUAL_PING_INTERVAL: Final = 300_000
"""grpcio's. Who asks for less wants servers to be patient, and ours are."""

FULFILLED: Final[Mapping[str, Callable[[Any], bool]]] = {
    # There is no network between us, and no resolver or proxy on the way.
    "grpc.enable_http_proxy": _one_of(0),
    "grpc.so_reuseport": _one_of(0),
    "grpc.use_local_subchannel_pool": _one_of(1),
    "grpc.lb_policy_name": _one_of("pick_first"),
    # Pings of ours are not counted: our windows grow without them, our servers take any number.
    "grpc.http2.max_pings_without_data": _one_of(0),
    "grpc.http2.bdp_probe": _one_of(0, 1),
    "grpc.http2.max_ping_strikes": _one_of(0),
    "grpc.http2.min_ping_interval_without_data_ms": _at_most(_USUAL_PING_INTERVAL),
    "grpc.http2.min_recv_ping_interval_without_data_ms": _at_most(_USUAL_PING_INTERVAL),
    # No call has a thread of its own.
    "SingleThreadedUnaryStream": _one_of(0, 1),
}
"""What need not be done, because it is so anyway."""

_told: set[str] = set()


def _tell_ignored(name: str, value: Any) -> None:
    is_so = FULFILLED.get(name)
    if is_so is None or not is_so(value):
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
