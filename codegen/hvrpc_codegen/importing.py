"""What protoc writes, made importable inside a package.

protoc imports modules as if its output lay at the top of `sys.path`: `from common.v1 import a_pb2`.
In a package the same is `from ..common.v1 import a_pb2`. Nothing but such lines is touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from . import names
from .writing import relative_package

_MODULE: Final = re.compile(r"^(?:from (?P<package>[\w.]+) )?import (?P<module>\w+_pb2) as ", re.M)
_STAR: Final = re.compile(r"^from (?P<module>[\w.]+_pb2) import ", re.M)
"""`import public` of a `.proto`."""

LENIENT_STUBS: Final = '# mypy: disable-error-code="type-arg, no-untyped-def"\n'
"""protoc's stubs do not say everything that `mypy --strict` asks for."""


def relative(text: str, proto: str, ours: Collection[str]) -> str:
    """The text of a module made of `proto`, with imports of modules of `ours` made relative."""
    here = names.module_of(proto, "").split(".")[:-1]

    def module(match: re.Match[str]) -> str:
        package, name = match["package"] or "", match["module"]
        full = f"{package}.{name}" if package else name
        if full not in ours:
            return match[0]
        there = package.split(".") if package else []
        return f"from {relative_package(here, there)} import {name} as "

    def star(match: re.Match[str]) -> str:
        if match["module"] not in ours:
            return match[0]
        *there, name = match["module"].split(".")
        package = relative_package(here, there)
        return f"from {package}{'' if package.endswith('.') else '.'}{name} import "

    return _STAR.sub(star, _MODULE.sub(module, text))
