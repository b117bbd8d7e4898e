"""A client made of aio-msgpack-rpc."""
# pyright: reportMissingImports=false

import asyncio
import json
import sys
from typing import Any

import aio_msgpack_rpc  # type: ignore[import-not-found]
from aio_msgpack_rpc.error import RPCResponseError  # type: ignore[import-not-found]


def report(step: str, **outcome: Any) -> None:
    print(json.dumps({"step": step, **outcome}), flush=True)


async def main(path: str) -> None:
    client = aio_msgpack_rpc.Client(*await asyncio.open_unix_connection(path))
    report("echo", result=await client.call("echo", "Grüße"))
    report("structure", result=await client.call("echo", [1, "two", [True, 3.5, -4]]))
    report("add", result=await client.call("add", 2, 3))
    try:
        await client.call("fail", "no luck")
    except RPCResponseError as error:
        report("fail", error=str(error))
    calls = [client.call("add", number, 1) for number in range(50)]
    report("pipelined", result=await asyncio.gather(*calls))
    await client.notify("note", "noted")
    report("notes", result=await client.call("notes"))
    client.close()


asyncio.run(main(sys.argv[1]))
