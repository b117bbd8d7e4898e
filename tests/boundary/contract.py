"""What must hold across a boundary: calls of all kinds, and lives that end in the midst of one."""

from __future__ import annotations

import gc
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import pytest

from hvrpc.testing.leaks import Snapshot

from ..sockets.background import Background, wait_until
from .callers import CALLERS, CALLING, Caller, Grpc
from .far_side import PORTS, SERVING, FarSide

PAIRS: Final = [
    pytest.param((name, server), id=f"{name} calls {server}")
    for name, (_, servers) in CALLERS.items()
    for server in servers
]
GRPC_PAIRS: Final = [pair for pair in PAIRS if "grpc" in str(pair.id)]


class Lines:
    """What a far side in this very process tells."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, line: str) -> None:
        self.told.append(line)

    def wait_for(self, line: str) -> None:
        wait_until(lambda: line in self.told, f"{line!r} is told; so far: {self.told}")


class Machine(ABC):
    """A virtual machine that runs a program, as the tests handle it."""

    @abstractmethod
    def printed(self, line: str) -> int:
        """How often it has printed this line, earlier lives included."""

    @abstractmethod
    def kill(self) -> None:
        """Pull the plug."""

    @abstractmethod
    def start_again(self) -> None:
        """After `kill`: switch it on. It boots, and runs its program again."""

    @abstractmethod
    def reset(self) -> None:
        """Press the reset button: it boots, and runs its program again."""

    @abstractmethod
    def pause(self) -> None: ...
    @abstractmethod
    def resume(self) -> None: ...

    def wait_for(self, line: str, times: int = 1) -> None:
        wait_until(lambda: self.printed(line) >= times, f"{line!r} is printed {times} times")


@contextmanager
def calling(where: str, *names: str) -> Iterator[dict[str, Caller]]:
    """Callers, each of the server of its own kind."""
    with ExitStack() as stack:
        made = {}
        for name in names or CALLERS:
            made[name] = CALLERS[name][0](where.format(PORTS[name]))
            stack.callback(made[name].close)
        yield made


@contextmanager
def as_much_as_before() -> Iterator[None]:
    """Afterwards there are as many threads, descriptors and processes as before.

    For tests in which a machine is started anew, and so leaves others than it had.
    """

    def count() -> tuple[int, ...]:
        now = Snapshot.take()
        return len(now.threads), len(now.descriptors), len(now.processes)

    before = count()
    yield
    gc.collect()
    wait_until(lambda: count() == before, f"threads, descriptors, processes are {before} again")


starts_a_machine = pytest.mark.may_leave("the machine is started anew; see as_much_as_before()")


class CallContract:
    """Calls. The fixture `where` is the address of the far side, with {} for the port."""

    @pytest.fixture(params=PAIRS)
    def caller(self, request: pytest.FixtureRequest, where: str) -> Iterator[Caller]:
        name, server = request.param
        caller = CALLERS[name][0](where.format(PORTS[server]))
        yield caller
        caller.close()

    @pytest.fixture(params=GRPC_PAIRS)
    def grpc_caller(self, request: pytest.FixtureRequest, where: str) -> Iterator[Grpc]:
        name, server = request.param
        caller: Any = CALLERS[name][0](where.format(PORTS[server]))
        yield caller
        caller.close()

    def test_bytes_of_all_sizes(self, caller: Caller) -> None:
        for size in (0, 1, 20_000, 1_000_000):
            data = random.Random(size).randbytes(size)
            assert caller.echo(data) == data

    def test_many_at_once(self, caller: Caller) -> None:
        words = [f"word {number}".encode() for number in range(20)]
        calls = [Background(partial(caller.echo, word)) for word in words]
        assert [call.result() for call in calls] == words

    def test_results_one_by_one(self, caller: Caller) -> None:
        assert caller.count(50) == list(range(50))

    def test_failures_come_across(self, caller: Caller) -> None:
        with pytest.raises(Exception, match="not today") as caught:
            caller.fail("not today")
        assert caller.is_failure(caught.value, "not today")
        assert caller.run("next") == "next"

    def test_a_deadline_ends_the_call_and_not_the_connection(self, caller: Caller) -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011 (which one depends on the protocol)
            caller.hold("too long", timeout=0.5)
        assert caller.is_late(caught.value), repr(caught.value)
        assert caller.run("next") == "next"

    def test_the_far_side_knows_who_calls(self, caller: Caller, who: str) -> None:
        """The fixture `who` is part of what it should see."""
        assert who in caller.who()

    def test_requests_one_by_one(self, grpc_caller: Grpc) -> None:
        assert grpc_caller.total(range(50)) == sum(range(50))

    def test_both_ways_at_once(self, grpc_caller: Grpc) -> None:
        words = [b"one", b"", bytes(100_000), b"four"]
        assert grpc_caller.chat(words) == words


class LifeContract:
    """A machine that serves is paused, reset or switched off while it is called.

    The fixture `machine` runs the far side, `where` is its address with {} for the port. Real machines
    take long to start: so all callers are tried at the same time, and one machine may do for all the
    tests, in this order.
    """

    def test_one_that_is_paused(self, machine: Machine, where: str) -> None:
        """No error of a socket tells of it: the heartbeat does."""
        with calling(where) as callers:
            try:
                self._be_lost_in_the_midst(callers, machine, "paused", machine.pause)
                self._call_in_vain(callers, "while paused")
            finally:
                machine.resume()
            self._go_on(callers, machine, "resumed")
            for name in callers:  # it learns that these callers are gone
                machine.wait_for(f"let go {name} paused")
        self._was_done(
            machine, {"holds {} paused": 1, "ran {} resumed": 1, "ran {} while paused": 0}
        )

    @starts_a_machine
    def test_one_that_is_reset(self, machine: Machine, where: str) -> None:
        lives = machine.printed(SERVING)
        with as_much_as_before(), calling(where) as callers:
            self._be_lost_in_the_midst(callers, machine, "reset", machine.reset)
            machine.wait_for(SERVING, lives + 1)
            self._go_on(callers, machine, "after the reset")
        self._was_done(machine, {"holds {} reset": 1, "ran {} after the reset": 1})

    @starts_a_machine
    def test_one_that_is_killed(self, machine: Machine, where: str) -> None:
        lives = machine.printed(SERVING)
        with as_much_as_before(), calling(where) as callers:
            self._be_lost_in_the_midst(callers, machine, "killed", machine.kill)
            self._call_in_vain(callers, "while off")
            machine.start_again()
            machine.wait_for(SERVING, lives + 1)
            self._go_on(callers, machine, "on again")
        self._was_done(machine, {"holds {} killed": 1, "ran {} on again": 1, "ran {} while off": 0})

    def _be_lost_in_the_midst(
        self,
        callers: dict[str, Caller],
        machine: Machine,
        event: str,
        happens: Callable[[], None],
    ) -> None:
        calls = {
            name: Background(partial(caller.hold, f"{name} {event}"))
            for name, caller in callers.items()
        }
        for name in callers:
            machine.wait_for(f"holds {name} {event}")
        happens()
        for name, call in calls.items():
            error = call.error()
            assert callers[name].is_lost(error), f"{name}: {error!r}"

    def _call_in_vain(self, callers: dict[str, Caller], when: str) -> None:
        calls = {
            name: Background(partial(caller.run, f"{name} {when}", timeout=1.0))
            for name, caller in callers.items()
        }
        for name, call in calls.items():
            error = call.error()
            assert callers[name].is_never_sent(error), f"{name}: {error!r}"

    def _go_on(self, callers: dict[str, Caller], machine: Machine, when: str) -> None:
        calls = {
            name: Background(partial(caller.run, f"{name} {when}"))
            for name, caller in callers.items()
        }
        for name, call in calls.items():
            assert call.result() == f"{name} {when}"
            machine.wait_for(f"ran {name} {when}")

    def _was_done(self, machine: Machine, times: dict[str, int]) -> None:
        """Nothing twice, and nothing that its caller was told had not been sent."""
        told = {line.format(name): number for line, number in times.items() for name in CALLERS}
        assert {line: machine.printed(line) for line in told} == told


class CallerLifeContract:
    """A machine that calls us is switched off in the midst of its calls.

    The fixture `calling_machine` runs `callers.call_and_stay`, `own_address` is where we serve it.
    """

    def test_one_that_is_killed_lets_go_of_us(self, calling_machine: Any, own_address: str) -> None:
        lines = Lines()
        with FarSide(own_address, lines.tell), calling_machine() as machine:
            machine.wait_for(CALLING)
            for name in CALLERS:
                lines.wait_for(f"holds {name}")
            assert isinstance(machine, Machine)
            machine.kill()
            for name in CALLERS:
                lines.wait_for(f"let go {name}")
