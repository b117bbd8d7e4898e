"""Addresses: what every URL means, that it survives a round trip, and what a wrong one is told."""

from __future__ import annotations

import copy
import pickle
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hvrpc import Address, AddressError
from hvrpc.addresses import (
    MAX_HV_PORT,
    MAX_VSOCK_NUMBER,
    HvsockAddress,
    HybridAddress,
    LocalAddress,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    describe_service,
    describe_vm,
    pack_sockaddr_hv,
    port_of_service_id,
    service_id_of_port,
    template_id,
    unpack_sockaddr_hv,
)

VM = UUID("12345678-9abc-def0-1234-56789abcdef0")
SERVICE = UUID("999e53d4-3d5c-4c3e-8779-bed06ec056e1")
PARENT = UUID("a42e7cda-d03f-480c-9cc2-a4de20abb878")
LOOPBACK = UUID("e0e16197-dd56-4a10-9195-5ee7a155a838")
CHILDREN = UUID("90db8b89-0d35-4f79-8ce9-49ea0ac8b7cd")
SILOHOST = UUID("36bd0c5c-7276-4223-88ba-7d03b654c568")
WILDCARD = UUID("00000000-0000-0000-0000-000000000000")
BROADCAST = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")
PORT_5000 = UUID("00001388-facb-11e6-bd58-64006a7986d3")


# --- What each URL means -------------------------------------------------------------------------

URLS: list[tuple[str, Address]] = [
    ("hvsock://parent/5000", HvsockAddress(PARENT, PORT_5000)),
    ("hvsock://loopback/5000", HvsockAddress(LOOPBACK, PORT_5000)),
    ("hvsock://children/5000", HvsockAddress(CHILDREN, PORT_5000)),
    ("hvsock://any/5000", HvsockAddress(WILDCARD, PORT_5000)),
    ("hvsock://silohost/5000", HvsockAddress(SILOHOST, PORT_5000)),
    ("hvsock://broadcast/5000", HvsockAddress(BROADCAST, PORT_5000)),
    (f"hvsock://{VM}/{SERVICE}", HvsockAddress(VM, SERVICE)),
    ("hvsock://web/backup", HvsockAddress("web", "backup")),
    ("hvsock://My%20VM/5000", HvsockAddress("My VM", PORT_5000)),
    ("hvsock://B%C3%BCro/5000", HvsockAddress("Büro", PORT_5000)),
    ("hvsock://50%25/a%2Fb", HvsockAddress("50%", "a/b")),
    ("vsock://3/5000", VsockAddress(3, 5000)),
    ("vsock://host/5000", VsockAddress(2, 5000)),
    ("vsock://local/5000", VsockAddress(1, 5000)),
    ("vsock://any/5000", VsockAddress(0xFFFFFFFF, 5000)),
    ("vsock://0/4294967295", VsockAddress(0, 0xFFFFFFFF)),
    ("hybrid:///run/vm/v.sock?port=52", HybridAddress("/run/vm/v.sock", 52)),
    ("hybrid:///run/my%20vm%3F?port=52", HybridAddress("/run/my vm?", 52)),
    ("local://loopback/5000", LocalAddress(LOOPBACK, PORT_5000)),
    ("local://web/backup", LocalAddress("web", "backup")),
    ("unix:///run/x.sock", UnixAddress("/run/x.sock")),
    ("unix:///run/%C3%A4%20%23.sock", UnixAddress("/run/ä #.sock")),
    ("tcp://127.0.0.1:5000", TcpAddress("127.0.0.1", 5000)),
    ("tcp://localhost:0", TcpAddress("localhost", 0)),
    ("tcp://[::1]:65535", TcpAddress("::1", 65535)),
    ("tcp://[fe80::1%eth0]:80", TcpAddress("fe80::1%eth0", 80)),
    ("tcp://build_box-1.example.:80", TcpAddress("build_box-1.example.", 80)),
]


