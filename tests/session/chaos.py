"""Thousands of calls over a line that is cut at random bytes: is anything ever carried out twice?

The server writes down the number of every call that it carries out, the callers write down how every
call ended. Afterwards the two must agree:

* no number was carried out twice, unless its call was marked idempotent;
* a call with a result was carried out, and once;
* a call that failed as "not sent" was not carried out;
* every call has ended, with a result or with an error that knows its outcome.

`test_chaos` runs it for a few seconds. Longer, by hand, for every pair of drivers in turn:

    python3 -m tests.session.chaos --minutes 10 [--seed 1234]

It prints its seed. The same seed makes the same faults and the same calls, though not at the same
moments.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from hvrpc import CallError, Outcome
from hvrpc.testing import Link

from ..sockets.background import WAIT, Background
from ..sockets.places import PLACES
from .sides import MISSING, PAIRS, ClientSide, Pair, Serving, pair_of

CALLERS: Final = 8
DEAD_AFTER: Final = 0.4
RESULT: Final = "result"

Fate = Outcome | str
"""How a call ended: with a result, or with an error and its outcome."""


@dataclass
class Story:
    """What happened."""

    seed: int
    fates: dict[int, Fate] = field(default_factory=dict)
    marked: set[int] = field(default_factory=set)
    """Calls that may be carried out twice."""
    executed: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    def lies(self) -> list[str]:
        """What must not be, in words."""
        times = Counter(self.executed)
        found = [
            f"call {number} ran without a caller" for number in times if number not in self.fates
        ]
        for number, fate in self.fates.items():
            ran = times[number]
            if ran > 1 and number not in self.marked:
                found.append(f"call {number} ran {ran} times, and ended as {fate}")
            if fate == RESULT and ran == 0:
                found.append(f"call {number} has a result, and never ran")
            if fate is Outcome.NOT_SENT and ran:
                mark = ", marked idempotent" if number in self.marked else ""
                found.append(f"call {number} ran{mark}, and was called not sent")
            if fate is Outcome.ANSWERED:
                found.append(f"call {number} was refused")
        return found

    def __str__(self) -> str:
        ends = Counter(fate if isinstance(fate, str) else fate.name for fate in self.fates.values())
        faults = ", ".join(f"{name} {count} times" for name, count in sorted(self.faults.items()))
        calls = ", ".join(f"{count} {name}" for name, count in sorted(ends.items()))
        return (
            f"seed {self.seed}: {len(self.fates)} calls ({calls}) on {self.connections} connections;"
            f" {faults}"
        )


def play(pair: Pair, seconds: float, seed: int, *, results: int = 0, connections: int = 0) -> Story:
    """Call and break for so long; on a busy machine longer, until there were so many of both."""
    return _Play(pair, seed).run(seconds, results, connections)


class _Play:
    def __init__(self, pair: Pair, seed: int) -> None:
        self._pair = pair
        self._random = random.Random(seed)
        self._story = Story(seed)
        self._serving: Serving = pair.server()
        self._link: Link = pair.enter(Link(self._serving.url))
        self._over = threading.Event()

    def run(self, seconds: float, results: int, connections: int) -> Story:
        client = self._pair.client(str(self._link.address), dead_after=DEAD_AFTER, timeout=5.0)
        seeds = [self._random.random() for _ in range(CALLERS)]
        callers = [
            Background(partial(self._call, client, n, random.Random(seeds[n])))
            for n in range(CALLERS)
        ]

        def is_too_little() -> bool:
            fates = list(self._story.fates.values())
            return fates.count(RESULT) <= results or client.connections <= connections

        end = time.monotonic() + seconds
        while all(caller.thread.is_alive() for caller in callers):
            late = time.monotonic() - end
            if late >= 0 and not (is_too_little() and late < WAIT):
                break
            self._break()
        self._heal()
        self._over.set()
        for caller in callers:
            caller.result()
        self._story.connections = client.connections
        client.close()
        # What was given up may still be running: the server knows when it has ended.
        assert self._serving.side.close(WAIT)
        self._story.executed += self._serving.tools.executed
        return self._story

    # --- Calls -----------------------------------------------------------------------------------

    def _call(self, client: ClientSide, caller: int, dice: random.Random) -> None:
        number = caller * 100_000_000
        while not self._over.is_set():
            number += 1
            marked = dice.random() < 0.1
            if marked:
                self._story.marked.add(number)
            self._story.fates[number] = self._fate_of(client, number, marked, dice)

    def _fate_of(self, client: ClientSide, number: int, marked: bool, dice: random.Random) -> Fate:
        settings: dict[str, Any] = {"idempotent": True} if marked else {}
        if dice.random() < 0.1:
            settings["timeout"] = dice.choice([0.001, 0.01, 0.1])
        load = bytes(dice.choice([0, 0, 0, 0, 10, 1000, 40_000, 500_000]))
        try:
            if dice.random() < 0.3:
                assert client.call("carry", load, number, **settings) == number
            else:
                assert client.call("record", number, **settings) == number
        except CallError as error:
            return error.outcome
        return RESULT

    # --- Faults ----------------------------------------------------------------------------------

    def _break(self) -> None:
        """One fault, after some calls have had the time to get through."""
        fault = self._random.choices(
            [self._cut_at_a_byte, self._cut_now, self._go_silent, self._restart, self._refuse],
            [10, 3, 1, 1, 1],
        )[0]
        fault()
        self._story.faults[fault.__name__.strip("_").replace("_", " ")] += 1

    def _cut_at_a_byte(self) -> None:
        bytes_left = int(2 ** self._random.uniform(0, 19))
        before = self._link.statistics.connections
        self._link.cut_after(bytes_left, self._random.choice(["to_target", "to_caller"]))
        self._wait(lambda: self._link.statistics.connections > before, 0.5)

    def _cut_now(self) -> None:
        self._wait(lambda: False, self._random.uniform(0, 0.03))
        self._link.cut()

    def _go_silent(self) -> None:
        self._link.stall()
        self._wait(lambda: False, self._random.choice([0.05, DEAD_AFTER * 2]))
        self._link.resume()

    def _refuse(self) -> None:
        self._link.refuse()
        self._link.cut()
        self._wait(lambda: False, 0.05)
        self._link.admit()

    def _restart(self) -> None:
        """In good order: the old one finishes what it took."""
        old = self._serving
        old.side.close(WAIT)
        self._serving = self._pair.server(old.url)
        self._story.executed += old.tools.executed

    def _heal(self) -> None:
        self._link.cut_after(10**12, "to_target")
        self._link.cut_after(10**12, "to_caller")

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.002)


def main() -> int:
    """The long form."""
    reader = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    reader.add_argument("--minutes", type=float, default=10.0, help="in all; default: 10")
    reader.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = reader.parse_args()
    seed = arguments.seed
    end = time.monotonic() + arguments.minutes * 60
    turn = 0
    while time.monotonic() < end:
        calling, serving = PAIRS[turn % len(PAIRS)]
        turn += 1
        if {calling, serving} & set(MISSING):
            continue
        with PLACES["unix"]() as place, pair_of(calling, serving, place) as pair:
            story = play(pair, min(20.0, end - time.monotonic()), seed)
        print(f"{calling} calls {serving}: {story}", flush=True)
        if lies := story.lies():
            print("\n".join(lies[:20]))
            return 1
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
