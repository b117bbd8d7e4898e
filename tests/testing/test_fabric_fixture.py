"""The fixture gives a test a fabric of its own, and leaves nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hvrpc
from hvrpc.sockets import fabric as rendezvous
from hvrpc.testing import Fabric, Guest, GuestFailed, no_leaks, ready

pytest_plugins = ["pytester"]

SERVICE = """
    import hvrpc

    def serve():
        with hvrpc.sockets.listen("hvsock://any/5000") as listener:
            for stream, _ in listener:
                with stream:
                    stream.sendall(b"hello")

    def fail():
        raise RuntimeError("the guest is ill")

    def fail_later():
        with hvrpc.sockets.listen("hvsock://any/5000"):
            pass
        print("I was here")
        fail()
"""


def break_when_called() -> None:
    """A guest: be ready, and then fail."""
    with hvrpc.sockets.listen("hvsock://any/5000") as listener:
        listener.accept()
        raise RuntimeError("the guest is ill")


def run_for_ever() -> None:
    with hvrpc.sockets.listen("hvsock://any/5000") as listener:
        list(listener)


def let_a_guest_fail(fabric: Fabric) -> Guest:
    """A guest that has failed, which nobody has been told."""
    guest = fabric.guest("web", break_when_called)
    hvrpc.sockets.connect("hvsock://web/5000").abort()
    while guest.alive:
        time.sleep(0.01)
    return guest


def test_the_test_is_the_host(hvrpc_fabric: Fabric) -> None:
    assert os.environ["HVRPC_FABRIC"] == hvrpc_fabric.name
    assert "HVRPC_FABRIC_VM" not in os.environ
    with hvrpc.sockets.listen("hvsock://any/0") as listener:
        assert str(listener.address).startswith("hvsock://any/")


def test_a_vm_has_the_same_id_whether_it_runs_or_not(hvrpc_fabric: Fabric) -> None:
    wanted = hvrpc_fabric.vm_id("web")
    assert hvrpc_fabric.guest("web", run_for_ever).vm_id == wanted
    assert hvrpc_fabric.vm_id(str(wanted)) == wanted


def test_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HVRPC_FABRIC", raising=False)
    monkeypatch.setenv("HVRPC_FABRIC_VM", "before")
    with no_leaks():
        with Fabric() as fabric:
            guests = [fabric.guest(name, run_for_ever) for name in ("web", "db")]
            hvrpc.sockets.connect("hvsock://web/5000").abort()
            guests[0].pause()
            folder = Path(rendezvous.folder_of(fabric.name))
            assert folder.exists()
        assert not any(guest.alive for guest in guests)
    assert not folder.exists()
    assert "HVRPC_FABRIC" not in os.environ
    assert os.environ["HVRPC_FABRIC_VM"] == "before"


def test_what_a_killed_test_run_has_left_is_removed_by_the_next() -> None:
    code = (
        "import hvrpc.testing, os\n"
        "fabric = hvrpc.testing.Fabric().__enter__()\n"
        "print(fabric.name, flush=True)\n"
        "os._exit(1)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )
    folder = Path(rendezvous.folder_of(killed.stdout.strip()))
    assert folder.exists()
    with Fabric() as first:
        assert not folder.exists()
        with Fabric():
            assert Path(rendezvous.folder_of(first.name)).exists()


def test_fabrics_can_be_nested() -> None:
    with Fabric() as outer:
        with Fabric() as inner:
            assert os.environ["HVRPC_FABRIC"] == inner.name != outer.name
        assert os.environ["HVRPC_FABRIC"] == outer.name


def test_a_guest_that_fails_unnoticed_is_noticed_at_the_end() -> None:
    with pytest.raises(GuestFailed, match="the guest is ill"), Fabric() as fabric:
        let_a_guest_fail(fabric)


def test_a_failing_test_tells_which_guest_had_failed_before() -> None:
    def failing_test() -> None:
        with Fabric() as fabric:
            let_a_guest_fail(fabric)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        failing_test()
    assert "the guest is ill" in caught.value.__notes__[0]


def test_a_failure_that_was_raised_already_is_not_raised_again() -> None:
    with Fabric() as fabric:
        guest = let_a_guest_fail(fabric)
        with pytest.raises(GuestFailed):
            guest.wait()


def test_a_guest_that_was_killed_on_purpose_has_not_failed() -> None:
    with Fabric() as fabric:
        fabric.guest("web", run_for_ever).kill()


def test_ready_means_nothing_outside_a_guest() -> None:
    ready()


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Somebody's project with a service, whose tests use the plugin."""
    pytester.makepyfile(service=SERVICE)
    return pytester


def run(project: pytest.Pytester, test: str) -> pytest.RunResult:
    project.makepyfile(test)
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", timeout=50)


def test_somebody_else_can_test_a_service_with_it(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import hvrpc, service

        def test_service(hvrpc_fabric):
            hvrpc_fabric.guest("web", target=service.serve)
            with hvrpc.sockets.connect("hvsock://web/5000") as stream:
                assert stream.recv_exactly(5) == b"hello"

        def test_fresh_fabric(hvrpc_fabric):
            try:
                hvrpc.sockets.connect("hvsock://web/5000")
            except hvrpc.ConnectError as error:
                assert "not running" in str(error)
            else:
                assert False
        """,
    )
    result.assert_outcomes(passed=2)


def test_a_guest_that_fails_makes_the_test_fail(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import service

        def test_at_once(hvrpc_fabric):
            hvrpc_fabric.guest("web", target=service.fail)

        def test_later(hvrpc_fabric):
            guest = hvrpc_fabric.guest("web", target=service.fail_later)
            while guest.alive:
                pass
        """,
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: the guest is ill*"])
    result.stdout.fnmatch_lines(["*I was here*"])


def test_what_guests_print_is_shown_when_the_test_fails(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import hvrpc.testing

        def chat():
            print("the guest says hello")
            hvrpc.testing.ready()

        def test_fails(hvrpc_fabric):
            hvrpc_fabric.guest("web", target=chat).wait()
            assert False, "for another reason"
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*output of guest web*", "the guest says hello"])


def test_the_plugin_imports_little(project: pytest.Pytester) -> None:
    """Everybody's pytest loads it who has hvrpc installed."""
    result = run(
        project,
        """
        import sys

        def test_modules():
            assert "hvrpc.testing.plugin" in sys.modules
            heavy = {"asyncio", "multiprocessing", "grpc", "msgpack", "tenacity"}
            ours = {name for name in sys.modules if name.startswith("hvrpc.testing.")}
            assert ours == {"hvrpc.testing.plugin"}
            assert not heavy & set(sys.modules)
        """,
    )
    result.assert_outcomes(passed=1)
