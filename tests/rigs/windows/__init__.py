"""The test-suite in CPython for Windows, under Wine, with AF_HYPERV emulated by a shim."""
