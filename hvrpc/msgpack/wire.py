"""msgpack-RPC on the wire: bytes to messages, messages to bytes. No I/O.

    request       [0, id, method, params]
    response      [1, id, error, result]
    notification  [2, method, params]

Messages follow one another without any framing; a streaming decoder finds their ends. Two things
are faster here than the obvious way, and are why this file exists:

* asking the codec for a message that is not there costs more than decoding one, so each message comes
  with where it ended, and the last is known by that;
* a large `bytes` value at the end of a message does not pass through the codec. It is received
  where it will stay (`target`), and sent as it is, behind its envelope.
"""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgpack

from ..errors import ProtocolError
from . import writers
from .limits import Limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

REQUEST: Final = 0
RESPONSE: Final = 1
NOTIFICATION: Final = 2

LARGE: Final = 32 * 1024
"""Bytes from which a value travels beside the codec."""
TOGETHER: Final = 32 * 1024
"""How much of a large value is sent in one piece with its envelope, so that the receiver sees both."""
KEPT_MESSAGE: Final = 256 * 1024
"""Bytes of a message that arrives in pieces that are kept, beside the codec's, in case it cannot be read."""
KEPT_BUFFER: Final = 1024 * 1024
"""A packer that had to grow beyond this is not kept."""

SCRATCH: Final = 2 * 1024 * 1024
"""Bytes of a buffer in which large values are put together. New memory is zeroed, and mapped page by
page: for a megabyte that takes as long as receiving it, so these are kept for the next one."""
MAX_SCRATCHES: Final = 4
TAIL: Final = 512
"""Bytes at the end of a large value that go through a buffer, at most."""

FIRST_BUFFER: Final = 4 * 1024
"""What a codec sets aside for a connection that may never say much; it grows with use."""

ONLY: Final = 1024
"""Bytes that are looked at as one message, before the codec that can wait for the rest: more are many messages
as a rule, and finding that out takes as long as decoding ten."""
TIMESTAMP: Final = 0xFF
"""The type of msgpack's timestamps: what has no such byte has none. A number, because looking for bytes in
bytes takes as long as decoding them does."""

LEAST: Final = 4 * 1024
"""Bytes of a large value that must have arrived before room is made for the rest."""
TRUST: Final = 64
"""How many times what has arrived is set aside at first, for a length that a peer claims."""

_TIMESTAMPS_AS_DATETIME: Final = 3

_FIXARRAY_4: Final = 0x94
_FIXARRAY_1: Final = 0x91
_NIL: Final = 0xC0
_BIN32: Final = 0xC6
_UINT_SIZES: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4}
_STR_SIZES: Final = {0xD9: 1, 0xDA: 2, 0xC4: 1, 0xC5: 2}
_LONGEST_HEAD: Final = 1 + 1 + 5 + 3 + 256 * 4 + 1 + 5


def broken(problem: str, error: BaseException | None = None) -> ProtocolError:
    """The error for a peer that does not speak msgpack-RPC."""
    found = ProtocolError(problem, remedy="check that the other side speaks msgpack-RPC")
    found.__cause__ = error
    return found


def not_msgpack(error: Exception) -> ProtocolError:
    """The error for bytes that the codec cannot make sense of."""
    return broken(f"what it sends is not msgpack ({words_of(error)})", error)


class _Codec:
    """A streaming codec, with what is asked of it for each message looked up once."""

    __slots__ = ("feed", "messages", "tell")

    def __init__(self, limits: Limits, ext_hook: Callable[[int, bytes], Any]) -> None:
        unpacker = msgpack.Unpacker(
            raw=False,
            # Old peers send bytes as str. They arrive, and go back as they came.
            unicode_errors="surrogateescape",
            strict_map_key=False,
            timestamp=_TIMESTAMPS_AS_DATETIME,
            ext_hook=ext_hook,
            max_buffer_size=0,  # measured here, against the message and not the buffer
            read_size=FIRST_BUFFER,
            max_str_len=limits.message,
            max_bin_len=limits.message,
            max_ext_len=limits.message,
            max_array_len=limits.elements,
            max_map_len=limits.elements,
        )
        self.feed: Callable[[Any], object] = unpacker.feed
        self.tell: Callable[[], int] = unpacker.tell
        self.messages: Iterator[tuple[Any, int]] = zip(
            unpacker, iter(unpacker.tell, -1), strict=False
        )


