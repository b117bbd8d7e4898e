"""Writes which wheels the rigs install, with their hashes: run it when dependencies have changed.

python3 tests/rigs/pins.py

Each rig has a file `wheels.txt`, in the format of pip's requirement files. It is made of the newest
versions that fit pyproject.toml.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.rigs.cache import open_cache
from tests.rigs.project import Tools, Wheels, normal_name
from tests.rigs.vm import images
from tests.rigs.windows import interpreter


def main() -> None:
    tools = Tools(open_cache(None))
    windows = [interpreter.wheels_for(version) for version in sorted(interpreter.RELEASES)]
    for wheels in (windows, [images.wheels()]):
        wheels[0].pins.write_text(pins_of(tools, wheels))


def pins_of(tools: Tools, wheels: list[Wheels]) -> str:
    """One line for each package; it may have other wheels, and so hashes, for other Pythons."""
    hashes: dict[str, set[str]] = {}
    for each in wheels:
        for found in tools.resolve(each):
            pin = f"{normal_name(found['metadata']['name'])}=={found['metadata']['version']}"
            checked = found["download_info"]["archive_info"]["hashes"]["sha256"]
            hashes.setdefault(pin, set()).add(f"--hash=sha256:{checked}")
    return "".join(f"{pin} {' '.join(sorted(hashes[pin]))}\n" for pin in sorted(hashes))


if __name__ == "__main__":
    main()
