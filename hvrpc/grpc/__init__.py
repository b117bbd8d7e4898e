"""gRPC on a VM socket: grpcio's API on an engine of our own."""
