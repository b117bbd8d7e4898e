"""`hvrpc serve`: what it serves, and how it behaves towards people and service managers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

import hvrpc.msgpack
from hvrpc.cli.errors import ExitCode, Failure
from hvrpc.cli.loading import folders_of, load, registrars
from hvrpc.cli.notify import Notifier
from hvrpc.cli.reloading import changes, snapshot
from hvrpc.testing import Fabric

from ..certificates import Certificates
from ..sockets.places import short_folder
from .processes import ON_WINDOWS, POSIX_ONLY, WAIT, Served, serve
from .runs import run
from .servers import PROTO
from .world import PROTO as WORLD

AGENT = '''
import threading

class Agent:
    """Some methods."""

    def add(self, a: int, b: int) -> int:
        return a + b

    def name(self) -> str:
        return "first"

    def wait(self, seconds: float) -> str:
        """Tells that it runs by a file, and stays for a while."""
        open("running", "w").close()
        threading.Event().wait(seconds)
        return "done"

agent = Agent()

class Demanding:
    def __init__(self, needed): ...

def double(number: int) -> int:
    return 2 * number
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module `agent`, on a fabric of its own."""
    (tmp_path / "agent.py").write_text(AGENT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    with Fabric():
        yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# --- Loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["agent:Agent", "agent:agent", "agent.py:Agent"])
def test_an_object_is_loaded_by_module_or_file(folder: Path, spec: str) -> None:
    assert load(spec).add(1, 2) == 3


def test_a_module_without_an_object_is_itself_what_is_served(folder: Path) -> None:
    assert load("agent").double(2) == 4
    assert load("agent.py").double(2) == 4
    assert load(str(folder / "agent.py")).double(2) == 4


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("nothing:Agent", "there is no module nothing"),
        ("nothing.py:Agent", "there is no file nothing.py"),
        ("agent:Nothing", "agent has no Nothing"),
        ("agent:Demanding", "could not be made by calling Demanding()"),
        ("broken:Agent", "broken cannot be imported"),
        ("lacking:Agent", "lacking cannot be imported"),
    ],
)
def test_what_cannot_be_loaded(folder: Path, spec: str, told: str) -> None:
    (folder / "broken.py").write_text("1 / 0", encoding="utf-8")
    (folder / "lacking.py").write_text("import no_such_module", encoding="utf-8")
    with pytest.raises(Failure) as raised:
        load(spec)
    assert told in raised.value.problem.what
    assert raised.value.problem.code == ExitCode.USAGE
    if spec.startswith("broken"):
        assert "broken.py" in raised.value.problem.why
        assert "ZeroDivisionError" in raised.value.problem.why


def test_files_elsewhere_are_watched_too(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "other.py"
    assert folders_of(["agent:Agent", "agent.py:Agent"]) == [str(folder)]
    assert folders_of([f"{elsewhere}:Other"]) == [str(folder), str(elsewhere.parent)]


def test_a_plain_object_is_no_servicer(folder: Path) -> None:
    assert registrars(load("agent:Agent")) == []
    assert registrars(load("agent")) == []


def test_a_servicer_of_ours_adds_itself() -> None:
    added: list[object] = []
    [add] = registrars(SimpleNamespace(add_to=added.append))
    add("server")
    assert added == ["server"]


# --- What is refused before anything is served -----------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["agent:Agent"], "Missing option"),
        (["agent:Agent", "-l", "nowhere"], "is not an address"),
        (["agent:Agent", "-l", "local://loopback/0", "--allow", "a://b"], "is no rule"),
        (["agent:Agent", "-l", "local://loopback/0", "--reload"], "another port each time"),
        (["agent:Agent", "agent:agent", "-l", "local://loopback/0"], "is offered already"),
    ],
)
def test_usage(folder: Path, words: list[str], told: str) -> None:
    result = run("serve", *words)
    assert result.exit_code == ExitCode.USAGE
    assert told in result.stderr


def test_an_address_that_is_taken(folder: Path) -> None:
    with hvrpc.sockets.listen("local://loopback/5000"):
        result = run("serve", "agent:Agent", "-l", "local://loopback/5000")
    assert result.exit_code == ExitCode.FAILED
    assert "local://loopback/5000" in result.stderr


# --- Processes -------------------------------------------------------------------------------------

posix = pytest.mark.skipif(ON_WINDOWS, reason=POSIX_ONLY)


