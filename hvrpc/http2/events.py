"""What a connection tells its owner.

An event is a plain tuple `(kind, stream_id, value, flag)`: making a tuple takes a quarter of the
time of making an object with slots (54 against 235 ns on the machine where this was decided), and
a small call has five of them.

| kind             | stream_id | value                     | flag                        |
|------------------|-----------|---------------------------|-----------------------------|
| HEADERS_RECEIVED | stream    | `Headers`                 | the peer ended the stream   |
| DATA_RECEIVED    | stream    | `bytes`                   | the peer ended the stream   |
| TRAILERS_RECEIVED| stream    | `Headers`                 | True                        |
| STREAM_RESET     | stream    | (error code, reason)      | True: the peer reset it     |
| STREAM_WRITABLE  | stream    | None                      | False                       |
| SETTINGS_RECEIVED| 0         | dict of what they said    | True: their first           |
| SETTINGS_TAKEN   | 0         | None                      | False                       |
| PING_RECEIVED    | 0         | 8 bytes (was answered)    | False                       |
| PONG_RECEIVED    | 0         | 8 bytes                   | False                       |
| GOAWAY_RECEIVED  | last id   | (error code, debug bytes) | False                       |

* DATA comes in pieces as it arrived, not in frames: a frame may be several events. Each byte must
  be acknowledged by `Connection.consumed`.
* A stream lives until both sides have ended it. A client whose call is answered while it still
  sends, and which does not want to go on, resets it (`reset_stream` with NO_ERROR or CANCEL).
* STREAM_RESET ends a stream that the owner knew. With REFUSED_STREAM *from the peer* it was
  provably not processed (this is also how streams end that a GOAWAY leaves out).
* STREAM_WRITABLE: all that was queued for flow control has gone to `outgoing`.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Event: TypeAlias = tuple[int, int, Any, bool]

DATA_RECEIVED: Final = 0
HEADERS_RECEIVED: Final = 1
TRAILERS_RECEIVED: Final = 2
STREAM_RESET: Final = 3
STREAM_WRITABLE: Final = 4
SETTINGS_RECEIVED: Final = 5
SETTINGS_TAKEN: Final = 6
PING_RECEIVED: Final = 7
PONG_RECEIVED: Final = 8
GOAWAY_RECEIVED: Final = 9
