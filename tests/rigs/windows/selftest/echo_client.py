"""Sends a million bytes and wants them back: echo_client.py VM SERVICE. Exit code: Winsock's."""

import os
import socket
import sys
import threading

assert sys.platform == "win32"


def main() -> None:
    block = os.urandom(1_000_000)
    received = bytearray()
    with socket.socket(socket.AF_HYPERV, socket.SOCK_STREAM, socket.HV_PROTOCOL_RAW) as client:
        client.connect((sys.argv[1], sys.argv[2]))

        def send() -> None:
            client.sendall(block)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while data := client.recv(65536):
            received += data
        sender.join()
    if bytes(received) != block:
        sys.exit("the echo differs")
    print("echoed", len(received), flush=True)


try:
    main()
except OSError as problem:
    sys.exit(problem.winerror)
