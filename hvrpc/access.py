"""Who called, and who may.

The hypervisor vouches for a *virtual machine*: no guest can claim to be another one. It says
nothing about which process, or which user, in that machine is calling. Where that matters, TLS or
tokens are needed on top.

A refused peer is cut off before one byte of what it sent is read, and the refusal is logged, at a
bounded rate so that a peer which keeps knocking cannot fill the disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from .addresses import (
    HV_GUID_LOOPBACK,
    HV_GUID_PARENT,
    NAMED_VMS,
    VMADDR_CID_HOST,
    VMADDR_CID_LOCAL,
    describe_service,
)

logger = logging.getLogger("hvrpc.access")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What TLS has verified about the other side: somebody we trust has signed that it is so."""

    common_name: str | None
    names: tuple[str, ...]
    """Its alternative names, of all kinds, in the order of the certificate."""
    der: bytes

    def __str__(self) -> str:
        return ", ".join(self.names) or self.common_name or "nobody"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection. What a family does not tell is None."""

    family: str
    """hyperv, vsock, hybrid, local, unix or tcp."""
    vm_id: UUID | None = None
    """The VM, as Hyper-V names it from here: the host is PARENT, this machine LOOPBACK."""
    vm_name: str | None = None
    """The VM's name, where the family knows it."""
    cid: int | None = None
    service: UUID | None = None
    """The other end's service id. Of a caller this is an arbitrary one."""
    port: int | None = None
    pid: int | None = None
    uid: int | None = None
    host: str | None = None
    """An IP address or a path, for the families that have those."""
    encrypted: bool = False
    """Whether the connection goes through TLS."""
    certificate: Certificate | None = None
    """With TLS: what the other side has proved to be. None before the handshake, so no rule can ask
    for it; `Tls.names` does."""

    @property
    def is_host(self) -> bool:
        """Whether it is the host of this machine that calls."""
        return self.vm_id == HV_GUID_PARENT or self.cid == VMADDR_CID_HOST

    @property
    def is_loopback(self) -> bool:
        """Whether it is this very machine that calls."""
        return self.vm_id == HV_GUID_LOOPBACK or self.cid == VMADDR_CID_LOCAL

    def __str__(self) -> str:
        if self.cid is not None:
            return f"vsock:{self.cid}/{self.port}"
        if self.vm_id is not None:
            scheme = "hvsock" if self.family == "hyperv" else self.family
            service = "" if self.service is None else describe_service(self.service)
            return f"{scheme}:{self.vm_id}/{service}"
        if self.family == "tcp":
            host = f"[{self.host}]" if self.host and ":" in self.host else self.host
            return f"tcp:{host}:{self.port}"
        if self.family == "hybrid":
            return f"hybrid:{self.host}?port={self.port}"
        return f"{self.family}:{self.host or ''}" + ("" if self.pid is None else f"?pid={self.pid}")


Rule: TypeAlias = "str | int | UUID | Callable[[Peer], bool]"
"""One way to be admitted.

A VM id (a `UUID`, or its text) · a VM's name · `"parent"`, `"loopback"`, `"children"`, `"any"` ·
a CID (a number, or `"cid:3"`) · `"uid:1000"` · a function of the :class:`Peer`.
"""


def _is_child(peer: Peer) -> bool:
    if peer.family == "hybrid":
        return True
    if peer.vm_id is not None:
        return not (peer.is_host or peer.is_loopback)
    return peer.cid is not None and peer.cid > VMADDR_CID_HOST


_NAMED_RULES: Final[dict[str, Callable[[Peer], bool]]] = {
    "any": lambda peer: True,
    "children": _is_child,
    "loopback": lambda peer: peer.is_loopback,
    "parent": lambda peer: peer.is_host,
}


