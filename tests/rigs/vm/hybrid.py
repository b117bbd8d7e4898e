"""A hybrid vsock device with a real guest behind it, for programs in the outer guest.

Firecracker and Cloud Hypervisor have such a device in the hypervisor. Here it stands before the
kernel's own vhost-vsock, which the inner guest is connected to; so everything on the guest's side is
real, and on the host's side what matters is the handshake, which is the documented one.
"""

import socket

from ...sockets.hybrid_device import HybridDevice
from .inner import CID

CID_HOST = 2
LOOK_AGAIN = 0.5
"""Seconds between two looks whether the device has ended: nothing wakes a vsock that waits for callers."""


class RealGuestDevice(HybridDevice):
    """The device of the inner guest. It ends with the `with` block."""

    def new_guest_socket(self) -> socket.socket:
        return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)

    def call_guest(self, sock: socket.socket, port: int) -> None:
        sock.connect((CID, port))

    def let_guest_call(self, port: int) -> None:
        """Pass the guest's calls to this port of its host on, to the path with `_port` added."""
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((CID_HOST, port))
        listener.listen(128)
        listener.settimeout(LOOK_AGAIN)
        self._start(self._pass_on, self._keep(listener), port)

    def _pass_on(self, listener: socket.socket, port: int) -> None:
        while not self._ended:
            try:
                caller, _ = listener.accept()
            except TimeoutError:
                continue
            self._start(self._pass_on_one, self._keep(caller), port)

    def _pass_on_one(self, caller: socket.socket, port: int) -> None:
        service = self._keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            service.connect(f"{self.path}_{port}")
        except OSError:
            self._forget(caller, service)
        else:
            self._join(caller, service)