@pytest.mark.parametrize(("url", "address"), URLS)
def test_normal_form_is_read_and_written(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert str(address) == url
    assert type(Address.parse(url)) is type(address)


SPELLINGS: list[tuple[str, str]] = [
    ("HVSOCK://Parent/5000", "hvsock://parent/5000"),
    ("hvsock://LOOPBACK/5000", "hvsock://loopback/5000"),
    ("  hvsock://parent/5000\n", "hvsock://parent/5000"),
    ("hvsock://parent/0005000", "hvsock://parent/5000"),
    ("hvsock://parent/" + "0" * 5000 + "5", "hvsock://parent/5"),
    ("hvsock://My VM/5000", "hvsock://My%20VM/5000"),
    ("hvsock://Büro/5000", "hvsock://B%C3%BCro/5000"),
    ("hvsock://B%c3%bcro/5000", "hvsock://B%C3%BCro/5000"),
    ("hvsock://%77eb/5000", "hvsock://web/5000"),
    (f"hvsock://{str(VM).upper()}/5000", f"hvsock://{VM}/5000"),
    (f"hvsock://{{{VM}}}/{{{str(SERVICE).upper()}}}", f"hvsock://{VM}/{SERVICE}"),
    (f"hvsock://%7B{VM}%7D/5000", f"hvsock://{VM}/5000"),
    (f"hvsock://{str(PARENT).upper()}/{PORT_5000}", "hvsock://parent/5000"),
    (f"local://{LOOPBACK}/{PORT_5000}", "local://loopback/5000"),
    (f"hvsock://{WILDCARD}/0", "hvsock://any/0"),
    ("vsock://2/5000", "vsock://host/5000"),
    ("vsock://1/05", "vsock://local/5"),
    ("vsock://4294967295/5", "vsock://any/5"),
    ("vsock://HOST/5", "vsock://host/5"),
    ("hybrid:///run/my vm?port=052", "hybrid:///run/my%20vm?port=52"),
    ("unix:///run/ü", "unix:///run/%C3%BC"),
    ("tcp://LocalHost:080", "tcp://localhost:80"),
    ("tcp://[0:0:0:0:0:0:0:1]:80", "tcp://[::1]:80"),
]


@pytest.mark.parametrize(("url", "normal"), SPELLINGS)
def test_other_spellings_have_the_same_normal_form(url: str, normal: str) -> None:
    assert str(Address.parse(url)) == normal
    assert Address.parse(url) == Address.parse(normal)


def test_an_address_is_taken_as_it_is() -> None:
    address = Address.parse("hvsock://parent/5000")
    assert Address.parse(address) is address


def test_repr_can_be_evaluated() -> None:
    address = Address.parse("hvsock://My VM/5000")
    assert repr(address) == "Address.parse('hvsock://My%20VM/5000')"
    assert eval(repr(address)) == address


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("hvsock://parent/5000", 5000),
        (f"hvsock://parent/{PORT_5000}", 5000),
        (f"hvsock://parent/{SERVICE}", None),
        ("hvsock://parent/backup", None),
        ("vsock://host/5000", 5000),
        ("hybrid:///v.sock?port=5000", 5000),
        ("tcp://localhost:5000", 5000),
    ],
)
def test_port(url: str, port: int | None) -> None:
    address: Any = Address.parse(url)
    assert address.port == port


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("hvsock://any/0", "hvsock://any/7"),
        ("local://web/0", "local://web/7"),
        ("vsock://any/0", "vsock://any/7"),
        ("hybrid:///v.sock?port=0", "hybrid:///v.sock?port=7"),
        ("tcp://[::1]:0", "tcp://[::1]:7"),
    ],
)
def test_with_port_keeps_the_place(url: str, other: str) -> None:
    assert Address.parse(url).with_port(7) == Address.parse(other)


