"""Scripts for an administrator say just what `register` would do, whatever the name holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from hvrpc.windows import export, registration
from hvrpc.windows.registration import KEY, wanted
from hvrpc.windows.registry import open_registry

ROOT_KEY = rf"HKEY_LOCAL_MACHINE\{KEY}"
PORT_5000 = "00001388-facb-11e6-bd58-64006a7986d3"
GUID = "6e1d2c3b-4a59-4687-9706-f5e4d3c2b1a0"


def test_a_file_for_regedit() -> None:
    assert export.as_reg([wanted('say "a\\b"', port=5000), wanted("агент", guid=GUID)]) == (
        "Windows Registry Editor Version 5.00\n"
        "\n"
        f"[{ROOT_KEY}\\{PORT_5000}]\n"
        '"RegisteredBy"="hvrpc"\n'
        '"ElementName"="say \\"a\\\\b\\""\n'
        "\n"
        f"[{ROOT_KEY}\\{GUID}]\n"
        '"RegisteredBy"="hvrpc"\n'
        '"ElementName"="агент"\n'
        "\n"
    )


def test_a_file_for_regedit_that_removes() -> None:
    text = export.as_reg([wanted("agent", port=5000)], remove=True)
    assert f"[-{ROOT_KEY}\\{PORT_5000}]\n" in text
    assert "ElementName" not in text


def test_a_script_for_powershell() -> None:
    text = export.as_powershell([wanted("agent", port=5000)])
    assert text.startswith("#Requires -RunAsAdministrator\n")
    assert f"$services = 'HKLM:\\{KEY}'\n" in text
    assert f"$key = Join-Path $services '{PORT_5000}'\n" in text
    assert "-Name 'RegisteredBy' -Value 'hvrpc' -Type String\n" in text
    assert "-Name 'ElementName' -Value 'agent' -Type String\n" in text
    assert "Remove-Item" not in text


def test_a_script_for_powershell_that_removes() -> None:
    text = export.as_powershell([wanted("agent", port=5000)], remove=True)
    assert "{ Remove-Item -LiteralPath $key }" in text
    assert "New-Item" not in text


@pytest.mark.parametrize(
    "name", ["it's", "a'; Remove-Item C:\\ -Recurse; '", "\u2018x\u2019", "$(calc)", "a{id}b", "%s"]
)
def test_a_name_never_becomes_a_part_of_the_script(name: str) -> None:
    """Between two single quotes, and every quote in it doubled: PowerShell reads it as a text."""
    text = export.as_powershell([wanted(name, port=5000)])
    (line,) = (line for line in text.splitlines() if "-Name 'ElementName'" in line)
    quoted = line.partition(" -Value ")[2].removesuffix(" -Type String")
    assert quoted[0] == quoted[-1] == "'"
    inner, position, plain = quoted[1:-1], 0, ""
    quotes = "'\u2018\u2019\u201a\u201b"
    while position < len(inner):
        if inner[position] in quotes:
            assert inner[position + 1 : position + 2] in tuple(quotes), "the text would end here"
            position += 1
        plain += inner[position]
        position += 1
    assert plain == name


@pytest.mark.skipif(
    sys.platform != "win32",
    reason="needs regedit: run on Windows as administrator, or python3 run.py rigs windows",
)
def test_regedit_takes_the_file(tmp_path: Path) -> None:
    name, guid = f"hvrpc test {uuid4()} 'агент' \"代理\" \\ 🦊", uuid4()
    store = open_registry("test")
    for remove in (False, True):
        file = tmp_path / "service.reg"
        text = export.as_reg([wanted(name, guid=guid)], remove=remove)
        file.write_text(text, encoding=export.REG_ENCODING, newline="\r\n")
        done = subprocess.run(["reg.exe", "import", str(file)], check=False, capture_output=True)
        if done.returncode:
            pytest.skip(f"reg import was refused: {done.stderr.decode(errors='replace')}")
        values = store.values(rf"{registration.KEY}\{guid}")
        assert values == (None if remove else {"ElementName": name, "RegisteredBy": "hvrpc"})
