"""A relay joins every caller to the target, within its limits, and can be stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import hvrpc
from hvrpc import ConnectError, ListenError
from hvrpc.relay import Counters, Relay
from hvrpc.security import Security
from hvrpc.sockets import Listener, Stream
from hvrpc.sockets.handshake import shake_hands

from ..certificates import Certificates
from ..sockets.background import Background, wait_until
from ..sockets.contract import read_to_end, some_bytes
from ..sockets.places import MISSING, PLACES, QUICK, Place, short_folder

needs_unix = pytest.mark.skipif("unix" in MISSING, reason=MISSING.get("unix", ""))


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture(params=[name for name in PLACES if name not in MISSING])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with PLACES[request.param]() as made:
        yield made


class Target:
    """A service behind a relay."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.url = str(listener.address)

    def accept(self) -> Stream:
        return self.listener.accept(timeout=20)[0]


@contextmanager
def target_at(url: str) -> Iterator[Target]:
    with hvrpc.sockets.listen(url, options=QUICK) as listener:
        yield Target(listener)


@pytest.fixture
def target() -> Iterator[Target]:
    with target_at("tcp://127.0.0.1:0") as made:
        yield made


def relay_to(target: Target | str, **settings: object) -> Relay:
    url = target if isinstance(target, str) else target.url
    return Relay.between("tcp://127.0.0.1:0", url, options=QUICK, **settings)  # type: ignore[arg-type]


def call(relay: Relay) -> Stream:
    return hvrpc.sockets.connect(relay.address, options=QUICK)


def wait_for(relay: Relay, **expected: int) -> None:
    def is_so() -> bool:
        counters = relay.counters
        return all(getattr(counters, name) == value for name, value in expected.items())

    wait_until(is_so, f"{expected}")


def echo_once(listener: Listener, size: int) -> None:
    stream, _ = listener.accept(timeout=20)
    with stream:
        stream.sendall(stream.recv_exactly(size))


class TestEveryFamily:
    """Whatever carries the bytes, on either side."""

    SIZE = 300_000

    def test_callers_come_by_it(self, place: Place, target: Target) -> None:
        data = some_bytes(self.SIZE)
        listener = place.listen()
        with Relay(listener, lambda _: hvrpc.sockets.connect(target.url, options=QUICK)) as relay:
            answering = Background(lambda: echo_once(target.listener, self.SIZE))
            with place.connect(listener) as stream:
                sending = Background(lambda: stream.sendall(data))
                assert stream.recv_exactly(self.SIZE) == data
                sending.result()
            answering.result()
            wait_for(relay, open=0, accepted=1, to_target=self.SIZE, to_caller=self.SIZE)

    def test_targets_are_reached_by_it(self, place: Place) -> None:
        data = some_bytes(self.SIZE)
        with place.listen() as listener:
            answering = Background(lambda: echo_once(listener, self.SIZE))
            with relay_to(place.url_for_callers(listener)) as relay, call(relay) as stream:
                sending = Background(lambda: stream.sendall(data))
                assert stream.recv_exactly(self.SIZE) == data
                sending.result()
            answering.result()


def test_callers_do_not_hear_each_other(target: Target) -> None:
    with relay_to(target) as relay, ExitStack() as stack:
        ours, theirs = [], []
        for _ in range(10):
            ours.append(stack.enter_context(call(relay)))
            theirs.append(stack.enter_context(target.accept()))
        for n, stream in enumerate(theirs):
            stream.sendall(bytes([n]))
        assert [stream.recv_exactly(1)[0] for stream in ours] == list(range(10))
        assert relay.counters == Counters(accepted=10, open=10, to_caller=10)


