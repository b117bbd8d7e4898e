"""The protoc that comes with grpcio-tools, run as a process of its own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from .errors import CodegenError, Problem

_COMPLAINT: Final = re.compile(
    r"^(?P<file>.+?\.proto)(?::(?P<line>\d+):(?P<column>\d+))?: (?P<what>.+)$"
)

_REMEDIES: Final = (
    (r'Import "(?P<name>.+)" was not found', "name the folder that has {name} below it with -I"),
    (r"File not found", "check its name, or name the folder that has it with -I"),
    (
        r'"(?P<name>.+)" is not defined',
        "import the file that defines {name}, or check its spelling",
    ),
    (r"is already defined", "rename one of them"),
    (r"has already been used", "give one of them another number"),
    (r"^Expected|^Missing|^Unexpected|^Invalid|^Need", "the mistake is there, or just before"),
    (r"unused", ""),
)


def compile(files: Sequence[str], roots: Sequence[Path], folder: Path) -> list[FileDescriptorProto]:
    """The descriptors of these files and of all that they import. `folder` is for what comes between.

    Raises :class:`CodegenError` with what protoc found to be wrong.
    """
    target = folder / "descriptors"
    words = [*(f"-I{root}" for root in roots), f"--descriptor_set_out={target}"]
    _run([*words, "--include_imports", "--include_source_info", *files], folder)
    return list(FileDescriptorSet.FromString(target.read_bytes()).file)


def generate(files: Sequence[str], folder: Path) -> dict[str, str]:
    """What protoc itself writes for files that were compiled: text by path."""
    out = folder / "out"
    out.mkdir()
    source = folder / "printable"
    descriptors = FileDescriptorSet.FromString((folder / "descriptors").read_bytes())
    for file in descriptors.file:
        _make_comments_printable(file)
    source.write_bytes(descriptors.SerializeToString())
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    _run([f"--descriptor_set_in={source}", *outputs, *files], folder)
    return {
        path.relative_to(out).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def _make_comments_printable(file: FileDescriptorProto) -> None:
    """gRPC's generator copies comments between triple quotes as they are, and some would end these."""
    for place in file.source_code_info.location:
        place.leading_comments = _printable(place.leading_comments)
        place.trailing_comments = _printable(place.trailing_comments)


def _printable(comment: str) -> str:
    text = comment.replace("\\", "\\\\").replace('"""', "'''")
    if (bare := text.rstrip()).endswith('"'):
        text = f"{bare[:-1]}'{text[len(bare) :]}"
    return text


def _run(words: Sequence[str], folder: Path) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        raise CodegenError(
            Problem("", "grpcio-tools is not installed", "pip install 'hvrpc[codegen]'")
        )
    # In a file, since there may be more of them than a command line holds.
    arguments = folder / "arguments"
    arguments.write_text("\n".join(words), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"@{arguments}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise CodegenError(*problems_in(done.stdout))


def problems_in(output: str) -> list[Problem]:
    """protoc's complaints, each with what can be done."""
    found: list[Problem] = []
    for line in output.splitlines():
        match = _COMPLAINT.match(line)
        if match is None:
            if line.strip():
                found.append(Problem("", line.strip()))
            continue
        if "warning:" in match["what"]:
            continue
        number, column = match["line"], match["column"]
        found.append(
            Problem(
                match["file"],
                match["what"].rstrip("."),
                _remedy(match["what"]),
                int(number) if number else None,
                int(column) if column else None,
            )
        )
    return _without_echoes(found) or [Problem("", "protoc failed and did not say why")]


def _remedy(what: str) -> str:
    for pattern, remedy in _REMEDIES:
        if match := re.search(pattern, what):
            return remedy.format(**match.groupdict())
    return ""


def _without_echoes(found: list[Problem]) -> list[Problem]:
    """An import that was not found is told three times: by its own name, where it is imported, and
    by each name of it that is then not defined. The second says most."""
    missing = {
        match[1]
        for problem in found
        if (match := re.search(r'Import "(.+)" was not found', problem.what))
    }
    return [
        problem
        for problem in found
        if not (problem.file in missing and problem.line is None)
        and not (missing and "is not defined" in problem.what)
        and not (missing and "seems to be defined in" in problem.what)
    ]
