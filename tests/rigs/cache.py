"""The folder in which a rig keeps what it downloaded and built, so that later runs start at once.

Each part is a folder with a *recipe* beside it: a text that names everything the part was made
from. A part is made again when its recipe changes; one whose making was interrupted has no recipe.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .stages import SetupError, say, stage

CACHE_VARIABLE = "HVRPC_RIG_CACHE"
PROJECT = Path(__file__).resolve().parents[2]
WAIT_FOR_OTHER_RUN = 30 * 60.0
"""Seconds to wait for another run that uses the same cache. A whole suite takes minutes."""


def open_cache(argument: str | None) -> Path:
    """The folder named by `--cache`, by the environment, or `.cache/rigs` in the project."""
    chosen = argument or os.environ.get(CACHE_VARIABLE) or PROJECT / ".cache" / "rigs"
    folder = Path(chosen).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def scratch_folder(cache: Path) -> Iterator[Path]:
    """A folder for this run only. Those of runs that were killed are cleared away."""
    for old in cache.glob("run-*"):
        if not Path("/proc", old.name.removeprefix("run-")).exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = cache / f"run-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_once(folder: Path, recipe: str, make: Callable[[Path], None]) -> Path:
    """Let `make` fill the folder, unless that was done before with this recipe."""
    stamp = folder.with_name(folder.name + ".recipe")
    if folder.is_dir() and stamp.is_file() and stamp.read_text() == recipe:
        return folder
    stamp.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with stage(f"set up {folder.name}"):
        make(folder)
    stamp.write_text(recipe)
    return folder


def digest(*files: Path) -> str:
    """One hash for the contents of some files, for use in a recipe."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def check_sha256(file: Path, expected: str) -> None:
    found = digest_of_one(file)
    if found != expected:
        raise SetupError(
            f"{file.name} is not the file this rig was written for.\n"
            f"  sha256 expected {expected}\n  sha256 found    {found}\n"
            "Find out what changed before you change the pin."
        )


def digest_of_one(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def alone(lock_file: Path) -> Iterator[None]:
    """Hold a lock that other runs on the same cache respect; wait for them if need be."""
    with lock_file.open("w") as lock:
        _wait_for_lock(lock.fileno(), lock_file)
        yield


def _wait_for_lock(descriptor: int, lock_file: Path) -> None:
    deadline = time.monotonic() + WAIT_FOR_OTHER_RUN
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if time.monotonic() > deadline:
            raise SetupError(f"another run has held {lock_file} for too long")
        if not told:
            say(f"waiting for another run that holds {lock_file}")
            told = True
        time.sleep(0.5)
