"""Services of a host in its registry: what is there, what is written, and what never is.

Everything runs on a registry in memory, and again on Windows' own where there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from hvrpc import Address, PrivilegeError, RegistrationError, UnknownName, UnsupportedError, sockets
from hvrpc.addresses import HV_GUID_LOOPBACK, HvsockAddress
from hvrpc.windows import registration
from hvrpc.windows.registration import KEY, OLDER_KEY, Origin, register, remove, reset, services
from hvrpc.windows.registry import Store, open_registry

from .fake_registry import FakeRegistry

PORT_5000 = "00001388-facb-11e6-bd58-64006a7986d3"
GUID = "6e1d2c3b-4a59-4687-9706-f5e4d3c2b1a0"
POWERSHELL_DIRECT = "999E53D4-3D5C-4C3E-8779-BED06EC056E1"
IN_BOX = {rf"{KEY}\{POWERSHELL_DIRECT}": {"ElementName": "VM Session Service 1"}}


@pytest.fixture
def registry() -> FakeRegistry:
    """A host with what Windows itself has registered."""
    return FakeRegistry({path: dict(values) for path, values in IN_BOX.items()})


def written(registry: FakeRegistry) -> dict[str, dict[str, object]]:
    return {path: values for path, values in registry.keys.items() if path not in IN_BOX}


# --- Registering ---------------------------------------------------------------------------------


def test_a_port_becomes_a_key_of_the_zero_padded_template(registry: FakeRegistry) -> None:
    change = register("agent", port=5000, store=registry)
    assert written(registry) == {
        rf"{KEY}\{PORT_5000}": {"ElementName": "agent", "RegisteredBy": "hvrpc"}
    }
    assert not change.was_there
    assert change.service.port == 5000
    assert change.service.address == "hvsock://any/5000"


def test_a_guid_becomes_a_key(registry: FakeRegistry) -> None:
    change = register("agent", guid=f"{{{GUID.upper()}}}", store=registry)
    assert [*written(registry)] == [rf"{KEY}\{GUID}"]
    assert change.service.port is None
    assert change.service.address == f"hvsock://any/{GUID}"


def test_what_exists_is_no_error_and_is_left_as_it_is(registry: FakeRegistry) -> None:
    register("agent", port=5000, store=registry)
    before, registry.read_only = dict(registry.keys), True
    again = register("agent", port=5000, store=registry)
    assert again.was_there
    assert again.service.port == 5000
    assert register("AGENT", store=registry).was_there
    assert registry.keys == before


@pytest.mark.parametrize("key", [PORT_5000.upper(), f"{{{PORT_5000}}}"])
def test_what_another_program_wrote_in_its_own_way_exists_too(
    registry: FakeRegistry, key: str
) -> None:
    registry.keys[rf"{KEY}\{key}"] = {"elementname": "agent"}
    change = register("agent", port=5000, store=registry)
    assert change.was_there
    assert change.service.origin is Origin.OTHER
    assert not registry.changes


def test_without_a_number_the_name_leads_to_the_same_port_everywhere() -> None:
    ports = {register("agent", store=FakeRegistry()).service.port for _ in range(2)}
    assert ports == {register("AGENT", store=FakeRegistry()).service.port}
    (port,) = ports
    assert port is not None
    assert registration.FIRST_CHOSEN_PORT <= port <= registration.LAST_CHOSEN_PORT
    assert register("other", store=FakeRegistry()).service.port != port


def test_a_port_that_is_taken_is_not_chosen(registry: FakeRegistry) -> None:
    first = register("agent", store=FakeRegistry()).service.port
    assert first is not None
    register("somebody else", port=first, store=registry)
    second = register("agent", store=registry).service.port
    assert second == first + 1
    assert register("agent", store=registry).service.port == second


def test_a_dry_run_says_the_same_and_changes_nothing(registry: FakeRegistry) -> None:
    would = register("agent", dry_run=True, store=registry)
    assert would.dry_run
    assert not registry.changes
    assert would.service == register("agent", store=registry).service


@pytest.mark.parametrize("name", ["Büro PC", "агент", "代理", "a/b", "it's", 'say "hi"', "🦊"])
def test_names_of_all_sorts_can_be_called(registry: FakeRegistry, name: str) -> None:
    change = register(name, store=registry)
    (found,) = (service for service in services(registry) if service.origin is Origin.HVRPC)
    assert found == change.service
    assert found.name == name
    url = str(HvsockAddress("any", name))
    address = Address.parse(url)
    assert isinstance(address, HvsockAddress)
    assert address.service == name


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("5000", {}, "number"),
        (GUID, {}, "number"),
        ("", {}, "missing"),
        (" agent", {}, "space"),
        ("a\nb", {}, "control character"),
        ("x" * 256, {}, "at most 255"),
        ("agent", {"port": 0}, "any free port"),
        ("agent", {"port": -1}, "0…2147483647"),
        ("agent", {"port": 2**31}, "0…2147483647"),
        ("agent", {"port": 1, "guid": GUID}, "two ways"),
        ("agent", {"guid": "nonsense"}, "no GUID"),
        ("agent", {"guid": POWERSHELL_DIRECT}, "Windows' own"),
    ],
)
def test_what_cannot_be_registered(
    registry: FakeRegistry, name: str, settings: dict[str, object], problem: str
) -> None:
    with pytest.raises(RegistrationError) as caught:
        register(name, **settings, store=registry)  # type: ignore[arg-type]
    assert problem in caught.value.problem
    assert caught.value.remedy
    assert not registry.changes


def test_a_name_that_another_service_has(registry: FakeRegistry) -> None:
    register("agent", port=5000, store=registry)
    with pytest.raises(RegistrationError, match=r"taken by agent \(port 5000\)"):
        register("Agent", port=5001, store=registry)


def test_a_number_that_another_service_has(registry: FakeRegistry) -> None:
    path = rf"{KEY}\{PORT_5000}"
    registry.keys[path] = {"Purpose": "Fileserver", "ToolName": "podman"}
    with pytest.raises(RegistrationError, match="by podman; guests can call it as it is"):
        register("agent", port=5000, store=registry)
    assert registry.keys[path] == {"Purpose": "Fileserver", "ToolName": "podman"}


# --- Nothing half-written ------------------------------------------------------------------------


def test_without_privileges_the_error_has_the_whole_command(registry: FakeRegistry) -> None:
    registry.read_only = True
    with pytest.raises(PrivilegeError) as caught:
        register("it's mine", port=5000, store=registry)
    command = caught.value.command
    assert command.startswith("Start-Process -Verb RunAs -Wait -FilePath '")
    assert """service register "it''s mine" --port 5000'""" in command
    assert isinstance(caught.value, PermissionError)
    assert registry.keys == IN_BOX


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_failure_in_the_middle_leaves_nothing(registry: FakeRegistry, writes: int) -> None:
    registry.writes_left = writes
    with pytest.raises(OSError, match="Insufficient"):
        register("agent", port=5000, store=registry)
    assert registry.keys == IN_BOX


