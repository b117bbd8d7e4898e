"""run.py: chores set themselves up, say what to do when they cannot, and end what hangs."""

from __future__ import annotations

import ast
import json
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from .scripts import ROOT, load


@pytest.fixture
def run() -> ModuleType:
    return load("run.py")


class Recorder:
    """Stands for what would run commands, and answers with the codes it was given."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.commands: list[str] = []
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[object], **environment: str) -> int:
        self.commands.append(" ".join(map(str, command)))
        self.environments.append(environment)
        return self.codes.pop(0) if self.codes else 0


def interpreter(run: ModuleType, *, has_ensurepip: bool = True) -> object:
    return run.Interpreter(sys.executable, tuple(sys.version_info[:3]), has_ensurepip)


# --- The command line ---


def test_without_a_chore_all_are_listed(
    run: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"    {name} " in listed for name in run.CHORES)


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["lint", "more"], ["--python"], ["--other", "test"], ["rigs", "other"]],
)
def test_a_wrong_command_line_is_told_apart_from_a_failure(
    run: ModuleType, arguments: list[str]
) -> None:
    with pytest.raises(run.Trouble) as trouble:
        run.main(arguments)
    assert trouble.value.code == 2


@pytest.mark.parametrize("option", [["--python", "X"], ["--python=X"]])
def test_an_option_stands_before_the_chore(run: ModuleType, option: list[str]) -> None:
    arguments = [*option, "test", "-x"]
    assert run._take_option(arguments, "--python") == "X"
    assert arguments == ["test", "-x"]


def test_what_follows_a_chore_belongs_to_it(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Recorder()
    monkeypatch.setattr(run, "call", calls)
    assert run.main(["rigs", "windows", "--python", "3.13", "--", "-x"]) == 0
    assert calls.commands == [
        f"{sys.executable} tests/rigs/windows/run.py --python 3.13 -- -x",
    ]


def test_something_that_is_no_python_is_named(run: ModuleType) -> None:
    with pytest.raises(run.Trouble, match=r"LICENSE is not a Python that runs; give --python"):
        run.main(["--python", str(ROOT / "LICENSE"), "test"])


def test_a_python_that_is_too_old_is_refused(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "OLDEST_PYTHON", (99, 1))
    with pytest.raises(run.Trouble, match=r"hvrpc needs 99\.1 or later: give --python"):
        run.main(["test"])


def test_an_old_python_can_read_the_script_and_is_told(run: ModuleType) -> None:
    """What came after Python 3.8 may be used, but not where an older one would meet it."""
    source = (ROOT / "run.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("tomllib" in ast.unparse(node) for node in at_once)


# --- Setting up ---


@pytest.fixture
def made(run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was made and installed, in a project of its own, instead of doing it."""
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    done: list[str] = []

    def make(_: object, folder: Path) -> None:
        python: Path = run.python_of(folder)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        done.append("made")

    monkeypatch.setattr(run, "make_environment", make)
    monkeypatch.setattr(run, "install", lambda folder, wants: done.append(" ".join(sorted(wants))))
    return done


def test_an_environment_is_made_once(run: ModuleType, made: list[str]) -> None:
    first = run.provide(interpreter(run), ["all", "group:test"])
    assert run.provide(interpreter(run), ["group:test"]) == first
    assert made == ["made", "all group:test"]


def test_a_chore_that_needs_more_adds_it(run: ModuleType, made: list[str]) -> None:
    run.provide(interpreter(run), ["group:test"])
    run.provide(interpreter(run), ["group:lint"])
    assert made == ["made", "group:test", "group:lint group:test"]


def test_a_changed_project_is_installed_again(run: ModuleType, made: list[str]) -> None:
    run.provide(interpreter(run), ["group:test"])
    (run.ROOT / "pyproject.toml").write_text("[project]\nname = 'other'\n", encoding="utf-8")
    run.provide(interpreter(run), [])
    assert made == ["made", "group:test", "group:test"]


def test_another_python_of_the_same_version_number_gets_a_fresh_environment(
    run: ModuleType, made: list[str]
) -> None:
    run.provide(interpreter(run), [])
    newer = run.Interpreter("other", (*sys.version_info[:2], 99), True)
    run.provide(newer, [])
    assert made == ["made", "", "made", ""]


def test_a_broken_stamp_means_that_nothing_is_known(run: ModuleType, made: list[str]) -> None:
    folder = run.provide(interpreter(run), []).parent.parent
    (folder / "hvrpc.json").write_text(json.dumps(["odd"]), encoding="utf-8")
    run.provide(interpreter(run), [])
    assert made.count("made") == 2


