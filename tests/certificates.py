"""Certificates for the tests: a CA, a host and a guest, and somebody whom nobody believes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hvrpc import Tls, UnsupportedError


@dataclass(frozen=True)
class Certificates:
    """A folder of them."""

    folder: Path

    def tls(self, who: str | None, *, ca: str | None = "ca", **settings: Any) -> Tls:
        """What somebody needs who believes in a CA; None for `who`: somebody without a certificate."""
        files: dict[str, Any] = {} if ca is None else {"ca": self.folder / f"{ca}.pem"}
        if who is not None:
            files["certificate"] = self.folder / f"{who}.pem"
            files["key"] = self.folder / f"{who}-key.pem"
        return Tls(**files, **settings)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once, with the code that users make theirs with.

    It is imported here, since not every place where tests run has the package that it stands on: Wine,
    for instance, lacks a library of Windows that it needs.
    """
    try:
        from hvrpc.authority import Authority
    except UnsupportedError as missing:
        pytest.skip(f"needs certificates: {missing}")
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority.new()
    authority.write(folder)
    authority.issue("host", ["host", "loopback", "127.0.0.1"]).write(folder)
    authority.issue("web", ["web"]).write(folder)
    authority.issue("old", ["host"], days=-1).write(folder)
    others = tmp_path_factory.mktemp("others")
    stranger = Authority.new("somebody else's CA")
    certificate, _ = stranger.write(others)
    certificate.rename(folder / "stranger-ca.pem")
    stranger.issue("stranger", ["host", "web", "loopback"]).write(folder)
    return Certificates(folder)
