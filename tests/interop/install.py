"""Install the peers: ``python -m tests.interop.install [name …]`` (all of them without names).

From apt (as root or through sudo), npm and pip, by the names of the packages. What npm and pip
bring goes to ``.cache/interop`` and nowhere else; each pip package has an environment of its own.
What is there already is left alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

from .peers import CACHE, GRPC_PEERS, PEERS, Peer, environment_of

ALL = (*PEERS, *GRPC_PEERS)

SECONDS = 900.0
"""For one installer. A mirror may be slow, but CI must not wait for ever."""


class Impossible(Exception):
    """An installer cannot work on this machine."""


def run(*command: str, **variables: str) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True, timeout=SECONDS, env={**os.environ, **variables})


def install_from_apt(peers: list[Peer]) -> None:
    packages = sorted({package for peer in peers for package in peer.source.packages})
    prefix = () if os.geteuid() == 0 else ("sudo",)
    run(*prefix, "apt-get", "update", "-qq")
    run(
        *(*prefix, "env", "DEBIAN_FRONTEND=noninteractive"),
        *("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages),
    )


def install_from_npm(peers: list[Peer]) -> None:
    if shutil.which("npm") is None:
        raise Impossible("npm is not installed; Debian and Ubuntu have it in the package npm")
    folder = CACHE / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    packages = [package for peer in peers for package in peer.source.packages]
    run("npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", *packages)


def install_from_pip(peers: list[Peer]) -> None:
    for peer in peers:
        environment = environment_of(peer.name)
        run(sys.executable, "-m", "venv", "--clear", str(environment))
        python = str(environment / "bin" / "python")
        run(python, "-m", "pip", "install", "--quiet", *peer.source.packages)


INSTALLERS: dict[str, Callable[[list[Peer]], None]] = {
    "apt": install_from_apt,
    "npm": install_from_npm,
    "pip": install_from_pip,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Install foreign implementations of msgpack-RPC and gRPC."
    )
    parser.add_argument("names", nargs="*", metavar="name", help="all of them, if none is named")
    names: list[str] = parser.parse_args().names
    if unknown := set(names) - {peer.name for peer in ALL}:
        known = ", ".join(peer.name for peer in ALL)
        parser.error(f"unknown: {', '.join(sorted(unknown))}. There are {known}")

    wanted = [peer for peer in ALL if not names or peer.name in names]
    absent = [peer for peer in wanted if not peer.is_installed()]
    for installer, install in INSTALLERS.items():
        if peers := [peer for peer in absent if peer.source.installer == installer]:
            try:
                install(peers)
            except (OSError, subprocess.SubprocessError, Impossible) as error:
                print(f"{installer}: {error}", flush=True)  # the others may still work
    missing = [reason for peer in wanted if (reason := look_at(peer))]
    sys.exit("\n".join(missing) or None)


def look_at(peer: Peer) -> str | None:
    """Build what has to be built. Why the peer cannot be used in spite of all; None if it can."""
    if reason := peer.missing():
        return f"after installing, {reason}"
    try:
        peer.prepare()
    except (OSError, subprocess.SubprocessError) as error:
        return f"{peer.name} could not be built: {error}"
    print(f"{peer.name}: ready")
    return None


if __name__ == "__main__":
    main()
