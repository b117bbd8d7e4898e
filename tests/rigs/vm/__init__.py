"""The test-suite in guests of QEMU, where AF_VSOCK is the kernel's own."""
