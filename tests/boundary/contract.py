"""What must hold across a boundary: calls of all kinds, and lives that end in the midst of one."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import pytest

from ..sockets.background import Background, wait_until
from .callers import CALLERS, Caller, Grpc
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
    """A machine that serves is switched off, paused or reset while it is called.

    The fixture `machine` runs the far side, `where` is its address with {} for the port. All callers
    are tried at the same time, for a real machine takes long to start.
    """

    def test_one_that_is_killed(self, machine: Machine, where: str) -> None:
        with calling(where) as callers:
            self._be_lost_in_the_midst(machine, callers, machine.kill)
            for name, caller in callers.items():
                self._call_in_vain(caller, f"{name} while it is off")
            machine.start_again()
            machine.wait_for(SERVING, 2)
            self._go_on(machine, callers)
            self._nothing_ran_twice(machine, callers)
            for name in callers:
                assert machine.printed(f"ran {name} while it is off") == 0

    def test_one_that_is_reset(self, machine: Machine, where: str) -> None:
        with calling(where) as callers:
            self._be_lost_in_the_midst(machine, callers, machine.reset)
            machine.wait_for(SERVING, 2)
            self._go_on(machine, callers)
            self._nothing_ran_twice(machine, callers)

    def test_one_that_is_paused(self, machine: Machine, where: str) -> None:
        """No error of a socket tells of it: the heartbeat does."""
        with calling(where) as callers:
            try:
                self._be_lost_in_the_midst(machine, callers, machine.pause)
                for name, caller in callers.items():
                    self._call_in_vain(caller, f"{name} while it is paused")
            finally:
                machine.resume()
            self._go_on(machine, callers)
            for name in callers:  # it learns that these callers are gone
                machine.wait_for(f"let go {name}")
                assert machine.printed(f"ran {name} while it is paused") == 0
            self._nothing_ran_twice(machine, callers)

    def _be_lost_in_the_midst(
        self, machine: Machine, callers: dict[str, Caller], event: Any
    ) -> None:
        calls = {name: Background(partial(each.hold, name)) for name, each in callers.items()}
        for name in callers:
            machine.wait_for(f"holds {name}")
        event()
        for name, call in calls.items():
            error = call.error()
            assert callers[name].is_lost(error), f"{name}: {error!r}"

    def _call_in_vain(self, caller: Caller, word: str) -> None:
        error = Background(lambda: caller.run(word, timeout=1.0)).error()
        assert caller.is_never_sent(error), f"{word}: {error!r}"

    def _go_on(self, machine: Machine, callers: dict[str, Caller]) -> None:
        calls = {name: Background(partial(each.run, name)) for name, each in callers.items()}
        for name, call in calls.items():
            assert call.result() == name
            machine.wait_for(f"ran {name}")

    def _nothing_ran_twice(self, machine: Machine, callers: dict[str, Caller]) -> None:
        for name in callers:
            assert machine.printed(f"holds {name}") == 1
            assert machine.printed(f"ran {name}") == 1


class CallerLifeContract:
    """A machine that calls us is switched off in the midst of its calls.

    The fixture `calling_machine` runs `callers.call_and_stay`, `own_address` is where we serve it.
    """

    def test_one_that_is_killed_lets_go_of_us(self, calling_machine: Any, own_address: str) -> None:
        lines = Lines()
        with FarSide(own_address, lines.tell), calling_machine() as machine:
            for name in CALLERS:
                lines.wait_for(f"holds {name}")
            assert isinstance(machine, Machine)
            machine.kill()
            for name in CALLERS:
                lines.wait_for(f"let go {name}")
