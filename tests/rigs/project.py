"""What the rigs take from this project: its wheel, its tests, and the wheels it depends on.

hvrpc is tested as users get it: from its wheel, not from the checkout. The tests are copied, so
that an edit during a run changes nothing and foreign interpreters leave no files in the checkout.
"""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .cache import PROJECT, make_once
from .debian import need_programs
from .stages import SetupError

TESTED_EXTRAS = ("grpc", "cli", "codegen")
"""Extras of hvrpc whose packages a rig installs besides the base dependencies and group `test`."""

WARM_UP_TEST = """\
import hypothesis.stateful
import hypothesis.strategies

@hypothesis.settings(database=None)
@hypothesis.given(hypothesis.strategies.binary())
def test_imports(data):
    pass
"""
"""A test file that pytest runs once at set-up, when it may still write into the installation.

pytest rewrites the assertions of every module that belongs to a plugin, such as all of hypothesis.
Having to do that again in each run costs ten seconds under software emulation.
"""

NOT_PART_OF_A_COPY = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "node_modules", "build", "dist"
)


class Tools:
    """A small virtual environment with pip and the project's build backend."""

    def __init__(self, cache: Path) -> None:
        backend = _pyproject()["build-system"]["requires"]
        recipe = f"{sys.version}\n{backend}"
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

    def install_wheels(
        self, target: Path, requirements: Iterable[str], version: str, platforms: Iterable[str]
    ) -> None:
        """Install for another Python on another platform than the one that runs pip."""
        done = self.python(
            *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--target", str(target), "--only-binary", ":all:"),
            *("--implementation", "cp", "--python-version", version),
            *(argument for platform in platforms for argument in ("--platform", platform)),
            *requirements,
        )
        if done.returncode != 0:
            raise SetupError(f"pip cannot install the wheels:\n{done.stderr}")

    def build_hvrpc(self, folder: Path) -> Path:
        """Build the wheel of the checkout as it is now."""
        done = self.python("-m", "hatchling", "build", "--target", "wheel", "-d", str(folder))
        wheels = list(folder.glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise SetupError(f"cannot build hvrpc's wheel:\n{done.stdout}{done.stderr}")
        return wheels[0]


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
