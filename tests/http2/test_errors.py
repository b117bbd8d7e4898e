"""Errors say who broke the protocol, how, and with which code."""

from __future__ import annotations

import pickle

from hvrpc.http2 import (
    CannotOpenStream,
    ConnectionEnding,
    ErrorCode,
    Http2Error,
    LocalProtocolError,
    RemoteProtocolError,
    StreamClosed,
    TooManyStreams,
)
from hvrpc.http2.errors import code_name


def test_the_tree_tells_who_broke_it() -> None:
    for ours in (StreamClosed, TooManyStreams, ConnectionEnding):
        assert issubclass(ours, LocalProtocolError)
    assert issubclass(TooManyStreams, CannotOpenStream)
    assert issubclass(ConnectionEnding, CannotOpenStream)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
    assert issubclass(RemoteProtocolError, Http2Error)


def test_a_remote_error_shows_reason_and_code_also_after_pickling() -> None:
    error = RemoteProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "too much")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert str(each) == "too much (FLOW_CONTROL_ERROR)"
        assert each.code is ErrorCode.FLOW_CONTROL_ERROR


def test_messages_name_stream_and_limit() -> None:
    assert "stream 7" in str(StreamClosed(7))
    assert "all 100 streams" in str(TooManyStreams(100))


def test_unknown_codes_stay_numbers() -> None:
    assert code_name(8) == "CANCEL"
    assert code_name(0x1234) == "error code 0x1234"
