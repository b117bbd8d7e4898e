"""What a protocol owes to the drivers, and the drivers to a protocol.

A protocol is a *core*: it turns received bytes into finished calls and into work, and calls into
bytes to send. It does no I/O, owns no thread and reads no clock. A driver owns the socket, the
locks or the loop, and the timers. Any core runs on any driver, so reconnecting, heartbeats and
draining exist once.

Who may call what, when several threads share a connection: `filled` and `digest` are called by
the one that leads (reads); everything else by anybody, at any time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ..errors import HvrpcError, ProtocolError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Call:
    """A call that waits for its answer.

    `wake` is how a driver learns that it is done: None while the waiting thread reads by itself.
    """

    # Defaults of the class, and no constructor: one is made for every call.
    done: bool = False
    ok: bool = False
    """Whether it is done and has a value: one look for all that can go wrong."""
    value: Any = None
    error: Any = None
    """What the other side answered instead of a value."""
    failure: HvrpcError | None = None
    """Why there is no answer."""
    key: Any = None
    """By which name the core knows it."""
    item: object = None
    """What was queued to be sent for it: while it is in the queue, nothing has been sent. None: it has
    not come to that."""
    wake: Callable[[], object] | None = None

    def fail(self, failure: HvrpcError) -> None:
        """End it without an answer."""
        if not self.done:
            self.failure = failure
            self.done = True
            if self.wake is not None:
                self.wake()


class Lane(Protocol):
    """Where handlers run one after the other, as :meth:`Core.serve_simple` has to know it."""

    reader: object
    """Who runs them. It changes when one takes so long that another thread goes on."""
    handled: int
    """How many have run."""
    serving: int
    """The number of the one that runs."""


class Core(ABC):
    """A protocol on one connection."""

    outgoing: deque[Any]
    """What must be sent, in order: bytes, or a tuple of buffers that belong together. Appending and
    taking are atomic, so no lock guards it."""

    unsent: Collection[Any] = ()
    """Whatever could be moved to `outgoing` once that is empty: `refill` does it. A protocol with flow
    control keeps the bulk of what it has to send apart, so that small messages need not queue up
    behind it."""

    target: memoryview | None = None
    """Where the next bytes shall be received, when the core wants them in a place of its own (the
    body of a large message): the driver fills it and calls `filled`, then `digest` without bytes."""

    draining: bool = False
    """Whether one of the two has said goodbye: no new calls on this connection."""

    when_silent: str = "check that it speaks this protocol, and that its VM is not paused"
    """What to do about a peer that accepts the connection and never answers."""

    # --- Receiving -----------------------------------------------------------------------------

    @abstractmethod
    def filled(self, size: int) -> None:
        """So many bytes were received into `target`."""

    def fill(self, receive: Callable[[memoryview], int | None]) -> None:
        """Receive into `target` for as long as there is one: for drivers that can wait here. `receive` fills a
        buffer and says with how many bytes; 0 or None: the core shall let go."""
        while self.target is not None and (size := receive(self.target)):
            self.filled(size)

    @property
    def may_look_ahead(self) -> bool:
        """Whether more may be received for `look_ahead`: what it keeps is bounded."""
        return False

    def look_ahead(self, data: Buffer | None, work: deque[Any]) -> None:
        """Like `digest`, while nothing of what keeps it `throttled` seems to end: what cancels some of that may
        come next. What asks for more is kept until the next `digest` that has room for it."""

    @abstractmethod
    def digest(self, data: Buffer | None, work: deque[Any]) -> None:
        """Digest received bytes, and what was left of earlier ones: finish calls, answer what the
        protocol itself asks, and add to `work` what the user's code has to do. Stops early while
        `throttled`.

        Raises :class:`hvrpc.ProtocolError` when the peer broke the protocol; what it asked for
        before that is in `work`.
        """

    def take(self, data: Buffer | None = None) -> Any | None:
        """The same for somebody who wants one piece of work at a time; None when there is none."""
        waiting = vars(self).setdefault("_waiting_to_be_taken", deque())
        broken = vars(self).pop("_broken_by", None)
        try:
            if broken is None and (data is not None or not waiting):
                self.digest(data, waiting)
        except ProtocolError as error:
            broken = error
        if not waiting:
            if broken is not None:
                raise broken
            return None
        if broken is not None:
            vars(self)["_broken_by"] = broken  # what came before it is taken first
        return waiting.popleft()

    def refill(self) -> bool:
        """Move some of `unsent` to `outgoing`, which has been sent. False when nothing could go."""
        return False

    def queued_answers(self) -> tuple[int, int]:
        """Messages, and bytes, that wait to be sent besides calls of our own: what the peer has
        provoked. The bytes may be counted only when they matter."""
        ours = list(self.calls())
        return len(self.outgoing) - len(ours), answers_size(self.outgoing, ours)

    def check(self, call: Call) -> None:
        """Fail a call that came too late to be found by the end of the connection."""

    def answers(self, data: bytes, call: Call) -> bool:
        """Whether received bytes are the answer to a call and nothing else. Then it is done.

        For the usual case, in which every step counts. False: nothing was done, digest them.
        """
        return False

    def only_one(self, data: bytes | bytearray, work: deque[Any]) -> bool:
        """Whether received bytes are one small message of the usual kinds and nothing else. Then it is
        digested.

        The same for those who do not wait for a certain call. False: nothing was done, digest them.
        """
        return False

    run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any]
    """How a coroutine is run that a plain function of the user's has returned: gives what can cancel it.
    A driver on a loop sets it."""

    has_more: bool = False
    """Whether there are bytes that `digest` has not come to yet."""

    throttled: bool = False
    """Whether `digest` stopped because so much work is under way: try again when some of it ends."""

    # --- The user's code -----------------------------------------------------------------------

    @abstractmethod
    def serve(self, work: Any) -> None:
        """Run it on this thread, and queue the answer. Never raises, whatever the user's code does."""

    def serve_simple(self, work: deque[Any], lane: Lane, reader: object) -> Any | None:
        """Run what is simple of it on this thread, one after the other, and queue the answers: until
        another thread reads, or there is so much to send that it should be sent.

        Returns what has been taken from `work` and is not simple: it was not run. None: look around.
        """
        try:
            return work.popleft()
        except IndexError:  # another thread was faster
            return None

    @abstractmethod
    def serve_async(self, work: Any) -> Awaitable[None] | None:
        """Run it, and queue the answer. What it returns, if anything, has to be awaited."""

    # --- The life of the connection --------------------------------------------------------------

    def begun(self, work: Any, task: Any) -> None:
        """What `serve_async` returned is a task now; its `cancel()` ends it."""

    @abstractmethod
    def open(self, first: Call) -> bool:
        """Queue what is sent first. True when the peer proves itself by finishing `first`; False
        when there is nothing to wait for."""

    def opened(self, first: Call) -> None:
        """The first call was answered, with whatever: learn from it who is there."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether calls wait for answers, or work is under way."""

    @property
    @abstractmethod
    def waiting(self) -> bool:
        """Whether calls of ours wait for answers."""

    def calls(self) -> Iterable[Call]:
        """The calls of ours that wait for answers."""
        return ()

    def reassure(self) -> None:
        """Queue a sign of life, for a peer whose own questions are not read while we are throttled."""

    @abstractmethod
    def ping(self) -> bool:
        """Queue a question that a live peer answers at once; False if this peer would not."""

    @abstractmethod
    def goodbye(self) -> None:
        """Say that no new calls are taken, or made, from now on."""

    @abstractmethod
    def farewell(self) -> None:
        """Say the last word: what was not finished. Nothing follows but the end."""

    @abstractmethod
    def fail(self, error: HvrpcError | None) -> None:
        """The connection is over: end every call, each knowing whether it may have run.

        None: it ended in good order.
        """

    def stay_behind(self) -> None:
        """In a child process, just forked: end the calls that may be waited for here, too. Theirs is the
        parent's connection, which sends what waits to be sent: none may be made once more."""


