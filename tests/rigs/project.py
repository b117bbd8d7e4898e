"""What the rigs take from this project: its wheel, its tests, and the wheels it depends on.

hvrpc is tested as users get it: from its wheel, not from the checkout. The tests are copied, so
that an edit during a run changes nothing and foreign interpreters leave no files in the checkout.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cache import PROJECT, alone, digest, make_once
from .debian import need_programs
from .stages import SetupError, say

TESTED_EXTRAS = ("grpc", "cli", "codegen", "tls")
"""Extras of hvrpc whose packages a rig installs besides the base dependencies and group `test`."""

WARM_UP_TEST = """\
import asyncio
import multiprocessing

import click
import grpc
import grpc.aio
import hypothesis.stateful
import hypothesis.strategies
import msgpack
import rich.console
import tenacity

@hypothesis.settings(database=None)
@hypothesis.given(hypothesis.strategies.binary())
def test_imports(data):
    pass
"""
"""A test file that pytest runs once at set-up, when it may still write into the installation: the
compiled form of what most runs import.

pytest rewrites the assertions of every module that belongs to a plugin, such as all of hypothesis.
Having to do that again in each run costs ten seconds under software emulation.
"""

PIP_INSTALL = (
    *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
    *("--only-binary", ":all:"),
)
HOW_TO_PIN = "python3 tests/rigs/pins.py"

NOT_PART_OF_A_COPY = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "node_modules", "build", "dist"
)


class Tools:
    """A small virtual environment with pip and the project's build backend."""

    def __init__(self, cache: Path) -> None:
        backend = _pyproject()["build-system"]["requires"]
        recipe = f"{sys.version}\n{backend}"
        with alone(cache / "tools.lock"):  # rigs may be set up at the same time
            self.folder = make_once(cache / "tools", recipe, lambda f: _make_tools(f, backend))

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        # -I: no user site, no PYTHON* variables, nothing from the current folder.
        return subprocess.run(
            [str(self.folder / "bin" / "python"), "-I", *arguments],
            cwd=PROJECT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def install_wheels(self, target: Path, wheels: "Wheels") -> None:
        """Install for another Python on another platform than the one that runs pip."""
        pinned = ["--no-deps", "--require-hashes", "--requirement", str(wheels.pins)]
        self._pip_install(target, wheels, pinned)
        if loose := wheels.not_pinned():
            say(f"NOT PINNED: {', '.join(loose)}; to pin them: {HOW_TO_PIN}")
            self._pip_install(target, wheels, loose)

    def _pip_install(self, target: Path, wheels: "Wheels", what: list[str]) -> None:
        done = self.python(*PIP_INSTALL, "--target", str(target), *wheels.platform_options(), *what)
        if done.returncode != 0:
            raise SetupError(f"pip cannot install the wheels:\n{done.stderr}")

    def resolve(self, wheels: "Wheels") -> list[dict[str, Any]]:
        """What pip would install for everything that is wanted, in the newest versions."""
        asked = ("--dry-run", "--ignore-installed", "--report", "-")
        done = self.python(
            *PIP_INSTALL, *asked, "--target", "anywhere", *wheels.platform_options(), *wheels.wanted
        )
        if done.returncode != 0:
            raise SetupError(f"pip finds no wheels:\n{done.stderr}")
        found: list[dict[str, Any]] = json.loads(done.stdout)["install"]
        return found

    def build_hvrpc(self, folder: Path) -> Path:
        """Build the wheel of the checkout as it is now."""
        done = self.python("-m", "hatchling", "build", "--target", "wheel", "-d", str(folder))
        wheels = list(folder.glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise SetupError(f"cannot build hvrpc's wheel:\n{done.stdout}{done.stderr}")
        return wheels[0]


@dataclass(frozen=True)
class Wheels:
    """The wheels of other people for one interpreter of a rig, pinned by their hashes."""

    pins: Path
    """A file in pip's own format, written by `pins.py`."""
    python: str
    platforms: tuple[str, ...]
    wanted: tuple[str, ...]
    """What has to be there, as pyproject.toml has it."""

    def platform_options(self) -> list[str]:
        platforms = [word for each in self.platforms for word in ("--platform", each)]
        return ["--implementation", "cp", "--python-version", self.python, *platforms]

    def recipe(self) -> str:
        """What an installation is made from."""
        return f"{self.python} {self.platforms} {digest(self.pins)} {self.not_pinned()}"

    def not_pinned(self) -> list[str]:
        """What pyproject.toml has come to ask for since the pins were written."""
        pinned = {line.partition("==")[0] for line in self.pins.read_text().splitlines()}
        return [each for each in self.wanted if _name_of(each) not in pinned]


def _name_of(requirement: str) -> str:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return normal_name(name)


def normal_name(name: str) -> str:
    """As package indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    """What must be installed to run the test-suite, as pyproject.toml has it."""
    content = _pyproject()
    project = content["project"]
    wanted = [*project["dependencies"], *content["dependency-groups"]["test"]]
    for extra in TESTED_EXTRAS:
        wanted += project["optional-dependencies"][extra]
    # Several parts of pyproject.toml ask for the same things.
    return list(dict.fromkeys(wanted))


def without_python_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a Python of the rig, whatever its caller has set for their own."""
    return {name: v for name, v in environment.items() if not name.startswith("PYTHON")}


def copy_tests(destination: Path) -> None:
    """Copy what a test may look at: everything in the checkout but hvrpc's own source."""
    destination.mkdir(parents=True)
    for item in sorted(PROJECT.iterdir()):
        if item.name.startswith(".") or item.name in ("hvrpc", "codegen", "node_modules"):
            continue
        if item.is_dir():
            shutil.copytree(item, destination / item.name, ignore=NOT_PART_OF_A_COPY)
        else:
            shutil.copy(item, destination)


def unpack_wheel(wheel: Path, destination: Path) -> None:
    """Install a pure-Python wheel the simple way. Its metadata comes along, entry points too."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(destination)


def _make_tools(folder: Path, backend: list[str]) -> None:
    made = _make_venv(folder)
    if made.returncode != 0:
        # Debian ships ensurepip apart from Python, so there is no program to look for.
        need_programs({"(ensurepip)": "python3-venv"})
        made = _make_venv(folder)
    if made.returncode != 0:
        raise SetupError(f"cannot make a virtual environment:\n{made.stdout}{made.stderr}")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Without setuptools pip cannot run a setup.py; interpreter.py relies on that.
    subprocess.run([*pip, "uninstall", "--yes", "setuptools"], capture_output=True, check=False)
    done = subprocess.run([*pip, "install", *backend], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"pip cannot install {' '.join(backend)}:\n{done.stderr}")


def _make_venv(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "venv", "--clear", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())
