"""Opening a connection, again and again if need be, by a tenacity policy.

A VM boots, a service starts late, a host reboots: the first attempt fails and the third succeeds. How
often and how long to try is a policy, apart from the waiting itself, so that both drivers share it
and users can replace it with any `tenacity.Retrying`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import tenacity

from ..errors import (
    Attempt,
    ConnectionLost,
    DeadlineExceeded,
    HvrpcError,
    OpenFailed,
    SessionClosed,
    TransportError,
)

logger = logging.getLogger("hvrpc.session")

T = TypeVar("T")

OnAttempt = Callable[[Attempt], object]
"""Told about each failed attempt to open a connection."""

FIRST_WAIT: Final = 0.05
"""Upper bound of the first wait, in seconds; it doubles with each attempt."""
LONGEST_WAIT: Final = 5.0
"""Where doubling ends: a VM that comes back is noticed within this time."""
LONGEST_OPENING: Final = 60.0
"""Seconds after which opening gives up when neither the call nor the policy sets a limit."""

TOLD_AFTER: Final = 5.0
"""Seconds without a connection after which somebody who was told nothing yet should know why."""

_WORTH_REPEATING: Final = (TransportError, ConnectionLost, DeadlineExceeded)


def backoff() -> tenacity.wait.wait_base:
    """Exponential with full jitter: many clients of one VM do not come back in step."""
    return tenacity.wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)


def is_worth_repeating(error: BaseException) -> bool:
    """Whether a later attempt can succeed: not with a wrong address, nor where one is refused."""
    return isinstance(error, _WORTH_REPEATING) and not isinstance(error, SessionClosed)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a connection is opened."""

    retry: tenacity.BaseRetrying | None = None
    """When to try again; None: backoff with full jitter until the call's deadline."""
    on_attempt: OnAttempt | None = None

    @classmethod
    def of(cls, retry: tenacity.BaseRetrying | bool | None, on_attempt: OnAttempt | None) -> Policy:
        """What users pass as `retry=`: a tenacity policy, or False for one attempt only."""
        if retry is False:
            return cls(tenacity.Retrying(stop=tenacity.stop_after_attempt(1)), on_attempt)
        if retry is True or retry is None:
            return cls(None, on_attempt)
        if not isinstance(retry, tenacity.BaseRetrying):
            raise TypeError(
                f"retry= takes a tenacity policy such as tenacity.Retrying(…), or False; not {retry!r}"
            )
        return cls(retry, on_attempt)

    def open(
        self,
        address: object,
        deadline: float | None,
        attempt: Callable[[], T],
        sleep: Callable[[float], None],
    ) -> T:
        """Attempt until it succeeds. `sleep` waits between attempts, and may raise to give up."""
        record = _Record(self, str(address))

        def once() -> T:
            try:
                return attempt()
            except HvrpcError as error:
                record.failed(error)
                raise

        retrying = tenacity.Retrying(sleep=sleep, **self._settings(deadline))
        try:
            return retrying(once)
        except tenacity.RetryError as error:
            raise record.summary() from error.last_attempt.exception()
        except _WORTH_REPEATING as error:  # the user's policy did not want to
            raise record.summary() from error

    async def open_async(
        self,
        address: object,
        deadline: float | None,
        attempt: Callable[[], Awaitable[T]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> T:
        """The same for asyncio."""
        record = _Record(self, str(address))

        async def once() -> T:
            try:
                return await attempt()
            except HvrpcError as error:
                record.failed(error)
                raise

        retrying = tenacity.AsyncRetrying(sleep=sleep, **self._settings(deadline))
        try:
            return await retrying(once)
        except tenacity.RetryError as error:
            raise record.summary() from error.last_attempt.exception()
        except _WORTH_REPEATING as error:  # the user's policy did not want to
            raise record.summary() from error

    def _settings(self, deadline: float | None) -> dict[str, Any]:
        """What tenacity shall do: the user's policy, within the deadline, for errors that may pass."""
        worth: Any = tenacity.retry_if_exception(is_worth_repeating)
        if self.retry is None:
            stops: list[Any] = (
                [tenacity.stop_after_delay(LONGEST_OPENING)] if deadline is None else []
            )
            settings: dict[str, Any] = {"wait": backoff(), "retry": worth}
        else:
            stops = [self.retry.stop]
            settings = {
                "wait": self.retry.wait,
                "retry": tenacity.retry_all(worth, self.retry.retry),
                "before": self.retry.before,
                "after": self.retry.after,
                "before_sleep": self.retry.before_sleep,
            }
        if deadline is not None:
            stops.append(_stop_at(deadline))
        settings["stop"] = tenacity.stop_any(*stops)
        return settings


def _stop_at(deadline: float) -> Callable[[tenacity.RetryCallState], bool]:
    def stop(state: tenacity.RetryCallState) -> bool:
        return time.monotonic() + state.upcoming_sleep >= deadline

    return stop


class _Record:
    """What was tried, for the one error in the end."""

    def __init__(self, policy: Policy, address: str) -> None:
        self._policy = policy
        self._address = address
        self._started = time.monotonic()
        self._attempts: list[Attempt] = []
        self._told = policy.on_attempt is not None

    def failed(self, error: Exception) -> None:
        number = len(self._attempts) + 1
        attempt = Attempt(number, time.monotonic() - self._started, error)
        self._attempts.append(attempt)
        logger.info("%s: attempt %d failed: %s", self._address, number, error)
        if not self._told and attempt.after >= TOLD_AFTER:
            self._told = True
            logger.warning(
                "%s: no connection after %.0f s, and still trying: %s",
                self._address,
                attempt.after,
                error,
            )
        if self._policy.on_attempt is not None:
            self._policy.on_attempt(attempt)

    def summary(self) -> OpenFailed:
        """The error that tells all."""
        return OpenFailed(self._address, self._attempts)
