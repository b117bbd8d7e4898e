"""The near side of a boundary whose far side somebody else has started.

A rig runs this in one of its machines, and serves in the other one.
"""

from __future__ import annotations

import os

import pytest

from .contract import CallContract

WHERE, WHO = "HVRPC_FAR_SIDE", "HVRPC_FAR_SIDE_SEES"
"""Variables: the address of the far side, with {} for the port; and what it should know us by."""

if WHERE not in os.environ:
    pytest.skip(
        "the rigs run it: python3 run.py rigs nested, python3 run.py rigs windows",
        allow_module_level=True,
    )


class TestFromHere(CallContract):
    @pytest.fixture
    def where(self) -> str:
        return os.environ[WHERE]

    @pytest.fixture
    def who(self) -> str:
        return os.environ[WHO]
