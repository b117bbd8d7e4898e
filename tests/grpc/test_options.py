"""grpcio's options: read in its units, refused in its words, ignored aloud."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from hvrpc.grpc import options
from hvrpc.grpc.messages import MOST_RECEIVED, UNLIMITED
from hvrpc.grpc.options import ChannelOptions, ServerOptions


@pytest.fixture(autouse=True)
def nothing_told() -> Iterator[None]:
    told = set(options._told)
    options._told.clear()
    yield
    options._told.clear()
    options._told.update(told)


@pytest.mark.parametrize("given", [None, (), []])
def test_defaults_are_grpcios(given: Any) -> None:
    channel = ChannelOptions.of(given)
    assert channel.most_received == MOST_RECEIVED == 4 * 1024 * 1024
    assert channel.most_sent == UNLIMITED
    assert channel.retries
    assert channel.idle_timeout is None, "ours stays"
    assert ServerOptions.of(given).most_streams is None


CHANNEL: list[tuple[str, Any, str, Any]] = [
    ("grpc.max_receive_message_length", 5, "most_received", 5),
    ("grpc.max_receive_message_length", 0, "most_received", 0),
    ("grpc.max_receive_message_length", -1, "most_received", UNLIMITED),
    ("grpc.max_receive_message_length", True, "most_received", 1),
    ("grpc.max_send_message_length", -1, "most_sent", UNLIMITED),
    ("grpc.max_metadata_size", 100, "most_metadata", 100),
    ("grpc.absolute_max_metadata_size", 100, "most_metadata", 100),
    ("grpc.default_compression_algorithm", 2, "compression", grpc.Compression.Gzip),
    ("grpc.keepalive_time_ms", 1500, "keepalive_time", 1.5),
    ("grpc.keepalive_time_ms", 2**31 - 1, "keepalive_time", None),
    ("grpc.keepalive_timeout_ms", 500, "keepalive_timeout", 0.5),
    ("grpc.http2.ping_timeout_ms", 500, "keepalive_timeout", 0.5),
    ("grpc.keepalive_permit_without_calls", 1, "keepalive_when_idle", True),
    ("grpc.default_authority", "me", "authority", "me"),
    ("grpc.primary_user_agent", b"me", "user_agent", "me"),
    ("grpc.secondary_user_agent", "me", "user_agent_after", "me"),
    ("grpc.service_config", "{}", "service_config", "{}"),
    ("grpc.enable_retries", 0, "retries", False),
    ("grpc.client_idle_timeout_ms", 2**31 - 1, "idle_timeout", None),
    ("grpc.initial_reconnect_backoff_ms", 100, "first_backoff", 0.1),
    ("grpc.max_reconnect_backoff_ms", 1000, "most_backoff", 1.0),
    ("grpc.min_reconnect_backoff_ms", 5000, "connect_timeout", 5.0),
    ("grpc.ssl_target_name_override", "vm", "target_name", "vm"),
]
SERVER: list[tuple[str, Any, str, Any]] = [
    ("grpc.max_send_message_length", 9, "most_sent", 9),
    ("grpc.max_concurrent_streams", 3, "most_streams", 3),
    ("grpc.max_concurrent_streams", -1, "most_streams", None),
    ("grpc.max_connection_idle_ms", 3000, "connection_idle", 3.0),
    ("grpc.max_connection_age_ms", 3000, "connection_age", 3.0),
    ("grpc.max_connection_age_grace_ms", 3000, "connection_age_grace", 3.0),
]


@pytest.mark.parametrize(("name", "value", "field", "read"), CHANNEL)
def test_options_of_channels(name: str, value: Any, field: str, read: Any) -> None:
    assert getattr(ChannelOptions.of([(name, value)]), field) == read
    assert getattr(ChannelOptions.of(((name.encode(), value),)), field) == read


@pytest.mark.parametrize(("name", "value", "field", "read"), SERVER)
def test_options_of_servers(name: str, value: Any, field: str, read: Any) -> None:
    assert getattr(ServerOptions.of([(name, value)]), field) == read


def test_every_option_in_the_tables_is_tried_here() -> None:
    tried = {name for name, *_ in CHANNEL}
    assert tried == set(options._FIELDS[ChannelOptions])
    assert set(options._FIELDS[ServerOptions]) - {name for name, *_ in SERVER} <= tried


def test_the_first_of_equal_names_wins() -> None:
    name = "grpc.max_send_message_length"
    assert ChannelOptions.of([(name, 1), (name, 2)]).most_sent == 1


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ([("grpc.x", None)], TypeError, "Expected int, bytes, or behavior, got <class 'NoneType'>"),
        ([(1, 2)], TypeError, "Expected str, not <class 'int'>"),
        ([("grpc.x", 2**40)], OverflowError, "value too large to convert to int"),
        ([("grpc.x",)], ValueError, "unpack"),
        ({"grpc.x": 1}, ValueError, "unpack"),
        (5, TypeError, "'int' object is not iterable"),
    ],
)
def test_what_is_no_option_is_refused_as_grpcio_does(
    given: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        ChannelOptions.of(given)


def test_what_is_not_implemented_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hvrpc.grpc"):
        ChannelOptions.of([("grpc.dns_enable_srv_queries", 1)])
        ServerOptions.of([("grpc.dns_enable_srv_queries", 1)])
    assert [record.getMessage() for record in caplog.records] == [
        "the option 'grpc.dns_enable_srv_queries' is not implemented, and ignored"
    ]


def test_an_option_of_servers_is_none_of_channels(caplog: pytest.LogCaptureFixture) -> None:
    ChannelOptions.of([("grpc.max_concurrent_streams", 1)])
    assert "grpc.max_concurrent_streams" in caplog.text


def test_what_is_so_anyway_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    ChannelOptions.of([("grpc.enable_http_proxy", 0), ("SingleThreadedUnaryStream", 1)])
    patient = "grpc.http2.min_ping_interval_without_data_ms"
    ServerOptions.of([("grpc.http2.max_ping_strikes", 0), (patient, 10_000)])
    assert not caplog.records
    ChannelOptions.of([("grpc.enable_http_proxy", 1)])
    assert "grpc.enable_http_proxy" in caplog.text
    ServerOptions.of([(patient, 1_000_000)])
    assert patient in caplog.text


def test_how_long_the_other_side_may_be_silent() -> None:
    time, timeout = ("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 500)
    assert ServerOptions.of([timeout]).dead_after is None
    assert ServerOptions.of([time]).dead_after == 21
    assert ServerOptions.of([time, timeout]).dead_after == 1.5


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("grpc.max_receive_message_length", "5", "a number, not '5'"),
        ("grpc.keepalive_time_ms", -5, "a number of milliseconds, not -5"),
        ("grpc.default_authority", 5, "text, not 5"),
        ("grpc.default_compression_algorithm", 7, "one of grpc.Compression, not 7"),
        ("grpc.keepalive_time_ms", 1.5, "a number, not 1.5"),
    ],
)
def test_a_value_of_the_wrong_kind_is_ignored_aloud(
    name: str, value: Any, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert ChannelOptions.of([(name, value)]) == ChannelOptions()
    assert f"the option {name!r} is ignored: it is {what}" in caplog.text
