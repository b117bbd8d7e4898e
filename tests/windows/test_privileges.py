"""What this process may do, and the command for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hvrpc.windows import privileges
from hvrpc.windows.privileges import Privileges


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python in a folder with a space and a quote."""
    folder = tmp_path / "it's my env"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python.exe"))
    return folder


def test_the_command_runs_this_python_without_the_script(python: Path) -> None:
    program = str(python / "python.exe").replace("'", "''")
    assert privileges.elevated("service", "register", "my agent", "--port", "5000") == (
        f"Start-Process -Verb RunAs -Wait -FilePath '{program}'"
        " -ArgumentList '-m hvrpc service register \"my agent\" --port 5000'"
    )


@pytest.mark.parametrize("place", ["hvrpc.exe", "Scripts/hvrpc.exe"])
def test_the_command_runs_the_script_where_it_is(python: Path, place: str) -> None:
    script = python / place
    script.parent.mkdir(exist_ok=True)
    script.touch()
    assert privileges.elevated("service", "reset") == (
        "Start-Process -Verb RunAs -Wait -FilePath '" + str(script).replace("'", "''") + "'"
        " -ArgumentList 'service reset'"
    )


@pytest.mark.parametrize("name", ['say "hi"', "a\\b\\", "it's", "a b", "агент \u2019"])
def test_words_reach_the_elevated_program_as_they_are(python: Path, name: str) -> None:
    """Start-Process hands its text over unchanged; Windows' rules make words of it again."""
    command = privileges.elevated("service", "remove", name)
    text = command.partition(" -ArgumentList ")[2]
    inner = text[1:-1]
    for sign in "'\u2018\u2019\u201a\u201b":
        inner = inner.replace(2 * sign, sign)
    assert inner == subprocess.list2cmdline(["-m", "hvrpc", "service", "remove", name])


@pytest.mark.parametrize(
    ("held", "may"),
    [
        (Privileges(False, False), False),
        (Privileges(True, False), True),
        (Privileges(False, True), True),
    ],
)
def test_who_may_use_vms(held: Privileges, may: bool) -> None:
    assert held.may_use_vms is may


def test_this_process_can_be_asked() -> None:
    held = privileges.current()
    if sys.platform == "win32":
        assert isinstance(held.is_administrator, bool)
    else:
        assert held == Privileges(False, False)
