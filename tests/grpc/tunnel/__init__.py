"""Channels and servers of grpcio's C core, over a VM socket."""
