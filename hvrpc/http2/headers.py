"""Header blocks: the `hpack` library, used as rarely as possible.

Encoding or decoding eight fields that are all in the table takes hpack about 20 µs, which is more
than everything else that a small call needs. But calls of one method send the same fields again
and again, and HPACK turns equal fields into equal bytes as long as its dynamic table stays the
same. So both directions have a cache that lives until the table changes:

* **Encoder**: fields -> block. To keep the table from changing, fields enter it only while there
  is room: nothing is ever evicted, and what comes later is written as a literal that is not
  indexed. Fields that differ from call to call (a deadline, a token) are given apart as `extra`:
  they are never indexed and cost one `%` each. Nothing is Huffman-coded: in Python that costs more
  time than a local socket takes for the bytes it saves.
* **Decoder**: block -> checked `Headers`, the same object each time; its `memo` is for the layer
  above, which can so remember what it made of the fields. Of a block that differs in its last
  fields only, the known part is taken from the cache (`base`), and the layer above can do likewise.
  A block that does not touch the table is read here (a few µs instead of 24); everything else, and
  every doubtful byte, is left to the library.

RFC 7541 is HPACK; its section numbers stand in the comments.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import hpack
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from .errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from .fields import (
    Field,
    Fields,
    content_length,
    request_problem,
    response_problem,
    trailers_problem,
    unsendable,
)
from .settings import DEFAULT_TABLE_SIZE

# The library logs every field that it reads, tokens included, for whoever sees DEBUG of everything.
if logging.getLogger("hpack").level == logging.NOTSET:  # it was not asked for by name
    logging.getLogger("hpack").setLevel(logging.INFO)

# What each field counts in tables and lists beyond its bytes (RFC 7541, 4.1).
_FIELD_OVERHEAD = 32

# A field larger than this does not enter our table: it would crowd out eight others.
_MOST_INDEXED = 512

# A run of indexed fields at the start of a block, one octet each (RFC 7541, 6.1).
_INDEXED = re.compile(rb"[\x80-\xfe]*").match

# Updates of the table's size at the start of a block (RFC 7541, 6.3). Two are enough (4.2); a
# block full of them would keep the library busy for a tenth of a second and mean nothing.
_TOO_MANY_RESIZES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]{0,4}[\0-\x7f]){5}").match

# Caches hold this many blocks and are emptied when they are full. Programs have fewer methods;
# and what differs with each call must not pile up.
_MOST_BLOCKS = 256

# Longer blocks are neither cached nor read by the short reader.
_MOST_PLAIN_BLOCK = 2048


class Headers:
    """A received header list. Equal blocks give the same object while the cache lasts."""

    __slots__ = (
        "base",
        "content_length",
        "extra",
        "fields",
        "is_interim",
        "is_ordinary",
        "memo",
        "size",
    )

    def __init__(self, fields: Fields, size: int) -> None:
        self.fields = fields
        #: As SETTINGS_MAX_HEADER_LIST_SIZE counts.
        self.size = size
        #: What this list shares with others: the object of its indexed fields, which come first.
        #: `fields` is `base.fields + extra`. A list without further fields is its own base.
        self.base = self
        self.extra: Fields = ()
        self.content_length = content_length(fields)
        #: A 1xx response (RFC 9113, 8.1): another one follows.
        self.is_interim = fields[:1] != () and _is_interim_status(fields[0])
        #: Neither announces a content-length nor is interim: nothing to look after.
        self.is_ordinary = self.content_length is None and not self.is_interim
        #: Free for the owner of the connection: what it derived from the fields.
        self.memo: Any = None

    def extended(self, extra: Fields, size: int) -> Headers:
        """This list with more fields, of this size, none of them content-length."""
        headers = Headers.__new__(Headers)
        headers.fields = self.fields + extra
        headers.size = self.size + size
        headers.base = self
        headers.extra = extra
        headers.content_length = self.content_length
        headers.is_interim = self.is_interim
        headers.is_ordinary = self.is_ordinary
        headers.memo = None
        return headers

    def __repr__(self) -> str:
        return f"Headers({self.fields!r})"


def _is_interim_status(field: Field) -> bool:
    return field[0] == b":status" and field[1][:1] == b"1"


def _list_size(fields: Fields) -> int:
    size = _FIELD_OVERHEAD * len(fields)
    for name, value in fields:
        size += len(name) + len(value)
    return size


class MalformedHeaders(Exception):
    """The block was decoded, but the message cannot be accepted: an error of its stream."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def literal(name: bytes, value: bytes) -> bytes:
    """A field that is not indexed, with a literal name (RFC 7541, 6.2.2)."""
    if len(name) < 127 and len(value) < 127:
        return b"\x00%c%b%c%b" % (len(name), name, len(value), value)
    return b"\x00%b%b%b%b" % (_length(len(name)), name, _length(len(value)), value)


