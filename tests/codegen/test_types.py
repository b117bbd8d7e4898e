"""What type checkers say of generated code: right uses pass, each wrong one is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..scripts import ROOT

HERE = Path(__file__).parent / "uses"
LIMIT_SECONDS = 290

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 10)


def needs(checker: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(checker) is None,
        reason=f"{checker} is not installed; `python3 run.py types` installs it",
    )


def marked_lines() -> set[int]:
    lines = (HERE / "wrong.py").read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if "  # wrong" in line}


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def refused_by_mypy(file: str) -> dict[int, str]:
    options = ("--strict", "--enable-error-code", "deprecated", "--explicit-package-bases")
    output = run("mypy", *options, f"tests/codegen/uses/{file}")
    errors = re.findall(rf"uses/{file}:(\d+): error: (.*)", output)
    assert "Success" in output or errors, output
    return {int(line): what for line, what in errors}


def refused_by_pyright(file: str, tmp_path: Path) -> dict[int, str]:
    # A configuration of its own: the project's passes the wrong uses over.
    settings = {
        "include": [os.path.relpath(HERE / file, tmp_path)],
        "extraPaths": [str(ROOT), str(ROOT / "codegen")],
        "pythonVersion": "3.11",
        "reportDeprecated": "error",
    }
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    output = run("pyright", "-p", str(config), "--pythonpath", sys.executable, "--outputjson")
    found = json.loads(output)
    assert found["summary"]["filesAnalyzed"] == 1
    return {
        each["range"]["start"]["line"] + 1: each["message"]
        for each in found["generalDiagnostics"]
        if each["severity"] == "error"
    }


@needs("mypy")
def test_mypy_accepts_right_uses() -> None:
    assert refused_by_mypy("right.py") == {}


@needs("mypy")
def test_mypy_refuses_every_wrong_use() -> None:
    compare(refused_by_mypy("wrong.py"))


@needs("pyright")
def test_pyright_accepts_right_uses(tmp_path: Path) -> None:
    assert refused_by_pyright("right.py", tmp_path) == {}


@needs("pyright")
def test_pyright_refuses_every_wrong_use(tmp_path: Path) -> None:
    compare(refused_by_pyright("wrong.py", tmp_path))


def compare(refused: dict[int, str]) -> None:
    marked = marked_lines()
    assert len(marked) > 50
    assert marked - refused.keys() == set(), "these lines are accepted"
    others = {line: what for line, what in refused.items() if line not in marked}
    assert others == {}
