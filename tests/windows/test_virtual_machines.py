"""Which VMs there are, from recorded output, and which one a name means."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from uuid import UUID

import pytest

from hvrpc import HvrpcError, PrivilegeError, UnknownName, UnsupportedError
from hvrpc.windows import powershell, privileges, virtual_machines
from hvrpc.windows.powershell import PowerShellError, parse
from hvrpc.windows.privileges import Privileges
from hvrpc.windows.virtual_machines import (
    COMPUTE_SYSTEMS,
    Directory,
    Kind,
    Listing,
    VirtualMachine,
    choose,
    id_of_container,
    merged,
    read_classic,
    read_compute_systems,
    running,
)

from .fake_registry import FakeRegistry

WEB = UUID("2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11")
DB = UUID("8d3f5b9e-0c44-4c0f-9b0e-6f8f5a1c2d3e")
WSL = UUID("eed44daf-4f7e-4cf5-82fd-f9c8ebf8db82")

HOW = {"address": "hvsock://web/5000", "operation": "connect to"}


def vm(name: str | None, number: UUID = WEB, kind: Kind = Kind.CLASSIC) -> VirtualMachine:
    return VirtualMachine(number, name, "Running", kind, "test")


# --- Get-VM --------------------------------------------------------------------------------------


def test_what_get_vm_answers() -> None:
    """Two VMs, as Windows PowerShell 5.1 writes them in ASCII."""
    output = (
        rb'{"answer":[{"name":"web","state":"Running","id":"2E5C1F0A-7D0B-4B6E-9A67-3B8F1F6F9C11",'
        rb'"by":"Get-VM"},{"name":"db \u0027old\u0027","state":"Off",'
        rb'"id":"8d3f5b9e-0c44-4c0f-9b0e-6f8f5a1c2d3e","by":"Get-VM"}]}' + b"\r\n"
    )
    assert read_classic(parse(output)) == [
        VirtualMachine(WEB, "web", "Running", Kind.CLASSIC, "Get-VM"),
        VirtualMachine(DB, "db 'old'", "Off", Kind.CLASSIC, "Get-VM"),
    ]


@pytest.mark.parametrize(
    "name", ["it's", 'say "hi"', "Büro PC", "агент", "代理サーバー", "🦊 fox", "a\\b;c|d&e$f`g"]
)
def test_names_of_all_sorts(name: str) -> None:
    row = {"id": str(WEB), "name": name, "state": "Running", "by": "Get-VM"}
    for output in (json.dumps({"answer": row}), json.dumps({"answer": [row]}, ensure_ascii=False)):
        (found,) = read_classic(parse(output.encode()))
        assert found.name == name


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (2, "Running"),
        (3, "Off"),
        (32769, "Saved"),
        (9, "Paused"),
        (77, "state 77"),
        (None, "unknown"),
    ],
)
def test_states_of_wmi_in_the_words_of_get_vm(state: int | None, told: str) -> None:
    (found,) = read_classic([{"id": str(WEB), "name": "web", "state": state, "by": "WMI"}])
    assert (found.state, found.found_by) == (told, "WMI")


def test_what_has_no_id_is_no_vm() -> None:
    rows = [{}, {"id": None}, {"id": "nonsense", "name": "x"}, "text", 7, None]
    assert read_classic(rows) == []


def answering(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    def ask(script: str, *, timeout: float) -> object:
        assert "Get-VM" in script
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(powershell, "ask", ask)


def privileged(monkeypatch: pytest.MonkeyPatch, *, is_member: bool) -> None:
    monkeypatch.setattr(privileges, "current", lambda: Privileges(False, is_member))


def test_a_host_without_vms(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, [])
    privileged(monkeypatch, is_member=True)
    assert virtual_machines.classic() == []


def test_wmi_shows_nothing_to_those_who_may_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, [])
    privileged(monkeypatch, is_member=False)
    with pytest.raises(PrivilegeError) as caught:
        virtual_machines.classic()
    assert "S-1-5-32-578" in caught.value.command
    assert "logging off" in caught.value.remedy


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            PowerShellError(
                "You do not have the required permission to complete this task. Contact the"
                " administrator of the authorization policy for the computer 'PC'.",
                "AccessDenied,Microsoft.HyperV.PowerShell.Commands.GetVM",
            ),
            PrivilegeError,
        ),
        (
            PowerShellError("Доступ запрещен", "HRESULT 0x80041003", "PermissionDenied"),
            PrivilegeError,
        ),
        (
            PowerShellError(
                "Invalid namespace",
                "HRESULT 0x8004100e,Microsoft.Management.Infrastructure.CimCmdlets.GetCimInstance",
            ),
            UnsupportedError,
        ),
        (PowerShellError("it has answered nothing"), UnsupportedError),
    ],
)
def test_what_hyper_v_refuses(
    monkeypatch: pytest.MonkeyPatch, error: PowerShellError, kind: type[HvrpcError]
) -> None:
    answering(monkeypatch, error)
    with pytest.raises(kind):
        virtual_machines.classic()


# --- The Host Compute Service --------------------------------------------------------------------

HCSDIAG = """\
EED44DAF-4F7E-4CF5-82FD-F9C8EBF8DB82
    VM,                         Running, EED44DAF-4F7E-4CF5-82FD-F9C8EBF8DB82, WSL