@posix
def test_sigterm_lets_calls_finish_and_is_success(folder: Path) -> None:
    with serve("agent:Agent", "-l", "local://loopback/0", folder=folder) as served:
        with hvrpc.msgpack.connect(served.address(), timeout=WAIT) as client:
            results: list[object] = []
            call = threading.Thread(target=lambda: results.append(client.call("wait", 0.5)))
            call.start()
            wait_for_file(folder / "running")
            assert served.end() == ExitCode.OK
            call.join()
        assert results == ["done"]
    assert served.lines[0].startswith("serving add, name, wait on local://loopback/")


@posix
def test_calls_that_do_not_finish_are_cut_off(folder: Path) -> None:
    words = ["agent:Agent", "-l", "local://loopback/0", "--grace", "0.1"]
    with serve(*words, folder=folder) as served:
        with hvrpc.msgpack.connect(served.address(), timeout=WAIT) as client:
            failures: list[object] = []
            call = threading.Thread(target=lambda: failures.append(failure_of(client)))
            call.start()
            wait_for_file(folder / "running")
            assert served.end() == ExitCode.OK
            call.join()
        assert [type(each) for each in failures] == [hvrpc.ConnectionLost]
        served.wait_for("calls were still running, and are cut off")


def failure_of(client: hvrpc.msgpack.Client) -> object:
    try:
        return client.call("wait", 60.0)
    except hvrpc.CallError as error:
        return error


def wait_for_file(file: Path) -> None:
    tick = threading.Event()
    while not file.exists():  # bounded by the test's deadline
        tick.wait(0.01)


@posix
def test_ctrl_c_is_clean(folder: Path) -> None:
    with serve("agent:Agent", "-l", "local://loopback/0", folder=folder) as served:
        served.address()
        assert served.end(signal.SIGINT) == ExitCode.INTERRUPTED
    assert len(served.lines) == 2  # the line that told where, and the end


@posix
def test_several_objects_and_addresses_at_once(folder: Path) -> None:
    words = ["agent:Agent", "agent:double", "-l", "local://loopback/1", "-l", "local://loopback/2"]
    with serve(*words, folder=folder) as served:
        served.address()
        assert run("call", "--msgpack", "local://loopback/1", "double", 4).stdout == "8\n"
        assert run("call", "--msgpack", "local://loopback/2", "add", 1, 2).stdout == "3\n"


@posix
def test_who_may_not_call_is_turned_away(folder: Path) -> None:
    words = ["agent:Agent", "-l", "local://loopback/0", "--allow", "uid:1"]
    with serve(*words, folder=folder) as served:
        result = run("call", "--msgpack", served.address(), "name")
        assert result.exit_code == ExitCode.NO_CONNECTION
        served.wait_for("refused local:")


@pytest.fixture
def shop_module(folder: Path) -> Path:
    """What grpcio's generator makes of `shop.proto`, and a servicer."""
    from grpc_tools import protoc

    out = [f"--python_out={folder}", f"--grpc_python_out={folder}", f"-I{PROTO.parent}"]
    well_known = Path(protoc.__file__).parent / "_proto"
    assert protoc.main(["protoc", f"-I{well_known}", *out, "shop.proto"]) == 0
    (folder / "shop.py").write_text(
        "import shop_pb2, shop_pb2_grpc\n"
        "class Shop(shop_pb2_grpc.ShopServicer):\n"
        "    def Order(self, request, context):\n"
        "        return shop_pb2.OrderReply(text=f'{request.name}!')\n",
        encoding="utf-8",
    )
    return folder


@posix
def test_servicers_of_grpc_have_reflection_and_health(shop_module: Path) -> None:
    with serve("shop:Shop", "-l", "local://loopback/0", folder=shop_module) as served:
        address = served.address()
        assert served.lines[0] == f"serving shop.v1.Shop on {address}"
        assert '"text": "disk!"' in run("call", address, "Order", "name=disk").stdout
        assert "grpc.health.v1.Health" in run("list", address).stdout
        assert run("health", address, "shop.v1.Shop").stdout == "SERVING\n"
        assert served.end() == ExitCode.OK


@pytest.fixture
def greeters(folder: Path) -> Path:
    """What hvrpc's generator makes of `helloworld.proto`, and servicers of both kinds."""
    generate = [sys.executable, "-m", "hvrpc_codegen", str(WORLD), "--out", "gen"]
    subprocess.run([*generate, "-I", str(WORLD.parent)], cwd=folder, check=True, timeout=WAIT)
    (folder / "greeters.py").write_text(
        "from gen.helloworld_hvrpc import GreeterAsyncServicer, GreeterServicer\n"
        "from gen.helloworld_pb2 import HelloReply\n"
        "class Blocking(GreeterServicer):\n"
        "    def say_hello(self, request, context):\n"
        "        return HelloReply(message=f'hello {request.name}')\n"
        "    def chat(self, requests, context):\n"
        "        return iter(())\n"
        "class Coroutines(GreeterAsyncServicer):\n"
        "    async def say_hello(self, request, context):\n"
        "        return HelloReply(message=f'hello {request.name}')\n"
        "    async def chat(self, requests, context):\n"
        "        async for request in requests:\n"
        "            yield HelloReply(message=request.name)\n",
        encoding="utf-8",
    )
    return folder


