"""Neovim, called by our clients and calling our servers, and both at once.

It is the strictest of the peers: its types are extension types, its errors have codes, and it calls
back over the connection it is called on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest

from hvrpc import ConnectionLost, RemoteError
from hvrpc.msgpack import Context, Extensions, Service

from ..msgpack.drivers import ASYNCIO, BLOCKING, AnyClient, Bench, Gate, bench
from ..scripts import ROOT
from ..sockets.background import Background, wait_until
from ..sockets.places import MISSING, PLACES
from .peers import SERVERS
from .processes import server_of

pytestmark = pytest.mark.skipif("unix" in MISSING, reason=MISSING.get("unix", ""))

CALLS_BACK = "return vim.fn.rpcrequest(vim.g.channel, ...)"
"""Lua that calls the method given to it over the channel that was stored before."""


@pytest.fixture(params=[BLOCKING, ASYNCIO], name="bench")
def _bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with PLACES["unix"]() as place, bench(place, request.param, request.param) as made:
        yield made


@pytest.fixture
def nvim() -> Iterator[Path]:
    """The socket of a Neovim that runs for one test."""
    peer = SERVERS["neovim"]
    if reason := peer.missing():
        pytest.skip(reason)
    with server_of(peer) as path:
        yield path


@dataclass(frozen=True)
class Handle:
    number: int


class Buffer(Handle):
    pass


class Window(Handle):
    pass


class Tabpage(Handle):
    pass


def handles() -> Extensions:
    """Neovim's own types: their payload is a msgpack integer."""
    extensions = Extensions()
    for code, kind in enumerate((Buffer, Window, Tabpage)):
        extensions.register(code, kind, _pack_handle, _unpacker_of(kind))
    return extensions


def _pack_handle(handle: Handle) -> bytes:
    packed: Any = msgpack.packb(handle.number)  # bytes; the library's types say less
    return bytes(packed)


def _unpacker_of(kind: type[Handle]) -> Any:
    return lambda data: kind(msgpack.unpackb(data))


def client_of(bench: Bench, nvim: Path, service: Any = None) -> AnyClient:
    """A client whose channel Neovim knows as `vim.g.channel`."""
    bench.url = f"unix://{nvim}"
    client = bench.connect(service=service, extensions=handles())
    channel, _ = client.call("nvim_get_api_info")
    client.call("nvim_set_var", "channel", channel)
    return client


def lua(client: AnyClient, code: str, *params: Any) -> Any:
    return client.call("nvim_exec_lua", code, list(params))


class TestAsServer:
    def test_it_tells_what_it_offers(self, bench: Bench, nvim: Path) -> None:
        client = client_of(bench, nvim)
        channel, facts = client.call("nvim_get_api_info")
        assert channel > 0
        assert "nvim_eval" in {function["name"] for function in facts["functions"]}
        assert facts["types"]["Buffer"]["id"] == 0

    def test_expressions_and_commands(self, bench: Bench, nvim: Path) -> None:
        client = client_of(bench, nvim)
        assert client.call("nvim_eval", "6 * 7") == 42
        assert client.call("nvim_command", "let g:answer = [1, {'a': 'ä'}]") is None
        assert client.remote.nvim_get_var("answer") == [1, {"a": "ä"}]

    def test_integers_of_the_api_have_64_bits(self, bench: Bench, nvim: Path) -> None:
        client = client_of(bench, nvim)
        for value in (2**63 - 1, -(2**63)):
            client.call("nvim_set_var", "number", value)
            assert client.call("nvim_get_var", "number") == value

    def test_handles_are_objects_of_ours(self, bench: Bench, nvim: Path) -> None:
        client = client_of(bench, nvim)
        buffer = client.call("nvim_get_current_buf")
        assert buffer == Buffer(1)
        assert isinstance(client.call("nvim_get_current_win"), Window)
        assert isinstance(client.call("nvim_get_current_tabpage"), Tabpage)
        client.call("nvim_buf_set_lines", buffer, 0, -1, True, ["one", "zwölf"])
        assert client.call("nvim_buf_get_lines", buffer, 0, -1, True) == ["one", "zwölf"]
        other = client.call("nvim_create_buf", True, False)
        assert client.call("nvim_list_bufs") == [buffer, other]

    def test_handles_that_nobody_registered_can_still_be_given_back(
        self, bench: Bench, nvim: Path
    ) -> None:
        bench.url = f"unix://{nvim}"
        client = bench.connect()
        buffer = client.call("nvim_get_current_buf")
        assert isinstance(buffer, msgpack.ExtType)
        assert client.call("nvim_buf_line_count", buffer) == 1

    @pytest.mark.parametrize(
        ("method", "params", "code", "message"),
        [
            ("nvim_eval", ["nosuch("], 0, "nosuch"),
            ("nvim_command", ["nonsense"], 0, "E492: Not an editor command: nonsense"),
            ("nvim_buf_line_count", [Buffer(99)], 1, "Invalid buffer id: 99"),
            ("nvim_no_such", [], 0, "nvim_no_such"),
        ],
    )
    def test_errors_have_code_and_message(
        self, bench: Bench, nvim: Path, method: str, params: list[Any], code: int, message: str
    ) -> None:
        client = client_of(bench, nvim)
        with pytest.raises(RemoteError) as failed:
            client.call(method, *params)
        assert failed.value.code == code
        assert message in failed.value.message

    def test_its_complaint_about_a_notification_does_no_harm(
        self, bench: Bench, nvim: Path
    ) -> None:
        """A notification that fails there is answered by one, `nvim_error_event`."""
        client = client_of(bench, nvim)
        client.notify("nvim_command", "nonsense")
        assert client.call("nvim_eval", "1") == 1
        assert client.connections == 1

    def test_its_complaint_can_be_heard(self, bench: Bench, nvim: Path) -> None:
        heard: list[Any] = []
        service = Service()
        service.method("nvim_error_event")(lambda code, message: heard.append((code, message)))
        client = client_of(bench, nvim, service)
        client.notify("nvim_command", "nonsense")
        wait_until(lambda: heard, "it has complained")
        assert [(code, "nonsense" in message) for code, message in heard] == [(0, True)]


