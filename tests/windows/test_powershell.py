"""What PowerShell is told, and what is made of its answers, as they were recorded or as they come."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest

from hvrpc.windows import powershell
from hvrpc.windows.powershell import PowerShellError, ask, command, parse, quoted

from ..rigs import guard

EVIL = (
    "'; Remove-Item C:\\ -Recurse; $env:USERNAME `\"$(calc)\u2019 \u201a & | %PATH% агент 代理 🦊"
)


def script_in(words: list[str]) -> str:
    return base64.b64decode(words[words.index("-EncodedCommand") + 1]).decode("utf-16-le")


# --- What goes in --------------------------------------------------------------------------------


def test_the_script_is_one_word_that_no_shell_reads() -> None:
    words = command("Get-VM 'a b' | Out-Null; \"$x\"")
    assert words[1:-1] == [
        "-NoLogo",
        "-NoProfile",
        "-NonInteractive",
        "-OutputFormat",
        "Text",
        "-EncodedCommand",
    ]
    assert words[-1].isascii()
    assert " " not in words[-1]
    assert "Get-VM 'a b' | Out-Null; \"$x\"" in script_in(words)


def test_data_goes_by_the_environment_and_never_into_the_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    class Answering:
        def __init__(self, words: list[str], *, stdout: Any, **settings: Any) -> None:
            seen.update(settings, words=words)
            stdout.write(b'{"answer":[1]}\n')

        def wait(self, timeout: float) -> int:
            seen["timeout"] = timeout
            return 0

    monkeypatch.setattr(subprocess, "Popen", Answering)
    assert ask("$env:HVRPC_NAME", data={"HVRPC_NAME": EVIL}, timeout=3) == [1]
    assert seen["env"]["HVRPC_NAME"] == EVIL
    assert EVIL not in script_in(seen["words"])
    assert not any(EVIL in word for word in seen["words"])
    assert seen["timeout"] == 3
    assert seen["stdin"] == subprocess.DEVNULL
    assert "shell" not in seen


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("agent", "'agent'"),
        ("", "''"),
        ("it's", "'it''s'"),
        (
            "a\u2018b\u2019c\u201ad\u201be",
            "'a\u2018\u2018b\u2019\u2019c\u201a\u201ad\u201b\u201be'",
        ),
        ('$(calc) `n "x"', "'$(calc) `n \"x\"'"),
    ],
)
def test_a_text_is_quoted_with_every_sign_that_powershell_takes_for_a_quote(
    text: str, written: str
) -> None:
    assert quoted(text) == written


# --- What comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (b'{"answer":[]}\r\n', []),
        (b'{"answer":null}', []),
        (b'{"answer":[{"id":"1"},{"id":"2"}]}\r\n', [{"id": "1"}, {"id": "2"}]),
        (b'{"answer":{"id":"1"}}\r\n', [{"id": "1"}]),
        (b'{"answer":{"value":[{"id":"1"}],"Count":1}}', [{"id": "1"}]),
        (b'{"answer":{"value":[],"Count":0}}', []),
        (b'\xef\xbb\xbf{"answer":[1]}\r\n', [1]),
        (b'WARNING: a profile speaks\r\n{"answer":[1]}\r\n\r\n', [1]),
        (b'{"noise":1}\r\n{"answer":[1]}\r\nmore noise \xff\xfe\r\n', [1]),
        (
            b'{"answer":["\\u0430\\u0433 \\u4ee3 \\ud83e\\udd8a \\u0027 \\""]}',
            ["\u0430\u0433 代 🦊 ' \""],
        ),
        ('{"answer":["агент 代理 🦊"]}'.encode(), ["агент 代理 🦊"]),
    ],
)
def test_answers(output: bytes, answer: list[Any]) -> None:
    assert parse(output) == answer


def test_an_error_of_the_script() -> None:
    told = {
        "error": "Нет разрешения.\r\n",
        "kind": "Unspecified,Microsoft.HyperV.PowerShell.Commands.GetVM",
        "category": "PermissionDenied",
    }
    with pytest.raises(PowerShellError) as caught:
        parse(json.dumps(told).encode())
    assert caught.value.problem == "Нет разрешения."
    assert caught.value.category == "PermissionDenied"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("output", "errors", "problem"),
    [
        (b"", b"", "answered nothing"),
        (b"", b"The term is not recognized\r\nat line 1", "The term is not recognized"),
        (b"[1]\r\n7\r\nnull\r\n", b"", "answered nothing"),
        (b'{"answer":[', b"", "answered nothing"),
    ],
)
def test_no_answer(output: bytes, errors: bytes, problem: str) -> None:
    with pytest.raises(PowerShellError, match=problem):
        parse(output, errors)


@pytest.mark.skipif(sys.platform == "win32", reason="there is PowerShell on Windows")
def test_where_there_is_no_powershell() -> None:
    with pytest.raises(PowerShellError, match="cannot be started"):
        ask("1")


def test_powershell_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = [sys.executable, "-c", "import sys; sys.stdin.read(); import time; time.sleep(60)"]
    monkeypatch.setattr(powershell, "command", lambda script: endless)
    with pytest.raises(TimeoutError, match="PowerShell has not answered within 0"):
        ask("1", timeout=0.3)


def test_what_it_has_started_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = "import sys; print('begun', flush=True); sys.stdin.read()"
    outer = f"""if True:
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", {inner!r}], stdin=subprocess.PIPE)
        print('{{"answer":[1]}}', flush=True)
        time.sleep(60 if "endless" in sys.argv else 0)
        import os
        os._exit(0)
    """
    monkeypatch.setattr(powershell, "command", lambda script: [sys.executable, "-c", outer, script])
    assert ask("quick") == [1]
    with pytest.raises(TimeoutError):
        ask("endless", timeout=0.5)


# --- The real one --------------------------------------------------------------------------------

real = pytest.mark.skipif(
    sys.platform != "win32" or guard.under_wine(),
    reason="needs PowerShell: run on Windows (Wine's is a stub that answers nothing)",
)


@real
@pytest.mark.parametrize("text", [EVIL, "", "\u2018\u2019"])
def test_real_data_comes_back_as_it_was(text: str) -> None:
    assert ask('"$env:HVRPC_TEXT"', data={"HVRPC_TEXT": text}) == [text]


@real
@pytest.mark.parametrize(("script", "answer"), [("@()", []), ("1", [1]), ("1, 2", [1, 2])])
def test_real_answers(script: str, answer: list[int]) -> None:
    assert ask(script) == answer


@real
def test_a_real_error() -> None:
    with pytest.raises(PowerShellError, match="no such thing"):
        ask("throw 'no such thing'")


@pytest.mark.skipif(
    not guard.under_wine(), reason="is about Wine's stub: python3 run.py rigs windows"
)
def test_wines_stub_answers_nothing() -> None:
    with pytest.raises(PowerShellError):
        ask("1")