2E5C1F0A-7D0B-4B6E-9A67-3B8F1F6F9C11
    VM,                         Running, 2E5C1F0A-7D0B-4B6E-9A67-3B8F1F6F9C11, VMMS

cb8a3ff1c0c7d2a1
    Windows Server Container,   Running, 11111111-2222-3333-4444-555555555555, docker

8D3F5B9E-0C44-4C0F-9B0E-6F8F5A1C2D3E
    VM,                         SavedAsTemplate, 8D3F5B9E-0C44-4C0F-9B0E-6F8F5A1C2D3E, CmService

AAAAAAAA-2222-3333-4444-555555555555
    VM,                         Running, AAAAAAAA-2222-3333-4444-555555555555, wslc-cli-иван, jr
"""


def test_what_hcsdiag_prints() -> None:
    found = [(vm.name, vm.kind, vm.state) for vm in read_compute_systems(HCSDIAG)]
    assert found == [
        ("WSL", Kind.WSL, "Running"),
        (None, Kind.CLASSIC, "Running"),
        ("cb8a3ff1c0c7d2a1", Kind.CONTAINER, "Running"),
        ("CmService", Kind.OTHER, "SavedAsTemplate"),
        ("wslc-cli-иван, jr", Kind.WSL, "Running"),
    ]
    assert read_compute_systems(HCSDIAG)[0].id == WSL
    assert (
        read_compute_systems("\ufeff" + HCSDIAG.replace("\n", "\r\n"))[2].name == "cb8a3ff1c0c7d2a1"
    )


@pytest.mark.parametrize(
    "output", ["", "\n\n", "Access is denied.\n", "x\n    a, b\n    a, b, c, d\n"]
)
def test_hcsdiag_with_nothing_to_tell(output: str) -> None:
    assert read_compute_systems(output) == []


def test_running_systems_in_the_registry() -> None:
    registry = FakeRegistry({rf"{COMPUTE_SYSTEMS}\{WSL}": {}, rf"{COMPUTE_SYSTEMS}\cb8a3f": {}})
    container = UUID("6022ce44-f28b-5c97-b32d-ae3ba7e98bb8")
    assert running(registry) == [
        VirtualMachine(WSL, None, "Running", Kind.OTHER, "registry"),
        VirtualMachine(container, "cb8a3f", "Running", Kind.CONTAINER, "registry"),
    ]
    assert running(FakeRegistry()) == []
    assert id_of_container("CB8A3F") == container


@pytest.mark.skipif(sys.platform == "win32", reason="Windows may have it")
def test_where_there_is_no_hcsdiag() -> None:
    with pytest.raises(UnsupportedError, match="no hcsdiag"):
        virtual_machines.compute_systems()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows may be a host")
def test_elsewhere_vms_are_not_known() -> None:
    with pytest.raises(UnsupportedError, match="Windows host only"):
        virtual_machines.list_all()


def refusing() -> list[VirtualMachine]:
    raise PrivilegeError("list VMs", problem="you may not", remedy="ask")


def test_the_first_source_has_the_word_and_a_refusal_is_kept() -> None:
    sources: list[Callable[[], list[VirtualMachine]]] = [
        lambda: [vm("web")],
        lambda: [vm(None), vm("db", DB)],
    ]
    all_that_runs = [vm(None, WSL, Kind.OTHER), vm(None, WEB, Kind.OTHER)]
    assert merged(sources, lambda: all_that_runs) == Listing((vm("db", DB), vm("web")))
    listing = merged([*sources, refusing], lambda: all_that_runs)
    assert listing.machines == (vm("db", DB), vm("web"), vm(None, WSL, Kind.OTHER))
    assert [type(problem) for problem in listing.problems] == [PrivilegeError]


def test_only_classic_vms_reach_a_listener_on_a_wildcard() -> None:
    assert [kind for kind in Kind if kind.routes_wildcards] == [Kind.CLASSIC]


# --- What a name means ---------------------------------------------------------------------------


def test_the_exact_name_goes_before_one_in_another_case() -> None:
    listing = Listing((vm("WEB", DB), vm("web", WEB)))
    assert choose("web", listing, **HOW).id == WEB
    assert choose("WEB", listing, **HOW).id == DB


def test_case_does_not_matter_otherwise() -> None:
    assert choose("wEB", Listing((vm("web"),)), **HOW).id == WEB
    assert choose("STRASSE", Listing((vm("Straße"),)), **HOW).id == WEB


def test_a_name_that_several_vms_have() -> None:
    """Hyper-V allows it."""
    with pytest.raises(UnknownName, match="several VMs are called 'web'") as caught:
        choose("web", Listing((vm("web"), vm("web", DB))), **HOW)
    assert caught.value.candidates == (
        f"web ({WEB}, classic, Running)",
        f"web ({DB}, classic, Running)",
    )
    assert caught.value.address == "hvsock://web/5000"


def test_a_name_that_no_vm_has() -> None:
    with pytest.raises(UnknownName, match="no VM is called 'wbe'") as caught:
        choose("wbe", Listing((vm("web"),)), **HOW)
    assert "web" in caught.value.candidates[0]


def test_a_name_that_may_be_one_of_those_that_cannot_be_seen() -> None:
    problem = PrivilegeError("list VMs", problem="you may not look", remedy="ask")
    with pytest.raises(UnknownName, match="not all could be seen: you may not look"):
        choose("web", Listing((vm(None),), (problem,)), **HOW)


@pytest.mark.parametrize(
    "problem",
    [
        PrivilegeError("list VMs", problem="you may not", remedy="run", command="this"),
        UnsupportedError("", operation="list VMs", problem="there is no Hyper-V", remedy="get it"),
    ],
)
def test_when_nobody_tells_the_reason_is_the_error(problem: HvrpcError) -> None:
    with pytest.raises(type(problem), match="connect to hvsock://web/5000") as caught:
        choose("web", Listing((), (problem,)), **HOW)
    assert vars(caught.value).get("command") == vars(problem).get("command")


# --- The directory -------------------------------------------------------------------------------


class Host:
    """A host that is asked, with a clock that only the test moves."""

    def __init__(self, *machines: VirtualMachine) -> None:
        self.machines = machines
        self.asked = 0
        self.now = 100.0
        self.timeouts: list[float] = []
        self.directory = Directory(self.ask, lifetime=5, clock=lambda: self.now)

    def ask(self, timeout: float) -> Listing:
        self.asked += 1
        self.timeouts.append(timeout)
        return Listing(self.machines)

    def find(self, name: str, timeout: float = 10) -> UUID:
        return self.directory.find(name, **HOW, timeout=timeout).id


def test_an_answer_is_used_again_for_a_short_while() -> None:
    host = Host(vm("web"), vm("db", DB))
    assert [host.find("web"), host.find("db"), host.find("web")] == [WEB, DB, WEB]
    assert host.asked == 1
    host.now += 5.1
    host.machines = (vm("web", DB),)
    assert host.find("web") == DB
    assert host.asked == 2


def test_a_name_that_is_missing_is_asked_for_at_once() -> None:
    """A VM that was made a moment ago is found."""
    host = Host(vm("web"))
    host.find("web")
    host.now += 0.1
    host.machines = (vm("web"), vm("db", DB))
    assert host.find("db") == DB
    assert host.asked == 2


def test_a_name_that_does_not_exist_is_asked_for_once_each_time() -> None:
    host = Host(vm("web"))
    with pytest.raises(UnknownName):
        host.find("nobody")
    assert host.asked == 1
    host.now += 0.1
    with pytest.raises(UnknownName):
        host.find("nobody")
    assert host.asked == 2


def test_the_callers_timeout_is_the_limit() -> None:
    host = Host(vm("web"))
    host.find("web", timeout=3)
    assert host.timeouts == [3]


def test_many_who_look_at_once_ask_once() -> None:
    asking, go_on = threading.Event(), threading.Event()
    host = Host(vm("web"))

    def ask(timeout: float) -> Listing:
        asking.set()
        assert go_on.wait(30)
        return host.ask(timeout)

    directory = Directory(ask)
    found: list[UUID] = []
    threads = [
        threading.Thread(target=lambda: found.append(directory.find("web", **HOW, timeout=30).id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert asking.wait(30)
    go_on.set()
    for thread in threads:
        thread.join()
    assert found == [WEB] * 8
    assert host.asked == 1


def test_who_waits_for_anothers_question_waits_no_longer_than_allowed() -> None:
    asking, go_on = threading.Event(), threading.Event()

    def ask(timeout: float) -> Listing:
        asking.set()
        assert go_on.wait(30)
        return Listing((vm("web"),))

    directory = Directory(ask)
    first = threading.Thread(target=lambda: directory.find("web", **HOW, timeout=30))
    first.start()
    try:
        assert asking.wait(30)
        with pytest.raises(TimeoutError):
            directory.find("web", **HOW, timeout=0.01)
    finally:
        go_on.set()
        first.join()


def test_a_question_that_failed_is_asked_again() -> None:
    answers: list[Listing | Exception] = [TimeoutError("slow"), Listing((vm("web"),))]

    def ask(timeout: float) -> Listing:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    directory = Directory(ask)
    with pytest.raises(TimeoutError):
        directory.find("web", **HOW, timeout=5)
    assert directory.find("web", **HOW, timeout=5).id == WEB
