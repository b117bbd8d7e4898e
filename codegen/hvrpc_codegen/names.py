"""How things of a `.proto` are called in Python."""

from __future__ import annotations

import keyword
import re
from typing import Final

_WORD_BEGINS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

OPTIONS: Final = ("timeout", "metadata", "wait_for_ready")
"""Keywords of every call. A field of that name can be given in a message only."""

TAKEN: Final = frozenset(
    {
        "_is_ours",
        "add_to",
        "channel",
        "close",
        "connect",
        "descriptor",
    }
)
"""What every client or servicer has already: a method of that name gets a trailing underscore."""


def snake_case(name: str) -> str:
    """`SayHello` becomes `say_hello`, `GetHTTPCode` becomes `get_http_code`."""
    return _WORD_BEGINS.sub("_", name).lower()


def method_name(name: str) -> str:
    """A method's name in Python."""
    snake = snake_case(name)
    return f"{snake}_" if keyword.iskeyword(snake) or _is_taken(snake) else snake


def _is_taken(name: str) -> bool:
    """Whether it means something else: Python's `__names__` do, too."""
    return name in TAKEN or (name.startswith("__") and name.endswith("__"))


def alias_of(name: str) -> str | None:
    """The name as the `.proto` has it, where that differs and Python can say it."""
    usable = not keyword.iskeyword(name) and not _is_taken(name)
    return name if usable and name != method_name(name) else None


def keyword_name(field: str) -> str | None:
    """A field's name as keyword of a call; None if an option of calls has the name already."""
    if field in OPTIONS:
        return None
    return f"{field}_" if keyword.iskeyword(field) else field


def module_of(proto: str, suffix: str = "_pb2") -> str:
    """The module that protoc makes of a file: `a/b-c.proto` becomes `a.b_c_pb2`."""
    return proto.removesuffix(".proto").replace("-", "_").replace("/", ".") + suffix


def path_of(proto: str, suffix: str) -> str:
    """The file of such a module, with slashes."""
    return module_of(proto, "").replace(".", "/") + suffix


def is_importable(module: str) -> bool:
    """Whether an import statement can name it."""
    parts = module.split(".")
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
