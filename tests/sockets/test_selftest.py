"""The battery of `hvrpc doctor --selftest` over real AF_VSOCK, where that may be opened.

It is here because a guest of the rig has nothing of the command line; on the fabric it is tested with
the command itself.
"""

from __future__ import annotations

import pytest

from hvrpc.cli.doctor.farside import FarSide
from hvrpc.cli.doctor.selftest import STEPS, Battery

from ..rigs import guard


@pytest.mark.skipif(not guard.inside_rig_guest(), reason=guard.HOW_TO_RUN)
@pytest.mark.timeout(600)
def test_the_battery_over_vsock() -> None:
    far = FarSide("vsock://local/0")
    try:
        far.start()
        steps = Battery(far.address, 1, far).run(lambda step: None)
    finally:
        far.kill()
    for step in steps:
        print(step)
    assert [(step.name, step.error) for step in steps] == [(name, None) for name in STEPS]
