"""What really went over the wire: a relay that understands it.

It stands between a channel and a server, and passes everything on as it is. A copy is read by the
`h2` library, which has nothing to do with either engine.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from ...sockets.background import WAIT, wait_until
from .engines import unix_socket

CHUNK = 65536
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class Side:
    """What one side has said in one call."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)

    @property
    def encoding(self) -> str | None:
        return self.headers.get("grpc-encoding")

    @property
    def messages(self) -> list[tuple[bool, bytes]]:
        """Each with whether it is compressed, as it was sent."""
        found, at = [], 0
        while at < len(self.data):
            flag, length = struct.unpack_from(">?I", self.data, at)
            found.append((flag, bytes(self.data[at + 5 : at + 5 + length])))
            at += 5 + length
        return found


class _Listener:
    """Reads what one side says, as the other side would."""

    def __init__(self, *, from_client: bool) -> None:
        config = h2.config.H2Configuration(
            client_side=not from_client,
            header_encoding="utf-8",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
        )
        self._from_client = from_client
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self.streams: dict[int, Side] = {}

    def hear(self, data: bytes, streams_opened: list[int]) -> None:
        connection: Any = self._connection
        if not self._from_client:
            # The answers are to requests that this one has never made itself.
            for stream_id in streams_opened:
                if stream_id not in self.streams:
                    self.streams[stream_id] = Side()
                    connection.send_headers(
                        stream_id,
                        [
                            (":method", "POST"),
                            (":scheme", "http"),
                            (":path", "/"),
                            (":authority", "x"),
                        ],
                        end_stream=True,
                    )
        for event in connection.receive_data(data):
            self._note(event)

    def _note(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
            self.streams.setdefault(event.stream_id, Side()).headers.update(_texts(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self.streams[event.stream_id].data += event.data
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
        elif isinstance(event, h2.events.TrailersReceived):
            self.streams[event.stream_id].trailers.update(_texts(event.headers))


def _texts(headers: Any) -> dict[str, str]:
    return dict(headers)


class Wiretap:
    """Listens at `path` for one connection, and passes it on to `target`."""

    def __init__(self, path: Path, bench: Any) -> None:
        self.path = path
        self._bench = bench
        self._listener = unix_socket()
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._client = _Listener(from_client=True)
        self._server = _Listener(from_client=False)
        self._start(self._accept)

    def channel(self, **settings: Any) -> Any:
        """A channel to the server started last, tapped."""
        return self._bench.channel(to=self.path, **settings)

    @property
    def request(self) -> Side:
        """What the caller said in the call that was begun last."""
        with self._lock:
            return self._client.streams[max(self._client.streams)]

    @property
    def response(self) -> Side:
        """What the server answered. Its end may have to be waited for."""
        number = max(self._client.streams)
        wait_until(lambda: self._server.streams.get(number, Side()).trailers, "it has ended")
        with self._lock:
            return self._server.streams[number]

    def _start(self, function: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, name="wiretap", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        server = unix_socket()
        self._sockets += [client, server]
        server.connect(str(self._bench.path))
        self._start(self._pass_on, client, server, self._client)
        self._start(self._pass_on, server, client, self._server)

    def _pass_on(self, source: socket.socket, to: socket.socket, listener: _Listener) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                with self._lock:
                    listener.hear(data, sorted(self._client.streams))
                to.sendall(data)
        for each in (source, to):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT)
        for each in self._sockets:
            each.close()
