"""What holds across a boundary between two machines, whatever the boundary is made of.

`far_side` is a program that serves, `callers` call it, `contract` is what must hold. There is a module
for each boundary: the emulated fabric and Windows' partitions here, real virtual machines in
`tests/rigs/vm/selftest`.
"""