def test_a_path_has_no_port() -> None:
    with pytest.raises(ValueError, match="unix:///x has no port"):
        Address.parse("unix:///x").with_port(7)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("[::]", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_which_tcp_addresses_other_machines_cannot_reach(host: str, loopback: bool) -> None:
    address = Address.parse(f"tcp://{host}:80")
    assert isinstance(address, TcpAddress)
    assert address.is_loopback is loopback


# --- The vsock template --------------------------------------------------------------------------

PORTS = [
    (0, "00000000-facb-11e6-bd58-64006a7986d3"),
    (1024, "00000400-facb-11e6-bd58-64006a7986d3"),
    (0x7FFFFFFF, "7fffffff-facb-11e6-bd58-64006a7986d3"),
]


@pytest.mark.parametrize(("port", "guid"), PORTS)
def test_a_port_stands_for_a_service_id_and_back(port: int, guid: str) -> None:
    assert service_id_of_port(port) == UUID(guid)
    assert port_of_service_id(UUID(guid)) == port


@pytest.mark.parametrize("port", [-1, 0x80000000])
def test_a_port_that_hyper_v_cannot_have_has_no_service_id(port: int) -> None:
    with pytest.raises(ValueError, match="2147483647"):
        service_id_of_port(port)


def test_ports_of_host_opened_connections_are_in_the_template_but_cannot_be_addressed() -> None:
    assert template_id(0x80000001) == UUID("80000001-facb-11e6-bd58-64006a7986d3")
    assert port_of_service_id(template_id(0x80000001)) is None


def test_an_ordinary_guid_has_no_port() -> None:
    assert port_of_service_id(SERVICE) is None
    assert port_of_service_id(UUID("00000400-facb-11e6-bd58-64006a7986d4")) is None


def test_how_people_write_vms_and_services() -> None:
    assert describe_vm(PARENT) == "parent"
    assert describe_vm(VM) == str(VM)
    assert describe_vm("My VM") == "My VM"
    assert describe_service(PORT_5000) == "5000"
    assert describe_service(SERVICE) == str(SERVICE)
    assert describe_service("backup") == "backup"


# --- SOCKADDR_HV ---------------------------------------------------------------------------------
# USHORT Family = 34, USHORT Reserved = 0, GUID VmId, GUID ServiceId. In a GUID the first three
# fields are little-endian and the last eight bytes stand as they are written.

SOCKADDRS = [
    (
        PARENT,
        UUID("00000400-facb-11e6-bd58-64006a7986d3"),
        "2200 0000da7c2ea4 3fd0 0c48 9cc2 a4de20abb87800040000 cbfa e611 bd58 64006a7986d3",
    ),
    (
        VM,
        SERVICE,
        "2200 000078563412 bc9a f0de 1234 56789abcdef0d4539e99 5c3d 3e4c 8779 bed06ec056e1",
    ),
    (
        WILDCARD,
        UUID("7fffffff-facb-11e6-bd58-64006a7986d3"),
        "2200 000000000000 0000 0000 0000 000000000000ffffff7f cbfa e611 bd58 64006a7986d3",
    ),
]


@pytest.mark.parametrize(("vm", "service", "hexadecimal"), SOCKADDRS)
def test_sockaddr_hv(vm: UUID, service: UUID, hexadecimal: str) -> None:
    data = bytes.fromhex(hexadecimal)
    assert len(data) == 36
    assert pack_sockaddr_hv(vm, service) == data
    assert unpack_sockaddr_hv(data) == (vm, service)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "36 bytes, not 0"),
        (b"\x22" + bytes(34), "36 bytes, not 35"),
        (b"\x22" + bytes(36), "36 bytes, not 37"),
        (b"\x02" + bytes(35), "family 34, not 2"),
        (b"\x22\0\x01\0" + bytes(32), "reserved .* 0, not 1"),
    ],
)
def test_bytes_that_are_no_sockaddr_hv(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        unpack_sockaddr_hv(data)


# --- Addresses are values ------------------------------------------------------------------------

ONE_OF_EACH = [
    "hvsock://My%20VM/5000",
    "local://web/backup",
    "vsock://host/5000",
    "hybrid:///v.sock?port=5",
    "unix:///run/x",
    "tcp://[::1]:80",
]
each_kind = pytest.mark.parametrize("url", ONE_OF_EACH)


@each_kind
def test_equal_addresses_are_one_key(url: str) -> None:
    one, other = Address.parse(url), Address.parse(url)
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1


def test_addresses_of_different_kinds_are_different() -> None:
    addresses = {Address.parse(url) for url in ONE_OF_EACH}
    assert len(addresses) == len(ONE_OF_EACH)
    assert Address.parse("hvsock://web/5") != Address.parse("local://web/5")
    different: object = Address.parse("unix:///x")
    assert different != "unix:///x"


def test_addresses_are_sorted_as_their_urls_are() -> None:
    addresses = [Address.parse(url) for url in reversed(ONE_OF_EACH)]
    assert [str(address) for address in sorted(addresses)] == sorted(ONE_OF_EACH)
    small, large = Address.parse("hvsock://a/1"), Address.parse("hvsock://b/1")
    assert small < large
    assert small <= large
    assert large > small
    assert large >= small
    assert not small < small
    assert small <= Address.parse("hvsock://a/1")


def test_an_address_is_not_ordered_among_other_things() -> None:
    not_an_address: Any = "unix:///x"
    with pytest.raises(TypeError):
        _ = Address.parse("unix:///x") < not_an_address


@each_kind
def test_an_address_cannot_be_changed(url: str) -> None:
    address = Address.parse(url)
    names = [name for kind in type(address).__mro__ for name in getattr(kind, "__slots__", ())]
    assert names
    for name in [*names, "something_new"]:
        with pytest.raises((AttributeError, TypeError)):
            setattr(address, name, "changed")
    for name in names:
        with pytest.raises((AttributeError, TypeError)):
            delattr(address, name)
    assert str(address) == url


@each_kind
def test_an_address_survives_copy_and_pickle(url: str) -> None:
    address = Address.parse(url)
    for again in (
        copy.copy(address),
        copy.deepcopy(address),
        *(
            pickle.loads(pickle.dumps(address, protocol))
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
    ):
        assert again == address
        assert type(again) is type(address)
        assert str(again) == url


# --- Wrong addresses -----------------------------------------------------------------------------

WRONG: list[tuple[str, str, str, str]] = [
    # text, the part that is wrong, words of the problem, the example's beginning
    ("", "", "begins with one of hvsock://", "hvsock://"),
    ("parent/5000", "parent/5000", "begins with one of", "hvsock://"),
    ("http://parent/5000", "http", "vsock://, hybrid://, local://, unix://, tcp://", "hvsock://"),
    # As other libraries have them: the right one is what was meant.
    ("localhost:50051", "localhost:50051", "begins with one of", "tcp://localhost:50051"),
    ("127.0.0.1:80", "127.0.0.1:80", "begins with one of", "tcp://127.0.0.1:80"),
    ("[::]:50051", "[::]:50051", "begins with one of", "tcp://[::]:50051"),
    ("web:50051", "web:50051", "begins with one of", "hvsock://web/50051"),
    ("dns:///web:50051", "dns", "begins with one of", "hvsock://web/50051"),
    ("ipv4:10.0.0.1:5", "ipv4:10.0.0.1:5", "begins with one of", "tcp://10.0.0.1:5"),
    ("unix:/run/a.sock", "unix:/run/a.sock", "begins with one of", "unix:///run/a.sock"),
    ("/run/a.sock", "/run/a.sock", "begins with one of", "unix:///run/a.sock"),
    ("999.0.0.1:99999999", "999.0.0.1:99999999", "begins with one of", "hvsock://parent/"),
    ("hvsock:/parent/5000", "hvsock:/parent/5000", "begins with one of", "hvsock://"),
    ("hvsock://", "", "a service follows the VM", "hvsock://"),
    ("hvsock://parent", "parent", "a service follows the VM", "hvsock://"),
    ("hvsock://parent:5000", "parent:5000", "after a slash", "hvsock://"),
    ("hvsock:///5000", "", "the VM is missing", "hvsock://"),
    ("hvsock://parent/", "", "the service is missing", "hvsock://"),
    ("hvsock://parent/a/b", "a/b", "written %2F", "hvsock://"),
    ("hvsock://parent/5000?x=1", "?x=1", "? has no meaning", "hvsock://"),
    ("hvsock://parent/5000#x", "#x", "# has no meaning", "hvsock://"),
    ("hvsock://parent/2147483648", "2147483648", "at most 2147483647", "hvsock://"),
    ("hvsock://parent/" + "9" * 5000, "9" * 5000, "at most 2147483647", "hvsock://"),
    ("hvsock://parent/-1", "-1", "from 0 to 2147483647", "hvsock://"),
    ("hvsock://{nonsense}/5000", "{nonsense}", "between braces stands a GUID", "hvsock://"),
    (f"hvsock://parent/{{{str(SERVICE)[:-1]}}}", f"{{{str(SERVICE)[:-1]}}}", "GUID", "hvsock://"),
    ("hvsock://50%/5000", "50%", "written %25", "hvsock://"),
    ("hvsock://a%2/5000", "a%2", "written %25", "hvsock://"),
    ("hvsock://a%zz/5000", "a%zz", "written %25", "hvsock://"),
    ("hvsock://%FF/5000", "%FF", "not UTF-8", "hvsock://"),
    ("hvsock://a%00b/5000", "a%00b", "control character", "hvsock://"),
    ("hvsock://a\nb/5000", "a\nb", "control character", "hvsock://"),
    ("hvsock://%20/5000", "%20", "begins or ends with a space", "hvsock://"),
    ("hvsock://\ud800/5000", "\ud800", "control character", "hvsock://"),
    ("local://web", "web", "a service follows the VM", "local://"),
    ("vsock://2", "2", "a port follows the CID", "vsock://"),
    ("vsock://parent/5000", "parent", "number, host, local or any", "vsock://"),
    ("vsock://4294967296/5000", "4294967296", "the CID is at most 4294967295", "vsock://"),
    ("vsock://-1/5000", "-1", "the CID is a number", "vsock://"),
    ("vsock:///5000", "", "the CID is a number", "vsock://"),
    ("vsock://2/", "", "the port is a number", "vsock://"),
    ("vsock://2/4294967296", "4294967296", "the port is at most 4294967295", "vsock://"),
    ("vsock://2/٣", "٣", "the port is a number", "vsock://"),
    ("vsock://2/1_000", "1_000", "the port is a number", "vsock://"),
    ("hybrid:///v.sock", "/v.sock", "?port=", "hybrid://"),
    ("hybrid:///v.sock?prot=5", "?prot=5", "?port=", "hybrid://"),
    ("hybrid:///v.sock?port", "?port", "?port=", "hybrid://"),
    ("hybrid:///v.sock?port=", "", "the port is a number", "hybrid://"),
    ("hybrid:///v.sock?port=5&x=1", "5&x=1", "the port is a number", "hybrid://"),
    ("hybrid://v.sock?port=5", "v.sock", "three slashes", "hybrid://"),
    ("unix://", "", "three slashes", "unix://"),
    ("unix://run/x", "run/x", "three slashes", "unix://"),
    ("unix:///run/", "/run/", "a socket, not a folder", "unix://"),
    ("unix:///run/x?y", "?y", "? in a path is percent-encoded", "unix://"),
    ("unix:///run/x#y", "#y", "# in a path is percent-encoded", "unix://"),
    ("unix:///run/x%00", "/run/x%00", "control character", "unix://"),
    ("unix:///run/%ff", "/run/%ff", "not UTF-8", "unix://"),
    ("tcp://localhost", "localhost", "a port follows the host", "tcp://"),
    ("tcp://localhost:", "localhost:", "a port follows the host", "tcp://"),
    ("tcp://localhost:x", "x", "the port is a number", "tcp://"),
    ("tcp://localhost:65536", "65536", "the port is at most 65535", "tcp://"),
    ("tcp://:80", "", "the host is a name", "tcp://"),
    ("tcp://::1:80", "::1", "between brackets: [::1]", "tcp://"),
    ("tcp://[::1:80", "[::1", "between brackets", "tcp://"),
    ("tcp://[::x]:80", "[::x]", "stands an IPv6 address", "tcp://"),
    ("tcp://[fe80::1%]:80", "[fe80::1%]", "name or number of an interface", "tcp://"),
    ("tcp://[fe80::1%a b]:80", "[fe80::1%a b]", "name or number of an interface", "tcp://"),
    ("tcp://256.0.0.1:80", "256.0.0.1", "not an IPv4 address", "tcp://"),
    ("tcp://127.1:80", "127.1", "not an IPv4 address", "tcp://"),
    ("tcp://a b:80", "a b", "the host is a name", "tcp://"),
    ("tcp://büro:80", "büro", "the host is a name", "tcp://"),
    ("tcp://a..b:80", "a..b", "the host is a name", "tcp://"),
    (f"tcp://{'a' * 64}:80", "a" * 64, "the host is a name", "tcp://"),
    (f"tcp://{'a.' * 130}b:80", "a." * 130 + "b", "the host is a name", "tcp://"),
    ("tcp://user@host:80", "user@host", "the host is a name", "tcp://"),
]


@pytest.mark.parametrize(("text", "part", "problem", "right"), WRONG)
def test_a_wrong_address_is_told_what_is_wrong_and_shown_a_right_one(
    text: str, part: str, problem: str, right: str
) -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse(text)
    error = caught.value
    assert error.text == text
    assert error.part == part
    assert problem in error.problem
    assert error.example.startswith(right)
    assert str(Address.parse(error.example)) == error.example
    for word in (repr(text), error.problem, error.example):
        assert word in str(error)
    if part != text:
        assert f"at {part!r}" in str(error)


@pytest.mark.parametrize("thing", [None, 5000, b"hvsock://parent/5000", ("parent", 5000)])
def test_what_is_not_text_is_no_address(thing: Any) -> None:
    with pytest.raises(AddressError, match="an address is text") as caught:
        Address.parse(thing)
    assert caught.value.part == type(thing).__name__


# --- Properties ----------------------------------------------------------------------------------

NAMES = (
    st.text(
        st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" /%?#{}:@!$&'()*+,;=ß中"),
        min_size=1,
        max_size=30,
    )
    .map(str.strip)
    .filter(lambda name: name and not (name[0] == "{" and name[-1] == "}"))
)
PORTS_OF_HV = st.integers(0, MAX_HV_PORT)
VMS = st.uuids() | st.sampled_from([PARENT, LOOPBACK, CHILDREN, SILOHOST, WILDCARD, BROADCAST])
# A name that reads as a number, a GUID or a well-known VM is that, and no name.
VM_NAMES = NAMES.filter(lambda name: isinstance(_read(name, "1").vm, str))
SERVICE_NAMES = NAMES.filter(lambda name: not name.lstrip("+-").isdigit())
SERVICES = st.uuids() | PORTS_OF_HV.map(service_id_of_port) | SERVICE_NAMES
VSOCK_NUMBERS = st.integers(0, MAX_VSOCK_NUMBER)
PATHS = NAMES.map(lambda name: f"/{name}".rstrip("/")).filter(bool)
HOSTS = (
    st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z]\.[a-z]{2}", fullmatch=True)
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
)

