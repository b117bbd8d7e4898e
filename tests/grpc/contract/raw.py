"""Peers that say what no honest peer says: frames by the `hyperframe` and `hpack` libraries."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hpack
from hyperframe import frame as wire
from hyperframe.frame import Frame

from ...sockets.background import WAIT
from .engines import unix_socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Fields = Sequence[tuple[str, str]]

REQUEST: Fields = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/contract.Service/Method"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
RESPONSE: Fields = ((":status", "200"), ("content-type", "application/grpc"))
GOOD: Fields = (("grpc-status", "0"),)


def changed(fields: Fields, **changes: str | None) -> Fields:
    """The same fields with others in their place; None leaves one out. `_` stands for `-`."""
    new = {name.replace("_", "-"): value for name, value in changes.items()}
    kept = [(name, new.pop(name, value)) for name, value in fields]
    return [(name, value) for name, value in [*kept, *new.items()] if value is not None]


def message(payload: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message, or what looks like one."""
    return struct.pack(">BI", flag, len(payload) if length is None else length) + payload


class Raw:
    """One end of a connection, driven by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(WAIT)
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._buffer = b""

    def send(self, *frames: Frame | bytes) -> None:
        data = b"".join(each if isinstance(each, bytes) else each.serialize() for each in frames)
        self.sock.sendall(data)

    def headers(self, stream: int, fields: Fields, *, end: bool = False) -> Frame:
        flags = ["END_HEADERS", *(["END_STREAM"] if end else [])]
        return wire.HeadersFrame(stream, self._encoder.encode(fields), flags=flags)

    @staticmethod
    def data(stream: int, data: bytes, *, end: bool = False) -> Frame:
        return wire.DataFrame(stream, data, flags=["END_STREAM"] if end else [])

    @staticmethod
    def reset(stream: int, code: int) -> Frame:
        return wire.RstStreamFrame(stream, code)

    def frames(self) -> Iterator[Frame]:
        """What the other side says, until it hangs up."""
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        header = self._exactly(9)
        if header is None:
            return None
        frame, length = Frame.parse_frame_header(memoryview(header))
        frame.parse_body(memoryview(self._exactly(length) or b""))
        return frame

    def _exactly(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def fields_of(self, frame: Any) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._decoder.decode(frame.data)}


class RawClient(Raw):
    """Connected to a server, with greetings exchanged."""

    def __init__(self, path: Path, *, greet: bool = True) -> None:
        sock = unix_socket()
        sock.connect(str(path))
        super().__init__(sock)
        if greet:
            self.send(PREFACE, wire.SettingsFrame(0), wire.SettingsFrame(0, flags=["ACK"]))

    def ask(self, fields: Fields, *data: bytes, stream: int = 1) -> None:
        """A request with this data, all of it."""
        self.send(self.headers(stream, fields, end=not data))
        for piece in data:
            self.send(self.data(stream, piece, end=piece is data[-1]))

    def answer(self, stream: int = 1) -> dict[str, str]:
        """All fields of the answer, trailers included; `reset` if it ended by one, `gone` without."""
        told: dict[str, str] = {}
        for frame in self.frames():
            if isinstance(frame, wire.HeadersFrame):
                fields = self.fields_of(frame)  # each, or the table gets out of step
                if frame.stream_id == stream:
                    told |= fields
            if frame.stream_id != stream:
                continue
            if isinstance(frame, wire.RstStreamFrame):
                return {**told, "reset": str(frame.error_code)}
            if "END_STREAM" in frame.flags:
                return told
        return {**told, "gone": "yes"}

    def is_closed(self) -> bool:
        """Whether the other side hangs up, whatever it says before."""
        for _ in self.frames():
            pass
        return True

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


class RawServer:
    """Takes connections one after the other, and has a function talk to each."""

    def __init__(self, path: Path, *talks: Callable[[Raw], None]) -> None:
        self._talks = talks
        self._listener = unix_socket()
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._connections: list[socket.socket] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._run, name="raw server", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """The last function talks to all connections that are left."""
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._connections.append(sock)
                talk = self._talks[min(self.connections, len(self._talks) - 1)]
                self.connections += 1
                with contextlib.suppress(OSError, StopIteration):
                    talk(Raw(sock))

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(WAIT)
        for sock in (self._listener, *self._connections):
            sock.close()


def greeted(talk: Callable[[Raw, int], None]) -> Callable[[Raw], None]:
    """Greet, wait for the first request with its data, and then talk about it until the end."""

    def run(raw: Raw) -> None:
        raw._exactly(len(PREFACE))
        raw.send(wire.SettingsFrame(0), wire.SettingsFrame(0, flags=["ACK"]))
        for frame in raw.frames():
            if isinstance(frame, wire.HeadersFrame):
                raw.fields_of(frame)
            if frame.stream_id and "END_STREAM" in frame.flags:
                talk(raw, frame.stream_id)

    return run


def answering(
    headers: Fields | None = RESPONSE, data: bytes = b"", trailers: Fields | None = GOOD
) -> Callable[[Raw], None]:
    """Answer every request like this."""

    def answer(raw: Raw, stream: int) -> None:
        if headers is not None:
            raw.send(raw.headers(stream, headers, end=not data and trailers is None))
        if data:
            raw.send(raw.data(stream, data, end=trailers is None))
        if trailers is not None:
            raw.send(raw.headers(stream, trailers, end=True))

    return greeted(answer)