JOIN: Final = 64 * 1024
"""Small messages are joined to writes of up to this size; what is larger goes out at once."""
SHORT: Final = 1024
"""Bytes of a message that is joined with what follows without a look at that."""
MANY_JOINED: Final = 256
"""Messages that are joined so, at most."""
MANY_ANSWERS: Final = 256
"""Answers that are made before they are sent, at most."""

CoreT = TypeVar("CoreT", bound=Core)


def joined(first: Any, queue: deque[Any]) -> tuple[list[Any], Any]:
    """The first message and those behind it that can go out with it in one write, taken from the queue;
    and what is written."""
    items = [first]
    if len(first) < SHORT:
        # What follows a short message is short, nearly always: then nothing is looked at one by one.
        try:
            items.extend(islice(iter(queue.popleft, None), MANY_JOINED))
        except IndexError:
            pass  # that was all
        try:
            data = b"".join(items)
        except TypeError:  # a tuple is among them
            pass
        else:
            if len(data) <= JOIN:
                return items, data
        queue.extendleft(reversed(items[1:]))
        del items[1:]
    size = len(first)
    try:
        while queue and size < JOIN:
            item = queue.popleft()
            if type(item) is tuple:
                queue.appendleft(item)
                break
            size += len(item)
            items.append(item)
    except IndexError:
        pass  # another thread has withdrawn the last one
    return items, items[0] if len(items) == 1 else b"".join(items)


def ends_large(queue: deque[Any]) -> bool:
    """Whether the last of what is queued is large, so that all should go out before more is made."""
    try:
        last = queue[-1]
    except IndexError:
        return False  # a notification has no answer, or another thread has sent it meanwhile
    return type(last) is tuple or len(last) >= JOIN


def answers_size(queue: Iterable[Any], ours: Iterable[Call]) -> int:
    """Bytes that are queued besides calls of our own, and besides the rest of what is being sent."""
    requests = {id(call.item) for call in ours}
    return sum(
        _size(item)
        for item in list(queue)
        if id(item) not in requests and type(item) is not memoryview
    )


def _size(item: Any) -> int:
    return sum(map(len, item)) if type(item) is tuple else len(item)
