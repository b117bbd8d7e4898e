"""Runs tests or any Python file in a guest of QEMU. See README.md in this folder.

python3 tests/rigs/vm/run.py [single|nested] [-- pytest arguments]
"""

import argparse
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.rigs import project, stages
from tests.rigs.cache import alone, open_cache, scratch_folder
from tests.rigs.debian import need_programs
from tests.rigs.options import new_parser, parse
from tests.rigs.vm import images, qemu

IN_GUEST = Path("/tmp/rig")
MEMORY_MB = {"single": 768, "outer": 1536}
DEFAULT_TESTS = {"single": ["tests"], "nested": ["tests/rigs/vm/selftest"]}


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    stages.end_cleanly_when_told_to()
    cache = open_cache(options.cache)
    try:
        with alone(cache / "vm.lock"):
            need_programs(images.PROGRAMS)
            tools = project.Tools(cache)
            made = images.make_images(cache, tools, nested=options.kind == "nested")
        if options.setup_only:
            return 0
        with scratch_folder(cache) as scratch:
            return _run(made, tools, scratch, options)
    except stages.SetupError as error:
        stages.say(f"cannot be set up: {error}")
        return stages.SETUP_IMPOSSIBLE


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = new_parser("vm", "tests, or any Python file, in guests of QEMU")
    parser.add_argument("kind", nargs="?", choices=["single", "nested"], default="single")
    parser.add_argument("--inner-job", help="nested: run this Python file in the inner guest")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    options = parse(parser, arguments)
    if options.inner_job and not (options.job and options.kind == "nested"):
        parser.error("--inner-job needs `nested` and --job")
    return options


def _run(
    made: images.Images, tools: project.Tools, scratch: Path, options: argparse.Namespace
) -> int:
    with stages.stage("build hvrpc's wheel, copy the tests"):
        content = scratch / "content"
        project.copy_tests(content / "project")
        wheel = tools.build_hvrpc(scratch)
        project.unpack_wheel(wheel, content / "site")
        job = qemu.Job(
            command=_command(content, options),
            limit=options.limit,
            environment=dict(setting.split("=", 1) for setting in options.env),
        )
        _write_job_disk(content, scratch / "job.tar")
    machine = _machine(made, scratch / "job.tar", options.kind)
    with stages.stage("guest"):
        return _follow(machine, job, scratch)


def _command(content: Path, options: argparse.Namespace) -> list[str]:
    if not options.job:
        tests = options.rest or DEFAULT_TESTS[options.kind]
        # -P: hvrpc must come from the wheel, so the current folder is not searched for modules.
        return ["python3", "-P", "-m", "pytest", "-p", "no:cacheprovider", *tests]
    files = [_bring(Path(f), content) for f in (options.job, options.inner_job) if f]
    starter = ["-m", "tests.rigs.vm.inner"] if options.inner_job else []
    return ["python3", *starter, *files, *options.rest]


def _bring(file: Path, content: Path) -> str:
    """Put a Python file on the job disk; returns its name in the guest."""
    folder = content / "jobs"
    folder.mkdir(exist_ok=True)
    (folder / file.name).write_bytes(file.read_bytes())
    return str(IN_GUEST / "jobs" / file.name)


def _write_job_disk(content: Path, disk: Path) -> None:
    with tarfile.open(disk, "w") as archive:
        for item in sorted(content.iterdir()):
            archive.add(item, arcname=item.name)


def _machine(made: images.Images, job_disk: Path, kind: str) -> qemu.Machine:
    role, disks = "single", [made.root, job_disk]
    if kind == "nested":
        assert made.outer is not None
        # The third disk is for the inner guest, which gets the job disk, too.
        role, disks = "outer", [made.outer, job_disk, made.root]
    return qemu.Machine(
        role=role,
        kernel=made.kernel,
        initrd=made.initrd,
        disks=disks,
        memory_mb=MEMORY_MB[role],
    )


def _follow(machine: qemu.Machine, job: qemu.Job, scratch: Path) -> int:
    guest = qemu.Guest(machine, job, scratch, _print)
    try:
        code = guest.wait()
    except qemu.GuestError as error:
        stages.say(str(error))
        return 1
    finally:
        guest.kill()
    if code in (None, stages.TIME_LIMIT_REACHED):
        stages.say(f"ended after {job.limit:.0f} s, the time limit\n{guest.console()}")
        return stages.TIME_LIMIT_REACHED
    return code


def _print(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
