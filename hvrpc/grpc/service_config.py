"""The service config: timeouts, limits and retries of methods, as JSON in `grpc.service_config`.

What it may say is gRPC's `service_config.proto`; how retries go is gRFC A6. An invalid one does not
fail where the channel is made: as with grpcio, every call on that channel does.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc

from .messages import UNLIMITED
from .status import StatusError

MOST_ATTEMPTS: Final = 5
"""Where `maxAttempts` ends, whatever is asked for (gRFC A6)."""
JITTER: Final = 0.2
"""By how much a wait differs from what was computed, so that clients do not come back in step."""
_LONGEST: Final = 315_576_000_000
"""The longest duration of protobuf, ten thousand years in seconds."""

PUSHBACK: Final = "grpc-retry-pushback-ms"
"""Trailing metadata by which a server says when to come back, or not to."""


# --- What it says -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a call that failed is made again."""

    attempts: int
    """In all, with the first."""
    first_wait: float
    longest_wait: float
    multiplier: float
    codes: frozenset[grpc.StatusCode]

    def wait(self, attempt: int, chance: float) -> float:
        """Seconds to wait after the n-th attempt (from 1 on); `chance`: from 0 to 1."""
        # The exponent has an end before the float has one.
        grown = self.first_wait * self.multiplier ** min(attempt - 1, MOST_ATTEMPTS)
        return min(grown, self.longest_wait) * (1 + JITTER * (2 * chance - 1))


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """What holds for a method. None: nothing was said."""

    timeout: float | None = None
    wait_for_ready: bool | None = None
    retry: RetryPolicy | None = None
    most_sent: int = UNLIMITED
    most_received: int = UNLIMITED


@dataclass(slots=True)
class Throttle:
    """Stops retries while most calls fail. Shared by the calls of a channel.

    Not locked: a token that two threads take at once does not matter.
    """

    most: float
    ratio: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.most

    def succeeded(self) -> None:
        self.tokens = min(self.most, self.tokens + self.ratio)

    def failed(self) -> bool:
        """Take a token, and tell whether retries may go on."""
        self.tokens = max(0.0, self.tokens - 1)
        return self.tokens > self.most / 2


