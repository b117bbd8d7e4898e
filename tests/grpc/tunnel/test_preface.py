"""What the C core says first is read exactly, and what it does not say is refused."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from hvrpc.grpc.tunnel.preface import BadPreface, Preface, answer, arguments, parse

GOOD = (
    b"CONNECT hvsock://My%20VM/50051 HTTP/1.1\r\n"
    b"Host: hvsock://My%20VM/50051\r\n"
    b"User-Agent: grpc-httpcli/0.0\r\n"
    b"Proxy-Authorization:Bearer secret:1\r\n"
    b"\r\n"
)


def test_a_request_has_a_target_and_headers() -> None:
    assert parse(GOOD) == Preface(
        "hvsock://My%20VM/50051",
        {
            "host": "hvsock://My%20VM/50051",
            "user-agent": "grpc-httpcli/0.0",
            "proxy-authorization": "Bearer secret:1",
        },
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        GOOD + b"PRI * HTTP/2.0",
        GOOD[:-1],
        GOOD.replace(b"CONNECT", b"GET"),
        GOOD.replace(b"HTTP/1.1", b"HTTP/2"),
        GOOD.replace(b"hvsock://My%20VM/50051 HTTP", b"HTTP", 1),
        GOOD.replace(b"Host: ", b"Host "),
        GOOD.replace(b"My", "Mü".encode()),
        GOOD.replace(b"User-Agent: grpc-httpcli/0.0", b"Proxy-Authorization:Bearer other"),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(BadPreface):
        parse(data)


def test_answers_are_status_lines() -> None:
    assert answer(HTTPStatus.OK) == b"HTTP/1.1 200 OK\r\n\r\n"
    assert answer(HTTPStatus.FORBIDDEN) == b"HTTP/1.1 403 Forbidden\r\n\r\n"


def test_arguments_join_headers_by_lines() -> None:
    assert arguments("hvsock://web/1", {"A": "b", "C": "d"}) == [
        ("grpc.http_connect_server", "hvsock://web/1"),
        ("grpc.http_connect_headers", "A:b\nC:d"),
    ]
