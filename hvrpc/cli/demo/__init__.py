"""`hvrpc demo`: an agent in a "virtual machine", and the host that calls it.

`protos/demo.proto` says what can be called, `gen` is what `hvrpc codegen` made of it, `guest` runs in the VM, `host` calls it. Both are as
they would be with a hypervisor; only the fabric between them is emulated.
"""
