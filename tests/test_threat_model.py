"""The threat model's claims: each has a test, and these are the ones that stand nowhere else."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import hvrpc.msgpack
from hvrpc import AccessDenied, ConnectError, Peer, sockets
from hvrpc.msgpack import Context
from hvrpc.testing import Fabric, ready

from .certificates import Certificates
from .scripts import ROOT
from .sockets.background import WAIT

PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_test_that_the_page_names_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name in found


def test_every_claim_names_a_test() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("| claim | test |")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 20
    assert not [row for row in rows if "::" not in row]


# --- Programs in a VM ------------------------------------------------------------------------------


class Who:
    """Tells a caller what is known of it."""

    def who(self, context: Context) -> list[str | None]:
        peer = context.peer
        assert peer is not None
        return [str(peer.vm_id), None if peer.certificate is None else str(peer.certificate)]


def listen_in_vain() -> None:
    with sockets.listen("hvsock://any/5000") as listener:
        ready()
        for stream, _ in listener:
            stream.abort()


def test_a_guest_does_not_reach_another_guest(
    hvrpc_fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    hvrpc_fabric.guest("db", target=listen_in_vain, ready="told")
    sockets.connect("hvsock://db/5000", timeout=WAIT).abort()  # the host does
    monkeypatch.setenv("HVRPC_FABRIC_VM", "web")
    with pytest.raises(ConnectError, match="only"):
        sockets.connect("hvsock://db/5000", timeout=WAIT)


def ask_the_host(folder: str | None, name: str | None) -> None:
    """A program in a VM, which can read the key of a certificate, or of none."""
    tls = None if folder is None else Certificates(Path(folder)).tls(name, names="host")
    try:
        with hvrpc.msgpack.connect("hvsock://parent/5000", tls=tls, timeout=WAIT) as host:
            answer = host.call("who")
    except AccessDenied:
        answer = "refused"
    print(json.dumps(answer), flush=True)


def answers(fabric: Fabric, *programs: tuple[str | None, str | None]) -> list[Any]:
    """What programs of one VM are answered by the host."""
    found = []
    for program in programs:
        guest = fabric.guest("web", target=ask_the_host, args=program, ready="started")
        guest.wait()
        found.append(json.loads(guest.output))
    return found


def test_two_programs_of_a_vm_look_the_same(hvrpc_fabric: Fabric) -> None:
    server = hvrpc.msgpack.Server(Who())
    server.listen("hvsock://any/5000", allow="web")
    with server:
        one, other = answers(hvrpc_fabric, (None, None), (None, None))
    assert one == other == [str(hvrpc_fabric.vm_id("web")), None]
    # The process, its user and the like are known of other families only.
    assert str(Peer("hyperv", vm_id=hvrpc_fabric.vm_id("web"))).count("/") == 1


def test_tls_tells_two_programs_of_a_vm_apart(
    hvrpc_fabric: Fabric, certificates: Certificates
) -> None:
    """The one that can read the key is let in; the others have the same VM id, and are not."""
    server = hvrpc.msgpack.Server(Who())
    tls = certificates.tls("host", names=["web"])
    server.listen("hvsock://any/5000", allow="web", tls=tls)
    folder = str(certificates.folder)
    with server:
        found = answers(hvrpc_fabric, (folder, "web"), (folder, None), (folder, "stranger"))
    assert found == [[str(hvrpc_fabric.vm_id("web")), "web"], "refused", "refused"]
