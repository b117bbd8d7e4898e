"""One stream: how far each direction has got, and what waits to be sent.

RFC 9113 (section 5.1) draws one machine of seven states. Here each direction has its own small one,
and their product is the RFC's (idle and closed streams have no object: an id above the highest one
seen is idle, any other is closed):

    NOTHING -> OPEN -> (ENDING) -> CLOSED     `local`: what we sent;  `remote`: what the peer sent

    local \\ remote   NOTHING, OPEN            CLOSED
    not CLOSED       open                     half-closed (remote)
    CLOSED           half-closed (local)      closed: the stream is forgotten

NOTHING means that no headers went this way yet: a response is still to come. ENDING (only `local`)
means that the end is queued behind data which waits for flow control.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from .fields import Field, Fields
from .windows import ReceiveWindow

NOTHING: Final = 0
OPEN: Final = 1
CLOSED: Final = 2
ENDING: Final = 3


class Stream(ReceiveWindow):
    """A stream that is not closed yet."""

    __slots__ = ("body_left", "id", "local", "pending", "remote", "send_window")

    def __init__(
        self, stream_id: int, granted: int, send_window: int, local: int, remote: int
    ) -> None:
        # Not by super(): one call less for each stream.
        self.received = 0
        self.consumed = 0
        self.granted = granted
        self.target = granted
        self.id = stream_id
        self.send_window = send_window
        self.local = local
        self.remote = remote
        #: What does not fit the windows now.
        self.pending: Pending | None = None
        #: Bytes that the peer's content-length promises still; None without one.
        self.body_left: int | None = None


class Pending:
    """What waits on one stream for flow control, and how the stream goes on after it."""

    __slots__ = ("chunks", "end_stream", "is_ready", "size", "stop_receiving", "trailers")

    def __init__(self) -> None:
        self.chunks: deque[memoryview] = deque()
        self.size = 0
        #: Listed among the streams that may send, as opposed to waiting for its own window.
        self.is_ready = False
        #: How it ends, once `chunks` are sent: by END_STREAM on the last of them, or by trailers.
        self.end_stream = False
        self.trailers: tuple[Fields, Iterable[Field]] | None = None
        #: RST_STREAM(NO_ERROR) follows the end.
        self.stop_receiving = False

    def take(self, most: int) -> list[memoryview]:
        """The next `most` bytes, or what there is."""
        taken: list[memoryview] = []
        chunks = self.chunks
        while most > 0 and chunks:
            chunk = chunks[0]
            if len(chunk) > most:
                chunks[0] = chunk[most:]
                chunk = chunk[:most]
            else:
                chunks.popleft()
            taken.append(chunk)
            most -= len(chunk)
            self.size -= len(chunk)
        return taken
