"""A client made of txmsgpackrpc, on Twisted."""
# pyright: reportMissingImports=false

import json
import sys
from typing import Any

from twisted.internet import defer, task  # type: ignore[import-not-found]
from txmsgpackrpc.client import connect_UNIX  # type: ignore[import-not-found]
from txmsgpackrpc.error import ResponseError  # type: ignore[import-not-found]


def report(step: str, **outcome: Any) -> None:
    print(json.dumps({"step": step, **outcome}), flush=True)


async def run(path: str) -> None:
    client = await connect_UNIX(path, connectTimeout=5, waitTimeout=20)
    call = client.createRequest
    report("echo", result=await call("echo", "Grüße"))
    report("structure", result=await call("echo", [1, "two", [True, 3.5, -4]]))
    report("add", result=await call("add", 2, 3))
    try:
        await call("fail", "no luck")
    except ResponseError as error:
        report("fail", error=str(error))
    calls = [call("add", number, 1) for number in range(50)]
    report("pipelined", result=await defer.gatherResults(calls))
    await client.createNotification("note", ["noted"])
    report("notes", result=await call("notes"))
    await client.disconnect()


task.react(lambda reactor, path: defer.ensureDeferred(run(path)), sys.argv[1:])
