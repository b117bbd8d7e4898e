"""What a channel tells of its connection, in grpcio's terms, to whoever asks to be told."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

import grpc

logger = logging.getLogger("hvrpc.grpc")

State = grpc.ChannelConnectivity
Callback = Callable[[grpc.ChannelConnectivity], object]


class Connectivity:
    """The state of a channel, and who wants to know. Callbacks run on a thread of their own, in order."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self._lock = threading.Lock()
        self._callbacks: list[Callback] = []
        self._news: deque[tuple[Callback, grpc.ChannelConnectivity]] = deque()
        self._telling = False

    def changed(self, state: grpc.ChannelConnectivity) -> None:
        """The connection has got into this state."""
        if state is self.state:
            return
        with self._lock:
            if state is self.state or self.state is State.SHUTDOWN:
                return
            self.state = state
            self._tell(self._callbacks)

    def subscribe(self, callback: Callback) -> None:
        """Tell the state now, and whenever it changes."""
        with self._lock:
            self._callbacks.append(callback)
            self._tell([callback])

    def unsubscribe(self, callback: Callback) -> None:
        """Tell no more."""
        with self._lock:
            # By identity, as grpcio does: an equal callback may have been subscribed by others.
            for index, known in enumerate(self._callbacks):
                if known == callback:
                    del self._callbacks[index]
                    break

    def _tell(self, callbacks: list[Callback]) -> None:
        self._news.extend((callback, self.state) for callback in callbacks)
        if self._news and not self._telling:
            self._telling = True
            threading.Thread(target=self._deliver, name="hvrpc-connectivity", daemon=True).start()

    def _deliver(self) -> None:
        while True:
            with self._lock:
                if not self._news:
                    self._telling = False
                    return
                callback, state = self._news.popleft()
            try:
                callback(state)
            except Exception:
                logger.exception("a callback for the state of a channel failed")
