"""`import hvrpc`: every name is there, and nobody waits for what is not used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hvrpc


@pytest.mark.parametrize("name", hvrpc.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(hvrpc, name) is not None


def test_what_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'hvrpc' has no attribute 'nothing'"):
        getattr(hvrpc, "nothing")  # noqa: B009 (type checkers know that it is not there)


def test_sockets_are_imported_when_they_are_used() -> None:
    code = (
        "import sys, hvrpc, hvrpc.services;"
        "assert 'hvrpc.sockets' not in sys.modules, 'generated modules would wait for sockets';"
        "hvrpc.ConnectError; assert 'hvrpc.sockets' not in sys.modules;"
        "hvrpc.sockets.connect; from hvrpc import Tls, errors; assert errors.HvrpcError"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)


def test_the_tab_key_finds_what_was_not_used_yet() -> None:
    code = "import hvrpc; assert {'Address', 'sockets', 'errors', '__version__'} <= {*dir(hvrpc)}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)


def test_what_is_imported_by_itself_says_so() -> None:
    code = "import hvrpc; hvrpc.msgpack"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr.endswith("has no attribute 'msgpack' yet: import hvrpc.msgpack\n")