_NOTHING: Final[Iterator[tuple[Any, int]]] = iter(())
_NONE_KEPT: Final = bytearray()
"""Never written to: nothing is added to what is empty."""


class Decoder:
    """Bytes in, messages out."""

    def __init__(
        self,
        limits: Limits,
        ext_hook: Callable[[int, bytes], Any] = msgpack.ExtType,
        codecs: list[Any] | None = None,
    ) -> None:
        """`codecs` is a pool shared by decoders with the same limits and hook: a codec takes 40 KiB,
        and a connection that has nothing half-received needs none."""
        self._limits = limits
        self._ext_hook = ext_hook
        self._codecs = codecs
        self.target: memoryview | None = None
        """Where the next bytes shall be received, while a large value is coming."""
        self.messages = _NOTHING
        """What was fed: each whole message, and where it ended, counted as `fed` is. Whoever goes through
        them says afterwards how that ended: :meth:`all_read`, :meth:`ran_out` or :meth:`stopped`."""
        self.ready: list[Any] | None = None
        """A message with a large value, complete: it comes before all others."""
        self._large: _Large | None = None
        self._codec: _Codec | None = None
        self.fed = 0
        """Bytes that have come; while it equals `start`, no message has begun."""
        self.start = 0
        """Where the message that is being read began."""
        self._chunk: Buffer = b""
        self._kept = _NONE_KEPT
        """What came before the chunk of the message that is being read, unless that is too much to keep."""
        self._kept_from = 0
        self._skipped: _Skipped | None = None
        self.has_more = False
        """Whether there are bytes, or a message, that nobody has come to."""

    def _use(self, codec: _Codec) -> _Codec:
        self._codec = codec
        self.messages = codec.messages
        self.fed = self.start = codec.tell()
        return codec

    def feed(self, data: Buffer) -> None:
        """Take over received bytes."""
        codec = self._codec
        if codec is None and self._skipped is None:
            pool = self._codecs
            codec = self._use(pool.pop() if pool else _Codec(self._limits, self._ext_hook))
        if codec is not None:
            codec.feed(data)
        self.fed += len(data)  # type: ignore[arg-type]
        self._chunk = data
        self.has_more = True

    def all_read(self) -> None:
        """What was fed ended with the last message: let another connection have the codec."""
        self.start = self.fed
        self.has_more = False
        self._chunk = b""
        self._kept = _NONE_KEPT
        if self._codecs is not None and self._codec is not None:
            self._codecs.append(self._codec)
            self._codec = None
            self.messages = _NOTHING

    def ran_out(self, start: int) -> None:
        """Behind the last message, which ended at `start`, another begins and does not end."""
        self.start = start
        self.has_more = False
        self._incomplete()
        if self.target is None:
            self._keep()

    def stopped(self, start: int) -> None:
        """The messages behind `start` are read later. The buffer that was fed is about to be filled with
        something else, perhaps from another connection: the codec has its own copy."""
        self.start = start
        self._keep()

    def _keep(self) -> None:
        """Keep what has come from `start` on, for :meth:`step_over`."""
        chunk = memoryview(self._chunk)
        self._chunk = b""
        behind = self.start - (self.fed - len(chunk))
        if self._skipped is not None:
            self._kept = self._kept + chunk
            return
        if behind >= 0:
            self._kept = bytearray(chunk[behind:])
        elif self._kept:
            del self._kept[: self.start - self._kept_from]
            self._kept += chunk
        self._kept_from = self.start
        if len(self._kept) > KEPT_MESSAGE:
            self._kept = _NONE_KEPT

    def step_over(self, start: int, error: Exception) -> tuple[Any, Any, memoryview] | None:
        """Go past the message at `start`, which the codec cannot make values of, as `error` says: the first two
        things that are in it, and what was fed behind it, which has to be fed again.

        None: the end of it has not come yet. Raises when it is no message, or began too far back.
        """
        data = memoryview(bytes(self._kept) + bytes(self._chunk))
        skipped = self._skipped
        if skipped is None:
            begin = start - (self.fed - len(data))
            if begin < 0:
                raise not_msgpack(error) from error
            if _claimed_by(error) > self._limits.message:
                raise not_msgpack(error) from error
            data = data[begin:]
            skipped = _Skipped(error)
        behind = skipped.feed(data)
        self._leave_codec()
        self._chunk = b""
        self.has_more = False
        if behind is None:
            if skipped.size > self._limits.message:
                raise broken(f"a message is longer than the {self._limits.message} bytes allowed")
            self._skipped = self.messages = skipped
            self.fed = skipped.size
            return None
        self._skipped = None
        return skipped.kind, skipped.subject, data[len(data) - behind :]

    def take_ready(self) -> list[Any]:
        """The message that has come with a large value."""
        ready, self.ready = self.ready, None
        assert ready is not None
        self.has_more = self.fed != self.start
        return ready

    def next(self) -> Any | None:
        """The next whole message, or None. What it is has to be checked yet."""
        if not self.has_more:
            return None
        if self.ready is not None:
            return self.take_ready()
        try:
            message, at = next(self.messages, (None, -1))
        except Exception as error:
            raise not_msgpack(error) from error
        if at < 0:
            self.ran_out(self.start)
        elif at == self.fed:
            self.all_read()
        else:
            self.start = at
        return message

    def _incomplete(self) -> None:
        """A message has begun and not ended: is it too long, or one with a large value?"""
        have = self.fed - self.start
        if have > self._limits.message:
            raise broken(f"a message is longer than the {self._limits.message} bytes allowed")
        chunk = memoryview(self._chunk)
        begin = self.start - (self.fed - len(chunk))
        if begin >= 0 and have >= LEAST:
            found = _read_head(chunk[begin:])
            if found is not None:
                self._divert(found, chunk[begin:])

    def _divert(self, large: _Large, data: memoryview) -> None:
        """Receive the rest of a large value beside the codec."""
        if large.size > self._limits.message:
            raise broken(f"a message is longer than the {self._limits.message} bytes allowed")
        body = data[large.offset :]
        if len(body) < LEAST or len(body) >= large.size:
            return
        large.begin(body)
        self._leave_codec()
        self._large = large
        self.target = large.room()

    def _leave_codec(self) -> None:
        """It has swallowed the beginning of a message that it is not to end: it cannot be used again."""
        self._codec = None
        self._kept = _NONE_KEPT
        self.messages = _NOTHING
        self.fed = self.start = 0

    def filled(self, size: int) -> None:
        """So many bytes of the large value were received into `target`."""
        large = self._large
        assert large is not None
        if large.received(size):
            self._complete(large.message())
        else:
            self.target = large.room()

    def fill(self, receive: Callable[[memoryview], int | None]) -> None:
        """Receive what belongs into `target` and behind it, until the value is complete, or until `receive`
        says None. It fills a buffer, and says with how many bytes."""
        large = self._large
        assert large is not None
        if large.is_small:
            value = large.read(receive)
            if value is not None:
                self._complete(large.with_value(value))
            else:
                self.target = large.room()
            return
        while (size := receive(large.room())) and not large.received(size):
            pass
        if large.is_complete:
            self._complete(large.message())
        else:
            self.target = large.room()

    def _complete(self, message: list[Any]) -> None:
        self.target = self._large = None
        self.ready = message
        self.has_more = True


