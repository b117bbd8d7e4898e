"""pynvim's msgpack-RPC session as a client of a server that is no Neovim.

On connecting it sends the notification ``nvim_set_client_info`` by itself, its name as binary.
"""
# pyright: reportMissingImports=false

import json
import sys
from typing import Any

from pynvim.msgpack_rpc import socket_session  # type: ignore[import-not-found]


def report(step: str, **outcome: Any) -> None:
    print(json.dumps({"step": step, **outcome}), flush=True)


def main(path: str) -> None:
    session = socket_session(path)
    # By itself it takes the second element of an error, as Neovim sends them.
    session.error_wrapper = lambda error: Exception(str(error))

    report("echo", result=session.request("echo", "Grüße"))
    report("structure", result=session.request("echo", [1, "two", [True, 3.5, -4]]))
    report("add", result=session.request("add", 2, 3))
    try:
        session.request("fail", "no luck")
    except Exception as error:
        report("fail", error=str(error))
    session.request("note", "noted", async_=True)
    report("notes", result=session.request("notes"))
    report("nested", result=nested(session))
    session.close()


def nested(session: Any) -> Any:
    """Requests of the other side are only served while the session runs its loop."""
    results = []

    def ask() -> None:
        results.append(session.request("nested", "answer", []))
        session.stop()

    session.run(lambda name, params: 42, lambda name, params: None, ask)
    return results[0]


main(sys.argv[1])
