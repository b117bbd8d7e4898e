"""Opening a connection, again and again if need be, by a tenacity policy.

Whatever is true for the blocking form is true for asyncio: every test runs with both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tenacity

import hvrpc.msgpack
from hvrpc import (
    AccessDenied,
    AddressError,
    Attempt,
    CallError,
    ConnectError,
    ConnectionLost,
    ConnectRefused,
    DeadlineExceeded,
    HvrpcError,
    OpenFailed,
    Outcome,
    ProtocolError,
    SessionClosed,
    UnsupportedError,
)
from hvrpc.session import opening
from hvrpc.session.opening import FIRST_WAIT, LONGEST_WAIT, Policy

ADDRESS = "hvsock://vm/1"


def refused() -> ConnectRefused:
    return ConnectRefused(ADDRESS, operation="connect to", cause="nobody listens")


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 5000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Opener:
    """Opens by a policy, in one of the two forms; each attempt is one of `errors`, then success."""

    def __init__(self, clock: Clock, *, is_async: bool) -> None:
        self.clock = clock
        self.is_async = is_async
        self.attempts = 0
        self.takes = 0.0
        """Seconds that each attempt takes."""

    def __call__(
        self,
        policy: Policy,
        errors: Sequence[Exception] | None,
        deadline: float | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> str:
        wait = sleep or self.clock.sleep

        def attempt() -> str:
            self.attempts += 1
            self.clock.now += self.takes
            if errors is None:
                raise refused()
            if self.attempts <= len(errors):
                raise errors[self.attempts - 1]
            return "open"

        if not self.is_async:
            return policy.open(ADDRESS, deadline, attempt, wait)

        async def attempt_async() -> str:
            await asyncio.sleep(0)
            return attempt()

        async def wait_async(seconds: float) -> None:
            await asyncio.sleep(0)
            wait(seconds)

        return asyncio.run(policy.open_async(ADDRESS, deadline, attempt_async, wait_async))


@pytest.fixture(params=["blocking", "asyncio"])
def opener(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Opener:
    clock = Clock()
    monkeypatch.setattr(opening, "time", clock)
    return Opener(clock, is_async=request.param == "asyncio")


# --- The default ---------------------------------------------------------------------------------


def test_first_attempt_that_succeeds_waits_for_nothing(opener: Opener) -> None:
    assert opener(Policy.of(None, None), []) == "open"
    assert opener.clock.waits == []


def test_goes_on_until_it_succeeds(opener: Opener) -> None:
    assert opener(Policy.of(None, None), [refused()] * 7) == "open"
    assert opener.attempts == 8


@pytest.mark.parametrize("retry", [None, True])
def test_default_backs_off_with_full_jitter(opener: Opener, retry: bool | None) -> None:
    """Each wait is anywhere between nothing and a bound that doubles, up to the longest."""
    assert opener(Policy.of(retry, None), [refused()] * 40) == "open"
    bounds = [min(LONGEST_WAIT, FIRST_WAIT * 2**n) for n in range(40)]
    assert all(
        0 <= wait <= bound for wait, bound in zip(opener.clock.waits, bounds, strict=True)
    ), opener.clock.waits
    late = opener.clock.waits[10:]
    assert min(late) < LONGEST_WAIT / 2 < max(late), "they are spread over the whole range"


@pytest.mark.parametrize("seconds", [0.3, 3.0, 30.0])
def test_gives_up_at_the_deadline_and_never_waits_beyond_it(opener: Opener, seconds: float) -> None:
    deadline = opener.clock.now + seconds
    with pytest.raises(OpenFailed):
        opener(Policy.of(None, None), None, deadline)
    assert opener.clock.now < deadline
    assert opener.attempts > 1


def test_deadline_that_has_passed_leaves_one_attempt(opener: Opener) -> None:
    with pytest.raises(OpenFailed):
        opener(Policy.of(None, None), None, opener.clock.now - 1)
    assert opener.attempts == 1
    assert opener.clock.waits == []


# --- Policies of users -----------------------------------------------------------------------------


def test_false_means_one_attempt(opener: Opener) -> None:
    with pytest.raises(OpenFailed) as failed:
        opener(Policy.of(False, None), None)
    assert len(failed.value.attempts) == opener.attempts == 1


@pytest.mark.parametrize("kind", [tenacity.Retrying, tenacity.AsyncRetrying])
def test_stop_and_wait_of_the_user_are_followed(
    opener: Opener, kind: type[tenacity.BaseRetrying]
) -> None:
    """Either form of policy serves either form of client."""
    policy = kind(stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_fixed(0.7))
    with pytest.raises(OpenFailed) as failed:
        opener(Policy.of(policy, None), None)
    assert len(failed.value.attempts) == 4
    assert opener.clock.waits == [0.7] * 3


def test_policy_that_never_stops_is_stopped_by_the_deadline(opener: Opener) -> None:
    policy = tenacity.Retrying(wait=tenacity.wait_fixed(1))
    deadline = opener.clock.now + 10.5
    with pytest.raises(OpenFailed):
        opener(Policy.of(policy, None), None, deadline)
    assert opener.attempts == 11
    assert opener.clock.now < deadline


def test_condition_of_the_user_is_followed(opener: Opener) -> None:
    """What the policy does not want to repeat ends it, by the same error as always."""
    gone = ConnectionLost("it ended", outcome=Outcome.NOT_SENT)
    policy = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConnectError), wait=tenacity.wait_none()
    )
    with pytest.raises(OpenFailed) as failed:
        opener(Policy.of(policy, None), [refused(), gone])
    assert [attempt.error for attempt in failed.value.attempts[1:]] == [gone]
    assert failed.value.__cause__ is gone


def test_hooks_of_the_user_are_called(opener: Opener) -> None:
    seen: list[str] = []
    policy = tenacity.Retrying(
        wait=tenacity.wait_none(),
        before=lambda state: seen.append(f"before {state.attempt_number}"),
        after=lambda state: seen.append(f"after {state.attempt_number}"),
        before_sleep=lambda state: seen.append(f"sleep {state.attempt_number}"),
    )
    opener(Policy.of(policy, None), [refused()])
    assert seen == ["before 1", "after 1", "sleep 1", "before 2"]


def test_policy_can_be_used_again(opener: Opener) -> None:
    """One policy object serves many clients, and every opening of each."""
    policy = Policy.of(tenacity.Retrying(stop=tenacity.stop_after_attempt(2)), None)
    for _ in range(3):
        opener.attempts = 0
        with pytest.raises(OpenFailed):
            opener(policy, None)
        assert opener.attempts == 2


@pytest.mark.parametrize("wrong", [3, "yes", tenacity.stop_after_attempt(1)])
def test_what_is_no_policy_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"tenacity\.Retrying"):
        Policy.of(wrong, None)


# --- What is not tried again ---------------------------------------------------------------------

HOPELESS: list[HvrpcError] = [
    AddressError("x", part="x", problem="wrong", example="hvsock://vm/1"),
    UnsupportedError(ADDRESS, operation="connect to", problem="no AF_HYPERV", remedy="update"),
    AccessDenied(ADDRESS, peer="somebody", problem="may not"),
    ProtocolError("nonsense", outcome=Outcome.NOT_SENT),
    SessionClosed("closed", outcome=Outcome.NOT_SENT),
]


@pytest.mark.parametrize("error", HOPELESS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("retry", [None, tenacity.Retrying()])
def test_hopeless_errors_are_raised_as_they_are(
    opener: Opener, error: HvrpcError, retry: tenacity.BaseRetrying | None
) -> None:
    """A second attempt cannot succeed, whatever the policy says."""
    with pytest.raises(type(error)) as raised:
        opener(Policy.of(retry, None), [refused(), error])
    assert raised.value is error
    assert opener.attempts == 2


def test_faults_of_ours_are_not_hidden(opener: Opener) -> None:
    with pytest.raises(ZeroDivisionError):
        opener(Policy.of(None, None), [ZeroDivisionError()])
    assert opener.attempts == 1


def test_waiting_can_be_ended(opener: Opener) -> None:
    """A client that is closed while it waits for the next attempt gives up at once."""
    closed = SessionClosed("closed", outcome=Outcome.NOT_SENT)

    def sleep(seconds: float) -> None:
        raise closed

    with pytest.raises(SessionClosed) as raised:
        opener(Policy.of(None, None), None, sleep=sleep)
    assert raised.value is closed


# --- What one can see ----------------------------------------------------------------------------


@pytest.mark.parametrize("watched", [False, True])
def test_who_waits_long_is_told_once_unless_they_watch(
    opener: Opener, caplog: pytest.LogCaptureFixture, watched: bool
) -> None:
    """A program that sets up no logging prints warnings: nobody shall wonder for a minute."""
    opener.takes = 2.0
    policy = Policy.of(tenacity.Retrying(wait=tenacity.wait_none()), print if watched else None)
    opener(policy, [refused()] * 5)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == (0 if watched else 1)
    assert all(str(ADDRESS) in each and "after 6 s" in each for each in told)


def test_error_lists_every_attempt(opener: Opener) -> None:
    """When, how often and why, with the last cause chained."""
    opener.takes = 2.0
    errors = [refused(), DeadlineExceeded("late", outcome=Outcome.NOT_SENT), refused()]
    policy = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(1))
    with pytest.raises(OpenFailed) as raised:
        opener(Policy.of(policy, None), errors)
    failed = raised.value
    assert [attempt.error for attempt in failed.attempts] == errors
    assert [attempt.number for attempt in failed.attempts] == [1, 2, 3]
    assert [attempt.after for attempt in failed.attempts] == [2.0, 5.0, 8.0]
    assert failed.__cause__ is errors[-1]
    assert failed.outcome is Outcome.NOT_SENT
    assert failed.address == ADDRESS
    assert "nobody listens" in str(failed)
    assert isinstance(failed, ConnectionError)
    assert isinstance(failed, CallError)


def test_every_failed_attempt_is_told(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """To a callback, and to the log; before the next one begins."""
    told: list[tuple[int, int]] = []

    def on_attempt(attempt: Attempt) -> None:
        assert isinstance(attempt.error, ConnectRefused)
        told.append((attempt.number, opener.attempts))

    with caplog.at_level(logging.INFO, "hvrpc.session"):
        opener(Policy.of(None, on_attempt), [refused()] * 3)
    assert told == [(1, 1), (2, 2), (3, 3)]
    assert len(caplog.records) == 3
    for number, record in enumerate(caplog.records, 1):
        assert f"{ADDRESS}: attempt {number} failed: " in record.getMessage()


# --- As users see it -----------------------------------------------------------------------------


def connect_blocking(address: str, **settings: Any) -> None:
    hvrpc.msgpack.connect(address, **settings).close()


def connect_asyncio(address: str, **settings: Any) -> None:
    async def main() -> None:
        async with hvrpc.msgpack.aio.connect(address, **settings):
            pass

    asyncio.run(main())


BOTH = pytest.mark.parametrize("connect", [connect_blocking, connect_asyncio])


@BOTH
def test_connect_tells_what_was_tried(connect: Callable[..., None]) -> None:
    told: list[Attempt] = []
    policy = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
    with pytest.raises(OpenFailed) as failed:
        connect("local://loopback/1", retry=policy, on_attempt=told.append)
    assert list(failed.value.attempts) == told
    assert len(told) == 3


@BOTH
def test_connect_without_retry_fails_at_once(connect: Callable[..., None]) -> None:
    with pytest.raises(OpenFailed) as failed:
        connect("local://loopback/1", retry=False)
    assert len(failed.value.attempts) == 1


@BOTH
def test_connect_is_bounded_by_its_timeout(connect: Callable[..., None]) -> None:
    with pytest.raises(OpenFailed) as failed:
        connect("local://loopback/1", timeout=0.2)
    assert all(attempt.after <= 0.2 + 10 for attempt in failed.value.attempts)
    assert failed.value.outcome is Outcome.NOT_SENT


@BOTH
def test_connect_to_a_wrong_address_is_not_tried(connect: Callable[..., None]) -> None:
    with pytest.raises(AddressError):
        connect("tcp://nowhere", retry=tenacity.Retrying())


@BOTH
def test_connect_where_this_machine_cannot_is_not_tried(
    connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised by a stand-in: which families a machine lacks differs."""
    missing = UnsupportedError(ADDRESS, operation="connect to", problem="none", remedy="update")
    told: list[Attempt] = []

    def cannot(*_: Any, **__: Any) -> None:
        raise missing

    monkeypatch.setattr(hvrpc.sockets, "connect", cannot)
    with pytest.raises(UnsupportedError) as raised:
        connect("local://loopback/1", retry=tenacity.Retrying(), on_attempt=told.append)
    assert raised.value is missing
    assert [attempt.error for attempt in told] == [missing]
