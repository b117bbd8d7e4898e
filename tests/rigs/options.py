"""The part of the command line that all rigs share."""

import argparse

from .cache import CACHE_VARIABLE


def new_parser(rig: str, runs: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage=f"python3 tests/rigs/{rig}/run.py [options] [-- arguments of pytest or of the job]",
        description=f"Runs {runs}. See README.md beside run.py.",
    )
    parser.add_argument("--cache", help=f"folder for downloads; or set {CACHE_VARIABLE}")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for the job (900)")
    parser.add_argument("--setup-only", action="store_true", help="download and build, no more")
    parser.add_argument("--job", help="run this Python file instead of pytest")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse what stands before `--`; what stands behind it is kept in `rest`."""
    # argparse itself gives up when options stand between a positional argument and `--`.
    border = arguments.index("--") if "--" in arguments else len(arguments)
    rest = arguments[border + 1 :]
    return parser.parse_args(arguments[:border], argparse.Namespace(rest=rest))
