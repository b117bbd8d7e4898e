"""Joins two connections of any families, so that programs which know no VM sockets reach one.

    with Relay.between("tcp://127.0.0.1:8080", "hvsock://My VM/50051") as relay:
        ...whoever connects to relay.address talks to the service in the VM...

What passes is bytes, whatever they mean. Reading order: `joint` (two connections joined), `relay`
(one for each caller), `routes` (several, described in a file). The command is `hvrpc tunnel`.
"""

from __future__ import annotations

from .joint import Joint, Line
from .relay import Counters, Relay
from .routes import Route, RouteError, read_routes

__all__ = ["Counters", "Joint", "Line", "Relay", "Route", "RouteError", "read_routes"]
