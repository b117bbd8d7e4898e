#!/usr/bin/env python3
"""The chores of this project, each with the set-up it needs.

    python3 run.py demo                 Windows: py run.py demo
    python3 run.py test -k addresses

Nothing has to be installed before: a chore makes a virtual environment in `.venv/`, one for each
version of Python, puts into it what it needs of pyproject.toml, and does nothing of that again
until something changes. `python3 run.py` alone lists the chores.

Options, before the chore's name:
    --python PATH   run it on another Python
    --here          run it on this very Python as it is, and set nothing up
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
WINDOWS = os.name == "nt"
OLDEST_PYTHON = (3, 11)

SETUP_IMPOSSIBLE = 69
"""What a rig, or the installer of foreign peers, exits with when this machine cannot have it
(`EX_UNAVAILABLE` of sysexits.h). Told loudly, and not a failure: nothing was found to be wrong."""

INTERRUPTED = 130
PYTEST_FOUND_FAILURES = 1
PYTEST_FOUND_NO_TESTS = 5

AGAIN = "HVRPC_TEST_AGAIN"
"""Set by CI: what fails is tried once more, alone, and told loudly if it passes then. Of twelve thousand tests
on a machine that others use too, one may be disturbed."""


class Trouble(Exception):
    """A chore cannot go on. The text says what to do."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def say(text: str) -> None:
    print(f"[run.py] {text}", flush=True)


def call(command: Sequence[str | Path], **environment: str) -> int:
    """Run a command in the project's folder, and show it. Returns its exit code."""
    words = [str(word) for word in command]
    print("$ " + " ".join(_short(word) for word in words), flush=True)
    return subprocess.call(words, cwd=ROOT, env={**os.environ, **environment})


