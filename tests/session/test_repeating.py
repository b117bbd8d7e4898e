"""When a call that failed is tried again."""

from __future__ import annotations

import pytest

from hvrpc import (
    AccessDenied,
    CallCancelled,
    CallError,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    HvrpcError,
    OpenFailed,
    Outcome,
    ProtocolError,
    RemoteError,
    SessionClosed,
)
from hvrpc.session.opening import FIRST_WAIT, LONGEST_WAIT
from hvrpc.session.repeating import FREE, in_doubt, may_have_run, may_repeat, pause

NOT_SENT = Outcome.NOT_SENT
MAY_HAVE_RUN = Outcome.MAY_HAVE_RUN

ALWAYS = [ConnectionLost("it ended", outcome=NOT_SENT)]
IF_IDEMPOTENT = [ConnectionLost("it ended", outcome=MAY_HAVE_RUN)]
NEVER: list[HvrpcError] = [
    # The caller's own decision, or an answer, or a fault that another connection has too.
    SessionClosed("closed", outcome=NOT_SENT),
    SessionClosed("closed", outcome=MAY_HAVE_RUN),
    RemoteError("no"),
    DeadlineExceeded("late", outcome=NOT_SENT),
    DeadlineExceeded("late", outcome=MAY_HAVE_RUN),
    CallCancelled("given up"),
    ProtocolError("nonsense", outcome=MAY_HAVE_RUN),
    ProtocolError("nonsense", outcome=NOT_SENT),
    # Opening has a policy of its own, which has had its say.
    OpenFailed("hvsock://vm/1", []),
    ConnectTimeout("hvsock://vm/1", operation="connect to", cause="nobody answered"),
    AccessDenied("hvsock://vm/1", peer="somebody", problem="may not"),
]


def words(error: HvrpcError) -> str:
    outcome = error.outcome.name if isinstance(error, CallError) else ""
    return f"{type(error).__name__} {outcome}"


@pytest.mark.parametrize("error", ALWAYS, ids=words)
@pytest.mark.parametrize("idempotent", [False, True])
def test_what_was_certainly_not_carried_out_is_repeated(
    error: HvrpcError, idempotent: bool
) -> None:
    assert may_repeat(error, idempotent=idempotent)


@pytest.mark.parametrize("error", IF_IDEMPOTENT, ids=words)
def test_what_may_have_run_is_repeated_only_with_the_mark(error: HvrpcError) -> None:
    assert not may_repeat(error, idempotent=False)
    assert may_repeat(error, idempotent=True)


@pytest.mark.parametrize("error", NEVER, ids=words)
@pytest.mark.parametrize("idempotent", [False, True])
def test_nothing_else_is_repeated(error: HvrpcError, idempotent: bool) -> None:
    assert not may_repeat(error, idempotent=idempotent)


def test_first_repetition_is_free_and_later_ones_wait_longer_and_longer() -> None:
    """One connection died of old age: no wait. A service that keeps dying: no storm."""
    assert [pause(n) for n in range(1, FREE + 1)] == [0.0] * FREE
    for repetition in range(FREE + 1, 60):
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (repetition - FREE))
        waits = [pause(repetition) for _ in range(50)]
        assert all(0 <= wait <= longest for wait in waits)
        assert len(set(waits)) > 1, "without jitter many clients come back in step"


def test_call_that_may_have_run_once_is_never_called_not_sent() -> None:
    """Its repetition found no connection: that says nothing about the first attempt."""
    assert may_have_run(IF_IDEMPOTENT[0])
    assert not may_have_run(ALWAYS[0])
    with pytest.raises(OpenFailed) as failed, in_doubt():
        raise OpenFailed("hvsock://vm/1", [])
    assert failed.value.outcome is MAY_HAVE_RUN
    with pytest.raises(RemoteError) as refused, in_doubt():
        raise RemoteError("no")
    assert refused.value.outcome is Outcome.ANSWERED