def _length(number: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1), flag bit zero: no Huffman."""
    if number < 127:
        return bytes((number,))
    out = bytearray((127,))
    number -= 127
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class HeaderEncoder:
    """Turns header lists into blocks."""

    def __init__(self) -> None:
        self._hpack = hpack.Encoder()
        self._indexed: set[Field] = set()
        self._room = DEFAULT_TABLE_SIZE
        #: Finished blocks. The hot path looks here itself before it calls `encode`.
        self.blocks: dict[Fields, bytes] = {}
        self._tails: dict[Fields, bytes] = {}

    def encode(self, fields: Fields, extra: Iterable[Field] = ()) -> bytes:
        """The block of a list; `extra` follows, unindexed and unchecked."""
        # First what may fail: once the table has changed, the block must be sent.
        tail = self._tail(extra) if extra else b""
        block = self.blocks.get(fields)
        if block is None:
            block = self._encode(fields)
        return block + tail if tail else block

    def _tail(self, extra: Iterable[Field]) -> bytes:
        """Fields that are not indexed. Programs give the same token and the same timeout again and
        again, so these are remembered too; what is not hashable, or never comes back, costs a look."""
        tails = self._tails
        if type(extra) is not tuple:
            return b"".join([literal(name, value) for name, value in extra])
        tail = tails.get(extra)
        if tail is None:
            tail = b"".join([literal(name, value) for name, value in extra])
            if len(tail) <= _MOST_PLAIN_BLOCK:
                if len(tails) >= _MOST_BLOCKS:
                    tails.clear()
                tails[extra] = tail
        return tail

    def check(self, fields: Fields, extra: Iterable[Field] = ()) -> None:
        """Raise now what `encode` would raise later, and change nothing."""
        problem = unsendable(fields)
        if problem:
            raise LocalProtocolError(problem)
        for name, value in extra:
            literal(name, value)

    def resize(self, size: int) -> None:
        """Follow the peer's SETTINGS_HEADER_TABLE_SIZE, with no more than the default size.

        The table is emptied first, so that what is in it stays known without reading it.
        """
        size = min(size, DEFAULT_TABLE_SIZE)
        if size == self._hpack.header_table_size:
            return
        self._hpack.header_table_size = 0
        self._hpack.header_table_size = size
        # At most two updates may be announced: the smallest size and the last (RFC 7541, 4.2).
        self._hpack.header_table.resized = True
        self._hpack.table_size_changes = [0, size] if size else [0]
        self._indexed.clear()
        self._room = size
        self.blocks.clear()

    def _encode(self, fields: Fields) -> bytes:
        # Before the first field: one that fails later would leave the tables of both sides apart.
        self.check(fields)
        announced = self._hpack.encode(())  # a change of the table's size, or nothing
        known = len(self._indexed)
        block = announced + b"".join([self._encode_field(field) for field in fields])
        if len(self._indexed) != known:
            self.blocks.clear()
        elif not announced and len(block) <= _MOST_PLAIN_BLOCK:
            if len(self.blocks) >= _MOST_BLOCKS:
                self.blocks.clear()
            self.blocks[fields] = block
        return block

    def _encode_field(self, field: Field) -> bytes:
        name, value = field
        if field not in self._indexed and not _is_static(field):
            size = _FIELD_OVERHEAD + len(name) + len(value)
            if size > self._room or size > _MOST_INDEXED:
                return literal(name, value)
            self._room -= size
            self._indexed.add(field)
        return bytes(self._hpack.encode((field,), huffman=False))


_STATIC = frozenset(HeaderTable.STATIC_TABLE)


def _is_static(field: Field) -> bool:
    """Whether the table of RFC 7541, appendix A, has exactly this field."""
    return field in _STATIC


class HeaderDecoder:
    """Turns blocks into checked header lists.

    `initial` and `trailers` are the caches; the hot path looks there itself before it calls
    `decode_initial` or `decode_trailers`. Every block of the connection must be decoded in order,
    also those of streams that nobody wants.
    """

    def __init__(self, *, client: bool, most_list: int, excess: int) -> None:
        """`most_list`: what our SETTINGS offer; `excess`: how far beyond it decoding goes on."""
        self._check_initial = response_problem if client else request_problem
        self._most_list = most_list
        self._most_decoded = most_list * excess
        self._hpack = hpack.Decoder(max_header_list_size=self._most_decoded)
        self._entries: list[Field | None] = []
        self.initial: dict[bytes, Headers] = {}
        self.trailers: dict[bytes, Headers] = {}
        self._table_changed()

    def allow_table(self, size: int) -> None:
        """Our SETTINGS_HEADER_TABLE_SIZE: beforehand if it is more than the default, once it was
        acknowledged if it is less."""
        self._hpack.max_allowed_table_size = size

    def decode_initial(self, block: bytes) -> Headers:
        """The header list that opens a request (server) or a response (client)."""
        return self._checked(block, self._check_initial, self.initial)

    def decode_trailers(self, block: bytes) -> Headers:
        """The header list that ends a message."""
        return self._checked(block, trailers_problem, self.trailers)

    def decode_unwanted(self, block: bytes) -> None:
        """Keep the table in step with a block whose stream is not wanted."""
        self._decode(block)

    def _checked(
        self, block: bytes, problem_of: Callable[[Fields], str], cache: dict[bytes, Headers]
    ) -> Headers:
        headers = cache.get(block)
        if headers is not None:
            return headers
        headers = self._extend_known(block, problem_of, cache)
        if headers is None:
            fields, plain = self._decode(block)
            problem = problem_of(fields)
            if problem:
                raise MalformedHeaders(ErrorCode.PROTOCOL_ERROR, problem)
            headers = Headers(fields, _list_size(fields))
            if headers.content_length == -1:
                raise MalformedHeaders(ErrorCode.PROTOCOL_ERROR, "content-length is no length")
        else:
            plain = True
        if headers.size > self._most_list:
            raise MalformedHeaders(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"the header list has {headers.size} bytes, {self._most_list} are allowed",
            )
        if plain and len(block) <= _MOST_PLAIN_BLOCK:
            if len(cache) >= _MOST_BLOCKS:
                cache.clear()
            cache[block] = headers
        return headers

    def _extend_known(
        self, block: bytes, problem_of: Callable[[Fields], str], cache: dict[bytes, Headers]
    ) -> Headers | None:
        """Read a block whose indexed fields come first, as senders write them, and are known.

        Only what follows is read and checked. None: nothing was done, read it the general way.
        """
        stable = _INDEXED(block).end()  # type: ignore[union-attr]  # it matches nothing, too
        if not 0 < stable < len(block) <= _MOST_PLAIN_BLOCK:
            return None
        known = block[:stable]
        base = cache.get(known)
        if base is None:
            fields = self._read_plain(known, 0)
            if fields is None or problem_of(fields):
                return None
            base = cache[known] = Headers(fields, _list_size(fields))
        extra = self._read_plain(block, stable)
        if extra is None or trailers_problem(extra):
            return None
        if base.content_length is not None or content_length(extra) is not None:
            return None
        size = _list_size(extra)
        if base.size + size > self._most_decoded:
            return None
        return base.extended(extra, size)

    def _decode(self, block: bytes) -> tuple[Fields, bool]:
        """The fields, and whether the table is untouched, so that the result may be kept."""
        fields = self._read_plain(block, 0) if len(block) <= _MOST_PLAIN_BLOCK else None
        if fields is not None:
            if _list_size(fields) > self._most_decoded:
                raise self._too_large()
            return fields, True
        if _TOO_MANY_RESIZES(block):
            reason = "a header block resizes the table again and again"
            raise RemoteProtocolError(ErrorCode.COMPRESSION_ERROR, reason)
        try:
            fields = tuple([(name, value) for name, value in self._hpack.decode(block, raw=True)])
        except hpack.OversizedHeaderListError as error:
            raise self._too_large() from error
        except (hpack.HPACKError, IndexError) as error:
            reason = f"a header block cannot be decoded: {error}"
            raise RemoteProtocolError(ErrorCode.COMPRESSION_ERROR, reason) from error
        self._table_changed()
        return fields, False

    def _too_large(self) -> RemoteProtocolError:
        return RemoteProtocolError(
            ErrorCode.ENHANCE_YOUR_CALM, f"a header list larger than {self._most_decoded} bytes"
        )

    def _table_changed(self) -> None:
        """Forget what depends on the table, and take a copy that is indexed as blocks do."""
        self.initial.clear()
        self.trailers.clear()
        self._entries = [None, *HeaderTable.STATIC_TABLE, *self._hpack.header_table.dynamic_entries]

    def _read_plain(self, block: bytes, at: int) -> Fields | None:
        """Read a block that leaves the table alone, from `at` on; None: the library must (it also
        finds the words for what is wrong). Nothing is changed here, so it can start afresh."""
        entries = self._entries
        fields: list[Field] = []
        end = len(block)
        try:
            while at < end:
                first = block[at]
                if first >= 0x80:  # an indexed field (6.1)
                    field = entries[first & 0x7F]
                    if field is None or first == 0xFF:
                        return None
                    fields.append(field)
                    at += 1
                    continue
                if first & 0x60:  # a field to be indexed, or another table size
                    return None
                name_index = first & 0x0F  # a literal, not indexed (6.2.2, 6.2.3)
                at += 1
                if name_index == 0x0F:
                    name_index += block[at]
                    if name_index >= 0x0F + 0x80:
                        return None
                    at += 1
                if name_index:
                    field = entries[name_index]
                    if field is None:
                        return None
                    name = field[0]
                else:
                    name, at = _read_string(block, at)
                length = block[at]
                if length < 0x7F:  # as nearly all values: short, and not Huffman-coded
                    start = at + 1
                    at = start + length
                    value = block[start:at]
                else:
                    value, at = _read_string(block, at)
                fields.append((name, value))
        except (IndexError, hpack.HPACKError):
            return None
        return tuple(fields) if at == end else None


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    """A string literal (RFC 7541, 5.2), and where it ends; IndexError when it does not."""
    first = block[at]
    length = first & 0x7F
    at += 1
    if length == 0x7F:
        # Two more octets make 16 Ki, more than the blocks that are read here.
        more = block[at]
        at += 1
        length += more & 0x7F
        if more >= 0x80:
            length += block[at] << 7
            at += 1
    stop = at + length
    if stop > len(block):
        raise IndexError
    text = block[at:stop]
    return (bytes(decode_huffman(text)) if first >= 0x80 else text), stop
