"""`protoc-gen-hvrpc` under protoc, and what it answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest

from hvrpc_codegen import plugin

from .golden import GOLDEN, PROTOS

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="makes a script with #!; run it on Linux"
)


@pytest.fixture
def protoc(tmp_path: Path) -> list[str]:
    """protoc, with the plugin as if it had been installed."""
    script = tmp_path / "protoc-gen-hvrpc"
    code = "from hvrpc_codegen.plugin import main; main()"
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -W error -c '{code}'\n")
    script.chmod(0o755)
    return [sys.executable, "-m", "grpc_tools.protoc", f"--plugin={script}", f"-I{PROTOS}"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_it_writes_what_the_command_writes(protoc: list[str], tmp_path: Path) -> None:
    names = [path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto")]
    done = run(*protoc, f"--hvrpc_out={tmp_path}", *names)
    assert (done.returncode, done.stderr) == (0, "")
    for path in GOLDEN.rglob("*_hvrpc.py"):
        made = tmp_path / path.relative_to(GOLDEN)
        assert made.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")


def test_parameters(protoc: list[str], tmp_path: Path) -> None:
    out = f"--hvrpc_out=imports=absolute,foreign=common:{tmp_path}"
    assert run(*protoc, out, "shop/v1/shop.proto").returncode == 0
    text = (tmp_path / "shop/v1/shop_hvrpc.py").read_text(encoding="utf-8")
    assert "from shop.v1 import shop_pb2" in text
    assert "from common import money_pb2" in text


def test_what_is_wrong_is_told_through_protoc(protoc: list[str], tmp_path: Path) -> None:
    done = run(*protoc, f"--hvrpc_out=imports=no:{tmp_path}", "words.proto")
    assert done.returncode == 1
    assert "protoc-gen-hvrpc knows no 'imports=no'; it knows imports=relative" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_declares_what_it_understands() -> None:
    response = plugin.answer(CodeGeneratorRequest())
    assert not response.HasField("error")
    assert response.maximum_edition >= 1000  # EDITION_2023
    assert response.supported_features == 3
