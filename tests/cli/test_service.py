"""`hvrpc service`, on a registry in memory; what it writes is tested beside `hvrpc.windows`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hvrpc.windows import registration
from hvrpc.windows.registration import KEY

from ..windows.fake_registry import FakeRegistry
from .runs import run

PORT_5000 = "00001388-facb-11e6-bd58-64006a7986d3"
GUID = "6e1d2c3b-4a59-4687-9706-f5e4d3c2b1a0"
POWERSHELL_DIRECT = "999e53d4-3d5c-4c3e-8779-bed06ec056e1"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """A host with what Windows itself has registered."""
    host = FakeRegistry({rf"{KEY}\{POWERSHELL_DIRECT}": {"ElementName": "VM Session Service 1"}})
    monkeypatch.setattr(registration, "open_registry", lambda *what: host)
    return host


def printed(*arguments: object) -> Any:
    result = run("service", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def printed_anyway(*arguments: object) -> Any:
    return json.loads(run("service", *arguments, "--json").stdout)


def test_register_tells_what_to_listen_on_and_what_guests_call(registry: FakeRegistry) -> None:
    result = run("service", "register", "agent", "--port", 5000)
    assert result.exit_code == 0
    assert "agent (port 5000) is registered" in result.stdout
    assert "hvsock://any/5000" in result.stdout
    assert "hvsock://parent/5000" in result.stdout
    again = run("service", "register", "agent", "--port", 5000)
    assert again.exit_code == 0
    assert "is registered already" in again.stdout


def test_register_for_programs(registry: FakeRegistry) -> None:
    assert printed("register", "agent", "--guid", GUID) == {
        "name": "agent",
        "id": GUID,
        "port": None,
        "address": f"hvsock://any/{GUID}",
        "origin": "hvrpc",
        "registered_by": "hvrpc",
        "was_there": False,
        "dry_run": False,
    }
    assert printed("register", "agent", "--guid", GUID)["was_there"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["register", "new", "--dry-run"],
        ["remove", "agent", "--dry-run"],
        ["reset", "--dry-run"],
        ["list"],
        ["status"],
        ["status", "agent"],
        ["export", "new", "--reg"],
        ["export", "--powershell"],
    ],
)
def test_these_never_change_anything(registry: FakeRegistry, arguments: list[str]) -> None:
    run("service", "register", "agent", "--port", 5000)
    before = list(registry.changes)
    result = run("service", *arguments)
    assert result.exit_code == 0, result.output
    assert registry.changes == before


def test_without_privileges_the_command_is_one_line_to_copy(registry: FakeRegistry) -> None:
    registry.read_only = True
    result = run("service", "register", "a rather long name of a service", "--port", 5000)
    assert result.exit_code == 6
    (line,) = (line for line in result.stderr.splitlines() if "Start-Process" in line)
    assert line.strip().startswith("Start-Process -Verb RunAs -Wait -FilePath '")
    assert line.endswith("""service register "a rather long name of a service" --port 5000'""")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["register", "5000"], 1, "that is a number"),
        (["register", "agent", "--port", "5000", "--guid", GUID], 1, "two ways"),
        (["register", "agent", "--guid", "nonsense"], 2, "not a valid UUID"),
        (["remove", "nobody"], 2, "no service is registered as 'nobody'"),
        (["remove", "VM Session Service 1", "--others"], 1, "belongs to Windows"),
        (["export"], 2, "--reg or --powershell"),
        (["export", "--reg", "--port", "5"], 2, "needs a NAME"),
        (["export", "--reg"], 1, "has registered nothing"),
    ],
)
def test_what_is_refused(registry: FakeRegistry, arguments: list[str], code: int, why: str) -> None:
    result = run("service", *arguments)
    assert (result.exit_code, why in result.stderr) == (code, True), result.output
    assert not registry.changes


def test_list_shows_all_of_it(registry: FakeRegistry) -> None:
    run("service", "register", "agent", "--port", 5000)
    registry.keys[rf"{KEY}\{GUID}"] = {"ToolName": "podman"}
    lines = run("service", "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "PORT", "ID", "REGISTERED", "BY"],
        ["agent", "5000", PORT_5000, "hvrpc"],
        ["-", "-", GUID, "podman"],
        [
            *["VM", "Session", "Service", "1", "-"],
            POWERSHELL_DIRECT,
            *["Windows", "(PowerShell", "Direct)"],
        ],
    ]
    assert [service["origin"] for service in printed("list")] == ["hvrpc", "others", "Windows"]


def test_remove_and_reset(registry: FakeRegistry) -> None:
    for name in ("one", "two", "three"):
        run("service", "register", name)
    assert "is removed" in run("service", "remove", "one").stdout
    names = [service["name"] for service in printed("reset")["removed"]]
    assert sorted(names) == ["three", "two"]
    assert "nothing" in run("service", "reset").stdout
    assert len(registry.keys) == 1


def test_status_is_for_scripts(registry: FakeRegistry) -> None:
    assert run("service", "status").exit_code == 1
    run("service", "register", "agent", "--port", 5000)
    for which in ("agent", "AGENT", "5000", PORT_5000):
        assert run("service", "status", which).exit_code == 0
    missing = run("service", "status", "other")
    assert missing.exit_code == 1
    assert "other is not registered" in missing.stdout
    assert printed("status", "agent")["registered"][0]["port"] == 5000


@pytest.mark.parametrize("may_write", [True, False])
def test_status_says_how_to_register(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, may_write: bool
) -> None:
    monkeypatch.setattr(registration, "can_write", lambda: may_write)
    told = run("service", "status", "my agent").stdout
    assert ("Start-Process -Verb RunAs" in told) is not may_write
    assert 'service register "my agent"' in told
    assert printed_anyway("status", "my agent") == {"registered": [], "may_register": may_write}


@pytest.mark.parametrize(
    ("kind", "start"), [("--reg", b"\xff\xfeW\0i\0n\0"), ("--powershell", b"\xef\xbb\xbf#Requires")]
)
def test_export_writes_files_as_windows_reads_them(tmp_path: Path, kind: str, start: bytes) -> None:
    """On every system: nobody's registry is asked."""
    file = tmp_path / "script"
    result = run("service", "export", "агент", "--port", 5000, kind, "--out", file)
    assert result.exit_code == 0, result.output
    content = file.read_bytes()
    assert content.startswith(start)
    text = content.decode("utf-16" if kind == "--reg" else "utf-8-sig")
    assert "\r\n" in text
    assert "агент" in text
    assert run("service", "export", "агент", "--port", 5000, kind).stdout == text.replace(
        "\r\n", "\n"
    )


def test_export_into_a_folder_that_is_missing(tmp_path: Path) -> None:
    result = run("service", "export", "agent", "--reg", "--out", tmp_path / "none" / "x.reg")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is a registry on Windows")
@pytest.mark.parametrize(
    "arguments", [["list"], ["status"], ["register", "a"], ["remove", "a"], ["reset"]]
)
def test_elsewhere_one_is_sent_to_the_host(arguments: list[str]) -> None:
    result = run("service", *arguments)
    assert result.exit_code == 69
    assert "on the Windows host" in result.stderr
