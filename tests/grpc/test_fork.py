"""A process that forks: parent and child each go on, with connections of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from ..scripts import ROOT
from ..sockets.background import WAIT
from ..sockets.places import short_folder

PROGRAM = """
    import os, sys
    from concurrent import futures

    import grpc
    import hvrpc.grpc

    target, method = "unix://" + sys.argv[1] + "/service", "/fork.Service/Who"

    def serve(ready):
        who = grpc.unary_unary_rpc_method_handler(lambda request, context: context.peer().encode())
        handlers = [grpc.method_handlers_generic_handler("fork.Service", {"Who": who})]
        server = hvrpc.grpc.server(futures.ThreadPoolExecutor(2), handlers)
        server.add_insecure_port(target)
        server.start()
        os.write(ready, b"!")
        os.close(ready)
        server.wait_for_termination(60)  # it is ended by a signal before that

    def in_child(function, *arguments):
        if pid := os.fork():
            return pid
        code = 1
        try:
            function(*arguments)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)

    def ask(who):
        peer = who(b"", timeout=20).decode()
        assert peer.endswith(f"pid={os.getpid()}"), (peer, os.getpid())

    reading, writing = os.pipe()
    serving = in_child(serve, writing)
    assert os.read(reading, 1) == b"!"
    channel = hvrpc.grpc.insecure_channel(target)
    who = channel.unary_unary(method)
    ask(who)

    def use_the_parent_s_channel():
        for _ in range(3):
            ask(who)
        assert who.future(b"", timeout=20).result().endswith(f"pid={os.getpid()}".encode())

    children = [in_child(use_the_parent_s_channel) for _ in range(3)]
    for _ in range(20):
        ask(who)
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    ask(who)
    channel.close()
    print("all is well", flush=True)
    os.kill(serving, 15)
    os.waitpid(serving, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(): run on Linux")
def test_parent_and_children_use_the_same_channel() -> None:
    with short_folder() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), str(folder)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * WAIT,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all is well"
