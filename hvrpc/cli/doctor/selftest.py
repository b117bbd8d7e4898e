"""A short battery between two processes: what a VM socket has to do, tried for real.

Each step says what it promises, and tells figures whether it succeeds or not; those that fail say by
which error. Nothing here is measured against a limit of speed.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from ... import sockets
from ...addresses import Address, HvsockAddress, LocalAddress, VsockAddress
from ...errors import ConnectError, HvrpcError, TransportTimeout
from ...sockets import Stream
from .farside import CHUNK, FarSide, pattern, read_line, send_line

TIMEOUT: Final = 20.0
"""Seconds for any one wait."""
AWAY: Final = 60.0
"""Seconds that the other end may take to come back, a child of somebody else's included."""
ROUND_TRIPS: Final = 1000
CONNECTIONS: Final = 50
CLOSED_AFTER: Final = 1024 * 1024
"""Bytes that are sent before a close: more than the largest ring of hv_sock holds (256 KiB)."""
NOBODY: Final = 0x3FFF_FF01
"""A port that nobody uses."""


class Broken(Exception):
    """A step has not kept what it promises."""


@dataclass
class Step:
    """What became of a step."""

    name: str
    passed: bool
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None


@dataclass
class Battery:
    """The steps, on the line between this process and the other end."""

    address: Address
    megabytes: int
    far: FarSide | None
    """The other end, if it is a child of this process."""

    def run(self, tell: Callable[[Step], None]) -> list[Step]:
        """Take all steps. Without a connection in the first one there is nothing to go on with."""
        done: list[Step] = []
        for name, step in STEPS.items():
            done.append(self._take(name, step))
            tell(done[-1])
            if not done[0].passed:
                break
        return done

    def _take(self, name: str, step: Callable[[Battery], dict[str, Any]]) -> Step:
        began = time.perf_counter()
        try:
            figures, error = step(self), None
        except (HvrpcError, Broken, ValueError, OSError, LookupError, TypeError) as failed:
            figures, error = {}, _told(failed)
        return Step(name, error is None, round(time.perf_counter() - began, 3), figures, error)

    @contextmanager
    def asking(self, do: str, **more: object) -> Iterator[Stream]:
        """A connection on which the other end does something."""
        with sockets.connect(self.address, timeout=TIMEOUT) as stream:
            stream.timeout = TIMEOUT
            send_line(stream, {"do": do, **more})
            yield stream


def _told(error: BaseException) -> dict[str, Any]:
    """An error as the report has it: the system's number is what we learn from."""
    cause = error.__cause__
    return {
        "type": type(error).__name__,
        "text": str(error),
        "errno": getattr(error, "errno", None),
        "cause": None if cause is None else f"{type(cause).__name__}: {cause}",
    }


# --- The steps -----------------------------------------------------------------------------------


def connects(battery: Battery) -> dict[str, Any]:
    """Connect, and ask the other end who we are."""
    began = time.perf_counter()
    with battery.asking("who") as stream:
        took = time.perf_counter() - began
        answer = json.loads(read_line(stream))
        return {
            "after_ms": _ms(took),
            "we_are": answer["you"],
            "it_is": str(stream.peer),
            "details": answer,
        }


def nobody_listens(battery: Battery) -> dict[str, Any]:
    """A service that nobody offers is an error in time; which one differs, and is told."""
    somewhere = _with_port(battery.address, NOBODY)
    if somewhere is None:
        return {"left_out": "the address has no port to change"}
    began = time.perf_counter()
    try:
        sockets.connect(somewhere, timeout=3).abort()
    except ConnectError as error:
        took = time.perf_counter() - began
        return {"after_ms": _ms(took), "answer": type(error).__name__, "details": _told(error)}
    raise Broken(f"somebody answered at {somewhere}")


def _with_port(address: Address, port: int) -> Address | None:
    known = isinstance(address, HvsockAddress | LocalAddress | VsockAddress)
    return address.with_port(port) if known else None


def echoes(battery: Battery) -> dict[str, Any]:
    """What is sent comes back, whatever its size."""
    for size in (1, 1000, 4096, 65_536, 300_000):
        data = b"".join(pattern(size))
        with battery.asking("echo") as stream:
            sender = threading.Thread(target=_send, args=(stream, data), daemon=True)
            sender.start()
            _same(stream.recv_exactly(size), data)
            sender.join(TIMEOUT)
    return {}


def _send(stream: Stream, data: bytes) -> None:
    try:
        stream.sendall(data)
    except HvrpcError:
        pass  # who receives learns it too


def half_closes(battery: Battery) -> dict[str, Any]:
    """After the end of one direction the other one goes on."""
    with battery.asking("sink") as stream:
        stream.sendall(b"".join(pattern(CHUNK)))
        stream.shutdown_write()
        answer = json.loads(read_line(stream))
        _check(answer["bytes"] == CHUNK, f"{answer['bytes']} of {CHUNK} bytes had arrived")
        rest = stream.recv(1)
        _check(rest == b"", "the other end did not close")
    return {}


def closing_loses_nothing(battery: Battery) -> dict[str, Any]:
    """What was sent before a close arrives, although the reader is slow."""
    wanted, got = b"".join(pattern(CLOSED_AFTER)), bytearray()
    with battery.asking("source", bytes=CLOSED_AFTER) as stream:
        time.sleep(0.2)  # the other end has sent what fits, and is about to close
        while data := stream.recv(1000):
            got += data
        ended_by = stream.ended_by
    _check(len(got) == CLOSED_AFTER, f"{len(got)} of {CLOSED_AFTER} bytes arrived ({ended_by})")
    _same(bytes(got), wanted)
    return {"ended_by": None if ended_by is None else str(ended_by)}


