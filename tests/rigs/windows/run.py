"""Runs the test-suite in CPython for Windows, under Wine. See README.md in this folder.

python3 tests/rigs/windows/run.py [--python 3.12|3.13] [-- pytest arguments]
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.rigs import project, stages
from tests.rigs.cache import alone, open_cache, scratch_folder
from tests.rigs.debian import need_programs
from tests.rigs.options import new_parser, parse
from tests.rigs.windows import interpreter, wine

CHECK_WHEELS = Path(__file__).with_name("check_wheels.py").resolve()

PREPARATION_LIMIT = 300.0

PACKAGES = {**wine.PACKAGES, interpreter.COMPILER: "gcc-mingw-w64-x86-64-win32"}


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    cache = open_cache(options.cache)
    stages.end_cleanly_when_told_to()
    # The lock also keeps two runs from sharing the Wine prefix: each ends all processes in it.
    with alone(cache / "windows.lock"):
        try:
            python, prefix = _set_up(cache, options.python)
        except stages.SetupError as error:
            stages.say(f"cannot be set up: {error}")
            return stages.SETUP_IMPOSSIBLE
        if options.setup_only:
            return 0
        with scratch_folder(cache) as scratch:
            return _run(python, prefix, scratch, cache, options)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = new_parser("windows", "the test-suite in CPython for Windows, under Wine")
    parser.add_argument("--python", choices=sorted(interpreter.RELEASES), default="3.12")
    parser.add_argument("--no-shim", action="store_true", help="a Windows without Hyper-V")
    return parse(parser, arguments)


def _set_up(cache: Path, version: str) -> tuple[Path, wine.Prefix]:
    need_programs(PACKAGES)
    tools = project.Tools(cache)
    python = interpreter.make_interpreter(cache, tools, version)
    prefix = wine.Prefix(cache / "windows" / "wine")
    return python / "python.exe", prefix


def _run(
    python: Path, prefix: wine.Prefix, scratch: Path, cache: Path, options: argparse.Namespace
) -> int:
    with stages.stage("build hvrpc's wheel, copy the tests"):
        wheel = project.Tools(cache).build_hvrpc(scratch)
        project.unpack_wheel(wheel, scratch / "site")
        project.copy_tests(scratch / "project")
    environment = _python_environment(scratch, options)
    # -P: hvrpc must come from the wheel, so the current folder is not searched for modules.
    command = [wine.windows_path(python), "-P"]
    if options.job:
        command += [wine.windows_path(Path(options.job).resolve())]
    else:
        command += ["-m", "pytest", "-p", "no:cacheprovider"]
    with stages.stage("Windows"), prefix.running():
        if not _prepare_once(python, prefix, scratch):
            return stages.SETUP_IMPOSSIBLE
        with stages.stage("job"):
            return prefix.run(
                [*command, *options.rest],
                scratch / "project",
                sys.stdout.buffer,
                options.limit,
                **environment,
            )


def _prepare_once(python: Path, prefix: wine.Prefix, scratch: Path) -> bool:
    """The part of the set-up that needs Windows' Python to run."""
    prepared = python.with_name("is-prepared")
    if prepared.exists():
        return True
    (scratch / "test_warm_up.py").write_text(project.WARM_UP_TEST)
    # Without it pytest would look for its root, and then for tests, in the folders above.
    (scratch / "pytest.ini").write_text("[pytest]\n")
    steps = {
        "check the wheels": [wine.windows_path(CHECK_WHEELS)],
        "warm up pytest": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_warm_up.py"],
    }
    for name, arguments in steps.items():
        with stages.stage(name):
            command = [wine.windows_path(python), *arguments]
            if prefix.run(command, scratch, sys.stderr.buffer, PREPARATION_LIMIT):
                return False
    prepared.touch()
    return True


def _python_environment(scratch: Path, options: argparse.Namespace) -> dict[str, str]:
    environment = {
        "PYTHONPATH": wine.windows_path(scratch / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # What we read from the pipe is UTF-8; files keep Windows' own encoding, as users have it.
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
    }
    if options.no_shim:
        environment["HVSHIM_MACHINE"] = ""
    elif "HVSHIM_MACHINE" not in os.environ:
        environment["HVSHIM_MACHINE"] = f"rig-{os.getpid()}"
    return environment


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
