"""`python -m hvrpc_codegen`: what `hvrpc codegen` does, without the command line's libraries."""

from __future__ import annotations

import sys

from .runner import main

sys.exit(main())
