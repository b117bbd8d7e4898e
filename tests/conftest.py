"""What holds for every test: it leaves nothing behind, and never touches a real AF_VSOCK."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import hypothesis
import pytest

from hvrpc.testing.leaks import Snapshot, leaks_since

from .certificates import certificates as certificates
from .rigs import guard

MAY_LEAVE = "may_leave"
VSOCK = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MAY_LEAVE}(reason): the test starts something that a library keeps for the whole process",
    )
    # Nothing fails for being slow: a busy machine is no mistake. What hangs has its own deadline.
    hypothesis.settings.register_profile(
        "hvrpc", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("hvrpc")
    config.stash[VSOCK] = guard.refuse_vsock_outside_rig()


def pytest_collection_finish() -> None:
    """Leave out of all later collections of garbage what lives as long as the process does.

    All modules and tests are a third of a million objects: a fifth of a second, in each of the many tests that
    collect garbage, and whenever the look for leaks does.
    """
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    return f"AF_VSOCK: {config.stash[VSOCK]}"


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves threads, file descriptors or child processes behind."""
    if request.node.get_closest_marker(MAY_LEAVE) is not None:
        yield
        return
    before = Snapshot.take()
    yield
    if left := leaks_since(before):
        pytest.fail("the test has left behind:\n" + "\n".join(left), pytrace=False)