_NOTHING: Final = MethodConfig()


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What holds on a channel."""

    methods: Mapping[str, MethodConfig] = field(default_factory=dict)
    """By "/service/method", "/service/" for all of a service, and "" for all others."""
    throttle: Throttle | None = None

    @classmethod
    def of(cls, text: str | None) -> ServiceConfig:
        """Read the JSON. Raises :class:`StatusError` (INVALID_ARGUMENT), which every call of the
        channel ends with."""
        if text is None:
            return cls()
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            at = f"JSON parse error at index {error.pos}"
            raise _invalid(f"JSON parsing failed: [{at}]") from error
        problems: list[tuple[str, str]] = []
        config = _read_config(_Node(tree, "", problems))
        if problems:
            listed = "; ".join(f"field:{where} error:{what}" for where, what in sorted(problems))
            raise _invalid(f"errors validating service config: [{listed}]")
        return config

    def method(self, path: str) -> MethodConfig:
        """What holds for a method by its path, "/service/method"."""
        methods = self.methods
        if not methods:
            return _NOTHING
        found = methods.get(path)
        if found is None:
            found = methods.get(path[: path.rfind("/") + 1])
        if found is None:
            found = methods.get("", _NOTHING)
        return found


def _invalid(details: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, details)


# --- Retrying -----------------------------------------------------------------------------------


class Retrying:
    """The retries of one call: asked after each attempt that failed."""

    __slots__ = ("_chance", "_policy", "_throttle", "_waits", "attempts")

    def __init__(
        self,
        policy: RetryPolicy | None,
        throttle: Throttle | None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._throttle = throttle
        self._chance = chance
        self._waits = 0  # since the server has last said when to come back
        self.attempts = 1
        """How many there have been; `grpc-previous-rpc-attempts` is one less."""

    def ended(self, code: grpc.StatusCode, pushback: str | None = None) -> float | None:
        """An attempt has ended: how many seconds to wait before the next one, or None for no more.

        `pushback`: what `grpc-retry-pushback-ms` said. Not to be asked once the call is committed:
        headers of the answer came, or what was sent is no longer held.
        """
        policy, throttle = self._policy, self._throttle
        if code is grpc.StatusCode.OK:
            if throttle is not None:
                throttle.succeeded()
            return None
        if policy is None or code not in policy.codes:
            return None
        if throttle is not None and not throttle.failed():
            return None
        if self.attempts >= policy.attempts:
            return None
        if pushback is None:
            self._waits += 1
            wait = policy.wait(self._waits, self._chance())
        elif _PUSHBACK(pushback):
            self._waits = 0
            wait = int(pushback) / 1000
        else:  # negative, or nonsense: the server does not want it again
            return None
        self.attempts += 1
        return wait


_PUSHBACK: Final = re.compile(r"[0-9]{1,9}").fullmatch


# --- Reading ------------------------------------------------------------------------------------

_Problems: TypeAlias = list[tuple[str, str]]
_DURATION: Final = re.compile(r"(-?[0-9]+)(?:\.([0-9]{1,9}))?s").fullmatch
_CODES: Final = {code.name: code for code in grpc.StatusCode}


class _Node:
    """A value of the JSON, and where it stands. What is wrong is noted, and reading goes on."""

    def __init__(self, value: Any, where: str, problems: _Problems) -> None:
        self.value = value
        self.where = where
        self._problems = problems

    def wrong(self, problem: str) -> None:
        self._problems.append((self.where, problem))

    def get(self, name: str) -> _Node | None:
        """A field of an object; None if it is missing, or null."""
        value = self.value.get(name)
        if value is None:
            return None
        return _Node(value, f"{self.where}.{name}" if self.where else name, self._problems)

    def is_object(self) -> bool:
        return self._is(dict, "is not an object")

    def items(self) -> Iterator[_Node]:
        """The elements of an array."""
        if self._is(list, "is not an array"):
            for index, value in enumerate(self.value):
                yield _Node(value, f"{self.where}[{index}]", self._problems)

    def text(self) -> str | None:
        return self.value if self._is(str, "is not a string") else None

    def flag(self) -> bool | None:
        return self.value if self._is(bool, "is not a boolean") else None

    def number(self) -> float | None:
        """A number, or a text that is one: that is how JSON of protobuf writes large ones."""
        value = self.value
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
            self.wrong("failed to parse number")
            return None
        self.wrong("is not a number")
        return None

    def size(self) -> int | None:
        number = self.number()
        if number is None:
            return None
        if number < 0 or number != int(number):
            self.wrong("failed to parse non-negative number")
            return None
        return min(int(number), UNLIMITED)

    def seconds(self) -> float | None:
        text = self.text()
        if text is None:
            return None
        if not text.endswith("s"):
            self.wrong("Not a duration (no s suffix)")
            return None
        found = _DURATION(text)
        if found is None:
            self.wrong("Not a duration (not a number of seconds)")
            return None
        if not 0 <= int(found[1]) <= _LONGEST or text.startswith("-"):
            self.wrong(f"seconds must be in the range [0, {_LONGEST}]")
            return None
        return float(text[:-1])

    def _is(self, kind: type, problem: str) -> bool:
        if isinstance(self.value, kind):
            return True
        self.wrong(problem)
        return False


def _read_config(root: _Node) -> ServiceConfig:
    if not root.is_object():
        return ServiceConfig()
    methods: dict[str, MethodConfig] = {}
    listed = root.get("methodConfig")
    for entry in listed.items() if listed is not None else ():
        if entry.is_object():
            _read_entry(entry, methods)
    throttling = root.get("retryThrottling")
    throttle = None if throttling is None else _read_throttle(throttling)
    return ServiceConfig(methods, throttle)


def _read_entry(entry: _Node, methods: dict[str, MethodConfig]) -> None:
    config = _read_method(entry)
    names = entry.get("name")
    for name in names.items() if names is not None else ():
        if not name.is_object():
            continue
        path = _read_name(name)
        if path is None:
            continue
        if path in methods:
            shown = "with no service" if path == "" else f"for path {path}"
            name.wrong(f"multiple method configs {shown}")
        methods[path] = config


def _read_name(name: _Node) -> str | None:
    service_node, method_node = name.get("service"), name.get("method")
    service = "" if service_node is None else service_node.text()
    method = "" if method_node is None else method_node.text()
    if service is None or method is None:
        return None
    if not service:
        if method:
            name.wrong("method name populated without service name")
            return None
        return ""
    return f"/{service}/{method}"


def _read_method(entry: _Node) -> MethodConfig:
    timeout, ready = entry.get("timeout"), entry.get("waitForReady")
    sent, received = entry.get("maxRequestMessageBytes"), entry.get("maxResponseMessageBytes")
    retry = entry.get("retryPolicy")
    most_sent = None if sent is None else sent.size()
    most_received = None if received is None else received.size()
    return MethodConfig(
        timeout=None if timeout is None else timeout.seconds(),
        wait_for_ready=None if ready is None else ready.flag(),
        retry=None if retry is None else _read_retry(retry),
        most_sent=UNLIMITED if most_sent is None else most_sent,
        most_received=UNLIMITED if most_received is None else most_received,
    )


def _read_retry(node: _Node) -> RetryPolicy | None:
    if not node.is_object():
        return None
    attempts = _required(node, "maxAttempts", _Node.size, least=2)
    first = _required(node, "initialBackoff", _Node.seconds)
    longest = _required(node, "maxBackoff", _Node.seconds)
    multiplier = _required(node, "backoffMultiplier", _Node.number)
    codes = _read_codes(node)
    if attempts is None or first is None or longest is None or multiplier is None:
        return None
    return RetryPolicy(int(min(attempts, MOST_ATTEMPTS)), first, longest, multiplier, codes)


def _required(
    node: _Node, name: str, read: Callable[[_Node], float | None], least: int | None = None
) -> float | None:
    """A number above 0, or from `least` on, that must be there."""
    found = node.get(name)
    if found is None:
        _Node(None, f"{node.where}.{name}", node._problems).wrong("field not present")
        return None
    value = read(found)
    if value is None:
        return None
    if least is not None and value < least:
        found.wrong(f"must be at least {least}")
    elif least is None and value <= 0:
        found.wrong("must be greater than 0")
    return value


def _read_codes(node: _Node) -> frozenset[grpc.StatusCode]:
    listed = node.get("retryableStatusCodes")
    codes: set[grpc.StatusCode] = set()
    for entry in listed.items() if listed is not None else ():
        name = entry.text()
        code = _CODES.get(name) if name is not None else None
        if code is not None:
            codes.add(code)
        elif name is not None:
            entry.wrong("failed to parse status code")
    if not codes:
        where = f"{node.where}.retryableStatusCodes"
        _Node(None, where, node._problems).wrong("must be non-empty")
    return frozenset(codes)


def _read_throttle(node: _Node) -> Throttle | None:
    if not node.is_object():
        return None
    most = _required(node, "maxTokens", _Node.number)
    ratio = _required(node, "tokenRatio", _Node.number)
    if most is None or ratio is None:
        return None
    # A thousand tokens at most, and a thousandth of one at least, count (gRFC A6).
    return Throttle(min(most, 1000.0), max(ratio, 0.001))