@posix
@pytest.mark.parametrize("servicer", ["Blocking", "Coroutines"])
def test_servicers_of_ours_are_served_over_either_protocol(greeters: Path, servicer: str) -> None:
    words = [f"greeters:{servicer}", "-l", "local://loopback/0"]
    with serve(*words, folder=greeters) as served:
        address = served.address()
        assert served.lines[0] == f"serving helloworld.Greeter on {address}"
        assert '"hello x"' in run("call", address, "SayHello", "name=x").stdout
        assert run("health", address).stdout == "SERVING\n"
        assert served.end() == ExitCode.OK
    with serve(*words, "--msgpack", folder=greeters) as served:
        words = ["--msgpack", served.address(), "helloworld.Greeter.SayHello", "name=x"]
        assert '"hello x"' in run("call", *words).stdout
        assert served.end() == ExitCode.OK


@posix
def test_servicers_and_others_are_not_mixed(shop_module: Path) -> None:
    with serve(
        "shop:Shop", "agent:Agent", "-l", "local://loopback/0", folder=shop_module
    ) as served:
        assert served.process.wait(WAIT) == ExitCode.USAGE
        served.wait_for("Agent is no gRPC servicer")


# --- Who may call, and TLS -------------------------------------------------------------------------


def serve_either(greeters: Path, protocol: str, *words: object) -> AbstractContextManager[Served]:
    """A servicer over gRPC, or the same over msgpack-RPC."""
    flags = ["--msgpack"] if protocol == "msgpack" else []
    return serve("greeters:Blocking", "-l", "local://loopback/0", *flags, *words, folder=greeters)


def say_hello(protocol: str, address: str, *words: object) -> Result:
    if protocol == "msgpack":
        return run("call", "--msgpack", *words, address, "helloworld.Greeter.SayHello", "name=x")
    return run("call", *words, address, "SayHello", "name=x")


PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "msgpack"])


@posix
@PROTOCOLS
def test_who_may_not_call_is_refused(greeters: Path, protocol: str) -> None:
    with serve_either(greeters, protocol, "--allow", "uid:1") as served:
        result = say_hello(protocol, served.address())
        assert result.exit_code == ExitCode.NO_CONNECTION, result.stderr
        served.wait_for("refused local:")
    with serve_either(greeters, protocol, "--allow", f"uid:{os.getuid()}") as served:
        assert say_hello(protocol, served.address()).exit_code == 0


@posix
@PROTOCOLS
def test_one_who_is_not_expected_is_not_called(greeters: Path, protocol: str) -> None:
    with serve_either(greeters, protocol) as served:
        address = served.address()
        expected = say_hello(protocol, address, "--expect-peer", f"uid:{os.getuid()}")
        assert expected.exit_code == 0, expected.stderr
        result = say_hello(protocol, address, "--expect-peer", "uid:1")
        assert result.exit_code in (ExitCode.NOT_ALLOWED, ExitCode.NO_CONNECTION)
        assert "uid:1" in result.stderr


@posix
@PROTOCOLS
def test_tls_both_ways(greeters: Path, protocol: str, certificates: Certificates) -> None:
    files = certificates.folder
    words = ["--tls-cert", files / "host.pem", "--tls-key", files / "host-key.pem"]
    with serve_either(greeters, protocol, *words, "--tls-ca", files / "ca.pem") as served:
        address = served.address()
        ours = ["--tls-cert", files / "web.pem", "--tls-key", files / "web-key.pem"]
        believed = ["--tls-ca", files / "ca.pem", *ours]
        result = say_hello(protocol, address, *believed)
        assert (result.exit_code, result.stderr) == (0, "")
        for wrong in (
            [],
            ["--tls-ca", files / "ca.pem"],
            ["--tls-ca", files / "stranger-ca.pem", *ours],
            [*believed, "--tls-name", "somebody else"],
        ):
            result = say_hello(protocol, address, "--timeout", 5, *wrong)
            assert result.exit_code in (
                ExitCode.NO_CONNECTION,
                ExitCode.NOT_ALLOWED,
                ExitCode.TOO_LATE,
            ), (wrong, result.stderr)
            assert result.stderr.startswith("error  ")


