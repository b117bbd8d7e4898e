"""What the rig itself promises, with plain sockets and without hvrpc."""
