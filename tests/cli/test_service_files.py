"""The files in `docs/how-to/run-as-a-service.md` are right."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hvrpc.cli.commands.serve import command
from hvrpc.cli.errors import ExitCode

from ..scripts import ROOT

PAGE = (ROOT / "docs" / "how-to" / "run-as-a-service.md").read_text(encoding="utf-8")


def file_of(mark: str) -> str:
    """The block behind a mark."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```[a-z]+\n(.*?)^```$", PAGE, re.S | re.M)
    assert found, f"no block is marked with {mark!r}"
    return found[1]


def setting(unit: str, name: str) -> str:
    [value] = re.findall(rf"^{name}=(.*)$", unit, re.M)
    return str(value)


def check_serve(words: list[str]) -> dict[str, object]:
    """What `hvrpc serve` understands of a command line. Raises click.UsageError."""
    at = words.index("hvrpc")
    assert words[at + 1] == "serve"
    return command.make_context("serve", words[at + 2 :]).params


def test_the_unit_is_what_systemd_expects(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze; run it where systemd is installed")
    # The program is not installed here, and systemd looks for it.
    unit = file_of("unit agent.service").replace("/opt/agent/venv/bin/python", "/bin/sh")
    (tmp_path / "agent.service").write_text(unit, encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "agent.service")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    about_it = [line for line in done.stderr.splitlines() if "agent.service" in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_systemd_would_find_a_mistake(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze; run it where systemd is installed")
    unit = file_of("unit agent.service").replace("Type=notify", "Type=notifi")
    (tmp_path / "agent.service").write_text(unit, encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "agent.service")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "notifi" in done.stderr


def test_the_unit_starts_hvrpc_as_it_is() -> None:
    unit = file_of("unit agent.service")
    given = check_serve(shlex.split(setting(unit, "ExecStart")))
    grace = given["grace"]
    assert isinstance(grace, float)
    assert grace < float(setting(unit, "TimeoutStopSec"))
    not_mended = {int(code) for code in setting(unit, "RestartPreventExitStatus").split()}
    assert not_mended == {ExitCode.USAGE, ExitCode.MISSING}


def test_the_windows_service_starts_hvrpc_as_it_is() -> None:
    service = ElementTree.fromstring(file_of("winsw agent.xml"))
    arguments = service.findtext("arguments")
    assert arguments is not None
    given = check_serve(arguments.split())
    assert given["objects"] == ("agent:Agent",)
