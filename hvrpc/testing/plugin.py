"""The pytest plugin: one fixture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .fabric import Fabric


@pytest.fixture
def hvrpc_fabric() -> Iterator[Fabric]:
    """A fresh emulated fabric. The test is its host; `hvrpc_fabric.guest(…)` starts VMs.

    While the test runs, `hvsock://` and `local://` addresses use this fabric. Afterwards its guests
    are ended, and one that failed on its own makes the test fail.
    """
    from .fabric import Fabric

    with Fabric() as fabric:
        yield fabric
        for guest in fabric.guests:
            if guest.output:
                print(f"--- output of guest {guest.name} ---\n{guest.output}")
