"""What grpcio-tools makes of `testing.proto`, made once for a run of the tests."""

from __future__ import annotations

import importlib
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PROTO = HERE / "testing.proto"


class Generated(NamedTuple):
    """Modules as everybody's programs have them."""

    pb: Any
    """Messages."""
    grpc: Any
    """Stubs and servicers."""


@cache
def generated() -> Generated:
    """Generate them, and import them."""
    protoc: Any = importlib.import_module("grpc_tools.protoc")
    with tempfile.TemporaryDirectory(prefix="hvrpc-interop-") as folder:
        arguments = [f"-I{HERE}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        assert protoc.main(["protoc", *arguments, str(PROTO)]) == 0
        sys.path.insert(0, folder)
        try:
            return Generated(
                importlib.import_module("testing_pb2"), importlib.import_module("testing_pb2_grpc")
            )
        finally:
            sys.path.remove(folder)
