"""The command: `.proto` files in, Python modules out.

`python -m hvrpc_codegen` and `hvrpc codegen` are this. Only here files are looked for and written.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import importing, names, plugin, protoc
from .errors import CodegenError, Problem
from .reading import Schema
from .writing import is_foreign

OK: Final = 0
FAILED: Final = 1

_PASSED_OVER: Final = {"node_modules", "site-packages", "__pycache__"}
"""Folders in which nobody means the `.proto` files to be found."""

Outputs = dict[str, str]
"""Text by path below the output folder."""


@dataclass(frozen=True)
class Job:
    """What is asked for."""

    protos: tuple[Path, ...]
    """Files, and folders to be searched. None: all below the roots."""
    out: Path
    roots: tuple[Path, ...]
    relative: bool = True
    foreign: tuple[str, ...] = ()
    init: bool = False


def generate(job: Job) -> Outputs:
    """All that a job comes to. Raises :class:`CodegenError`; writes nothing but temporary files."""
    files = find(job)
    with tempfile.TemporaryDirectory(prefix="hvrpc-codegen-") as name:
        folder = Path(name)
        descriptors = protoc.compile(files, job.roots, folder)
        schema = Schema(descriptors)
        # What they import is needed as well, or the modules could not be imported.
        wanted = sorted(file for file in schema.files if not is_foreign(file, job.foreign))
        _check_paths(wanted)
        texts = plugin.generate(schema, wanted, relative=job.relative, foreign=job.foreign)
        written = protoc.generate(wanted, folder)
    ours = {names.module_of(file) for file in wanted}
    for file in wanted:
        for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
            path = names.path_of(file, suffix)
            if suffix == "_pb2_grpc.py" and not schema.files[file].service:
                continue
            text = written[path]
            if job.relative:
                text = importing.relative(text, file, ours)
            texts[path] = importing.LENIENT_STUBS + text if suffix == "_pb2.pyi" else text
    if job.init:
        for folder in {parent for path in texts for parent in Path(path).parents}:
            texts.setdefault((folder / "__init__.py").as_posix(), "")
    return dict(sorted(texts.items()))


def find(job: Job) -> list[str]:
    """The files that are meant, as protoc calls them: by their path below a root."""
    found: dict[str, None] = {}
    for given in job.protos or job.roots:
        if given.is_dir():
            below = list(_search(given))
            if not below:
                raise CodegenError(Problem(str(given), "there is no .proto file below this folder"))
            found.update((_name_of(path, job.roots), None) for path in below)
        elif given.is_file():
            found[_name_of(given, job.roots)] = None
        else:
            found[_under_a_root(given, job.roots)] = None
    return sorted(found)


def _search(folder: Path) -> Iterable[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _PASSED_OVER
            and not name.startswith(".")
            and not (Path(where) / name / "pyvenv.cfg").exists()
        )
        yield from (Path(where) / name for name in sorted(files) if name.endswith(".proto"))


def _name_of(path: Path, roots: Iterable[Path]) -> str:
    absolute = path.resolve()
    for root in roots:
        if absolute.is_relative_to(root.resolve()):
            return absolute.relative_to(root.resolve()).as_posix()
    raise CodegenError(
        Problem(
            str(path),
            f"it does not lie below {_listed(roots)}, and its path from there becomes its module's",
            f"name the folder that imports start from: -I {shlex.quote(str(path.parent))}",
        )
    )


def _under_a_root(path: Path, roots: Sequence[Path]) -> str:
    """A file that is not here may lie below one of the roots, as protoc allows it."""
    if not path.is_absolute() and any((root / path).is_file() for root in roots):
        return path.as_posix()
    raise CodegenError(
        Problem(
            str(path),
            f"there is no such file here or below {_listed(roots)}",
            "check its name, or name its folder with -I",
        )
    )


def _listed(roots: Iterable[Path]) -> str:
    return ", ".join(str(root) for root in roots)


def _check_paths(files: Iterable[str]) -> None:
    """Two files must not become the same module."""
    modules: dict[str, str] = {}
    for file in files:
        other = modules.setdefault(names.module_of(file), file)
        if other != file:
            raise CodegenError(
                Problem(
                    file,
                    f"it would become the same module as {other}: {names.module_of(file)}",
                    "rename one of them",
                )
            )


def differing(outputs: Outputs, out: Path) -> list[str]:
    """The paths of what is not on disk, or otherwise."""
    return [path for path, text in outputs.items() if _read(out / path) != text]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write(outputs: Outputs, out: Path) -> list[str]:
    """Write what has changed, and nothing else: whoever watches files is told only of that."""
    changed = differing(outputs, out)
    for path in changed:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(outputs[path], encoding="utf-8", newline="\n")
    return changed


# --- The command line ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One option, for whichever library reads the command line."""

    flags: tuple[str, ...]
    name: str
    help: str
    metavar: str | None = None
    """None: it takes no value."""
    repeated: bool = False
    choices: tuple[str, ...] = ()