def quietly(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command whose output matters only when it fails."""
    return subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _short(word: str) -> str:
    """Paths inside the project as they are written inside the project."""
    return word.replace(str(ROOT) + os.sep, "") if word != str(ROOT) else "."


# --- Environments -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interpreter:
    """A Python that is installed already."""

    path: str
    version: tuple[int, ...]
    has_ensurepip: bool

    @property
    def name(self) -> str:
        return f"py{self.version[0]}.{self.version[1]}"


_PROBE = """
import json, sys
try:
    import ensurepip
except ImportError:
    ensurepip = None
print(json.dumps([list(sys.version_info[:3]), ensurepip is not None]))
"""


def look_at(path: str) -> Interpreter:
    """Find out what a Python is, by asking it."""
    path = os.path.abspath(shutil.which(path) or path)
    try:
        probe = quietly([path, "-c", _PROBE])
        version, has_ensurepip = json.loads(probe.stdout)
    except (OSError, ValueError) as error:
        raise Trouble(f"{path} is not a Python that runs; give --python the path of one") from error
    found = Interpreter(path, tuple(version), has_ensurepip)
    if found.version < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise Trouble(
            f"{path} is Python {'.'.join(map(str, version))}, and hvrpc needs {wanted} or later:"
            " give --python the path of one"
        )
    return found


def python_of(folder: Path) -> Path:
    """The Python in a virtual environment."""
    return folder / "Scripts" / "python.exe" if WINDOWS else folder / "bin" / "python"


def provide(interpreter: Interpreter, wants: Iterable[str]) -> Path:
    """The Python of an environment that has hvrpc, editable, and what is asked for besides.

    `wants` are names of extras, and names of dependency groups with "group:" before them.
    """
    folder = ROOT / ".venv" / interpreter.name
    stamp = folder / "hvrpc.json"
    # An environment knows its Python and its checkout by path and version: others, another one.
    made_for = [list(interpreter.version), str(ROOT)]
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()

    has = _read_stamp(stamp)
    if has.get("made_for") != made_for or not python_of(folder).exists():
        make_environment(interpreter, folder)
        has = {"made_for": made_for, "wants": []}
    installed: set[str] = set(has["wants"])
    wanted = installed.union(wants)
    if has.get("project") != project or wanted != installed:
        install(folder, wanted)
        content = {"made_for": made_for, "project": project, "wants": sorted(wanted)}
        stamp.write_text(json.dumps(content), encoding="utf-8")
    return python_of(folder)


def _read_stamp(stamp: Path) -> dict[str, Any]:
    try:
        content = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def make_environment(interpreter: Interpreter, folder: Path) -> None:
    """A fresh virtual environment, whatever was there before."""
    if not interpreter.has_ensurepip:
        provide_ensurepip(interpreter)
    say(f"making {_short(str(folder))} with {interpreter.path}")
    shutil.rmtree(folder, ignore_errors=True)
    made = quietly([interpreter.path, "-m", "venv", str(folder)])
    if made.returncode:
        raise Trouble(f"no virtual environment could be made:\n{made.stdout}")


def provide_ensurepip(interpreter: Interpreter) -> None:
    """Debian keeps what `python3 -m venv` needs in a package of its own."""
    package = "python{}.{}-venv".format(*interpreter.version)
    install_package = ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", package]
    if not shutil.which("apt-get"):
        raise Trouble(
            f"{interpreter.path} lacks the module ensurepip, which virtual environments need:"
            " install it from where this Python came from, or give --python the path of another"
        )
    as_root = [] if _is_root() else ["sudo"]
    by_hand = f"apt-get update && apt-get install {package}"
    if as_root and not shutil.which("sudo"):
        raise Trouble(
            f"the package {package} is missing, and only root can install it. Let root type this,"
            f" then start again:\n    {by_hand}"
        )
    say(f"the package {package} is missing, without which there is no virtual environment")
    noninteractive = "env", "DEBIAN_FRONTEND=noninteractive"
    for step in (install_package, ["apt-get", "-qq", "update"], install_package):
        code = call([*as_root, *noninteractive, *step])
        if code == 0 and step is install_package:
            return
    raise Trouble(
        f"the package {package} could not be installed (see above). Make this work as root, then"
        f" start again:\n    {by_hand}"
    )


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def install(folder: Path, wants: Iterable[str]) -> None:
    """Put hvrpc and what else is wanted into an environment."""
    extras = sorted(want for want in wants if not want.startswith("group:"))
    groups = sorted(want.removeprefix("group:") for want in wants if want.startswith("group:"))
    say(f"installing hvrpc and what is needed: {', '.join([*extras, *groups]) or 'nothing else'}")
    pip = [str(python_of(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    project = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    needed = [need for group in groups for need in requirements_of(group)]
    done = quietly([*pip, "--editable", project, *needed])
    if done.returncode:
        raise Trouble(
            f"pip could not install it:\n{done.stdout}\n"
            "Check that this machine reaches its package index (pip config list), then start again."
        )


def requirements_of(group: str) -> list[str]:
    """A dependency group of pyproject.toml (PEP 735), which pip itself knows only since 25.1."""
    import tomllib  # not at the top: it must be possible to tell the owner of an old Python so

    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[str] = []
    for entry in groups["dependency-groups"][group]:
        found += requirements_of(entry["include-group"]) if isinstance(entry, dict) else [entry]
    return found


# --- Chores -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """What a chore is called with."""

    python: Path
    """The Python that has what the chore needs."""
    base: str
    """The Python it was made from."""
    arguments: list[str]

    def module(self, name: str, *arguments: str | Path, **environment: str) -> int:
        return call([self.python, "-m", name, *arguments], **environment)


@dataclass(frozen=True)
class Chore:
    help: str
    run: Callable[[Call], int]
    wants: tuple[str, ...] | None = ()
    """Extras, and groups as "group:name"; None: no environment at all."""
    takes_arguments: bool = False


def demo(given: Call) -> int:
    """A host and a guest, each a process of its own."""
    return given.module("hvrpc", "demo", *given.arguments)


WORKERS_PER_PROCESSOR = 3
"""Many tests wait for a while to pass: with one for each, processors would wait with them."""

COMPILED_ONCE = {"PYTHONDONTWRITEBYTECODE": ""}
"""Hundreds of tests start programs. Where Python is told to keep nothing it has compiled, each of them would
compile hvrpc anew, and each worker all tests."""


def test(given: Call) -> int:
    """Without arguments the whole suite, on all processors; with arguments just what they say."""
    workers = WORKERS_PER_PROCESSOR * (os.cpu_count() or 1)
    parallel = ["-q", "-n", str(workers), "--dist", "worksteal"]
    code = given.module("pytest", *(given.arguments or parallel), **COMPILED_ONCE)
    if code == PYTEST_FOUND_NO_TESTS:
        say("no test was run: nothing is proved by that")
    if code == PYTEST_FOUND_FAILURES and AGAIN in os.environ:
        say("what has failed is tried once more, one after the other:")
        again = ("-q", "-n0", "--last-failed", "--last-failed-no-failures=none")
        code = given.module("pytest", *again, **COMPILED_ONCE)
        if code == 0:
            say(
                "it passed the second time. The failures above are faults still: of a test or of hvrpc"
            )
    return code


def lint(given: Call) -> int:
    checks = [["check"], ["format", "--check"]]
    return _first_failure([given.module("ruff", *check, ".") for check in checks])


def types(given: Call) -> int:
    folders = [name for name in ("tests", "examples", "benchmarks", "docs") if _has_python(name)]
    return _first_failure(
        [
            given.module("mypy"),  # the packages pyproject.toml names
            given.module("mypy", "--explicit-package-bases", "run.py", *folders),
            given.module("pyright", "--pythonpath", given.python),
        ]
    )


def _has_python(folder: str) -> bool:
    return next((ROOT / folder).rglob("*.py"), None) is not None


def _first_failure(codes: list[int]) -> int:
    return next((code for code in codes if code), 0)


def build(given: Call) -> int:
    """Wheel and source distribution, the wheel being built from the latter."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    return given.module("build", "--outdir", "dist", ".")


def smoke(given: Call) -> int:
    """The wheel as users get it: in an environment with nothing else."""
    wheel = _built_wheel()
    if wheel is None and (code := build(given)):
        return code
    wheel = wheel or _built_wheel()
    assert wheel is not None
    interpreter = look_at(given.base)
    folder = ROOT / ".venv" / f"smoke-{interpreter.name}"
    make_environment(interpreter, folder)
    try:
        python = [str(python_of(folder)), "-I"]  # alone: the checkout is not on its path
        pip = [*python, "-m", "pip", "--disable-pip-version-check"]
        steps = (
            [*pip, "install", "--quiet", str(wheel)],
            [*pip, "check"],
            [*python, "tests/smoke.py"],
        )
        return _first_failure_of(steps)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first_failure_of(steps: Iterable[Sequence[str]]) -> int:
    """Run commands until one fails."""
    for step in steps:
        if code := call(step):
            return code
    return 0


def _built_wheel() -> Path | None:
    """The wheel in `dist`, if it holds the code as it is now."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    sources = [ROOT / "pyproject.toml", ROOT / "README.md"]
    sources += [file for top in ("hvrpc", "codegen") for file in (ROOT / top).rglob("*.py")]
    newest = max(file.stat().st_mtime for file in sources)
    return wheels[-1] if wheels and wheels[-1].stat().st_mtime > newest else None


@dataclass(frozen=True)
class Rig:
    """A set-up with a real boundary, and what of the suite it runs unless told otherwise."""

    script: str
    kind: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()

    @property
    def on_windows(self) -> bool:
        return "windows" in self.script


CONTRACTS = (
    "tests/sockets/test_contract.py",
    "tests/session/test_contract.py",
    "tests/msgpack/test_contract.py",
)
BOUNDARIES = ("tests/boundary/test_loopback.py",)
ON_SLOW_MACHINES = ("-q", "--timeout=180")

GRPC_ON_WINDOWS = (
    # What depends on threads, time and connections; what the words are is the same everywhere.
    *("calls", "cancelling", "connectivity", "context", "deadlines", "flow", "retries", "server"),
)

UNDER_WINE, IN_QEMU = "tests/rigs/windows/run.py", "tests/rigs/vm/run.py"

RIGS = {
    # The drivers with one another are tried on Linux; here, what carries the bytes on Windows.
    "windows": Rig(
        UNDER_WINE,
        tests=(
            "tests/rigs/windows/selftest",
            "tests/windows",
            "tests/test_addresses.py",
            "tests/test_access.py",
            "tests/grpc/test_credentials.py",
            "tests/grpc/tunnel",
            "tests/grpc/contract/aio",
            *(f"tests/grpc/contract/test_{name}.py" for name in GRPC_ON_WINDOWS),
            "tests/relay",
            "tests/services",
            "tests/codegen/test_names.py",
            "tests/codegen/test_plugin.py",
            "tests/codegen/test_runner.py",
            "tests/cli/test_vms.py",
            "tests/cli/test_service.py",
            "tests/sockets/test_names.py",
            "tests/sockets/test_hyperv.py",
            "tests/session/test_io.py",
            "tests/cli/test_main.py",
            "tests/cli/test_output.py",
            "tests/cli/test_errors.py",
            "tests/cli/test_msgpack_commands.py",
            *CONTRACTS,
            *BOUNDARIES,
            *ON_SLOW_MACHINES,
            *("-k", "not TestDrivers"),
        ),
    ),
    "windows-3.13": Rig(
        UNDER_WINE,
        ("--python", "3.13"),
        (
            "tests/rigs/windows/selftest",
            "tests/sockets/test_contract.py",
            "tests/msgpack/test_contract.py",
            *BOUNDARIES,
            *ON_SLOW_MACHINES,
            *("-k", "hyperv or selftest"),
        ),
    ),
    "windows-without-hyper-v": Rig(
        UNDER_WINE, ("--no-shim",), ("tests/sockets/test_hyperv.py", "-q")
    ),
    # The processor is emulated, ten to thirty times slower: only what meets the real AF_VSOCK.
    "vm": Rig(
        IN_QEMU,
        ("single",),
        (
            "tests/rigs/vm/selftest",
            "tests/sockets/test_structs.py",
            *CONTRACTS,
            *BOUNDARIES,
            *ON_SLOW_MACHINES,
            *("-k", "vsock or selftest"),
        ),
    ),
    "nested": Rig(IN_QEMU, ("nested",), ("tests/rigs/vm/selftest", *ON_SLOW_MACHINES)),
}


def rigs(given: Call) -> int:
    """Without a name: all of them. What follows a name is for that rig, instead of its tests."""
    name, *rest = given.arguments or [""]
    if name and name not in RIGS:
        raise Trouble(f"there is no rig {name!r}: there are {', '.join(RIGS)}", 2)
    return _worst([_run_rig(rig, given.base, rest) for rig in ([name] if name else RIGS)])


def _run_rig(name: str, python: str, arguments: list[str]) -> int:
    rig = RIGS[name]
    if not (ROOT / rig.script).exists():
        say(f"rig {name}: there is none in this checkout ({rig.script})")
        return 0
    chosen = arguments or (["--", *rig.tests] if rig.tests else [])
    code = call([python, rig.script, *rig.kind, *chosen])
    if code == SETUP_IMPOSSIBLE:
        say(
            f"rig {name}: COULD NOT BE SET UP on this machine, so it has TESTED NOTHING (see above)"
        )
    return code


def interop_peers(given: Call) -> int:
    """Other people's programs that the interoperability tests talk to."""
    if not (ROOT / "tests/interop/install.py").exists():
        say("there are no foreign peers in this checkout (tests/interop/install.py)")
        return 0
    code = call([given.base, "-m", "tests.interop.install", *given.arguments])
    if not given.arguments:
        code = call([given.base, "-m", "tests.interop.nginx"]) or code
    if code:
        say(
            "not all peers COULD BE INSTALLED (see above); tests with those that are not are skipped"
        )
    return SETUP_IMPOSSIBLE if code else 0


def _worst(codes: list[int]) -> int:
    """Failed tests outweigh a set-up that is impossible, which outweighs success."""
    failures = [code for code in codes if code not in (0, SETUP_IMPOSSIBLE)]
    return failures[0] if failures else max(codes)


def docs(given: Call) -> int:
    """Tables in the documentation that are made from the code."""
    return call([given.python, "docs/tables.py", *given.arguments])


GENERATED = {
    # A file of protos/, and where its modules lie.
    "helloworld.proto": "examples/greeter/gen",
    "echo.proto": "tests/services/gen",
    "benchmark.proto": "benchmarks/gen",
    "demo.proto": "hvrpc/cli/demo/gen",
}


def protos(given: Call) -> int:
    """Modules of .proto files that are in git, and the golden files of the generator's tests."""
    codes = [
        given.module(
            "hvrpc_codegen", f"protos/{proto}", "--out", out, "-I", "protos", *given.arguments
        )
        for proto, out in GENERATED.items()
    ]
    return _worst([*codes, call([given.python, "tests/codegen/golden.py", *given.arguments])])


def env(given: Call) -> int:
    folder = given.python.parent
    activate = folder / ("activate.bat" if WINDOWS else "activate")
    say(f"to use it: {'' if WINDOWS else 'source '}{activate}")
    return call([given.python, "--version"])


# --- Everything, as CI does it ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stage:
    command: list[str]
    python: str
    minutes: float
    """After so long it is ended, and has failed: what we fear most are bugs that hang."""

    @property
    def name(self) -> str:
        return f"{' '.join(self.command)} ({look_at(self.python).name})"


def plan(python: str, also: str | None, rigs: bool = False) -> list[list[list[Stage]]]:
    """The steps of CI. A step is one or more lanes, which run beside each other; a lane is stages."""
    pythons = [python, *([also] if also else [])]
    steps = [
        [[Stage(["interop-peers"], python, 10)], [Stage(["env"], each, 10) for each in pythons]],
        [
            [Stage(["lint"], python, 4), Stage(["protos", "--check"], python, 2)],
            [Stage(["types"], python, 12)],
        ],
        *([[Stage(["test"], each, 30)]] for each in pythons),
    ]
    wheel = [Stage(["build"], python, 3), Stage(["smoke"], python, 3)]
    by_kind = [[name for name in RIGS if RIGS[name].on_windows == kind] for kind in (True, False)]
    of_rigs = [[Stage(["rigs", name], python, 20) for name in names] for names in by_kind]
    steps.append([wheel + of_rigs[0], of_rigs[1]] if rigs else [wheel])
    return steps


def ci(given: Call) -> int:
    also = _take_option(given.arguments, "--also")
    rigs = "--rigs" in given.arguments
    if unknown := [each for each in given.arguments if each != "--rigs"]:
        raise Trouble(f"ci knows --also PATH (a second Python) and --rigs, not {' '.join(unknown)}")
    # CI ends us with SIGTERM, and must not leave a stage behind either.
    signal.signal(signal.SIGTERM, interrupted)
    os.environ[AGAIN] = "1"
    started = time.monotonic()
    steps = plan(given.base, also, rigs)
    done: dict[Stage, tuple[float, int]] = {}
    try:
        for lanes in steps:
            run_step(lanes, done)
    except KeyboardInterrupt:
        pass
    not_run = 0.0, INTERRUPTED
    results = [
        (stage.name, *done.get(stage, not_run))
        for lanes in steps
        for lane in lanes
        for stage in lane
    ]
    return report(results, time.monotonic() - started)


def interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def report(done: list[tuple[str, float, int]], took: float) -> int:
    """Print what the stages came to; the last line says it all."""
    width = max(len(name) for name, _, _ in done)
    print(f"\n{'stage':{width}}  seconds  result")
    for name, seconds, code in done:
        print(f"{name:{width}}  {seconds:7.1f}  {_outcome(code)}")
    failed = [name for name, _, code in done if code not in (0, SETUP_IMPOSSIBLE)]
    missing = [name for name, _, code in done if code == SETUP_IMPOSSIBLE]
    summary = f"FAILED: {', '.join(failed)}" if failed else "passed"
    if missing:
        summary += f"; could not be set up here: {', '.join(missing)}"
    print(f"\nci {summary} ({len(done)} stages, {took:.0f} s)", flush=True)
    return 1 if failed else 0


_TIME_LIMIT_REACHED = 124
"""As timeout(1) has it."""


def _outcome(code: int) -> str:
    named = {
        0: "passed",
        SETUP_IMPOSSIBLE: "COULD NOT BE SET UP",
        _TIME_LIMIT_REACHED: "FAILED (time limit)",
        INTERRUPTED: "FAILED (interrupted)",
    }
    return named.get(code, f"FAILED (exit code {code})")


class Running:
    """A chore as a process of its own, with everything it starts, for a limited time."""

    def __init__(self, stage: Stage, lane: Sequence[Stage], aside: bool) -> None:
        """Its output is kept aside until it has ended, if others run at the same time."""
        words = ["run.py", "--python", stage.python, *stage.command]
        self.stage = stage
        self.lane = lane
        self.title = f"=== python3 {' '.join(words)}"
        self.started = time.monotonic()
        self.output = tempfile.TemporaryFile() if aside else None  # noqa: SIM115 closed when shown
        print(f"\n{self.title}{' (its output follows later)' if aside else ''}", flush=True)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words[1:]],
            cwd=ROOT,
            stdout=self.output,
            stderr=subprocess.STDOUT if aside else None,
            start_new_session=not WINDOWS,
        )

    def code(self) -> int | None:
        """How it ended, if it has; it is ended when its time is up."""
        code = self.process.poll()
        if code is None and time.monotonic() > self.started + self.stage.minutes * 60:
            say(f"ended after {self.stage.minutes:g} minutes, its time limit: {self.stage.name}")
            self.end()
            return _TIME_LIMIT_REACHED
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            end_group(self.process)

    def show_output(self) -> None:
        if self.output is None:
            return
        print(f"\n{self.title}: its output", flush=True)
        with self.output:
            self.output.seek(0)
            shutil.copyfileobj(self.output, sys.stdout.buffer)
        sys.stdout.flush()