def _claimed_by(error: Exception) -> int:
    """How many elements there should be, when that is too many for the codec: each takes a byte at least. It
    says so in words only."""
    found = re.match(r"(\d+) exceeds max_", str(error))
    return int(found[1]) if found else 0


class _Skipped(Iterator[tuple[Any, int]]):
    """A message that is only looked at for where it ends. It stands in for the messages until then."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._reader = msgpack.Unpacker(
            raw=False,
            unicode_errors="surrogateescape",
            read_size=FIRST_BUFFER,
            max_buffer_size=0,  # measured here, as for the codec
        )
        self._left = 0
        self.size = 0
        self.kind: Any = None
        self.subject: Any = None

    def __next__(self) -> tuple[Any, int]:
        raise self._error

    def feed(self, data: memoryview) -> int | None:
        """More of it; tells how much of that is behind it, None if it goes on."""
        reader = self._reader
        reader.feed(data)
        try:
            if not self.size:
                self._begin()
            self.size += len(data)
            while self._left:
                reader.skip()
                self._left -= 1
        except msgpack.OutOfData:
            return None
        except Exception as error:
            raise not_msgpack(error) from error
        behind: int = self.size - reader.tell()
        return behind

    def _begin(self) -> None:
        """The first two things have come, or it would not be known yet that the rest cannot be read."""
        try:
            self._left = self._reader.read_array_header() - 2
            self.kind, self.subject = self._reader.unpack(), self._reader.unpack()
        except Exception:
            raise self._error from None
        if self._left not in (1, 2):
            raise self._error


_scratches: list[bytearray] = []
"""Those that nobody uses now, of all connections."""


class _Large:
    """A message that ends in a large bytes value."""

    __slots__ = (
        "_filled",
        "_parts",
        "_scratch",
        "_segment",
        "_total",
        "envelope",
        "offset",
        "size",
    )

    def __init__(self, envelope: list[Any], offset: int, size: int) -> None:
        self.envelope = envelope
        self.offset = offset
        """Where the value's bytes begin, from the beginning of the message."""
        self.size = size

    def begin(self, body: memoryview) -> None:
        """Take what has arrived, and make room for some of the rest."""
        self._total = len(body)
        self._parts: list[Any] = []
        self._scratch: bytearray | None = None
        if self.size <= min(SCRATCH, len(body) * TRUST):
            self._scratch = self._segment = _scratches.pop() if _scratches else bytearray(SCRATCH)
            self._segment[: self._total] = body
            self._filled = self._total
        else:
            self._parts.append(bytes(body))
            self._add_segment(len(body) * TRUST)

    def _add_segment(self, size: int) -> None:
        """Room is added, never enlarged: asyncio looks into the old one while it tells us."""
        self._segment = bytearray(min(size, self.size - self._total))
        self._filled = 0
        self._parts.append(self._segment)

    @property
    def is_complete(self) -> bool:
        """Whether all of it has arrived."""
        return self._total == self.size

    @property
    def is_small(self) -> bool:
        """Whether there is room for all of it already."""
        return self._scratch is not None

    def read(self, receive: Callable[[memoryview], int | None]) -> bytes | None:
        """Receive the rest straight to where it stays; None if that came to an end before, and then what has
        arrived is kept as before."""
        scratch = self._scratch
        assert scratch is not None
        with memoryview(scratch) as view, view[: self._total] as first:
            source = _Source(first, receive, self.size)
            # Nothing else in Python receives into the bytes object that it returns.
            value = io.BufferedReader(source, TAIL).read(self.size) or b""
        if len(value) == self.size:
            return value
        scratch[: len(value)] = value
        self._total = self._filled = len(value)
        return None

    def received(self, size: int) -> bool:
        """Count what arrived; True when that was all."""
        self._filled += size
        self._total += size
        if self._total == self.size:
            return True
        if self._filled == len(self._segment):
            self._add_segment(self._total)  # it kept its word so far: as much again
        return False

    def room(self) -> memoryview:
        """Where the next bytes belong."""
        end = len(self._segment) if self._scratch is None else self.size
        return memoryview(self._segment)[self._filled : end]

    def message(self) -> list[Any]:
        """The whole message."""
        if self._scratch is None:
            return self.with_value(b"".join(self._parts))
        with memoryview(self._scratch) as view:
            return self.with_value(bytes(view[: self.size]))

    def with_value(self, value: bytes) -> list[Any]:
        """The whole message, of which this is the large value."""
        if self._scratch is not None and len(_scratches) < MAX_SCRATCHES:
            _scratches.append(self._scratch)
        if self.envelope[0] == REQUEST:
            return [*self.envelope, [value]]
        return [*self.envelope, value]


