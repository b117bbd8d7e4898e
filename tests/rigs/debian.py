"""What the rigs take from Debian: programs for this machine, and packages to unpack for a guest.

apt verifies signatures itself, so nothing is pinned here.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from .cache import alone
from .stages import SetupError, stage

APT_ENVIRONMENT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def need_programs(package_of: Mapping[str, str]) -> None:
    """Install the Debian packages of those programs (name or absolute path) that are missing."""
    packages = sorted({p for program, p in package_of.items() if shutil.which(program) is None})
    if not packages:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if os.geteuid() != 0:
        raise SetupError(f"please run as root: {' '.join(install)}")
    with stage(f"install {' '.join(packages)}"):
        _with_fresh_lists(install, cwd=Path("/"))


def download_packages(names: Iterable[str], folder: Path) -> None:
    """Put the newest `.deb` of each name into the folder."""
    # As root, apt downloads as the user _apt, who usually may not write to our cache, and warns.
    as_root = ["-o", "APT::Sandbox::User=root"]
    _with_fresh_lists(["apt-get", *as_root, "download", *names], cwd=folder)


def newest_dependency(package: str, prefix: str) -> str:
    """The package a meta-package stands for today, such as the current kernel image."""
    for _attempt in range(2):
        listing = _run(["apt-cache", "depends", package], Path("/")).stdout
        for line in listing.splitlines():
            relation, _, name = line.strip().partition(": ")
            if relation == "Depends" and name.startswith(prefix):
                return name
        _update_lists()
    raise SetupError(f"Debian's package lists hold no {package}")


def unpack(package: Path, folder: Path) -> None:
    done = _run(["dpkg", "-x", str(package), str(folder)], Path("/"))
    if done.returncode != 0:
        raise SetupError(f"cannot unpack {package.name}: {done.stderr}")


def _with_fresh_lists(command: list[str], cwd: Path) -> None:
    """Run an apt command; if it fails, fetch the package lists and try once more."""
    # One at a time: apt does not wait for another apt, and rigs may be set up side by side.
    with alone(Path(tempfile.gettempdir(), "hvrpc-rigs-apt.lock")):
        if _run(command, cwd).returncode == 0:
            return
        _update_lists()
        again = _run(command, cwd)
        if again.returncode != 0:
            raise SetupError(f"{' '.join(command)} failed:\n{again.stdout}{again.stderr}")


def _update_lists() -> None:
    # Failing to reach one of several sources is reported but need not matter to us.
    _run(["apt-get", "update"], Path("/"))


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=cwd, env=APT_ENVIRONMENT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise SetupError(f"the rigs need Debian 12: there is no {command[0]} here") from None
