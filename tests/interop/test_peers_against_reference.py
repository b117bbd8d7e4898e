"""The peers' programs do what the catalogue says, seen by the smallest possible other side.

A failure here is a fault of a peer's program (or of the peer), not of hvrpc.
"""

from __future__ import annotations

import pytest

from .peers import CLIENTS, SERVERS, STEPS, Peer
from .processes import run_client, server_of, socket_folder
from .reference import Failure, ReferenceClient, ReferenceServer

# The first run builds the Go programs.
pytestmark = pytest.mark.timeout(200)


def _installed(peer: Peer) -> Peer:
    if reason := peer.missing():
        pytest.skip(reason)
    return peer


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_goes_through_its_steps(name: str) -> None:
    peer = _installed(CLIENTS[name])
    assert peer.client is not None
    with socket_folder() as folder, ReferenceServer(folder / "reference"):
        printed = run_client(peer, folder / "reference")
    assert printed.keys() == peer.client.steps
    assert "no luck" in str(printed.pop("fail"))
    assert printed == {step: STEPS[step] for step in printed}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_answers_calls_notifications_and_failures(name: str) -> None:
    peer = _installed(SERVERS[name])
    assert peer.server is not None
    spell = peer.server.spell
    with server_of(peer) as path, ReferenceClient(path) as client:
        assert client.call(*spell("echo", "Grüße")) == "Grüße"
        assert client.call(*spell("echo", STEPS["structure"])) == STEPS["structure"]
        assert client.call(*spell("add", 2, 3)) == 5
        with pytest.raises(Failure, match="no luck"):
            client.call(*spell("fail", "no luck"))
        calls = [spell("add", number, 1) for number in range(50)]
        assert client.call_many(calls) == STEPS["pipelined"]
        if peer.server.takes_notifications:
            client.notify(*spell("note", "noted"))
            assert client.call(*spell("notes")) == ["noted"]


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_replies_in_the_order_the_catalogue_says(name: str) -> None:
    peer = _installed(SERVERS[name])
    assert peer.server is not None
    spell = peer.server.spell
    calls = [spell("slow", 0.5, "slow"), spell("echo", "quick")]
    with server_of(peer) as path, ReferenceClient(path) as client:
        order = client.order_of_replies(calls)
    in_order = ["slow", "quick"]
    assert order == (in_order[::-1] if peer.server.replies_out_of_order else in_order)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_takes_one_connection_after_another(name: str) -> None:
    peer = _installed(SERVERS[name])
    assert peer.server is not None
    with server_of(peer) as path:
        for number in range(3):
            with ReferenceClient(path) as client:
                assert client.call(*peer.server.spell("echo", number)) == number
