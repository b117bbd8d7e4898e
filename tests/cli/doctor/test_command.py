"""`hvrpc doctor` as a whole: lines for people, JSON and an exit code for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hvrpc.msgpack
from hvrpc import sockets
from hvrpc.cli.commands import doctor
from hvrpc.cli.doctor.machine import Machine
from hvrpc.cli.errors import ExitCode

from ...certificates import Certificates
from ..runs import run
from .machines import NO_RIGHTS, linux, machine, windows


def on(monkeypatch: pytest.MonkeyPatch, subject: Machine) -> None:
    monkeypatch.setattr(doctor, "look", lambda: subject)


def test_a_sound_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, linux())
    result = run("doctor")
    assert result.exit_code == 0
    assert "     ok  VM sockets: there is a way to the host" in result.stdout
    assert result.stdout.endswith("\nno problem\n")


def test_a_machine_with_problems_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, windows(privileges=NO_RIGHTS))
    result = run("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("problem  privileges: "))
    assert lines[at + 1].startswith("         -> as administrator, then log off")
    assert lines[at + 2].startswith("             Add-LocalGroupMember -SID S-1-5-32-578 ")
    assert lines[-1] == "1 problem"


def test_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, linux(modules=frozenset()))
    result = run("doctor", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    (problem,) = (each for each in told["findings"] if each["status"] == "problem")
    assert problem["about"] == "VM sockets"
    assert told["machine"]["linux"]["hypervisor"] == "Hyper-V"
    assert told["selftest"] is None
    assert told["address"] is None


def test_a_report_holds_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on(monkeypatch, windows())
    file = tmp_path / "агент.json"
    result = run("doctor", "--report", file)
    assert (result.exit_code, f"the report is in {file}" in result.stderr) == (0, True)
    told = json.loads(file.read_text(encoding="utf-8"))
    assert told["findings"] == json.loads(run("doctor", "--json").stdout)["findings"]
    (vm,) = told["machine"]["windows"]["vms"]["machines"]
    assert (vm["name"], vm["kind"]) == ("web", "classic")


def test_an_address_that_does_not_answer_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine())
    result = run("doctor", "local://loopback/4998")
    assert result.exit_code == 1
    assert "problem  answer: local://loopback/4998: nobody listens" in result.stdout


def test_an_address_for_listening_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, windows())
    monkeypatch.setattr(sockets, "connect", None)
    result = run("doctor", "hvsock://any/5000")
    assert "is for listening only" in result.stdout
    assert "the service of hvsock://any/5000 is not registered" in result.stdout


def test_nonsense_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine())
    assert run("doctor", "nonsense").exit_code == 2
    assert run("doctor", "--listen", "nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("subject", "address"),
    [
        (windows(), "hvsock://loopback/0"),
        (windows(hyperv_socket=10047), "local://loopback/0"),
        (linux(), "local://loopback/0"),
    ],
)
def test_where_both_ends_of_a_selftest_are(subject: Machine, address: str) -> None:
    """On Linux never on AF_VSOCK by itself: that would reach the real hypervisor."""
    assert doctor.own_address(subject) == address


@pytest.mark.parametrize("words", [[], ["local://loopback/1", "--selftest"]])
def test_what_is_asked_of_a_server_needs_one(words: list[str]) -> None:
    result = run("doctor", *words, "--expect-peer", "web")
    assert result.exit_code == ExitCode.USAGE
    assert "are for a server at ADDRESS" in result.stderr


def test_tls_options_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    on(monkeypatch, linux())
    server = hvrpc.msgpack.Server()
    address = server.listen("local://loopback/0", tls=certificates.tls("host", ca=None))
    server.start()
    try:
        result = run("doctor", address, "--tls-ca", certificates.folder / "ca.pem")
    finally:
        server.close(grace=1)
    assert "speaks msgpack-RPC over TLS" in result.stdout
    assert result.exit_code == 0
