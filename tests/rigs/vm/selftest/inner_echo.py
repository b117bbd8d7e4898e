"""Runs in the inner guest: echoes every connection to the port, or calls the host when told to."""

import socket
import sys
import threading

CID_HOST = 2


def serve(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(65536):
            if data.startswith(b"call "):
                call_host(int(data.split()[1]))
            else:
                connection.sendall(data)


def call_host(port: int) -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
        client.connect((CID_HOST, port))
        client.sendall(b"it is me")


with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
    listener.bind((socket.VMADDR_CID_ANY, int(sys.argv[1])))
    listener.listen()
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
