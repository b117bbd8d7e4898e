"""The golden files: what the generator makes of `protos/`.

    python3 run.py protos            writes them, after a change that is meant
    python3 run.py protos --check    compares

Only `*_hvrpc.py` are kept, for the rest is protoc's own and changes with its version.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hvrpc_codegen import runner

HERE = Path(__file__).parent
PROTOS = HERE / "protos"
GOLDEN = HERE / "golden"


def generated() -> dict[str, str]:
    """The text of each golden file as it should be."""
    outputs = runner.generate(runner.Job((PROTOS,), GOLDEN, (PROTOS,)))
    return {path: text for path, text in outputs.items() if path.endswith("_hvrpc.py")}


def main() -> int:
    outputs = generated()
    if "--check" in sys.argv[1:]:
        stale = runner.differing(outputs, GOLDEN)
        for path in stale:
            print(f"{path} is not what is generated", file=sys.stderr)
        return 1 if stale else 0
    for path in runner.write(outputs, GOLDEN):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
