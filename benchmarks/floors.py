"""The floors: what a socket can do with nothing, or next to nothing, on top.

`raw` sends a length and bytes, and the server sends them back. `rawmp` does the same with bare
msgpack-RPC messages: no ids to look up, no errors, no threads, no limits. Nobody would use either;
they say how far below a real library the ground is.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack

HEAD = struct.Struct(">I")
CHUNK = 65536


def receive_exactly(sock: socket.socket, view: memoryview) -> None:
    got = 0
    while got < len(view):
        n = sock.recv_into(view[got:])
        if n == 0:
            raise EOFError
        got += n


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    return listener


def dial(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def serve_raw(path: str) -> None:
    listener = listen(path)
    print("ready", flush=True)
    while True:
        sock, _ = listener.accept()
        try:
            _echo_raw(sock)
        except (EOFError, OSError):
            sock.close()


def _echo_raw(sock: socket.socket) -> None:
    room = bytearray(2 * 1024 * 1024)
    view = memoryview(room)
    while True:
        data = sock.recv(CHUNK)
        if not data:
            raise EOFError
        if len(data) >= 4 and len(data) == 4 + HEAD.unpack_from(data)[0]:
            sock.sendall(data)  # the usual case: one small message
            continue
        view[: len(data)] = data
        size = len(data)
        while size < 4 or size < 4 + HEAD.unpack_from(room)[0]:
            n = sock.recv_into(view[size:])
            if n == 0:
                raise EOFError
            size += n
        sock.sendall(view[:size])


class Raw:
    """Length-prefixed ping-pong."""

    def __init__(self, path: str) -> None:
        self._sock = dial(path)
        self._room = bytearray(2 * 1024 * 1024)
        self._view = memoryview(self._room)

    def echo(self, data: bytes) -> bytes:
        message = HEAD.pack(len(data)) + data
        self._sock.sendall(message)
        answer = self._sock.recv(CHUNK)
        if len(answer) == len(message):
            return answer[4:]
        raise EOFError

    def echo_large(self, data: bytes) -> bytes:
        self._sock.sendmsg((HEAD.pack(len(data)), data[: CHUNK // 2]))
        self._sock.sendall(memoryview(data)[CHUNK // 2 :])
        view = self._view[: 4 + len(data)]
        receive_exactly(self._sock, view)
        return bytes(view[4:])


def serve_rawmp(path: str) -> None:
    listener = listen(path)
    print("ready", flush=True)
    while True:
        sock, _ = listener.accept()
        _echo_rawmp(sock)
        sock.close()


def _echo_rawmp(sock: socket.socket) -> None:
    unpacker = msgpack.Unpacker(max_buffer_size=1 << 28)
    pack = msgpack.Packer().pack
    fed = 0
    while data := sock.recv(CHUNK):
        unpacker.feed(data)
        fed += len(data)
        answers = []
        while unpacker.tell() != fed:
            try:
                message = unpacker.unpack()
            except msgpack.OutOfData:
                break
            answers.append(pack((1, message[1], None, message[3][0])))
        if answers:
            sock.sendall(b"".join(answers))


class RawMsgpack:
    """Bare messages, nothing looked up, nothing checked."""

    def __init__(self, path: str) -> None:
        self._sock = dial(path)
        self._unpacker = msgpack.Unpacker(max_buffer_size=1 << 28)
        self._pack = msgpack.Packer().pack
        self._id = 0

    def echo(self, value: Any) -> Any:
        self._id += 1
        self._sock.sendall(self._pack((0, self._id, "echo", (value,))))
        self._unpacker.feed(self._sock.recv(CHUNK))
        return self._unpacker.unpack()[3]

    def pipeline(self, value: Any, depth: int) -> None:
        messages = []
        for _ in range(depth):
            self._id += 1
            messages.append(self._pack((0, self._id, "echo", (value,))))
        self._sock.sendall(b"".join(messages))
        left = depth
        while left:
            self._unpacker.feed(self._sock.recv(CHUNK))
            for _ in self._unpacker:
                left -= 1
