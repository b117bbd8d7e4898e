"""Nobody sleeps while nobody reads: the rules of the lead, one by one."""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections.abc import Iterator

import pytest

from hvrpc.session.core import Call
from hvrpc.session.threads.leading import Lead

from ..sockets.background import Background, wait_until


@pytest.fixture
def lead() -> Iterator[Lead]:
    """Another thread has it."""
    lead = Lead()
    lead.lock.acquire()
    yield lead
    assert not lead.followers


def following(lead: Lead, call: Call) -> Background[bool]:
    """A thread that is on the list, and sleeps until it is woken: no clock helps it."""
    follower = Background(lambda: lead.follow(call, None))
    wait_until(lambda: call in lead.followers, "it is on the list")
    return follower


def finish(call: Call) -> None:
    call.done = True
    assert call.wake is not None
    call.wake()


def test_follower_does_not_sleep_when_nobody_leads(lead: Lead) -> None:
    lead.lock.release()
    assert lead.follow(Call(), None)


def test_follower_does_not_sleep_when_its_call_is_done(lead: Lead) -> None:
    call = Call()
    call.done = True
    assert lead.follow(call, None)


def test_follower_wakes_when_its_call_is_done(lead: Lead) -> None:
    call = Call()
    follower = following(lead, call)
    finish(call)
    assert follower.result()


def test_follower_is_late(lead: Lead) -> None:
    assert not lead.follow(Call(), time.monotonic() + 0.01)


def test_leader_that_leaves_wakes_one_follower(lead: Lead) -> None:
    followers = [following(lead, Call()) for _ in range(3)]
    lead.lock.release()
    lead.promote()
    # Each finds it vacant, has no use for it here, and wakes the next one.
    assert all(follower.result() for follower in followers)


def test_follower_that_is_done_passes_the_lead_on(lead: Lead) -> None:
    """It was woken to lead just when its answer had come."""
    first, second = Call(), Call()
    done, other = following(lead, first), following(lead, second)
    first.done = True
    lead.lock.release()
    lead.promote()
    assert done.result()
    assert other.result()
    assert not second.done


def test_nobody_is_woken_to_lead_while_another_one_does(lead: Lead) -> None:
    first, second = Call(), Call()
    done = following(lead, first)
    lead.followers[second] = asleep = allocate_lock()
    asleep.acquire()
    finish(first)
    assert done.result()
    assert asleep.locked()
    del lead.followers[second]


def test_waking_twice_does_no_harm(lead: Lead) -> None:
    call = Call()
    follower = following(lead, call)
    finish(call)
    finish(call)
    assert follower.result()
