"""What every file of the repository owes: it reads the same on every machine and tells of none."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the licence as the Apache Software Foundation publishes it as text."""

# Spelled so that this file does not contain what it looks for.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.])/(?:home|Users|work|builds|workspace)/[a-z._]|/root/\.|[A-Z]:[\\/]+Users[\\/]+\w"
        r"|/tmp/(?:team|venvs)|/opt/(?:wheels|pypi)"
    ),
    "the name of a package index": re.compile(
        r"\bpypi\.(?:org|python)|python[h]osted\.org|registry\.(?:npmjs|yarnpkg)|proxy\.golang"
        r"|artifa[c]tory|\bjf[r]og\b|(?:deb|security)\.debian\.org|\bdevpi\b|index-url",
        re.IGNORECASE,
    ),
}


def repository_files() -> list[Path]:
    """What is, or could be, in version control; in an unpacked archive, all there is."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is not a checkout; run it in one: git clone, then python3 run.py test")
    files = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [file for file in files if file.is_file()]


def text_of(file: Path) -> str | None:
    data = file.read_bytes()
    return None if b"\0" in data[:8192] else data.decode("utf-8")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every text file, by its path in the repository."""
    try:
        found = {file.relative_to(ROOT).as_posix(): text_of(file) for file in repository_files()}
    except FileNotFoundError:
        pytest.skip("needs git: install it, and run this in a checkout")
    return {name: text for name, text in found.items() if text is not None}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_tells_of_the_machine_it_was_written_on(texts: dict[str, str], what: str) -> None:
    found = [
        f"{name}:{number}: {match.group()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        for match in [FORBIDDEN[what].search(line)]
        if match and name != "tests/test_repository.py"
    ]
    assert not found, f"{what} is in the repository"


def test_lines_end_with_lf(texts: dict[str, str]) -> None:
    if not (ROOT / ".gitattributes").exists():
        pytest.skip("needs a checkout, with its .gitattributes")
    assert "* text=auto eol=lf" in texts[".gitattributes"].splitlines()
    crlf = [file.name for file in repository_files() if b"\r\n" in file.read_bytes()]
    assert not crlf


def test_files_end_with_a_line_end_and_lines_not_with_spaces(texts: dict[str, str]) -> None:
    no_end = [name for name, text in texts.items() if text and not text.endswith("\n")]
    trailing = [
        f"{name}:{number}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if line != line.rstrip() and not name.endswith((".patch", ".diff"))
    ]
    assert not no_end + trailing


def test_the_licence_is_the_whole_apache_2_0() -> None:
    licence = ROOT / "LICENSE"
    assert hashlib.sha256(licence.read_bytes().replace(b"\r\n", b"\n")).hexdigest() == APACHE_2_0