@pytest.mark.parametrize("left", [{}, {"RegisteredBy": "hvrpc"}])
def test_what_a_crash_has_left_is_completed(
    registry: FakeRegistry, left: dict[str, object]
) -> None:
    registry.keys[rf"{KEY}\{PORT_5000}"] = left
    change = register("agent", port=5000, store=registry)
    assert not change.was_there
    assert registry.keys[rf"{KEY}\{PORT_5000}"] == {
        "ElementName": "agent",
        "RegisteredBy": "hvrpc",
    }


def test_a_failure_does_not_remove_a_key_that_was_there_before(registry: FakeRegistry) -> None:
    registry.keys[rf"{KEY}\{PORT_5000}"] = {}
    registry.writes_left = 2
    with pytest.raises(OSError, match="Insufficient"):
        register("agent", port=5000, store=registry)
    assert rf"{KEY}\{PORT_5000}" in registry.keys


# --- Listing -------------------------------------------------------------------------------------


def test_what_is_listed_and_who_has_made_it(registry: FakeRegistry) -> None:
    register("agent", port=5000, store=registry)
    register("early", port=7, store=registry)
    registry.keys[rf"{KEY}\{GUID}"] = {"ToolName": "podman"}
    registry.keys[rf"{KEY}\not-a-guid"] = {"ElementName": "nobody"}
    old = uuid4()
    registry.keys[rf"{OLDER_KEY}\{old}"] = {"ElementName": "old", "RegisteredBy": "hvrpc"}
    found = {
        str(service.id): (service.name, service.origin, service.is_in_older_place)
        for service in services(registry)
    }
    assert found == {
        "00000007-facb-11e6-bd58-64006a7986d3": ("early", Origin.HVRPC, False),
        PORT_5000: ("agent", Origin.HVRPC, False),
        POWERSHELL_DIRECT.lower(): ("VM Session Service 1", Origin.WINDOWS, False),
        GUID: (None, Origin.OTHER, False),
        str(old): ("old", Origin.OTHER, True),
    }
    assert [service.port for service in services(registry)][:3] == [7, 5000, None]


