"""`python -m hvrpc` is the command `hvrpc`."""

import sys

from .cli import start

sys.exit(start())
