"""Those who call the far side: both protocols, each with both drivers, behind one blocking face.

python -m tests.boundary.callers "vsock://host/{}"      calls `hold` with each of them, and stays
"""

from __future__ import annotations

import asyncio
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import grpc

import hvrpc.grpc
import hvrpc.grpc.aio
import hvrpc.msgpack
from hvrpc import CallError, ConnectionLost, DeadlineExceeded, Outcome, RemoteError

from ..rigs import guard
from ..session.sides import LoopThread
from ..sockets.background import WAIT
from .far_side import PORTS, SERVICE, tell

CALLING: Final = "calling"
"""The line that says that all of them are about to call."""
DEAD_AFTER: Final = 3.0 if guard.is_slow() else 1.0
"""Seconds of silence after which a far side is given up."""


class Caller(ABC):
    """Calls the far side. What an error means is asked by the three `is_…`."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def echo(self, data: bytes) -> bytes: ...
    @abstractmethod
    def run(self, word: str, timeout: float = WAIT) -> str: ...
    @abstractmethod
    def hold(self, word: str, timeout: float | None = None) -> str: ...
    @abstractmethod
    def fail(self, text: str) -> None: ...
    @abstractmethod
    def count(self, number: int) -> list[int]: ...
    @abstractmethod
    def who(self) -> str: ...
    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def is_lost(self, error: BaseException) -> bool:
        """The connection ended, and the call may have been carried out."""

    @abstractmethod
    def is_late(self, error: BaseException) -> bool:
        """The time was up."""

    @abstractmethod
    def is_never_sent(self, error: BaseException) -> bool:
        """There was nobody to send it to."""

    @abstractmethod
    def is_failure(self, error: BaseException, text: str) -> bool:
        """The far side has answered with this."""


class _Msgpack(Caller):
    def is_lost(self, error: BaseException) -> bool:
        return isinstance(error, ConnectionLost) and error.outcome is Outcome.MAY_HAVE_RUN

    def is_late(self, error: BaseException) -> bool:
        return isinstance(error, DeadlineExceeded)

    def is_never_sent(self, error: BaseException) -> bool:
        return isinstance(error, CallError) and error.outcome is Outcome.NOT_SENT

    def is_failure(self, error: BaseException, text: str) -> bool:
        return isinstance(error, RemoteError) and text in str(error)


class MsgpackBlocking(_Msgpack):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client = hvrpc.msgpack.connect(url, timeout=WAIT, dead_after=DEAD_AFTER)

    def echo(self, data: bytes) -> bytes:
        return bytes(self._client.call("echo", data))

    def run(self, word: str, timeout: float = WAIT) -> str:
        return str(self._client.call("run", word, timeout=timeout))

    def hold(self, word: str, timeout: float | None = None) -> str:
        return str(self._client.call("hold", word, timeout=timeout))

    def fail(self, text: str) -> None:
        self._client.call("fail", text)

    def count(self, number: int) -> list[int]:
        with self._client.stream("count", number) as numbers:
            return list(numbers)

    def who(self) -> str:
        return str(self._client.call("who"))

    def close(self) -> None:
        self._client.close(0)


class MsgpackAsyncio(_Msgpack):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._loop = LoopThread(asyncio.new_event_loop)
        try:
            self._client = self._loop.run(self._connect())
        except BaseException:
            self._loop.stop()
            raise

    async def _connect(self) -> hvrpc.msgpack.aio.Client:
        return await hvrpc.msgpack.aio.connect(self.url, timeout=WAIT, dead_after=DEAD_AFTER)

    def _call(self, *params: Any, **settings: Any) -> Any:
        return self._loop.run(self._client.call(*params, **settings))

    def echo(self, data: bytes) -> bytes:
        return bytes(self._call("echo", data))

    def run(self, word: str, timeout: float = WAIT) -> str:
        return str(self._call("run", word, timeout=timeout))

    def hold(self, word: str, timeout: float | None = None) -> str:
        return str(self._call("hold", word, timeout=timeout))

    def fail(self, text: str) -> None:
        self._call("fail", text)

    def count(self, number: int) -> list[int]:
        async def collect() -> list[int]:
            async with await self._client.stream("count", number) as numbers:
                return [each async for each in numbers]

        return self._loop.run(collect())

    def who(self) -> str:
        return str(self._call("who"))

    def close(self) -> None:
        self._loop.run(self._client.close(0))
        self._loop.stop()


OPTIONS: Final = [
    ("grpc.keepalive_time_ms", int(DEAD_AFTER * 500)),
    ("grpc.keepalive_timeout_ms", int(DEAD_AFTER * 500)),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class Grpc(Caller):
    """What both drivers of gRPC have in common. `total` and `chat` only gRPC can."""

    @abstractmethod
    def _unary(self, method: str, request: bytes, **settings: Any) -> bytes: ...
    @abstractmethod
    def total(self, numbers: Sequence[int]) -> int: ...
    @abstractmethod
    def chat(self, words: Sequence[bytes]) -> list[bytes]: ...

    def echo(self, data: bytes) -> bytes:
        return self._unary("echo", data, timeout=WAIT)

    def run(self, word: str, timeout: float = WAIT) -> str:
        answer = self._unary("run", word.encode(), timeout=timeout, wait_for_ready=timeout == WAIT)
        return answer.decode()

    def hold(self, word: str, timeout: float | None = None) -> str:
        return self._unary("hold", word.encode(), timeout=timeout).decode()

    def fail(self, text: str) -> None:
        self._unary("fail", text.encode(), timeout=WAIT)

    def who(self) -> str:
        return self._unary("who", b"", timeout=WAIT).decode()

    def is_lost(self, error: BaseException) -> bool:
        return _code(error) is grpc.StatusCode.UNAVAILABLE

    def is_late(self, error: BaseException) -> bool:
        return _code(error) is grpc.StatusCode.DEADLINE_EXCEEDED

    def is_never_sent(self, error: BaseException) -> bool:
        return self.is_lost(error) or self.is_late(error)

    def is_failure(self, error: BaseException, text: str) -> bool:
        told: Any = error
        return _code(error) is grpc.StatusCode.FAILED_PRECONDITION and told.details() == text


def _code(error: BaseException) -> Any:
    return getattr(error, "code", lambda: None)() if isinstance(error, grpc.RpcError) else None


def _path(method: str) -> str:
    return f"/{SERVICE}/{method}"


class GrpcBlocking(Grpc):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._channel = hvrpc.grpc.insecure_channel(url, options=OPTIONS)

    def _unary(self, method: str, request: bytes, **settings: Any) -> bytes:
        return bytes(self._channel.unary_unary(_path(method))(request, **settings))

    def count(self, number: int) -> list[int]:
        answers = self._channel.unary_stream(_path("count"))(b"%d" % number, timeout=WAIT)
        return [int(each) for each in answers]

    def total(self, numbers: Sequence[int]) -> int:
        requests = (b"%d" % number for number in numbers)
        return int(self._channel.stream_unary(_path("total"))(requests, timeout=WAIT))

    def chat(self, words: Sequence[bytes]) -> list[bytes]:
        return list(self._channel.stream_stream(_path("chat"))(iter(words), timeout=WAIT))

    def close(self) -> None:
        self._channel.close()


class GrpcAsyncio(Grpc):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._loop = LoopThread(asyncio.new_event_loop)
        self._channel = self._loop.run(self._open())

    async def _open(self) -> Any:
        return hvrpc.grpc.aio.insecure_channel(self.url, options=OPTIONS)

    def _do(self, action: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self._loop.run(action())

    def _unary(self, method: str, request: bytes, **settings: Any) -> bytes:
        async def call() -> bytes:
            return bytes(await self._channel.unary_unary(_path(method))(request, **settings))

        return self._loop.run(call())

    def count(self, number: int) -> list[int]:
        async def call() -> list[int]:
            answers = self._channel.unary_stream(_path("count"))(b"%d" % number, timeout=WAIT)
            return [int(each) async for each in answers]

        return self._loop.run(call())

    def total(self, numbers: Sequence[int]) -> int:
        async def call() -> int:
            requests = (b"%d" % number for number in numbers)
            return int(await self._channel.stream_unary(_path("total"))(requests, timeout=WAIT))

        return self._loop.run(call())

    def chat(self, words: Sequence[bytes]) -> list[bytes]:
        async def call() -> list[bytes]:
            answers = self._channel.stream_stream(_path("chat"))(iter(words), timeout=WAIT)
            return [each async for each in answers]

        return self._loop.run(call())

    def close(self) -> None:
        self._loop.run(self._channel.close())
        self._loop.stop()


CALLERS: Final[dict[str, tuple[Callable[[str], Caller], tuple[str, ...]]]] = {
    # who calls: how it is made, and which servers of the far side understand it
    "msgpack": (MsgpackBlocking, ("msgpack", "msgpack.aio")),
    "msgpack.aio": (MsgpackAsyncio, ("msgpack.aio", "msgpack")),
    "grpc": (GrpcBlocking, ("grpc", "grpc.aio")),
    "grpc.aio": (GrpcAsyncio, ("grpc.aio", "grpc")),
}


def call_and_stay(where: str) -> None:
    """Be in the midst of a call with each of the callers, until this process is ended."""
    callers = {name: make(where.format(PORTS[name])) for name, (make, _) in CALLERS.items()}
    threads = [
        threading.Thread(target=partial(caller.hold, name)) for name, caller in callers.items()
    ]
    for thread in threads:
        thread.start()
    tell(CALLING)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    call_and_stay(sys.argv[1])