def test_a_service_in_both_places_is_shown_once(registry: FakeRegistry) -> None:
    register("agent", port=5000, store=registry)
    registry.keys[rf"{OLDER_KEY}\{PORT_5000}"] = {"ElementName": "agent"}
    (found,) = (service for service in services(registry) if service.port == 5000)
    assert not found.is_in_older_place


def test_a_host_without_the_key_has_no_services() -> None:
    assert services(FakeRegistry()) == []


def test_values_that_are_no_text_are_no_names(registry: FakeRegistry) -> None:
    registry.keys[rf"{KEY}\{PORT_5000}"] = {"ElementName": 7, "RegisteredBy": None}
    (found,) = (service for service in services(registry) if service.port == 5000)
    assert (found.name, found.origin) == (None, Origin.OTHER)


@pytest.mark.parametrize("which", ["agent", "AGENT", "5000", PORT_5000, PORT_5000.upper()])
def test_a_service_is_found_by_name_port_and_guid(registry: FakeRegistry, which: str) -> None:
    register("agent", port=5000, store=registry)
    assert registration.find(which, registry).port == 5000


def test_a_name_that_is_not_registered(registry: FakeRegistry) -> None:
    register("agent", port=5000, store=registry)
    with pytest.raises(UnknownName, match="no service is registered as 'agents' here") as caught:
        registration.find("agents", registry)
    assert caught.value.candidates == ("agent (port 5000)",)


def test_a_name_that_several_services_have(registry: FakeRegistry) -> None:
    for key in (PORT_5000, GUID):
        registry.keys[rf"{KEY}\{key}"] = {"ElementName": "agent"}
    with pytest.raises(UnknownName, match="several services") as caught:
        registration.find("agent", registry)
    assert caught.value.candidates == ("agent (port 5000)", f"agent ({GUID})")


def test_the_exact_name_goes_before_one_in_another_case(registry: FakeRegistry) -> None:
    for key, name in ((PORT_5000, "Agent"), (GUID, "agent")):
        registry.keys[rf"{KEY}\{key}"] = {"ElementName": name}
    assert registration.find("agent", registry).id == UUID(GUID)


# --- Removing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["agent", "5000", PORT_5000])
def test_what_was_registered_can_be_removed(registry: FakeRegistry, which: str) -> None:
    service = register("agent", port=5000, store=registry).service
    assert remove(which, dry_run=True, store=registry) == service
    assert written(registry)
    assert remove(which, store=registry) == service
    assert registry.keys == IN_BOX


def test_what_is_not_there_cannot_be_removed(registry: FakeRegistry) -> None:
    with pytest.raises(UnknownName, match="remove service agent"):
        remove("agent", store=registry)


@pytest.mark.parametrize("others", [False, True])
def test_what_belongs_to_windows_is_never_removed(registry: FakeRegistry, others: bool) -> None:
    for which in (POWERSHELL_DIRECT, "VM Session Service 1"):
        with pytest.raises(RegistrationError, match=r"belongs to Windows \(PowerShell Direct\)"):
            remove(which, others=others, store=registry)
    registry.keys[rf"{KEY}\{POWERSHELL_DIRECT}"]["RegisteredBy"] = "hvrpc"
    assert reset(store=registry) == []
    assert not registry.changes


def test_what_others_have_made_is_removed_only_if_asked_for(registry: FakeRegistry) -> None:
    registry.keys[rf"{KEY}\{{{GUID.upper()}}}"] = {"ElementName": "theirs", "ToolName": "podman"}
    with pytest.raises(RegistrationError, match=r"registered by podman; say --others"):
        remove("theirs", store=registry)
    remove("theirs", others=True, store=registry)
    assert registry.keys == IN_BOX


