"""Listens for one connection and echoes it: echo_server.py VM SERVICE."""

import socket
import sys

assert sys.platform == "win32"

with socket.socket(socket.AF_HYPERV, socket.SOCK_STREAM, socket.HV_PROTOCOL_RAW) as listener:
    listener.bind((sys.argv[1], sys.argv[2]))
    listener.listen()
    print("listening", flush=True)
    connection, peer = listener.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
    print("caller", peer[0], flush=True)
