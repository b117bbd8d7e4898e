"""The near side of a boundary whose far side somebody else has started.

A rig runs this in one of its machines, and serves in the other one.
"""

from __future__ import annotations

import json
import os

import pytest

from .contract import CallContract

FAR_SIDES = "HVRPC_FAR_SIDES"
"""A variable: pairs, as JSON, of an address with {} for the port and what we are known by there."""

if FAR_SIDES not in os.environ:
    pytest.skip(
        "the rigs run it: python3 run.py rigs nested, python3 run.py rigs windows",
        allow_module_level=True,
    )


@pytest.fixture(params=json.loads(os.environ[FAR_SIDES]), ids=lambda pair: pair[0])
def far_side(request: pytest.FixtureRequest) -> list[str]:
    pair: list[str] = request.param
    return pair


class TestFromHere(CallContract):
    @pytest.fixture
    def where(self, far_side: list[str]) -> str:
        return far_side[0]

    @pytest.fixture
    def who(self, far_side: list[str]) -> str:
        return far_side[1]
