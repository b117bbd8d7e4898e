"""Telling a channel of the C core why it does not get through, in words.

Of an HTTP proxy's refusal it shows a number. Where trying again is no use, because somebody else is there
than the one who is expected, we answer as a gRPC server instead: for a while every call ends with
PERMISSION_DENIED and the reason, as it does in our own engine. Then the channel is sent away, and its
next call looks again.
"""

from __future__ import annotations

import time
from typing import Final

import grpc

from ...errors import HvrpcError, TransportTimeout
from ...http2 import DATA_RECEIVED, HEADERS_RECEIVED, Connection, Http2Error, Role
from ...sockets import Stream
from ..status import encode_message
from ..wire import status_fields

REFUSE_FOR: Final = 5.0
"""Seconds for which an answer stands. A channel that asks again connects again, and costs a look."""
LEAVE_WITHIN: Final = 2.0
"""Seconds for the C core to go when it was asked to."""
CHUNK: Final = 64 * 1024


def refuse_calls(stream: Stream, error: HvrpcError) -> None:
    """Speak HTTP/2, and end every call with what the error says. Closes the stream."""
    connection = Connection(Role.SERVER)
    until = time.monotonic() + REFUSE_FOR
    try:
        while True:
            if connection.outgoing:
                data = b"".join(connection.outgoing)
                connection.outgoing.clear()
                stream.sendall(data)
            if connection.is_drained:
                break  # with its last GOAWAY on the way: what is not answered is sent elsewhere
            left = until - time.monotonic()
            if left <= 0:
                if connection.is_draining:
                    break
                connection.drain()
                until = time.monotonic() + LEAVE_WITHIN
                continue
            stream.timeout = left
            try:
                received = stream.recv(CHUNK)
            except TransportTimeout:
                continue
            if not received:
                break
            connection.feed(received)
            _answer(connection, str(error))
    except (HvrpcError, Http2Error):
        pass  # it has gone, or does not speak HTTP/2: the reason is logged anyway
    finally:
        stream.close()


def _answer(connection: Connection, reason: str) -> None:
    message = (b"grpc-message", encode_message(reason))
    for kind, stream_id, value, ended in connection.take_events():
        if kind == HEADERS_RECEIVED:
            fields = status_fields(grpc.StatusCode.PERMISSION_DENIED, alone=True)
            connection.send_trailers(stream_id, fields, [message])
            if not ended:
                connection.stop_receiving(stream_id)
        elif kind == DATA_RECEIVED:
            connection.consumed(stream_id, len(value))
