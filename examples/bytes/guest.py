"""Runs in the virtual machine: sends back every byte that arrives.

    python guest.py [port]

In production one would add: allow="parent", so that only the host may call (here everybody may, and
one can try it out inside one VM); a timeout on each stream, since a paused host never says goodbye;
a limit on how many callers are served at once; and a protocol that says where a message ends, which
hvrpc.msgpack and hvrpc.grpc have. A service on the *host* must also be registered there.
"""

from __future__ import annotations

import sys
import threading

import hvrpc

CHUNK = 64 * 1024


def serve(port: int) -> None:
    with hvrpc.sockets.listen(f"hvsock://any/{port}") as listener:
        print(f"listening on {listener.address}", flush=True)
        for stream, peer in listener:
            print(f"called by {peer}", flush=True)
            threading.Thread(target=echo, args=[stream], daemon=True).start()


def echo(stream: hvrpc.sockets.Stream) -> None:
    """Send back what arrives, until the other side has nothing more to say."""
    with stream:
        try:
            while data := stream.recv(CHUNK):
                stream.sendall(data)
        except hvrpc.PeerGone as error:
            print(f"the caller has left: {error}", flush=True)


if __name__ == "__main__":
    try:
        serve(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
    except KeyboardInterrupt:
        pass  # the normal way to end it