def test_a_group_includes_the_groups_it_names(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = '[dependency-groups]\nsmall = ["a>=1"]\nlarge = ["b", {include-group = "small"}]\n'
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert run.requirements_of("large") == ["b", "a>=1"]


def test_every_chore_wants_what_pyproject_has(run: ModuleType) -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(content["project"]["optional-dependencies"])
    groups = {f"group:{name}" for name in content["dependency-groups"]}
    for chore in run.CHORES.values():
        assert set(chore.wants or ()) <= extras | groups


# --- Debian without python3-venv ---


@pytest.fixture
def debian(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    programs = {"apt-get": "/usr/bin/apt-get", "sudo": "/usr/bin/sudo"}
    monkeypatch.setattr(run.shutil, "which", programs.get)
    monkeypatch.setattr(run, "_is_root", lambda: False)
    return run


def test_a_missing_package_is_installed(
    debian: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Recorder(100, 0, 0)
    monkeypatch.setattr(debian, "call", calls)
    debian.provide_ensurepip(interpreter(debian))
    assert [command.split("apt-get -qq ")[1].split()[0] for command in calls.commands] == [
        "install",
        "update",  # a fresh machine has no list of packages
        "install",
    ]
    assert all(command.startswith("sudo ") for command in calls.commands)


def test_what_cannot_be_installed_is_told_with_the_command_to_type(
    debian: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "call", Recorder(100, 100, 100))
    with pytest.raises(debian.Trouble, match=r"apt-get install python3\.\d+-venv"):
        debian.provide_ensurepip(interpreter(debian))


def test_who_may_not_install_is_told_what_root_has_to_type(
    debian: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian.shutil, "which", {"apt-get": "/usr/bin/apt-get"}.get)
    with pytest.raises(debian.Trouble, match="only root can install it"):
        debian.provide_ensurepip(interpreter(debian))


# --- Everything, as CI does it ---


def test_the_worst_result_counts(run: ModuleType) -> None:
    assert run._worst([0, run.SETUP_IMPOSSIBLE, 1]) == 1
    assert run._worst([0, run.SETUP_IMPOSSIBLE]) == run.SETUP_IMPOSSIBLE
    assert run._worst([0, 0]) == 0


@pytest.mark.parametrize(
    ("codes", "code", "summary"),
    [
        ([0, 0], 0, "ci passed (2 stages, 7 s)"),
        ([1, 0], 1, "ci FAILED: lint (2 stages, 7 s)"),
        ([0, 69], 0, "ci passed; could not be set up here: rigs vm (2 stages, 7 s)"),
        ([124, 69], 1, "ci FAILED: lint; could not be set up here: rigs vm (2 stages, 7 s)"),
    ],
)
def test_the_last_line_of_ci_is_a_summary(
    run: ModuleType,
    capsys: pytest.CaptureFixture[str],
    codes: list[int],
    code: int,
    summary: str,
) -> None:
    assert run.report([("lint", 1.0, codes[0]), ("rigs vm", 6.0, codes[1])], 7.0) == code
    assert capsys.readouterr().out.splitlines()[-1] == summary


def test_ci_that_is_interrupted_has_failed(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_step(lanes: object, done: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_step", run_step)
    monkeypatch.setattr(
        run, "plan", lambda python, also, rigs: [[[run.Stage(["lint"], sys.executable, 1)]]]
    )
    monkeypatch.setattr(run, "signal", SimpleNamespace(signal=lambda *_: None, SIGTERM=15))
    assert run.ci(run.Call(Path(sys.executable), sys.executable, [])) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("ci FAILED: lint")


def stages_of(steps: list[list[list[Any]]]) -> list[Any]:
    return [stage for lanes in steps for lane in lanes for stage in lane]


def test_ci_tests_on_a_second_python_if_there_is_one(run: ModuleType) -> None:
    stages = stages_of(run.plan("one", "two"))
    assert [stage.python for stage in stages if stage.command == ["test"]] == ["one", "two"]


@pytest.mark.parametrize(
    ("first", "second", "in_ci", "result", "asked"),
    [
        (0, 0, True, 0, 1),
        (1, 0, True, 0, 2),
        (1, 1, True, 1, 2),
        (2, 0, True, 2, 1),
        (1, 0, False, 1, 1),
    ],
    ids=["passes", "passes the second time", "fails twice", "breaks", "fails, not in CI"],
)
def test_ci_tries_once_more_what_has_failed(
    run: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    first: int,
    second: int,
    in_ci: bool,
    result: int,
    asked: int,
) -> None:
    codes = [first, second]
    commands: list[list[str]] = []

    def call(command: list[str], **_: str) -> int:
        commands.append([str(word) for word in command])
        return codes[len(commands) - 1]

    monkeypatch.setattr(run, "call", call)
    monkeypatch.delenv(run.AGAIN, raising=False)
    if in_ci:
        monkeypatch.setenv(run.AGAIN, "1")
    assert run.test(run.Call(Path("python"), "python", [])) == result
    assert len(commands) == asked
    assert all("--last-failed" in command for command in commands[1:])
    assert ("second time" in capsys.readouterr().out) == (asked == 2 and result == 0)


def test_ci_makes_no_two_stages_that_install_something_at_once(run: ModuleType) -> None:
    """An environment is changed by one stage at a time; later ones find it complete."""
    [[peers], environments], *_ = run.plan("one", "two")
    assert peers.command == ["interop-peers"]
    assert [stage.command for stage in environments] == [["env"], ["env"]]
    complete = set(run.CHORES["env"].wants)
    assert all(set(chore.wants or ()) <= complete for chore in run.CHORES.values())


def test_ci_runs_the_rigs_only_if_asked(run: ModuleType) -> None:
    def rigs(asked: bool) -> list[list[str]]:
        stages = stages_of(run.plan("one", None, asked))
        return [stage.command for stage in stages if "rigs" in stage.command]

    assert rigs(False) == []
    assert sorted(rigs(True)) == sorted(["rigs", name] for name in run.RIGS)


def test_the_lanes_of_a_step_run_beside_each_other(
    run: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each waits for the other one; and what they print is not mixed."""
    (tmp_path / "run.py").write_text(
        "import sys, pathlib, time\n"
        "name, other, code = sys.argv[-3:]\n"
        "print(name, 'begins', flush=True)\n"
        "pathlib.Path(name).touch()\n"
        "while not pathlib.Path(other).exists(): time.sleep(0.01)\n"
        "print(name, 'ends')\n"
        "sys.exit(int(code))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(run, "ROOT", tmp_path)
    words = [["one", "two", "0"], ["three", "one", "3"], ["two", "one", "0"]]
    one, three, two = (run.Stage(each, sys.executable, 1) for each in words)
    done: dict[Any, tuple[float, int]] = {}
    run.run_step([[one, three], [two]], done)
    assert [done[each][1] for each in (one, three, two)] == [0, 3, 0]
    lines = capfd.readouterr().out.splitlines()
    for name in ("one", "two", "three"):
        assert lines.index(f"{name} begins") + 1 == lines.index(f"{name} ends")


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks into /proc; run it on Linux"
)
def test_a_stage_that_hangs_is_ended_with_everything_it_started(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The time limit is replaced by the moment at which the stage has started something."""
    (tmp_path / "run.py").write_text(
        "import subprocess, time\n"
        "child = subprocess.Popen(['sh', '-c', 'trap \"\" INT; sleep 60; true'])\n"
        "open('pid', 'x').write(f'{child.pid}.')\n"
        "child.wait()\n",
        encoding="utf-8",
    )
    pid_file = tmp_path / "pid"

    class Impatient(run.Running):  # type: ignore[misc, name-defined]
        def code(self) -> int | None:
            until(lambda: pid_file.exists() and pid_file.read_text().endswith("."))
            self.started -= 60.0
            return super().code()  # type: ignore[no-any-return]

    monkeypatch.setattr(run, "Running", Impatient)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    stage = run.Stage(["anything"], sys.executable, 1)
    done: dict[Any, tuple[float, int]] = {}
    run.run_step([[stage]], done)
    assert done[stage][1] == 124
    stat = Path("/proc", pid_file.read_text().rstrip("."), "stat")
    until(lambda: is_gone(stat))


def is_gone(stat: Path) -> bool:
    """Whether a process is over, perhaps with nobody who has asked how it ended."""
    try:
        return ") Z " in stat.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this did not come about"
        time.sleep(0.01)


def test_the_whole_suite_runs_on_all_processors_and_a_part_as_asked(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Recorder()
    monkeypatch.setattr(run, "call", calls)
    monkeypatch.setattr(run.os, "cpu_count", lambda: 3)
    for arguments in ([], ["-k", "some"]):
        run.test(run.Call(Path("python"), sys.executable, arguments))
    assert calls.commands == [
        "python -m pytest -q -n 9 --dist worksteal",
        "python -m pytest -k some",
    ]
    assert calls.environments == [{"PYTHONDONTWRITEBYTECODE": ""}] * 2, "all is compiled each time"


def test_no_test_run_is_not_a_success(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "call", Recorder(run.PYTEST_FOUND_NO_TESTS))
    assert run.test(run.Call(Path(sys.executable), sys.executable, ["-k", "none"])) != 0
