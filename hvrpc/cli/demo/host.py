"""The host's side of the demo: it calls the agent, loses it, and finds it again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

import grpc

import hvrpc.msgpack
from hvrpc.testing import Fabric, Guest

from .. import output
from ..errors import problem_of, wrapped
from ..latencies import Latencies, short
from . import guest
from .gen.demo_hvrpc import AgentClient
from .gen.demo_pb2 import Progress

VM = "web"
GRPC = f"hvsock://{VM}/{guest.GRPC_PORT}"
MSGPACK = f"hvsock://{VM}/{guest.MSGPACK_PORT}"

PACKAGES = ("git", "nginx", "postgresql", "redis", "python3")
KILL_AT = 60
"""Percent of the second installation at which the VM is switched off."""
CALLS = 1000
INDENT = 11
PAUSE = 0.5
"""Seconds that the VM stays off: long enough for the host to look for it in vain."""


def run() -> None:
    """Show all of it. Raises `hvrpc.HvrpcError` or `grpc.RpcError` where it does not work."""
    with Fabric() as fabric:
        tell("guest", f"'{VM}' is switched on: a process that plays a virtual machine", "green")
        vm = fabric.guest(VM, guest.main, ready="told")
        tell("", f"it is process {vm.pid}, this host is process {os.getpid()}")
        with (
            AgentClient.connect(GRPC) as agent,
            hvrpc.msgpack.connect(MSGPACK, timeout=10) as tools,
        ):
            call(agent, tools)
            install(agent)
            lose(agent, vm)
            come_back(agent, tools, vm)
            measure(agent, tools)
    what_next()


def call(agent: AgentClient, tools: hvrpc.msgpack.Client) -> None:
    """A call of each protocol."""
    code("gRPC", f'AgentClient.connect("{GRPC}").describe()')
    facts = agent.describe(timeout=10)
    answer(f"{facts.system}, Python {facts.python}, in VM '{facts.vm}', process {facts.process}")
    code("msgpack", f'connect("{MSGPACK}").call("add", 1, 2)')
    answer(str(tools.call("add", 1, 2)))


def install(agent: AgentClient) -> None:
    """A stream of answers, shown as they come."""
    code("stream", f"for progress in agent.install(packages={list(PACKAGES)})")
    _watch(agent.install(packages=PACKAGES, timeout=30))
    answer(f"{len(PACKAGES)} packages are installed")


def lose(agent: AgentClient, vm: Guest) -> None:
    """The VM is switched off in the midst of a call."""
    code("stream", "the same again, and the plug is pulled in the midst of it")
    try:
        _watch(agent.install(packages=PACKAGES, timeout=30), vm)
    except grpc.RpcError as error:
        tell("guest", f"was switched off at {KILL_AT} %", "red")
        problem = problem_of(error)
        assert problem is not None
        tell("error", problem.what, "red")
        tell("", f"{problem.why}; {problem.do}" if problem.do else problem.why, "red")
    else:
        raise AssertionError("a VM that was switched off has answered")


def come_back(agent: AgentClient, tools: hvrpc.msgpack.Client, vm: Guest) -> None:
    """Calls made while it is off are answered when it is on again, on the same channel."""
    code("gRPC", "agent.describe(wait_for_ready=True)")
    waiting = agent.describe.future(wait_for_ready=True, timeout=30)
    time.sleep(PAUSE)
    tell("guest", "is switched on again", "green")
    vm.restart()
    ready = time.perf_counter()
    facts = waiting.result()
    took = short(max(time.perf_counter() - ready, 0.0))
    answer(f"process {facts.process} of the same VM, {took} after it was ready")
    code("msgpack", 'client.call("add", 3, 4)')
    answer(
        f"{tools.call('add', 3, 4)}, on connection number {tools.connections} of the same client"
    )


def _watch(progress: Iterable[Progress], vm: Guest | None = None) -> None:
    """Show a stream as a bar. A VM that is given is switched off on the way."""
    with output.progress("           installing", True) as show:
        for each in progress:
            show(each.percent / 100, each.package)
            if vm is not None and each.percent == KILL_AT:
                vm.kill()
                vm = None


def measure(agent: AgentClient, tools: hvrpc.msgpack.Client) -> None:
    """What a small call costs. On the fabric: between the two is no hypervisor."""
    rows = [
        ("gRPC (typed)", *_row(agent.describe)),
        ("msgpack-RPC", *_row(lambda: tools.call("add", 1, 2))),
    ]
    tell("latency", f"{CALLS:,} calls of each, one after the other")
    table = output.table("", "median", "p99", "calls/s", rows=rows)
    from rich.padding import Padding

    output.console().print(Padding(table, (0, 0, 0, 11), expand=False))


def _row(once: Callable[[], object]) -> tuple[str, str, str]:
    for _ in range(CALLS // 10):
        once()
    times = []
    began = time.perf_counter()
    for _ in range(CALLS):
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    rate = CALLS / (time.perf_counter() - began)
    latencies = Latencies.of(times)
    return short(latencies.percentile(50)), short(latencies.percentile(99)), f"{rate:,.0f}"


def what_next() -> None:
    """How to go on with a real VM."""
    tell("next", "on a real VM; nothing of the code changes, only where it runs:", "bold cyan")
    for line in (
        'in the VM    pip install "hvrpc[cli,grpc]"',
        "             hvrpc serve agent:Agent --listen hvsock://any/5001 --allow parent",
        'on the host  hvrpc ping --msgpack "hvsock://NAME OF THE VM/5001"',
        "             hvrpc doctor says what is missing, should it not answer",
    ):
        tell("", line)


def code(what: str, line: str) -> None:
    """What a program would say here."""
    tell(what, line, "cyan")


def answer(text: str) -> None:
    tell("answer", text)


def tell(what: str, text: str, style: str = "") -> None:
    from rich.text import Text

    console = output.console()
    for number, line in enumerate(wrapped(text, console.width - INDENT)):
        head = f"{'' if number else what:>9}  "
        output.say(Text.assemble((head, style or "dim"), (line, style)))
