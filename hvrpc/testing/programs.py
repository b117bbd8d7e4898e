"""What a guest runs: a function or a script, told in a way that another process understands."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pickle
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Program:
    """A function with its arguments, or a script with its command line."""

    file: str | None
    """The script, or the file of the function's module."""
    module: str | None
    """The function's module; None: it is a script."""
    function: str
    arguments: bytes
    """Pickled: they may need the function's module in order to be read."""

    @classmethod
    def of(
        cls, target: Callable[..., object] | str | os.PathLike[str], args: Sequence[Any]
    ) -> Program:
        """Describe a target. Raises TypeError or FileNotFoundError for one that cannot be run."""
        if not callable(target):
            return cls._script(os.path.abspath(target), args)
        module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
        if module is None or name is None or _look_up(sys.modules.get(module), name) is not target:
            raise TypeError(
                f"a guest runs in another process, which cannot import {target!r}:"
                " use a function at the top level of a module, and pass the rest as args"
            )
        file = getattr(sys.modules[module], "__file__", None)
        return cls(file and os.path.abspath(file), module, name, _pickled(target, args))

    @classmethod
    def _script(cls, path: str, args: Sequence[Any]) -> Program:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no script {path} for a guest to run")
        return cls(path, None, "", _pickled(path, [str(argument) for argument in args]))

    def run(self) -> object:
        """Run it in this process."""
        if self.module is None:
            assert self.file is not None
            sys.argv = [self.file, *pickle.loads(self.arguments)]
            sys.path.insert(0, os.path.dirname(self.file))
            return runpy.run_path(self.file, run_name="__main__")
        function = _look_up(self._import(), self.function)
        return function(*pickle.loads(self.arguments))

    def _import(self) -> object:
        """The function's module: by name, else (the main script, or a test that pytest has imported
        by its path) from its file."""
        assert self.module is not None
        if self.module != "__main__":
            try:
                found = importlib.import_module(self.module)
            except ImportError:
                if self.file is None:
                    raise
            else:
                if self.file is None or _same_file(getattr(found, "__file__", None), self.file):
                    return found
        if self.file is None:
            raise ImportError("a function typed into an interpreter cannot be run by a guest")
        # Not as __main__: what stands under `if __name__ == "__main__"` is not for guests.
        name = "__guest_main__" if self.module == "__main__" else self.module
        spec = importlib.util.spec_from_file_location(name, self.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = sys.modules[self.module] = module
        spec.loader.exec_module(module)
        return module


def _look_up(module: object, name: str) -> Any:
    """A function by its qualified name; None if it is not there."""
    return functools.reduce(lambda found, part: getattr(found, part, None), name.split("."), module)


def _pickled(target: object, args: Sequence[Any]) -> bytes:
    try:
        return pickle.dumps(tuple(args))
    except Exception as error:
        raise TypeError(
            f"the arguments for guest {target!r} cannot be sent to another process: {error}"
        ) from error


def _same_file(one: str | None, other: str) -> bool:
    return one is not None and os.path.realpath(one) == os.path.realpath(other)
