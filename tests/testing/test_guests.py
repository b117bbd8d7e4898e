"""Guests are processes with an identity of their own, and tests have their power buttons."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import hvrpc
from hvrpc.sockets import connect, listen
from hvrpc.testing import Fabric, GuestFailed, ready
from hvrpc.testing.programs import Program

ADDRESS = "hvsock://web/5000"
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals: run on Linux or macOS")


# --- What guests do in these tests ------------------------------------------------------------------


def answer_with_pid() -> None:
    with listen("hvsock://any/5000") as listener:
        for stream, _ in listener:
            with stream:
                while stream.recv(1):
                    stream.sendall(str(os.getpid()).encode())


def print_arguments(*arguments: object) -> None:
    print(*arguments, "Grüße")
    print("to the other stream", file=sys.stderr)


def fail() -> None:
    print("before it failed")
    raise RuntimeError("the guest is ill")


def exit_with(code: int) -> None:
    sys.exit(code)


def die_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def never_ready() -> None:
    threading.Event().wait()


def be_ready_when_told(path: str) -> None:
    """Listen first, be ready only later."""
    with listen("hvsock://any/5000") as listener:
        Path(path).touch()
        print("about to be ready")
        ready()
        list(listener)


def tidy_up(path: str) -> None:
    try:
        ready()
        while True:
            time.sleep(60)
    finally:
        Path(path).write_text("tidied up")


def ignore_requests() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ready()
    threading.Event().wait()


def start_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid)
    ready()
    threading.Event().wait()


def print_much() -> None:
    for _ in range(3000):
        print("x" * 1000)
    print("the end")


class Box:
    """For a function inside a class."""

    @staticmethod
    def inside() -> None:
        print("inside a class")


# --- Starting -----------------------------------------------------------------------------------------


def test_a_function_runs_in_another_process_with_its_arguments(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", print_arguments, ("one", 2, {"three": 3.0}))
    guest.wait()
    assert guest.pid != os.getpid()
    assert guest.output.splitlines() == ["one 2 {'three': 3.0} Grüße", "to the other stream"]


def test_a_function_may_be_inside_a_class(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", Box.inside)
    guest.wait()
    assert guest.output.strip() == "inside a class"


def test_a_script_runs_with_its_command_line(hvrpc_fabric: Fabric, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("NAME = 'neighbour'")
    script = tmp_path / "script.py"
    script.write_text("import sys, neighbour\nprint(__name__, sys.argv[1:], neighbour.NAME)")
    guest = hvrpc_fabric.guest("web", script, ("--port", 5))
    guest.wait()
    assert guest.output.strip() == "__main__ ['--port', '5'] neighbour"


def test_a_function_of_the_main_script_can_be_a_guest(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import hvrpc.testing\n"
        "def work():\n    print('from', __name__)\n"
        "if __name__ == '__main__':\n"
        "    with hvrpc.testing.Fabric() as fabric:\n"
        "        guest = fabric.guest('web', work)\n"
        "        guest.wait()\n"
        "        print(guest.output)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "from __guest_main__"


@pytest.mark.parametrize(
    "target",
    [lambda: None, threading.Event().wait, Box().inside.__get__],
    ids=["a lambda", "a method of an object", "a method of a function"],
)
def test_what_another_process_cannot_import_is_refused(
    hvrpc_fabric: Fabric, target: object
) -> None:
    with pytest.raises(TypeError, match="top level of a module"):
        hvrpc_fabric.guest("web", target)  # type: ignore[arg-type]


def test_arguments_that_cannot_be_sent_are_refused(hvrpc_fabric: Fabric) -> None:
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        hvrpc_fabric.guest("web", print_arguments, (threading.Lock(),))


def test_a_script_that_is_not_there_is_refused(hvrpc_fabric: Fabric, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.py"):
        hvrpc_fabric.guest("web", tmp_path / "nothing.py")


def test_a_name_with_a_meaning_is_refused(hvrpc_fabric: Fabric) -> None:
    with pytest.raises(ValueError, match="parent"):
        hvrpc_fabric.guest("parent", answer_with_pid)


def test_an_unknown_kind_of_ready_is_refused(hvrpc_fabric: Fabric) -> None:
    with pytest.raises(ValueError, match="soon"):
        hvrpc_fabric.guest("web", answer_with_pid, ready="soon")  # type: ignore[arg-type]


def test_a_module_that_pytest_imported_by_its_path_is_found(tmp_path: Path) -> None:
    """By its file, if its name leads nowhere."""
    file = tmp_path / "somewhere.py"
    file.write_text("def work():\n    return 42\n")
    assert Program(str(file), "no.such.module", "work", Program.of(ready, ()).arguments).run() == 42


# --- Being ready ----------------------------------------------------------------------------------------


def test_a_guest_that_listens_is_ready(hvrpc_fabric: Fabric) -> None:
    hvrpc_fabric.guest("web", answer_with_pid)
    connect(ADDRESS).abort()


def test_a_guest_can_say_itself_when_it_is_ready(hvrpc_fabric: Fabric, tmp_path: Path) -> None:
    path = tmp_path / "file"
    hvrpc_fabric.guest("web", be_ready_when_told, (str(path),), ready="told")
    assert path.exists()


def test_a_guest_that_ends_well_needs_not_be_ready(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", print_arguments)
    guest.wait()
    assert not guest.alive


def test_a_guest_that_is_never_ready_is_ended(hvrpc_fabric: Fabric) -> None:
    with pytest.raises(GuestFailed, match="not ready within 1 s") as caught:
        hvrpc_fabric.guest("web", never_ready, timeout=1)
    assert caught.value.name == "web"
    assert not hvrpc_fabric.guests[0].alive


@pytest.mark.parametrize(
    ("target", "args", "how"),
    [
        (fail, (), r"exit code 1(.|\n)*before it failed(.|\n)*RuntimeError: the guest is ill"),
        (exit_with, (3,), "exit code 3"),
        pytest.param(die_by_signal, (), "signal 9", marks=posix),
    ],
)
def test_a_guest_that_fails_is_an_error_with_its_output(
    hvrpc_fabric: Fabric, target: object, args: tuple[object, ...], how: str
) -> None:
    with pytest.raises(GuestFailed, match=how):
        hvrpc_fabric.guest("web", target, args)  # type: ignore[arg-type]


# --- The power buttons -----------------------------------------------------------------------------------


def test_a_killed_guest_is_gone_at_once(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", answer_with_pid)
    with connect(ADDRESS) as stream:
        guest.kill()
        assert not guest.alive
        assert stream.recv(1) == b""
    guest.kill()  # it may be switched off twice


@posix
def test_what_a_guest_has_started_is_killed_with_it(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", start_child, ready="told")
    child = int(guest.output)
    assert is_running(child)
    guest.kill()
    while is_running(child):
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process that is not our child runs; a dead one that nobody has fetched does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_restarted_guest_is_the_same_vm_in_another_process(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", answer_with_pid)
    pids = set()
    for _ in range(3):
        with connect(f"hvsock://{guest.vm_id}/5000") as stream:
            stream.sendall(b"?")
            pids.add(int(stream.recv(10)))
            assert guest.pid in pids
        guest.restart()
    assert len(pids) == 3


def test_a_running_guest_is_not_started_again(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", answer_with_pid)
    with pytest.raises(RuntimeError, match="runs already"):
        guest.start()


def test_a_paused_guest_neither_answers_nor_ends(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", answer_with_pid)
    with connect(ADDRESS) as stream:
        guest.pause()
        assert guest.alive
        stream.sendall(b"?")
        stream.timeout = 0.2
        with pytest.raises(hvrpc.TransportTimeout):
            stream.recv(10)
        connect(ADDRESS).abort()  # its socket still takes callers
        stream.timeout = 30
        guest.resume()
        assert int(stream.recv(10)) == guest.pid


def test_a_paused_guest_can_be_killed(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", answer_with_pid)
    guest.pause()
    guest.kill()
    assert not guest.alive


@posix
def test_a_guest_that_is_asked_to_stop_tidies_up(hvrpc_fabric: Fabric, tmp_path: Path) -> None:
    path = tmp_path / "file"
    guest = hvrpc_fabric.guest("web", tidy_up, (str(path),), ready="told")
    guest.stop()
    assert not guest.alive
    assert path.read_text() == "tidied up"
    assert guest.failure() is None
    assert guest.output == ""


@posix
def test_a_guest_that_waits_for_callers_can_be_stopped(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", answer_with_pid)
    guest.stop(timeout=30)
    assert guest.failure() is None
    assert guest.output == ""


def test_a_guest_that_does_not_stop_is_killed(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", ignore_requests, ready="told")
    guest.stop(timeout=0.2)
    assert not guest.alive
    assert guest.failure() is None


def test_waiting_for_a_guest_is_bounded(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", answer_with_pid)
    with pytest.raises(TimeoutError, match="still runs"):
        guest.wait(timeout=0.1)


def test_waiting_for_a_guest_that_fails_raises(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", fail, ready="started")
    with pytest.raises(GuestFailed, match="the guest is ill"):
        guest.wait()


def test_a_failure_is_not_forgotten_by_restarting() -> None:
    def restart_what_has_failed() -> None:
        with Fabric() as fabric:
            guest = fabric.guest("web", exit_with, (3,), ready="started")
            while guest.alive:
                time.sleep(0.01)
            guest.restart()
            guest.kill()

    with pytest.raises(GuestFailed, match="exit code 3"):
        restart_what_has_failed()


def test_much_output_does_not_block_a_guest(hvrpc_fabric: Fabric) -> None:
    guest = hvrpc_fabric.guest("web", print_much)
    guest.wait()
    assert guest.output.endswith("x\nthe end\n")
    assert len(guest.output) <= 1 << 20


@posix
def test_guests_end_when_the_test_run_is_killed(tmp_path: Path) -> None:
    """Nobody is left to end them, so they end themselves."""
    script = tmp_path / "main.py"
    script.write_text(
        "import hvrpc.testing, sys\n"
        "from tests.testing.test_guests import answer_with_pid\n"
        "with hvrpc.testing.Fabric() as fabric:\n"
        "    print(fabric.guest('web', answer_with_pid).pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    root = str(Path(__file__).parents[2])
    run = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert run.stdout is not None
    guest = int(run.stdout.readline())
    run.kill()
    run.communicate()
    while is_running(guest):
        time.sleep(0.01)