ADDRESSES: st.SearchStrategy[Address] = st.one_of(
    st.builds(HvsockAddress, VMS | VM_NAMES, SERVICES),
    st.builds(LocalAddress, VMS | VM_NAMES, SERVICES),
    st.builds(VsockAddress, VSOCK_NUMBERS, VSOCK_NUMBERS),
    st.builds(HybridAddress, PATHS, VSOCK_NUMBERS),
    st.builds(UnixAddress, PATHS),
    st.builds(TcpAddress, HOSTS, st.integers(0, 65535)),
)


def _read(vm: str, service: str) -> HvsockAddress:
    address = Address.parse(f"hvsock://{quote(vm, safe='')}/{quote(service, safe='')}")
    assert isinstance(address, HvsockAddress)
    return address


@given(ADDRESSES)
def test_every_address_survives_the_round_trip_through_its_url(address: Address) -> None:
    again = Address.parse(str(address))
    assert again == address
    assert type(again) is type(address)
    assert str(again) == str(address)


@given(ADDRESSES)
def test_urls_are_printable_ascii_in_one_line(address: Address) -> None:
    assert str(address).isascii()
    assert str(address).isprintable()


@given(ADDRESSES, ADDRESSES)
def test_addresses_are_equal_exactly_if_their_urls_are(one: Address, other: Address) -> None:
    assert (one == other) == (str(one) == str(other))
    assert (one < other) == (str(one) < str(other))