def large_to_here(battery: Battery) -> dict[str, Any]:
    """A large transfer from the other end."""
    size = battery.megabytes * 1024 * 1024
    wanted, found, got = hashlib.sha256(), hashlib.sha256(), 0
    began = time.perf_counter()
    with battery.asking("source", bytes=size) as stream:
        while data := stream.recv(CHUNK):
            found.update(data)
            got += len(data)
    took = time.perf_counter() - began
    for part in pattern(size):
        wanted.update(part)
    _check(got == size, f"{got} of {size} bytes arrived")
    _check(found.digest() == wanted.digest(), "other bytes came than were sent")
    return {"megabytes_per_s": round(battery.megabytes / took, 1)}


def large_from_here(battery: Battery) -> dict[str, Any]:
    """A large transfer to the other end."""
    size = battery.megabytes * 1024 * 1024
    sent = hashlib.sha256()
    began = time.perf_counter()
    with battery.asking("sink") as stream:
        for part in pattern(size):
            stream.sendall(part)
            sent.update(part)
        stream.shutdown_write()
        answer = json.loads(read_line(stream))
    took = time.perf_counter() - began
    _check(answer["bytes"] == size, f"{answer['bytes']} of {size} bytes arrived")
    _check(answer["sha256"] == sent.hexdigest(), "other bytes arrived than were sent")
    return {"megabytes_per_s": round(battery.megabytes / took, 1)}


def many_at_once(battery: Battery) -> dict[str, Any]:
    """Many connections that are open at the same time."""
    together = threading.Barrier(CONNECTIONS)

    def one(number: int) -> None:
        try:
            with battery.asking("echo") as stream:
                together.wait(TIMEOUT)
                word = f"connection {number}".encode()
                stream.sendall(word)
                _same(stream.recv_exactly(len(word)), word)
        except BaseException:
            together.abort()  # the others need not wait for this one
            raise

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        failures = [pool.submit(one, number).exception for number in range(CONNECTIONS)]
        errors = [error for failure in failures if (error := failure()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    _check(not errors, f"not all of {CONNECTIONS} connections were open at once")
    return {"connections": CONNECTIONS}


def timeouts(battery: Battery) -> dict[str, Any]:
    """Waiting for what does not come ends when it was said to."""
    with battery.asking("echo") as stream:
        stream.timeout = 0.3
        began = time.perf_counter()
        try:
            stream.recv(1)
        except TransportTimeout:
            took = time.perf_counter() - began
        else:
            raise Broken("something came that nobody had sent")
        stream.timeout = TIMEOUT
        stream.sendall(b"?")
        _same(stream.recv_exactly(1), b"?")
    return {"asked_ms": 300, "took_ms": _ms(took)}


def latency(battery: Battery) -> dict[str, Any]:
    """How long a small question takes."""
    question, times = bytes(100), []
    with battery.asking("echo") as stream:
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            stream.sendall(question)
            stream.recv_exactly(len(question))
            times.append(time.perf_counter() - began)
    cuts = statistics.quantiles(times, n=100)
    names = {"p50_us": cuts[49], "p90_us": cuts[89], "p99_us": cuts[98], "max_us": max(times)}
    return {name: round(seconds * 1_000_000, 1) for name, seconds in names.items()}


def notices_a_kill(battery: Battery) -> dict[str, Any]:
    """The end of the other process, in the middle of a transfer, is noticed."""
    waiting = battery.asking("source", bytes=1 << 30) if battery.far else battery.asking("die")
    with waiting as stream:
        stream.recv_exactly(CHUNK)
        began = time.perf_counter()
        if battery.far is not None:
            battery.far.kill()
        else:
            stream.sendall(b"!")
        while stream.recv(CHUNK):
            pass
        ended_by = stream.ended_by
        took = time.perf_counter() - began
    return {"noticed_ms": _ms(took), "ended_by": None if ended_by is None else str(ended_by)}


def comes_back(battery: Battery) -> dict[str, Any]:
    """After the other process was started again, the next connection works."""
    began = time.perf_counter()
    if battery.far is not None:
        battery.far.start()
    tries = 0
    while True:
        tries += 1
        try:
            with battery.asking("echo") as stream:
                stream.sendall(b"?")
                _same(stream.recv_exactly(1), b"?")
            return {"after_ms": _ms(time.perf_counter() - began), "tries": tries}
        except HvrpcError:
            if time.perf_counter() - began > AWAY:
                raise
            time.sleep(0.2)


STEPS: Final[dict[str, Callable[[Battery], dict[str, Any]]]] = {
    "connect": connects,
    "nobody listens": nobody_listens,
    "echo of five sizes": echoes,
    "half close": half_closes,
    "close loses nothing": closing_loses_nothing,
    "large transfer to here": large_to_here,
    "large transfer from here": large_from_here,
    f"{CONNECTIONS} connections at once": many_at_once,
    "timeout": timeouts,
    "latency": latency,
    "kill in mid-transfer": notices_a_kill,
    "next connection after it": comes_back,
}


def _check(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise Broken(otherwise)


def _same(found: bytes, wanted: bytes) -> None:
    _check(found == wanted, f"other bytes came back than the {len(wanted)} that were sent")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
