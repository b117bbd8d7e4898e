"""The protocol on one connection: who asked what, what is answered, and by what words. No I/O.

Both sides can call. What msgpack-RPC does not have is added under names that begin with `$/`, and
only towards a peer that has answered our hello as one of ours:

    request       $/hello  [facts]                          who we are; strangers answer an error
    request       $/ping   []                               answered at once, whatever else runs
    request       $/call   [method, [params], {named}, {options}]   keywords, deadline, streams
    request       $/methods []                              what is offered
    notification  $/cancelRequest [id]                      the caller has given up
    notification  $/item   [id, value]                      an item of a stream; the response ends it
    notification  $/more   [id, count]                      so many more items may be sent
    notification  $/alive  []                               we are busy, and do not read for a while
    notification  $/goodbye [facts]                         no new calls; before the end, what was
                                                            left unfinished

`docs/reference/wire-protocol.md` says it all, well enough to be written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import traceback
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Final

from msgpack import unpackb

from ..access import Peer
from ..errors import (
    CallError,
    ConnectionLost,
    HvrpcError,
    InvalidParams,
    MethodNotFound,
    Outcome,
    ProtocolError,
    RemoteError,
)
from ..session.core import JOIN, MANY_ANSWERS, Call, Core, Lane
from .extensions import Extensions
from .limits import DEFAULT, LEAST_MESSAGE, Limits
from .service import Caller, Context, Method, Service, is_async_result
from .streams import Early, ItemCall, Producer
from .values import BadValue, short_repr
from .wire import (
    BYTES,
    LARGE,
    NOTIFICATION,
    ONLY,
    REQUEST,
    RESPONSE,
    TIMESTAMP,
    UNPACKABLE,
    Decoder,
    Encoder,
    broken,
    not_msgpack,
    only,
    words_of,
)
from .writers import explain

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = logging.getLogger("hvrpc.msgpack")

HELLO: Final = "$/hello"
PING: Final = "$/ping"
CALL: Final = "$/call"
METHODS: Final = "$/methods"
CANCEL: Final = "$/cancelRequest"
ITEM: Final = "$/item"
MORE: Final = "$/more"
GOODBYE: Final = "$/goodbye"
ALIVE: Final = "$/alive"

VERSION: Final = 1
MAX_ID: Final = 2**32 - 1

# Codes of our own errors; methods may use any others. Numbers as JSON-RPC has them, which other
# msgpack-RPC libraries use too.
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
METHOD_RAISED: Final = -32000
CANCELLED: Final = -32800
DRAINING: Final = -32801
BUSY: Final = -32802

_CODES: Final[dict[type[RemoteError], int]] = {
    MethodNotFound: METHOD_NOT_FOUND,
    InvalidParams: INVALID_PARAMS,
}
CANCEL_COMES_WITHIN: Final = 1.0
"""Seconds after a caller's deadline in which its cancel should have come. It is not waited for longer:
a caller that has died sends none."""
FIRST_TOGETHER: Final = 64
"""Calls of a batch that are packed together before it is known how long they are."""
MOST_TOGETHER: Final = 256
"""Calls of a batch that are packed together at most."""
MOST_KEPT: Final = 1000
"""Requests that are kept while as many run as may, so that what cancels one of those is read."""
MOST_KEPT_BYTES: Final = 1024 * 1024
"""What may come behind the first of them."""
SHORTENED: Final = 500
"""Characters of an error's message that are sent when all of it cannot be."""

Work = tuple[Method, "int | None", Any, "Mapping[str, Any] | None", "Mapping[str, Any] | None"]

_NONE_KEPT: Final[deque[Work]] = deque(maxlen=0)


class Request(Call):
    """A call that knows what it asks for, so that many can be sent in one piece."""

    def __init__(self, method: str, params: tuple[Any, ...]) -> None:
        self.method = method
        self.params = params
        # Looked at once for each: an attribute of its own is found faster than one of the class.
        self.wake = None


