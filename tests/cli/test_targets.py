"""What is typed is looked at before anything is done."""

from __future__ import annotations

import pytest

from hvrpc.cli.errors import ExitCode

from .runs import run


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e300", "-1", "soon"])
@pytest.mark.parametrize(
    "words",
    [
        ["call", "local://loopback/1", "add", "--timeout"],
        ["ping", "local://loopback/1", "--interval"],
        ["bench", "local://loopback/1", "--duration"],
        ["serve", "module:Object", "--listen", "local://loopback/1", "--grace"],
        ["tunnel", "local://loopback/1", "local://loopback/2", "--stats"],
        ["doctor", "local://loopback/1", "--timeout"],
    ],
    ids=lambda words: words[0],
)
def test_a_time_is_a_number_of_seconds_that_can_be_waited_for(
    words: list[str], seconds: str
) -> None:
    done = run(*words, seconds)
    assert done.exit_code == ExitCode.USAGE
    assert "Invalid value for" in done.stderr
    assert words[-1] in done.stderr
