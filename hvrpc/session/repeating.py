"""When a call that failed is tried again, on another connection."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from ..errors import CallError, ConnectionLost, HvrpcError, Outcome, SessionClosed
from .opening import FIRST_WAIT, LONGEST_WAIT

MOST_UNTAKEN: Final = 5
"""Repetitions of a gRPC call that server after server does not take. gRPC's design for retries (A6) has one for
what a server has refused, and any number for what never left; at the end of a connection the two look alike."""
MOST_WITHOUT_LIMIT: Final = 10
"""Repetitions of a call that may have run each time and has no deadline: it may be the call that ends the
connections, with a message that the other side cannot bear."""
FREE: Final = 1
"""Repetitions without a wait: the usual case is one connection that has died of old age."""


def may_repeat(failure: HvrpcError, *, idempotent: bool) -> bool:
    """Whether the call can be made again without ever being carried out twice.

    Certainly not carried out: yes. Perhaps carried out: only if its owner says that twice does no
    harm, and only when it was the connection that failed.
    """
    if isinstance(failure, SessionClosed) or not isinstance(failure, CallError):
        return False
    if failure.outcome is Outcome.NOT_SENT:
        return isinstance(failure, ConnectionLost)
    return idempotent and isinstance(failure, ConnectionLost)


def may_have_run(failure: HvrpcError) -> bool:
    """Whether the call that failed may have been carried out."""
    return isinstance(failure, CallError) and failure.outcome is Outcome.MAY_HAVE_RUN


@contextmanager
def in_doubt() -> Iterator[None]:
    """Around the repetition of a call that may have been carried out: even if the repetition is never
    sent, the call as a whole cannot be said not to have been."""
    try:
        yield
    except CallError as error:
        if error.outcome is Outcome.NOT_SENT:
            error.outcome = Outcome.MAY_HAVE_RUN
        raise


def repeating(failure: HvrpcError) -> AbstractContextManager[None]:
    """Around the repetition of a call that failed so: :func:`in_doubt` if it may have been carried out."""
    return in_doubt() if may_have_run(failure) else nullcontext()


def doubtful(failure: HvrpcError) -> HvrpcError:
    """The failure of such a repetition, as it is told. It may be others' failure as well, which stays as
    it is."""
    if not isinstance(failure, CallError) or failure.outcome is not Outcome.NOT_SENT:
        return failure
    told = copy.copy(failure)
    told.outcome = Outcome.MAY_HAVE_RUN
    told.__cause__ = failure.__cause__
    return told


def untaken(failure: HvrpcError, repetition: int) -> HvrpcError | None:
    """The failure of a call that is given up before its n-th repetition, since nobody ever takes it. None: go on."""
    if repetition <= MOST_UNTAKEN or not isinstance(failure, CallError):
        return None
    if failure.outcome is not Outcome.NOT_SENT:
        return None
    told = copy.copy(failure)
    told.problem = f"{failure.problem}; given up, for it was tried {repetition} times"
    told.remedy = failure.remedy or "look why the server takes no calls: it may be shutting down"
    told.__cause__ = failure
    return told


def is_hopeless(failure: HvrpcError, repetition: int, deadline: float | None) -> bool:
    """Whether a call that may be repeated should not be, for the n-th time, since it would never end."""
    return deadline is None and repetition > MOST_WITHOUT_LIMIT and may_have_run(failure)


def pause(repetition: int) -> float:
    """Seconds to wait before the n-th repetition (from 1 on)."""
    if repetition <= FREE:
        return 0.0
    longest: float = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (repetition - FREE))
    return random.uniform(0, longest)
