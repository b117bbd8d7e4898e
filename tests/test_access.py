"""Who called, who may, and what becomes of those who may not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from hvrpc import Access, Peer, sockets
from hvrpc.access import RateLimitedLog
from hvrpc.addresses import HV_GUID_LOOPBACK, HV_GUID_PARENT, service_id_of_port, template_id

from .sockets.background import WAIT, Background
from .sockets.places import MISSING, PLACES, QUICK, Place

VM = UUID("12345678-9abc-def0-1234-56789abcdef0")
OTHER = UUID("99999999-9abc-def0-1234-56789abcdef0")
SERVICE = UUID("999e53d4-3d5c-4c3e-8779-bed06ec056e1")

# --- Peers ---------------------------------------------------------------------------------------

GUEST = Peer("hyperv", vm_id=VM, service=service_id_of_port(5000), port=5000)
HOST = Peer("hyperv", vm_id=HV_GUID_PARENT, service=SERVICE)
SELF = Peer("hyperv", vm_id=HV_GUID_LOOPBACK, service=SERVICE)
VSOCK_GUEST = Peer("vsock", cid=3, service=template_id(5000), port=5000)
VSOCK_HOST = Peer(
    "vsock", vm_id=HV_GUID_PARENT, cid=2, service=template_id(0x80000001), port=0x80000001
)
VSOCK_SELF = Peer("vsock", vm_id=HV_GUID_LOOPBACK, cid=1, port=5000)
FABRIC_GUEST = Peer("local", vm_id=VM, vm_name="web", port=7, pid=10, uid=1000)
HYBRID = Peer("hybrid", host="/run/v.sock", port=52, pid=10, uid=1000)
UNIX = Peer("unix", host="/run/x", pid=10, uid=1000)
TCP = Peer("tcp", host="127.0.0.1", port=5000)

TEXTS = [
    (GUEST, f"hvsock:{VM}/5000"),
    (HOST, f"hvsock:{HV_GUID_PARENT}/{SERVICE}"),
    (Peer("hyperv", vm_id=VM), f"hvsock:{VM}/"),
    (VSOCK_GUEST, "vsock:3/5000"),
    (VSOCK_HOST, "vsock:2/2147483649"),
    (Peer("local", vm_id=VM, service=service_id_of_port(7)), f"local:{VM}/7"),
    (HYBRID, "hybrid:/run/v.sock?port=52"),
    (UNIX, "unix:/run/x?pid=10"),
    (Peer("unix"), "unix:"),
    (TCP, "tcp:127.0.0.1:5000"),
    (Peer("tcp", host="::1", port=5000), "tcp:[::1]:5000"),
]


@pytest.mark.parametrize(("peer", "text"), TEXTS)
def test_text_of_a_peer(peer: Peer, text: str) -> None:
    assert str(peer) == text


@pytest.mark.parametrize(
    ("peer", "is_host", "is_loopback"),
    [
        (GUEST, False, False),
        (HOST, True, False),
        (SELF, False, True),
        (VSOCK_GUEST, False, False),
        (VSOCK_HOST, True, False),
        (VSOCK_SELF, False, True),
        (HYBRID, False, False),
        (UNIX, False, False),
        (TCP, False, False),
    ],
)
def test_whether_the_host_calls_or_this_machine(
    peer: Peer, is_host: bool, is_loopback: bool
) -> None:
    assert peer.is_host is is_host
    assert peer.is_loopback is is_loopback


# --- Rules ---------------------------------------------------------------------------------------

EVERYBODY = [GUEST, HOST, SELF, VSOCK_GUEST, VSOCK_HOST, VSOCK_SELF, FABRIC_GUEST]
EVERYBODY += [HYBRID, UNIX, TCP]

RULES: list[tuple[Any, list[Peer]]] = [
    (VM, [GUEST, FABRIC_GUEST]),
    (str(VM), [GUEST, FABRIC_GUEST]),
    (str(VM).upper(), [GUEST, FABRIC_GUEST]),
    (f"{{{VM}}}", [GUEST, FABRIC_GUEST]),
    (OTHER, []),
    ("web", [FABRIC_GUEST]),
    ("WEB", []),
    ("parent", [HOST, VSOCK_HOST]),
    ("Parent", [HOST, VSOCK_HOST]),
    ("loopback", [SELF, VSOCK_SELF]),
    ("children", [GUEST, VSOCK_GUEST, FABRIC_GUEST, HYBRID]),
    ("any", EVERYBODY),
    (3, [VSOCK_GUEST]),
    ("cid:3", [VSOCK_GUEST]),
    (0, []),
    ("uid:1000", [FABRIC_GUEST, HYBRID, UNIX]),
    ("uid:0", []),
    (lambda peer: peer.port == 5000, [GUEST, VSOCK_GUEST, VSOCK_SELF, TCP]),
    (lambda peer: None, []),
    ([], []),
    ([OTHER, "web", 3], [VSOCK_GUEST, FABRIC_GUEST]),
    ((rule for rule in ["parent", "uid:1000"]), [HOST, VSOCK_HOST, FABRIC_GUEST, HYBRID, UNIX]),
    ({VM}, [GUEST, FABRIC_GUEST]),
]


def name_of(rule: object) -> str:
    """The rule as text; without the addresses of objects, for a test has one name in all runs."""
    text = str(rule)
    return type(rule).__name__ if text.startswith("<") else text


@pytest.mark.parametrize(
    ("rule", "admitted"), RULES, ids=[f"{n}-{name_of(rule)}" for n, (rule, _) in enumerate(RULES)]
)
def test_whom_a_rule_admits(rule: Any, admitted: list[Peer]) -> None:
    access = Access(rule)
    assert [peer for peer in EVERYBODY if access.admits(peer)] == admitted


@pytest.mark.parametrize("rule", [None, True, 1.5, b"parent", [b"parent"], [["parent"]], [None]])
def test_what_is_no_rule(rule: Any) -> None:
    with pytest.raises(TypeError, match="a rule is"):
        Access(rule)


@pytest.mark.parametrize("rule", ["broadcast", "silohost"])
def test_places_that_no_call_comes_from(rule: str) -> None:
    with pytest.raises(ValueError, match="not a place a call can come from"):
        Access(rule)


def test_what_users_may_pass() -> None:
    access = Access("parent")
    assert Access.of(access) is access
    assert Access.of(None) is None
    made = Access.of(["parent", 3])
    assert made is not None
    assert made.admits(HOST)


def test_text_of_rules() -> None:
    def only_on_sundays(peer: Peer) -> bool:
        return False

    assert (
        str(Access([VM, "parent", 3, only_on_sundays])) == f"{VM}, parent, CID 3, only_on_sundays"
    )
    assert str(Access([])) == "nobody"


def fails(peer: Peer) -> bool:
    raise RuntimeError("the rule's own fault")


def test_a_rule_that_raises_admits_nobody_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert not Access([fails, "any"]).admits(GUEST)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"failed on hvsock:{VM}/5000" in record.getMessage()
    assert record.exc_info
    assert "the rule's own fault" in caplog.text


def test_whom_an_earlier_rule_admits_is_not_harmed_by_one_that_raises() -> None:
    assert Access(["any", fails]).admits(GUEST)


def test_a_rule_that_raises_cannot_fill_the_disk(caplog: pytest.LogCaptureFixture) -> None:
    access = Access(fails)
    for _ in range(100):
        assert not access.admits(GUEST)
    assert 0 < len(caplog.records) < 10


# --- The log -------------------------------------------------------------------------------------


def test_refusals_are_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    log = RateLimitedLog(
        logging.getLogger("hvrpc.test"), burst=2, period=10.0, clock=lambda: now[0]
    )

    def messages() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    for number in range(5):
        log.warning("refused %d", number)
    assert messages() == ["refused 0", "refused 1"]
    now[0] += 9.9
    log.warning("still too early")
    assert messages() == []
    now[0] += 0.1
    log.warning("refused %s", "again")
    assert messages() == ["4 similar messages were left out", "refused again"]
    now[0] += 10
    log.warning("later")
    assert messages() == ["later"]


def test_a_refusal_names_who_where_and_what_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    Access(["parent", 3]).log_refusal(GUEST, "hvsock://any/5000")
    (record,) = caplog.records
    assert record.name == "hvrpc.access"
    assert (
        record.getMessage()
        == f"hvsock://any/5000: refused hvsock:{VM}/5000, allowed are: parent, CID 3"
    )


# --- On real sockets -----------------------------------------------------------------------------


@pytest.fixture(params=[name for name in ("unix", "tcp") if name not in MISSING])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with PLACES[request.param]() as place:
        yield place


def test_a_refused_caller_is_cut_off_unread_and_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller sees an end; accept() goes on waiting for somebody who may."""
    callers = iter([False, True])

    def only_the_second(peer: Peer) -> bool:
        assert peer.family == place.family
        return next(callers)

    listening = sockets.listen(place.fresh_url(), allow=only_the_second, options=QUICK)
    with listening as listener, place.connect(listener) as refused:
        refused.sendall(b"let me in")
        accepting = Background(lambda: listener.accept(timeout=WAIT))
        assert refused.recv(100) == b""
        with place.connect(listener) as admitted:
            admitted.sendall(b"hello")
            server, _ = accepting.result()
            with server:
                assert server.recv_exactly(5) == b"hello"
                admitted.close()
        (record,) = caplog.records
        assert f"{listener.address}: refused {place.family}:" in record.getMessage()
        assert "only_the_second" in record.getMessage()


def test_an_empty_list_admits_nobody(place: Place) -> None:
    with sockets.listen(place.fresh_url(), allow=[], options=QUICK) as listener:
        accepting = Background(lambda: listener.accept(timeout=WAIT))
        with place.connect(listener) as refused:
            assert refused.recv(1) == b""
        accepting.wait_until_blocked_in("accept")
        listener.close()
        assert "the listener is closed" in str(accepting.error())


def test_a_wrong_rule_is_found_before_anything_is_opened(place: Place) -> None:
    wrong: Any = 1.5
    opened: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sockets, "_check_available", lambda *arguments: opened.append(arguments))
        with pytest.raises(TypeError, match="a rule is"):
            sockets.listen(place.fresh_url(), allow=wrong)
    assert opened == []