def _vm_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _compile(rule: Rule) -> Callable[[Peer], bool]:
    if callable(rule):
        return rule
    if isinstance(rule, bool):
        raise TypeError("a rule is a VM id, a VM name, a CID or a function, not a bool")
    if isinstance(rule, int):
        return lambda peer: peer.cid == rule
    if isinstance(rule, UUID):
        return lambda peer: peer.vm_id == rule
    if not isinstance(rule, str):
        raise TypeError(f"a rule is a VM id, a VM name, a CID or a function, not {rule!r}")
    if named := _NAMED_RULES.get(rule.lower()):
        return named
    kind, colon, number = rule.partition(":")
    if colon and kind in ("cid", "uid") and number.isascii() and number.isdigit():
        wanted = int(number)
        return lambda peer: (peer.cid if kind == "cid" else peer.uid) == wanted
    if (vm := _vm_id(rule)) is not None:
        return lambda peer: peer.vm_id == vm
    if not rule or "://" in rule or (colon and kind in ("cid", "uid")):
        raise ValueError(f"{rule!r} is no rule: a VM's id or name, parent, cid:3, uid:1000 …")
    if rule.lower() in NAMED_VMS:
        raise ValueError(f"{rule!r} is not a place a call can come from")
    return lambda peer: peer.vm_name == rule


class Access:
    """The rules by which a listener admits its callers.

    `allow` is one rule or several; a peer that satisfies one is admitted, and an empty list admits
    nobody. A rule that raises admits nobody either.
    """

    def __init__(self, allow: Rule | Iterable[Rule]) -> None:
        if isinstance(allow, (bytes, bytearray)):  # they would be read as a list of CIDs
            raise TypeError(f"a rule is text, not bytes: {allow!r}")
        many = isinstance(allow, Iterable) and not isinstance(allow, str)
        rules: list[Rule] = list(allow) if many else [allow]  # type: ignore[arg-type, list-item]
        self._rules = [_compile(rule) for rule in rules]
        self._text = ", ".join(_describe(rule) for rule in rules) or "nobody"
        self._log = RateLimitedLog(logger)
        self._failures = RateLimitedLog(logger)

    @classmethod
    def of(cls, allow: Access | Rule | Iterable[Rule] | None) -> Access | None:
        """What users may pass as `allow=`: rules, something made of them already, or None."""
        return allow if allow is None or isinstance(allow, Access) else cls(allow)

    def admits(self, peer: Peer) -> bool:
        """Whether one of the rules is satisfied."""
        for rule in self._rules:
            try:
                if rule(peer):
                    return True
            except Exception:
                self._failures.warning(
                    "an access rule failed on %s, which is therefore refused", peer, exc_info=True
                )
                return False
        return False

    def log_refusal(self, peer: Peer, address: object) -> None:
        """Tell the administrator who was turned away, and by what."""
        self._log.warning("%s: refused %s, allowed are: %s", address, peer, self._text)

    def __str__(self) -> str:
        return self._text


def _describe(rule: Rule) -> str:
    if isinstance(rule, int):
        return f"CID {rule}"
    if callable(rule):
        return getattr(rule, "__name__", repr(rule))
    return str(rule)


class RateLimitedLog:
    """Warnings that strangers can cause: at most `burst` in `period` seconds, then a count."""

    def __init__(
        self,
        log: logging.Logger,
        *,
        burst: int = 5,
        period: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._burst = burst
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._written = 0
        self._suppressed = 0

    def warning(self, message: str, *args: object, exc_info: bool = False) -> None:
        """Write it, or count it. `exc_info` adds the traceback of the exception being handled."""
        with self._lock:
            now = self._clock()
            suppressed = 0
            if now - self._since >= self._period:
                suppressed, self._suppressed = self._suppressed, 0
                self._since, self._written = now, 0
            if self._written >= self._burst:
                self._suppressed += 1
                return
            self._written += 1
        if suppressed:
            self._log.warning("%d similar messages were left out", suppressed)
        self._log.warning(message, *args, exc_info=exc_info)