class _Source(io.RawIOBase):
    """What has arrived of a value, then what is received of it; never a byte of what follows."""

    def __init__(
        self, first: memoryview, receive: Callable[[memoryview], int | None], size: int
    ) -> None:
        self._first = first
        self._receive = receive
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int | None:
        first = self._first
        if len(first):
            size = min(len(first), len(room))
            room[:size] = first[:size]
            self._first = first[size:]
        else:
            left = self._left
            got = self._receive(room if len(room) <= left else room[:left])
            if not got:
                return got
            size = got
        self._left -= size
        return size


def _read_head(data: memoryview) -> _Large | None:
    """Recognise `[0, id, method, [bin32…` and `[1, id, nil, bin32…`."""
    head = bytes(data[:_LONGEST_HEAD])
    if len(head) < 10 or head[0] != _FIXARRAY_4 or head[1] not in (REQUEST, RESPONSE):
        return None
    try:
        at = 2
        number = head[at]
        at += 1
        if number >= 0x80:
            size = _UINT_SIZES[number]
            number = int.from_bytes(head[at : at + size], "big")
            at += size
        envelope: list[Any] = [head[1], number]
        if head[1] == REQUEST:
            kind = head[at]
            at += 1
            if 0xA0 <= kind <= 0xBF:
                size = kind & 0x1F
            else:
                width = _STR_SIZES[kind]
                size = int.from_bytes(head[at : at + width], "big")
                at += width
            envelope.append(head[at : at + size].decode())
            at += size
            wanted = _FIXARRAY_1
        else:
            envelope.append(None)
            wanted = _NIL
        if head[at] != wanted or head[at + 1] != _BIN32 or len(head) < at + 6:
            return None
    except (IndexError, KeyError, UnicodeDecodeError):
        return None
    return _Large(envelope, at + 6, int.from_bytes(head[at + 2 : at + 6], "big"))


