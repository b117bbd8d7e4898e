"""gRPC's call credentials on our own engine: tokens that a plugin adds to the metadata of each call.

grpcio runs a plugin in a new thread for each call. Here it runs on the thread that calls, and a thread is
waited for only if the plugin answers from one: a token that is at hand costs nothing. On an event loop,
where a plugin must not block, all but those that are known to answer at once run in the loop's executor.

How a plugin fails, and what the caller sees then, is as in grpcio.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from ..http2 import Fields
from ..session.threads import at_most
from . import metadata
from .status import StatusError

TOO_INSECURE: Final = (
    "Established channel does not have a sufficient security level to transfer call credential."
)
"""What grpcio says. No token goes over a connection that others can read."""

Metadata = Sequence[tuple[str, str | bytes]]
Plugin = Callable[[str, str, Callable[..., None]], None]
"""A plugin as grpcio wraps it: service URL, name of the method, and what to call with the metadata."""


class Unreadable(TypeError):
    """Credentials of grpcio's that are none of those made in Python."""


class CallCredentials:
    """The plugins whose metadata go with a call."""

    def __init__(self, plugins: Sequence[Plugin] = ()) -> None:
        self._plugins = tuple(plugins)
        self.answer_at_once = all(_answers_at_once(plugin) for plugin in self._plugins)
        """Whether all of them are known to do so, and to block nobody."""

    @classmethod
    def of(cls, *credentials: Any) -> CallCredentials:
        """What is in objects of `grpc.CallCredentials`. Raises :class:`Unreadable`."""
        return cls([plugin for each in credentials for plugin in _plugins_in(each)])

    def __bool__(self) -> bool:
        return bool(self._plugins)

    def __add__(self, others: CallCredentials) -> CallCredentials:
        return CallCredentials((*self._plugins, *others._plugins))

    def begin(self, service_url: str, method: str) -> Pending:
        """Ask all of them, on this thread."""
        answers = []
        for plugin in self._plugins:
            answer = _Answer()
            plugin(service_url, method, answer)
            answers.append(answer)
        return Pending(answers)

    async def fields_async(self, service_url: str, method: str) -> Fields:
        """What they add to a call's metadata. The coroutine that awaits it bounds it itself.

        Raises :class:`StatusError`.
        """
        if self.answer_at_once:
            return self.begin(service_url, method).fields(None)
        loop = asyncio.get_running_loop()
        found: Fields = ()
        for plugin in self._plugins:
            done: asyncio.Future[None] = loop.create_future()
            answer = _Answer(lambda done=done: _settle(loop, done))  # type: ignore[misc]
            await loop.run_in_executor(None, plugin, service_url, method, answer)
            if not answer.came:
                await done
            found += answer.fields()
        return found


NONE: Final = CallCredentials()


class Pending:
    """What the plugins of a call have answered, or will."""

    def __init__(self, answers: Sequence[_Answer]) -> None:
        self._answers = answers

    @property
    def ready(self) -> bool:
        """Whether all of them have answered."""
        return all(answer.came for answer in self._answers)

    def fields(self, deadline: float | None) -> Fields:
        """What they add to the call's metadata, waiting for it until the deadline if need be.

        Raises :class:`StatusError`.
        """
        found: Fields = ()
        for answer in self._answers:
            if not answer.came:
                answer.wait(None if deadline is None else max(deadline - time.monotonic(), 0))
            found += answer.fields()
        return found


class _Answer:
    """What a plugin calls, once, on whichever thread."""

    def __init__(self, then: Callable[[], object] | None = None) -> None:
        self.came = False
        self._then = then
        self._event: threading.Event | None = None
        self._lock = threading.Lock()
        self._metadata: Any = ()
        self._failed = False
        self._details = ""

    def __call__(self, found: Any, code: Any, details: Any) -> None:
        self._metadata = found
        self._failed = code != 0
        self._details = details.decode() if isinstance(details, bytes) else str(details)
        with self._lock:
            self.came = True
            event = self._event
        if event is not None:
            event.set()
        if self._then is not None:
            self._then()

    def wait(self, seconds: float | None) -> None:
        """Raises :class:`StatusError` when the time is up."""
        with self._lock:
            if self.came:
                return
            self._event = threading.Event()
        if not self._event.wait(None if seconds is None else at_most(seconds)):
            raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def fields(self) -> Fields:
        if self._failed:
            what = f"Getting metadata from plugin failed with error: {self._details}"
            raise StatusError(grpc.StatusCode.UNAVAILABLE, what)
        try:
            return metadata.to_fields(self._metadata or ())
        except (StatusError, TypeError, ValueError, AttributeError) as error:
            raise StatusError(grpc.StatusCode.UNAVAILABLE, "Illegal metadata") from error


def _settle(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    def settle() -> None:
        if not done.done():
            done.set_result(None)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        pass  # the loop was closed: nobody waits any more


def _plugins_in(credentials: Any) -> list[Plugin]:
    """Those of one object of `grpc.CallCredentials`, or of grpcio's own object in it."""
    inner = getattr(credentials, "_credentials", credentials)
    several = getattr(inner, "_call_credentialses", None)
    if several is not None:
        return [plugin for each in several for plugin in _plugins_in(each)]
    plugin = getattr(inner, "_metadata_plugin", None)
    if plugin is None:
        raise Unreadable(type(inner).__name__)
    return [plugin]


def _answers_at_once(plugin: Plugin) -> bool:
    """Whether it is one of grpcio's, for a token that is at hand."""
    inner = getattr(plugin, "_metadata_plugin", plugin)
    return type(inner).__name__ == "AccessTokenAuthMetadataPlugin"


def where_to(authority: str, path: str) -> tuple[str, str]:
    """What a plugin is told of a call: the URL of the service, and the name of the method."""
    service, _, method = path.removeprefix("/").rpartition("/")
    return f"https://{authority}/{service}", method
