"""What `import hvrpc.grpc` gives, by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hvrpc.grpc


@pytest.mark.parametrize("name", ["aio", "tunnel"])
def test_submodules_are_there_without_being_imported(name: str) -> None:
    script = (
        "import sys, hvrpc.grpc\n"
        f"assert 'hvrpc.grpc.{name}' not in sys.modules\n"
        f"print(hvrpc.grpc.{name}.insecure_channel.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "insecure_channel\n"


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match=r"hvrpc\.grpc.*'nonsense'"):
        _ = hvrpc.grpc.nonsense


def test_names_that_are_grpcio_s_are_told_to_be() -> None:
    with pytest.raises(AttributeError, match=r"import grpc, and use grpc\.StatusCode"):
        _ = hvrpc.grpc.StatusCode
