"""The plugin `protoc-gen-hvrpc`: a request of protoc's or buf's on stdin, the answer on stdout.

It writes `*_hvrpc.py` and nothing else. Parameters (`--hvrpc_opt=…`, `opt:` of buf):

    imports=relative      for modules that lie in a package (unless told otherwise)
    imports=absolute      for an output folder that is on sys.path
    foreign=google/api    files below that are not ours: their modules are installed
"""

from __future__ import annotations

import sys
from typing import Final

try:
    from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
    from google.protobuf.descriptor_pb2 import Edition
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"generating code needs grpcio-tools, with protobuf ({error}): pip install 'hvrpc[codegen]'",
        name=error.name,
    ) from error

from . import names
from .errors import CodegenError, Problem
from .reading import Schema
from .writing import SUFFIX, Imports, write

IMPORTS: Final = ("relative", "absolute")


def generate(
    schema: Schema, files: list[str], *, relative: bool, foreign: tuple[str, ...] = ()
) -> dict[str, str]:
    """The text of each module, by its path. Raises :class:`CodegenError` with all that is wrong."""
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for name in files:
        if not schema.files[name].service:
            continue
        try:
            file = schema.read(name)
        except CodegenError as error:
            problems += error.problems
            continue
        imports = Imports(name, relative=relative, foreign=foreign)
        texts[names.path_of(name, SUFFIX)] = write(file, imports)
    if problems:
        raise CodegenError(*problems)
    return texts


def answer(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """What protoc is told."""
    features = CodeGeneratorResponse.Feature
    response = CodeGeneratorResponse(
        supported_features=features.FEATURE_PROTO3_OPTIONAL | features.FEATURE_SUPPORTS_EDITIONS,
        minimum_edition=Edition.EDITION_PROTO2,
        maximum_edition=_newest_edition(),
    )
    try:
        imports, foreign = _parameters(request.parameter)
        texts = generate(
            Schema(request.proto_file),
            list(request.file_to_generate),
            relative=imports == "relative",
            foreign=foreign,
        )
    except CodegenError as error:
        response.error = str(error)
        return response
    for name, text in texts.items():
        response.file.add(name=name, content=text)
    return response


def _newest_edition() -> int:
    """The newest that this protobuf knows. What changes from one to the next concerns messages, and
    those are written by others."""
    known = [number for name, number in Edition.items() if name.removeprefix("EDITION_").isdigit()]
    return max(known)


def _parameters(text: str) -> tuple[str, tuple[str, ...]]:
    imports, foreign = IMPORTS[0], []
    for each in filter(None, text.split(",")):
        name, _, value = each.partition("=")
        if name == "imports" and value in IMPORTS:
            imports = value
        elif name == "foreign" and value:
            foreign.append(value)
        else:
            raise CodegenError(
                Problem(
                    "",
                    f"protoc-gen-hvrpc knows no {each!r}",
                    "it knows imports=relative, imports=absolute and foreign=FOLDER",
                )
            )
    return imports, tuple(foreign)


def main() -> None:
    """Called by protoc or buf."""
    if sys.stdin.isatty():
        sys.exit(
            "protoc-gen-hvrpc is called by protoc (--hvrpc_out=DIR) or buf; by hand use"
            " `python -m hvrpc_codegen --help`"
        )
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(answer(request).SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