def run_step(lanes: Sequence[Sequence[Stage]], done: dict[Stage, tuple[float, int]]) -> None:
    """Run the stages of several lanes, and note of each that has ended its time and exit code."""
    aside = len(lanes) > 1
    left = [list(lane) for lane in lanes]
    running: list[Running] = []
    try:
        while running or any(left):
            for lane in left:
                if lane and not any(each.lane is lane for each in running):
                    running.append(Running(lane.pop(0), lane, aside))
            time.sleep(_PAUSE)
            for each in list(running):
                code = each.code()
                if code is not None:
                    running.remove(each)
                    each.show_output()
                    done[each.stage] = time.monotonic() - each.started, code
    finally:
        for each in running:
            each.end()
            each.show_output()


_PAUSE = 0.1
"""Seconds between two looks at what runs."""


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a stage that is still running, with everything it has started."""
    if sys.platform == "win32":
        quietly(["taskkill", "/T", "/F", "/PID", str(process.pid)])
    else:
        os.killpg(process.pid, signal.SIGINT)  # a rig ends its machines, pytest tells where it was
        deadline = time.monotonic() + _GRACE
        while not _has_ended(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


_GRACE = 15.0
"""Seconds for a stage to end by itself when it is asked to."""


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; without taking note, for that would free its number for others."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


# --- The command line ---------------------------------------------------------------------------

SUITE = ("all", "group:test")

CHORES = {
    "demo": Chore("see it work: a host and a guest, without a hypervisor", demo, ("all",), True),
    "test": Chore("the whole test suite, or with pytest's arguments a part", test, SUITE, True),
    "lint": Chore("ruff: mistakes and format", lint, ("group:lint",)),
    "types": Chore("mypy --strict and pyright", types, (*SUITE, "group:lint")),
    "build": Chore("wheel and source distribution, in dist/", build, ("group:build",)),
    "smoke": Chore("the wheel in an empty environment", smoke, ("group:build",)),
    "rigs": Chore("the suite on real boundaries: [windows|vm|nested|… ...]", rigs, None, True),
    "interop-peers": Chore("get the foreign programs some tests need", interop_peers, None, True),
    "docs": Chore("write the tables that docs/ takes from the code", docs, ("all",), True),
    "protos": Chore("generate code from .proto files; --check compares", protos, SUITE, True),
    "env": Chore(
        "make the environment with everything, and tell where",
        env,
        (*SUITE, "group:lint", "group:build"),
    ),
    "ci": Chore("all of it, with times: [--also PYTHON] [--rigs]", ci, None, True),
}


def _take_option(arguments: list[str], name: str) -> str | None:
    """Take `name VALUE` or `name=VALUE` off the front of the arguments."""
    word = arguments[0] if arguments else ""
    if word.startswith(f"{name}="):
        return arguments.pop(0).partition("=")[2]
    if word != name:
        return None
    if len(arguments) == 1:
        raise Trouble(f"the path of a Python follows {name}", 2)
    del arguments[0]
    return arguments.pop(0)


def usage() -> str:
    lines = [__doc__ or "", "Chores:"]
    lines += [f"    {name:15} {chore.help}" for name, chore in CHORES.items()]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    python, here = sys.executable, False
    while arguments and arguments[0].startswith("--") and arguments[0] != "--help":
        if arguments[0] == "--here":
            here = True
            del arguments[0]
            continue
        chosen = _take_option(arguments, "--python")
        if chosen is None:
            raise Trouble(f"there is no option {arguments[0]}: there are --python and --here", 2)
        python = chosen
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    chore = CHORES.get(name)
    if chore is None:
        raise Trouble(f"there is no chore {name!r}: there are {', '.join(CHORES)}", 2)
    if rest and not chore.takes_arguments:
        raise Trouble(f"{name} takes no arguments, and was given {' '.join(rest)}", 2)
    interpreter = look_at(python)
    ready = Path(interpreter.path)
    if not here and chore.wants is not None:
        ready = provide(interpreter, chore.wants)
    return chore.run(Call(ready, interpreter.path, rest))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Trouble as trouble:
        print(f"[run.py] {trouble}", file=sys.stderr, flush=True)
        sys.exit(trouble.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