PROTO_HELP: Final = (
    "a .proto file, or a folder to be searched; without any: all below the folders of -I"
)
OPTIONS: Final = (
    Option(
        ("--out",),
        "out",
        "where to write; files lie there as the .proto files lie below -I",
        "DIR",
    ),
    Option(
        ("-I", "--proto-path"),
        "roots",
        "a folder that imports of .proto files start from; may be repeated (default: .)",
        "DIR",
        repeated=True,
    ),
    Option(
        ("--check",),
        "check",
        "write nothing; fail, and say what to type, if something would be written",
    ),
    Option(
        ("--imports",),
        "imports",
        "relative (default): the modules lie in a package; absolute: --out is on sys.path",
        "|".join(plugin.IMPORTS),
        choices=plugin.IMPORTS,
    ),
    Option(
        ("--foreign",),
        "foreign",
        "do not generate files below this folder of -I, such as google/api: their modules are"
        " installed; may be repeated",
        "FOLDER",
        repeated=True,
    ),
    Option(("--init",), "init", "write an empty __init__.py into each folder as well"),
)


@dataclass(frozen=True)
class Words:
    """What the command line says."""

    out: str
    protos: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    check: bool = False
    imports: str | None = None
    foreign: tuple[str, ...] = ()
    init: bool = False

    def job(self) -> Job:
        return Job(
            protos=tuple(map(Path, self.protos)),
            out=Path(self.out),
            roots=tuple(map(Path, self.roots)) or (Path(),),
            relative=self.imports != "absolute",
            foreign=tuple(f"{folder.rstrip('/')}/" for folder in self.foreign),
            init=self.init,
        )

    def again(self, program: str) -> str:
        """What to type in order to write."""
        words = [*self.protos, "--out", self.out]
        for root in self.roots:
            words += ["-I", root]
        for folder in self.foreign:
            words += ["--foreign", folder]
        if self.imports is not None:
            words += ["--imports", self.imports]
        if self.init:
            words.append("--init")
        joined = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
        return f"{program} {joined}"


DESCRIPTION: Final = (
    "Make Python modules of .proto files: messages (*_pb2.py, *_pb2.pyi), gRPC's own stubs"
    " (*_pb2_grpc.py), and typed clients and servicers (*_hvrpc.py)."
)
EXAMPLE: Final = "--out gen -I protos"


def parse(arguments: Sequence[str], program: str) -> Words:
    """Read a command line with what Python brings."""
    parser = argparse.ArgumentParser(
        prog=program, description=DESCRIPTION, epilog=f"Example: {program} {EXAMPLE}"
    )
    parser.add_argument("protos", nargs="*", metavar="PROTO", help=PROTO_HELP)
    for option in OPTIONS:
        if option.metavar is None:
            parser.add_argument(
                *option.flags, dest=option.name, help=option.help, action="store_true"
            )
            continue
        parser.add_argument(
            *option.flags,
            dest=option.name,
            help=option.help,
            metavar=option.metavar,
            choices=option.choices or None,
            action="append" if option.repeated else "store",
            required=option.name == "out",
        )
    found = vars(parser.parse_args(arguments))
    for name in ("protos", "roots", "foreign"):
        found[name] = tuple(found[name] or ())
    return Words(**found)


def run(words: Words, program: str) -> int:
    """The whole command. Returns its exit code; says what is wrong on stderr."""
    job = words.job()
    try:
        outputs = generate(job)
        if words.check:
            return _check(outputs, job, words.again(program))
        changed = write(outputs, job.out)
    except CodegenError as error:
        for problem in error.problems:
            print(_shown(problem, job.roots), file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"error: {error.filename or job.out}: {error.strerror or error}", file=sys.stderr)
        return FAILED
    for path in changed:
        print(f"wrote {(job.out / path).as_posix()}")
    unchanged = len(outputs) - len(changed)
    print(f"{len(changed)} files written, {unchanged} were as they should be")
    return OK


def _check(outputs: Outputs, job: Job, again: str) -> int:
    stale = differing(outputs, job.out)
    for path in stale:
        state = "is stale" if (job.out / path).exists() else "is missing"
        print(f"{(job.out / path).as_posix()} {state}", file=sys.stderr)
    if stale:
        print(f"write them again: {again}", file=sys.stderr)
        return FAILED
    print(f"{len(outputs)} files are as they should be")
    return OK


def _shown(problem: Problem, roots: Iterable[Path]) -> str:
    """A problem with the line of the file it is on."""
    lines = [f"error: {problem}"]
    source = next((root / problem.file for root in roots if (root / problem.file).is_file()), None)
    if source is not None and problem.line is not None:
        text = source.read_text(encoding="utf-8", errors="replace").splitlines()
        if problem.line <= len(text):
            line = text[problem.line - 1]
            lines.append(f"    {line.replace(chr(9), ' ')}")
            if problem.column is not None:
                lines.append(f"    {' ' * (problem.column - 1)}^")
    return "\n".join(lines)


def main(program: str = "python -m hvrpc_codegen", arguments: Sequence[str] | None = None) -> int:
    """The command with nothing but Python's own libraries around it."""
    return run(parse(sys.argv[1:] if arguments is None else arguments, program), program)