class Descent:
    """`down(3)` calls Neovim, which calls `down(2)`, which calls Neovim, …"""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = defaultdict(Gate)
        self.notes: list[Any] = []

    def note(self, x: Any) -> None:
        self.notes.append(x)

    def fail(self, text: str) -> None:
        raise RemoteError(text, code=7)

    async def hold(self, name: str) -> str:
        await self.gates[name].wait()
        return name


class DescentByThreads(Descent):
    def down(self, depth: int, code: str, context: Context) -> list[int]:
        if depth == 0:
            return []
        return [depth, *context.caller.call("nvim_exec_lua", code, ["down", depth - 1, code])]


class DescentByLoop(Descent):
    async def down(self, depth: int, code: str, context: Context) -> list[int]:
        if depth == 0:
            return []
        below = await context.caller.call("nvim_exec_lua", code, ["down", depth - 1, code])
        return [depth, *below]


def descent_for(driver: str) -> Descent:
    return DescentByThreads() if driver == BLOCKING else DescentByLoop()


class TestBothWays:
    """It calls back over the connection on which it is called."""

    @pytest.mark.parametrize("depth", [0, 1, 3, 10])
    def test_calls_inside_calls(self, bench: Bench, nvim: Path, depth: int) -> None:
        """With a depth of three, both ends wait for each other three times at once."""
        client = client_of(bench, nvim, descent_for(bench.client_driver))
        expected = list(range(depth, 0, -1))
        for _ in range(3):
            assert lua(client, CALLS_BACK, "down", depth, CALLS_BACK) == expected
        assert client.connections == 1

    def test_from_vimscript(self, bench: Bench, nvim: Path) -> None:
        client = client_of(bench, nvim, descent_for(bench.client_driver))
        expression = f"rpcrequest(g:channel, 'down', 3, '{CALLS_BACK}')"
        assert client.call("nvim_eval", expression) == [3, 2, 1]

    def test_our_error_comes_back_through_it(self, bench: Bench, nvim: Path) -> None:
        client = client_of(bench, nvim, descent_for(bench.client_driver))
        with pytest.raises(RemoteError, match=r"Error invoking 'fail'[^§]*no luck"):
            lua(client, CALLS_BACK, "fail", "no luck")
        with pytest.raises(RemoteError, match=r"there is no method 'nope'"):
            lua(client, CALLS_BACK, "nope")
        with pytest.raises(RemoteError, match=r"expected int, got str 'zero'"):
            lua(client, CALLS_BACK, "down", "zero", CALLS_BACK)
        assert client.call("nvim_eval", "1") == 1
        assert client.connections == 1

    def test_notifications(self, bench: Bench, nvim: Path) -> None:
        service = descent_for(bench.client_driver)
        client = client_of(bench, nvim, service)
        lua(client, "for n = 1, 20 do vim.fn.rpcnotify(vim.g.channel, 'note', n) end")
        wait_until(lambda: len(service.notes) == 20, "all notifications have come")
        assert service.notes == list(range(1, 21))

    def test_a_buffer_tells_of_its_changes(self, bench: Bench, nvim: Path) -> None:
        """The events that editors' front ends live on."""
        heard: list[list[Any]] = []
        service = Service()
        service.method("nvim_buf_lines_event")(lambda *event: heard.append(list(event)))
        client = client_of(bench, nvim, service)
        buffer = client.call("nvim_get_current_buf")
        assert client.call("nvim_buf_attach", buffer, False, {})
        client.call("nvim_buf_set_lines", buffer, 0, -1, True, ["one", "two"])
        wait_until(lambda: heard, "the change was told")
        assert heard[0][0] == buffer
        assert heard[0][4] == ["one", "two"]

    def test_two_at_a_time_if_the_newest_is_answered_first(self, bench: Bench, nvim: Path) -> None:
        service = descent_for(bench.client_driver)
        client = client_of(bench, nvim, service)
        older, newer = (_held(client, service, name) for name in ("older", "newer"))
        for name, waiting in (("newer", newer), ("older", older)):
            service.gates[name].open()
            assert waiting.result() == name
        assert client.connections == 1

    def test_two_at_a_time_if_the_oldest_is_answered_first(self, bench: Bench, nvim: Path) -> None:
        """It closes the connection. Our calls say so, and the next one opens another."""
        service = descent_for(bench.client_driver)
        client = client_of(bench, nvim, service)
        if lua(client, "return vim.fn.has('nvim-0.10')") == 1:
            pytest.skip("Neovim 0.10 and later can take it; to see this, run with an older one")
        older, newer = (_held(client, service, name) for name in ("older", "newer"))
        service.gates["older"].open()
        assert isinstance(older.error(), ConnectionLost)
        assert isinstance(newer.error(), ConnectionLost)
        assert client.call("nvim_eval", "1") == 1
        assert client.connections == 2