class MsgpackCore(Core):
    """msgpack-RPC on one connection, both directions."""

    when_silent = (
        "check that it speaks msgpack-RPC and that its VM is not paused; a server that is not"
        " hvrpc's and leaves unknown methods unanswered needs hello=False"
    )

    # Few connections ever have these of their own. With more than thirty attributes an object has a
    # dictionary to itself, which takes more memory than all of them.
    late = 0
    """Responses nobody waited for any more."""
    failure: HvrpcError | None = None
    _unfinished: frozenset[int] | None = None
    _said_farewell = False
    _kept: deque[Work] = _NONE_KEPT
    """What was asked for while as much ran as may, in order."""
    _kept_numbers: set[int]
    """Those that are answered, if anything ever was kept. They count as active."""
    _behind = 0
    """Bytes that came while something was kept."""
    _looks_ahead = False

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        says_hello: bool,
        limits: Limits = DEFAULT,
        extensions: Extensions | None = None,
        peer: Peer | None = None,
        tracebacks: bool = False,
        descriptions: Callable[[], list[dict[str, Any]]] = list,
        codecs: list[Any] | None = None,
    ) -> None:
        extensions = extensions or Extensions()
        self.methods = methods
        self._table = methods.table if isinstance(methods, Service) else methods
        self.limits = limits
        self.peer = peer
        self.caller: Caller | None = None
        self.says_hello = says_hello
        self.is_ours = False
        """Whether the peer has said hello, and so knows our additions."""
        self.outgoing: deque[Any] = deque()
        self.pending: dict[int, Call] = {}
        self.active: dict[int, Any] = {}
        """The peer's requests that are carried out now: id to whatever can cancel it, or None."""
        self.draining = False
        self.leaving = False
        """Whether it is we who said goodbye."""
        self.on_queued: Callable[[], object] = _nothing
        """Called when something was queued by user code, outside of `take` and `serve`."""
        self.on_queued_in_loop: Callable[[], Awaitable[object] | None] = _nothing
        """The same in an event loop, which must not be kept: what has to be awaited for room."""
        self.run_coroutine = _no_loop
        self._tracebacks = tracebacks
        self._descriptions = descriptions
        self._encoder = Encoder(extensions.default)
        self._decoder = Decoder(limits, extensions.ext_hook, codecs)
        self._codes = extensions._unpackers
        self._longest_name = limits.method
        self._ids = itertools.count(1)
        self._in_flight = limits.in_flight
        self._only = min(ONLY, limits.elements)  # so many bytes have no more elements than that

    # --- Receiving -----------------------------------------------------------------------------

    def filled(self, size: int) -> None:
        self._decoder.filled(size)
        self.target = self._decoder.target
        self.has_more = self._decoder.has_more or bool(self._kept)

    def fill(self, receive: Callable[[memoryview], int | None]) -> None:
        self._decoder.fill(receive)
        self.target = self._decoder.target
        self.has_more = self._decoder.has_more or bool(self._kept)

    def answers(self, data: bytes, call: Call) -> bool:
        decoder = self._decoder
        if decoder.has_more or decoder.fed != decoder.start or self._codes:
            return False
        if len(data) > self._only or TIMESTAMP in data:
            return False
        try:
            kind, number, error, value = unpackb(data)
        except Exception:
            return False  # half a message, two of them, or something else
        if kind != RESPONSE or number != call.key or error is not None:
            return False
        if self.pending.pop(number, None) is not call:
            return False  # another thread has given it up just now
        call.value = value
        call.ok = call.done = True
        return True

    def only_one(self, data: bytes | bytearray, work: deque[Any]) -> bool:
        decoder = self._decoder
        if decoder.has_more or decoder.fed != decoder.start or self._codes:
            return False
        if len(data) > self._only or TIMESTAMP in data:
            return False
        try:
            kind, number, name, params = unpackb(data)
            if kind != REQUEST:
                call = self.pending[number]
                if kind != RESPONSE or name is not None:
                    return False
                del self.pending[number]
                call.value = params
                call.ok = call.done = True
                if call.wake is not None:
                    call.wake()
                return True
            method = self._table[name]
        except Exception:
            return False  # half a message, two of them, or something else
        active = self.active
        if (
            type(params) is not list
            or type(number) is not int
            or len(active) >= self._in_flight
            or number in active
        ):
            return False
        active[number] = None
        # In this order: whoever says goodbye looks into `active` afterwards.
        if self.leaving:
            self._refuse_leaving(number)
        else:
            work.append((method, number, params, None, None))
        return True

    def digest(self, data: Buffer | None, work: deque[Any]) -> None:
        rest = self._digest(data, work)
        while rest is not None:
            rest = self._digest(rest, work)
        if self._kept:
            self.throttled = self.has_more = True

    @property
    def may_look_ahead(self) -> bool:
        if self.target is not None or self._decoder.ready is not None:
            return False
        return len(self._kept) < MOST_KEPT and self._behind < MOST_KEPT_BYTES

    def look_ahead(self, data: Buffer | None, work: deque[Any]) -> None:
        self._looks_ahead = not self._is_awaited()
        try:
            self.digest(data, work)
        finally:
            self._looks_ahead = False

    def _keep(self, work: Work) -> None:
        """Begin it when one of those that run has ended."""
        if self._kept is _NONE_KEPT:
            self._kept_numbers = set()
            self._kept = deque()
        number = work[1]
        if number is not None:
            self._kept_numbers.add(number)
            self.active[number] = None
        self._kept.append(work)
        if self.leaving:
            self._refuse_kept()

    def _must_keep(self) -> bool:
        return self._looks_ahead and (bool(self._kept) or len(self.active) >= self._in_flight)

    def _begin_kept(self, work: deque[Any]) -> None:
        """Begin of it what may run now."""
        most = 2 * self._in_flight if self._is_awaited() else self._in_flight
        try:
            while len(self.active) - len(self._kept_numbers) < most:
                each = self._kept.popleft()
                number = each[1]
                if number is not None:
                    self._kept_numbers.discard(number)
                    early = self.active.get(number)
                    if early is not None and early.cancelled:
                        self._finish_error(number, CANCELLED, "the caller has cancelled it")
                        continue
                work.append(each)
        except IndexError:  # that was all, or another thread has refused it just now
            self._behind = 0

    def _refuse_kept(self) -> None:
        while self._kept:
            try:
                number = self._kept.popleft()[1]
            except IndexError:  # another thread was faster
                return
            if number is not None:
                self._kept_numbers.discard(number)
                self._refuse_leaving(number)

    def _digest(self, data: Buffer | None, work: deque[Any]) -> Buffer | None:
        """The same up to a message that nobody can read, if there is one: returns what comes behind that."""
        decoder = self._decoder
        self.throttled = self.has_more = False
        if self._kept:
            self._begin_kept(work)
            if data is not None and self._kept:
                self._behind += len(data)  # type: ignore[arg-type]
        if data is not None:
            decoder.feed(data)
        elif not decoder.has_more:
            return None
        pending = self.pending
        methods = self._table
        active = self.active
        most = 0 if self._looks_ahead else self._in_flight
        room = most - len(active)
        if room <= 0 and not self._must_read_on():
            decoder.stopped(decoder.start)
            self.throttled = self.has_more = True
            return None
        if decoder.ready is not None:
            self._digest_one(decoder.take_ready(), work)
            self.target = None
            if decoder.fed == decoder.start:
                return None
            # It had to wait, and more came for a call that was made meanwhile.
            room = most - len(active)
        fed = decoder.fed
        at = decoder.start
        try:
            for message, at in decoder.messages:
                if type(message) is not list or len(message) != 4:
                    self._digest_one(message, work)
                    room = most - len(active)
                else:
                    kind, number, name, params = message
                    try:
                        if kind == RESPONSE:
                            call = pending.pop(number, None)
                            if call is None:
                                self._late(number)
                            elif name is None:
                                call.value = params
                                call.ok = call.done = True
                                wake = call.wake
                                if wake is not None:
                                    wake()
                            else:
                                self._refused(call, name, params)
                        elif (
                            kind != REQUEST
                            or (method := methods.get(name)) is None
                            or type(params) is not list
                            or type(number) is not int
                            or number in active
                            or room <= 0
                        ):
                            self._digest_one(message, work)
                            room = most - len(active)
                        else:
                            room -= 1
                            active[number] = None
                            # In this order: whoever says goodbye looks into `active` afterwards.
                            if self.leaving:
                                self._refuse_leaving(number)
                            else:
                                work.append((method, number, params, None, None))
                    except TypeError as error:  # a list where an id or a name should be
                        raise _no_message(message) from error
                if at == fed:
                    decoder.all_read()
                    return None
                if room <= 0:
                    room = most - len(active)
                    if room <= 0 and not self._must_read_on():
                        decoder.stopped(at)
                        self.throttled = self.has_more = True
                        return None
        except ProtocolError:
            raise
        except Exception as error:
            return self._step_over(error, at)
        decoder.ran_out(at)
        self.target = decoder.target
        return None

    def _step_over(self, error: Exception, at: int) -> Buffer | None:
        """A message is msgpack, and cannot be read for all that: an array is the key of a map, say. That ends
        the call that it belongs to, and nothing else. Returns what comes behind it, if anything."""
        found = self._decoder.step_over(at, error)
        self.target = None
        if found is None:
            return None
        kind, subject, rest = found
        if kind == NOTIFICATION:
            logger.warning("%s: a notification cannot be read: %s", self.peer, words_of(error))
        elif type(subject) is not int or kind not in (REQUEST, RESPONSE):
            raise not_msgpack(error) from error
        elif kind == RESPONSE:
            call = self.pending.pop(subject, None)
            if call is None:
                self._late(subject)
            else:
                text = f"its result cannot be read: {words_of(error)}"
                call.fail(CallError(text, outcome=Outcome.ANSWERED))
        elif subject in self.active:
            raise broken(f"two requests have the id {subject} at the same time")
        else:
            text = f"the parameters cannot be read: {words_of(error)}"
            self._answer_error(subject, INVALID_PARAMS, text)
        return rest if len(rest) else None

    def _must_read_on(self) -> bool:
        """Whether more is read although as many calls run as may."""
        if self._looks_ahead:
            return len(self._kept) < MOST_KEPT
        return self._is_awaited()

    def _is_awaited(self) -> bool:
        """Whether what is under way waits for what the peer says: the answers to calls of ours, or how much
        more of a stream it takes. Then twice as many calls are taken, and the rest is refused."""
        return bool(self.pending) or any(
            isinstance(running, Producer) for running in list(self.active.values())
        )

    def _digest_one(self, message: Any, work: deque[Any]) -> None:
        """A message that is not one of the two usual ones, or is not known to be."""
        try:
            if type(message) is not list:
                pass
            elif len(message) == 3 and message[0] == NOTIFICATION:
                _, name, params = message
                method = self._notified(name, params)
                if method is None:
                    return
                if self._must_keep():
                    self._keep((method, None, params, None, None))
                else:
                    work.append((method, None, params, None, None))
                return
            elif len(message) == 4 and message[0] == REQUEST:
                _, number, name, params = message
                special = self._special_request(number, name, params)
                if special is not None:
                    work.append(special)
                return
            elif len(message) == 4 and message[0] == RESPONSE:
                _, number, error, result = message
                call = self.pending.pop(number, None)
                if call is None:
                    self._late(number)
                elif error is not None:
                    self._refused(call, error, result)
                else:
                    call.value = result
                    call.ok = call.done = True
                    if call.wake is not None:
                        call.wake()
                return
        except TypeError as error:  # a list where an id or a name should be
            raise _no_message(message) from error
        raise _no_message(message)

    def _late(self, number: Any) -> None:
        """A response nobody waits for. Counted, never matched to another call."""
        if type(number) is not int and type(number) is not float:  # JavaScript's large ids are
            raise broken(f"a response's id is {_short(number)}")
        self.late += 1

    def _refused(self, call: Call, error: Any, result: Any) -> None:
        """The peer answered an error."""
        if self.is_ours and type(error) is dict and error.get("code") == DRAINING:
            self.draining = True
            call.fail(ConnectionLost("the other side is shutting down", outcome=Outcome.NOT_SENT))
            return
        call.error = error
        call.value = result  # some peers put the data of an error here
        call.done = True
        if call.wake is not None:
            call.wake()

    def _special_request(self, number: Any, name: Any, params: Any) -> Work | None:
        """A request that is not simply a method with its parameters."""
        if type(number) is not int:
            raise broken(f"a request's id is {_short(number)}, not a number")
        if type(name) is bytes:  # pynvim and others send names as bin
            name = name.decode(errors="replace")
        if type(name) is not str or len(name) > self.limits.method:
            raise broken(f"a method's name is {_short(name)}")
        if type(params) is not list:
            raise broken(f"the parameters of {name!r} are {_short(params)}, not an array")
        if number in self.active:
            raise broken(f"two requests have the id {number} at the same time")
        builtin = self._REQUESTS.get(name)
        if builtin is not None:
            return builtin(self, number, params)
        return self._begin(number, name, params, None, None)

    def _refuse_leaving(self, number: int) -> None:
        text = "the server is shutting down; it was not carried out"
        self._finish_error(number, DRAINING, text)

    def _begin(
        self,
        number: int,
        name: str,
        params: list[Any],
        named: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
    ) -> Work | None:
        method = self.methods.get(name)
        if method is None:
            if self.leaving:
                self._refuse_leaving(number)
            else:
                self._answer_error(number, METHOD_NOT_FOUND, f"there is no method {name!r}")
            return None
        if self._must_keep():
            self._keep((method, number, params, named, options))
            return None
        if len(self.active) >= 2 * self._in_flight:
            self._answer_error(
                number, BUSY, f"{len(self.active)} calls are being carried out; it was not"
            )
            return None
        self.active[number] = None
        if self.leaving:
            self._refuse_leaving(number)
            return None
        return method, number, params, named, options

    # --- Our own requests ------------------------------------------------------------------------

    def _on_hello(self, number: int, params: list[Any]) -> None:
        facts = params[0] if params and type(params[0]) is dict else {}
        self._learn(facts)
        self.outgoing.append(self._encoder.encode((RESPONSE, number, None, self._facts())))

    def _on_ping(self, number: int, params: list[Any]) -> None:
        self.outgoing.append(self._encoder.encode((RESPONSE, number, None, None)))

    def _on_methods(self, number: int, params: list[Any]) -> None:
        try:
            self.outgoing.append(self._encoder.result(number, self._descriptions()))
        except ValueError as error:  # more than the peer takes
            self._answer_error(number, INTERNAL_ERROR, str(error))

    def _on_call(self, number: int, params: list[Any]) -> Work | None:
        match params:
            case [str() as name, list() as positional, dict() as named, dict() as options] if (
                len(name) <= self.limits.method
            ):
                fault = self._fault_in(options)
                if fault is None:
                    return self._begin(number, name, positional, named, options)
            case _:
                fault = f"{CALL} takes [method, [params], {{named}}, {{options}}]"
        self._answer_error(number, INVALID_PARAMS, fault)
        return None

    def _fault_in(self, options: Mapping[Any, Any]) -> str | None:
        window = options.get("stream", 1)
        if type(window) is int and 0 < window <= self.limits.window:
            return None
        return f"the window of a stream is 1 to {self.limits.window} items, not {_short(window)}"

    _REQUESTS: Final[dict[str, Callable[[MsgpackCore, int, list[Any]], Work | None]]] = {
        HELLO: _on_hello,
        PING: _on_ping,
        METHODS: _on_methods,
        CALL: _on_call,
    }

    def _notified(self, name: Any, params: Any) -> Method | None:
        """The method that a notification is for, if it is for one of the user's."""
        if type(name) is bytes:
            name = name.decode(errors="replace")
        if type(name) is not str or len(name) > self.limits.method or type(params) is not list:
            raise broken(f"a notification is [2, {_short(name)}, {_short(params)}]")
        builtin = self._NOTIFICATIONS.get(name)
        if builtin is not None:
            builtin(self, params)
            return None
        method = self.methods.get(name)
        if method is None:
            logger.debug("%s: a notification for %r, which nobody offers", self.peer, name)
        return None if self.leaving else method

    def _on_cancel(self, params: list[Any]) -> None:
        if params and type(params[0]) is int and params[0] in self.active:
            self._running(params[0]).cancel()

    def _running(self, number: int) -> Any:
        """What carries a request out, or stands for that while it waits for its turn."""
        running = self.active.get(number)
        if running is None:
            running = self.active[number] = Early()
        return running

    def _on_item(self, params: list[Any]) -> None:
        match params:
            case [int() as number, value]:
                call = self.pending.get(number)
                if isinstance(call, ItemCall):
                    if len(call.items) >= call.window:
                        raise broken(f"a stream has more than the {call.window} items asked for")
                    call.arrived(value)
                else:
                    self.late += 1
            case _:
                raise broken(f"{ITEM} takes [id, value]")

    def _on_more(self, params: list[Any]) -> None:
        match params:
            case [int() as number, int() as count] if 0 < count <= self.limits.window:
                if number in self.active:
                    running = self._running(number)
                    if isinstance(running, Producer | Early):
                        running.grant(count)
            case _:
                raise broken(f"{MORE} takes [id, count]")

    def _on_goodbye(self, params: list[Any]) -> None:
        self.draining = True
        facts = params[0] if params and type(params[0]) is dict else {}
        unfinished = facts.get("unfinished")
        if type(unfinished) is list:
            self._unfinished = frozenset(each for each in unfinished if type(each) is int)

    def _on_alive(self, params: list[Any]) -> None:
        """That it has come is all it says."""

    _NOTIFICATIONS: Final[dict[str, Callable[[MsgpackCore, list[Any]], None]]] = {
        ALIVE: _on_alive,
        CANCEL: _on_cancel,
        ITEM: _on_item,
        MORE: _on_more,
        GOODBYE: _on_goodbye,
    }

    # --- Our own calls ---------------------------------------------------------------------------

    def request(
        self,
        method: str,
        params: Any,
        call: Call,
        named: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Queue a call."""
        call.item = item = self.prepare(method, params, call, named, options)
        self.outgoing.append(item)
        # Had the connection ended in between, its end would not have found this call.
        self.check(call)

    def prepare(
        self,
        method: str,
        params: Any,
        call: Call,
        named: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make the message of a call that is to be sent now, and expect the answer."""
        if type(method) is not str or len(method) > self._longest_name:
            self._check_name(method)
        pending = self.pending
        number = next(self._ids)
        if number > MAX_ID:
            number = self._free_id(number)
        if named or options:
            params = (method, params, named or {}, options or {})
            method = CALL
        elif len(params) != 1 or type(params[0]) not in BYTES or len(params[0]) < LARGE:
            # The usual case, written out.
            encoder = self._encoder
            idle = encoder.idle
            try:
                pack = idle.pop()
                data = pack((REQUEST, number, method, params))
            except UNPACKABLE:
                pass  # it goes another way, or never
            else:
                if len(data) <= encoder.noteworthy:
                    idle.append(pack)
                else:
                    encoder.check(len(data))
                call.key = number
                pending[number] = call
                return data
        try:
            item = self._encoder.request(number, method, params)
        except Exception as error:
            raise self._explained(params, "params", error) from error
        call.key = number
        pending[number] = call
        return item

    def request_all(self, requests: Sequence[Request]) -> None:
        """Queue many calls, small ones joined. All of them or, when something cannot be packed, none."""
        items: list[Any] = []
        parts: list[Sequence[Request]] = []
        """Whose messages an item is."""
        first = 0
        count = FIRST_TOGETHER
        try:
            while first < len(requests):
                some = requests[first : first + count]
                item = self._request_together(some) if count else None
                if item is not None:
                    items.append(item)
                    parts.append(some)
                    # What follows is as long, nearly always. Were it longer, it would be packed twice.
                    count = min(MOST_TOGETHER, JOIN * len(some) // (2 * len(item)))
                else:
                    some = requests[first:]
                    self._request_each(some, items, parts)
                first += len(some)
            # Only now: were the connection to end before, nothing of this would have been sent.
            for some, item in zip(parts, items, strict=True):
                for call in some:
                    call.item = item
            self.outgoing.extend(items)
        except BaseException:
            for call in requests:
                self.pending.pop(call.key, None)
            raise
        if self.failure is not None:
            # Had the connection ended in between, its end would not have found all of them.
            self._check_all(requests)

    def _request_together(self, requests: Sequence[Request]) -> bytes | None:
        """Make the messages of some requests as one item; None if that is more than is joined, or if something
        needs a closer look."""
        pending = self.pending
        longest = self._longest_name
        encoder = self._encoder
        packer = encoder.new_joiner()
        pack = packer.pack
        known: str | None = None
        try:
            for call, number in zip(requests, self._ids, strict=False):
                method = call.method
                params = call.params
                if method is not known:
                    if type(method) is not str or len(method) > longest:
                        return None
                    known = method
                if len(params) == 1 and type(params[0]) in BYTES and len(params[0]) >= LARGE:
                    return None
                if number > MAX_ID:
                    number = self._free_id(number)
                pack((REQUEST, number, method, params))
                call.key = number
                pending[number] = call
        except UNPACKABLE:
            return None
        item: bytes = packer.bytes()
        return item if len(item) <= min(encoder.noteworthy, JOIN) else None

    def _request_each(
        self, requests: Sequence[Request], items: list[Any], parts: list[Sequence[Request]]
    ) -> None:
        """Make the messages of some requests one by one, and join those that are small."""
        most = min(self._encoder.noteworthy, JOIN)
        joined: list[bytes] = []
        first = size = 0
        for at, call in enumerate(requests):
            self.pending.pop(call.key, None)  # it may have been made already, together with others
            item = self.prepare(call.method, call.params, call)
            if type(item) is bytes:
                size += len(item)
                if size <= most:
                    joined.append(item)
                    continue
            if joined:
                items.append(b"".join(joined))
                parts.append(requests[first:at])
                joined.clear()
            items.append(item)
            parts.append((call,))
            first, size = at + 1, 0
        if joined:
            items.append(b"".join(joined))
            parts.append(requests[first:])

    def check(self, call: Call) -> None:
        self._check_all((call,))

    def _check_all(self, calls: Iterable[Call]) -> None:
        lost = self.failure
        if lost is None:
            return
        # Another thread may even have sent them in the meantime.
        queued = _ids_of(self.outgoing)
        for call in calls:
            if self.pending.pop(call.key, None) is call:
                call.fail(self._failure_of(call, call.key, lost, queued))

    def _check_name(self, method: Any) -> None:
        """A name that the other side would take for nonsense must not reach it."""
        if not isinstance(method, str):
            raise TypeError(f"a method's name is text, not {_short(method)}")
        if len(method) > self.limits.method:
            raise ValueError(
                f"a method's name has {self.limits.method} characters at most, not {len(method)}"
            )

    def _free_id(self, number: int) -> int:
        """Past the end the ids begin again, without those in use.

        The counter itself goes on: two threads that set it back would both get the same ids.
        """
        while (free := (number - 1) % MAX_ID + 1) in self.pending:
            number = next(self._ids)
        return free

    def _explained(self, value: Any, path: str, error: Exception) -> Exception:
        """Which part of a value cannot be packed, if that is what went wrong."""
        try:
            return explain(value, path, self._encoder.default) or error
        except Exception:  # it asks the value's own code, which may have been what raised
            return error

    def notify(self, method: str, params: Any) -> None:
        """Queue a notification."""
        if type(method) is not str or len(method) > self.limits.method:
            self._check_name(method)
        try:
            item = self._encoder.encode((NOTIFICATION, method, params))
        except Exception as error:
            raise self._explained(params, "params", error) from error
        self.outgoing.append(item)

    def grant(self, call: Call, count: int) -> None:
        """Let a stream send more items."""
        self.notify(MORE, (call.key, count))

    def withdraw(self, call: Call) -> bool:
        """Take a call back that nothing was sent of. False: too late, or done already."""
        if self.pending.get(call.key) is not call:
            return False
        item = call.item
        try:
            self.outgoing.remove(item)
        except (ValueError, IndexError):  # not there, or somebody is taking from it just now
            return False
        self.pending.pop(call.key, None)
        others = {each.key: each for each in list(self.pending.values()) if each.item is item}
        if others and isinstance(item, bytes):
            # Without those that were given up before, too: that has been said already.
            rest = only(item, others)
            for each in others.values():
                each.item = rest
            self.outgoing.append(rest)
        return True

    def forget(self, call: Call) -> None:
        """Nobody waits for this call any more: a late answer is dropped."""
        if self.pending.get(call.key) is not call:
            return
        self.pending.pop(call.key, None)
        if self.is_ours and self.failure is None:
            self.notify(CANCEL, (call.key,))

    # --- Carrying out ----------------------------------------------------------------------------

    def serve_simple(self, work: deque[Any], lane: Lane, reader: object) -> Work | None:
        active = self.active
        outgoing = self.outgoing
        encoder = self._encoder
        idle = encoder.idle
        pack = idle.pop() if idle else encoder.new_packer()
        most = min(encoder.noteworthy, JOIN)
        handled = lane.handled
        left = MANY_ANSWERS
        while work:
            try:
                each: Work = work.popleft()
            except IndexError:  # another thread was faster
                break
            method, number, params, named, _ = each
            if number is None or named is not None or not method.simple:
                lane.handled = handled
                idle.append(pack)
                return each
            handled += 1
            lane.serving = handled
            try:
                if (count := len(params)) == method.arity:
                    # One parameter is usual, and passed in half the time.
                    value = method.function(params[0]) if count == 1 else method.function(*params)
                else:
                    try:
                        args, kwargs = method.bind(params, None)
                    except BadValue as bad:
                        self._finish_error(number, INVALID_PARAMS, str(bad))
                        break
                    value = method.function(*args, **kwargs)
            except BaseException as error:
                self._raised(number, method, error)
            else:
                try:
                    if type(value) in BYTES and len(value) >= LARGE:
                        self._finish(number, method, value)
                        break
                    data = pack((RESPONSE, number, None, value))
                except Exception:  # a value may have code of its own, and that may raise anything
                    pack = encoder.new_packer()
                    if is_async_result(value):
                        self._await_in_loop(method, number, value)
                    else:
                        self._finish(number, method, value)
                    break
                if len(data) > most:
                    # Nearly never. It goes out before more is made.
                    pack = encoder.new_packer()
                    try:
                        encoder.check(len(data))
                    except ValueError as error:
                        self._unsendable(number, method, value, error)
                    else:
                        outgoing.append(data)
                        del active[number]
                    break
                outgoing.append(data)
                del active[number]
            left -= 1
            if not left or lane.reader is not reader:
                break
        lane.handled = handled
        idle.append(pack)
        return None

    def serve(self, work: Work) -> None:
        method, number, _, _, options = work
        prepared = self._prepare(work)
        if prepared is None:
            return
        args, kwargs, context = prepared
        try:
            value = method.function(*args, **kwargs)
            if method.is_stream and not _needs_loop(value):
                self._stream(work, value, context)
                return
        except BaseException as error:
            self._raised(number, method, error)
            return
        if method.is_stream:
            self._spawn(method, number, self._stream_async(work, value, context), value)
        elif is_async_result(value):
            self._await_in_loop(method, number, value, _timeout_in(options))
        else:
            self._finish(number, method, value)

    def serve_async(self, work: Work) -> Awaitable[None] | None:
        method, number, _params, _named, options = work
        prepared = self._prepare(work)
        if prepared is None:
            return None
        args, kwargs, context = prepared
        try:
            value = method.function(*args, **kwargs)
        except BaseException as error:
            self._raised(number, method, error)
            return None
        if method.is_stream:
            return self._stream_async(work, value, context)
        if is_async_result(value):
            return self._await(method, number, value, _timeout_in(options))
        self._finish(number, method, value)
        return None

    def _prepare(self, work: Work) -> tuple[Any, dict[str, Any], Any] | None:
        """The arguments for a call that needs more than its parameters; None if they do not fit."""
        method, number, params, named, options = work
        early = None if number is None else self.active.get(number)
        if early is not None and early.cancelled:
            self._finish_error(number, CANCELLED, "the caller has cancelled it")
            return None
        try:
            args, kwargs = method.bind(params, named)
        except BadValue as bad:
            self._finish_error(number, INVALID_PARAMS, str(bad))
            return None
        context = None
        if method.place is not None or method.is_stream:
            context = Producer(method.name, self.peer, self.caller, _timeout_in(options))
            if number is not None:
                self.active[number] = context
            if early is not None:
                context.grant(early.credit)
            if method.place is not None:
                made = context
                args, kwargs = method.place(args, kwargs, lambda _: made)
        return args, kwargs, context

    def _finish(self, number: int | None, method: Method, value: Any) -> None:
        """Queue the answer of a method that has returned."""
        if number is None:
            return
        try:
            if method.write is not None:
                value = method.write(value)
            self.outgoing.append(self._encoder.result(number, value))
        except Exception as error:
            self._unsendable(number, method, value, error)
            return
        self.active.pop(number, None)

    async def _await(
        self,
        method: Method,
        number: int | None,
        value: Awaitable[Any],
        seconds: float | None = None,
    ) -> None:
        """Wait for a coroutine and queue the answer."""
        try:
            if seconds is None:
                result = await value
            else:
                async with asyncio.timeout(seconds + CANCEL_COMES_WITHIN):
                    result = await value
        except BaseException as error:
            self._raised(number, method, error)
            if not isinstance(error, Exception):
                raise
            return
        self._finish(number, method, result)

    def _await_in_loop(
        self,
        method: Method,
        number: int | None,
        value: Awaitable[Any],
        seconds: float | None = None,
    ) -> None:
        self._spawn(method, number, self._await(method, number, value, seconds), value)

    def _spawn(self, method: Method, number: int | None, coroutine: Any, inner: Any) -> None:
        """Run a coroutine that the driver did not expect, or has no loop for."""

        async def to_the_end() -> None:
            try:
                await coroutine
            finally:
                await self._sent()

        whole = to_the_end()
        running = _Spawned()
        # First, for it may be over before we hear of it, and its number be another call's.
        self._can_be_cancelled(number, running)
        try:
            running.runs_as(self.run_coroutine(whole))
        except Exception as error:  # the loop is closed already, or there is no thread for one
            whole.close()
            coroutine.close()
            _close(inner)
            self._raised(number, method, error)

    async def _sent(self) -> None:
        """Have what a coroutine queued sent, and wait if the other side takes no more."""
        room = self.on_queued_in_loop()
        if room is not None:
            await room

    def begun(self, work: Work, task: Any) -> None:
        self._can_be_cancelled(work[1], _Begun(task))

    def _can_be_cancelled(self, number: int | None, task: Any) -> None:
        if number is not None and number in self.active:
            known = self.active[number]
            if isinstance(known, Context):
                known.on_cancel(task.cancel)
            else:
                self.active[number] = task
                if isinstance(known, Early) and known.cancelled:
                    task.cancel()

    # --- Streams ---------------------------------------------------------------------------------

    def _stream(self, work: Work, items: Iterable[Any], producer: Any) -> None:
        """Send a generator's items, as the reader makes room for them."""
        method, number, _, _, options = work
        if number is None or not _wants_stream(options):
            self._collect(method, number, items)
            return
        producer.grant(options["stream"])  # type: ignore[index]
        iterator = iter(items)
        try:
            for value in iterator:
                if method.write is not None:
                    value = method.write(value)
                if not producer.may_send() or self.failure is not None:
                    break
                self.notify(ITEM, (number, value))
                self.on_queued()
        finally:
            _close(iterator)
        self._end_stream(number, producer)

    async def _stream_async(self, work: Work, items: Any, producer: Any) -> None:
        method, number, _, _, options = work
        try:
            if is_async_result(items):
                items = await items
            async with contextlib.aclosing(_as_async(items)) as source:
                if number is None or not _wants_stream(options):
                    self._finish_list(method, number, await _collected(source, self.limits.items))
                    return
                producer.grant(options["stream"])  # type: ignore[index]
                async for value in source:
                    if method.write is not None:
                        value = method.write(value)
                    if not await producer.may_send_async() or self.failure is not None:
                        break
                    self.notify(ITEM, (number, value))
                    await self._sent()
            self._end_stream(number, producer)
        except BaseException as error:
            self._raised(number, method, error)
            if not isinstance(error, Exception):
                raise

    def _end_stream(self, number: int, producer: Context) -> None:
        if producer.cancelled:
            self._finish_error(number, CANCELLED, "the caller has cancelled it")
            return
        self.outgoing.append(self._encoder.encode((RESPONSE, number, None, None)))
        self.active.pop(number, None)

    def _collect(self, method: Method, number: int | None, items: Iterable[Any]) -> None:
        """For a caller that does not know streams: all items as a list."""
        iterator = iter(items)
        try:
            collected = list(itertools.islice(iterator, self.limits.items + 1))
        finally:
            _close(iterator)
        if len(collected) > self.limits.items:
            raise OverflowError(_too_many(self.limits.items))
        self._finish_list(method, number, collected)

    def _finish_list(self, method: Method, number: int | None, values: list[Any]) -> None:
        if number is None:
            return
        try:
            if method.write is not None:
                values = [method.write(value) for value in values]
            self.outgoing.append(self._encoder.result(number, values))
        except Exception as error:
            self._unsendable(number, method, values, error)
            return
        self.active.pop(number, None)

    # --- Errors ----------------------------------------------------------------------------------

    def _raised(self, number: int | None, method: Method, error: BaseException) -> None:
        """A method raised: tell the caller, and the log."""
        code: int | str
        data = None
        if isinstance(error, RemoteError):  # raised on purpose
            code = _code_of(error)
            message, data = error.message, error.data
        elif type(error).__name__ == "CancelledError":  # of asyncio, or of concurrent.futures
            if self._said_farewell and number is not None:
                # It was we who ended it. Its caller knows that from our last word, and no answer
                # may follow that.
                self.active.pop(number, None)
                return
            code, message = CANCELLED, "the caller has cancelled it"
        else:
            code, message = METHOD_RAISED, _words(error)
            logger.info("%s: %s raised", self.peer, method.name, exc_info=error)
        text = None
        if self._tracebacks:
            text = "".join(traceback.format_exception(error))
        self._finish_error(number, code, message, data, text)

    def _unsendable(self, number: int, method: Method, value: Any, error: Exception) -> None:
        why = _words(self._explained(value, "result", error))
        logger.warning("%s: the result of %s cannot be sent: %s", self.peer, method.name, why)
        self._finish_error(number, INTERNAL_ERROR, f"the result cannot be sent: {why}")

    def _finish_error(
        self,
        number: int | None,
        code: int | str,
        message: str,
        data: Any = None,
        remote_traceback: str | None = None,
    ) -> None:
        if number is None:
            logger.info("%s: a notification failed: %s", self.peer, message)
            return
        self._answer_error(number, code, message, data, remote_traceback)
        self.active.pop(number, None)

    def _answer_error(
        self,
        number: int,
        code: int | str,
        message: str,
        data: Any = None,
        remote_traceback: str | None = None,
    ) -> None:
        """To our own peers with all there is; to strangers as a string, which all of them take."""
        message = _sendable(message)
        error: Any = message
        if self.is_ours:
            error = {"code": code, "message": message}
            if data is not None:
                error["data"] = data
            if remote_traceback is not None:
                error["traceback"] = _sendable(remote_traceback)
        try:
            self.outgoing.append(self._encoder.encode((RESPONSE, number, error, None)))
        except Exception as fault:
            logger.warning("%s: the data of an error cannot be sent: %s", self.peer, _words(fault))
            error = {"code": code, "message": message[:SHORTENED]} if self.is_ours else ""
            self.outgoing.append(self._encoder.encode((RESPONSE, number, error, None)))

    # --- The life of the connection --------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        return {"hvrpc": VERSION, "message": self.limits.message}

    def _learn(self, facts: Mapping[Any, Any]) -> None:
        self.is_ours = type(facts.get("hvrpc")) is int
        limit = facts.get("message")
        known = max(limit, LEAST_MESSAGE) if type(limit) is int else None
        self._encoder.address(ours=self.is_ours, limit=known)

    def open(self, first: Call) -> bool:
        if self.says_hello:
            self.request(HELLO, (self._facts(),), first)
        return self.says_hello

    def opened(self, first: Call) -> None:
        if first.error is None and type(first.value) is dict:
            self._learn(first.value)

    def calls(self) -> Iterable[Call]:
        return self.pending.values()

    @property
    def waiting(self) -> bool:
        return bool(self.pending)

    @property
    def busy(self) -> bool:
        return bool(self.pending or self.active)

    def ping(self) -> bool:
        if not self.is_ours:
            return False
        self.request(PING, (), Call())
        return True

    def reassure(self) -> None:
        if self.is_ours:
            self.notify(ALIVE, ())

    def goodbye(self) -> None:
        self.draining = self.leaving = True
        self._refuse_kept()
        if self.is_ours:
            self.notify(GOODBYE, ({},))

    def farewell(self) -> None:
        self._said_farewell = True
        if self.is_ours:
            self.notify(GOODBYE, ({"unfinished": list(self.active)},))
        for running in list(self.active.values()):
            if running is not None:
                running.cancel()

    def fail(self, error: HvrpcError | None) -> None:
        lost = error or ConnectionLost("the connection was closed")
        self.failure = lost
        self.draining = True
        self._kept.clear()
        queued = _ids_of(self.outgoing)
        while self.pending:
            try:
                number, call = self.pending.popitem()
            except KeyError:
                break
            call.fail(self._failure_of(call, number, lost, queued))
        for running in list(self.active.values()):
            if running is not None:
                running.cancel()

    def stay_behind(self) -> None:
        for call in list(self.pending.values()):
            call.fail(ConnectionLost("its connection stayed with the parent process"))

    def _failure_of(
        self, call: Call, number: int, lost: HvrpcError, queued: set[int]
    ) -> HvrpcError:
        """Whether this call may have run is known for each call by itself."""
        not_sent = call.item is None or id(call.item) in queued
        # Our own servers say in the end what they leave unfinished: what is neither answered nor
        # on that list was never begun.
        not_taken = self._unfinished is not None and number not in self._unfinished
        outcome = Outcome.NOT_SENT if not_sent or not_taken else Outcome.MAY_HAVE_RUN
        kind = ProtocolError if isinstance(lost, ProtocolError) else ConnectionLost
        problem = getattr(lost, "problem", None) or str(lost)
        failure = kind(problem, address=getattr(lost, "address", ""), outcome=outcome)
        failure.__cause__ = lost
        return failure


def _ids_of(items: Iterable[Any]) -> set[int]:
    return {id(item) for item in list(items)}


def _wants_stream(options: Mapping[str, Any] | None) -> bool:
    return options is not None and type(options.get("stream")) is int


def _too_many(limit: int) -> str:
    return f"the stream has more than {limit} items: call it as a stream"


def _timeout_in(options: Mapping[str, Any] | None) -> float | None:
    timeout = None if options is None else options.get("timeout")
    return timeout if isinstance(timeout, int | float) else None


def _needs_loop(items: Any) -> bool:
    return is_async_result(items) or hasattr(items, "__aiter__")


async def _as_async(items: Any) -> AsyncGenerator[Any, None]:
    """Either kind of items, one by one. Closing this closes them."""
    if hasattr(items, "__aiter__"):
        iterator = aiter(items)
        try:
            async for item in iterator:
                yield item
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
    else:
        iterator = iter(items)
        try:
            for item in iterator:
                yield item
        finally:
            _close(iterator)


def _close(iterator: Any) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()


async def _collected(items: AsyncGenerator[Any, None], limit: int) -> list[Any]:
    found: list[Any] = []
    async for item in items:
        if len(found) == limit:
            raise OverflowError(_too_many(limit))
        found.append(item)
    return found


class _Begun:
    """A task that has just been made. Cancelled before its first step it would never begin, and its
    call never end; so it is cancelled behind that step."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.get_loop().call_soon(self._task.cancel)


class _Spawned:
    """A coroutine that is about to run. It can be cancelled before it is known as what it runs."""

    __slots__ = ("_cancelled", "_running")

    def __init__(self) -> None:
        self._cancelled = False
        self._running: Any = None

    def runs_as(self, running: Any) -> None:
        self._running = _Begun(running) if isinstance(running, asyncio.Task) else running
        if self._cancelled:
            self._running.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        if self._running is not None:
            self._running.cancel()


def _code_of(error: RemoteError) -> int | str:
    """The code of an error that a method raised on purpose."""
    code = error.code
    if type(code) is str:
        return _sendable(code)
    if type(code) is int and -(2**63) <= code < 2**64:
        return code
    return _CODES.get(type(error), METHOD_RAISED)


def _words(error: BaseException) -> str:
    """An exception of user code, which may be broken in any way, in words."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be made)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _sendable(text: object) -> str:
    """Text that can be packed, whatever is in it."""
    words = str(text)
    try:
        words.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return words.encode(errors="backslashreplace").decode()
    return words


_FOREIGN: Final = {
    ord("P"): "HTTP/2, which gRPC stands on, begins so",
    0x16: "TLS begins so: this server was given no tls=",
}
"""What other protocols begin with, taken for msgpack."""


def _no_message(message: Any) -> ProtocolError:
    if message is None:
        return broken("it sends nil, which is not a message")
    known = _FOREIGN.get(message) if type(message) is int else None
    return broken(
        f"it sends something that is not a message: {_short(message)}{(known and f' ({known})') or ''}"
    )


def _short(value: object) -> str:
    return short_repr(value)


def _nothing() -> None:
    pass


def _no_loop(coroutine: Any) -> Any:
    coroutine.close()
    raise RuntimeError("this driver runs no coroutines")