@posix
def test_files_that_cannot_be_used_are_told_before_anything_is_served(
    folder: Path, certificates: Certificates
) -> None:
    certificate, key = certificates.folder / "host.pem", certificates.folder / "web-key.pem"
    words = ["agent:Agent", "-l", "local://loopback/0", "--tls-cert", certificate, "--tls-key", key]
    result = run("serve", *words)
    assert result.exit_code == ExitCode.USAGE
    assert "cannot be used" in result.stderr
    lonely = run("health", "--msgpack", "local://loopback/0", "--tls-key", key)
    assert lonely.exit_code == ExitCode.USAGE
    assert "--tls-key and --tls-name need" in lonely.stderr


# --- Service managers ------------------------------------------------------------------------------


@pytest.fixture
def manager() -> Iterator[tuple[socket.socket, str]]:
    """A service manager's end of NOTIFY_SOCKET."""
    with short_folder() as where, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = os.path.join(where, "notify")
        sock.bind(path)
        sock.settimeout(WAIT)
        yield sock, path


@posix
def test_a_service_manager_is_told_when_callers_can_connect(
    folder: Path, manager: tuple[socket.socket, str]
) -> None:
    sock, path = manager
    words = ["agent:Agent", "-l", "local://loopback/7"]
    with serve(*words, folder=folder, NOTIFY_SOCKET=path, WATCHDOG_USEC="100000") as served:
        ready = sock.recv(4096).decode().split("\n")
        assert run("call", "--msgpack", "local://loopback/7", "add", 1, 2).exit_code == 0
        assert "READY=1" in ready
        assert f"MAINPID={served.process.pid}" in ready
        assert "STATUS=serving add, name, wait on local://loopback/7" in ready
        assert sock.recv(4096) == b"WATCHDOG=1"
        assert served.end() == ExitCode.OK
        while (told := sock.recv(4096)) == b"WATCHDOG=1":
            pass
        assert told.startswith(b"STOPPING=1\n")


@posix
def test_a_manager_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("abstract sockets are Linux's; run it there")
    name = f"hvrpc-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        Notifier(f"@{name}").tell("READY=1")
        assert sock.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, Notifier()),
        ({"NOTIFY_SOCKET": ""}, Notifier()),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, Notifier()),
        ({"NOTIFY_SOCKET": "/run/n"}, Notifier("/run/n")),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "2000000"}, Notifier("/run/n", 2.0)),
        (
            {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "5"},
            Notifier("/run/n", 2.0),
        ),
        (
            {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "6"},
            Notifier("/run/n"),
        ),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"}, Notifier("/run/n")),
    ],
)
@posix
def test_what_a_manager_asks_for(environment: dict[str, str], asked: Notifier) -> None:
    assert Notifier.of(environment, 5) == asked


@posix
def test_a_manager_that_has_gone_does_not_matter() -> None:
    Notifier("/nowhere/at/all").ready("x")


# --- Reloading -------------------------------------------------------------------------------------


def test_changes_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.txt").write_text("1")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.py").write_text("1")
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "env" / "d.py").write_text("1")
    before = snapshot(str(tmp_path))
    assert list(before) == [str(tmp_path / "a.py")]
    os.utime(tmp_path / "a.py", ns=(1, 1))
    (tmp_path / "e.py").write_text("1")
    after = snapshot(str(tmp_path))
    assert changes(before, after) == [str(tmp_path / "a.py"), str(tmp_path / "e.py")]
    assert changes(after, after) == []


@posix
def test_reload_serves_what_the_file_says_now(folder: Path) -> None:
    words = ["agent:Agent", "-l", "local://loopback/9", "--reload"]
    source = folder / "agent.py"
    with serve(*words, folder=folder) as served:
        served.address()
        assert run("call", "--msgpack", "local://loopback/9", "name").stdout == "first\n"
        source.write_text(AGENT.replace('"first"', '"second"'), encoding="utf-8")
        served.address(times=2)
        assert run("call", "--msgpack", "local://loopback/9", "name").stdout == "second\n"
        source.write_text("this is not Python", encoding="utf-8")
        served.wait_for("it has ended with exit code 2; waiting for a change")
        source.write_text(AGENT.replace('"first"', '"third"'), encoding="utf-8")
        served.address(times=3)
        assert run("call", "--msgpack", "local://loopback/9", "name").stdout == "third\n"
        assert served.end() == ExitCode.OK
    assert any("changed: agent.py; starting again" in line for line in served.lines)
