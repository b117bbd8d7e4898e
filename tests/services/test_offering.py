"""A generated service as anybody sees it who speaks msgpack-RPC and has no .proto."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest

import hvrpc.msgpack
from hvrpc import InvalidParams, RemoteError
from hvrpc.services.contexts import REQUESTS
from hvrpc.testing import Fabric

from .echo import Echo, Told

SAY = "hvrpc.echo.v1.Echo.Say"


@pytest.fixture
def client(hvrpc_fabric: Fabric) -> Iterator[hvrpc.msgpack.Client]:
    with hvrpc.msgpack.Server() as server:
        server.add(Echo(Told()))
        address = server.listen("local://loopback/0")
        with hvrpc.msgpack.connect(address) as client:
            yield client


NOTHING_SET = {
    "text": "",
    "count": 0,
    "data": b"",
    "weight": 0.0,
    "urgent": False,
    "colour": "COLOUR_UNSPECIFIED",
    "parts": [],
    "tally": {},
    "from": "",
    "large": 0,
}


def test_a_message_is_a_map(client: hvrpc.msgpack.Client) -> None:
    assert client.call(SAY, {"text": "x", "from": "me"}) == {
        **NOTHING_SET,
        "text": "x",
        "from": "me",
    }


def test_fields_can_be_keywords_and_nothing_is_an_empty_message(
    client: hvrpc.msgpack.Client,
) -> None:
    assert client.call(SAY, text="x", count=2) == {**NOTHING_SET, "text": "x", "count": 2}
    assert client.call(SAY) == NOTHING_SET


def test_natural_values(client: hvrpc.msgpack.Client) -> None:
    sent = {
        "data": b"\xff\x00",
        "large": 2**64 - 1,
        "count": -(2**63),
        "colour": "BLUE",
        "at": datetime.datetime(2024, 2, 29, 12, 0, 0, 1, datetime.UTC),
        "lasting": 1.5,
        "tally": {"a": 1},
        "parts": [NOTHING_SET],
        "room": 0,
        "comment": "",
    }
    assert client.call(SAY, sent) == {**NOTHING_SET, **sent}
    assert client.call(SAY, colour=2)["colour"] == "BLUE"


def test_streams(client: hvrpc.msgpack.Client) -> None:
    with client.stream("hvrpc.echo.v1.Echo.Repeat", {"text": "x", "count": 3}) as stream:
        assert [note["count"] for note in stream] == [0, 1, 2]
    joined = client.call("hvrpc.echo.v1.Echo.Join", [{"text": "a"}, {"text": "b"}])
    assert (joined["text"], joined["count"]) == ("a b", 2)
    chat = client.stream("hvrpc.echo.v1.Echo.Chat", [{"count": 1}, {"count": 2}])
    assert [note["count"] for note in chat] == [1, 2]


def test_metadata_is_a_second_parameter(client: hvrpc.msgpack.Client) -> None:
    told = client.call("hvrpc.echo.v1.Echo.Describe", {}, {"A": ["1", "2"], "b-bin": b"3"})
    assert told["metadata"] == ["a: 1", "a: 2", "b-bin: 3"]


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ([{"txt": "x"}], "params[0].txt: expected nothing (hvrpc.echo.v1.Note has text, count, "),
        ([{"text": 1}], "params[0].text: expected str, got int 1"),
        ([{"count": "1"}], "params[0].count: expected int, got str '1'"),
        ([{"count": 2**63}], "params[0].count: expected int from -9223372036854775808 to"),
        ([{"data": "text"}], "params[0].data: expected bytes, got str 'text'"),
        ([{"colour": "GREEN"}], "params[0].colour: expected one of COLOUR_UNSPECIFIED, RED, BLUE"),
        ([{"at": 5}], "params[0].at: expected datetime with time zone, or ISO 8601 text with one"),
        ([{"parts": {}}], "params[0].parts: expected a list, got dict {}"),
        (
            [{"parts": [{}, {"parts": [{"text": 1}]}]}],
            "params[0].parts[1].parts[0].text: expected str, got int 1",
        ),
        ([{"tally": {"a": "x"}}], "params[0].tally.a: expected int, got str 'x'"),
        ([{"tally": {1: 1}}], "params[0].tally: expected a key that is str, got int 1"),
        (
            [{"person": "x", "room": 1}],
            "params[0].room: expected one of to, which are alternatives, got person as well",
        ),
        (["x"], "params[0]: expected a map of the fields of hvrpc.echo.v1.Note, got str 'x'"),
        ([{}, {"a": 1}], "params[1]: expected metadata with values of str"),
        ([{}, {"a-bin": "x"}], "params[1]: expected metadata with values of str (bytes if"),
        ([{}, "x"], "params[1]: expected a map of metadata, got str 'x'"),
        ([{}, {}, {}], "it takes a message and metadata, not 3 parameters"),
    ],
)
def test_what_does_not_fit_is_told(
    client: hvrpc.msgpack.Client, params: list[object], what: str
) -> None:
    with pytest.raises(InvalidParams) as caught:
        client.call(SAY, *params)
    assert what in str(caught.value)


def test_streams_of_requests_that_do_not_fit(client: hvrpc.msgpack.Client) -> None:
    join = "hvrpc.echo.v1.Echo.Join"
    for params, what in (
        ([], "it takes an array of messages"),
        (["x"], "params[0]: expected an array of messages, got str 'x'"),
        ([[{}, {"text": 1}]], "params[0][1].text: expected str, got int 1"),
        ([[{}], {"a": 1}], "params[1]: expected metadata"),
    ):
        with pytest.raises(InvalidParams) as caught:
            client.call(join, *params)
        assert what in str(caught.value)
    with pytest.raises(InvalidParams, match="it takes a message, or its fields by name, not both"):
        client.call(SAY, {"text": "x"}, text="x")


def test_a_number_of_a_stream_that_nobody_offers(client: hvrpc.msgpack.Client) -> None:
    with pytest.raises(RemoteError, match=f"there is no method '{REQUESTS}'"):
        client.call("hvrpc.echo.v1.Echo.Join", 7)


def test_a_status_is_the_code_of_an_error(client: hvrpc.msgpack.Client) -> None:
    with pytest.raises(RemoteError) as caught:
        client.call("hvrpc.echo.v1.Echo.Fail", code="NOT_FOUND", details="no disk")
    assert (caught.value.code, caught.value.message) == ("NOT_FOUND", "no disk")


def test_methods_describe_themselves(client: hvrpc.msgpack.Client) -> None:
    methods = {method["name"]: method for method in client.methods()}
    say = methods[SAY]
    types = {param["name"]: param["type"] for param in say["params"]}
    assert types["tally"] == "dict[str, int]"
    assert (types["parts"], types["data"]) == ("list[hvrpc.echo.v1.Note]", "bytes")
    assert (types["at"], types["colour"]) == (
        "google.protobuf.Timestamp",
        "hvrpc.echo.v1.Note.Colour",
    )
    assert (say["result"], say["stream"]) == ("hvrpc.echo.v1.Note", False)
    assert say["doc"] == "The request, as it is."
    join = methods["hvrpc.echo.v1.Echo.Join"]
    assert join["params"] == [
        {"name": "requests", "kind": "positional", "type": "list[hvrpc.echo.v1.Note]"}
    ]
    assert methods["hvrpc.echo.v1.Echo.Repeat"]["stream"]


def test_a_service_is_offered_once(hvrpc_fabric: Fabric) -> None:
    server = hvrpc.msgpack.Server()
    server.add(Echo(Told()))
    with pytest.raises(
        ValueError, match=r"a method 'hvrpc\.echo\.v1\.Echo\.Say' is offered already"
    ):
        server.add(Echo(Told()))
