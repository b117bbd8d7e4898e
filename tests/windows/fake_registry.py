"""A registry in memory that behaves like Windows': names in any case, errors with its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

ACCESS_DENIED = PermissionError(13, "Access is denied")


@dataclass
class FakeRegistry:
    """Keys by path, as they were written; values by name."""

    keys: dict[str, dict[str, object]] = field(default_factory=dict)
    read_only: bool = False
    """The user is no administrator."""
    writes_left: int | None = None
    """After so many changes the machine fails."""
    changes: list[str] = field(default_factory=list)

    def _path(self, path: str) -> str | None:
        return next((known for known in self.keys if known.casefold() == path.casefold()), None)

    def subkeys(self, path: str) -> list[str]:
        start = path.casefold() + "\\"
        below = [known[len(start) :] for known in self.keys if known.casefold().startswith(start)]
        return list(dict.fromkeys(name.partition("\\")[0] for name in below))

    def values(self, path: str) -> dict[str, object] | None:
        known = self._path(path)
        return None if known is None else dict(self.keys[known])

    def create(self, path: str) -> bool:
        self._change(f"create {path}")
        if self._path(path) is not None:
            return False
        self.keys[path] = {}
        return True

    def set_text(self, path: str, name: str, text: str) -> None:
        self._change(f"set {name}")
        known = self._path(path)
        assert known is not None
        self.keys[known][name] = text

    def delete(self, path: str) -> None:
        self._change(f"delete {path}")
        known = self._path(path)
        if known is None:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        del self.keys[known]

    def _change(self, what: str) -> None:
        if self.read_only:
            raise ACCESS_DENIED
        if self.writes_left is not None and not what.startswith("delete"):
            if not self.writes_left:
                raise OSError(1450, "Insufficient system resources")
            self.writes_left -= 1
        self.changes.append(what)