def test_one_caller_too_many_is_cut_off_and_counted(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    with relay_to(target, max_connections=1) as relay:
        with call(relay) as first:
            target.accept().close()
            with call(relay) as second:
                assert read_to_end(second) == b""
            assert read_to_end(first) == b""
        wait_for(relay, open=0, refused=1, accepted=1)
        with call(relay), target.accept():
            wait_for(relay, accepted=2)
    assert "one connection too many (limit 1)" in caplog.text


@needs_unix
def test_who_is_not_admitted_never_reaches_the_target(
    folder: Path, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    listen = f"unix://{folder}/relay"
    with Relay.between(
        listen, target.url, security=Security.of_server("parent"), options=QUICK
    ) as relay:
        with hvrpc.sockets.connect(listen, options=QUICK) as stream:
            assert read_to_end(stream) == b""
        wait_for(relay, refused=1, accepted=0)
    assert "allowed are: parent" in caplog.text


def test_each_side_can_be_encrypted(certificates: Certificates, target: Target) -> None:
    """From the caller to the first relay as it is, TLS between the relays, and plain to the target."""
    with (
        Relay.between(
            "tcp://127.0.0.1:0",
            target.url,
            security=Security.of_server(tls=certificates.tls("host")),
            options=QUICK,
        ) as second,
        Relay.between(
            "tcp://127.0.0.1:0",
            second.address,
            target_security=Security.of_client(tls=certificates.tls("web", names="host")),
            options=QUICK,
        ) as first,
        call(first) as stream,
        target.accept() as far,
    ):
        data = some_bytes(1_000_000)
        sending = Background(lambda: stream.sendall(data))
        assert far.recv_exactly(len(data)) == data
        sending.result()
        far.sendall(b"answer")
        far.close()
        assert read_to_end(stream) == b"answer"


def test_a_caller_whom_nobody_believes_does_not_reach_the_target(
    certificates: Certificates, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    security = Security.of_server(tls=certificates.tls("host"))
    with Relay.between("tcp://127.0.0.1:0", target.url, security=security, options=QUICK) as relay:
        with call(relay) as plain:
            plain.sendall(b"no TLS at all, and long enough for a record")
            assert b"TLS" not in read_to_end(plain)
        wait_for(relay, failed=1, open=0)
    assert "was not passed on: begin TLS with" in caplog.text


def test_a_target_that_is_somebody_else_is_not_given_a_byte(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = Security.of_client(expect_peer="parent")
    with relay_to(target, target_security=elsewhere) as relay, call(relay) as stream:
        assert read_to_end(stream) == b""
        wait_for(relay, failed=1)
    assert "where parent is expected" in caplog.text


def test_a_target_that_wants_a_certificate_ends_the_caller_and_is_logged(
    certificates: Certificates, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so when our side has finished its handshake already, and is not silent then."""
    wanting = Security.of_server(tls=certificates.tls("host")).tls
    assert wanting is not None
    security = Security.of_client(tls=certificates.tls(None))

    def refuse() -> None:
        with target.accept() as stream, pytest.raises(hvrpc.AccessDenied, match="no certificate"):
            shake_hands(stream, wanting, 20)

    with relay_to(target, target_security=security) as relay, call(relay) as caller:
        refusing = Background(refuse)
        assert read_to_end(caller) == b""
        refusing.result()
        wait_for(relay, open=0)
    assert "was cut off: " in caplog.text
    assert "wants a certificate of this side" in caplog.text


def test_a_target_out_of_reach_ends_the_caller_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with target_at("tcp://127.0.0.1:0") as gone:
        pass
    with relay_to(gone, name="web") as relay:
        with call(relay) as stream:
            assert read_to_end(stream) == b""
        wait_for(relay, failed=1, open=0)
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert record.getMessage().startswith("web: tcp:127.0.0.1:")
    assert f"was not passed on: connect to {gone.url}: " in record.getMessage()


def test_a_mistake_in_dialling_ends_one_caller_only(caplog: pytest.LogCaptureFixture) -> None:
    def dial(_: Stream) -> Stream:
        raise ZeroDivisionError

    with Relay(hvrpc.sockets.listen("tcp://127.0.0.1:0"), dial) as relay:
        for count in (1, 2):
            with call(relay) as stream:
                assert read_to_end(stream) == b""
            wait_for(relay, failed=count)
    assert "ZeroDivisionError" in caplog.text


def test_closing_lets_connections_finish_in_the_time_it_grants(target: Target) -> None:
    with relay_to(target) as relay:
        stream = call(relay)
        far = target.accept()
        closing = Background(lambda: relay.close(grace=60))
        closing.wait_until_blocked_in("close")
        with pytest.raises(ConnectError):
            call(relay)
        far.sendall(b"still here")
        assert stream.recv_exactly(10) == b"still here"
        far.close()
        stream.close()
        closing.result()
        assert relay.counters == Counters(accepted=1, to_caller=10)


def test_closing_cuts_what_is_left(target: Target) -> None:
    with relay_to(target) as relay, call(relay) as stream, target.accept() as far:
        relay.close()
        assert read_to_end(stream) == read_to_end(far) == b""
        assert relay.counters.open == 0


def test_closing_gives_up_a_caller_whose_target_is_still_being_dialled(target: Target) -> None:
    dialling, go_on = threading.Event(), threading.Event()

    def dial(_: Stream) -> Stream:
        dialling.set()
        assert go_on.wait(20)
        return hvrpc.sockets.connect(target.url, options=QUICK)

    with Relay(hvrpc.sockets.listen("tcp://127.0.0.1:0", options=QUICK), dial) as relay:
        stream = call(relay)
        assert dialling.wait(20)
        closing = Background(relay.close)
        assert read_to_end(stream) == b""
        go_on.set()
        closing.result()
        with target.accept() as far:
            assert read_to_end(far) == b""
        stream.close()


def test_listening_fails_at_once_where_it_cannot_be(target: Target) -> None:
    with pytest.raises(ListenError, match="already"):
        Relay.between(target.url, target.url)


def test_what_happens_is_logged_for_people_to_read(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "hvrpc.relay"), relay_to(target, name="web") as relay:
        with call(relay) as stream, target.accept() as far:
            stream.sendall(bytes(1234))
            far.recv_exactly(1234)
        wait_for(relay, open=0)
        wait_until(lambda: "has ended" in caplog.text, "it is logged")
    assert f"is connected to {target.url}" in caplog.text
    assert "1,234 bytes to the target and 0 back" in caplog.text
    assert str(relay.counters) == (
        "0 open, 1 accepted, 0 refused, 0 failed, 1,234 bytes to the target, 0 back"
    )