def test_what_stands_in_the_older_place_is_not_touched(registry: FakeRegistry) -> None:
    registry.keys[rf"{OLDER_KEY}\{PORT_5000}"] = {"ElementName": "agent", "RegisteredBy": "hvrpc"}
    with pytest.raises(RegistrationError, match="early builds of Windows 10"):
        remove("agent", others=True, store=registry)
    assert reset(store=registry) == []


def test_removing_without_privileges(registry: FakeRegistry) -> None:
    register("agent", port=5000, store=registry)
    registry.read_only = True
    with pytest.raises(PrivilegeError) as caught:
        remove("agent", store=registry)
    assert "service remove agent'" in caught.value.command
    with pytest.raises(PrivilegeError) as caught:
        reset(store=registry)
    assert "service reset'" in caught.value.command
    assert written(registry)


def test_reset_removes_all_of_ours_and_nothing_else(registry: FakeRegistry) -> None:
    ours = [register(name, store=registry).service for name in ("one", "two", "three")]
    registry.keys[rf"{KEY}\{GUID}"] = {"ElementName": "theirs"}
    assert {s.name for s in reset(dry_run=True, store=registry)} == {"one", "two", "three"}
    assert len(written(registry)) == 4
    assert sorted(s.name or "" for s in reset(store=registry)) == sorted(s.name or "" for s in ours)
    assert [*written(registry)] == [rf"{KEY}\{GUID}"]
    assert reset(store=registry) == []


# --- On the machine itself -----------------------------------------------------------------------

on_windows = pytest.mark.skipif(
    sys.platform != "win32",
    reason="needs a registry: run on Windows, or with the rig: python3 run.py rigs windows",
)


@pytest.mark.skipif(sys.platform == "win32", reason="there is a registry on Windows")
def test_elsewhere_one_is_sent_to_the_host() -> None:
    for action in (
        lambda: register("agent", port=5000),
        lambda: remove("agent"),
        lambda: reset(),
        lambda: services(),
    ):
        with pytest.raises(UnsupportedError, match="on the Windows host") as caught:
            action()
        assert "hvrpc service export" in caught.value.remedy


@pytest.fixture
def real() -> Iterator[tuple[Store, str]]:
    """The registry of this machine, and a name that nobody else has there; removed afterwards."""
    store = open_registry("test")
    name = f"hvrpc test {uuid4()}"
    try:
        store.delete(rf"{KEY}\{_trial(store, name)}")
    except PermissionError:
        pytest.skip("writes into the registry of this machine: run it as administrator")
    yield store, name
    for service in services(store):
        if service.name == name:
            store.delete(rf"{KEY}\{service.id}")


def _trial(store: Store, name: str) -> UUID:
    key = uuid4()
    store.create(rf"{KEY}\{key}")
    return key


@on_windows
def test_the_real_registry_keeps_what_is_written(real: tuple[Store, str]) -> None:
    store, name = real
    guid = uuid4()
    change = register(name, guid=guid)
    assert not change.was_there
    assert store.values(rf"{KEY}\{str(guid).upper()}") == {
        "ElementName": name,
        "RegisteredBy": "hvrpc",
    }
    assert change.service in services()
    assert registration.find_id(name, address="hvsock://any/x", operation="listen on") == guid
    assert register(name, guid=guid).was_there
    assert remove(str(guid)) == change.service
    assert store.values(rf"{KEY}\{guid}") is None
    with pytest.raises(UnknownName):
        remove(name)


@on_windows
def test_a_name_in_any_script_survives_the_real_registry(real: tuple[Store, str]) -> None:
    _, name = real
    long_name = f"{name} агент 代理 🦊 'quoted' \"twice\""
    guid = uuid4()
    try:
        register(long_name, guid=guid)
        assert registration.find(str(guid)).name == long_name
    finally:
        remove(str(guid))


@on_windows
def test_a_registered_name_can_be_listened_on(real: tuple[Store, str]) -> None:
    _, name = real
    guid = uuid4()
    register(name, guid=guid)
    try:
        with sockets.listen(HvsockAddress(HV_GUID_LOOPBACK, name)) as listener:
            assert isinstance(listener.address, HvsockAddress)
            assert listener.address.service == guid
    except UnsupportedError as error:
        if "no Hyper-V sockets" not in error.problem:
            raise
        pytest.skip(error.problem)