@given(st.uuids(), st.uuids())
def test_sockaddr_hv_survives_the_round_trip(vm: UUID, service: UUID) -> None:
    assert unpack_sockaddr_hv(pack_sockaddr_hv(vm, service)) == (vm, service)


@given(VSOCK_NUMBERS)
def test_every_port_has_its_own_service_id(port: int) -> None:
    assert template_id(port).bytes_le[:4] == port.to_bytes(4, "little")
    assert port_of_service_id(template_id(port)) == (port if port <= MAX_HV_PORT else None)


NEARLY = st.builds(
    "{}://{}".format,
    st.sampled_from(["hvsock", "vsock", "hybrid", "local", "unix", "tcp"]),
    st.text(st.sampled_from("/:?#[]{}%=.-0123456789abcdefport\ud800 \n\0٣ü") | st.characters()),
)


@given(st.text() | NEARLY)
@example("hvsock://\ud800%41/5")
@example("tcp://[::1%\n]:5")
@example("vsock://1/" + "0" * 10_000)
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    read = _read_or_error(text)
    if isinstance(read, AddressError):
        assert read.text == text
        assert repr(text) in str(read)
    else:
        assert Address.parse(str(read)) == read


def _read_or_error(text: str) -> Address | AddressError:
    try:
        return Address.parse(text)
    except AddressError as error:
        return error