def _held(client: AnyClient, service: Descent, name: str) -> Background[Any]:
    """A call that waits in Neovim, which waits for us."""
    waiting = Background(lambda: lua(client, CALLS_BACK, "hold", name))
    assert service.gates[name].reached.wait(20)
    return waiting


class TestAsClient:
    """It opens the connection, by `sockconnect`; another connection tells it to."""

    @pytest.fixture
    def ours(self, bench: Bench) -> Descent:
        """What a server of ours offers, at `bench.url`."""
        service = descent_for(bench.server_driver)
        bench.serve(service, extensions=handles())
        return service

    @pytest.fixture
    def puppet(self, bench: Bench, ours: Descent, nvim: Path) -> AnyClient:
        """Calls Neovim, whose `vim.g.channel` leads to our server."""
        path = bench.url.removeprefix("unix://")
        bench.url = f"unix://{nvim}"
        client = bench.connect()
        code = "vim.g.channel = vim.fn.sockconnect('pipe', ..., {rpc = true})"
        client.call("nvim_exec_lua", code, [path])
        return client

    @pytest.mark.parametrize("depth", [0, 1, 3, 10])
    def test_calls_inside_calls(self, puppet: AnyClient, depth: int) -> None:
        for _ in range(3):
            expected = list(range(depth, 0, -1))
            assert lua(puppet, CALLS_BACK, "down", depth, CALLS_BACK) == expected

    def test_notifications(self, puppet: AnyClient, ours: Descent) -> None:
        lua(puppet, "for n = 1, 20 do vim.fn.rpcnotify(vim.g.channel, 'note', n) end")
        wait_until(lambda: len(ours.notes) == 20, "all notifications have come")
        assert ours.notes == list(range(1, 21))

    def test_it_closes_its_channel(self, puppet: AnyClient, ours: Descent) -> None:
        """And our server is there for the next one."""
        code = "return vim.fn.chanclose(vim.g.channel)"
        assert lua(puppet, CALLS_BACK, "down", 1, CALLS_BACK) == [1]
        assert lua(puppet, code) == 1
        with pytest.raises(RemoteError, match="Invalid channel"):
            lua(puppet, CALLS_BACK, "down", 1, CALLS_BACK)


def test_the_documented_example(nvim: Path) -> None:
    page = (ROOT / "docs" / "reference" / "interop.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert "unix:///tmp/nvim.sock" in program
    exec(program.replace("/tmp/nvim.sock", str(nvim)), {"__name__": "example"})
