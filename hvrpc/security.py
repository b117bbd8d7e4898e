"""What is asked of the other end of a connection, in one object for both sides and both drivers.

    Security.of_client(expect_peer="web", tls=Tls(ca="ca.pem"))
    Security.of_server(allow="children", tls=Tls(certificate="host.pem", key="host-key.pem"))

Making one reads the files that are named in it, so that what is wrong with them shows before
anything is opened.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .access import Access, Rule
from .tls import End, Tls


@dataclass(frozen=True, slots=True)
class Security:
    """Who may be at the other end, and whether the bytes are encrypted."""

    peers: Access | None = None
    """Rules that the other end has to satisfy, by what the system says of it; None: none."""
    tls: End | None = None

    @classmethod
    def of_client(
        cls,
        expect_peer: Access | Rule | Iterable[Rule] | None = None,
        tls: Tls | ssl.SSLContext | None = None,
    ) -> Security:
        """A client's. Raises :class:`hvrpc.CredentialsError` for files that cannot be used."""
        given = Tls.of(tls)
        return cls(Access.of(expect_peer), None if given is None else given.client())

    @classmethod
    def of_server(
        cls,
        allow: Access | Rule | Iterable[Rule] | None = None,
        tls: Tls | ssl.SSLContext | None = None,
    ) -> Security:
        """A server's. Raises :class:`hvrpc.CredentialsError` for files that cannot be used."""
        given = Tls.of(tls)
        return cls(Access.of(allow), None if given is None else given.server())


PLAIN: Final = Security()
"""Nothing is asked, nothing is encrypted."""
