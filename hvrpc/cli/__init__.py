"""The command `hvrpc`.

Reading order: `main` (which commands there are), `errors` (what a person reads when something goes
wrong, and the exit codes), `output` (what a command prints), then `commands`, a module for each.

Nothing here may import click, rich or gRPC: they come with extras, and whoever has not installed
them must be told so in one line.
"""

from __future__ import annotations

import importlib.util
import sys

NEEDED = ("click", "rich")
MISSING = 69
"""Exit code, `EX_UNAVAILABLE` of sysexits.h; `errors.ExitCode` has it for everything else."""


INTERRUPTED = 130
"""Exit code of Ctrl-C."""


def start() -> int:
    """Run the command line of this process, and return its exit code."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing and sys.argv[1:2] == ["codegen"]:
        # It has a command line of its own, for machines that only generate.
        return _codegen()
    if missing:
        print(
            f"hvrpc: the command line needs {' and '.join(missing)}, not installed here:"
            f' {sys.executable} -m pip install "hvrpc[cli]"',
            file=sys.stderr,
        )
        return MISSING
    try:
        from .main import hvrpc
    except KeyboardInterrupt:  # from then on, `main` tells it
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return hvrpc.run()


def _codegen() -> int:
    try:
        from hvrpc_codegen.runner import main
    except ModuleNotFoundError as error:
        print(
            f"hvrpc codegen: it needs {error.name}, not installed here:"
            f' {sys.executable} -m pip install "hvrpc[codegen]"',
            file=sys.stderr,
        )
        return MISSING
    return main("hvrpc codegen", sys.argv[2:])
