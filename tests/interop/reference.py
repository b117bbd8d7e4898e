"""The smallest msgpack-RPC server and client: the specification in a hundred lines.

Raw sockets and a codec, nothing of hvrpc. The peers' programs are held against it, so that what
they say about hvrpc can be trusted.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgpack

REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2


class Failure(Exception):
    """The other side answered with an error, whatever its shape."""


class _Messages:
    """Messages of one connection, whole, whatever the pieces they come in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)

    def send(self, *messages: list[Any]) -> None:
        packed: Any = map(msgpack.packb, messages)  # each is bytes; the library's types say less
        self._connection.sendall(b"".join(packed))

    def __iter__(self) -> Iterator[list[Any]]:
        """All messages until the other side closes. Can be iterated again after a break."""
        while True:
            yield from self._unpacker
            data = self._connection.recv(65536)
            if not data:
                return
            self._unpacker.feed(data)


class ReferenceClient:
    """Calls over a UNIX socket, one at a time or many in one write."""

    def __init__(self, path: Path, timeout: float = 20.0) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(timeout)
        self._connection.connect(str(path))
        self._messages = _Messages(self._connection)
        self._ids = itertools.count(1)

    def call(self, method: str, params: list[Any]) -> Any:
        return self.call_many([(method, params)])[0]

    def call_many(self, calls: list[tuple[str, list[Any]]]) -> list[Any]:
        """All requests in one write; the results in the order of the calls."""
        ids = [next(self._ids) for _ in calls]
        self._messages.send(
            *([REQUEST, msgid, *call] for msgid, call in zip(ids, calls, strict=True))
        )
        replies = self._collect(set(ids))
        for _, _, error, _ in replies:
            if error is not None:
                raise Failure(error)
        results = {msgid: result for _, msgid, _, result in replies}
        return [results[msgid] for msgid in ids]

    def order_of_replies(self, calls: list[tuple[str, list[Any]]]) -> list[Any]:
        """The results in the order in which they came."""
        ids = [next(self._ids) for _ in calls]
        self._messages.send(
            *([REQUEST, msgid, *call] for msgid, call in zip(ids, calls, strict=True))
        )
        return [result for _, _, _, result in self._collect(set(ids))]

    def _collect(self, wanted: set[int]) -> list[list[Any]]:
        replies = []
        for message in self._messages:
            if message[0] == RESPONSE and message[1] in wanted:
                wanted.remove(message[1])
                replies.append(message)
            if not wanted:
                return replies
        raise ConnectionError(f"closed with {len(wanted)} calls unanswered")

    def notify(self, method: str, params: list[Any]) -> None:
        self._messages.send([NOTIFICATION, method, params])

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> ReferenceClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # gone already
        pass


class ReferenceServer:
    """Serves ``echo``, ``add``, ``fail``, ``slow``, ``note``, ``notes`` and ``nested``."""

    def __init__(self, path: Path, timeout: float = 20.0) -> None:
        self._timeout = timeout
        self._noted: list[Any] = []
        self._methods: dict[str, Callable[..., Any]] = {
            "echo": lambda x: x,
            "add": lambda a, b: a + b,
            "fail": self._fail,
            "slow": self._slow,
            "note": self._noted.append,
            "notes": lambda: self._noted,
        }
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._start(self._accept)

    def _fail(self, text: str) -> None:
        raise Failure(text)

    def _slow(self, seconds: float, x: Any) -> Any:
        time.sleep(seconds)
        return x

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the listener was shut down
                return
            connection.settimeout(self._timeout)
            self._connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        messages = _Messages(connection)
        try:
            for message in messages:
                self._handle(messages, message)
        except OSError:  # the peer left in the middle, or we are closing
            pass
        _shut_down(connection)  # a peer that has said its last word waits for ours

    def _handle(self, messages: _Messages, message: list[Any]) -> None:
        if message[0] == REQUEST:
            _, msgid, name, params = message
            try:
                messages.send([RESPONSE, msgid, None, self._result(messages, name, params)])
            except Failure as failure:
                messages.send([RESPONSE, msgid, str(failure), None])
        elif message[0] == NOTIFICATION:
            _, name, params = message
            if name in self._methods:  # pynvim introduces itself by one that we do not have
                self._methods[name](*params)

    def _result(self, messages: _Messages, name: str | bytes, params: list[Any]) -> Any:
        name = name.decode() if isinstance(name, bytes) else name
        if name == "nested":
            return self._call_back(messages, *params)
        if name not in self._methods:
            raise Failure(f"no method {name}")
        return self._methods[name](*params)

    def _call_back(self, messages: _Messages, method: str, params: list[Any]) -> Any:
        """Call the peer that is waiting for us, over the same connection."""
        msgid = 1
        messages.send([REQUEST, msgid, method, params])
        for message in messages:
            if message[:2] == [RESPONSE, msgid]:
                if message[2] is not None:
                    raise Failure(f"{method} failed: {message[2]}")
                return message[3]
            self._handle(messages, message)
        raise ConnectionError("the peer left while it was called")

    def close(self) -> None:
        for each in (self._listener, *self._connections):
            _shut_down(each)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._connections):
            each.close()

    def __enter__(self) -> ReferenceServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