class Encoder:
    """Messages in, bytes out. Any number of threads may use one.

    A peer that is not ours gets a datetime as text: what extension types do to strangers ranges from
    nil to a closed connection.
    """

    def __init__(self, default: Callable[[Any], Any]) -> None:
        self._default = default
        self._ours = False
        self._limit: int | None = None
        self.noteworthy = KEPT_BUFFER
        """Bytes above which a message is looked at: its packer is not kept, or it is too long."""
        self.idle: list[Callable[[Any], bytes]] = []
        """Packers that nobody uses now. Whoever takes one gives it back, unless it has raised or has made more
        than is `noteworthy`: it keeps its buffer, and what is in it. None is ever shared: a value with code of its own (a subclass
        of dict, a datetime with somebody's tzinfo) lets other threads run in the midst of packing,
        and two messages would end up in one buffer."""

    def address(self, *, ours: bool, limit: int | None) -> None:
        """Who will read it: one of ours or a stranger, and the largest message it takes."""
        self._ours = ours
        self._limit = limit
        self.noteworthy = KEPT_BUFFER if limit is None else min(KEPT_BUFFER, limit)
        self.idle = []

    def request(self, number: int, method: str, params: Any) -> Any:
        """A request, ready to be queued."""
        if len(params) == 1 and type(params[0]) in BYTES and len(params[0]) >= LARGE:
            head = b"\x94\x00" + self.encode(number) + self.encode(method) + b"\x91"
            return self._with_body(head, params[0])
        return self.encode((REQUEST, number, method, params))

    def result(self, number: int, value: Any) -> Any:
        """A response that succeeded, ready to be queued."""
        if type(value) in BYTES and len(value) >= LARGE:
            return self._with_body(b"\x94\x01" + self.encode(number) + b"\xc0", value)
        return self.encode((RESPONSE, number, None, value))

    def encode(self, message: Any) -> bytes:
        """Anything.

        Raises ValueError or TypeError for what cannot be packed, or is more than the peer takes.
        """
        idle = self.idle
        try:
            pack = idle.pop() if idle else self.new_packer()
            data = pack(message)
        except UNPACKABLE:
            return self._large(self.new_packer(self.default)(message))
        if len(data) > self.noteworthy:
            return self._large(data)
        idle.append(pack)
        return data

    def default(self, value: Any) -> Any:
        """The hook: what a value becomes that the packer does not know."""
        if isinstance(value, datetime.datetime):
            return writers.default(value) if self._ours else writers.plain_default(value)
        return self._default(value)

    def new_packer(self, default: Callable[[Any], Any] | None = None) -> Callable[[Any], bytes]:
        pack: Callable[[Any], bytes] = msgpack.Packer(
            datetime=self._ours,
            unicode_errors="surrogateescape",
            default=default,
            buf_size=FIRST_BUFFER,
        ).pack
        return pack

    def new_joiner(self) -> msgpack.Packer:
        """A packer that keeps what it packs, until all of it is wanted together."""
        return msgpack.Packer(
            datetime=self._ours,
            unicode_errors="surrogateescape",
            buf_size=FIRST_BUFFER,
            autoreset=False,
        )

    def _large(self, data: bytes) -> bytes:
        """Its packer is not kept: the buffer would stay as large for ever."""
        self.check(len(data))
        return data

    def _with_body(self, head: bytes, value: Any) -> tuple[bytes, memoryview]:
        """The envelope with the first part of the value, and the rest as it is."""
        body = memoryview(value)
        if body.format != "B" or body.ndim != 1 or not body.c_contiguous:
            body = memoryview(bytes(body))
        self.check(len(head) + _BIN32_HEAD + len(body))
        if len(body) > _LONGEST_BYTES:
            raise ValueError(
                f"{len(body)} bytes in one value; msgpack has room for {_LONGEST_BYTES}"
            )
        length = len(body).to_bytes(4, "big")
        first = b"".join((head, b"\xc6", length, body[:TOGETHER]))
        return first, body[TOGETHER:]

    def check(self, size: int) -> None:
        """Whether the peer takes so many bytes; ValueError if not."""
        if self._limit is not None and size > self._limit:
            raise ValueError(
                f"the message has {size} bytes, and the other side takes {self._limit} at most"
            )


BYTES: Final = frozenset({bytes, bytearray, memoryview})
_BIN32_HEAD: Final = 5
_LONGEST_BYTES: Final = 2**32 - 1
UNPACKABLE: Final = (TypeError, OverflowError, ValueError, IndexError)
"""How a packer says that it needs the hook, or that nothing will help; and that none is idle."""


def words_of(error: BaseException) -> str:
    """What an exception says, or what it is."""
    return str(error) or type(error).__name__


def only(requests: bytes, numbers: Collection[int]) -> bytes:
    """Of requests that were joined, those with these numbers. What they say is not looked at: it may be
    what nobody can unpack."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(requests)
    kept: list[bytes] = []
    begin = 0
    while begin < len(requests):
        unpacker.read_array_header()
        unpacker.skip()
        number = unpacker.unpack()
        unpacker.skip()
        unpacker.skip()
        end = unpacker.tell()
        if number in numbers:
            kept.append(requests[begin:end])
        begin = end
    return b"".join(kept)
