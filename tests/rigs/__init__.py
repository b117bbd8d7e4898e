"""Rigs: the test-suite on real boundaries. `windows` is CPython for Windows under Wine, `vm` is QEMU.

The modules here use the standard library only: they run before any virtual environment exists.
"""
